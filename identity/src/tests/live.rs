//! Credentials that change under a running process, pins, and revocation.

use super::*;

#[test]
fn a_handshake_sees_the_newest_credentials() {
    let (_dir, authority) = authority();
    let issue = || authority.issue_service("gateway", &[], HOUR).unwrap();
    let (first, second) = (issue(), issue());
    let live = Live::new(first.credentials).unwrap();
    let (server, client) = (live_server_tls(&live).unwrap(), live_client_tls(&live).unwrap());
    let shown =
        |client: &ClientConfig, server: &ServerConfig| serial(client.clone(), server.clone());
    assert_eq!(shown(&client, &server), first.serial);
    live.replace(second.credentials).unwrap();
    assert_eq!(shown(&client, &server), second.serial);
}

/// What the client showed.
fn serial(client: ClientConfig, server: ServerConfig) -> String {
    let server = connect(client, server, "gateway").unwrap();
    peer_of(&server.peer_certificates().unwrap()[0]).unwrap().1
}

#[test]
fn a_revoked_certificate_is_refused_both_ways_and_no_other_is() {
    let (_dir, authority) = authority();
    let worker = |()| authority.issue_worker(WORKER, HOUR).unwrap();
    let [bad, good] = [(); 2].map(worker);
    let service = authority.issue_service("gateway", &[], HOUR).unwrap();
    let live = Live::new(service.credentials).unwrap();
    let server = live_server_tls(&live).unwrap();
    let client = |worker: &Issued| client_tls(&worker.credentials).unwrap();
    handshake(client(&bad), server.clone(), "gateway").unwrap();
    live.revoked().add(bad.serial.clone());
    let error = handshake(client(&bad), server.clone(), "gateway").unwrap_err();
    assert!(error.to_string().contains("Revoked"), "{error}");
    handshake(client(&good), server.clone(), "gateway").unwrap();

    let caller = Live::new(good.credentials.clone()).unwrap();
    caller.revoked().add(service.serial);
    let error = handshake(live_client_tls(&caller).unwrap(), server, "gateway").unwrap_err();
    assert!(error.to_string().contains("Revoked"), "{error}");
}

#[test]
fn no_session_is_resumed() {
    let (_dir, authority) = authority();
    let worker = authority.issue_worker(WORKER, HOUR).unwrap();
    let service = authority.issue_service("gateway", &[], HOUR).unwrap();
    let live = Live::new(service.credentials).unwrap();
    let server = live_server_tls(&live).unwrap();
    let mut client = client_tls(&worker.credentials).unwrap();
    // One that would gladly resume.
    client.resumption = rustls::client::Resumption::in_memory_sessions(8);
    handshake(client.clone(), server.clone(), "gateway").unwrap();
    live.revoked().add(worker.serial);
    handshake(client, server, "gateway").unwrap_err();
}

#[test]
fn a_pin_knows_its_server_and_no_other() {
    let (_dir, authority) = authority();
    let (_other_dir, other) = self::authority();
    let pinned = || pinned_client_tls(authority.fingerprint()).unwrap();
    assert_eq!(handshake(pinned(), gateway(&authority), "gateway"), Ok(Peer::Anonymous));
    handshake(pinned(), gateway(&other), "gateway").unwrap_err();
    handshake(pinned(), gateway(&authority), "svc-access").unwrap_err();
    // A worker whose certificate leads to the same root is no server.
    let worker = authority.issue_worker(WORKER, HOUR).unwrap().credentials;
    handshake(pinned(), server_tls(&worker).unwrap(), "localhost").unwrap_err();
    // Showing the root beside a chain of one's own is not enough.
    let mut posing = other.issue_service("gateway", &[], HOUR).unwrap().credentials;
    posing.ca += &authority.ca_pem();
    handshake(pinned(), server_tls(&posing).unwrap(), "gateway").unwrap_err();
}

#[test]
fn a_crash_while_credentials_are_saved_leaves_the_old_or_the_new_ones() {
    let (dir, authority) = authority();
    let place = dir.path().join("worker");
    let old = authority.issue_worker(WORKER, HOUR).unwrap().credentials;
    old.save(&place).unwrap();
    let new = authority.issue_worker(WORKER, HOUR).unwrap().credentials;
    let steps =
        [("next-key.pem", &new.key), ("caCert.pem", &new.ca), ("cert.pem", &new.certificate)];
    for (name, text) in steps {
        write_private(&place.join(name), text.as_bytes()).unwrap();
        let loaded = Credentials::load(&place).unwrap();
        assert!(loaded.fit().unwrap(), "after {name}");
    }
    assert_eq!(Credentials::load(&place).unwrap().key, new.key);
    new.save(&place).unwrap();
    assert_eq!(fs::read_dir(&place).unwrap().count(), 3);
    assert_eq!(Credentials::load(&place).unwrap().certificate, new.certificate);
}

#[test]
fn a_certificate_is_renewed_around_half_of_its_life() {
    let (_dir, authority) = authority();
    let credentials = authority.issue_worker(WORKER, HOUR).unwrap().credentials;
    let validity = credentials.validity().unwrap();
    assert_eq!(validity.until.since(validity.from), HOUR);
    let after = |jitter| validity.renew_at(jitter).since(validity.from).as_secs() / 60;
    assert_eq!((after(0), after(255)), (24, 36));
    assert!((29..=30).contains(&after(127)));
}

#[test]
fn a_renewal_asks_for_the_names_that_the_certificate_has() {
    let (_dir, authority) = authority();
    let names = ["gaia.example.org".to_string(), "10.0.0.7".into(), "fd00::7".into()];
    let issued = authority.issue_service("gateway", &names, HOUR).unwrap();
    assert_eq!(issued.credentials.host_names().unwrap(), names);
    let plain = authority.issue_service("svc-logs", &[], HOUR).unwrap();
    assert!(plain.credentials.host_names().unwrap().is_empty());
}
