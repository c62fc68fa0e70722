//! Handshakes in memory between certificates that are good and bad.

use std::{fs, os::unix::fs::PermissionsExt as _, sync::Arc, time::Duration};

use ids::WorkerId;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, SanType};
use rustls::{
    ClientConfig, ClientConnection, ServerConfig, ServerConnection,
    client::verify_server_cert_signed_by_trust_anchor,
    server::ParsedCertificate,
    sign::{CertifiedKey, SingleCertAndKey},
};
use rustls_pki_types::{ServerName, UnixTime};
use tempfile::TempDir;
use x509_parser::{certificate::X509Certificate, prelude::FromDer as _};

use crate::{authority::new_key, *};

mod ca;
mod live;
mod requests;

const HOUR: Duration = Duration::from_hours(1);
const WORKER: WorkerId = WorkerId::from_uuid(uuid::Uuid::from_u128(7));

fn authority() -> (TempDir, Authority) {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::open_or_create(dir.path()).unwrap();
    (dir, authority)
}

/// The client's certificate as the server saw it.
fn handshake(
    client: ClientConfig,
    server: ServerConfig,
    name: &str,
) -> Result<Peer, rustls::Error> {
    let server = connect(client, server, name)?;
    Ok(match server.peer_certificates() {
        None => Peer::Anonymous,
        Some(chain) => peer_of(&chain[0]).unwrap().0,
    })
}

fn connect(
    client: ClientConfig,
    server: ServerConfig,
    name: &str,
) -> Result<ServerConnection, rustls::Error> {
    let name = ServerName::try_from(name.to_string()).unwrap();
    let mut client = ClientConnection::new(Arc::new(client), name).unwrap();
    let mut server = ServerConnection::new(Arc::new(server)).unwrap();
    let mut wire = Vec::new();
    while client.is_handshaking() || server.is_handshaking() || client.wants_write() {
        wire.clear();
        client.write_tls(&mut wire).unwrap();
        let mut unread = wire.as_slice();
        while !unread.is_empty() {
            server.read_tls(&mut unread).unwrap();
            server.process_new_packets()?;
        }
        wire.clear();
        server.write_tls(&mut wire).unwrap();
        let mut unread = wire.as_slice();
        while !unread.is_empty() {
            client.read_tls(&mut unread).unwrap();
            client.process_new_packets()?;
        }
    }
    Ok(server)
}

fn gateway(authority: &Authority) -> ServerConfig {
    let issued = authority.issue_service("gateway", &["gaia.example.org".into()], HOUR).unwrap();
    server_tls(&issued.credentials).unwrap()
}

#[test]
fn a_server_learns_who_its_client_is() {
    let (_dir, authority) = authority();
    let worker = authority.issue_worker(WORKER, HOUR).unwrap().credentials;
    let service = authority.issue_service("svc-registry", &[], HOUR).unwrap().credentials;
    let client = client_tls(&worker).unwrap();
    assert_eq!(handshake(client, gateway(&authority), "gateway"), Ok(Peer::Worker(WORKER)));
    let client = client_tls(&service).unwrap();
    let registry = Peer::Service("svc-registry".into());
    assert_eq!(handshake(client, gateway(&authority), "gateway"), Ok(registry));
    let client = anonymous_client_tls(&authority.ca_pem()).unwrap();
    assert_eq!(handshake(client, gateway(&authority), "gateway"), Ok(Peer::Anonymous));
}

#[test]
fn a_service_is_known_by_all_its_names_and_by_no_other() {
    let (_dir, authority) = authority();
    let client = || anonymous_client_tls(&authority.ca_pem()).unwrap();
    for name in ["gateway", "localhost", "gaia-pipeline.io", "127.0.0.1", "::1", "gaia.example.org"]
    {
        handshake(client(), gateway(&authority), name).unwrap();
    }
    handshake(client(), gateway(&authority), "svc-access").unwrap_err();
    let registry = authority.issue_service("svc-registry", &[], HOUR).unwrap().credentials;
    let registry = server_tls(&registry).unwrap();
    handshake(client(), registry.clone(), "svc-registry").unwrap();
    handshake(client(), registry, "gaia-pipeline.io").unwrap_err();
}

