//! Join tokens, certificates, and what they let whom do.

use std::{net::IpAddr, time::Duration};

use ids::{Digest, JoinTokenId};

use super::*;
use crate::domain::{
    certificate::{Certificate, Command as Certify, Event as Certified, Issue, Subject, Which},
    token::{Claim, Command as Tokens, Event as TokenEvent, Network, Refusal, Shown, Terms},
};

const TOKEN: JoinTokenId = JoinTokenId::from_uuid(Uuid::from_u128(50));
const END: Timestamp = Timestamp(5_000);

fn digest(n: u8) -> Digest {
    Digest::from_bytes([n; 32])
}

fn terms(uses: u32) -> Terms {
    Terms {
        secret_hash: digest(1),
        name: String::new(),
        tags: vec![],
        uses,
        networks: vec![],
        expires_at: END,
        primary: false,
    }
}

fn created(terms: Terms) -> Event {
    TokenEvent::TokenCreated { token: TOKEN, terms, at: AT }.into()
}

fn redeemed(worker: u128, key: u8, at: Timestamp) -> Event {
    let worker = super::worker(worker);
    TokenEvent::TokenRedeemed { token: TOKEN, worker, key: digest(key), at }.into()
}

fn revoked() -> Event {
    TokenEvent::TokenRevoked { token: TOKEN, note: "lost".into(), at: AT }.into()
}

fn shown(key: u8) -> Shown {
    let address = Some("10.1.2.3".parse().unwrap());
    Shown { token: TOKEN, secret_hash: digest(1), key: digest(key), address }
}

fn redeem_at(worker: u128, shown: Shown, at: Timestamp) -> Command {
    Command::Token(Tokens::RedeemToken { shown, registration: registration(worker), at })
}

fn redeem(worker: u128, key: u8) -> Command {
    redeem_at(worker, shown(key), LATER)
}

fn joined(worker: u128, at: Timestamp) -> Event {
    Event::WorkerRegistered { registration: registration(worker), at }
}

fn refused(given: &[Event], when: Command, why: Refusal) {
    check(given, when, Err(why.into()));
}

#[test]
fn a_token_makes_a_worker_as_often_as_its_terms_say() {
    let once = [created(terms(2)), redeemed(1, 11, LATER), joined(1, LATER)];
    check(&once[..1], redeem(1, 11), Ok(once[1..].to_vec()));
    check(&once, redeem(2, 12), Ok(vec![redeemed(2, 12, LATER), joined(2, LATER)]));
    let twice = [&once[..], &[redeemed(2, 12, LATER), joined(2, LATER)]].concat();
    refused(&twice, redeem(3, 13), Refusal::UsedUp);
}

#[test]
fn the_tags_of_a_token_are_given_as_by_an_operator() {
    let tags = vec!["gpu".to_owned(), "-slow".to_owned()];
    let given = [created(Terms { tags: tags.clone(), ..terms(1) })];
    let (removed, note) = (vec![], format!("from join token {TOKEN}"));
    let tagged =
        Event::WorkerTagsChanged { worker: worker(1), added: tags, removed, note, at: LATER };
    let after = [redeemed(1, 11, LATER), joined(1, LATER), tagged];
    check(&given, redeem(1, 11), Ok(after.to_vec()));
    let state = State::replay(&[&given[..], &after].concat());
    let known = state.worker(worker(1)).unwrap();
    let operators: Vec<_> =
        known.labels().into_iter().filter(|(_, source)| *source == Source::Operator).collect();
    assert_eq!(operators, [("gpu", Source::Operator), ("-slow", Source::Operator)]);
    assert!(known.offers("GPU") && !known.offers("slow"));

    let terms = Terms { tags: vec!["gpu".into(), "-GPU".into()], ..terms(1) };
    let create = Command::Token(Tokens::CreateToken { token: TOKEN, terms, at: AT });
    check(&[], create, Err(Rejection::Contradiction("gpu".into())));
}

