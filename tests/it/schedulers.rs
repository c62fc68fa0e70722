//! Two schedulers as processes of their own, behind a real gateway: what users see of a take-over.

use std::fs;

use anyhow::{Context, Result, ensure};
use futures::StreamExt;
use gaia::{api::Run, client::Client};
use serde_json::json;
use tests::{Cluster, Setting};

use crate::{program, story_pipeline};

/// The states that a follower of the run is told, to the end of what it is told.
async fn states(client: Client, run: String) -> Result<Vec<Run>> {
    let mut events = client.follow(&format!("/api/v1/run/{run}")).await?;
    let mut told = vec![];
    while let Some(event) = events.next().await {
        let event = event?;
        ensure!(event.name == "run", "the watch broke: {}", event.data);
        told.push(serde_json::from_str(&event.data).context("a run is told")?);
    }
    Ok(told)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_follows_a_run_hears_of_its_end_though_the_leader_is_killed() -> Result<()> {
    let lines = "leader_lease_millis = 1000\n";
    let quick = Setting { service: "svc-scheduler", lines, environment: &[] };
    let mut cluster = Cluster::start_apart(program(), &[quick], |_| Ok(())).await?;
    cluster.standby().await?;
    cluster.agent("one", &["--slots", "2"]).await?;
    let pipeline = cluster.pipeline_of("story", story_pipeline(), &[]).await?;
    let gate = cluster.home("gate");
    let at_gate = json!({ "args": [{ "key": "gate", "value": gate }] });
    let running = cluster.start_run(&pipeline, at_gate).await?.uniqueid;
    let queued = cluster.start_run(&pipeline, json!({ "tags": ["later"] })).await?.uniqueid;
    cluster.run_that(&running, "runs", |run| run.status == "running").await?;
    let followers =
        [&running, &queued].map(|run| tokio::spawn(states(cluster.client.clone(), run.clone())));

    cluster.kill("svc-scheduler").await?;
    cluster.said("standby", "leads in term 1").await?;
    fs::write(&gate, "")?;
    cluster.agent("two", &["--tag", "later"]).await?;
    for (follower, run) in followers.into_iter().zip([running, queued]) {
        let told = follower.await??;
        let last = told.last().context("something is told")?;
        ensure!(
            last.status == "success",
            "the last state told is {}: {}",
            last.status,
            last.reason
        );
        let ended = cluster.ended(&run).await?;
        ensure!(ended.attempts.len() == 1, "the take-over cost an attempt: {:?}", ended.attempts);
    }
    Ok(())
}
