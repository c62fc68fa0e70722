//! What a run is asked to do, and whether that makes sense.
//!
//! A spec is checked once, when the run is submitted; nothing later doubts it.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use ids::{Digest, JobId, PipelineId, RunId, Timestamp};

use super::{
    Rejection, State,
    policy::{Policy, PolicyError},
    selector::{MAX_TERMS, Selector},
    worker::Requirement,
};

/// Most jobs in one pipeline.
pub const MAX_JOBS: usize = 1_000;
/// Most bytes of one spec, as stored.
pub const MAX_SPEC_BYTES: usize = 200 << 10;
/// Most tags of a pipeline.
pub const MAX_TAGS: usize = 256;

/// All that is needed to place a run and to do it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunSpec {
    pub kind: RunKind,
    pub pipeline: PipelineId,
    pub pipeline_name: String,
    pub pipeline_type: String,
    pub tags: Vec<String>,
    /// Id or name of the only worker that may take it; empty: any.
    pub pinned_worker: String,
    /// What it asks of its worker beside its type and tags.
    pub selector: Selector,
    pub policy: Policy,
    /// Not to be started earlier.
    pub not_before: Option<Timestamp>,
    /// The run that this one repeats, and those of its jobs that are not done again.
    pub rerun_of: Option<RunId>,
    pub done_jobs: Vec<JobId>,
    pub artifact: Option<Digest>,
    pub artifact_size: u64,
    pub jobs: Vec<JobSpec>,
    pub arguments: Vec<ArgumentValue>,
    pub source_url: String,
    pub source_branch: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunKind {
    Pipeline,
    Build,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobSpec {
    pub id: JobId,
    pub title: String,
    pub description: String,
    pub depends_on: Vec<JobId>,
    pub arguments: Vec<ArgumentSpec>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArgumentSpec {
    pub description: String,
    /// `textfield`, `textarea`, `boolean`, `vault`, in any case.
    pub kind: String,
    pub key: String,
    /// Empty: none.
    pub default_value: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArgumentValue {
    pub key: String,
    pub value: String,
}

/// What a build produced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Build {
    pub digest: Digest,
    pub size: u64,
    pub commit: String,
    pub jobs: Vec<JobSpec>,
}

/// What is wrong with a spec.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    #[error("{jobs} jobs are too many; a pipeline has at most {MAX_JOBS}")]
    TooManyJobs { jobs: usize },
    #[error(
        "the spec takes {bytes} bytes, at most {MAX_SPEC_BYTES} are allowed; shorten descriptions or arguments"
    )]
    TooLarge { bytes: usize },
    #[error("pipeline_id is missing; a pipeline run names its pipeline")]
    NoPipeline,
    #[error("artifact is missing; a pipeline run names the sha256 of its binary")]
    NoArtifact,
    #[error("a tag is empty")]
    EmptyTag,
    #[error("{tags} tags are too many; at most {MAX_TAGS} are taken")]
    TooManyTags { tags: usize },
    #[error(transparent)]
    Policy(#[from] PolicyError),
    #[error("selector: {terms} terms are too many; at most {MAX_TERMS} are taken")]
    TooManyTerms { terms: usize },
    #[error("selector: {why}; the run could never be placed")]
    Contradiction { why: String },
    #[error("job `{second}` has the id {id} of job `{first}`; ids are unique in a pipeline")]
    DuplicateJob { id: JobId, first: String, second: String },
    #[error("job {0} is said to be done, but the pipeline does not have it")]
    UnknownDoneJob(JobId),
    #[error("all jobs are said to be done; there is nothing to run")]
    NothingToDo,
    #[error("job `{job}` depends on job {dependency}, which the pipeline does not have")]
    UnknownDependency { job: String, dependency: JobId },
    #[error("jobs wait for each other: {}", .jobs.join(" → "))]
    Cycle { jobs: Vec<String> },
    #[error("argument `{key}` is given, but no job declares it")]
    UnknownArgument { key: String },
    #[error("argument `{key}` is given twice")]
    RepeatedArgument { key: String },
    #[error("argument `{key}` must be `true` or `false`")]
    NotBoolean { key: String },
    #[error("argument `{key}` comes from the vault and takes no value; store it there")]
    VaultArgument { key: String },
    #[error("argument `{key}` of job `{job}` has no default and no value was given")]
    MissingArgument { key: String, job: String },
}

