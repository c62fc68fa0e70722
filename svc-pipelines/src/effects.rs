//! What this service does about the world: submits builds and what schedules start to the scheduler,
//! cancels what nobody wants any longer, notes how builds ended, and watches the clock.
//!
//! Each loop reads from the state what is outstanding, does it, and waits for the state to change.
//! Doing it twice is harmless: a build is submitted under the run id that its event carries.

use std::{collections::BTreeSet, convert::Infallible, time::Duration};

use eventlog::{Clock, Origin, Stopped};
use ids::RunId;
use proto::{
    common::v1::Caller,
    scheduler::v1::{
        CancelRunRequest, GetRunRequest, RunKind, RunSpec, SubmitRunRequest,
        scheduler_client::SchedulerClient,
    },
};
use tokio::time::{sleep, timeout};
use tonic::{Code, Status};
use transport::Channel;

use crate::{
    api::new_run_id,
    codec::{SCHEDULED, build_to_proto, policy_to_proto},
    config::Config,
    domain::{Command, Pipeline, State},
    service::Pipelines,
};

const NAME: &str = "svc-pipelines";
const BUILD: &str = "build";
/// Schedules of one pipeline that can come at once.
const MOST_TICKS: usize = 32;
const LONGEST_WAIT: Duration = Duration::from_secs(1);
const FIRST_PAUSE: Duration = Duration::from_millis(50);

pub(crate) struct Effects {
    owner: Pipelines,
    scheduler: SchedulerClient<Channel>,
    clock: Clock,
    /// For one call.
    timeout: Duration,
    longest_pause: Duration,
}

impl Effects {
    pub(crate) fn new(
        owner: Pipelines,
        scheduler: SchedulerClient<Channel>,
        clock: Clock,
        config: &Config,
    ) -> Self {
        Self {
            owner,
            scheduler,
            clock,
            timeout: config.scheduler_timeout(),
            longest_pause: config.longest_retry_pause(),
        }
    }

    /// Ends only when the task that owns the state did.
    pub(crate) async fn run(self) -> Stopped {
        let ended: Result<Infallible, Stopped> = tokio::select! {
            ended = self.keep_at_the_scheduler() => ended,
            ended = self.note_progress() => ended,
            ended = self.keep_schedules() => ended,
        };
        match ended {
            Err(stopped) => stopped,
        }
    }

    async fn keep_at_the_scheduler(&self) -> Result<Infallible, Stopped> {
        let mut changes = self.owner.changes();
        // What was done in this life, but did not come back as an event yet.
        let mut done = BTreeSet::new();
        let mut pause = FIRST_PAUSE;
        loop {
            changes.borrow_and_update();
            let errands = self.owner.read(errands).await?;
            let outstanding: BTreeSet<_> = errands.iter().map(Errand::key).collect();
            done.retain(|key| outstanding.contains(key));
            let mut outcome = Ok(());
            for errand in errands {
                let key = errand.key();
                if done.contains(&key) {
                    continue;
                }
                outcome = self.run_errand(errand).await?;
                if outcome.is_err() {
                    break;
                }
                done.insert(key);
            }
            match outcome {
                Ok(()) => {
                    pause = FIRST_PAUSE;
                    changes.changed().await.map_err(|_| Stopped)?;
                }
                Err(status) => {
                    tracing::warn!(
                        code = ?status.code(),
                        "the scheduler does not take runs, trying again in {pause:?}: {}",
                        status.message()
                    );
                    sleep(pause).await;
                    pause = (pause * 2).min(self.longest_pause);
                }
            }
        }
    }

    /// The inner error: it should be tried again.
    async fn run_errand(&self, errand: Errand) -> Result<Result<(), Status>, Stopped> {
        let mut scheduler = self.scheduler.clone();
        let called = match &errand {
            Errand::Submit(_, request) => {
                let call = scheduler.submit_run(request.as_ref().clone());
                timeout(self.timeout, call).await.map(|answer| answer.map(drop))
            }
            Errand::Cancel(run) => {
                let call = scheduler.cancel_run(cancellation(*run));
                timeout(self.timeout, call).await.map(|answer| answer.map(drop))
            }
        };
        let late = || Err(Status::deadline_exceeded(format!("no answer in {:?}", self.timeout)));
        match (called.unwrap_or_else(|_| late()), errand) {
            (Ok(()), _) => Ok(Ok(())),
            (Err(status), _) if !is_final(status.code()) => Ok(Err(status)),
            (Err(status), Errand::Submit(run, request)) => {
                let is_build = request.start_reason == BUILD;
                self.refuse(run, is_build, &status).await.map(Ok)
            }
            (Err(status), Errand::Cancel(run)) => {
                tracing::debug!("build {run} is not cancelled: {}", status.message());
                Ok(Ok(()))
            }
        }
    }

    async fn refuse(&self, run: RunId, is_build: bool, status: &Status) -> Result<(), Stopped> {
        let at = self.clock.now();
        let reason = format!("the scheduler refuses it: {}", status.message());
        self.ask(if is_build {
            Command::RefuseBuild { run, reason, at }
        } else {
            Command::RefuseStart { run, reason, at }
        })
        .await
    }

