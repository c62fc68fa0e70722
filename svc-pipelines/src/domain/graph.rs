//! What a build produces, and whether its jobs form a graph that can be run.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use ids::{Digest, JobId};

/// Most bytes that a build may take in the log; what does not fit is a failed build.
const MOST_BYTES: usize = 200 << 10;

/// What a finished build produced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Build {
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
    /// The commit that was built, in hex.
    pub commit: String,
    pub jobs: Vec<JobSpec>,
}

/// One job, as the pipeline itself declares it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobSpec {
    /// 0 is as good as any other number.
    pub id: u32,
    pub title: String,
    pub description: String,
    pub depends_on: Vec<u32>,
    pub arguments: Vec<ArgumentSpec>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ArgumentSpec {
    pub description: String,
    pub kind: String,
    pub key: String,
    pub default_value: String,
}

/// Why a build cannot be run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unrunnable {
    #[error("the pipeline declares no jobs: add at least one")]
    NoJobs,
    #[error("the jobs {first} and {second} have the same id: give them different titles")]
    DuplicateId { first: JobName, second: JobName },
    #[error("the job {job} depends on job {on}, which the pipeline does not declare")]
    UnknownDependency { job: JobName, on: JobId },
    #[error("the jobs wait for each other in a circle: {}", arrows(.0))]
    Cycle(Vec<JobName>),
    #[error(
        "the pipeline's jobs, titles and arguments take {0} bytes, more than {MOST_BYTES}: declare fewer or shorter ones"
    )]
    TooLarge(usize),
}

/// A job as people see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobName {
    id: u32,
    title: String,
}

impl fmt::Display for JobName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let title: String = self.title.chars().take(60).collect();
        write!(f, "`{}` ({})", title.escape_debug(), self.id)
    }
}

/// A circle can be as long as the pipeline: its start tells enough.
fn arrows(circle: &[JobName]) -> String {
    const MOST: usize = 8;
    let mut names: Vec<_> = circle.iter().take(MOST).map(ToString::to_string).collect();
    if circle.len() > MOST {
        names.push("…".into());
    }
    names.join(" → ")
}

impl Build {
    /// Refuses a graph that would never finish, or that means nothing.
    pub(super) fn check(&self) -> Result<(), Unrunnable> {
        if self.jobs.is_empty() {
            return Err(Unrunnable::NoJobs);
        }
        let bytes = self.bytes();
        if bytes > MOST_BYTES {
            return Err(Unrunnable::TooLarge(bytes));
        }
        let by_id = index(&self.jobs)?;
        for job in &self.jobs {
            if let Some(&on) = job.depends_on.iter().find(|on| !by_id.contains_key(on)) {
                return Err(Unrunnable::UnknownDependency { job: job.name(), on: JobId(on) });
            }
        }
        match circle(&by_id) {
            Some(circle) => Err(Unrunnable::Cycle(circle)),
            None => Ok(()),
        }
    }

    /// Roughly what the build takes when stored; never less.
    fn bytes(&self) -> usize {
        const FIELDS: usize = 64;
        let jobs = self.jobs.iter().map(|job| {
            let arguments = job.arguments.iter().map(|argument| {
                let texts = [&argument.description, &argument.kind, &argument.key];
                texts.iter().map(|text| text.len()).sum::<usize>()
                    + argument.default_value.len()
                    + FIELDS
            });
            let texts = job.title.len() + job.description.len();
            texts + 10 * job.depends_on.len() + arguments.sum::<usize>() + FIELDS
        });
        jobs.sum::<usize>() + self.commit.len() + FIELDS
    }
}

impl JobSpec {
    fn name(&self) -> JobName {
        JobName { id: self.id, title: self.title.clone() }
    }
}

fn index(jobs: &[JobSpec]) -> Result<BTreeMap<u32, &JobSpec>, Unrunnable> {
    let mut by_id = BTreeMap::new();
    for job in jobs {
        if let Some(first) = by_id.insert(job.id, job) {
            return Err(Unrunnable::DuplicateId { first: first.name(), second: job.name() });
        }
    }
    Ok(by_id)
}

/// Takes away, again and again, what waits for nothing that is left. If some are left at the end, each
/// of them waits for another one, so that a walk along those must come round.
fn circle(by_id: &BTreeMap<u32, &JobSpec>) -> Option<Vec<JobName>> {
    let mut waits_for: BTreeMap<u32, BTreeSet<u32>> =
        by_id.iter().map(|(&id, job)| (id, job.depends_on.iter().copied().collect())).collect();
    let mut awaited_by: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for (&id, on) in &waits_for {
        for &on in on {
            awaited_by.entry(on).or_default().push(id);
        }
    }
    let mut free: Vec<u32> =
        waits_for.iter().filter(|(_, on)| on.is_empty()).map(|(&id, _)| id).collect();
    while let Some(done) = free.pop() {
        waits_for.remove(&done);
        for id in awaited_by.remove(&done).unwrap_or_default() {
            let on = waits_for.get_mut(&id).expect("a job that waits is still there");
            on.remove(&done);
            if on.is_empty() {
                free.push(id);
            }
        }
    }
    let mut at = *waits_for.keys().next()?;
    let mut walk: Vec<u32> = vec![];
    while !walk.contains(&at) {
        walk.push(at);
        at = *waits_for[&at].first().expect("a job that is left waits for another");
    }
    walk.push(at);
    let start = walk.iter().position(|&id| id == at).expect("the walk came round to it");
    Some(walk[start..].iter().map(|id| by_id[id].name()).collect())
}
