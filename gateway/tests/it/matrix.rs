//! Every RPC and every transfer, for every identity that must not get in, over both protocols.
//!
//! All services stand behind one real port, with the routers that they run with; the calls are found by
//! walking the descriptors. What is refused has changed nothing: the log is as it was.

use std::{path::Path, sync::Arc, time::Duration};

use ::identity::{Authority, Credentials, Live, Peer, anonymous_client_tls, client_tls};
use authz::{Needs, Route};
use axum::{Router, extract::Request};
use http::Method;
use http_body_util::Full;
use ids::WorkerId;
use proto::Rpc;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, SanType, date_time_ymd};
use rustls::{ClientConfig, sign::CertifiedKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, body::Body};
use tower::ServiceExt as _;
use transport::{Channel, Protocols, Server};
use uuid::Uuid;

use crate::{client::Client, house::House};

pub(crate) const DAY: Duration = Duration::from_hours(24);
const GATEWAY: &str = "spiffe://gaia/service/gateway";

/// Makes what the CA would never make, with the CA's own key.
struct Forger {
    issuer: Issuer<'static, KeyPair>,
    chain: String,
    ca: String,
}

impl Forger {
    fn of(authority: &Authority, dir: &Path) -> Self {
        let read = |name| std::fs::read_to_string(dir.join("1").join(name)).unwrap();
        let (chain, key) = (read("issuer.pem"), read("issuer.key"));
        let issuer = Issuer::from_ca_cert_pem(&chain, KeyPair::from_pem(&key).unwrap()).unwrap();
        Self { issuer, chain, ca: authority.ca_pem() }
    }

    /// The gateway's certificate, if it were so.
    fn make(&self, change: impl FnOnce(&mut CertificateParams)) -> Credentials {
        let key = KeyPair::generate().unwrap();
        let certificate = params(&[GATEWAY], change).signed_by(&key, &self.issuer).unwrap().pem();
        self.credentials(certificate + &self.chain, &key)
    }

    fn credentials(&self, certificate: String, key: &KeyPair) -> Credentials {
        Credentials { certificate, key: key.serialize_pem(), ca: self.ca.clone() }
    }
}

fn params(uris: &[&str], change: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
    let mut params = CertificateParams::new(vec!["gateway".to_owned()]).unwrap();
    let uris = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap()));
    params.subject_alt_names.extend(uris);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    change(&mut params);
    params
}

fn without_uri(params: &mut CertificateParams) {
    params.subject_alt_names.retain(|name| !matches!(name, SanType::URI(_)));
}

/// Shows a chain with a key that need not fit.
#[derive(Debug)]
struct Shows(Arc<CertifiedKey>);

impl rustls::client::ResolvesClientCert for Shows {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

fn showing(chain: Vec<CertificateDer<'static>>, key: &str, ca: &str) -> ClientConfig {
    let mut config = anonymous_client_tls(ca).unwrap();
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let key = config.crypto_provider().key_provider.load_private_key(key).unwrap();
    config.client_auth_cert_resolver = Arc::new(Shows(Arc::new(CertifiedKey::new(chain, key))));
    config
}

fn chain(credentials: &Credentials) -> Vec<CertificateDer<'static>> {
    let chain = CertificateDer::pem_slice_iter(credentials.certificate.as_bytes());
    chain.collect::<Result<_, _>>().unwrap()
}

/// The certificate with this changed in its bytes, so that the signature does not fit.
fn tampered(credentials: &Credentials, change: impl FnOnce(&mut Vec<u8>)) -> ClientConfig {
    let mut chain = chain(credentials);
    let mut bytes = chain[0].to_vec();
    change(&mut bytes);
    chain[0] = bytes.into();
    showing(chain, &credentials.key, &credentials.ca)
}

