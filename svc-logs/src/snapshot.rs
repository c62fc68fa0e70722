//! The state as bytes, so that a start need not read every run that there ever was.
//!
//! They never leave the machine and are thrown away when the program changes, so they have no versions:
//! whoever changes the state changes them too.

use eventlog::snapshot::Form;
use ids::{Attempt, Digest, RunId};
use prost::Message;
use uuid::Uuid;

use crate::domain::{Lack, LogId, Seal, State};

pub(crate) const FORM: Form<State> = Form { name: "svc-logs", version: 1, encode, decode };

#[derive(Clone, PartialEq, Message)]
struct Stored {
    #[prost(message, repeated, tag = "1")]
    sealed: Vec<Log>,
    #[prost(message, repeated, tag = "2")]
    open: Vec<Run>,
}

#[derive(Clone, PartialEq, Message)]
struct Log {
    #[prost(bytes = "vec", tag = "1")]
    run: Vec<u8>,
    #[prost(uint32, tag = "2")]
    attempt: u32,
    #[prost(uint64, tag = "3")]
    size: u64,
    #[prost(bytes = "vec", tag = "4")]
    digest: Vec<u8>,
    #[prost(uint64, tag = "5")]
    gaps: u64,
    #[prost(uint64, tag = "6")]
    dropped: u64,
    #[prost(string, tag = "7")]
    incomplete: String,
    #[prost(uint64, tag = "8")]
    missing: u64,
}

#[derive(Clone, PartialEq, Message)]
struct Run {
    #[prost(bytes = "vec", tag = "1")]
    run: Vec<u8>,
    /// The newest attempt that is over.
    #[prost(uint32, tag = "2")]
    over: u32,
}

fn encode(state: &State) -> Vec<u8> {
    let sealed = state.all_sealed().map(|(log, seal, lack)| Log {
        run: log.run.as_uuid().as_bytes().to_vec(),
        attempt: log.attempt.0,
        size: seal.size,
        digest: seal.digest.as_bytes().to_vec(),
        gaps: lack.gaps,
        dropped: lack.dropped,
        incomplete: lack.incomplete.clone(),
        missing: lack.missing,
    });
    let open = state
        .all_open()
        .map(|(run, over)| Run { run: run.as_uuid().as_bytes().to_vec(), over: over.0 });
    Stored { sealed: sealed.collect(), open: open.collect() }.encode_to_vec()
}

fn decode(bytes: &[u8]) -> Option<State> {
    let stored = Stored::decode(bytes).ok()?;
    let mut state = State::default();
    for log in stored.sealed {
        let seal = Seal { size: log.size, digest: Digest::from_bytes(log.digest.try_into().ok()?) };
        let Log { gaps, dropped, incomplete, missing, .. } = log;
        let lack = Lack { gaps, dropped, incomplete, missing };
        state.insert_sealed(
            LogId { run: run(&log.run)?, attempt: Attempt(log.attempt) },
            seal,
            lack,
        );
    }
    for open in stored.open {
        state.insert_open(run(&open.run)?, Attempt(open.over));
    }
    Some(state)
}

fn run(bytes: &[u8]) -> Option<RunId> {
    Uuid::from_slice(bytes).ok().map(RunId::from_uuid)
}

#[cfg(test)]
mod tests {
    //! Whatever is folded comes back.

    use eventlog::Fold;
    use ids::Timestamp;
    use proptest::prelude::*;

    use super::*;
    use crate::domain::{Event, Fact};

    fn a_fact() -> impl Strategy<Value = Fact> {
        (0..4_u128, 1..4_u32, any::<u64>(), 0..5_u8).prop_map(|(run, attempt, number, kind)| {
            let run = RunId::from_uuid(Uuid::from_u128(run));
            let log = LogId { run, attempt: Attempt(attempt) };
            match kind {
                0 => Fact::RunSubmitted(run),
                1 => Fact::AttemptOver(log),
                2 => Fact::RunOver(run),
                _ => {
                    let digest = Digest::of(&number.to_le_bytes());
                    let lack = Lack {
                        gaps: number % 3,
                        dropped: number,
                        incomplete: format!("{}", number % 5),
                        missing: number / 2,
                    };
                    let seal = Seal { size: number, digest };
                    Event::LogSealed { log, seal, lack, at: Timestamp(number) }.into()
                }
            }
        })
    }

    proptest! {
        #[test]
        fn a_state_comes_back(facts in prop::collection::vec(a_fact(), 0..40)) {
            let state = State::replay(&facts);
            prop_assert_eq!(decode(&encode(&state)), Some(state));
        }
    }

    #[test]
    fn nonsense_is_no_state() {
        let whose = Run { run: vec![1; 15], over: 0 };
        let stored = Stored { sealed: vec![], open: vec![whose] }.encode_to_vec();
        assert_eq!(decode(&stored), None);
        assert_eq!(decode(&stored[..stored.len() - 1]), None);
    }
}
