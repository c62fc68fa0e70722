//! Every event survives its stored form, and what was written once stays readable.

use eventlog::{Metadata, NewEvent};
use ids::EventId;
use uuid::Uuid;

use super::*;

/// Each event, and its bytes as the first version wrote them.
fn golden() -> Vec<(Event, &'static [u8])> {
    let (username, at) = (|| "ann".to_string(), Timestamp(300));
    let password_hash = || PasswordHash("$h".into());
    vec![
        (
            Event::UserCreated {
                username: username(),
                display_name: "Ann".into(),
                password_hash: password_hash(),
                at,
            },
            b"\x0a\x03ann\x12\x03Ann\x1a\x02$h\x20\xac\x02",
        ),
        (
            Event::PasswordChanged { username: username(), password_hash: password_hash(), at },
            b"\x0a\x03ann\x12\x02$h\x18\xac\x02",
        ),
        (
            Event::SecretPut { key: "k".into(), sealed: vec![1, 2, 255], at },
            b"\x0a\x01k\x12\x03\x01\x02\xff\x18\xac\x02",
        ),
        (Event::SecretRemoved { key: "k".into(), at }, b"\x0a\x01k\x10\xac\x02"),
    ]
}

fn recorded(stream: &str, event_type: &str, data: &[u8]) -> Recorded {
    Recorded {
        position: 9,
        stream: stream.into(),
        revision: 0,
        recorded_at: Timestamp(0),
        event: NewEvent::new(
            EventId::from_uuid(Uuid::from_u128(1)),
            event_type,
            data.to_vec(),
            &Metadata::default(),
        ),
    }
}

#[test]
fn events_are_stored_as_they_always_were() {
    for (event, golden) in golden() {
        let encoded = encode(&event);
        assert_eq!((encoded.version, encoded.data.as_slice()), (1, golden), "{event:?}");
    }
}

#[test]
fn events_are_read_as_they_were_written() {
    for (event, golden) in golden() {
        let recorded = recorded(&stream(&event), encode(&event).event_type, golden);
        assert_eq!(decode(&recorded).unwrap(), Some(event));
    }
}

#[test]
fn unknown_events_are_skipped_and_damaged_ones_are_not() {
    assert_eq!(decode(&recorded("user-ann", "UserPainted", b"\xff")).unwrap(), None);
    assert_eq!(decode(&recorded("run-1", "SecretPut", b"\xff")).unwrap(), None);
    let error = decode(&recorded("secret-k", "SecretPut", b"\xff")).unwrap_err().to_string();
    assert!(error.contains("event 9 (SecretPut in `secret-k`)"), "{error}");
}