/// Certificates that no handshake may accept.
fn strangers(house: &House, live: &Live) -> Vec<(&'static str, ClientConfig)> {
    let dir = house.data.path().join("ca");
    let forger = Forger::of(&house.authority, &dir);
    let elsewhere = tempfile::tempdir().unwrap();
    let other = Authority::open_or_create(elsewhere.path()).unwrap();
    let foreign = other.issue_service("gateway", &[], DAY).unwrap().credentials;
    let good = house.authority.issue_service("gateway", &[], DAY).unwrap();
    live.revoked().add(good.serial.clone());
    let good = good.credentials;
    let still_good = forger.make(|_| {});
    let worker = house.authority.issue_worker(worker(9), DAY).unwrap().credentials;

    let key = KeyPair::generate().unwrap();
    let self_signed = params(&[GATEWAY], |_| {}).self_signed(&key).unwrap().pem();
    let self_signed = forger.credentials(self_signed, &key);
    // A CA that calls itself as ours does.
    let posing = Issuer::new(issuer_params(&forger.chain), KeyPair::generate().unwrap());
    let key = KeyPair::generate().unwrap();
    let same_name = params(&[GATEWAY], |_| {}).signed_by(&key, &posing).unwrap().pem();
    let same_name = forger.credentials(same_name + &forger.chain, &key);
    // A worker that signs for others.
    let leaf = KeyPair::from_pem(&worker.key).unwrap();
    let leaf = Issuer::from_ca_cert_pem(&worker.certificate, leaf).unwrap();
    let key = KeyPair::generate().unwrap();
    let by_worker = params(&[GATEWAY], |_| {}).signed_by(&key, &leaf).unwrap().pem();
    let by_worker = forger.credentials(by_worker + &worker.certificate, &key);

    let tls = |credentials: &Credentials| client_tls(credentials).unwrap();
    let foreign = Credentials { ca: forger.ca.clone(), ..foreign };
    let mut strangers = vec![
        ("self-signed", tls(&self_signed)),
        ("of another CA", tls(&foreign)),
        ("of another CA with the name of ours", tls(&same_name)),
        ("signed by a worker", tls(&by_worker)),
        ("revoked", tls(&good)),
        (
            "tampered in its signature",
            tampered(&still_good, |bytes| *bytes.last_mut().unwrap() ^= 1),
        ),
        (
            "tampered in its name",
            tampered(&worker, |bytes| {
                let at = bytes.windows(12).position(|part| part == b"/worker/0000").unwrap();
                bytes[at + 8] = b'1';
            }),
        ),
        ("of another's key", showing(chain(&still_good), &worker.key, &forger.ca)),
    ];
    strangers.extend(misfits(&forger).into_iter().map(|(what, made)| (what, tls(&made))));
    strangers
}

/// Signed by the right CA, and not to be believed all the same.
fn misfits(forger: &Forger) -> Vec<(&'static str, Credentials)> {
    let other = |params: &mut CertificateParams, name: &str| {
        params.subject_alt_names.push(SanType::URI(name.try_into().unwrap()));
    };
    let years = |from, to| {
        move |params: &mut CertificateParams| {
            params.not_before = date_time_ymd(from, 1, 1);
            params.not_after = date_time_ymd(to, 1, 1);
        }
    };
    let server = |params: &mut CertificateParams| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    };
    vec![
        ("expired", forger.make(years(2020, 2021))),
        ("not yet valid", forger.make(years(2999, 3000))),
        ("a server's alone", forger.make(server)),
        ("without a name", forger.make(without_uri)),
        ("with two names", forger.make(|params| other(params, "spiffe://gaia/service/svc-logs"))),
        (
            "of another trust domain",
            forger.make(|params| {
                without_uri(params);
                other(params, "spiffe://example.org/service/gateway");
            }),
        ),
    ]
}

fn issuer_params(chain: &str) -> CertificateParams {
    let mut params = CertificateParams::new(vec![]).unwrap();
    let certificate = CertificateDer::from_pem_slice(chain.as_bytes()).unwrap();
    let (_, parsed) = x509_parser::parse_x509_certificate(&certificate).unwrap();
    let name = parsed.subject().iter_common_name().next().unwrap().as_str().unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params
}

fn worker(n: u128) -> WorkerId {
    WorkerId::from_uuid(Uuid::from_u128(n))
}

