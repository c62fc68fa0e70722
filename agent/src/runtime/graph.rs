//! The job graph: is it one, and running it.
//!
//! ```text
//! waiting ─ all it depends on succeeded ─► running ─► succeeded │ failed │ stopped early │ cancelled
//!    └──────── the run ended before ─────► skipped
//! ```
//!
//! After the first failure or early stop, running jobs finish and nothing new starts.

use std::collections::{HashMap, HashSet};

use futures::{StreamExt as _, stream::FuturesUnordered};
use proto::common::v1::JobSpec;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Exit, JobOutcome, Plugin, PluginError};

/// A list that is larger is refused, so that it fits into one event of the log.
const MAX_JOBS: usize = 1000;
const MAX_BYTES: usize = 128 * 1024;

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum GraphError {
    #[error("the pipeline has no jobs; declare at least one")]
    Empty,
    #[error("the pipeline declares {0} jobs; at most {MAX_JOBS} are possible")]
    TooMany(usize),
    #[error(
        "the pipeline's job list takes {0} bytes; at most {MAX_BYTES} are possible, so shorten its descriptions"
    )]
    TooLarge(usize),
    #[error("the jobs `{0}` and `{1}` have the same id {2}; rename one of them")]
    SameId(String, String, u32),
    #[error("job `{job}` depends on job id {dependency}, which the pipeline does not declare")]
    UnknownDependency { job: String, dependency: u32 },
    #[error("these jobs wait for each other, so none could ever start: {}", .0.join(" → "))]
    Cycle(Vec<String>),
}

/// What happened to a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobUpdate {
    pub job: u32,
    pub transition: JobTransition,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobTransition {
    Started,
    Succeeded,
    Failed {
        message: String,
    },
    /// The job asked to end the run without failing it.
    StoppedEarly {
        message: String,
    },
    /// It ran when the run was cancelled.
    Cancelled,
    /// Never begun, since the run ended before.
    Skipped,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GraphOutcome {
    Succeeded,
    /// A success: a job asked to end the run here.
    StoppedEarly {
        job: u32,
        message: String,
    },
    Failed {
        job: u32,
        message: String,
    },
    /// The pipeline process ended while `job` ran, perhaps beside others, which `message` names.
    Crashed {
        job: u32,
        exit: Exit,
        message: String,
    },
    Cancelled,
}

/// Are these jobs a graph that can run?
pub fn check(jobs: &[JobSpec]) -> Result<(), GraphError> {
    check_size(jobs)?;
    let mut titles: HashMap<u32, &str> = HashMap::new();
    for job in jobs {
        if let Some(first) = titles.insert(job.id, &job.title) {
            return Err(GraphError::SameId(first.to_owned(), job.title.clone(), job.id));
        }
    }
    for job in jobs {
        if let Some(id) = job.depends_on.iter().find(|id| !titles.contains_key(id)) {
            let job = job.title.clone();
            return Err(GraphError::UnknownDependency { job, dependency: *id });
        }
    }
    check_cycles(jobs)
}

fn check_size(jobs: &[JobSpec]) -> Result<(), GraphError> {
    if jobs.is_empty() {
        return Err(GraphError::Empty);
    }
    if too_many(jobs.len()) {
        return Err(GraphError::TooMany(jobs.len()));
    }
    let bytes = jobs.iter().map(prost::Message::encoded_len).sum();
    if bytes > MAX_BYTES { Err(GraphError::TooLarge(bytes)) } else { Ok(()) }
}

pub(super) fn too_many(jobs: usize) -> bool {
    jobs > MAX_JOBS
}

/// Takes away what could run, again and again; who is left waits for itself.
fn check_cycles(jobs: &[JobSpec]) -> Result<(), GraphError> {
    let mut left: HashMap<u32, &JobSpec> = jobs.iter().map(|job| (job.id, job)).collect();
    loop {
        let ready: Vec<u32> = left
            .values()
            .filter(|job| job.depends_on.iter().all(|id| !left.contains_key(id)))
            .map(|job| job.id)
            .collect();
        if left.is_empty() {
            return Ok(());
        }
        if ready.is_empty() {
            return Err(GraphError::Cycle(name_cycle(jobs, &left)));
        }
        for id in ready {
            left.remove(&id);
        }
    }
}

/// Follows the dependencies of a stuck job until one comes again. Every job of `left` has one in it.
fn name_cycle(jobs: &[JobSpec], left: &HashMap<u32, &JobSpec>) -> Vec<String> {
    let mut path: Vec<&JobSpec> = Vec::new();
    let mut next = jobs.iter().find_map(|job| left.get(&job.id));
    while let Some(job) = next {
        if let Some(start) = path.iter().position(|seen| seen.id == job.id) {
            path.drain(..start);
            path.push(job);
            break;
        }
        path.push(job);
        next = job.depends_on.iter().find_map(|id| left.get(id));
    }
    path.iter().map(|job| job.title.clone()).collect()
}

/// Runs all jobs, as many at once as are ready, and reports each transition. `jobs` must have
/// passed [`check`] and come from this `plugin`; `arguments` holds the values of the run by key.
///
/// After a cancel the pipeline still works on its running jobs; [`Plugin::stop`] ends them.
#[expect(clippy::implicit_hasher, reason = "callers have one kind of map")]
pub async fn run_graph(
    plugin: &Plugin,
    jobs: &[JobSpec],
    arguments: &HashMap<String, String>,
    updates: mpsc::Sender<JobUpdate>,
    cancel: CancellationToken,
) -> GraphOutcome {
    let mut walk = Walk::new(jobs, updates);
    let mut running = FuturesUnordered::new();
    loop {
        for job in walk.start_ready().await {
            let arguments = arguments_of(job, arguments);
            running.push(async move { (job, plugin.execute(job.id, &arguments).await) });
        }
        let finished = tokio::select! {
            biased;
            () = cancel.cancelled() => {
                walk.end_with(GraphOutcome::Cancelled);
                break;
            }
            finished = running.next() => finished,
        };
        match finished {
            Some((job, result)) => walk.finish(job, result).await,
            None => break,
        }
    }
    walk.close().await
}

/// What a job declares, with the run's values, else its own defaults, else empty: SDKs expect
/// every declared key.
fn arguments_of(job: &JobSpec, given: &HashMap<String, String>) -> Vec<(String, String)> {
    let value =
        |key: &str, default: &str| given.get(key).map_or(default, String::as_str).to_owned();
    job.arguments
        .iter()
        .map(|argument| (argument.key.clone(), value(&argument.key, &argument.default_value)))
        .collect()
}

/// Where a run of the graph is.
struct Walk<'a> {
    waiting: Vec<&'a JobSpec>,
    running: Vec<&'a JobSpec>,
    succeeded: HashSet<u32>,
    /// The first reason to start nothing more.
    ending: Option<GraphOutcome>,
    updates: mpsc::Sender<JobUpdate>,
}

