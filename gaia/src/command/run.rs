//! `gaia run`: what is running, what ran, and what it printed.

mod follow;
mod logs;
mod screen;

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use futures::StreamExt;
use http::Method;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

pub use follow::follow_log;
use screen::Screen;

use super::{find_pipeline, segment};
use crate::{
    api::Run,
    client::Client,
    output::{Output, between, duration, spinner, table, time},
    sse,
};

#[derive(Subcommand, Debug)]
pub enum RunCommand {
    /// List the runs, newest first
    Ls {
        /// Only runs of this pipeline (name or id)
        #[arg(long)]
        pipeline: Option<String>,
        /// Most runs to list
        #[arg(long, default_value_t = 30)]
        limit: u32,
        /// Builds too
        #[arg(long)]
        builds: bool,
    },
    /// Show a run: its jobs, its attempts, and why it waits or ended
    Show {
        /// Unique id, or PIPELINE/NUMBER
        run: String,
    },
    /// Show what a run printed
    Logs {
        /// Unique id, or PIPELINE/NUMBER
        run: String,
        /// Go on until the run ends, through restarts of the server
        #[arg(long, short)]
        follow: bool,
        /// Only the lines that hold this text, each after its number
        #[arg(long, conflicts_with = "follow")]
        search: Option<String>,
        /// A terminal too gets the bytes as they are. Else it is shown the control sequences that a job
        /// printed, and obeys none but colours; a file or a pipe always gets what was printed
        #[arg(long, conflicts_with = "search")]
        raw: bool,
        #[command(flatten)]
        view: logs::View,
    },
    /// Stop a run
    Cancel {
        /// Unique id, or PIPELINE/NUMBER
        run: String,
    },
    /// Start a run again that has ended: the same binary and arguments
    Rerun {
        /// Unique id, or PIPELINE/NUMBER
        run: String,
        /// Do not run jobs again that succeeded
        #[arg(long)]
        failed: bool,
        /// Follow the new run to its end; the exit code is its result
        #[arg(long, short)]
        watch: bool,
    },
    /// Follow a run to its end; the exit code is the run's result, as for `pipeline run --watch`
    Watch {
        /// Unique id, or PIPELINE/NUMBER
        run: String,
    },
    /// Say why a run waits
    Why {
        /// Unique id, or PIPELINE/NUMBER
        run: String,
        /// Say it again whenever the reason is another, until the run ends
        #[arg(long, short)]
        follow: bool,
    },
}

/// The answer is the exit code.
pub async fn run(command: RunCommand, client: &Client, output: Output) -> Result<u8> {
    match command {
        RunCommand::Ls { pipeline, limit, builds } => {
            let runs = list(client, pipeline.as_deref(), limit, builds).await?;
            output.show(&runs, |runs| overview(runs))?;
        }
        RunCommand::Show { run } => {
            let run = find(client, &run).await?;
            output.show(&run, details)?;
        }
        RunCommand::Logs { run, search: Some(text), view, .. } => {
            let run = find(client, &run).await?;
            view.check(&run)?;
            logs::search(client, &run.uniqueid, &text, &view, output).await?;
        }
        RunCommand::Logs { run, follow, search: None, raw, view } => {
            let run = find(client, &run).await?;
            view.check(&run)?;
            logs::show(client, &run.uniqueid, follow, Screen::new(raw), &view).await?;
        }
        RunCommand::Cancel { run } => {
            let run = find(client, &run).await?;
            let path = format!("/api/v1/run/{}/stop", segment(&run.uniqueid));
            client.call(Method::POST, &path, Some(&json!({}))).await?;
            let run = find(client, &run.uniqueid).await?;
            output.show(&run, |run| format!("Run {} is {}.", run.uniqueid, run.state()))?;
        }
        RunCommand::Rerun { run, failed, watch: follow } => {
            let run = find(client, &run).await?;
            let path = format!("/api/v1/run/{}/rerun", segment(&run.uniqueid));
            let again: Run = client.post(&path, &json!({ "failed_only": failed })).await?;
            if follow {
                return watch(client, &again, output).await;
            }
            output.show(&again, |run| {
                format!("Run {} of {} is on its way.", run.id, run.pipelinename)
            })?;
        }
        RunCommand::Watch { run } => {
            let run = find(client, &run).await?;
            return watch(client, &run, output).await;
        }
        RunCommand::Why { run, follow } => {
            let run = find(client, &run).await?;
            why(client, &run, follow, output).await?;
        }
    }
    Ok(0)
}

async fn why(client: &Client, run: &Run, follow: bool, output: Output) -> Result<()> {
    let path = format!("/api/v1/run/{}/placement", segment(&run.uniqueid));
    let summary =
        |placement: &Value| placement["summary"].as_str().unwrap_or("nothing is known").to_owned();
    if !follow {
        let placement: Value = client.get(&path).await?;
        return output.show(&placement, summary);
    }
    let mut events = client.follow(&path).await?;
    let mut last = String::new();
    while let Some(event) = events.next().await {
        let placement: Value = heard(&event?)?;
        // In text a change of mere counts is none.
        let said = summary(&placement);
        if output == Output::Json || said != last {
            output.line(&placement, summary)?;
        }
        last = said;
    }
    Ok(())
}

