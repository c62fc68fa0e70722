//! `gaia demo`: the whole system at work, for people to look at, and a proof: it fails unless
//! everything that it shows has held.
//!
//! In reading order: this file (the story), `repository` (the pipelines' git repositories), `house` (the
//! processes and the client), `follow` (live lines), `report` (the table, and what must hold), `replay`.

mod follow;
mod house;
mod replay;
mod report;
mod repository;

use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use serde_json::json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    api::{Pipeline, Run},
    command::{pipeline::StartArgs, secret},
    output::duration,
    profile::ServerArgs,
};
use follow::Follower;
use house::House;
use report::{Expected, Told};

/// The whole demonstration takes this long at most; then something hangs.
const DEADLINE: Duration = Duration::from_mins(5);

#[derive(Args, Clone, Debug)]
pub(crate) struct DemoArgs {
    /// Keep the folder with data, identities and logs
    #[arg(long)]
    keep: bool,
}

/// The answer is the exit code.
pub(crate) async fn run(
    args: DemoArgs,
    server: &ServerArgs,
    shutdown: CancellationToken,
) -> Result<u8> {
    let begun = Instant::now();
    let mut house = House::new(args.keep)?;
    let story = async { story(&mut house, server).await };
    let outcome = tokio::select! {
        told = tokio::time::timeout(DEADLINE, story) => {
            told.context("the demonstration hangs: it should have ended by now").flatten()
        }
        () = shutdown.cancelled() => Err(anyhow::anyhow!("interrupted")),
    };
    house.end().await;
    let told = outcome?;
    anstream::println!("\n{}", told.table());
    told.check()?;
    anstream::println!(
        "\nEverything held, in {}. Replayed {} events from the first: {} runs and {} workers are \
         what the server says they are.",
        duration(begun.elapsed()),
        told.replayed.events,
        told.replayed.runs,
        told.replayed.workers,
    );
    Ok(0)
}

async fn story(house: &mut House, server: &ServerArgs) -> Result<Told> {
    house.open(server).await?;
    let (python, rust) = build(house).await?;

    heading("Eight runs");
    secret::put(house.client(), repository::SECRET_KEY, repository::SECRET_VALUE).await?;
    let follower = Follower::new(house.client());
    let mut runs = Vec::new();
    for (pipeline, args, expected) in eight(&python, &rust) {
        let run = crate::command::pipeline::start(house.client(), pipeline, &args).await?;
        follower.follow(&run, expected.what);
        runs.push((run, expected));
    }
    cancel_in_the_middle(house, &runs).await?;
    crash(house, &runs).await?;

    let mut ended = Vec::new();
    for (run, expected) in runs {
        ended.push((house.ended(&run.uniqueid).await?, expected));
    }
    follower.finish().await;

    heading("Replaying the log from its first event");
    let replayed = replay::replay(house.client()).await?;
    Ok(Told { runs: ended, replayed })
}

/// Both pipelines are cloned and built at the same time, each on the agent that comes first.
async fn build(house: &mut House) -> Result<(Pipeline, Pipeline)> {
    heading("Two pipelines, from git, built on the agents");
    let python = house.create(&repository::python(house.folder())?).await?;
    let rust = house.create(&repository::rust(house.folder())?).await?;
    let follower = Follower::new(house.client());
    for pipeline in [&python, &rust] {
        let build: Run =
            house.client().get(&format!("/api/v1/run/{}", pipeline.buildrunid)).await?;
        follower.follow(&build, "build");
    }
    let built = tokio::try_join!(house.built(&python), house.built(&rust))?;
    follower.finish().await;
    Ok(built)
}

/// What is started, and how each must end.
fn eight<'a>(python: &'a Pipeline, rust: &'a Pipeline) -> Vec<(&'a Pipeline, StartArgs, Expected)> {
    let start = |pipeline: &'a Pipeline, arguments: &[(&str, &str)], tags: &[&str], expected| {
        let args = StartArgs {
            pipeline: pipeline.name.clone(),
            arguments: arguments.iter().map(|&(key, value)| (key.into(), value.into())).collect(),
            tags: tags.iter().map(ToString::to_string).collect(),
            ..StartArgs::default()
        };
        (pipeline, args, expected)
    };
    vec![
        start(rust, &[("limit", "9000000")], &[], Expected::retried("its agent is killed")),
        start(python, &[], &[], Expected::success("plain")),
        start(rust, &[], &[], Expected::success("plain")),
        start(python, &[], &["green"], Expected::on("by tags", "green")),
        start(python, &[("version", "2.0")], &[], Expected::success("arguments, secret")),
        start(rust, &[("fail", "true")], &[], Expected::failed("fails a job")),
        start(rust, &[("limit", "4000000000")], &["green"], Expected::cancelled("cancelled")),
        start(rust, &[], &["blue"], Expected::on("by tags", "blue")),
    ]
}

async fn cancel_in_the_middle(house: &House, runs: &[(Run, Expected)]) -> Result<()> {
    let (run, _) = runs
        .iter()
        .find(|(_, expected)| expected.status == "cancelled")
        .context("one run is to be cancelled")?;
    house.in_the_middle(&run.uniqueid).await?;
    let path = format!("/api/v1/run/{}/stop", run.uniqueid);
    house.client().call(http::Method::POST, &path, Some(&json!({}))).await?;
    Ok(())
}

/// Kills the agent that has the long run, sees the run go to the other one, and starts the killed
/// agent again: it is the same worker as before.
async fn crash(house: &mut House, runs: &[(Run, Expected)]) -> Result<()> {
    let (run, _) = runs
        .iter()
        .find(|(_, expected)| expected.retried)
        .context("one run is to be tried again")?;
    let agent = house.in_the_middle(&run.uniqueid).await?.worker();
    heading(&format!("kill -9 for agent {agent}, in the middle of a run"));
    house.kill_agent(&agent).await?;
    house.until(&run.uniqueid, "it is tried again", |run| run.attempts.len() > 1).await?;
    house.start_agent(&agent).await
}

fn heading(text: &str) {
    anstream::println!("\n── {text}");
}