#[test]
fn whoever_did_not_hear_the_answer_may_ask_again_and_is_the_same_worker() {
    let given = [created(terms(1)), redeemed(1, 11, AT), registered(1)];
    let tokens = State::replay(&given).tokens;
    assert_eq!(tokens.claim(&shown(11), LATER), Ok(Claim::Again(worker(1), terms(1))));
    let issued = Issue {
        serial: "5a".into(),
        subject: Subject::Worker(worker(1)),
        expires_at: Timestamp(9_000),
    };
    let again = Certified::CertificateIssued { certificate: issued, at: LATER };
    check(&given, redeem(1, 11), Ok(vec![again.into()]));
    // The same key at the same moment, which got another id.
    refused(&given, redeem(2, 11), Refusal::AtTheSameTime);
    let removed = [&given[..], &[deregistered(1)]].concat();
    check(&removed, redeem(1, 11), Err(Rejection::UnknownWorker(worker(1))));
}

#[test]
fn a_token_is_good_until_its_end_and_until_it_is_revoked() {
    let given = [created(terms(1))];
    let last = Timestamp(END.0 - 1);
    check(&given, redeem_at(1, shown(11), last), Ok(vec![redeemed(1, 11, last), joined(1, last)]));
    refused(&given, redeem_at(1, shown(11), END), Refusal::Expired);
    let given = [created(terms(1)), revoked()];
    refused(&given, redeem(1, 11), Refusal::Revoked);
    // Not even the key that redeemed it asks again.
    let given = [created(terms(1)), redeemed(1, 11, AT), registered(1), revoked()];
    refused(&given, redeem(1, 11), Refusal::Revoked);
}

#[test]
fn whoever_does_not_know_the_secret_learns_nothing() {
    let guess = || Shown { secret_hash: digest(9), ..shown(11) };
    for given in [vec![], vec![created(terms(1))], vec![created(terms(1)), revoked()]] {
        refused(&given, redeem_at(1, guess(), LATER), Refusal::UnknownToken);
    }
    refused(&[], redeem(1, 11), Refusal::UnknownToken);
}

#[test]
fn a_token_may_be_good_for_some_networks_only() {
    let networks = vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
    let given = [created(Terms { networks, ..terms(9) })];
    let tokens = State::replay(&given).tokens;
    let claim = |text: Option<&str>| {
        let address = text.map(|text| text.parse().unwrap());
        tokens.claim(&Shown { address, ..shown(11) }, LATER)
    };
    for inside in ["10.255.0.1", "fd12::1", "::ffff:10.1.1.1"] {
        assert!(claim(Some(inside)).is_ok(), "{inside}");
    }
    for outside in [Some("11.0.0.1"), Some("fe80::1"), Some("::1"), None] {
        let refusal = claim(outside).unwrap_err();
        assert!(refusal.to_string().contains("good for 10.0.0.0/8, fd00::/8 only"), "{refusal}");
    }
}

#[test]
fn networks_hold_what_begins_like_them() {
    let holds = |network: &str, address: &str| {
        let address: IpAddr = address.parse().unwrap();
        network.parse::<Network>().unwrap().holds(address)
    };
    assert!(holds("0.0.0.0/0", "255.1.2.3") && holds("::/0", "fe80::1"));
    assert!(holds("192.0.2.7", "192.0.2.7") && !holds("192.0.2.7", "192.0.2.6"));
    assert!(holds("192.0.2.128/25", "192.0.2.200") && !holds("192.0.2.128/25", "192.0.2.100"));
    assert!(holds("fd00::7", "fd00::7") && !holds("fd00::7/127", "fd00::8"));
    assert!(!holds("0.0.0.0/0", "::1") && !holds("::/0", "1.2.3.4"));
    for wrong in
        ["", "/", "10.0.0.0/33", "10.0.0/8", "fd00::/129", "x/8", "10.0.0.0/-1", "10.0.0.0/8/8"]
    {
        wrong.parse::<Network>().unwrap_err();
    }
}

