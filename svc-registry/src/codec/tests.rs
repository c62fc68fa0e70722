//! Every event survives its stored form, and what was written once stays readable.

use eventlog::{Metadata, NewEvent};
use ids::EventId;
use uuid::Uuid;

use super::*;

const WORKER: WorkerId = WorkerId::from_uuid(Uuid::from_u128(7));

/// Each event, and its bytes as the first version wrote them.
fn golden() -> Vec<(Event, &'static str)> {
    let (worker, at) = (WORKER, Timestamp(300));
    let tags = || vec!["go".to_string(), "gpu".to_string()];
    vec![
        (
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
            "0a24<id>1201771a02676f1a0367707520012a02356130900338ac02",
        ),
        (
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
            "0a24<id>10041a02676f1a0367707522056c696e75782a05616d64363432013138ac02",
        ),
        (Event::WorkerSuspended { worker, note: "n".into(), at }, "0a24<id>12016e18ac02"),
        (Event::WorkerResumed { worker, at }, "0a24<id>10ac02"),
        (Event::WorkerLost { worker, last_contact_at: Timestamp(200), at }, "0a24<id>10c80118ac02"),
        (Event::WorkerReturned { worker, at }, "0a24<id>10ac02"),
        (Event::WorkerDeregistered { worker, note: "n".into(), at }, "0a24<id>12016e18ac02"),
        (Event::RegistrationSecretReset { sealed: vec![1, 2, 255], at }, "0a030102ff10ac02"),
    ]
}

fn recorded(stream: &str, event_type: &str, data: Vec<u8>) -> Recorded {
    Recorded {
        position: 9,
        stream: stream.into(),
        revision: 0,
        recorded_at: Timestamp(0),
        event: NewEvent::new(
            EventId::from_uuid(Uuid::from_u128(1)),
            event_type,
            data,
            &Metadata::default(),
        ),
    }
}

/// `<id>` stands for the worker's id.
fn bytes(golden: &str) -> Vec<u8> {
    let id: Vec<_> = WORKER.to_string().bytes().map(|byte| format!("{byte:02x}")).collect();
    let digits = golden.replace("<id>", &id.concat());
    (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap())
        .collect()
}

#[test]
fn events_are_stored_as_they_always_were() {
    for (event, golden) in golden() {
        let encoded = encode(&event);
        assert_eq!((encoded.version, encoded.data), (1, bytes(golden)), "{event:?}");
    }
}

#[test]
fn events_are_read_as_they_were_written() {
    for (event, golden) in golden() {
        let recorded = recorded(&stream(&event), encode(&event).event_type, bytes(golden));
        assert_eq!(decode(&recorded).unwrap(), Some(event));
    }
}

#[test]
fn unknown_events_are_skipped_and_damaged_ones_are_not() {
    let stream = format!("worker-{WORKER}");
    assert_eq!(decode(&recorded(&stream, "WorkerPainted", vec![255])).unwrap(), None);
    assert_eq!(decode(&recorded("run-1", "WorkerLost", vec![255])).unwrap(), None);
    let error = decode(&recorded(&stream, "WorkerLost", vec![255])).unwrap_err().to_string();
    assert!(error.contains("event 9 (WorkerLost in `worker-"), "{error}");
    let nameless = encoded("WorkerLost", &stored::WorkerLost::default()).data;
    assert!(decode(&recorded(&stream, "WorkerLost", nameless)).is_err());
}
