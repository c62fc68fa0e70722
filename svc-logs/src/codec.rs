//! The stored form of the events, and what is read of the scheduler's.

use eventlog::{
    DecodeError, Recorded,
    owner::{Encoded, check_version},
};
use ids::{Attempt, Digest, RunId, Timestamp};
use prost::Message;
use proto::{
    logs::events::v1 as stored,
    scheduler::events::v1::{RunCancelled, RunFinished, RunRequeued, RunSubmitted},
};

use crate::domain::{Event, Fact, Lack, LogId, Seal};

/// Streams that this service alone writes.
pub(crate) const OWNS: &[&str] = &["runlog-"];
/// The scheduler's.
pub(crate) const FOLLOWS: &[&str] = &["run-"];

pub(crate) fn stream(event: &Event) -> String {
    let Event::LogSealed { log, .. } = event;
    format!("runlog-{}", log.run)
}

/// The scheduler's stream of a run.
pub(crate) fn run_stream(run: RunId) -> String {
    format!("run-{run}")
}

pub(crate) fn encode(event: &Event) -> Encoded {
    let Event::LogSealed { log, seal, lack, at } = event;
    let sealed = stored::LogSealed {
        run_id: log.run.to_string(),
        attempt: log.attempt.0,
        size: seal.size,
        sha256: seal.digest.as_bytes().to_vec().into(),
        at: at.0,
        gaps: lack.gaps,
        dropped: lack.dropped,
        incomplete: lack.incomplete.clone(),
        missing: lack.missing,
    };
    Encoded { event_type: "LogSealed", version: 2, data: sealed.encode_to_vec() }
}

/// What the state folds of an event of the log; `None`: nothing.
pub fn decode(recorded: &Recorded) -> Result<Option<Fact>, DecodeError> {
    let is_in =
        |prefixes: &[&str]| prefixes.iter().any(|prefix| recorded.stream.starts_with(prefix));
    if !is_in(OWNS) && !is_in(FOLLOWS) {
        return Ok(None);
    }
    check_version(recorded)?;
    let event_type = &*recorded.event.event_type;
    let fact = match event_type {
        "LogSealed" if is_in(OWNS) => Fact::Log(sealed(recorded)?),
        "RunSubmitted" if is_in(FOLLOWS) => {
            let submitted: RunSubmitted = read(recorded)?;
            Fact::RunSubmitted(run_id(recorded, &submitted.run_id)?)
        }
        "RunRequeued" if is_in(FOLLOWS) => {
            let requeued: RunRequeued = read(recorded)?;
            let run = run_id(recorded, &requeued.run_id)?;
            Fact::AttemptOver(LogId { run, attempt: Attempt(requeued.attempt) })
        }
        "RunFinished" if is_in(FOLLOWS) => {
            let finished: RunFinished = read(recorded)?;
            Fact::RunOver(run_id(recorded, &finished.run_id)?)
        }
        "RunCancelled" if is_in(FOLLOWS) => {
            let cancelled: RunCancelled = read(recorded)?;
            Fact::RunOver(run_id(recorded, &cancelled.run_id)?)
        }
        _ => return Ok(None),
    };
    Ok(Some(fact))
}

fn sealed(recorded: &Recorded) -> Result<Event, DecodeError> {
    let sealed: stored::LogSealed = read(recorded)?;
    let digest = Digest::try_from(&sealed.sha256[..]);
    Ok(Event::LogSealed {
        log: LogId { run: run_id(recorded, &sealed.run_id)?, attempt: Attempt(sealed.attempt) },
        seal: Seal {
            size: sealed.size,
            digest: digest.map_err(|error| DecodeError::new(recorded, error))?,
        },
        // Version 1 says nothing of it.
        lack: Lack {
            gaps: sealed.gaps,
            dropped: sealed.dropped,
            incomplete: sealed.incomplete,
            missing: sealed.missing,
        },
        at: Timestamp(sealed.at),
    })
}

fn read<M: Message + Default>(recorded: &Recorded) -> Result<M, DecodeError> {
    M::decode(&recorded.event.data[..]).map_err(|error| DecodeError::new(recorded, error))
}

fn run_id(recorded: &Recorded, text: &str) -> Result<RunId, DecodeError> {
    text.parse().map_err(|error: ids::ParseIdError| DecodeError::new(recorded, error))
}

#[cfg(test)]
mod tests;