async fn list(
    client: &Client,
    pipeline: Option<&str>,
    limit: u32,
    builds: bool,
) -> Result<Vec<Run>> {
    let of = match pipeline {
        Some(pipeline) => format!("pipelinerun/{}", find_pipeline(client, pipeline).await?.id),
        None => "run".to_owned(),
    };
    Ok(client.get(&format!("/api/v1/{of}?limit={limit}&builds={builds}")).await?)
}

/// A run by its unique id, or by `pipeline/number`.
pub async fn find(client: &Client, name: &str) -> Result<Run> {
    let Some((pipeline, number)) = name.rsplit_once('/') else {
        return Ok(client.get(&format!("/api/v1/run/{}", segment(name))).await?);
    };
    let number: u64 = number
        .parse()
        .with_context(|| format!("`{name}`: after the `/` comes the number of a run"))?;
    let pipeline = find_pipeline(client, pipeline).await?;
    Ok(client.get(&format!("/api/v1/pipelinerun/{}/{number}", pipeline.id)).await?)
}

/// Follows a run to its end: its log while it runs, then how it ended.
pub async fn watch(client: &Client, run: &Run, output: Output) -> Result<u8> {
    let waiting = spinner(format!("{} {}", run.pipelinename, run.status));
    let path = format!("/api/v1/run/{}", segment(&run.uniqueid));
    let mut last = run.clone();
    let changes = async {
        let mut states = client.follow(&path).await?;
        while let Some(event) = states.next().await {
            last = heard(&event?)?;
            waiting.set_message(format!("{} {}", last.pipelinename, last.state()));
            if output == Output::Json {
                output.line(&last, |_| String::new())?;
            }
        }
        anyhow::Ok(())
    };
    let printed = async {
        if output == Output::Text {
            let mut screen = Screen::new(false);
            follow_log(client, &run.uniqueid, "", |text| {
                waiting.suspend(|| screen.write(text.as_bytes()))
            })
            .await?;
            waiting.suspend(|| screen.end())?;
        }
        anyhow::Ok(())
    };
    let ended = futures::future::try_join(changes, printed).await;
    waiting.finish_and_clear();
    ended?;
    let last: Run = client.get(&path).await?;
    if output == Output::Text {
        anstream::println!("{}", ending(&last));
    }
    match last.status.as_str() {
        "success" => Ok(0),
        "cancelled" => Ok(3),
        "failed" => Ok(1),
        other => bail!("the run is still {other}: the server ended the stream"),
    }
}

/// What a stream of what becomes of a run says.
pub fn heard<T: DeserializeOwned>(event: &sse::Event) -> Result<T> {
    if event.name == "error" {
        bail!("the server cannot go on with the run: {}", event.data);
    }
    serde_json::from_str(&event.data).context("read what became of a run")
}

fn ending(run: &Run) -> String {
    let took = between(run.submitted_at, run.finished_at);
    let mut text =
        format!("{}: {} after {took} on {}", run.pipelinename, run.state(), run.worker());
    if !run.reason.is_empty() {
        text = format!("{text}\n{}", run.reason);
    }
    text
}

fn overview(runs: &[Run]) -> String {
    if runs.is_empty() {
        return "No runs yet. Start one with `gaia pipeline run`.".to_owned();
    }
    table(
        ["RUN", "STATE", "WORKER", "ATTEMPTS", "SUBMITTED", "PICK-UP", "TOOK", "ID"],
        runs.iter().map(|run| {
            let name = match run.kind.as_str() {
                "build" => format!("{} (build)", run.pipelinename),
                _ => format!("{}/{}", run.pipelinename, run.id),
            };
            [
                name,
                run.state(),
                run.worker(),
                run.attempts.len().to_string(),
                time(run.submitted_at),
                run.pick_up().map_or("–".into(), |ms| format!("{ms} ms")),
                between(run.started_at, run.finished_at),
                run.uniqueid.clone(),
            ]
        }),
    )
}

fn details(run: &Run) -> String {
    let mut text = format!(
        "{}/{}  {}\nid         {}\nsubmitted  {} ({})\n",
        run.pipelinename,
        run.id,
        run.state(),
        run.uniqueid,
        time(run.submitted_at),
        run.started_reason,
    );
    if let Some(pick_up) = run.pick_up() {
        let pick_up = duration(std::time::Duration::from_millis(pick_up));
        text = format!("{text}pick-up    {pick_up}\n");
    }
    if !run.reason.is_empty() {
        text = format!("{text}reason     {}\n", run.reason);
    }
    let attempts = table(
        ["ATTEMPT", "WORKER", "ASSIGNED", "TOOK", "ENDED BECAUSE"],
        run.attempts.iter().map(|attempt| {
            [
                attempt.attempt.to_string(),
                if attempt.workername.is_empty() { &attempt.workerid } else { &attempt.workername }
                    .clone(),
                time(attempt.assigned_at),
                between(attempt.started_at, attempt.ended_at),
                attempt.reason.clone(),
            ]
        }),
    );
    let jobs = table(
        ["JOB", "STATE", "TOOK", "MESSAGE"],
        run.jobs.iter().map(|job| {
            [
                job.title.clone(),
                job.status.clone(),
                between(job.started_at, job.finished_at),
                job.message.clone(),
            ]
        }),
    );
    format!("{text}\n{attempts}\n{jobs}")
}
