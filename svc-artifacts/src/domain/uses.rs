//! Which runs and pipelines need which blob.

use std::collections::HashMap;

use ids::{Digest, PipelineId, RunId, Timestamp};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Uses {
    /// Runs that have not ended.
    runs: HashMap<RunId, Digest>,
    /// The present build of each pipeline.
    builds: HashMap<PipelineId, Digest>,
    of: HashMap<Digest, Use>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Use {
    count: u32,
    /// When the last one ended.
    ended: Timestamp,
}

impl Uses {
    pub(super) fn is_needed(&self, digest: Digest) -> bool {
        self.of.get(&digest).is_some_and(|used| used.count > 0)
    }

    /// When it was needed last; the beginning of time if it never was.
    pub(super) fn ended(&self, digest: Digest) -> Timestamp {
        self.of.get(&digest).map(|used| used.ended).unwrap_or_default()
    }

    pub(super) fn run(&mut self, run: RunId, artifact: Digest) {
        self.begin(artifact);
        if let Some(before) = self.runs.insert(run, artifact) {
            self.end(before, Timestamp::default());
        }
    }

    pub(super) fn run_over(&mut self, run: RunId, at: Timestamp) {
        if let Some(artifact) = self.runs.remove(&run) {
            self.end(artifact, at);
        }
    }

    pub(super) fn built(&mut self, pipeline: PipelineId, artifact: Digest, at: Timestamp) {
        self.begin(artifact);
        if let Some(before) = self.builds.insert(pipeline, artifact) {
            self.end(before, at);
        }
    }

    pub(super) fn deleted(&mut self, pipeline: PipelineId, at: Timestamp) {
        if let Some(artifact) = self.builds.remove(&pipeline) {
            self.end(artifact, at);
        }
    }

    fn begin(&mut self, artifact: Digest) {
        self.of.entry(artifact).or_default().count += 1;
    }

    fn end(&mut self, artifact: Digest, at: Timestamp) {
        if let Some(used) = self.of.get_mut(&artifact) {
            used.count -= 1;
            used.ended = used.ended.max(at);
        }
    }
}
