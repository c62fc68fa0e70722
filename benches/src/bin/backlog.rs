//! What runs cost that wait or have ended: `cargo run --release -p benches --bin backlog`.
//!
//! A log is filled with copies of one run, while its server is stopped; then the server is started again,
//! over that log. Reported are the start, the memory of the whole server, and how many runs get through
//! while the queue keeps its length: for each that ends another is started. Server and workers share
//! the machine's processors, so rates are to be compared with each other.

use std::{process::ExitCode, time::Duration};

use anyhow::{Context, Result};
use benches::{Fleet, Kind, Usage, each, kibibytes_each, load, now, rate, raw_appends, run, seed};
use clap::Parser;
use gaia::api::{Pipeline, Run};
use tests::Cluster;
use tokio::time::sleep;
use transport::Protocols;

#[derive(Parser, Debug)]
struct Arguments {
    /// Workers that are connected, with one slot each
    #[arg(long, default_value_t = 1_000)]
    workers: usize,
    /// Lengths of the queue, ascending
    #[arg(long, value_delimiter = ',', default_value = "1000,100000,1000000")]
    queued: Vec<usize>,
    /// Runs that ended
    #[arg(long, value_delimiter = ',', default_value = "1000000")]
    finished: Vec<usize>,
    /// Runs that go through at each length
    #[arg(long, default_value_t = 10_000)]
    lives: usize,
}

/// Starts on their way at once.
const AT_ONCE: usize = 256;
/// What the server gets after its start, before its memory is looked at.
const SETTLE: Duration = Duration::from_secs(3);

fn main() -> Result<ExitCode> {
    run(async |arguments: Arguments| bench(&arguments).await)
}

async fn bench(arguments: &Arguments) -> Result<()> {
    println!("load average before: {}", load());
    for (kind, counts) in [(Kind::Queued, &arguments.queued), (Kind::Finished, &arguments.finished)]
    {
        if !counts.is_empty() {
            let mut bench = Bench::new(arguments).await?;
            for &count in counts {
                bench.measure(kind, count).await?;
            }
        }
    }
    println!("load average after: {}", load());
    Ok(())
}

struct Bench {
    cluster: Cluster,
    fleet: Fleet,
    pipeline: Pipeline,
    model: String,
    lives: usize,
    /// Of the server with neither runs nor workers.
    empty: u64,
    filled: usize,
}

impl Bench {
    async fn new(arguments: &Arguments) -> Result<Self> {
        let mut cluster = Cluster::start(&std::env::current_exe()?).await?;
        let mut fleet = Fleet::new(&cluster, Protocols::Http2, 1);
        fleet.join(&cluster, arguments.workers).await?;
        let pipeline = fleet.pipeline(&cluster, "bench").await?;
        fleet.lives(&cluster, &pipeline, 1, 1, None).await?;
        let runs: Vec<Run> = cluster.client.get("/api/v1/run?limit=1").await?;
        let model = runs.into_iter().next().context("the model is listed")?.uniqueid;
        fleet.cut()?;
        cluster.stop("server").await?;
        cluster.restart_server().await?;
        sleep(SETTLE).await;
        let empty = Usage::of(cluster.pid("server")?)?.resident;
        let lives = arguments.lives;
        Ok(Self { cluster, fleet, pipeline, model, lives, empty, filled: 0 })
    }

    async fn measure(&mut self, kind: Kind, count: usize) -> Result<()> {
        self.cluster.stop("server").await?;
        let (data, number) = (self.cluster.home("server"), 1_000_000 + self.filled as u64);
        let begun = now();
        let added = count - self.filled;
        let events = seed(&data, &self.model, kind, number, added).await?;
        println!(
            "{kind:?}: {count} runs; {events} events appended, {:.0}/s",
            rate(events, begun.elapsed())
        );
        self.filled = count;

        let begun = now();
        self.cluster.restart_server().await?;
        let took = begun.elapsed();
        self.cluster.reconnect(Protocols::Http2).await?;
        sleep(SETTLE).await;
        let usage = Usage::of(self.cluster.pid("server")?)?;
        println!(
            "  start in {took:.2?}; {:.2} KiB of memory a run, {} MiB in all",
            kibibytes_each(usage.resident.saturating_sub(self.empty), count),
            usage.resident >> 20,
        );
        let begun = now();
        let listed: Vec<Run> = self.cluster.client.get("/api/v1/run?limit=100").await?;
        println!("  {} newest runs listed in {:.2?}", listed.len(), begun.elapsed());
        self.flow().await
    }

    async fn flow(&mut self) -> Result<()> {
        let server = self.cluster.pid("server")?;
        self.fleet.attach().await?;
        let raw = raw_appends(AT_ONCE).await?;
        let before = Usage::of(server)?;
        let Self { fleet, cluster, pipeline, lives, .. } = self;
        let outcome = fleet.lives(cluster, pipeline, *lives, AT_ONCE, None).await?;
        let cpu = Usage::of(server)?.cpu_since(before);
        println!(
            "  {:.0} lives/s at this length, {:.0} µs of the server's processors each; raw appends {raw:.0}/s",
            rate(*lives, outcome.took),
            each(1e6 * cpu.as_secs_f64(), *lives),
        );
        fleet.cut()
    }
}
