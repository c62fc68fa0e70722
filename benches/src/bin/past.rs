//! What a look into the past costs on a long log:
//! `cargo run --release -p benches --bin past -- --events 1000000`.
//!
//! Workers of this program join a real server and have a run, of which the log then gets as many copies as it
//! takes. The fleet is looked at as it was: first where nobody has looked yet, which reads the log from its
//! beginning, then at places all over it.

use std::{process::ExitCode, time::Duration};

use anyhow::{Context as _, Result};
use benches::{Fleet, Kind, Usage, load, now, percentiles, run, seed};
use clap::Parser;
use gaia::api::Run;
use serde_json::Value;
use tests::Cluster;
use transport::Protocols;

#[derive(Parser, Debug)]
struct Arguments {
    /// Events in the log
    #[arg(long, default_value_t = 1_000_000)]
    events: usize,
    /// Workers
    #[arg(long, default_value_t = 100)]
    workers: usize,
}

const LOOKS: u64 = 40;

fn main() -> Result<ExitCode> {
    run(async |arguments: Arguments| bench(&arguments).await)
}

async fn bench(arguments: &Arguments) -> Result<()> {
    println!("{} events; load average before: {}", arguments.events, load());
    let mut cluster = Cluster::start(&std::env::current_exe()?).await?;
    let mut fleet = Fleet::new(&cluster, Protocols::Http2, 8);
    fleet.join(&cluster, arguments.workers).await?;
    let pipeline = fleet.pipeline(&cluster, "past").await?;
    fleet.lives(&cluster, &pipeline, 1, 1, None).await?;
    let runs: Vec<Run> = cluster.client.get("/api/v1/run?limit=1").await?;
    let model = runs.into_iter().next().context("the model is listed")?.uniqueid;
    fleet.cut()?;
    cluster.stop("server").await?;
    let data = cluster.home("server");
    let of_one = seed(&data, &model, Kind::Finished, 2, 1).await?;
    seed(&data, &model, Kind::Finished, 3, arguments.events / of_one).await?;
    let begun = now();
    cluster.restart_server().await?;
    println!("  start: {:.2?}", begun.elapsed());
    let events = last_position(&cluster).await?;

    let before = Usage::of(cluster.pid("server")?)?;
    let (first, workers) = look(&cluster, events / 2).await?;
    println!("  the first look, at the middle: {first:?}, {workers} workers");
    let (last, _) = look(&cluster, events - 1).await?;
    println!("  the first look at the end: {last:?}");
    let mut took = Vec::new();
    for nth in 1..=LOOKS {
        // Anywhere: the golden ratio of the length further each time.
        let at = nth * (events * 618 / 1_000) % events;
        took.push(look(&cluster, at).await?.0);
    }
    let after = Usage::of(cluster.pid("server")?)?;
    println!("  {LOOKS} looks anywhere: {}", percentiles(&mut took));
    println!(
        "  server: {} MiB before the looks, {} MiB after; load average after: {}",
        before.resident >> 20,
        after.resident >> 20,
        load()
    );
    Ok(())
}

/// How long it took, and how many workers there were.
async fn look(cluster: &Cluster, at: u64) -> Result<(Duration, usize)> {
    let asked = now();
    let fleet: Value = cluster.client.get(&format!("/api/v1/fleet?at={at}")).await?;
    let took = asked.elapsed();
    let workers = fleet["workers"].as_array().context("there are workers")?.len();
    Ok((took, workers))
}

async fn last_position(cluster: &Cluster) -> Result<u64> {
    let last: Value = cluster.client.get("/api/v1/events?order=desc&limit=1").await?;
    last.pointer("/0/position").and_then(Value::as_u64).context("an event has a position")
}