impl<'a> Walk<'a> {
    fn new(jobs: &'a [JobSpec], updates: mpsc::Sender<JobUpdate>) -> Self {
        let (running, succeeded) = (Vec::new(), HashSet::new());
        Self { waiting: jobs.iter().collect(), running, succeeded, ending: None, updates }
    }

    async fn start_ready(&mut self) -> Vec<&'a JobSpec> {
        if self.ending.is_some() {
            return Vec::new();
        }
        let succeeded = &self.succeeded;
        let is_ready = |job: &JobSpec| job.depends_on.iter().all(|id| succeeded.contains(id));
        let (ready, waiting) = self.waiting.iter().copied().partition(|job| is_ready(job));
        self.waiting = waiting;
        self.running.extend(&ready);
        for job in &ready {
            self.tell(job, JobTransition::Started).await;
        }
        ready
    }

    async fn finish(&mut self, job: &JobSpec, result: Result<JobOutcome, PluginError>) {
        let message = match &result {
            Err(PluginError::Ended { exit, .. }) => {
                format!("the pipeline process {exit} while {} ran", self.name_running())
            }
            Err(error) => error.to_string(),
            Ok(JobOutcome::Succeeded) => String::new(),
            Ok(JobOutcome::Failed { message } | JobOutcome::StoppedEarly { message }) => {
                message.clone()
            }
        };
        self.running.retain(|other| other.id != job.id);
        let (id, text) = (job.id, message.clone());
        let transition = match result {
            Ok(JobOutcome::Succeeded) => {
                self.succeeded.insert(id);
                JobTransition::Succeeded
            }
            Ok(JobOutcome::StoppedEarly { .. }) => {
                self.end_with(GraphOutcome::StoppedEarly { job: id, message: text });
                JobTransition::StoppedEarly { message }
            }
            Err(PluginError::Ended { exit, .. }) => {
                self.end_with(GraphOutcome::Crashed { job: id, exit, message: text });
                JobTransition::Failed { message }
            }
            Ok(JobOutcome::Failed { .. }) | Err(_) => {
                self.end_with(GraphOutcome::Failed { job: id, message: text });
                JobTransition::Failed { message }
            }
        };
        self.tell(job, transition).await;
    }

    /// A failure counts more than an early stop that came before it.
    fn end_with(&mut self, outcome: GraphOutcome) {
        let stopped_early = matches!(self.ending, Some(GraphOutcome::StoppedEarly { .. }));
        if self.ending.is_none() || stopped_early {
            self.ending = Some(outcome);
        }
    }

    async fn close(self) -> GraphOutcome {
        for job in &self.running {
            self.tell(job, JobTransition::Cancelled).await;
        }
        for job in &self.waiting {
            self.tell(job, JobTransition::Skipped).await;
        }
        self.ending.unwrap_or(GraphOutcome::Succeeded)
    }

    fn name_running(&self) -> String {
        let titles: Vec<_> = self.running.iter().map(|job| format!("`{}`", job.title)).collect();
        titles.join(", ")
    }

    /// Nobody may be interested any more.
    async fn tell(&self, job: &JobSpec, transition: JobTransition) {
        self.updates.send(JobUpdate { job: job.id, transition }).await.ok();
    }
}