#[test]
fn a_token_is_revoked_once_and_forgotten_a_month_after_its_end() {
    let revoke =
        || Command::Token(Tokens::RevokeToken { token: TOKEN, note: "lost".into(), at: AT });
    refused(&[], revoke(), Refusal::NoSuchToken(TOKEN));
    check(&[created(terms(1))], revoke(), Ok(vec![revoked()]));
    check(&[created(terms(1)), revoked()], revoke(), Ok(vec![]));
    let month = Duration::from_hours(30 * 24);
    let another = |at| {
        let token = JoinTokenId::from_uuid(Uuid::from_u128(51));
        TokenEvent::TokenCreated { token, terms: terms(1), at }.into()
    };
    let count = |at| State::replay(&[created(terms(1)), another(at)]).tokens.iter().count();
    assert_eq!((count(Timestamp((END + month).0 - 1)), count(END + month)), (2, 1));
}

fn issue(serial: &str, subject: Subject, expires_at: Timestamp) -> Issue {
    Issue { serial: serial.into(), subject, expires_at }
}

fn issued(serial: &str, subject: Subject, expires_at: Timestamp) -> Event {
    Certified::CertificateIssued { certificate: issue(serial, subject, expires_at), at: AT }.into()
}

fn revoke(which: Which) -> Command {
    Command::Certificate(Certify::RevokeCertificates { which, note: "lost".into(), at: LATER })
}

fn gone(serial: &str) -> Event {
    Certified::CertificateRevoked { serial: serial.into(), note: "lost".into(), at: LATER }.into()
}

#[test]
fn a_renewal_is_the_workers_newest_certificate() {
    let one = || Subject::Worker(worker(1));
    let renew = |subject| {
        let certificate = issue("6b", subject, Timestamp(9_999));
        let shown = "5a".into();
        Command::Certificate(Certify::IssueCertificate { shown, certificate, at: AT })
    };
    let renewed = issued("6b", one(), Timestamp(9_999));
    check(&[registered(1)], renew(one()), Ok(vec![renewed.clone()]));
    let unknown = Err(Rejection::UnknownWorker(worker(1)));
    check(&[], renew(one()), unknown.clone());
    check(&[registered(1), deregistered(1)], renew(one()), unknown);
    let service = || Subject::Service("svc-logs".into());
    check(&[], renew(service()), Ok(vec![issued("6b", service(), Timestamp(9_999))]));
    let state = State::replay(&[registered(1), renewed]);
    let known = state.worker(worker(1)).unwrap();
    assert_eq!(known.certificate_serial, "6b");
    assert_eq!(known.certificate_expires_at, Timestamp(9_999));
    assert_eq!(state.certificates.iter().count(), 2, "the one before is good until its end");
}

#[test]
fn certificates_are_revoked_one_by_one_or_all_of_somebody() {
    let one = || Subject::Worker(worker(1));
    let given = [registered(1), issued("6b", one(), Timestamp(9_999))];
    check(&given, revoke(Which::Serial("6b".into())), Ok(vec![gone("6b")]));
    check(&given, revoke(Which::AllOf(one())), Ok(vec![gone("5a"), gone("6b")]));
    let rest = [&given[..], &[gone("6b")]].concat();
    check(&rest, revoke(Which::AllOf(one())), Ok(vec![gone("5a")]));
    check(&rest, revoke(Which::Serial("6b".into())), Ok(vec![]));
    let stranger = certificate::Refusal::UnknownSerial("7c".into());
    check(&given, revoke(Which::Serial("7c".into())), Err(stranger.into()));
    let nobody = certificate::Refusal::NoneOf(Subject::Service("svc-logs".into()));
    let all = Which::AllOf(Subject::Service("svc-logs".into()));
    check(&given, revoke(all), Err(nobody.into()));
}

