//! Joining by token, renewal, revocation, roll-over, as clients of the service see them.

use futures::future::join_all;
use identity::{JoinToken, Key};
use proto::{common::v1::Caller, registry::v1::revoke_certificates_request::Which};

use super::*;

async fn token(client: &mut Client, request: wire::CreateJoinTokenRequest) -> String {
    client.create_join_token(request).await.unwrap().into_inner().token
}

fn ask(token: &str, key: &Key) -> wire::JoinWorkerRequest {
    wire::JoinWorkerRequest {
        token: token.into(),
        request: key.request().unwrap(),
        tags: vec!["Go".into()],
        caller: Some(Caller { address: "192.0.2.7:4711".into(), ..Default::default() }),
        ..Default::default()
    }
}

async fn join(
    client: &mut Client,
    token: &str,
    key: &Key,
) -> Result<wire::Certified, tonic::Status> {
    client.join_worker(ask(token, key)).await.map(tonic::Response::into_inner)
}

async fn tokens(client: &mut Client) -> Vec<wire::JoinToken> {
    client.list_join_tokens(wire::ListJoinTokensRequest {}).await.unwrap().into_inner().tokens
}

async fn certificates(client: &mut Client) -> Vec<wire::Certificate> {
    let listed = client.list_certificates(wire::ListCertificatesRequest {}).await;
    listed.unwrap().into_inner().certificates
}

fn renewal(key: &Key, worker_id: &str) -> wire::RenewWorkerCertificateRequest {
    let (request, worker_id) = (key.request().unwrap(), worker_id.to_owned());
    wire::RenewWorkerCertificateRequest { request, worker_id, ..Default::default() }
}

fn late_renewal(key: &Key, certificate: &str) -> wire::RenewWorkerCertificateRequest {
    let (request, expired_certificate) = (key.request().unwrap(), certificate.to_owned());
    wire::RenewWorkerCertificateRequest { request, expired_certificate, ..Default::default() }
}

fn service_renewal(key: &Key, host_names: &[String]) -> wire::RenewCertificateRequest {
    let (request, host_names) = (key.request().unwrap(), host_names.to_vec());
    wire::RenewCertificateRequest { request, host_names, ..Default::default() }
}

#[tokio::test(start_paused = true)]
async fn a_worker_joins_with_a_token_and_a_key_of_its_own() {
    let machine = Machine::new();
    let (mut client, _task) = machine.start().await;
    let (name, tags) = ("builder".into(), vec!["gpu".into()]);
    let terms = wire::CreateJoinTokenRequest { name, tags, ..Default::default() };
    let text = token(&mut client, terms).await;
    let key = Key::generate().unwrap();
    let joined = join(&mut client, &text, &key).await.unwrap();
    let credentials = key.certified(joined.certificate, joined.ca_certificates).unwrap();
    let id: WorkerId = joined.worker_id.parse().unwrap();
    assert_eq!(credentials.peer().unwrap(), Peer::Worker(id));
    let [worker] = &list(&mut client).await[..] else { panic!("one worker") };
    assert_eq!(worker.name, "builder");
    assert_eq!(worker.tags, ["Go", "gpu"]);
    assert_eq!(worker.labels[1].source(), wire::LabelSource::Operator);
    assert_eq!(worker.certificate_expires_at, joined.expires_at);
    let [listed] = &tokens(&mut client).await[..] else { panic!("one token") };
    assert_eq!((listed.worker_ids.as_slice(), listed.open), (&[joined.worker_id][..], false));

    // The history says what let it in.
    let parsed: JoinToken = text.parse().unwrap();
    let registered = machine.stored_next("WorkerRegistered", 0).await.event.metadata();
    assert_eq!(registered.actor, format!("token:{}", parsed.id));
    assert_eq!(registered.address, "192.0.2.7:4711");

    // Neither the token nor what it holds is in the log in clear.
    let secret = text.split('.').nth(2).unwrap().as_bytes();
    for stored in machine.stored().await {
        assert!(
            !contains(&stored.event.data, secret) && !contains(&stored.event.data, text.as_bytes())
        );
    }
    // The pin is the CA's.
    let authority = Authority::open_or_create(&machine.dir.path().join("ca")).unwrap();
    assert_eq!(parsed.ca, authority.fingerprint());
}

