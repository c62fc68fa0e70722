//! The pipeline as a whole: every job has an id, every dependency exists, nothing waits for itself.

use std::{collections::HashMap, error::Error, fmt};

use crate::job::Job;

/// Jobs that make a graph, in the order in which they were declared.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) jobs: Vec<Planned>,
}

#[derive(Debug, Clone)]
pub(crate) struct Planned {
    /// FNV-1a of the title, as Gaia's Go, Python and Ruby SDKs make it.
    pub(crate) id: u32,
    pub(crate) job: Job,
    /// Positions in the list.
    pub(crate) after: Vec<usize>,
    /// How many jobs come one after the other before it.
    pub(crate) stage: usize,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum PlanError {
    Empty,
    SameTitle(String, String),
    SameId(String, String),
    UnknownDependency { job: String, after: String, known: Vec<String> },
    Cycle(Vec<String>),
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(f, "the pipeline has no jobs; give `serve` at least one"),
            Self::SameTitle(a, b) => write!(
                f,
                "two jobs are called `{a}` and `{b}`; titles must differ in more than case"
            ),
            Self::SameId(a, b) => {
                write!(f, "the titles `{a}` and `{b}` have the same hash; change one a little")
            }
            Self::UnknownDependency { job, after, known } => write!(
                f,
                "job `{job}` comes after `{after}`, but there is no such job; there are: {}",
                known.join(", ")
            ),
            Self::Cycle(titles) => write!(
                f,
                "these jobs wait for each other, so none could start: {}",
                titles.join(", ")
            ),
        }
    }
}

impl Error for PlanError {}

impl Plan {
    pub(crate) fn new(jobs: Vec<Job>) -> Result<Self, PlanError> {
        if jobs.is_empty() {
            return Err(PlanError::Empty);
        }
        check_titles(&jobs)?;
        let after = jobs.iter().map(|job| resolve(job, &jobs)).collect::<Result<Vec<_>, _>>()?;
        let stages = stages(&jobs, &after)?;
        let planned = jobs.into_iter().zip(after).zip(stages).map(|((job, after), stage)| {
            Planned { id: fnv1a(job.title.as_bytes()), job, after, stage }
        });
        Ok(Self { jobs: planned.collect() })
    }

    pub(crate) fn by_id(&self, id: u32) -> Option<&Planned> {
        self.jobs.iter().find(|planned| planned.id == id)
    }

    pub(crate) fn by_title(&self, title: &str) -> Option<&Planned> {
        self.jobs.iter().find(|planned| same(&planned.job.title, title))
    }

    /// The jobs in an order in which they could run one by one.
    pub(crate) fn in_order(&self) -> Vec<&Planned> {
        let mut jobs: Vec<_> = self.jobs.iter().collect();
        jobs.sort_by_key(|planned| planned.stage);
        jobs
    }

    pub(crate) fn titles_before<'a>(&'a self, planned: &'a Planned) -> Vec<&'a str> {
        planned.after.iter().map(|at| self.jobs[*at].job.title.as_str()).collect()
    }
}

fn same(a: &str, b: &str) -> bool {
    a.to_lowercase() == b.to_lowercase()
}

fn check_titles(jobs: &[Job]) -> Result<(), PlanError> {
    let (mut titles, mut ids) = (HashMap::new(), HashMap::new());
    for job in jobs {
        let title = &job.title;
        if let Some(first) = titles.insert(title.to_lowercase(), title) {
            return Err(PlanError::SameTitle(first.clone(), title.clone()));
        }
        if let Some(first) = ids.insert(fnv1a(title.as_bytes()), title) {
            return Err(PlanError::SameId(first.clone(), title.clone()));
        }
    }
    Ok(())
}

fn resolve(job: &Job, jobs: &[Job]) -> Result<Vec<usize>, PlanError> {
    let find = |after: &String| {
        jobs.iter().position(|other| same(&other.title, after)).ok_or_else(|| {
            PlanError::UnknownDependency {
                job: job.title.clone(),
                after: after.clone(),
                known: jobs.iter().map(|other| other.title.clone()).collect(),
            }
        })
    };
    job.after.iter().map(find).collect()
}

/// A job's stage is one more than the highest stage that it waits for.
fn stages(jobs: &[Job], after: &[Vec<usize>]) -> Result<Vec<usize>, PlanError> {
    let mut stages: Vec<Option<usize>> = vec![None; jobs.len()];
    for stage in 0..jobs.len() {
        let is_ready = |at: &usize| {
            stages[*at].is_none() && after[*at].iter().all(|before| stages[*before].is_some())
        };
        let ready: Vec<usize> = (0..jobs.len()).filter(is_ready).collect();
        for at in ready {
            stages[at] = Some(stage);
        }
    }
    let stuck = jobs.iter().zip(&stages).filter(|(_, stage)| stage.is_none());
    let stuck: Vec<_> = stuck.map(|(job, _)| job.title.clone()).collect();
    if stuck.is_empty() {
        Ok(stages.into_iter().flatten().collect())
    } else {
        Err(PlanError::Cycle(stuck))
    }
}

fn fnv1a(bytes: &[u8]) -> u32 {
    bytes
        .iter()
        .fold(0x811c_9dc5, |hash: u32, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(title: &str, after: &[&str]) -> Job {
        let job = Job::new(title, |_| async { Ok(()) });
        after.iter().fold(job, |job, title| job.after(*title))
    }

    fn refusal(jobs: Vec<Job>) -> PlanError {
        Plan::new(jobs).expect_err("a plan that cannot be")
    }

    #[test]
    fn ids_are_those_of_the_other_sdks() {
        // Seen on the wire from gosdk and the Python SDK.
        assert_eq!(fnv1a("Déploy".as_bytes()), 3_204_750_579);
        assert_eq!(fnv1a(b"foobar"), 0xbf9c_f968);
    }

    #[test]
    fn dependencies_are_found_whatever_the_case() {
        let plan = Plan::new(vec![
            job("Deploy", &["BUILD", "test"]),
            job("Build", &[]),
            job("Test", &["build"]),
        ])
        .expect("a plan");
        assert_eq!(plan.jobs[0].after, [1, 2]);
        let order: Vec<_> =
            plan.in_order().iter().map(|planned| planned.job.title.as_str()).collect();
        assert_eq!(order, ["Build", "Test", "Deploy"]);
    }

    #[test]
    fn a_pipeline_that_cannot_work_is_refused_with_the_names_in_it() {
        assert_eq!(refusal(vec![]), PlanError::Empty);
        let twice = refusal(vec![job("Build", &[]), job("BUILD", &[])]);
        assert_eq!(twice, PlanError::SameTitle("Build".into(), "BUILD".into()));
        let unknown = refusal(vec![job("Build", &["Fetch"])]);
        assert!(unknown.to_string().contains("`Build` comes after `Fetch`"), "{unknown}");
        let cycle = refusal(vec![job("A", &["B"]), job("B", &["A"]), job("C", &[])]);
        assert_eq!(cycle, PlanError::Cycle(vec!["A".into(), "B".into()]));
        assert_eq!(refusal(vec![job("A", &["a"])]), PlanError::Cycle(vec!["A".into()]));
    }
}