    /// How builds ended, and which starts the scheduler has.
    async fn note_progress(&self) -> Result<Infallible, Stopped> {
        let mut changes = self.owner.changes();
        loop {
            changes.borrow_and_update();
            let ended: Vec<_> = self.owner.read(|state| state.to_conclude().collect()).await?;
            for run in ended {
                self.ask(Command::ConcludeBuild { run, at: self.clock.now() }).await?;
            }
            if self.owner.read(State::is_start_to_confirm).await? {
                self.ask(Command::ConfirmStarts { at: self.clock.now() }).await?;
            }
            changes.changed().await.map_err(|_| Stopped)?;
        }
    }

    /// Records each start of a schedule when its time comes.
    async fn keep_schedules(&self) -> Result<Infallible, Stopped> {
        let mut changes = self.owner.changes();
        loop {
            changes.borrow_and_update();
            let now = self.clock.now();
            let next = self.owner.read(move |state| state.next_tick(now)).await?;
            match next {
                None => changes.changed().await.map_err(|_| Stopped)?,
                Some((due, pipeline)) if due <= now => {
                    let runs = (0..MOST_TICKS).map(|_| new_run_id()).collect();
                    self.ask(Command::Tick { pipeline, runs, at: now }).await?;
                }
                // Not for long, since the clock may be set meanwhile.
                Some((due, _)) => {
                    let pause = Duration::from_millis(due.0 - now.0).min(LONGEST_WAIT);
                    tokio::select! {
                        () = sleep(pause) => {}
                        news = changes.changed() => news.map_err(|_| Stopped)?,
                    }
                }
            }
        }
    }

    async fn ask(&self, command: Command) -> Result<(), Stopped> {
        if let Err(rejection) = self.owner.ask(command, Origin::service(NAME)).await? {
            tracing::error!("an effect of {NAME} was refused: {rejection}");
        }
        Ok(())
    }
}

/// What the scheduler is to be told.
enum Errand {
    Submit(RunId, Box<SubmitRunRequest>),
    Cancel(RunId),
}

impl Errand {
    fn key(&self) -> (RunId, bool) {
        match self {
            Self::Submit(run, _) => (*run, false),
            Self::Cancel(run) => (*run, true),
        }
    }
}

fn errands(state: &State) -> Vec<Errand> {
    let submit = |(run, pipeline)| Errand::Submit(run, Box::new(submission(run, pipeline)));
    let start = |(run, pipeline)| Some(Errand::Submit(run, Box::new(start(run, pipeline)?)));
    let builds = state.to_submit().map(submit);
    let starts = state.to_start().filter_map(start);
    builds.chain(starts).chain(state.to_cancel().map(Errand::Cancel)).collect()
}

/// Nothing that a later try could change.
const fn is_final(code: Code) -> bool {
    matches!(
        code,
        Code::InvalidArgument
            | Code::FailedPrecondition
            | Code::AlreadyExists
            | Code::NotFound
            | Code::OutOfRange
    )
}

fn caller() -> Caller {
    Caller { name: format!("service:{NAME}"), ..Caller::default() }
}

fn submission(run: RunId, pipeline: &Pipeline) -> SubmitRunRequest {
    let spec = pipeline.spec.clone();
    SubmitRunRequest {
        run_id: run.to_string(),
        spec: Some(RunSpec {
            kind: RunKind::Build.into(),
            pipeline_id: pipeline.id.0,
            pipeline_name: spec.name,
            pipeline_type: spec.kind.to_string(),
            tags: spec.tags,
            pinned_worker: spec.pinned_worker,
            selector: spec.selector,
            policy: Some(policy_to_proto(spec.policy)),
            source_url: spec.url,
            source_branch: spec.branch,
            ..RunSpec::default()
        }),
        start_reason: BUILD.into(),
        caller: Some(caller()),
    }
}

/// As the pipeline is now, with the arguments that it has by itself.
fn start(run: RunId, pipeline: &Pipeline) -> Option<SubmitRunRequest> {
    let (build, _) = pipeline.built.clone()?;
    let build = build_to_proto(build);
    let spec = pipeline.spec.clone();
    Some(SubmitRunRequest {
        run_id: run.to_string(),
        spec: Some(RunSpec {
            kind: RunKind::Pipeline.into(),
            pipeline_id: pipeline.id.0,
            pipeline_name: spec.name,
            pipeline_type: spec.kind.to_string(),
            tags: spec.tags,
            pinned_worker: spec.pinned_worker,
            selector: spec.selector,
            policy: Some(policy_to_proto(spec.policy)),
            artifact: build.digest,
            artifact_size: build.size,
            jobs: build.jobs,
            ..RunSpec::default()
        }),
        start_reason: SCHEDULED.into(),
        caller: Some(caller()),
    })
}

fn cancellation(run: RunId) -> CancelRunRequest {
    CancelRunRequest {
        run: Some(GetRunRequest { run_id: run.to_string(), ..GetRunRequest::default() }),
        note: "its pipeline was deleted".into(),
        caller: Some(caller()),
    }
}