/// Who is believed to be who they are, and must not make the call all the same.
struct Known {
    what: &'static str,
    tls: ClientConfig,
    peer: Peer,
    headers: Vec<(&'static str, String)>,
}

fn known(house: &House) -> Vec<Known> {
    let ca = house.authority.ca_pem();
    let own = worker(1).to_string();
    let posing = vec![
        ("uniqueid", own.clone()),
        ("x-forwarded-client-cert", format!("URI={GATEWAY}")),
        ("x-forwarded-for", "127.0.0.1".to_owned()),
        ("authorization", "Bearer guessed".to_owned()),
    ];
    let of_worker = house.authority.issue_worker(worker(1), DAY).unwrap().credentials;
    let of_worker = || client_tls(&of_worker).unwrap();
    let service = house.authority.issue_service("svc-nobody", &[], DAY).unwrap().credentials;
    let of_service = client_tls(&service).unwrap();
    let anonymous = || anonymous_client_tls(&ca).unwrap();
    let is_worker = || Peer::Worker(worker(1));
    let other = vec![("uniqueid", worker(2).to_string())];
    let two = vec![("uniqueid", own), ("uniqueid", worker(2).to_string())];
    let nobody = || Peer::Anonymous;
    vec![
        Known { what: "nobody", tls: anonymous(), peer: nobody(), headers: vec![] },
        Known { what: "nobody with headers", tls: anonymous(), peer: nobody(), headers: posing },
        Known { what: "a worker", tls: of_worker(), peer: is_worker(), headers: vec![] },
        Known { what: "as another", tls: of_worker(), peer: is_worker(), headers: other },
        Known { what: "as two", tls: of_worker(), peer: is_worker(), headers: two },
        Known {
            what: "a service that nobody knows",
            tls: of_service,
            peer: Peer::Service("svc-nobody".into()),
            headers: vec![],
        },
    ]
}

impl Known {
    /// Whether the table lets it make such a call.
    fn may(&self, needs: Needs) -> bool {
        match (needs, &self.peer) {
            (Needs::Anyone, _) | (Needs::AnyService, Peer::Service(_)) => true,
            (Needs::Worker(_), Peer::Worker(_)) => self.headers.is_empty(),
            _ => false,
        }
    }
}

/// One port before all that the house has.
pub(crate) struct Port {
    address: String,
    live: Live,
    pub(crate) shutdown: CancellationToken,
}

impl Port {
    pub(crate) async fn open(house: &House) -> Self {
        let issued = house.authority.issue_service("gateway", &[], DAY).unwrap();
        let live = Live::new(issued.credentials).unwrap();
        let server = Server::bind_live("127.0.0.1:0".parse().unwrap(), &live).await.unwrap();
        let address = server.local_addr().to_string();
        let shutdown = CancellationToken::new();
        tokio::spawn(server.serve(everything(house), shutdown.clone()));
        Self { address, live, shutdown }
    }

