//! What was written once is read for ever.

use schema::golden::{Golden, recorded};
use uuid::Uuid;

use ids::{Digest, JoinTokenId};

use super::*;
use crate::domain::{
    certificate::{self, Issue, Subject},
    token::{self, Terms},
};

/// What each line of `golden.txt` stands for.
fn events() -> Vec<Event> {
    let (worker, at) = (WorkerId::from_uuid(Uuid::from_u128(7)), Timestamp(300));
    let tags = || vec!["go".to_string(), "gpu".to_string()];
    vec![
        Event::WorkerRegistered {
            registration: Registration {
                worker,
                name: "w".into(),
                tags: tags(),
                primary: true,
                certificate_serial: "5a".into(),
                certificate_expires_at: Timestamp(400),
            },
            at,
        },
        reported(&[]),
        Event::WorkerSuspended { worker, until: None, note: "n".into(), at },
        Event::WorkerResumed { worker, note: String::new(), at },
        Event::WorkerLost { worker, last_contact_at: Timestamp(200), at },
        Event::WorkerReturned { worker, at },
        Event::WorkerDeregistered { worker, forced: false, note: "n".into(), at },
        Event::RegistrationSecretReset { sealed: vec![1, 2, 255], at },
    ]
}

fn reported(detected: &[&str]) -> Event {
    let description = Description {
        slots: 4,
        tags: vec!["go".into(), "gpu".into()],
        detected: detected.iter().map(ToString::to_string).collect(),
        os: "linux".into(),
        arch: "amd64".into(),
        version: "1".into(),
    };
    let (worker, at) = (WorkerId::from_uuid(Uuid::from_u128(7)), Timestamp(300));
    Event::WorkerReported { worker, description, at }
}

/// The lines of what operators do.
fn actions() -> Vec<Event> {
    let (worker, at) = (WorkerId::from_uuid(Uuid::from_u128(7)), Timestamp(300));
    let (note, key, end) = (|| "n".to_string(), || "K".to_string(), Some(Timestamp(500)));
    let (of_worker, of_tag) = (|| Scope::Worker(worker), || Scope::Tag("go".into()));
    let (plain, sealed) = (Value::Plain("v".into()), Value::Sealed(vec![1, 255]));
    let (added, removed) = (vec!["-go".into()], vec!["gpu".into()]);
    vec![
        reported(&["go"]),
        Event::WorkerRenamed { worker, name: "v".into(), note: note(), at },
        Event::WorkerTagsChanged { worker, added, removed, note: note(), at },
        Event::WorkerSuspended { worker, until: end, note: note(), at },
        Event::WorkerDrainStarted { worker, deadline: end, note: note(), at },
        Event::WorkerDrainExpired { worker, at },
        Event::WorkerResumed { worker, note: note(), at },
        Event::WorkerDeregistered { worker, forced: true, note: note(), at },
        Event::VariableSet { scope: of_worker(), key: key(), value: plain, note: note(), at },
        Event::VariableSet { scope: of_tag(), key: key(), value: sealed, note: note(), at },
        Event::VariableRemoved { scope: of_worker(), key: key(), note: note(), at },
        Event::VariableRemoved { scope: of_tag(), key: key(), note: note(), at },
    ]
}

fn tokens(worker: WorkerId, at: Timestamp) -> [Event; 3] {
    let token = JoinTokenId::from_uuid(Uuid::from_u128(8));
    let terms = Terms {
        secret_hash: Digest::from_bytes([1; 32]),
        name: "w".into(),
        tags: vec!["go".into()],
        uses: 1,
        networks: vec!["10.0.0.0/8".parse().unwrap(), "fd00::7".parse().unwrap()],
        expires_at: Timestamp(400),
        primary: true,
    };
    let key = Digest::from_bytes([2; 32]);
    [
        token::Event::TokenCreated { token, terms, at }.into(),
        token::Event::TokenRedeemed { token, worker, key, at }.into(),
        token::Event::TokenRevoked { token, note: "n".into(), at }.into(),
    ]
}

fn certificates(worker: WorkerId, at: Timestamp) -> [Event; 4] {
    let issued = |subject| {
        let issue = Issue { serial: "5a".into(), subject, expires_at: Timestamp(400) };
        certificate::Event::CertificateIssued { certificate: issue, at }.into()
    };
    let fingerprint = Digest::from_bytes([3; 32]);
    let (overlap_until, note) = (Timestamp(500), "n".to_owned());
    [
        issued(Subject::Worker(worker)),
        issued(Subject::Service("svc-logs".into())),
        certificate::Event::CertificateRevoked { serial: "5a".into(), note: note.clone(), at }
            .into(),
        certificate::Event::CaRolledOver { fingerprint, overlap_until, note, at }.into(),
    ]
}

#[test]
fn events_are_stored_as_they_always_were() {
    let bytes = include_str!("golden.txt");
    let (worker, at) = (WorkerId::from_uuid(Uuid::from_u128(7)), Timestamp(300));
    let trust = tokens(worker, at).into_iter().chain(certificates(worker, at));
    let events = [events(), trust.collect(), actions()].concat();
    Golden { bytes, events, stream, encode, decode }.check("gaia.registry.events.v1");
}

#[test]
fn an_event_of_no_worker_is_damage() {
    let nameless = encoded("WorkerLost", 1, &stored::WorkerLost::default()).data;
    assert!(decode(&recorded("worker-7", "WorkerLost", 1, nameless)).is_err());
}
