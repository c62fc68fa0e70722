//! What must survive: agents that vanish, servers that are killed, connections that break.

use std::fs;

use anyhow::Result;
use eventlog::Clock;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use tests::Cluster;

use crate::{cluster_of_one, program, story_pipeline};

#[tokio::test]
async fn a_run_whose_worker_is_killed_is_tried_again_on_another() -> Result<()> {
    let mut cluster = Cluster::start(program()).await?;
    cluster.agent("one", &[]).await?;
    let pipeline = cluster.pipeline_of("story", story_pipeline(), &[]).await?;
    let gate = cluster.home("gate");
    let run =
        cluster.start_run(&pipeline, json!({ "args": [{ "key": "gate", "value": gate }] })).await?;
    cluster.run_that(&run.uniqueid, "runs on `one`", |run| run.status == "running").await?;

    cluster.agent("two", &[]).await?;
    cluster.kill("one").await?;
    fs::write(&gate, "")?;
    let run = cluster.ended(&run.uniqueid).await?;
    assert_eq!(run.status, "success", "{}", run.reason);
    let workers: Vec<_> = run.attempts.iter().map(|attempt| attempt.workername.as_str()).collect();
    assert_eq!(workers, ["one", "two"]);
    assert!(run.attempts[0].reason.contains("lost"), "{}", run.attempts[0].reason);
    Ok(())
}

/// Its connections stay open all the while.
#[tokio::test]
async fn a_worker_that_stands_still_for_less_than_the_grace_time_keeps_its_run() -> Result<()> {
    let mut cluster = Cluster::start_with(program(), &["--worker-grace", "60"]).await?;
    for (name, protocol) in [("two", "http2"), ("three", "http3")] {
        let tag = ["--tag", name, "--protocols", protocol];
        cluster.agent(name, &tag).await?;
        let pipeline = cluster.pipeline_of(name, story_pipeline(), &[name]).await?;
        let gate = cluster.home(&format!("gate of {name}"));
        let at_gate = json!({ "args": [{ "key": "gate", "value": gate }] });
        let run = cluster.start_run(&pipeline, at_gate).await?;
        cluster.run_that(&run.uniqueid, "runs", |run| run.status == "running").await?;

        signal(&cluster, name, Signal::SIGSTOP)?;
        connected(&cluster, name, false).await?;
        signal(&cluster, name, Signal::SIGCONT)?;
        connected(&cluster, name, true).await?;
        fs::write(&gate, "")?;
        let run = cluster.ended(&run.uniqueid).await?;
        assert_eq!((run.status.as_str(), run.attempts.len()), ("success", 1), "{}", run.reason);
    }
    Ok(())
}

#[tokio::test]
async fn a_silent_worker_is_lost_by_when_it_was_heard_last() -> Result<()> {
    let mut cluster = Cluster::start_with(program(), &["--worker-grace", "5"]).await?;
    for (name, protocol) in [("two", "http2"), ("three", "http3")] {
        cluster.agent(name, &["--protocols", protocol]).await?;
        signal(&cluster, name, Signal::SIGSTOP)?;
        let stopped_at = Clock::system().now();
        let lost = cluster
            .until("it is lost", async || {
                let workers: Vec<Value> = cluster.client.get("/api/v1/worker").await?;
                let is_it = |one: &Value| one["name"] == name && one["state"] == "lost";
                Ok(workers.into_iter().find(is_it))
            })
            .await?;
        signal(&cluster, name, Signal::SIGCONT)?;
        // The connection was given up later: HTTP/2 waits for an answer for 10 s, HTTP/3 for 15.
        let heard_at = lost["last_contact_at"].as_u64().unwrap_or_default();
        let late = heard_at.saturating_sub(stopped_at.as_millis());
        assert!(late < 9_000, "{name}: heard {late} ms after it was stopped");
        connected(&cluster, name, true).await?;
    }
    Ok(())
}

fn signal(cluster: &Cluster, name: &str, signal: Signal) -> Result<()> {
    Ok(kill(Pid::from_raw(cluster.pid(name)?.cast_signed()), signal)?)
}

async fn connected(cluster: &Cluster, name: &str, wanted: bool) -> Result<()> {
    let is_so = async || {
        Ok(cluster.worker(name).await?.filter(|worker| worker.connected == wanted).map(drop))
    };
    cluster.until(&format!("{name} is connected: {wanted}"), is_so).await
}

#[tokio::test]
async fn a_server_that_is_killed_mid_run_forgets_nothing() -> Result<()> {
    let (mut cluster, pipeline) = cluster_of_one().await?;
    let gate = cluster.home("gate");
    let at_gate = json!({ "args": [{ "key": "gate", "value": gate }] });
    let running = cluster.start_run(&pipeline, at_gate).await?;
    let queued = cluster.start_run(&pipeline, json!({ "tags": ["later"] })).await?;
    let finished = cluster.start_run(&pipeline, json!({})).await?;
    let finished = cluster.ended(&finished.uniqueid).await?;
    cluster.run_that(&running.uniqueid, "runs", |run| run.status == "running").await?;

    cluster.kill("server").await?;
    cluster.restart_server().await?;
    let after = cluster.run(&finished.uniqueid).await?;
    assert_eq!(
        (after.status, after.finished_at, after.attempts.len()),
        (finished.status, finished.finished_at, finished.attempts.len())
    );
    fs::write(&gate, "")?;
    let running = cluster.ended(&running.uniqueid).await?;
    assert_eq!(running.status, "success", "{}", running.reason);
    assert_eq!(running.attempts.len(), 1, "the agent kept its run through the restart");
    let log = cluster.log(&running.uniqueid).await?;
    assert!(log.contains("waiting") && log.contains("the gate is open"), "{log}");

    cluster.agent("two", &["--tag", "later"]).await?;
    assert_eq!(cluster.ended(&queued.uniqueid).await?.status, "success");
    Ok(())
}