    pub(crate) fn channel(&self, tls: &ClientConfig, protocols: Protocols) -> Channel {
        Channel::remote(&self.address, "gaia-pipeline.io", tls.clone(), protocols).unwrap()
    }
}

fn everything(house: &House) -> Router {
    let (services, gateway) = (house.services.clone(), house.router.clone());
    // What the house does not run: the log's own server, which admits by this table too, and the plugins.
    let rest = authz::guard(Router::new().fallback(async || "entered"));
    Router::new().fallback(move |request: Request| {
        let path = request.uri().path();
        let service = services.iter().find(|(prefix, _)| path.starts_with(prefix));
        let elsewhere = ["/event_store.", "/proto.Plugin/", "/plugin."];
        let router = match service {
            Some((_, router)) => router.clone(),
            None if elsewhere.iter().any(|prefix| path.starts_with(prefix)) => rest.clone(),
            None => gateway.clone(),
        };
        async move { router.oneshot(request).await }
    })
}

/// The call with an empty message.
async fn call(channel: Channel, path: &str, headers: &[(&'static str, String)]) -> Status {
    let mut request = http::Request::post(path)
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    for (name, value) in headers {
        request = request.header(*name, value);
    }
    let request = request.body(Body::new(Full::from(&[0_u8; 5][..]))).unwrap();
    let answer = tokio::time::timeout(Duration::from_secs(5), channel.oneshot(request));
    let Ok(answer) = answer.await else { return Status::deadline_exceeded("no answer") };
    match answer {
        Ok(response) => Status::from_header_map(response.headers())
            .unwrap_or_else(|| Status::ok(format!("{path} was entered"))),
        Err(error) => {
            let source = std::error::Error::source(&error).unwrap();
            source.downcast_ref::<Status>().unwrap().clone()
        }
    }
}

/// How the call is refused. The reason is one datagram of a connection that is no more: on a busy machine
/// it may be lost, and the next one tells.
async fn refusal(port: &Port, tls: &ClientConfig, protocols: Protocols, path: &str) -> Status {
    let mut refused = Status::ok("");
    for _ in 0..5 {
        refused = call(port.channel(tls, protocols), path, &[]).await;
        if ![Code::Unavailable, Code::DeadlineExceeded].contains(&refused.code()) {
            break;
        }
    }
    refused
}

/// How often such a line was counted.
pub(crate) fn counted(wanted: &str) -> u64 {
    let metrics = authz::metrics();
    let lines = metrics.lines().filter(|line| line.contains(wanted) && !line.starts_with('#'));
    lines.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}

pub(crate) const BOTH: [Protocols; 2] = [Protocols::Http2, Protocols::Http3];

#[tokio::test(flavor = "multi_thread")]
async fn no_rpc_is_entered_by_who_shows_a_bad_certificate() {
    ::identity::install_crypto();
    let house = House::start().await;
    let port = Port::open(&house).await;
    let strangers = strangers(&house, &port.live);
    let before = house.deps.log.next_position().await.unwrap();
    for (protocols, wing) in BOTH.into_iter().zip(["tcp", "quic"]) {
        let handshakes = format!("refused_handshakes_total{{protocol=\"{wing}\"}}");
        for (what, tls) in &strangers {
            let counted_before = counted(&handshakes);
            for (_, path) in Rpc::ALL {
                let refused = refusal(&port, tls, protocols, path).await;
                let shown = format!("{what}, {protocols:?}: {path}: {refused}");
                assert_eq!(refused.code(), Code::Unauthenticated, "{shown}");
                assert!(refused.message().contains("refused our certificate"), "{shown}");
                // By this word an agent knows that another certificate helps.
                let is_dated = ["expired", "not yet valid"].contains(what);
                assert_eq!(refused.message().contains("CertificateExpired"), is_dated, "{shown}");
            }
            let all = Rpc::ALL.len() as u64;
            // The client may know before the server has counted.
            let mut tick = tokio::time::interval(Duration::from_millis(1));
            let all_counted = async {
                while counted(&handshakes) < counted_before + all {
                    tick.tick().await;
                }
            };
            let in_time = tokio::time::timeout(Duration::from_secs(20), all_counted).await;
            in_time.unwrap_or_else(|_| panic!("{what}, {protocols:?}: one was not counted"));
        }
    }
    assert_eq!(house.deps.log.next_position().await.unwrap(), before);
    port.shutdown.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn no_rpc_is_entered_by_who_may_not_make_it() {
    use authz::Refusal::{NoCertificate, WrongId, WrongPeer};
    ::identity::install_crypto();
    let house = House::start().await;
    let port = Port::open(&house).await;
    let before = house.deps.log.next_position().await.unwrap();
    let words = [NoCertificate, WrongId, WrongPeer].map(|refusal| refusal.to_string());
    for protocols in BOTH {
        for known in known(&house) {
            let channel = port.channel(&known.tls, protocols);
            for (rpc, path) in Rpc::ALL {
                if known.may(authz::table::of_rpc(*rpc)) {
                    continue;
                }
                let counter = format!("refused_calls_total{{call=\"{path}\"");
                let counted_before = counted(&counter);
                let refused = call(channel.clone(), path, &known.headers).await;
                let shown = format!("{}, {protocols:?}: {path}: {refused}", known.what);
                let refusals = [Code::Unauthenticated, Code::PermissionDenied];
                assert!(refusals.contains(&refused.code()), "{shown}");
                // Nothing about who would have been let in, or what is behind.
                assert!(words.iter().any(|known| known == refused.message()), "{shown}");
                assert!(counted(&counter) > counted_before, "{shown}");
            }
        }
    }
    assert_eq!(house.deps.log.next_position().await.unwrap(), before);
    port.shutdown.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn no_transfer_is_entered_by_who_is_no_worker() {
    ::identity::install_crypto();
    let house = House::start().await;
    let port = Port::open(&house).await;
    let routes = Route::ALL.iter().filter(|route| matches!(route.needs(), Needs::Worker(_)));
    let routes: Vec<_> = routes.collect();
    assert!(routes.len() >= 4);
    for protocols in BOTH {
        for known in known(&house) {
            let client = Client::new(port.channel(&known.tls, protocols));
            for route in &routes {
                if known.may(route.needs()) || matches!(known.peer, Peer::Worker(_)) {
                    continue;
                }
                let path = route.path().replace("{digest}", &"0".repeat(64));
                let path = path.replace("{run}", &Uuid::nil().to_string());
                let path = path.replace("{attempt}", "1");
                let headers: Vec<_> =
                    known.headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
                let counter = format!("refused_calls_total{{call=\"{}\"", route.path());
                let counted_before = counted(&counter);
                let answer = client.call(route.method(), &path, &headers, "").await;
                let shown = format!("{}, {protocols:?}: {} {path}", known.what, route.method());
                let refused = if known.peer == Peer::Anonymous { 401 } else { 403 };
                assert_eq!(answer.status, refused, "{shown}");
                assert!(counted(&counter) > counted_before, "{shown}");
                if route.method() != Method::HEAD {
                    let message = answer.message();
                    let leaks = ["gateway", "svc-", "lease", "digest"];
                    assert!(!leaks.iter().any(|leak| message.contains(leak)), "{message}");
                }
            }
        }
    }
    port.shutdown.cancel();
}

/// Otherwise the refusals would prove nothing.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_forger_makes_well_is_believed() {
    ::identity::install_crypto();
    let house = House::start().await;
    let port = Port::open(&house).await;
    let forger = Forger::of(&house.authority, &house.data.path().join("ca"));
    let tls = client_tls(&forger.make(|_| {})).unwrap();
    for protocols in BOTH {
        let path = Rpc::RegistryListWorkers.path();
        let answer = call(port.channel(&tls, protocols), path, &[]).await;
        assert_eq!(answer.code(), Code::Ok, "{protocols:?}: {answer}");
    }
    port.shutdown.cancel();
}