impl ArgumentSpec {
    fn is(&self, kind: &str) -> bool {
        self.kind.eq_ignore_ascii_case(kind)
    }
}

impl RunSpec {
    pub(super) fn check(&self) -> Result<(), SpecError> {
        if self.kind == RunKind::Pipeline && self.pipeline.0 == 0 {
            return Err(SpecError::NoPipeline);
        }
        if self.kind == RunKind::Pipeline && self.artifact.is_none() {
            return Err(SpecError::NoArtifact);
        }
        if self.tags.iter().any(|tag| tag.trim().is_empty()) {
            return Err(SpecError::EmptyTag);
        }
        self.policy.check()?;
        let bytes = self.bytes();
        if bytes > MAX_SPEC_BYTES {
            return Err(SpecError::TooLarge { bytes });
        }
        let (terms, tags) = (self.selector.terms(), self.tags.len());
        if terms > MAX_TERMS {
            return Err(SpecError::TooManyTerms { terms });
        }
        if tags > MAX_TAGS {
            return Err(SpecError::TooManyTags { tags });
        }
        // Each term is held against each other one.
        if let Some(why) = Requirement::of(self).selector.contradiction() {
            return Err(SpecError::Contradiction { why });
        }
        check_jobs(&self.jobs)?;
        self.check_done_jobs()?;
        self.check_arguments()
    }

    /// At least what the stored form takes.
    fn bytes(&self) -> usize {
        let texts = [
            &self.pipeline_name,
            &self.pipeline_type,
            &self.pinned_worker,
            &self.source_url,
            &self.source_branch,
        ];
        let texts: usize = texts.into_iter().chain(&self.tags).map(|text| text.len() + 6).sum();
        let arguments: usize =
            self.arguments.iter().map(|given| given.key.len() + given.value.len() + 18).sum();
        let selector = self.selector.to_string().len();
        1_000 + 6 * self.done_jobs.len() + texts + selector + arguments + jobs_bytes(&self.jobs)
    }

    /// Whether any job gets a value for an argument.
    pub(super) fn has_values(&self) -> bool {
        let mut declared = self.jobs.iter().flat_map(|job| &job.arguments);
        let by_default =
            |argument: &ArgumentSpec| argument.is("vault") || !argument.default_value.is_empty();
        declared.any(by_default) || self.arguments.iter().any(|given| !given.value.is_empty())
    }

    fn check_done_jobs(&self) -> Result<(), SpecError> {
        let ids: HashSet<_> = self.jobs.iter().map(|job| job.id).collect();
        let done: HashSet<_> = self.done_jobs.iter().copied().collect();
        if let Some(unknown) = done.difference(&ids).min() {
            return Err(SpecError::UnknownDoneJob(*unknown));
        }
        if !done.is_empty() && done.len() == ids.len() {
            return Err(SpecError::NothingToDo);
        }
        Ok(())
    }

    fn check_arguments(&self) -> Result<(), SpecError> {
        let declared: Vec<_> = self
            .jobs
            .iter()
            .flat_map(|job| job.arguments.iter().map(move |argument| (job, argument)))
            .collect();
        let mut kinds: HashMap<&str, HashSet<String>> = HashMap::new();
        for (_, argument) in &declared {
            kinds.entry(&argument.key).or_default().insert(argument.kind.to_ascii_lowercase());
        }
        let mut given = HashSet::new();
        for ArgumentValue { key, value } in &self.arguments {
            let key = || key.clone();
            let Some(kinds) = kinds.get(key().as_str()) else {
                return Err(SpecError::UnknownArgument { key: key() });
            };
            if !given.insert(key()) {
                return Err(SpecError::RepeatedArgument { key: key() });
            }
            if kinds.contains("vault") {
                return Err(SpecError::VaultArgument { key: key() });
            }
            if kinds.contains("boolean") && !matches!(value.as_str(), "true" | "false") {
                return Err(SpecError::NotBoolean { key: key() });
            }
        }
        let missing = declared.iter().find(|(_, argument)| {
            // A boolean that nobody set is false, as an unticked box is.
            !argument.is("vault")
                && !argument.is("boolean")
                && argument.default_value.is_empty()
                && !given.contains(&argument.key)
        });
        match missing {
            Some((job, argument)) => Err(SpecError::MissingArgument {
                key: argument.key.clone(),
                job: job.title.clone(),
            }),
            None => Ok(()),
        }
    }
}

