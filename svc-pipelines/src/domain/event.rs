//! What happened to pipelines, and what is read of the runs of the scheduler.

use std::fmt;

use ids::{PipelineId, RunId, Timestamp};

use super::{Build, Policy, Spec, schedule};

/// A fact that this service decided. It happened, is never refused, and is stored for ever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    PipelineCreated {
        pipeline: PipelineId,
        spec: Spec,
        sealed: Sealed,
        by: String,
        at: Timestamp,
    },
    /// Of the spec only what people can change is new.
    PipelineChanged {
        pipeline: PipelineId,
        name: String,
        tags: Vec<String>,
        pinned_worker: String,
        selector: String,
        policy: Policy,
        by: String,
        at: Timestamp,
    },
    BuildRequested {
        pipeline: PipelineId,
        run: RunId,
        at: Timestamp,
    },
    PipelineBuilt {
        pipeline: PipelineId,
        run: RunId,
        /// From 1.
        version: u32,
        build: Build,
        at: Timestamp,
    },
    BuildFailed {
        pipeline: PipelineId,
        run: RunId,
        reason: String,
        at: Timestamp,
    },
    PipelineDeleted {
        pipeline: PipelineId,
        by: String,
        at: Timestamp,
    },
    Plan(schedule::Event),
}

impl Event {
    #[must_use]
    pub const fn pipeline(&self) -> PipelineId {
        match self {
            Self::PipelineCreated { pipeline, .. }
            | Self::PipelineChanged { pipeline, .. }
            | Self::BuildRequested { pipeline, .. }
            | Self::PipelineBuilt { pipeline, .. }
            | Self::BuildFailed { pipeline, .. }
            | Self::PipelineDeleted { pipeline, .. } => *pipeline,
            Self::Plan(event) => event.pipeline(),
        }
    }
}

/// Everything that the state folds: what this service decided, and what became of the runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact {
    Pipeline(Event),
    /// The scheduler has the run that builds this pipeline.
    BuildSubmitted {
        run: RunId,
        pipeline: PipelineId,
    },
    /// The scheduler has a run that a schedule started.
    StartSubmitted {
        run: RunId,
        pipeline: PipelineId,
    },
    RunEnded {
        run: RunId,
        outcome: Outcome,
    },
}

impl From<Event> for Fact {
    fn from(event: Event) -> Self {
        Self::Pipeline(event)
    }
}

/// How a run ended, if it was a build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Built(Build),
    /// With the reason.
    Failed(String),
}

/// Credentials, encrypted; empty: none.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Sealed(pub Vec<u8>);

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealed({} bytes)", self.0.len())
    }
}
