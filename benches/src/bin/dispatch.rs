//! How fast runs are picked up, and how many get through: `cargo run --release -p benches --bin dispatch`.
//!
//! A real server process with its durable log; starts go in over REST. This program is all the workers,
//! each with a connection of its own through the public door with mTLS, so that the time from the start
//! call to the order's arrival is read from one clock, on HTTP/2 and HTTP/3. A life is a start, the
//! order, the report that it runs and the one that it succeeded, each durable before its answer. Then two
//! real agent processes run a pipeline that does nothing. Raw appends to the log in the same minute stand
//! beside it. Server and workers share the machine's processors.

use std::{process::ExitCode, time::Duration};

use anyhow::Result;
use benches::{Fleet, Usage, each, load, now, percentiles, rate, raw_appends, run};
use clap::Parser;
use futures::{StreamExt, TryStreamExt, stream};
use gaia::api::Pipeline;
use serde_json::json;
use tests::Cluster;
use transport::Protocols;

#[derive(Parser, Debug)]
struct Arguments {
    /// Workers that are connected
    #[arg(long, default_value_t = 1_000)]
    workers: usize,
    /// Runs at full speed
    #[arg(long, default_value_t = 20_000)]
    lives: usize,
    /// Runs between start and end at full speed
    #[arg(long, default_value_t = 256)]
    at_once: usize,
    /// Leave one of the protocols out
    #[arg(long, value_parser = ["h2", "h3"])]
    only: Option<String>,
}

/// Runs one after another, for the idle figure.
const IDLE: usize = 500;
/// Seconds at four fifths of full speed.
const STEADY: u32 = 10;
/// Runs of the pipeline that does nothing, and how many are started at once.
const REAL_RUNS: usize = 200;
const STARTS_AT_ONCE: usize = 64;

fn main() -> Result<ExitCode> {
    // This program is also the server, the agents and the pipeline.
    if std::env::var_os("GAIA_PLUGIN").is_some() {
        let noop = gaia_sdk::Job::new("Nothing", async |_: gaia_sdk::Ctx| Ok(()));
        return Ok(gaia_sdk::serve(vec![noop]));
    }
    run(async |arguments: Arguments| bench(&arguments).await)
}

async fn bench(arguments: &Arguments) -> Result<()> {
    println!("load average before: {}", load());
    for (word, http) in [("h2", Protocols::Http2), ("h3", Protocols::Http3)] {
        if arguments.only.as_ref().is_none_or(|only| only == word) {
            println!("{word}, {} workers, {} starts at once", arguments.workers, arguments.at_once);
            protocol(arguments, http).await?;
        }
    }
    if arguments.only.is_none() {
        real_agents().await?;
    }
    println!("load average after: {}", load());
    Ok(())
}

async fn protocol(arguments: &Arguments, http: Protocols) -> Result<()> {
    let mut cluster = Cluster::start(&std::env::current_exe()?).await?;
    cluster.reconnect(http).await?;
    let mut fleet = Fleet::new(&cluster, http, 4);
    fleet.join(&cluster, arguments.workers).await?;
    let pipeline = fleet.pipeline(&cluster, "bench").await?;

    let mut idle = fleet.lives(&cluster, &pipeline, IDLE, 1, None).await?;
    println!("  idle: start to order {}", percentiles(&mut idle.pick_ups));

    let raw = raw_appends(arguments.at_once).await?;
    let full = full(arguments, &cluster, &mut fleet, &pipeline).await?;
    println!("  raw appends to the log, {} at once: {raw:.0}/s before", arguments.at_once);

    let pause = Duration::from_secs_f64(1.0 / (0.8 * full));
    let count = (Duration::from_secs(1) * STEADY).div_duration_f64(pause);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small count")]
    let steady = fleet.lives(&cluster, &pipeline, count as usize, 100_000, Some(pause)).await;
    let mut steady = steady?;
    let rate = rate(steady.pick_ups.len(), steady.took);
    println!("  at {rate:.0} lives/s: start to order {}", percentiles(&mut steady.pick_ups));
    Ok(())
}

async fn full(
    arguments: &Arguments,
    cluster: &Cluster,
    fleet: &mut Fleet,
    pipeline: &Pipeline,
) -> Result<f64> {
    let server = cluster.pid("server")?;
    let (before, own_before) = (Usage::of(server)?, Usage::of(std::process::id())?);
    let (lives, at_once) = (arguments.lives, arguments.at_once);
    let mut full = fleet.lives(cluster, pipeline, lives, at_once, None).await?;
    let (after, own_after) = (Usage::of(server)?, Usage::of(std::process::id())?);
    let rate = rate(lives, full.took);
    let cost = |cpu: Duration| each(1e6 * cpu.as_secs_f64(), lives);
    println!("  full: {rate:.0} lives/s; start to order {}", percentiles(&mut full.pick_ups));
    println!(
        "    processor a life: server {:.0} µs, load {:.0} µs",
        cost(after.cpu_since(before)),
        cost(own_after.cpu_since(own_before)),
    );
    Ok(rate)
}

async fn real_agents() -> Result<()> {
    let program = std::env::current_exe()?;
    let mut cluster = Cluster::start(&program).await?;
    for agent in ["one", "two"] {
        cluster.agent(agent, &["--slots", "4"]).await?;
    }
    let pipeline = cluster.pipeline_of("nothing", &program, &[]).await?;
    let begun = now();
    let runs: Vec<String> = stream::iter(0..REAL_RUNS)
        .map(async |_| anyhow::Ok(cluster.start_run(&pipeline, json!({})).await?.uniqueid))
        .buffer_unordered(STARTS_AT_ONCE)
        .try_collect()
        .await?;
    let mut pick_ups = Vec::new();
    for run in &runs {
        let run = cluster.ended(run).await?;
        anyhow::ensure!(run.status == "success", "{}", run.reason);
        pick_ups.extend(run.pick_up().map(Duration::from_millis));
    }
    let rate = rate(REAL_RUNS, begun.elapsed());
    println!("two real agents, 8 slots, a process started for each run: {rate:.1} runs/s");
    println!("  submitted to running, while {REAL_RUNS} wait: {}", percentiles(&mut pick_ups));
    Ok(())
}
