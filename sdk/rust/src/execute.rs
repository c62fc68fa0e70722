//! Runs one job to its end, whatever its function does.

use std::{any::Any, error::Error};

use tokio::{runtime::Handle, task::JoinError};

use crate::{Ctx, Stop, plan::Planned};

/// How a job ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Succeeded,
    StoppedEarly(String),
    Failed(String),
}

/// Runs it as a task of its own on `runtime`, so that a panic is this job's failure and a job that
/// blocks holds up nobody else. When this future is dropped, the job is, too.
pub(crate) async fn execute(
    planned: &Planned,
    given: Vec<(String, String)>,
    runtime: &Handle,
) -> Ending {
    let job = &planned.job;
    let (handler, ctx) = (job.handler.clone(), Ctx::new(job, given));
    // The function's own first part may panic as well, so it is called within the task.
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn_on(async move { handler(ctx).await }, runtime);
    match tasks.join_next().await {
        Some(Ok(Ok(()))) => Ending::Succeeded,
        Some(Ok(Err(Stop::Exit(reason)))) => Ending::StoppedEarly(reason),
        Some(Ok(Err(Stop::Fail(error)))) => Ending::Failed(chain(error.as_ref())),
        Some(Err(error)) => Ending::Failed(panicked(error)),
        None => unreachable!("the set has the task that was just put into it"),
    }
}

fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

fn panicked(error: JoinError) -> String {
    match error.try_into_panic() {
        Ok(payload) => format!("the job panicked: {}", text(payload.as_ref())),
        Err(error) => error.to_string(),
    }
}

fn text(payload: &(dyn Any + Send)) -> &str {
    payload
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| payload.downcast_ref::<&str>().copied())
        .unwrap_or("with something that is no text")
}
