//! The stored form of the events, and what is read of others' events.

use eventlog::{
    DecodeError, Recorded,
    owner::{Encoded, check_version},
};
use ids::{Digest, PipelineId, RunId, Timestamp};
use prost::Message;
use proto::{
    artifacts::events::v1 as stored,
    pipelines::events::v1::{PipelineBuilt, PipelineDeleted},
    scheduler::events::v1::{RunCancelled, RunFinished, RunSubmitted},
};

use crate::domain::{Event, Fact};

/// Streams that this service alone writes.
pub(crate) const OWNS: &[&str] = &["artifact-"];
/// The scheduler's and svc-pipelines'.
pub(crate) const FOLLOWS: &[&str] = &["run-", "pipeline-"];

pub(crate) fn stream(event: &Event) -> String {
    let (Event::ArtifactStored { digest, .. } | Event::ArtifactRemoved { digest, .. }) = event;
    format!("artifact-{digest}")
}

pub(crate) fn encode(event: &Event) -> Encoded {
    let bytes = |digest: &Digest| digest.as_bytes().to_vec().into();
    let (event_type, data) = match event {
        Event::ArtifactStored { digest, size, at } => {
            let event = stored::ArtifactStored { digest: bytes(digest), size: *size, at: at.0 };
            ("ArtifactStored", event.encode_to_vec())
        }
        Event::ArtifactRemoved { digest, at } => {
            let event = stored::ArtifactRemoved { digest: bytes(digest), at: at.0 };
            ("ArtifactRemoved", event.encode_to_vec())
        }
    };
    Encoded { event_type, version: 1, data }
}

/// What the state folds of an event of the log; `None`: nothing.
pub fn decode(recorded: &Recorded) -> Result<Option<Fact>, DecodeError> {
    let is_in = |prefix: &str| recorded.stream.starts_with(prefix);
    if is_in("artifact-") {
        check_version(recorded)?;
        own(recorded)
    } else if is_in("run-") {
        check_version(recorded)?;
        run(recorded)
    } else if is_in("pipeline-") {
        check_version(recorded)?;
        pipeline(recorded)
    } else {
        Ok(None)
    }
}

fn own(recorded: &Recorded) -> Result<Option<Fact>, DecodeError> {
    let event = match &*recorded.event.event_type {
        "ArtifactStored" => {
            let event: stored::ArtifactStored = read(recorded)?;
            let (digest, at) = (digest(recorded, &event.digest)?, Timestamp(event.at));
            Event::ArtifactStored { digest, size: event.size, at }
        }
        "ArtifactRemoved" => {
            let event: stored::ArtifactRemoved = read(recorded)?;
            let (digest, at) = (digest(recorded, &event.digest)?, Timestamp(event.at));
            Event::ArtifactRemoved { digest, at }
        }
        _ => return Ok(None),
    };
    Ok(Some(event.into()))
}

fn run(recorded: &Recorded) -> Result<Option<Fact>, DecodeError> {
    let over = |run: &str, at| -> Result<_, DecodeError> {
        Ok(Some(Fact::RunOver { run: run_id(recorded, run)?, at: Timestamp(at) }))
    };
    match &*recorded.event.event_type {
        "RunSubmitted" => {
            let event: RunSubmitted = read(recorded)?;
            let artifact = event.spec.unwrap_or_default().artifact;
            // A build is of nothing yet.
            if artifact.is_empty() {
                return Ok(None);
            }
            let (run, artifact) = (run_id(recorded, &event.run_id)?, digest(recorded, &artifact)?);
            Ok(Some(Fact::RunSubmitted { run, artifact }))
        }
        "RunFinished" => {
            let event: RunFinished = read(recorded)?;
            over(&event.run_id, event.at)
        }
        "RunCancelled" => {
            let event: RunCancelled = read(recorded)?;
            over(&event.run_id, event.at)
        }
        _ => Ok(None),
    }
}

fn pipeline(recorded: &Recorded) -> Result<Option<Fact>, DecodeError> {
    Ok(Some(match &*recorded.event.event_type {
        "PipelineBuilt" => {
            let event: PipelineBuilt = read(recorded)?;
            let artifact = digest(recorded, &event.build.unwrap_or_default().digest)?;
            let (pipeline, at) = (PipelineId(event.pipeline_id), Timestamp(event.at));
            Fact::PipelineBuilt { pipeline, artifact, at }
        }
        "PipelineDeleted" => {
            let event: PipelineDeleted = read(recorded)?;
            let (pipeline, at) = (PipelineId(event.pipeline_id), Timestamp(event.at));
            Fact::PipelineDeleted { pipeline, at }
        }
        _ => return Ok(None),
    }))
}

fn read<M: Message + Default>(recorded: &Recorded) -> Result<M, DecodeError> {
    M::decode(&recorded.event.data[..]).map_err(|error| DecodeError::new(recorded, error))
}

fn digest(recorded: &Recorded, bytes: &[u8]) -> Result<Digest, DecodeError> {
    Digest::try_from(bytes).map_err(|error| DecodeError::new(recorded, error))
}

fn run_id(recorded: &Recorded, text: &str) -> Result<RunId, DecodeError> {
    text.parse().map_err(|error: ids::ParseIdError| DecodeError::new(recorded, error))
}

#[cfg(test)]
mod tests;
