//! What was written once is read for ever.

use schema::golden::{Golden, recorded};
use uuid::Uuid;

use super::*;

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
        Event::WorkerReported {
            worker,
            description: Description {
                slots: 4,
                tags: tags(),
                os: "linux".into(),
                arch: "amd64".into(),
                version: "1".into(),
            },
            at,
        },
        Event::WorkerSuspended { worker, note: "n".into(), at },
        Event::WorkerResumed { worker, at },
        Event::WorkerLost { worker, last_contact_at: Timestamp(200), at },
        Event::WorkerReturned { worker, at },
        Event::WorkerDeregistered { worker, note: "n".into(), at },
        Event::RegistrationSecretReset { sealed: vec![1, 2, 255], at },
    ]
}

#[test]
fn events_are_stored_as_they_always_were() {
    let bytes = include_str!("golden.txt");
    Golden { bytes, events: events(), stream, encode, decode }.check("gaia.registry.events.v1");
}

#[test]
fn an_event_of_no_worker_is_damage() {
    let nameless = encoded("WorkerLost", &stored::WorkerLost::default()).data;
    assert!(decode(&recorded("worker-7", "WorkerLost", 1, nameless)).is_err());
}