#[test]
fn a_workers_certificate_cannot_act_as_a_server() {
    let (_dir, authority) = authority();
    let worker = authority.issue_worker(WORKER, HOUR).unwrap().credentials;
    let posing = server_tls(&worker).unwrap();
    let client = anonymous_client_tls(&authority.ca_pem()).unwrap();
    handshake(client, posing, "localhost").unwrap_err();

    // That its names do not fit is not the only reason.
    let certificate = &worker.chain().unwrap()[0];
    let error = verify_server_cert_signed_by_trust_anchor(
        &ParsedCertificate::try_from(certificate).unwrap(),
        &crate::tls::roots(&authority.ca_pem()).unwrap(),
        &[],
        UnixTime::now(),
        crate::tls::provider().signature_verification_algorithms.all,
    )
    .unwrap_err();
    assert!(format!("{error:?}").contains("Purpose"), "{error:?}");
}

#[test]
fn a_certificate_of_another_ca_is_refused_both_ways() {
    let (_dir, authority) = authority();
    let (_other_dir, other) = self::authority();
    let mut stranger = other.issue_worker(WORKER, HOUR).unwrap().credentials;
    stranger.ca = authority.ca_pem();
    handshake(client_tls(&stranger).unwrap(), gateway(&authority), "gateway").unwrap_err();
    let client = anonymous_client_tls(&authority.ca_pem()).unwrap();
    handshake(client, gateway(&other), "gateway").unwrap_err();
}

#[test]
fn an_expired_certificate_is_refused_both_ways() {
    let (_dir, authority) = authority();
    let expired = |uri: &str| {
        let names = ["gateway".to_string(), "localhost".to_string()];
        let mut names = CertificateParams::new(names).unwrap().subject_alt_names;
        names.push(SanType::URI(uri.try_into().unwrap()));
        let usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = new_key().unwrap();
        let life = time::Duration::minutes(-1);
        let signed = authority.sign(&key, "expired", names, usages, life).unwrap();
        Credentials { certificate: signed.certificate, key: key.serialize_pem(), ca: signed.ca }
    };
    let worker = expired("spiffe://gaia/service/svc-logs");
    let error = handshake(client_tls(&worker).unwrap(), gateway(&authority), "gateway");
    assert!(format!("{error:?}").contains("Expired"), "{error:?}");
    let client = anonymous_client_tls(&authority.ca_pem()).unwrap();
    let server = server_tls(&expired("spiffe://gaia/service/gateway")).unwrap();
    let error = handshake(client, server, "gateway");
    assert!(format!("{error:?}").contains("Expired"), "{error:?}");
}

/// A clock that differs from the others'.
#[derive(Debug)]
struct Skewed {
    by: Duration,
    ahead: bool,
}

impl rustls::time_provider::TimeProvider for Skewed {
    fn current_time(&self) -> Option<UnixTime> {
        let now = Duration::from_secs(UnixTime::now().as_secs());
        let then = if self.ahead { now.checked_add(self.by) } else { now.checked_sub(self.by) };
        then.map(UnixTime::since_unix_epoch)
    }
}

#[test]
fn clocks_may_differ_by_ten_minutes_on_either_side_but_not_by_days() {
    let (_dir, authority) = authority();
    let worker = authority.issue_worker(WORKER, HOUR).unwrap().credentials;
    let handshake = |of_client, minutes: u64, ahead| {
        let by = Duration::from_secs(60 * minutes);
        let (mut client, mut server) = (client_tls(&worker).unwrap(), gateway(&authority));
        let clock = if of_client { &mut client.time_provider } else { &mut server.time_provider };
        *clock = Arc::new(Skewed { by, ahead });
        handshake(client, server, "gateway")
    };
    for (of_client, ahead) in [(true, true), (true, false), (false, true), (false, false)] {
        assert_eq!(handshake(of_client, 10, ahead), Ok(Peer::Worker(WORKER)));
        handshake(of_client, 3 * 24 * 60, ahead).unwrap_err();
    }
}

#[test]
fn a_tampered_certificate_is_refused() {
    let (_dir, authority) = authority();
    let worker = authority.issue_worker(WORKER, HOUR).unwrap().credentials;
    let mut bytes = worker.chain().unwrap()[0].to_vec();
    let uri = format!("spiffe://gaia/worker/{WORKER}");
    let at = bytes.windows(uri.len()).position(|window| window == uri.as_bytes()).unwrap();
    let last = at + uri.len() - 1;
    bytes[last] = b'8';
    assert_ne!(peer_of(&bytes).unwrap().0, Peer::Worker(WORKER));
    let mut client = anonymous_client_tls(&authority.ca_pem()).unwrap();
    let shown = SingleCertAndKey::from(CertifiedKey::new(
        vec![bytes.into()],
        crate::tls::provider().key_provider.load_private_key(worker.key().unwrap()).unwrap(),
    ));
    client.client_auth_cert_resolver = Arc::new(shown);
    handshake(client, gateway(&authority), "gateway").unwrap_err();
}

