//! How fast runs are picked up, and how many get through: `cargo run --release -p benches --bin dispatch`.
//!
//! A real server process with its durable log; starts go in over REST. First this program is the worker
//! itself, over the public door with mTLS, so that the time from the start call to the order's arrival is
//! read from one clock, on HTTP/2 and HTTP/3. Then two real agent processes run a pipeline that does
//! nothing. Raw `fdatasync` of the same disk in the same minute stands beside it.

use std::{collections::HashSet, fs::File, io::Write, time::Duration};

use anyhow::{Context, Result};
use benches::{BenchWorker, load, now, percentiles, rate};
use futures::{StreamExt, stream};
use gaia::api::{Pipeline, Run};
use serde_json::json;
use tests::Cluster;
use transport::Protocols;

/// Starts one after another, for the idle figure.
const IDLE_STARTS: usize = 500;
/// Starts at the same time, and how many wait for an answer at once.
const BUSY_STARTS: usize = 2_000;
const BUSY_AT_ONCE: usize = 64;
/// Runs of the pipeline that does nothing.
const REAL_RUNS: usize = 200;

fn main() -> Result<()> {
    // This program is also the server, the agents and the pipeline.
    if std::env::var_os("GAIA_PLUGIN").is_some() {
        return noop_pipeline();
    }
    if matches!(std::env::args().nth(1).as_deref(), Some("server" | "agent")) {
        std::process::exit(i32::from(gaia::main() != std::process::ExitCode::SUCCESS));
    }
    tokio::runtime::Runtime::new()?.block_on(bench())
}

fn noop_pipeline() -> Result<()> {
    let noop = gaia_sdk::Job::new("Nothing", async |_: gaia_sdk::Ctx| Ok(()));
    anyhow::ensure!(
        gaia_sdk::serve(vec![noop]) == std::process::ExitCode::SUCCESS,
        "the pipeline could not be served"
    );
    Ok(())
}

async fn bench() -> Result<()> {
    let program = std::env::current_exe()?;
    println!("load average before: {}", load());
    raw_sync()?;

    let cluster = Cluster::start(&program).await?;
    for (name, http) in [("HTTP/3", Protocols::Http3), ("HTTP/2", Protocols::Http2)] {
        let worker = BenchWorker::join(&cluster, name, http).await?;
        let pipeline = worker.pipeline(&cluster, name, "a few bytes".into()).await?;
        idle(&worker, &cluster, &pipeline, name).await?;
        busy(&worker, &cluster, &pipeline, name).await?;
        worker.leave().await?;
    }
    drop(cluster);

    let mut cluster = Cluster::start(&program).await?;
    for agent in ["one", "two"] {
        cluster.agent(agent, &["--slots", "4"]).await?;
    }
    let pipeline = cluster.pipeline_of("nothing", &program, &[]).await?;
    let begun = now();
    let runs = start_many(&cluster, &pipeline, REAL_RUNS).await?;
    let mut pick_ups = Vec::new();
    for run in &runs {
        let run = cluster.ended(run).await?;
        anyhow::ensure!(run.status == "success", "{}", run.reason);
        pick_ups.extend(run.pick_up().map(Duration::from_millis));
    }
    let rate = rate(REAL_RUNS, begun.elapsed());
    println!("two real agents, 8 slots, a process started for each run: {rate:.1} runs/s");
    println!("  submitted to running, while {REAL_RUNS} wait: {}", percentiles(&mut pick_ups));
    println!("load average after: {}", load());
    Ok(())
}

/// What one durable write costs here, now.
fn raw_sync() -> Result<()> {
    let mut file = tempfile::tempfile()?;
    file.set_len(1 << 20)?;
    let mut took: Vec<Duration> = (0..300)
        .map(|_| {
            let begun = now();
            write_and_sync(&mut file).map(|()| begun.elapsed())
        })
        .collect::<std::io::Result<_>>()?;
    println!("raw 512-byte write and fdatasync: {}", percentiles(&mut took));
    Ok(())
}

fn write_and_sync(file: &mut File) -> std::io::Result<()> {
    file.write_all(&[7; 512])?;
    file.sync_data()
}

/// One start after another: from the call to the order's arrival.
async fn idle(
    worker: &BenchWorker,
    cluster: &Cluster,
    pipeline: &Pipeline,
    name: &str,
) -> Result<()> {
    let mut took = Vec::new();
    for _ in 0..IDLE_STARTS {
        let begun = now();
        let started = cluster.start_run(pipeline, json!({}));
        let (started, ordered) = tokio::join!(started, worker.order());
        let ((order, arrived), _) = (ordered?, started?);
        took.push(arrived.duration_since(begun));
        worker.report(&order, "running").await?;
        worker.report(&order, "success").await?;
    }
    println!("{name}, idle: start to order {}", percentiles(&mut took));
    Ok(())
}

/// Many at once: whole lives of runs, each step durable before its answer.
async fn busy(
    worker: &BenchWorker,
    cluster: &Cluster,
    pipeline: &Pipeline,
    name: &str,
) -> Result<()> {
    let begun = now();
    let work = async {
        let answers = stream::unfold((), async |()| {
            let (order, _) = worker.order().await.ok()?;
            Some((order, ()))
        });
        answers
            .take(BUSY_STARTS)
            .map(async |order| {
                worker.report(&order, "running").await?;
                worker.report(&order, "success").await
            })
            .buffer_unordered(BUSY_AT_ONCE)
            .collect::<Vec<Result<()>>>()
            .await
            .into_iter()
            .collect::<Result<Vec<()>>>()
    };
    let (ids, outcome) = tokio::join!(start_many(cluster, pipeline, BUSY_STARTS), work);
    outcome?;
    let runs = ids?;
    let rate = rate(runs.len(), begun.elapsed());
    let mut took = Vec::new();
    let all: Vec<Run> = cluster.client.get("/api/v1/run?limit=0").await?;
    let mine: HashSet<&str> = runs.iter().map(String::as_str).collect();
    for run in all.iter().filter(|run| mine.contains(run.uniqueid.as_str())) {
        let assigned = run.attempts.first().context("it ran")?.assigned_at;
        took.push(Duration::from_millis(assigned.saturating_sub(run.submitted_at)));
    }
    println!(
        "{name}, {BUSY_AT_ONCE} at once: {rate:.0} run lives/s; submitted to assigned {}",
        percentiles(&mut took)
    );
    Ok(())
}

async fn start_many(cluster: &Cluster, pipeline: &Pipeline, count: usize) -> Result<Vec<String>> {
    stream::iter(0..count)
        .map(async |_| Ok(cluster.start_run(pipeline, json!({})).await?.uniqueid))
        .buffer_unordered(BUSY_AT_ONCE)
        .collect::<Vec<Result<String>>>()
        .await
        .into_iter()
        .collect()
}
