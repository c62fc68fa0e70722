//! The table at the end, and what must hold of it.

use anyhow::{Result, ensure};

use super::replay::Replayed;
use crate::{
    api::Run,
    output::{between, table},
};

/// How a run must end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expected {
    /// What it shows.
    pub(super) what: &'static str,
    pub(super) status: &'static str,
    /// The only worker that may have done it.
    pub(super) worker: Option<&'static str>,
    /// Its first attempt is lost with its agent.
    pub(super) retried: bool,
}

impl Expected {
    pub(super) const fn success(what: &'static str) -> Self {
        Self { what, status: "success", worker: None, retried: false }
    }

    pub(super) const fn on(what: &'static str, worker: &'static str) -> Self {
        Self { worker: Some(worker), ..Self::success(what) }
    }

    pub(super) const fn failed(what: &'static str) -> Self {
        Self { status: "failed", ..Self::success(what) }
    }

    pub(super) const fn cancelled(what: &'static str) -> Self {
        Self { status: "cancelled", ..Self::success(what) }
    }

    pub(super) const fn retried(what: &'static str) -> Self {
        Self { retried: true, ..Self::success(what) }
    }

    fn check(&self, run: &Run) -> Result<()> {
        let name = format!("{}/{} ({})", run.pipelinename, run.id, self.what);
        ensure!(
            run.status == self.status,
            "{name} should have ended with {}, but it {}: {}",
            self.status,
            run.status,
            run.reason
        );
        if let Some(worker) = self.worker {
            ensure!(run.worker() == worker, "{name} belongs on {worker}, not on {}", run.worker());
        }
        if self.retried {
            let workers: Vec<_> = run.attempts.iter().map(|attempt| &attempt.workerid).collect();
            ensure!(
                workers.len() > 1 && workers.first() != workers.last(),
                "{name} should have been tried again on the other agent: {workers:?}"
            );
        }
        Ok(())
    }
}

/// What the demonstration has to show.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) runs: Vec<(Run, Expected)>,
    pub(super) replayed: Replayed,
}

impl Told {
    pub(super) fn table(&self) -> String {
        table(
            ["RUN", "PIPELINE", "SHOWS", "WORKER", "ATTEMPTS", "STATE", "PICK-UP", "DURATION"],
            self.runs.iter().map(|(run, expected)| {
                [
                    run.id.to_string(),
                    run.pipelinename.clone(),
                    expected.what.to_owned(),
                    run.worker(),
                    run.attempts.len().to_string(),
                    run.state(),
                    run.pick_up().map_or("–".into(), |ms| format!("{ms} ms")),
                    between(run.started_at, run.finished_at),
                ]
            }),
        )
    }

    pub(super) fn check(&self) -> Result<()> {
        self.runs.iter().try_for_each(|(run, expected)| expected.check(run))
    }
}