#[test]
fn credentials_survive_their_files() {
    let (dir, authority) = authority();
    let issued = authority.issue_worker(WORKER, HOUR).unwrap();
    let folder = dir.path().join("worker");
    issued.credentials.save(&folder).unwrap();
    let loaded = Credentials::load(&folder).unwrap();
    assert_eq!(loaded.certificate, issued.credentials.certificate);
    assert_eq!(loaded.key, issued.credentials.key);
    assert_eq!(loaded.ca, issued.credentials.ca);
    assert_eq!(loaded.peer().unwrap(), Peer::Worker(WORKER));
    assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
    for name in ["cert.pem", "key.pem", "caCert.pem"] {
        let mode = fs::metadata(folder.join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    let error = Credentials::load(dir.path()).unwrap_err().to_string();
    assert!(error.contains("cert.pem"), "{error}");
}

#[test]
fn a_certificate_says_its_serial_and_end() {
    let (_dir, authority) = authority();
    let issued = authority.issue_worker(WORKER, HOUR).unwrap();
    let chain = issued.credentials.chain().unwrap();
    let (peer, serial) = peer_of(&chain[0]).unwrap();
    assert_eq!((peer, serial), (Peer::Worker(WORKER), issued.serial));
    let (_, parsed) = X509Certificate::from_der(&chain[0]).unwrap();
    let end = parsed.validity().not_after.timestamp() as u64;
    assert_eq!(issued.expires_at.as_millis(), end * 1_000);
    assert_eq!(end - parsed.validity().not_before.timestamp() as u64, 3 * 3_600);
}

#[test]
fn a_certificate_that_names_no_peer_or_two_is_none() {
    let key = rcgen::KeyPair::generate().unwrap();
    let with = |uris: &[&str]| {
        let mut params = CertificateParams::new(["gateway".to_string()]).unwrap();
        let uris = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap()));
        params.subject_alt_names.extend(uris);
        params.self_signed(&key).unwrap().der().to_vec()
    };
    peer_of(&with(&["spiffe://gaia/service/gateway"])).unwrap();
    peer_of(&with(&[])).unwrap_err();
    peer_of(&with(&["spiffe://gaia/service/gateway", "spiffe://gaia/service/svc-logs"]))
        .unwrap_err();
    peer_of(&with(&["spiffe://gaia/service/gateway", "https://example.org"])).unwrap_err();
    peer_of(&with(&["spiffe://elsewhere/service/gateway"])).unwrap_err();
    peer_of(b"no certificate").unwrap_err();
}

#[test]
fn names_that_could_be_misread_are_refused() {
    let (_dir, authority) = authority();
    for name in ["", "Gateway", "a/b", "../worker/x", "a b", &"x".repeat(64)] {
        let error = authority.issue_service(name, &[], HOUR).unwrap_err();
        assert!(matches!(error, IdentityError::InvalidName { .. }), "{name}: {error}");
    }
    for host in ["", "host:1", "a b", "höst"] {
        let error = authority.issue_service("gateway", &[host.into()], HOUR).unwrap_err();
        assert!(matches!(error, IdentityError::InvalidName { .. }), "{host}: {error}");
    }
    authority.issue_worker(WORKER, Duration::MAX).unwrap_err();
}

#[test]
fn debug_shows_no_key() {
    let (_dir, authority) = authority();
    let issued = authority.issue_worker(WORKER, HOUR).unwrap();
    let shown = format!("{issued:?} {authority:?}");
    assert!(shown.contains(&WORKER.to_string()), "{shown}");
    assert!(!shown.contains("PRIVATE") && !shown.contains("BEGIN"), "{shown}");
}

#[test]
fn a_renewed_service_keeps_its_key_and_gets_a_new_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::open_or_create(&dir.path().join("ca")).unwrap();
    let place = dir.path().join("gateway");
    let renew = || authority.renew_service(&place, "gateway", &[], HOUR).unwrap();
    let (first, second) = (renew(), renew());
    assert_eq!(first.credentials.key, second.credentials.key);
    assert_ne!(first.serial, second.serial);
    assert_eq!(Credentials::load(&place).unwrap().certificate, second.credentials.certificate);
}
