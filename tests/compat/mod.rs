//! Gaia's own programs beside the real product: a peer that speaks as they do, and the stories in which
//! it joins, works and is sent away.

mod go_agent;

use std::{path::Path, time::Duration};

use anyhow::{Context, Result};
use gaia::api::{Pipeline, Run, Worker};
use http::{Method, StatusCode};
use serde_json::{Value, json};
use tests::Cluster;
use tokio::{task::JoinHandle, time::timeout};

use crate::program;
use go_agent::{Does, GoAgent, SENT_AWAY, Work};

/// For what takes some of the agent's ticks of two and three seconds.
const PATIENCE: Duration = Duration::from_mins(2);

/// A server with a pipeline that one of our own agents built, which then takes no more runs: Gaia's
/// agents build nothing.
async fn house() -> Result<(Cluster, Pipeline)> {
    let mut cluster = Cluster::start(program()).await?;
    cluster.agent("builder", &[]).await?;
    let folder = cluster.home("repository");
    let plain = Path::new(env!("CARGO_BIN_EXE_plain-pipeline"));
    // Stripped: Gaia's agent gives a binary five seconds.
    let strip = format!("all:\n\tstrip -o pipeline.out {}\n", plain.display());
    tests::repository_with(&folder, &[("Makefile", &strip)])?;
    let pipeline = cluster.pipeline("plain", "cpp", &folder, &[]).await?;
    act(&cluster, "builder", "suspend").await?;
    Ok((cluster, pipeline))
}

async fn act(cluster: &Cluster, worker: &str, action: &str) -> Result<()> {
    let id = cluster.worker(worker).await?.context("it is registered")?.uniqueid;
    let path = format!("/api/v1/worker/{action}/{id}");
    cluster.client.call(Method::POST, &path, Some(&json!({ "note": "a story" }))).await?;
    Ok(())
}

async fn join(cluster: &Cluster, name: &str) -> Result<GoAgent> {
    let secret = gaia::command::worker::registration_secret(&cluster.client).await?;
    GoAgent::start(cluster.url(), &cluster.ca()?, &cluster.home(name), name, &secret).await
}

/// The agent's loops, until it is sent away.
fn work(mut agent: GoAgent, does: Does) -> JoinHandle<Result<(Work, GoAgent)>> {
    tokio::spawn(async move {
        let work = agent.work(does).await?;
        Ok((work, agent))
    })
}

async fn over(working: JoinHandle<Result<(Work, GoAgent)>>) -> Result<(Work, GoAgent)> {
    timeout(PATIENCE, working).await.context("it was never sent away")??
}

async fn remove(cluster: &Cluster, agent: &str) -> Result<()> {
    cluster.client.call(Method::DELETE, &format!("/api/v1/worker/{agent}"), None::<&()>).await?;
    Ok(())
}

async fn success(cluster: &Cluster, run: &Run) -> Result<Run> {
    let ended = cluster.ended(&run.uniqueid).await?;
    assert_eq!(ended.status, "success", "{}", ended.reason);
    Ok(ended)
}

#[tokio::test(flavor = "multi_thread")]
async fn gaias_agent_joins_works_and_is_sent_away() -> Result<()> {
    let (cluster, pipeline) = house().await?;
    let agent = join(&cluster, "go").await?;
    let id = agent.id().to_owned();
    let working = work(agent, Does::Succeed);
    let runs = [
        cluster.start_run(&pipeline, json!({})).await?,
        cluster.start_run(&pipeline, json!({})).await?,
    ];
    for run in &runs {
        let ended = success(&cluster, run).await?;
        assert_eq!(ended.worker(), "go");
        assert_eq!(ended.attempts.len(), 1, "{:?}", ended.attempts);
        // What the agent leaves out of its reports is still there.
        assert_eq!(
            (ended.pipelinename.as_str(), ended.started_reason.as_str()),
            ("plain", run.started_reason.as_str())
        );
        cluster
            .until("the whole log is there", async || {
                let log = cluster.log(&run.uniqueid).await?;
                let lines: Vec<_> = log.lines().map(|line| line.split(':').next()).collect();
                let whole = ["not scheduled", "not scheduled", "running", "success"].map(Some);
                Ok((lines == whole).then_some(()))
            })
            .await?;
    }
    let worker = cluster.worker("go").await?.context("it is registered")?;
    assert_eq!((worker.finishedruns, worker.status.as_str()), (2, "active"));
    assert_eq!(worker.tags, ["cpp", "linux"]);

    remove(&cluster, &id).await?;
    let (work, agent) = over(working).await?;
    assert_eq!(work.finished, 2);
    assert_eq!(work.sent_away, SENT_AWAY);
    // It has no identity any more, and gets another when it is started again.
    let again = join(&cluster, "go").await?;
    assert_ne!(again.id(), agent.id());
    Ok(())
}

