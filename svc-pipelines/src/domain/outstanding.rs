//! What must be done about the world. Derived from the state rather than queued beside it, so that a
//! restart resumes where a crash stopped; costs what is outstanding, not what exists.

use ids::RunId;

use super::{Pipeline, Stage, State};

impl State {
    /// Builds that the scheduler may not know yet.
    pub fn to_submit(&self) -> impl Iterator<Item = (RunId, &Pipeline)> {
        let requested = self.builds.iter().filter(|(_, build)| build.stage == Stage::Requested);
        requested.filter_map(|(&run, build)| Some((run, self.pipelines.get(&build.pipeline)?)))
    }

    /// Builds that ended, for [`Command::ConcludeBuild`].
    pub fn to_conclude(&self) -> impl Iterator<Item = RunId> {
        let ended = self.builds.iter().filter(|(_, build)| matches!(build.stage, Stage::Ended(_)));
        ended.map(|(&run, _)| run)
    }

    /// Runs that only waste a worker's time.
    pub fn to_cancel(&self) -> impl Iterator<Item = RunId> {
        self.unwanted.iter().copied()
    }

    /// Starts that the scheduler may not know yet.
    pub fn to_start(&self) -> impl Iterator<Item = (RunId, &Pipeline)> {
        let starting = self.starting.iter().filter_map(|id| self.pipelines.get(id));
        starting.flat_map(|pipeline| pipeline.plan.starts.keys().map(move |&run| (run, pipeline)))
    }

    /// Whether starts are to be noted as submitted, by [`super::Command::ConfirmStarts`].
    #[must_use]
    pub fn is_start_to_confirm(&self) -> bool {
        !self.taken.is_empty()
    }
}