#[tokio::test]
async fn an_agent_that_is_restarted_is_the_same_worker_and_does_its_run_again() -> Result<()> {
    let (mut cluster, pipeline) = cluster_of_one().await?;
    let before = cluster.worker("one").await?.expect("the worker is registered");
    let gate = cluster.home("gate");
    let run =
        cluster.start_run(&pipeline, json!({ "args": [{ "key": "gate", "value": gate }] })).await?;
    cluster.run_that(&run.uniqueid, "runs", |run| run.status == "running").await?;

    cluster.kill("one").await?;
    cluster.agent("one", &["--slots", "4"]).await?;
    fs::write(&gate, "")?;
    let run = cluster.ended(&run.uniqueid).await?;
    assert_eq!((run.status.as_str(), run.attempts.len()), ("success", 2), "{}", run.reason);
    let after = cluster.worker("one").await?.expect("the worker is registered");
    assert_eq!(before.uniqueid, after.uniqueid);
    Ok(())
}

#[tokio::test]
async fn an_agent_that_is_asked_to_end_finishes_its_run_first() -> Result<()> {
    let (mut cluster, pipeline) = cluster_of_one().await?;
    let gate = cluster.home("gate");
    let run =
        cluster.start_run(&pipeline, json!({ "args": [{ "key": "gate", "value": gate }] })).await?;
    cluster.run_that(&run.uniqueid, "runs", |run| run.status == "running").await?;
    let open_gate = async {
        // The agent is draining when it is given nothing new.
        fs::write(&gate, "")?;
        anyhow::Ok(())
    };
    open_gate.await?;
    let status = cluster.stop("one").await?;
    assert!(status.success(), "{status}");
    let run = cluster.ended(&run.uniqueid).await?;
    assert_eq!((run.status.as_str(), run.attempts.len()), ("success", 1), "{}", run.reason);
    Ok(())
}

#[tokio::test]
async fn a_server_that_is_asked_to_end_ends_and_an_idle_agent_outlives_it() -> Result<()> {
    let (mut cluster, _) = cluster_of_one().await?;
    let status = cluster.stop("server").await?;
    assert!(status.success(), "{status}");
    cluster.restart_server().await?;
    let back = cluster.until("the agent is back", async || {
        Ok(cluster.worker("one").await?.filter(|worker| worker.connected).map(drop))
    });
    back.await
}

#[tokio::test]
async fn what_the_server_has_of_a_log_outlives_a_loss_of_power_at_the_agent() -> Result<()> {
    let mut cluster = Cluster::start_apart(program(), &[], |_| Ok(())).await?;
    cluster.agent("one", &["--slots", "2"]).await?;
    let pipeline = cluster.pipeline_of("story", story_pipeline(), &[]).await?;
    let gate = cluster.home("gate");
    let arguments = json!([{ "key": "gate", "value": gate }, { "key": "lines", "value": "2000" }]);
    let mut before = vec![];
    for _ in 0..2 {
        let run = cluster.start_run(&pipeline, json!({ "args": arguments })).await?;
        let log = cluster.until("the server has the log", async || {
            let log = cluster.log(&run.uniqueid).await.unwrap_or_default();
            Ok(log.contains("waiting").then_some(log))
        });
        before.push((run.uniqueid.clone(), log.await?));
    }
    cluster.kill("one").await?;
    // What was not synced comes back as zeros, or not at all.
    for (zeros, entry) in fs::read_dir(cluster.home("one").join("spool"))?.enumerate() {
        for file in fs::read_dir(entry?.path())?.flatten().map(|file| file.path()) {
            if file.extension().is_some_and(|it| it == "log") {
                let file = fs::File::options().write(true).open(file)?;
                let length = file.metadata()?.len();
                file.set_len(length / 2)?;
                file.set_len(if zeros == 1 { length } else { length / 2 })?;
            }
        }
    }
    // It has no log open any more.
    cluster.kill("svc-logs").await?;
    cluster.restart("svc-logs")?;
    fs::write(&gate, "")?;
    cluster.agent("one", &["--slots", "2"]).await?;
    for (run, log) in before {
        let path = format!("/api/v1/run/{run}/log?attempt=1");
        let sealed = cluster.until("the log is sealed", async || {
            let about: Value = cluster.client.get(&format!("{path}&about=1")).await?;
            Ok(Some(about["sealed"].clone()).filter(|sealed| !sealed.is_null()))
        });
        let sealed = sealed.await?;
        let raw = format!("{path}&raw=1");
        let bytes = cluster.client.call(http::Method::GET, &raw, None::<&()>).await?;
        assert!(bytes.starts_with(log.as_bytes()), "{}", bytes.escape_ascii());
        assert_ne!(sealed["incomplete"], "", "{sealed}");
    }
    Ok(())
}