impl Build {
    pub(super) fn check(&self) -> Result<(), SpecError> {
        let bytes = 80 + self.commit.len() + jobs_bytes(&self.jobs);
        if bytes > MAX_SPEC_BYTES {
            return Err(SpecError::TooLarge { bytes });
        }
        check_jobs(&self.jobs)
    }
}

fn jobs_bytes(jobs: &[JobSpec]) -> usize {
    let arguments = |job: &JobSpec| -> usize {
        let texts = |argument: &ArgumentSpec| {
            argument.description.len()
                + argument.kind.len()
                + argument.key.len()
                + argument.default_value.len()
        };
        job.arguments.iter().map(|argument| texts(argument) + 30).sum()
    };
    jobs.iter()
        .map(|job| {
            let texts = job.title.len() + job.description.len();
            32 + texts + 6 * job.depends_on.len() + arguments(job)
        })
        .sum()
}

/// Whether the jobs form a graph that can be worked through.
fn check_jobs(jobs: &[JobSpec]) -> Result<(), SpecError> {
    if jobs.len() > MAX_JOBS {
        return Err(SpecError::TooManyJobs { jobs: jobs.len() });
    }
    let mut places = HashMap::new();
    for (place, job) in jobs.iter().enumerate() {
        if let Some(first) = places.insert(job.id, place) {
            let first = jobs[first].title.clone();
            return Err(SpecError::DuplicateJob { id: job.id, first, second: job.title.clone() });
        }
    }
    for job in jobs {
        if let Some(&dependency) = job.depends_on.iter().find(|id| !places.contains_key(id)) {
            return Err(SpecError::UnknownDependency { job: job.title.clone(), dependency });
        }
    }
    match find_cycle(jobs, &places) {
        Some(jobs) => Err(SpecError::Cycle { jobs }),
        None => Ok(()),
    }
}

/// Titles along a circle of dependencies, the first one repeated at the end.
fn find_cycle(jobs: &[JobSpec], places: &HashMap<JobId, usize>) -> Option<Vec<String>> {
    let mut waits_for: Vec<_> = jobs.iter().map(|job| job.depends_on.len()).collect();
    let mut dependents = vec![vec![]; jobs.len()];
    for (place, job) in jobs.iter().enumerate() {
        for dependency in &job.depends_on {
            dependents[places[dependency]].push(place);
        }
    }
    let mut ready: Vec<_> = (0..jobs.len()).filter(|&place| waits_for[place] == 0).collect();
    while let Some(done) = ready.pop() {
        for &place in &dependents[done] {
            waits_for[place] -= 1;
            if waits_for[place] == 0 {
                ready.push(place);
            }
        }
    }
    // Whatever still waits, waits for something that still waits, so a walk comes back to itself.
    let mut walk = vec![waits_for.iter().position(|&count| count > 0)?];
    loop {
        let job = &jobs[walk[walk.len() - 1]];
        let next =
            job.depends_on.iter().map(|id| places[id]).find(|&place| waits_for[place] > 0)?;
        let seen = walk.iter().position(|&place| place == next);
        walk.push(next);
        if let Some(start) = seen {
            return Some(walk[start..].iter().map(|&place| jobs[place].title.clone()).collect());
        }
    }
}

/// Whatever the worker is called by the time that the run is placed.
pub(super) fn pinned_by_id(state: &State, spec: Arc<RunSpec>) -> Result<Arc<RunSpec>, Rejection> {
    let pin = &spec.pinned_worker;
    if pin.is_empty() {
        return Ok(spec);
    }
    let Some(id) = state.pinned_worker(pin) else {
        return Err(Rejection::UnknownPin { pin: pin.clone() });
    };
    Ok(Arc::new(RunSpec { pinned_worker: id.to_string(), ..(*spec).clone() }))
}
