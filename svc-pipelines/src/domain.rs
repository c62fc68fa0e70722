//! What a pipeline is, when it is built, and what its builds produced.
//!
//! ```text
//!             create               good outcome
//!  (unknown) ────────▶ Building ─────────────────▶ Built
//!                       ▲    │                      │
//!                       │    │ bad outcome          │ build
//!                 build │    ▼                      │
//!                       │  Failed                   │
//!                       └────┴──────────────────────┘
//!
//!  delete: from any of them to Deleted, which is final and frees the name
//! ```
//!
//! A build is a run of the scheduler. Its outcome is not reported to this service but read from the
//! run's own events, so that nothing is lost when this service is away while the build ends.
//!
//! Invariants:
//! - Ids count from 1 without gaps. A name belongs to one pipeline at a time, whatever the case.
//! - At most one build of a pipeline is awaited, and exactly while the pipeline is building.
//! - A failed build changes neither the version nor what can be run.
//! - This module does no IO, reads no clock, and draws no random numbers. Time and fresh ids arrive
//!   inside the command. No secret is in it in clear.

mod cron;
mod event;
mod graph;
mod outstanding;
mod policy;
pub mod schedule;
mod spec;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use eventlog::Fold;
use ids::{Digest, PipelineId, RunId, Timestamp};

pub use cron::Cron;
pub use event::{Event, Fact, Outcome, Sealed};
pub use graph::{ArgumentSpec, Build, JobName, JobSpec, Unrunnable};
pub use policy::{OnWorkerLost, Policy};
use schedule::Appointment;
pub use schedule::{MissedTicks, Plan, Schedules, SchedulesWish};
pub use spec::{Change, InvalidField, PipelineType, Spec, Wish};

/// In characters; what is kept of the reason why a build failed.
const LONGEST_REASON: usize = 4_000;

/// A wish. It can be refused.
#[derive(Clone, Debug)]
pub enum Command {
    /// `id` must be the next one: the credentials are sealed for it.
    CreatePipeline {
        id: PipelineId,
        wish: Wish,
        schedules: SchedulesWish,
        sealed: Sealed,
        /// The run that will build it, likewise below.
        run: RunId,
        by: String,
        at: Timestamp,
    },
    ChangePipeline {
        pipeline: PipelineId,
        change: Change,
        by: String,
        at: Timestamp,
    },
    RequestBuild {
        pipeline: PipelineId,
        run: RunId,
        at: Timestamp,
    },
    DeletePipeline {
        pipeline: PipelineId,
        by: String,
        at: Timestamp,
    },
    /// Draws the conclusion from how the run ended, if it did.
    ConcludeBuild {
        run: RunId,
        at: Timestamp,
    },
    /// The whole of them.
    SetSchedules {
        pipeline: PipelineId,
        schedules: SchedulesWish,
        by: String,
        at: Timestamp,
    },
    /// `None`: nobody may start it from outside any more.
    SetTriggerToken {
        pipeline: PipelineId,
        hash: Option<Digest>,
        by: String,
        at: Timestamp,
    },
    /// Starts what the schedules of the pipeline ask for, each under one of these ids.
    Tick {
        pipeline: PipelineId,
        runs: Vec<RunId>,
        at: Timestamp,
    },
    /// Notes which starts the scheduler has.
    ConfirmStarts {
        at: Timestamp,
    },
    /// The scheduler will never take this start.
    RefuseStart {
        run: RunId,
        reason: String,
        at: Timestamp,
    },
    /// The scheduler will never take this run.
    RefuseBuild {
        run: RunId,
        reason: String,
        at: Timestamp,
    },
}

/// Why a command was refused. Each variant is the caller's to handle.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    #[error(transparent)]
    Invalid(#[from] InvalidField),
    #[error(
        "the name `{name}` is taken by pipeline {by}: choose another one, or delete that pipeline"
    )]
    NameTaken { name: String, by: PipelineId },
    /// Another pipeline was created in between.
    #[error("the next pipeline is {next}, not {asked}")]
    NotNext { asked: PipelineId, next: PipelineId },
    #[error("there is no pipeline {0}: list the pipelines to see which there are")]
    UnknownPipeline(PipelineId),
}

