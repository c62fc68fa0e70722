//! Runs a pipeline: fetch, prepare, start, walk the graph.

use std::collections::{BTreeSet, HashMap};

use proto::common::v1::JobSpec;
use tokio::sync::mpsc;

use crate::{
    cache::Wanted,
    order::{Order, RunTask},
    prepare::{Recipe, prepare},
    primary::Primary,
    processes,
    report::{Ending, Reporter},
    runtime::{GraphOutcome, JobTransition, JobUpdate, Plugin, StartError, run_graph},
    site::Site,
    stop::Trouble,
    workshop::Workshop,
};

pub(crate) async fn run(
    workshop: &Workshop,
    primary: &Primary,
    order: &Order,
    task: &RunTask,
    site: &Site,
    reporter: &Reporter,
) -> Result<Ending, Trouble> {
    let wanted = Wanted { digest: task.digest, size: task.size, lease: &order.lease };
    let fetched = site.stopper.unless(workshop.cache.get(primary.bulk(), wanted));
    let binary = fetched.await??;
    let recipe = prepare(workshop, site, order.language, task.digest, &binary).await?;
    let (plugin, jobs) = start(&recipe, site).await?;
    site.begun.cancel();
    let ending = match compare(&task.jobs, &jobs) {
        Ok(()) => {
            let jobs = without_done(jobs, &task.done);
            Ok(walk(&plugin, &jobs, order, task, site, reporter).await)
        }
        Err(difference) => Err(Trouble::Pipeline(difference)),
    };
    plugin.stop(site.grace()).await;
    ending
}

/// Starts a prepared pipeline and asks for its jobs.
pub(crate) async fn start(recipe: &Recipe, site: &Site) -> Result<(Plugin, Vec<JobSpec>), Trouble> {
    let launch = recipe.launch(site);
    let started = Plugin::start(launch, site.log.pipe(), site.stopper.token()).await;
    let mut plugin = started.map_err(|error| blame(&error))?;
    processes::record(&site.work, plugin.group());
    let jobs = match site.stopper.unless(plugin.jobs()).await {
        Ok(Ok(jobs)) => return Ok((plugin, jobs)),
        Ok(Err(error)) => Err(Trouble::Pipeline(error.to_string())),
        Err(stopped) => Err(stopped),
    };
    plugin.stop(site.grace()).await;
    jobs
}

/// Is it the pipeline that cannot be started, or this machine that cannot start it?
fn blame(error: &StartError) -> Trouble {
    use std::error::Error as _;
    let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
    let why = format!("cannot {}{cause}", error.to_string().trim_start_matches("cannot "));
    match error {
        StartError::Cancelled => Trouble::Stopped,
        StartError::Scratch { .. } | StartError::Certificates(_) | StartError::Spawn { .. } => {
            Trouble::Worker(why)
        }
        _ => Trouble::Pipeline(format!("the pipeline did not start: {error}{cause}")),
    }
}

/// The server ordered certain jobs; the binary must have the same. A server that sends none (Gaia's
/// own) leaves it to the binary.
fn compare(ordered: &[JobSpec], declared: &[JobSpec]) -> Result<(), String> {
    if ordered.is_empty() {
        return Ok(());
    }
    let ids = |jobs: &[JobSpec]| jobs.iter().map(|job| job.id).collect::<BTreeSet<u32>>();
    if ids(ordered) == ids(declared) {
        return Ok(());
    }
    let titles = |jobs: &[JobSpec]| {
        jobs.iter().map(|job| format!("`{}`", job.title)).collect::<Vec<_>>().join(", ")
    };
    Err(format!(
        "the binary declares the jobs {}, but the pipeline has {}: build it again",
        titles(declared),
        titles(ordered)
    ))
}

/// What is left to run; nothing waits for what is done.
fn without_done(mut jobs: Vec<JobSpec>, done: &[u32]) -> Vec<JobSpec> {
    jobs.retain(|job| !done.contains(&job.id));
    for job in &mut jobs {
        job.depends_on.retain(|id| !done.contains(id));
    }
    jobs
}

async fn walk(
    plugin: &Plugin,
    jobs: &[JobSpec],
    order: &Order,
    task: &RunTask,
    site: &Site,
    reporter: &Reporter,
) -> Ending {
    if task.jobs.is_empty() {
        reporter.set_jobs(jobs);
    }
    let given = task.arguments.iter();
    let arguments: HashMap<String, String> =
        given.map(|argument| (argument.key.clone(), argument.value.clone())).collect();
    let (updates, mut receiver) = mpsc::channel(64);
    let running = run_graph(plugin, jobs, &arguments, updates, site.stopper.token().clone());
    let reporting = async {
        while let Some(update) = receiver.recv().await {
            report(&update, jobs, order, site, reporter).await;
        }
    };
    let (outcome, ()) = tokio::join!(running, reporting);
    conclude(outcome, jobs)
}

async fn report(
    update: &JobUpdate,
    jobs: &[JobSpec],
    order: &Order,
    site: &Site,
    reporter: &Reporter,
) {
    let message = match &update.transition {
        JobTransition::Failed { message } | JobTransition::StoppedEarly { message } => message,
        _ => "",
    };
    let title = title(jobs, update.job);
    match &update.transition {
        JobTransition::Failed { message } => {
            site.log.note(format!("Job '{title}' failed: {message}")).await;
        }
        JobTransition::StoppedEarly { message } => {
            site.log.note(format!("Job '{title}' ended the run early: {message}")).await;
        }
        _ => {}
    }
    reporter.job(update, &order.secrets.mask(message));
}

fn conclude(outcome: GraphOutcome, jobs: &[JobSpec]) -> Ending {
    match outcome {
        GraphOutcome::Succeeded => Ending::Succeeded,
        GraphOutcome::StoppedEarly { job, message } => {
            let title = title(jobs, job);
            Ending::StoppedEarly(format!("job '{title}' ended the run early: {message}"))
        }
        GraphOutcome::Failed { job, message } => {
            Ending::Failed(format!("job '{}' failed: {message}", title(jobs, job)))
        }
        GraphOutcome::Crashed { message, .. } => Ending::Failed(message),
        GraphOutcome::Cancelled => Ending::Cancelled("the run was cancelled".into()),
    }
}

fn title(jobs: &[JobSpec], id: u32) -> &str {
    jobs.iter().find(|job| job.id == id).map_or("?", |job| &job.title)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(id: u32, title: &str) -> JobSpec {
        JobSpec { id, title: title.into(), ..JobSpec::default() }
    }

    #[test]
    fn nothing_waits_for_a_job_that_is_done() {
        let job = |id, depends_on: &[u32]| JobSpec {
            id,
            depends_on: depends_on.to_vec(),
            ..JobSpec::default()
        };
        let left = without_done(vec![job(1, &[]), job(2, &[1]), job(3, &[1, 2])], &[1]);
        assert_eq!(left, [job(2, &[]), job(3, &[2])]);
    }

    #[test]
    fn a_binary_with_other_jobs_than_ordered_is_refused() {
        let (a, b) = (job(1, "a"), job(2, "b"));
        assert_eq!(compare(&[a.clone(), b.clone()], &[b.clone(), a.clone()]), Ok(()));
        assert_eq!(compare(&[], std::slice::from_ref(&a)), Ok(()));
        let error = compare(&[b], &[a]).unwrap_err();
        assert!(error.contains("declares the jobs `a`, but the pipeline has `b`"), "{error}");
    }
}