#[tokio::test(start_paused = true)]
async fn of_a_thousand_who_redeem_a_token_at_once_exactly_one_joins() {
    let machine = Machine::new();
    let (mut client, _task) = machine.start().await;
    let text = token(&mut client, wire::CreateJoinTokenRequest::default()).await;
    let asking = (0..1_000).map(|_| {
        let (mut client, text) = (client.clone(), text.clone());
        tokio::spawn(async move { join(&mut client, &text, &Key::generate().unwrap()).await })
    });
    let answers: Vec<_> = join_all(asking).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1);
    for refused in answers.into_iter().filter_map(Result::err) {
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
        assert!(refused.message().contains("used up"), "{refused}");
    }
    assert_eq!(list(&mut client).await.len(), 1);

    // Nor does anybody after a restart.
    let (mut client, _task) = machine.start().await;
    let late = join(&mut client, &text, &Key::generate().unwrap()).await.unwrap_err();
    assert!(late.message().contains("used up"), "{late}");
    assert_eq!(list(&mut client).await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn who_did_not_hear_the_answer_asks_again_even_after_a_restart() {
    let machine = Machine::new();
    let (mut client, _task) = machine.start().await;
    let text = token(&mut client, wire::CreateJoinTokenRequest::default()).await;
    let key = Key::generate().unwrap();
    let first = join(&mut client, &text, &key).await.unwrap();
    let (mut client, _task) = machine.start().await;
    let again = join(&mut client, &text, &key).await.unwrap();
    assert_eq!(again.worker_id, first.worker_id);
    assert_ne!(again.certificate, first.certificate);
    assert_eq!(list(&mut client).await.len(), 1);
    // Another's key replays it in vain, as one that was revoked before the restart.
    let replayed = join(&mut client, &text, &Key::generate().unwrap()).await.unwrap_err();
    assert!(replayed.message().contains("is used up"), "{replayed}");
    let other = token(&mut client, wire::CreateJoinTokenRequest::default()).await;
    let token_id = other.parse::<JoinToken>().unwrap().id.to_string();
    let request = wire::RevokeJoinTokenRequest { token_id, ..Default::default() };
    client.revoke_join_token(request).await.unwrap();
    let (mut client, _task) = machine.start().await;
    let replayed = join(&mut client, &other, &key).await.unwrap_err();
    assert!(replayed.message().contains("was revoked"), "{replayed}");

    client.deregister_worker(change(&first.worker_id)).await.unwrap();
    let refused = join(&mut client, &text, &key).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
}

#[tokio::test(start_paused = true)]
async fn the_last_use_and_the_revocation_cannot_both_win() {
    let machine = Machine::new();
    let (mut client, _task) = machine.start().await;
    for _ in 0..50 {
        let text = token(&mut client, wire::CreateJoinTokenRequest::default()).await;
        let before = list(&mut client).await.len();
        let token_id = text.parse::<JoinToken>().unwrap().id.to_string();
        let (mut one, mut other) = (client.clone(), client.clone());
        let key = Key::generate().unwrap();
        let request = wire::RevokeJoinTokenRequest { token_id, ..Default::default() };
        let (joined, revoked) =
            tokio::join!(join(&mut one, &text, &key), other.revoke_join_token(request));
        let revoked = revoked.unwrap().into_inner();
        assert!(revoked.revoked);
        // Whoever came first, the log says the same as the answers.
        let after = list(&mut client).await.len();
        assert_eq!(after - before, usize::from(joined.is_ok()));
        join(&mut client, &text, &key).await.unwrap_err();
        join(&mut client, &text, &Key::generate().unwrap()).await.unwrap_err();
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_that_does_not_fit_lets_nobody_in_and_says_why() {
    let machine = Machine::new();
    let (mut client, _task) = machine.start().await;
    let key = Key::generate().unwrap();
    let elsewhere = wire::CreateJoinTokenRequest {
        networks: vec!["10.0.0.0/8".into(), "fd00::/8".into()],
        ..Default::default()
    };
    let elsewhere = token(&mut client, elsewhere).await;
    let short = wire::CreateJoinTokenRequest { valid_ms: 60_000, ..Default::default() };
    let short = token(&mut client, short).await;
    let revoked = token(&mut client, wire::CreateJoinTokenRequest::default()).await;
    let token_id = revoked.parse::<JoinToken>().unwrap().id.to_string();
    let request = wire::RevokeJoinTokenRequest { token_id, ..Default::default() };
    client.revoke_join_token(request).await.unwrap();
    let strange = Machine::new();
    let (mut stranger, _other_task) = strange.start().await;
    let unknown = token(&mut stranger, wire::CreateJoinTokenRequest::default()).await;
    advance(Duration::from_mins(1)).await;
    for (text, why) in [
        (&elsewhere, "good for 10.0.0.0/8, fd00::/8 only, and this request comes from 192.0.2.7"),
        (&short, "expired"),
        (&revoked, "was revoked"),
        (&unknown, "not known here"),
    ] {
        let refused = join(&mut client, text, &key).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied);
        assert!(refused.message().contains(why), "{refused}");
    }
    assert!(list(&mut client).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_join_that_a_crash_cut_in_two_is_finished() {
    let machine = Machine::new();
    let (mut client, task) = machine.start().await;
    let text = token(&mut client, wire::CreateJoinTokenRequest::default()).await;
    let (id, key) = (text.parse::<JoinToken>().unwrap().id, Key::generate().unwrap());
    drop(client);
    task.await.unwrap().unwrap();
    // The use of the token was stored, and what makes the worker was not any more.
    #[expect(clippy::disallowed_methods, reason = "the crashed process gave it")]
    let worker = WorkerId::from_uuid(uuid::Uuid::now_v7());
    let digest = identity::Request::parse(&key.request().unwrap()).unwrap().key_digest();
    let redeemed = crate::domain::token::Event::TokenRedeemed {
        token: id,
        worker,
        key: digest,
        at: machine.clock.now(),
    };
    machine.store(redeemed.into()).await;

    let (mut client, _task) = machine.start().await;
    assert!(list(&mut client).await.is_empty());
    let refused = join(&mut client, &text, &Key::generate().unwrap()).await.unwrap_err();
    assert!(refused.message().contains("used up"), "{refused}");
    let joined = join(&mut client, &text, &key).await.unwrap();
    assert_eq!(joined.worker_id, worker.to_string());
    let [listed] = &list(&mut client).await[..] else { panic!("one worker") };
    assert_eq!((&listed.worker_id, listed.by_token), (&joined.worker_id, true));
    let again = join(&mut client, &text, &key).await.unwrap();
    assert_eq!((again.worker_id, list(&mut client).await.len()), (joined.worker_id, 1));
}

#[tokio::test(start_paused = true)]
async fn bad_requests_to_join_name_the_field() {
    let machine = Machine::new();
    let (mut client, _task) = machine.start().await;
    let text = token(&mut client, wire::CreateJoinTokenRequest::default()).await;
    let key = Key::generate().unwrap();
    let good = || ask(&text, &key);
    let many: Vec<String> = (0..10_000).map(|n| format!("t{n}")).collect();
    for (request, field) in [
        (wire::JoinWorkerRequest { token: "guess".into(), ..good() }, "`token`"),
        (wire::JoinWorkerRequest { token: "x".repeat(1 << 10), ..good() }, "`token`"),
        (wire::JoinWorkerRequest { request: "no".into(), ..good() }, "`request`"),
        (wire::JoinWorkerRequest { name: "a\u{1b}[31m".into(), ..good() }, "`name`"),
        (wire::JoinWorkerRequest { name: "x".repeat(101), ..good() }, "`name`"),
        (wire::JoinWorkerRequest { tags: vec!["\0".into()], ..good() }, "`tags`"),
        (wire::JoinWorkerRequest { tags: many[..100].to_vec(), ..good() }, "`tags`"),
    ] {
        let refused = client.join_worker(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        assert!(refused.message().starts_with(field), "{refused}");
    }
    let terms = wire::CreateJoinTokenRequest::default;
    for (request, field) in [
        (wire::CreateJoinTokenRequest { uses: 10_001, ..terms() }, "`uses`"),
        (wire::CreateJoinTokenRequest { uses: 2, name: "one".into(), ..terms() }, "`name`"),
        (wire::CreateJoinTokenRequest { valid_ms: u64::MAX, ..terms() }, "`valid_ms`"),
        (
            wire::CreateJoinTokenRequest { networks: vec!["10.0.0.0/99".into()], ..terms() },
            "`networks`",
        ),
        (wire::CreateJoinTokenRequest { tags: vec![String::new()], ..terms() }, "`tags`"),
    ] {
        let refused = client.create_join_token(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        assert!(refused.message().starts_with(field), "{refused}");
    }
    // All the while the token was good.
    join(&mut client, &text, &key).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_worker_renews_until_it_is_removed() {
    let machine = Machine::new();
    let (mut client, _task) = machine.start().await;
    let text = token(&mut client, wire::CreateJoinTokenRequest::default()).await;
    let joined = join(&mut client, &text, &Key::generate().unwrap()).await.unwrap();
    let key = Key::generate().unwrap();
    let renewed = client.renew_worker_certificate(renewal(&key, &joined.worker_id)).await;
    let renewed = renewed.unwrap().into_inner();
    let credentials = key.certified(renewed.certificate, renewed.ca_certificates).unwrap();
    assert_eq!(credentials.peer().unwrap(), Peer::Worker(joined.worker_id.parse().unwrap()));
    assert_eq!(certificates(&mut client).await.len(), 2);
    client.deregister_worker(change(&joined.worker_id)).await.unwrap();
    let refused =
        client.renew_worker_certificate(renewal(&key, &joined.worker_id)).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound, "{refused}");
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_was_away_renews_by_its_expired_certificate_and_its_key() {
    let machine = Machine::new();
    let (mut client, _task) = machine.start().await;
    let text = token(&mut client, wire::CreateJoinTokenRequest::default()).await;
    let key = Key::generate().unwrap();
    let joined = join(&mut client, &text, &key).await.unwrap();
    let expired = joined.certificate.clone();
    let terms = wire::CreateJoinTokenRequest::default();
    let text = token(&mut client, terms).await;
    let other_key = Key::generate().unwrap();
    let other = join(&mut client, &text, &other_key).await.unwrap();

    advance(Duration::from_hours(25)).await;
    // Whoever has the certificate alone, or another's, or one of another CA, gets none.
    let strange = Machine::new();
    let (mut stranger, _other_task) = strange.start().await;
    let text = token(&mut stranger, wire::CreateJoinTokenRequest::default()).await;
    let foreign_key = Key::generate().unwrap();
    let foreign = join(&mut stranger, &text, &foreign_key).await.unwrap();
    for (key, certificate, why) in [
        (&foreign_key, &expired, "for another key"),
        (&key, &other.certificate, "for another key"),
        (&foreign_key, &foreign.certificate, "none of this server's CA"),
        (&key, &"no PEM".to_owned(), "there is none"),
    ] {
        let refused = client.renew_worker_certificate(late_renewal(key, certificate)).await;
        let refused = refused.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        assert!(refused.message().contains(why), "{refused}");
    }

    let renewed = client.renew_worker_certificate(late_renewal(&key, &expired)).await;
    let renewed = renewed.unwrap().into_inner();
    assert_eq!(renewed.worker_id, joined.worker_id);
    key.certified(renewed.certificate, renewed.ca_certificates).unwrap();
    // Who did not hear the answer asks again, even after a restart.
    let (mut client, _task) = machine.start().await;
    client.renew_worker_certificate(late_renewal(&key, &expired)).await.unwrap();

    // A worker whose certificates were revoked while it was away stays out.
    let which = Some(Which::WorkerId(other.worker_id));
    let request = wire::RevokeCertificatesRequest { which, ..Default::default() };
    assert_eq!(
        client.revoke_certificates(request).await.unwrap().into_inner().certificates.len(),
        1
    );
    let request = late_renewal(&other_key, &other.certificate);
    let refused = client.renew_worker_certificate(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    assert!(refused.message().contains("revoked"), "{refused}");
}

/// No handshake takes it either, and the alert is the same.
#[tokio::test(start_paused = true)]
async fn a_certificate_that_is_not_valid_yet_is_renewed_when_the_clock_was_put_back() {
    let machine = Machine::new();
    let (mut client, _task) = machine.start().await;
    let text = token(&mut client, wire::CreateJoinTokenRequest::default()).await;
    let key = Key::generate().unwrap();
    let joined = join(&mut client, &text, &key).await.unwrap();
    let clock = machine.clock.clone();
    let put_back = Clock::from_fn(move || Timestamp(clock.now().0 - 5 * 86_400_000));
    let machine = Machine { clock: put_back.clone(), ..machine };
    let (mut client, _task) = machine.start().await;
    let renewed = client.renew_worker_certificate(late_renewal(&key, &joined.certificate)).await;
    let renewed = renewed.unwrap().into_inner();
    assert_eq!(renewed.worker_id, joined.worker_id);
    let credentials = key.certified(renewed.certificate, renewed.ca_certificates).unwrap();
    let now = Timestamp(put_back.now().0 / 1_000 * 1_000);
    assert_eq!(credentials.validity().unwrap().from, now);
}

#[tokio::test(start_paused = true)]
async fn a_roll_over_that_would_cut_workers_off_is_refused_before_anything_is_done() {
    let machine = Machine::new();
    let (mut client, _task) = machine.start().await;
    let text = token(&mut client, wire::CreateJoinTokenRequest::default()).await;
    let joined = join(&mut client, &text, &Key::generate().unwrap()).await.unwrap();
    advance(Duration::from_hours(1)).await;
    let roll = |hours: u64, at_once| wire::RollOverCaRequest {
        overlap_ms: hours * 3_600_000,
        at_once,
        ..Default::default()
    };
    let refused = client.roll_over_ca(roll(22, false)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    assert!(refused.message().contains("at least 82800s"));
    let authority = Authority::open_or_create(&machine.dir.path().join("ca")).unwrap();
    assert_eq!(authority.ca_pem(), joined.ca_certificates, "nothing was begun");

    client.roll_over_ca(roll(23, false)).await.unwrap();
    client.roll_over_ca(roll(0, false)).await.unwrap();
    client.roll_over_ca(roll(0, true)).await.unwrap();
    // Nobody is left who could be cut off.
    client.deregister_worker(change(&joined.worker_id)).await.unwrap();
    client.roll_over_ca(roll(1, false)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_service_renews_for_itself_alone_and_under_no_name_of_another() {
    let machine = Machine::new();
    let (mut client, _task) = machine.start().await;
    let key = Key::generate().unwrap();
    let names = vec!["gaia.example.org".to_owned(), "10.0.0.7".into()];
    let renewed =
        client.renew_certificate(service_renewal(&key, &names)).await.unwrap().into_inner();
    let credentials = key.certified(renewed.certificate, renewed.ca_certificates).unwrap();
    assert_eq!(credentials.peer().unwrap(), Peer::Service("gateway".into()));
    assert_eq!(credentials.host_names().unwrap(), names);
    for name in ["svc-access", "SVC-ACCESS", "log", "not a name", "gaia-pipeline.io"] {
        let request = service_renewal(&key, &[name.into()]);
        let refused = client.renew_certificate(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    }
}

async fn watch(client: &mut Client) -> Streaming<wire::Trust> {
    client.watch_trust(wire::WatchTrustRequest {}).await.unwrap().into_inner()
}

#[tokio::test(start_paused = true)]
async fn whoever_watches_learns_who_is_believed_no_more() {
    let machine = Machine::new();
    let (mut client, _task) = machine.start().await;
    let terms = wire::CreateJoinTokenRequest { uses: 2, ..Default::default() };
    let text = token(&mut client, terms).await;
    let one = join(&mut client, &text, &Key::generate().unwrap()).await.unwrap();
    let two = join(&mut client, &text, &Key::generate().unwrap()).await.unwrap();
    let mut trust = watch(&mut client).await;
    let first = trust.message().await.unwrap().unwrap();
    assert!(first.revoked.is_empty() && first.dismissed.is_empty());
    assert_eq!(first.ca_certificates, one.ca_certificates);

    let which = Some(Which::WorkerId(one.worker_id.clone()));
    let request = wire::RevokeCertificatesRequest { which, ..Default::default() };
    let revoked = client.revoke_certificates(request).await.unwrap().into_inner().certificates;
    let serials: Vec<_> = revoked.iter().map(|certificate| certificate.serial.clone()).collect();
    let told = trust.message().await.unwrap().unwrap();
    assert_eq!(told, wire::Trust { revoked: serials.clone(), ..Default::default() });

    client.deregister_worker(change(&two.worker_id)).await.unwrap();
    let told = trust.message().await.unwrap().unwrap();
    assert_eq!(told, wire::Trust { dismissed: vec![two.worker_id.clone()], ..Default::default() });

    let rolled = client.roll_over_ca(wire::RollOverCaRequest::default()).await.unwrap();
    let told = trust.message().await.unwrap().unwrap();
    assert!(told.ca_certificates.ends_with(&first.ca_certificates), "the old root is kept");
    assert_ne!(told.ca_certificates, first.ca_certificates);
    assert_eq!(rolled.into_inner().fingerprint.len(), 64);

    // A late watcher, after a restart, is told all at once.
    let (mut client, _task) = machine.start().await;
    let all = watch(&mut client).await.message().await.unwrap().unwrap();
    assert_eq!((all.revoked, all.dismissed), (serials, vec![two.worker_id]));
    assert_eq!(all.ca_certificates, told.ca_certificates);
}

#[tokio::test(start_paused = true)]
async fn a_serial_is_understood_as_people_write_it_and_nothing_else_is() {
    let machine = Machine::new();
    let (mut client, _task) = machine.start().await;
    let text = token(&mut client, wire::CreateJoinTokenRequest::default()).await;
    join(&mut client, &text, &Key::generate().unwrap()).await.unwrap();
    let [known] = &certificates(&mut client).await[..] else { panic!("one certificate") };
    let revoke = |serial: &str| wire::RevokeCertificatesRequest {
        which: Some(Which::Serial(serial.to_owned())),
        ..Default::default()
    };
    for (serial, code) in [
        ("", Code::InvalidArgument),
        ("../../etc", Code::InvalidArgument),
        (&"f".repeat(1 << 12), Code::InvalidArgument),
        ("0123", Code::NotFound),
    ] {
        let refused = client.revoke_certificates(revoke(serial)).await.unwrap_err();
        assert_eq!(refused.code(), code, "{refused}");
    }
    let written = format!("{}:{}", &known.serial[..2].to_uppercase(), &known.serial[2..]);
    let revoked = client.revoke_certificates(revoke(&written)).await.unwrap().into_inner();
    assert_eq!(revoked.certificates[0].serial, known.serial);
    let again = client.revoke_certificates(revoke(&written)).await.unwrap().into_inner();
    assert!(again.certificates.is_empty(), "it was so already");
}

#[tokio::test(start_paused = true)]
async fn the_registration_secret_can_be_switched_off() {
    let machine = Machine::new();
    let config = Config { registration_secret: false, ..Config::default() };
    let (mut client, _task) = machine.start_with(config).await;
    let secret = secret(&mut client).await;
    let request = wire::RegisterWorkerRequest { secret, ..Default::default() };
    let refused = client.register_worker(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(refused.message().contains("gaia worker token create"), "{refused}");
}
