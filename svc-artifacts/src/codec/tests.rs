//! What was written once is read for ever.

use schema::golden::{Golden, recorded};

use super::*;

/// What each line of `golden.txt` stands for.
fn events() -> Vec<Event> {
    let digest = Digest::from_bytes([9; 32]);
    vec![
        Event::ArtifactStored { digest, size: 300, at: Timestamp(1_000) },
        Event::ArtifactRemoved { digest, at: Timestamp(1_000) },
    ]
}

#[test]
fn events_are_stored_as_they_always_were() {
    let bytes = include_str!("golden.txt");
    Golden { bytes, events: events(), stream, encode, decode }.check("gaia.artifacts.events.v1");
    assert_eq!(stream(&events()[0]), format!("artifact-{}", "09".repeat(32)));
}

#[test]
fn a_digest_of_the_wrong_length_is_damage() {
    assert!(decode(&recorded("artifact-1", "ArtifactStored", 1, vec![])).is_err());
}