impl Rejection {
    /// One word for each reason, to count by.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Invalid(_) => "invalid_field",
            Self::NameTaken { .. } => "name_taken",
            Self::NotNext { .. } => "not_next",
            Self::UnknownPipeline(_) => "unknown_pipeline",
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// The deleted ones too, so that ids are not used again and a retried delete has its answer.
    pipelines: BTreeMap<PipelineId, Pipeline>,
    /// By name in lower case; without the deleted ones.
    names: HashMap<String, PipelineId>,
    /// The builds that something must still happen to. No ended one is kept.
    builds: BTreeMap<RunId, AwaitedBuild>,
    /// Runs that the scheduler has and nobody wants, since their pipeline was deleted.
    unwanted: BTreeSet<RunId>,
    /// When a schedule wants something next; a function of the pipelines, like the next two.
    due: BTreeSet<(Timestamp, PipelineId)>,
    /// Until when at most the schedules of each are dealt with.
    horizons: BTreeSet<(Timestamp, PipelineId)>,
    /// With starts that the scheduler may not know yet.
    starting: BTreeSet<PipelineId>,
    /// Starts that the scheduler has, while this service's own streams do not say so.
    taken: BTreeMap<RunId, PipelineId>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct AwaitedBuild {
    pipeline: PipelineId,
    stage: Stage,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Stage {
    /// The scheduler may not know it yet.
    Requested,
    Submitted,
    /// The conclusion is still to be drawn.
    Ended(Outcome),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pipeline {
    pub id: PipelineId,
    pub spec: Spec,
    pub sealed: Sealed,
    pub created_by: String,
    pub created_at: Timestamp,
    /// Of the newest build.
    pub build_run: Option<RunId>,
    pub build_state: BuildState,
    /// Count of builds that succeeded.
    pub version: u32,
    /// The newest build that succeeded, and when.
    pub built: Option<(Build, Timestamp)>,
    pub deleted: bool,
    pub plan: Plan,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BuildState {
    Building,
    Built,
    /// With the reason.
    Failed(String),
}

/// The facts that follow from `command`, given everything known so far.
///
/// An empty answer means the wish was already true, so retries are harmless.
pub fn decide(state: &State, command: Command) -> Result<Vec<Event>, Rejection> {
    match command {
        Command::CreatePipeline { id, wish, schedules, sealed, run, by, at } => {
            let spec = wish.check()?;
            let schedules = schedules.checked(at)?;
            state.check_name(&spec.name)?;
            let next = state.next_id();
            if id != next {
                return Err(Rejection::NotNext { asked: id, next });
            }
            let set = (!schedules.crons.is_empty()).then(|| {
                let by = by.clone();
                schedule::Event::SchedulesSet { pipeline: id, schedules, by, at }.into()
            });
            let created = Event::PipelineCreated { pipeline: id, spec, sealed, by, at };
            let requested = Event::BuildRequested { pipeline: id, run, at };
            Ok([created, requested].into_iter().chain(set).collect())
        }
        Command::ChangePipeline { pipeline, change, by, at } => {
            state.change(pipeline, change, by, at)
        }
        Command::RequestBuild { pipeline, run, at } => {
            let is_building = state.known(pipeline)?.build_state == BuildState::Building;
            Ok(if is_building { vec![] } else { vec![Event::BuildRequested { pipeline, run, at }] })
        }
        Command::DeletePipeline { pipeline, by, at } => match state.pipelines.get(&pipeline) {
            None => Err(Rejection::UnknownPipeline(pipeline)),
            Some(known) if known.deleted => Ok(vec![]),
            Some(_) => Ok(vec![Event::PipelineDeleted { pipeline, by, at }]),
        },
        Command::ConcludeBuild { run, at } => Ok(state.conclude(run, at)),
        Command::RefuseBuild { run, reason, at } => Ok(state.refuse(run, reason, at)),
        Command::SetSchedules { pipeline, schedules, by, at } => {
            state.set_schedules(pipeline, schedules, by, at)
        }
        Command::SetTriggerToken { pipeline, hash, by, at } => {
            state.set_trigger(pipeline, hash, by, at)
        }
        Command::Tick { pipeline, runs, at } => Ok(state.tick(pipeline, &runs, at)),
        Command::ConfirmStarts { at } => Ok(state.confirm_starts(at)),
        Command::RefuseStart { run, reason, at } => {
            Ok(state.refuse_start(run, shortened(reason), at))
        }
    }
}

impl State {
    fn check_name(&self, name: &str) -> Result<(), Rejection> {
        match self.names.get(&name.to_lowercase()) {
            Some(&by) => Err(Rejection::NameTaken { name: name.into(), by }),
            None => Ok(()),
        }
    }

    fn change(
        &self,
        pipeline: PipelineId,
        change: Change,
        by: String,
        at: Timestamp,
    ) -> Result<Vec<Event>, Rejection> {
        let known = &self.known(pipeline)?.spec;
        let spec = change.check(known.clone())?;
        if spec == *known {
            return Ok(vec![]);
        }
        if !spec.name.eq_ignore_ascii_case(&known.name) {
            self.check_name(&spec.name)?;
        }
        let Spec { name, tags, pinned_worker, selector, policy, .. } = spec;
        Ok(vec![Event::PipelineChanged {
            pipeline,
            name,
            tags,
            pinned_worker,
            selector,
            policy,
            by,
            at,
        }])
    }

    fn known(&self, pipeline: PipelineId) -> Result<&Pipeline, Rejection> {
        self.pipeline(pipeline).ok_or(Rejection::UnknownPipeline(pipeline))
    }

    fn conclude(&self, run: RunId, at: Timestamp) -> Vec<Event> {
        let Some(AwaitedBuild { pipeline, stage: Stage::Ended(outcome) }) = self.builds.get(&run)
        else {
            return vec![];
        };
        let pipeline = *pipeline;
        let reason = match outcome {
            Outcome::Failed(reason) => reason.clone(),
            Outcome::Built(build) => {
                let Err(unrunnable) = build.check() else {
                    let version = self.pipelines[&pipeline].version + 1;
                    let build = build.clone();
                    return vec![Event::PipelineBuilt { pipeline, run, version, build, at }];
                };
                unrunnable.to_string()
            }
        };
        vec![Event::BuildFailed { pipeline, run, reason: shortened(reason), at }]
    }

    fn refuse(&self, run: RunId, reason: String, at: Timestamp) -> Vec<Event> {
        match self.builds.get(&run) {
            Some(&AwaitedBuild { pipeline, stage: Stage::Requested }) => {
                vec![Event::BuildFailed { pipeline, run, reason: shortened(reason), at }]
            }
            _ => vec![],
        }
    }
}

fn shortened(reason: String) -> String {
    match reason.char_indices().nth(LONGEST_REASON) {
        Some((end, _)) => format!("{}…", &reason[..end]),
        None => reason,
    }
}

impl Fold for State {
    type Event = Fact;

    fn evolve(&mut self, fact: &Fact) {
        match fact {
            Fact::Pipeline(event) => self.evolve_own(event),
            Fact::BuildSubmitted { run, pipeline } => self.note_submitted(*run, *pipeline),
            Fact::StartSubmitted { run, pipeline } => self.note_started(*run, *pipeline),
            Fact::RunEnded { run, outcome } => {
                self.unwanted.remove(run);
                if let Some(build) = self.builds.get_mut(run) {
                    build.stage = Stage::Ended(outcome.clone());
                }
            }
        }
    }
}

impl State {
    fn evolve_own(&mut self, event: &Event) {
        match event {
            Event::PipelineCreated { pipeline, spec, sealed, by, at } => {
                self.names.insert(spec.name.to_lowercase(), *pipeline);
                let created = Pipeline {
                    id: *pipeline,
                    spec: spec.clone(),
                    sealed: sealed.clone(),
                    created_by: by.clone(),
                    created_at: *at,
                    build_run: None,
                    build_state: BuildState::Building,
                    version: 0,
                    built: None,
                    deleted: false,
                    plan: Plan::default(),
                };
                self.pipelines.insert(*pipeline, created);
            }
            Event::PipelineChanged {
                pipeline,
                name,
                tags,
                pinned_worker,
                selector,
                policy,
                ..
            } => {
                let Some(known) = self.pipelines.get_mut(pipeline) else { return };
                self.names.remove(&known.spec.name.to_lowercase());
                self.names.insert(name.to_lowercase(), *pipeline);
                known.spec = Spec {
                    name: name.clone(),
                    tags: tags.clone(),
                    pinned_worker: pinned_worker.clone(),
                    selector: selector.clone(),
                    policy: policy.clone(),
                    ..known.spec.clone()
                };
            }
            Event::BuildRequested { pipeline, run, .. } => {
                let awaited = AwaitedBuild { pipeline: *pipeline, stage: Stage::Requested };
                self.builds.insert(*run, awaited);
                if let Some(known) = self.pipelines.get_mut(pipeline) {
                    known.build_run = Some(*run);
                    known.build_state = BuildState::Building;
                }
            }
            Event::PipelineBuilt { pipeline, run, version, build, at } => {
                self.builds.remove(run);
                if let Some(known) = self.pipelines.get_mut(pipeline) {
                    known.build_state = BuildState::Built;
                    known.version = *version;
                    known.built = Some((build.clone(), *at));
                }
            }
            Event::BuildFailed { pipeline, run, reason, .. } => {
                self.builds.remove(run);
                if let Some(known) = self.pipelines.get_mut(pipeline) {
                    known.build_state = BuildState::Failed(reason.clone());
                }
            }
            Event::PipelineDeleted { pipeline, .. } => self.forget(*pipeline),
            Event::Plan(event) => self.evolve_plan(event),
        }
    }

    fn forget(&mut self, pipeline: PipelineId) {
        let Some(known) = self.pipelines.get_mut(&pipeline) else { return };
        let appointment = known.appointment();
        known.deleted = true;
        known.sealed = Sealed::default();
        known.plan = Plan::default();
        self.names.remove(&known.spec.name.to_lowercase());
        let run = known.build_run;
        self.starting.remove(&pipeline);
        self.taken.retain(|_, of| *of != pipeline);
        self.move_due(pipeline, appointment, Appointment::default());
        let Some(run) = run else { return };
        if self.builds.remove(&run).is_some_and(|build| build.stage == Stage::Submitted) {
            self.unwanted.insert(run);
        }
    }

    /// A submission may still be on its way while its pipeline is deleted.
    fn note_submitted(&mut self, run: RunId, pipeline: PipelineId) {
        if let Some(build) = self.builds.get_mut(&run) {
            if build.stage == Stage::Requested {
                build.stage = Stage::Submitted;
            }
        } else if self.pipelines.get(&pipeline).is_some_and(|pipeline| pipeline.deleted) {
            self.unwanted.insert(run);
        }
    }
}

/// What there is to see.
impl State {
    /// The id that the next pipeline will get.
    #[must_use]
    pub fn next_id(&self) -> PipelineId {
        PipelineId(self.pipelines.last_key_value().map_or(0, |(id, _)| id.0) + 1)
    }

    /// Without the deleted ones, by id.
    pub fn pipelines(&self) -> impl Iterator<Item = &Pipeline> {
        self.pipelines.values().filter(|pipeline| !pipeline.deleted)
    }

    /// Not if it was deleted.
    #[must_use]
    pub fn pipeline(&self, id: PipelineId) -> Option<&Pipeline> {
        self.pipelines.get(&id).filter(|pipeline| !pipeline.deleted)
    }

    /// Also if it was deleted.
    #[must_use]
    pub fn even_deleted(&self, id: PipelineId) -> Option<&Pipeline> {
        self.pipelines.get(&id)
    }

    /// Whatever the case.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<&Pipeline> {
        self.names.get(&name.trim().to_lowercase()).and_then(|id| self.pipelines.get(id))
    }
}

#[cfg(test)]
mod tests;
