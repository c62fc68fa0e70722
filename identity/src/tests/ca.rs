//! The CA's folder, and roll-overs.

use std::path::Path;

use ids::Timestamp;

use super::*;

fn files(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Believes what it believed when it was made, whatever the CA does.
fn client_of(credentials: &Credentials) -> ClientConfig {
    client_tls(credentials).unwrap()
}

#[test]
fn a_ca_is_made_once_and_its_files_are_private() {
    let (dir, authority) = authority();
    let again = Authority::open_or_create(dir.path()).unwrap();
    assert_eq!(again.ca_pem(), authority.ca_pem());
    assert_eq!(again.fingerprint(), authority.fingerprint());
    let worker = again.issue_worker(WORKER, HOUR).unwrap();
    handshake(client_tls(&worker.credentials).unwrap(), gateway(&authority), "gateway").unwrap();
    assert_eq!(files(dir.path()), ["1", "ca.pem"], "nothing else is left behind");
    let generation = dir.path().join("1");
    assert_eq!(files(&generation), ["issuer.key", "issuer.pem", "root.key", "root.pem"]);
    for name in files(&generation) {
        let mode = fs::metadata(generation.join(&name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    assert_eq!(fs::metadata(&generation).unwrap().permissions().mode() & 0o777, 0o700);

    let key = generation.join("issuer.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
    let error = Authority::open_or_create(dir.path()).unwrap_err().to_string();
    assert!(error.contains("others can read it (mode 640)"), "{error}");
    fs::remove_file(&key).unwrap();
    let error = Authority::open_or_create(dir.path()).unwrap_err().to_string();
    assert!(error.contains("issuer.key` is not"), "{error}");
}

#[test]
fn a_crash_while_a_generation_is_made_leaves_it_out_whole() {
    let (dir, authority) = authority();
    let half = dir.path().join(".2.0123456789abcdef");
    fs::create_dir(&half).unwrap();
    fs::write(half.join("root.key"), "half").unwrap();
    let again = Authority::open_or_create(dir.path()).unwrap();
    assert_eq!(again.ca_pem(), authority.ca_pem());
    again.roll_over(HOUR).unwrap();
    assert_eq!(files(dir.path()), [".2.0123456789abcdef", "1", "2", "ca.pem"]);
}

#[test]
fn the_root_signs_nothing_itself_and_its_key_may_be_elsewhere() {
    let (dir, authority) = authority();
    let chain = authority.issue_worker(WORKER, HOUR).unwrap().credentials.chain().unwrap();
    assert_eq!(chain.len(), 2, "a certificate comes with its intermediate");
    let (_, worker) = X509Certificate::from_der(&chain[0]).unwrap();
    let (_, intermediate) = X509Certificate::from_der(&chain[1]).unwrap();
    assert_eq!(worker.issuer(), intermediate.subject());
    assert_ne!(intermediate.issuer(), intermediate.subject());

    fs::rename(dir.path().join("1/root.key"), dir.path().join("elsewhere")).unwrap();
    let without = Authority::open_or_create(dir.path()).unwrap();
    let worker = without.issue_worker(WORKER, HOUR).unwrap().credentials;
    handshake(client_tls(&worker).unwrap(), gateway(&without), "gateway").unwrap();
    let error = without.roll_over(HOUR).unwrap_err().to_string();
    assert!(
        error.contains("root.key` is not") || error.contains("root.key`; put it back"),
        "{error}"
    );
    assert_eq!(files(dir.path()), ["1", "ca.pem", "elsewhere"], "nothing was begun");
}

#[test]
fn during_two_roll_overs_everybody_believes_everybody() {
    let (dir, authority) = authority();
    let mut workers = vec![authority.issue_worker(WORKER, HOUR).unwrap().credentials];
    let mut gateways = vec![gateway(&authority)];
    let first = authority.fingerprint();
    for _ in 0..2 {
        authority.roll_over(HOUR).unwrap();
        workers.push(authority.issue_worker(WORKER, HOUR).unwrap().credentials);
        gateways.push(gateway(&authority));
    }
    assert_ne!(authority.fingerprint(), first);
    for (old, worker) in workers.iter().enumerate() {
        for (new, gateway) in gateways.iter().enumerate() {
            let met = handshake(client_of(worker), gateway.clone(), "gateway");
            assert_eq!(met, Ok(Peer::Worker(WORKER)), "worker {old} and gateway {new}");
        }
    }
    // Whoever has an old token knows the new server, too.
    let pinned = pinned_client_tls(first).unwrap();
    assert_eq!(handshake(pinned, gateways.pop().unwrap(), "gateway"), Ok(Peer::Anonymous));

    let again = Authority::open_or_create(dir.path()).unwrap();
    assert_eq!(again.ca_pem(), authority.ca_pem());
    assert_eq!(fs::read_to_string(dir.path().join("ca.pem")).unwrap(), authority.ca_pem());
    assert_eq!(crate::credentials::certificates("CA", &again.ca_pem()).unwrap().len(), 3);
}

#[test]
fn a_certificate_knows_whether_another_ca_signs_by_now() {
    let (_dir, authority) = authority();
    let old = authority.issue_service("svc-logs", &[], HOUR).unwrap().credentials;
    assert!(old.is_of_newest_ca());
    authority.roll_over(HOUR).unwrap();
    let told = Credentials { ca: authority.ca_pem(), ..old };
    assert!(!told.is_of_newest_ca());
    let renewed = authority.issue_service("svc-logs", &[], HOUR).unwrap().credentials;
    assert!(renewed.is_of_newest_ca());
}

#[test]
fn certificates_are_dated_by_the_clock_that_is_given() {
    let (_dir, authority) = authority();
    let then = Timestamp(1_000_000_000_000);
    let dated = authority.dated_by(move || then);
    let issued = dated.issue_worker(WORKER, HOUR).unwrap();
    assert_eq!(issued.expires_at, then + HOUR);
    let validity = issued.credentials.validity().unwrap();
    assert_eq!((validity.from, validity.until), (then, then + HOUR));
}

#[test]
fn after_the_overlap_the_old_ca_is_a_stranger() {
    let (_dir, authority) = authority();
    let old = authority.issue_worker(WORKER, HOUR).unwrap().credentials;
    let old_gateway = gateway(&authority);
    authority.roll_over(Duration::ZERO).unwrap();
    handshake(client_of(&old), gateway(&authority), "gateway").unwrap_err();
    let new = authority.issue_worker(WORKER, HOUR).unwrap().credentials;
    handshake(client_of(&new), old_gateway, "gateway").unwrap_err();
    handshake(client_of(&new), gateway(&authority), "gateway").unwrap();
}

#[test]
fn an_overlap_does_not_outlive_a_later_roll_over() {
    let (_dir, authority) = authority();
    let first = authority.issue_worker(WORKER, HOUR).unwrap().credentials;
    authority.roll_over(HOUR).unwrap();
    let second = authority.issue_worker(WORKER, HOUR).unwrap().credentials;
    authority.roll_over(Duration::ZERO).unwrap();
    for old in [first, second] {
        handshake(client_of(&old), gateway(&authority), "gateway").unwrap_err();
    }
}

#[test]
fn the_ca_of_an_early_version_goes_on_but_cannot_hand_over() {
    let dir = tempfile::tempdir().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, "Gaia CA 01234567");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
    let key = new_key().unwrap();
    let path = dir.path();
    write_private(&path.join("ca.pem"), params.self_signed(&key).unwrap().pem().as_bytes())
        .unwrap();
    write_private(&path.join("ca.key"), key.serialize_pem().as_bytes()).unwrap();
    let authority = Authority::open_or_create(path).unwrap();
    let worker = authority.issue_worker(WORKER, HOUR).unwrap().credentials;
    handshake(client_of(&worker), gateway(&authority), "gateway").unwrap();
    let pinned = pinned_client_tls(authority.fingerprint()).unwrap();
    handshake(pinned, gateway(&authority), "gateway").unwrap();
    let error = authority.roll_over(HOUR).unwrap_err().to_string();
    assert!(error.contains("let all agents join again"), "{error}");
    fs::remove_file(path.join("ca.key")).unwrap();
    let error = Authority::open_or_create(path).unwrap_err().to_string();
    assert!(error.contains("ca.key` is not"), "{error}");
}
