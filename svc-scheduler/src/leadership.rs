//! Who leads, as the log says it: the events of `scheduler-leader`, and the one that fences.
//!
//! Reads every version ever written, writes the newest.

use std::time::Duration;

use eventlog::{
    DecodeError, Recorded,
    owner::{Encoded, check_version},
};
use ids::Timestamp;
use prost::Message;
use proto::leadership::events::v1 as stored;

use crate::{
    codec::{OWN, subject_stream},
    domain::State,
};

pub(crate) use host::leader::ELECTIONS;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ruling {
    /// The revision of the event is the term.
    LeaderElected { address: String, lease: Duration, at: Timestamp },
    /// Whoever led before this term can append no more to this stream.
    StreamFenced { stream: String, term: u64, at: Timestamp },
}

/// Somebody who was elected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Leader {
    pub(crate) term: u64,
    pub(crate) address: String,
    pub(crate) lease: Duration,
}

impl Leader {
    /// `None`: a newer program wrote something else.
    pub(crate) fn read(recorded: &Recorded) -> Result<Option<Self>, DecodeError> {
        Ok(match decode(recorded)? {
            Some(Ruling::LeaderElected { address, lease, .. }) => {
                Some(Self { term: recorded.revision, address, lease })
            }
            _ => None,
        })
    }
}

/// The streams that a leader with this state may append to, but for those that do not exist yet.
pub(crate) fn written(state: &State) -> Vec<String> {
    state.writable().map(subject_stream).collect()
}

pub(crate) fn encode(ruling: &Ruling) -> Encoded {
    let (event_type, data) = match ruling {
        Ruling::LeaderElected { address, lease, at } => {
            let lease_millis = lease.as_millis() as u64;
            let stored = stored::LeaderElected { address: address.clone(), lease_millis, at: at.0 };
            ("LeaderElected", stored.encode_to_vec())
        }
        Ruling::StreamFenced { term, at, .. } => {
            ("StreamFenced", stored::StreamFenced { term: *term, at: at.0 }.encode_to_vec())
        }
    };
    Encoded { event_type, version: 1, data }
}

pub(crate) fn decode(recorded: &Recorded) -> Result<Option<Ruling>, DecodeError> {
    let (event_type, data) = (&*recorded.event.event_type, &recorded.event.data[..]);
    let mut own = OWN.iter().chain([&ELECTIONS]);
    let own = own.any(|own| recorded.stream.starts_with(own));
    let unreadable = |why: prost::DecodeError| DecodeError::new(recorded, why);
    Ok(match event_type {
        "LeaderElected" if own => host::leader::elected(recorded)?.map(|elected| {
            let stored::LeaderElected { address, lease_millis, at } = elected;
            let lease = Duration::from_millis(lease_millis);
            Ruling::LeaderElected { address, lease, at: Timestamp(at) }
        }),
        "StreamFenced" if own => {
            check_version(recorded)?;
            let stored::StreamFenced { term, at } =
                stored::StreamFenced::decode(data).map_err(unreadable)?;
            let stream = recorded.stream.to_string();
            Some(Ruling::StreamFenced { stream, term, at: Timestamp(at) })
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use schema::golden::Golden;

    use super::*;

    #[test]
    fn events_are_stored_as_they_always_were_and_read_back() {
        let at = Timestamp(300);
        let address = "https://a:1".to_owned();
        let events = vec![
            Ruling::LeaderElected { address, lease: Duration::from_secs(2), at },
            Ruling::StreamFenced { stream: "run-1".into(), term: 7, at },
        ];
        let stream = |ruling: &Ruling| match ruling {
            Ruling::LeaderElected { .. } => ELECTIONS.to_owned(),
            Ruling::StreamFenced { stream, .. } => stream.clone(),
        };
        let bytes = include_str!("leadership/golden.txt");
        Golden { bytes, events, stream, encode, decode }.check("gaia.leadership.events.v1");
    }
}