#[test]
fn whose_newest_certificate_is_revoked_gets_no_other_one() {
    let one = || Subject::Worker(worker(1));
    let again = [created(terms(1)), redeemed(1, 11, LATER), joined(1, LATER)];
    let renew_by = |shown: &str| {
        let certificate = issue("6b", one(), Timestamp(9_999));
        Command::Certificate(Certify::IssueCertificate {
            shown: shown.into(),
            certificate,
            at: LATER,
        })
    };
    let renew = || renew_by("");
    let refusal = || Err(certificate::Refusal::Revoked.into());
    let shut_out = [&again[..], &[gone("5a")]].concat();
    check(&shut_out, renew(), refusal());
    // With the token and the key that it joined with, too.
    check(&shut_out, redeem(1, 11), refusal());
    let newest = issued("7c", one(), Timestamp(9_999));
    let replaced = [&again[..], &[newest, gone("5a")]].concat();
    check(&replaced, renew_by("7c"), Ok(vec![issued_later("6b", one(), Timestamp(9_999))]));
    // The older one's connection may not be cut yet, and its key is the one that joined.
    check(&replaced, renew_by("5a"), refusal());
    check(&replaced, redeem(1, 11), refusal());
    // Nor when the revoked one is forgotten.
    let late = Timestamp(9_000) + certificate::LATE;
    let other = issue("9e", Subject::Service("svc-logs".into()), late + GONE);
    let forgotten = Certified::CertificateIssued { certificate: other, at: late }.into();
    let terms = Terms { expires_at: late + GONE, ..terms(1) };
    let given = [created(terms), redeemed(1, 11, LATER), joined(1, LATER), gone("5a"), forgotten];
    assert_eq!(State::replay(&given).certificates.iter().count(), 1);
    check(&given, redeem_at(1, shown(11), late), refusal());
}

#[test]
fn a_service_renews_by_no_revoked_certificate() {
    let service = || Subject::Service("svc-logs".into());
    let renew = |shown: &str| {
        let (shown, certificate) = (shown.into(), issue("6b", service(), Timestamp(9_999)));
        Command::Certificate(Certify::IssueCertificate { shown, certificate, at: LATER })
    };
    let given = [issued("5a", service(), Timestamp(9_000)), gone("5a")];
    check(&given, renew("5a"), Err(certificate::Refusal::Revoked.into()));
    // It was started again, and got another by the CA's own hand.
    check(&given, renew("7c"), Ok(vec![issued_later("6b", service(), Timestamp(9_999))]));
}

#[test]
fn a_join_that_a_crash_cut_in_two_is_finished_by_the_same_key() {
    let terms = || Terms { tags: vec!["gpu".into()], ..terms(1) };
    let given = [created(terms()), redeemed(1, 11, AT)];
    let (added, note) = (vec!["gpu".into()], format!("from join token {TOKEN}"));
    let tagged =
        Event::WorkerTagsChanged { worker: worker(1), added, removed: vec![], note, at: LATER };
    check(&given, redeem(1, 11), Ok(vec![joined(1, LATER), tagged]));
    refused(&given, redeem(2, 11), Refusal::AtTheSameTime);
    refused(&given, redeem(2, 12), Refusal::UsedUp);
    let finished = State::replay(&[&given[..], &[joined(1, LATER)]].concat());
    assert!(finished.worker(worker(1)).unwrap().by_token);
    let by_secret = State::replay(&[&given[..], &[registered(2)]].concat());
    assert!(!by_secret.worker(worker(2)).unwrap().by_token);
}

#[test]
fn only_tokens_that_let_somebody_in_count_as_open() {
    let token = |n: u32| JoinTokenId::from_uuid(Uuid::from_u128(1_000 + u128::from(n)));
    let made = |n| TokenEvent::TokenCreated { token: token(n), terms: terms(1), at: AT }.into();
    let mut given: Vec<Event> = (0..10_000).map(made).collect();
    let create = |at| {
        let another = TokenEvent::TokenCreated { token: TOKEN, terms: late(), at };
        (
            Command::Token(Tokens::CreateToken { token: TOKEN, terms: late(), at }),
            Ok(vec![another.into()]),
        )
    };
    let (command, created) = create(LATER);
    refused(&given, command, Refusal::TooMany);
    let (command, later) = create(END);
    check(&given, command, later);
    let used =
        TokenEvent::TokenRedeemed { token: token(7), worker: worker(7), key: digest(7), at: AT };
    let revoked = TokenEvent::TokenRevoked { token: token(7), note: "lost".into(), at: AT };
    for closed in [used, revoked] {
        given.push(closed.into());
        check(&given, create(LATER).0, created.clone());
        given.pop();
    }
}

