//! What people do to runs and workers: cancel, suspend, choose by tags.

use anyhow::Result;
use http::Method;
use serde_json::json;
use tests::Cluster;

use crate::{cluster_of_one, program, story_pipeline};

#[tokio::test]
async fn a_cancelled_run_ends_cancelled_and_its_process_is_gone() -> Result<()> {
    let (cluster, pipeline) = cluster_of_one().await?;
    let gate = cluster.home("one").join("never");
    let run =
        cluster.start_run(&pipeline, json!({ "args": [{ "key": "gate", "value": gate }] })).await?;
    let log = cluster
        .until("the run waits at its gate", async || {
            let log = cluster.log(&run.uniqueid).await?;
            Ok(log.contains("waiting as process").then_some(log))
        })
        .await?;
    let process = process_in(&log);

    cluster.cancel(&run.uniqueid).await?;
    let run = cluster.ended(&run.uniqueid).await?;
    assert_eq!(run.status, "cancelled", "{}", run.reason);
    cluster
        .until("the pipeline's process is gone", async || Ok((!is_alive(process)).then_some(())))
        .await?;

    // Terminal stays terminal: a second cancel changes nothing.
    cluster.cancel(&run.uniqueid).await?;
    let again = cluster.run(&run.uniqueid).await?;
    assert_eq!(again.finished_at, run.finished_at);
    Ok(())
}

#[tokio::test]
async fn a_queued_run_can_be_cancelled() -> Result<()> {
    let (cluster, pipeline) = cluster_of_one().await?;
    let run = cluster.start_run(&pipeline, json!({ "tags": ["no-worker-has-this"] })).await?;
    cluster.cancel(&run.uniqueid).await?;
    let run = cluster.ended(&run.uniqueid).await?;
    assert_eq!((run.status.as_str(), run.attempts.len()), ("cancelled", 0));
    Ok(())
}

#[tokio::test]
async fn a_suspended_worker_gets_nothing_until_it_is_resumed() -> Result<()> {
    let (cluster, pipeline) = cluster_of_one().await?;
    let worker = cluster.worker("one").await?.expect("the worker is registered");
    let act = async |what: &str| {
        let path = format!("/api/v1/worker/{what}/{}", worker.uniqueid);
        cluster.client.call(Method::POST, &path, Some(&json!({ "note": "new disk" }))).await
    };
    act("suspend").await?;
    let suspended = cluster.worker("one").await?.expect("a suspended worker is not deleted");
    assert_eq!(suspended.status, "suspended");

    let run = cluster.start_run(&pipeline, json!({})).await?;
    let waiting = placement(&cluster, &run.uniqueid).await?;
    assert!(waiting.contains("suspended"), "{waiting}");
    assert_eq!(cluster.run(&run.uniqueid).await?.attempts.len(), 0);

    act("resume").await?;
    let run = cluster.ended(&run.uniqueid).await?;
    assert_eq!(run.status, "success", "{}", run.reason);
    Ok(())
}

#[tokio::test]
async fn tags_choose_the_worker_whatever_their_case() -> Result<()> {
    let mut cluster = Cluster::start(program()).await?;
    cluster.agent("red", &["--tag", "Red"]).await?;
    cluster.agent("blue", &["--tag", "Blue"]).await?;
    let pipeline = cluster.pipeline_of("story", story_pipeline(), &[]).await?;
    for (tag, worker) in [("RED", "red"), ("blue", "blue"), ("red", "red")] {
        let run = cluster.start_run(&pipeline, json!({ "tags": [tag] })).await?;
        let run = cluster.ended(&run.uniqueid).await?;
        assert_eq!((run.status.as_str(), run.worker().as_str()), ("success", worker));
    }
    let pinned = cluster.start_run(&pipeline, json!({ "worker": "blue" })).await?;
    assert_eq!(cluster.ended(&pinned.uniqueid).await?.worker(), "blue");
    Ok(())
}

#[tokio::test]
async fn the_primary_takes_what_no_other_worker_can() -> Result<()> {
    let mut cluster = Cluster::start_with(program(), &["--slots", "2"]).await?;
    cluster
        .until("the primary is connected", async || {
            let primary = cluster.worker("primary").await?;
            Ok(primary.filter(|primary| primary.status == "active"))
        })
        .await?;
    cluster.agent("one", &[]).await?;
    let pipeline = cluster.pipeline_of("story", story_pipeline(), &[]).await?;
    let run = cluster.start_run(&pipeline, json!({})).await?;
    assert_eq!(cluster.ended(&run.uniqueid).await?.worker(), "one");

    let one = cluster.worker("one").await?.expect("the worker is registered");
    let suspend = format!("/api/v1/worker/suspend/{}", one.uniqueid);
    cluster.client.call(Method::POST, &suspend, Some(&json!({ "note": "new disk" }))).await?;
    let run = cluster.start_run(&pipeline, json!({})).await?;
    let ended = cluster.ended(&run.uniqueid).await?;
    assert_eq!((ended.status.as_str(), ended.worker().as_str()), ("success", "primary"));
    let why = placement(&cluster, &run.uniqueid).await?;
    assert!(why.ends_with("`primary`: no other worker that took runs suited it"), "{why}");
    Ok(())
}

#[tokio::test]
async fn a_run_that_no_worker_can_take_waits_and_says_why() -> Result<()> {
    let (mut cluster, pipeline) = cluster_of_one().await?;
    let run = cluster.start_run(&pipeline, json!({ "tags": ["gpu"] })).await?;
    let why = placement(&cluster, &run.uniqueid).await?;
    assert!(why.contains("gpu"), "{why}");

    cluster.agent("two", &["--tag", "gpu"]).await?;
    let run = cluster.ended(&run.uniqueid).await?;
    assert_eq!((run.status.as_str(), run.worker().as_str()), ("success", "two"));
    Ok(())
}

async fn placement(cluster: &Cluster, run: &str) -> Result<String> {
    let path = format!("/api/v1/run/{run}/placement");
    let placement: serde_json::Value = cluster.client.get(&path).await?;
    Ok(placement["summary"].as_str().unwrap_or_default().to_owned())
}

/// The process id that the story pipeline printed.
fn process_in(log: &str) -> u32 {
    let rest = log.split("waiting as process ").nth(1).expect("the log names the process");
    rest.split_whitespace().next().and_then(|id| id.parse().ok()).expect("a process id")
}

fn is_alive(process: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // A zombie is dead and only waits to be read.
    !stat.is_empty() && !stat.contains(") Z ")
}