/// Of a run that it cannot do it says `reschedule`, and has forgotten it.
#[tokio::test(flavor = "multi_thread")]
async fn what_gaias_agent_gives_back_is_done_by_another() -> Result<()> {
    let (cluster, pipeline) = house().await?;
    let agent = join(&cluster, "go").await?;
    let id = agent.id().to_owned();
    let working = work(agent, Does::GiveBack);
    let run = cluster.start_run(&pipeline, json!({})).await?;
    cluster.run_that(&run.uniqueid, "is given back", |run| run.attempts.len() > 1).await?;
    act(&cluster, "go", "suspend").await?;
    act(&cluster, "builder", "resume").await?;
    let ended = success(&cluster, &run).await?;
    assert_eq!((ended.attempts[0].workername.as_str(), ended.worker()), ("go", "builder".into()));
    remove(&cluster, &id).await?;
    over(working).await?;
    Ok(())
}

/// It knows of no server that was away: it logs that a call failed and makes it again at the next tick.
#[tokio::test(flavor = "multi_thread")]
async fn gaias_agent_keeps_its_identity_and_its_runs_over_a_restart_of_the_server() -> Result<()> {
    let (mut cluster, pipeline) = house().await?;
    let agent = join(&cluster, "go").await?;
    let id = agent.id().to_owned();
    let working = work(agent, Does::Succeed);
    let run = cluster.start_run(&pipeline, json!({})).await?;
    cluster.run_that(&run.uniqueid, "runs", |run| run.status == "running").await?;
    cluster.kill("server").await?;
    cluster.restart_server().await?;
    assert_eq!(success(&cluster, &run).await?.worker(), "go");
    remove(&cluster, &id).await?;
    assert_eq!(over(working).await?.0.finished, 1);
    Ok(())
}

/// The files are all that it goes by: it registers when they are not there, and not otherwise.
#[tokio::test(flavor = "multi_thread")]
async fn gaias_agent_registers_once_and_only_with_the_secret() -> Result<()> {
    let cluster = Cluster::start(program()).await?;
    let (ca, home) = (cluster.ca()?, cluster.home("go"));
    let guessed = GoAgent::start(cluster.url(), &ca, &home, "go", "guessed").await;
    let refused = guessed.err().context("the secret is wrong")?;
    assert_eq!(refused.to_string(), "403 wrong global worker secret provided");
    let first = join(&cluster, "go").await?.id().to_owned();
    let again = GoAgent::start(cluster.url(), &ca, &home, "go", "guessed").await?;
    assert_eq!(again.id(), first);
    let workers: Vec<Worker> = cluster.client.get("/api/v1/worker").await?;
    assert_eq!(workers.len(), 1);

    let closed = Cluster::start_with(program(), &["--no-registration-secret"]).await?;
    let body = json!({ "name": "go", "secret": "any", "tags": [] });
    let refused = closed.client.call(Method::POST, "/api/v1/worker/register", Some(&body)).await;
    let refused = refused.err().context("it is switched off")?;
    assert_eq!(refused.status(), Some(StatusCode::FORBIDDEN), "{refused}");
    let secret: Result<Vec<Value>, _> = closed.client.get("/api/v1/worker").await;
    assert!(secret?.is_empty());
    Ok(())
}