fn late() -> Terms {
    Terms { expires_at: Timestamp(END.0 + 1_000), ..terms(1) }
}

fn issued_later(serial: &str, subject: Subject, expires_at: Timestamp) -> Event {
    let certificate = issue(serial, subject, expires_at);
    Certified::CertificateIssued { certificate, at: LATER }.into()
}

#[test]
fn the_newest_expired_certificate_is_kept_for_a_worker_that_comes_late() {
    let one = || Subject::Worker(worker(1));
    let issued_at = |serial: &str, at, expires_at| {
        let certificate = issue(serial, one(), expires_at);
        Certified::CertificateIssued { certificate, at }.into()
    };
    // `5a` came with the registration, and ends at 9,000.
    let given = [
        registered(1),
        issued_at("6b", AT, Timestamp(9_500)),
        issued_at("7c", Timestamp(10_000), END + GONE),
    ];
    let known = |given: &[Event]| {
        let state = State::replay(given);
        state.certificates.iter().map(|(serial, _)| serial.to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(known(&given), ["6b", "7c"]);
    let expected = Certificate {
        subject: one(),
        issued_at: Timestamp(10_000),
        expires_at: END + GONE,
        revoked: None,
    };
    assert_eq!(State::replay(&given).certificates.get("7c"), Some(&expected));

    let end = END + GONE;
    let reissue = |expired: &str, subject: Subject, at| {
        let certificate = issue("8d", subject, at + GONE);
        Command::Certificate(Certify::ReissueCertificate {
            expired: expired.into(),
            certificate,
            at,
        })
    };
    let too_late = || Err(certificate::Refusal::TooLate.into());
    let again = |at| Ok(vec![issued_at("8d", at, at + GONE)]);
    check(&given, reissue("6b", one(), end), again(end));
    check(&given, reissue("7c", one(), end), again(end));
    check(&given, reissue("5a", one(), end), too_late());
    check(&given, reissue("7c", Subject::Worker(worker(2)), end), too_late());
    let last = Timestamp((end + certificate::LATE).0 - 1);
    check(&given, reissue("7c", one(), last), again(last));
    check(&given, reissue("7c", one(), end + certificate::LATE), too_late());
    let revoked = [&given[..], &[gone("7c")]].concat();
    check(&revoked, reissue("7c", one(), end), Err(certificate::Refusal::Revoked.into()));
    let removed = [&given[..], &[deregistered(1)]].concat();
    check(&removed, reissue("7c", one(), end), Err(Rejection::UnknownWorker(worker(1))));

    // Nobody's expired certificate is kept for longer than it can be used.
    let other = issue("9e", Subject::Service("svc-logs".into()), end + GONE);
    let at = end + certificate::LATE;
    let given = [&given[..], &[Certified::CertificateIssued { certificate: other, at }.into()]];
    assert_eq!(known(&given.concat()), ["9e"]);
}

const GONE: Duration = Duration::from_secs(100);

#[test]
fn the_old_ca_is_believed_for_as_long_as_a_workers_certificate_lives() {
    // `5a` came with the registration, and ends at 9,000.
    let one = || Subject::Worker(worker(1));
    let service = issued("6b", Subject::Service("svc-logs".into()), Timestamp(99_000));
    let given = [registered(1), service, issued("7c", one(), Timestamp(12_000))];
    let ask = |given: &[Event], end: u64| {
        let overlap = Timestamp(end).since(LATER);
        certificate::outlasts(&State::replay(given), overlap, LATER)
    };
    let short = |seconds| Err(certificate::Refusal::ShortOverlap { workers: 1, seconds });
    assert_eq!(ask(&given, 11_999), short(10));
    assert_eq!(ask(&given, 12_000), Ok(()));
    // Not for one that nobody may show any more.
    let rest = [&given[..], &[gone("7c")]].concat();
    assert_eq!((ask(&rest, 8_000), ask(&rest, 9_000)), (short(7), Ok(())));
    assert_eq!(ask(&[&given[..], &[deregistered(1)]].concat(), 3_000), Ok(()));
}
