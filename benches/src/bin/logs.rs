//! Logs of many runs at once: `cargo run --release -p benches --bin logs`.
//!
//! A real server process; this program is the worker of all the runs and whoever follows them. First each run
//! sends its part of so many bytes of lines of 100 bytes, in pieces that are durable before their answer. Then
//! each run prints a line now and then, and a follower of its own takes the time from the sending of the line
//! to its arrival. Beside it what the disk does, in the same run.

use std::{
    io::Write,
    process::ExitCode,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use benches::{BenchWorker, Usage, each, load, mebibytes, now, percentiles, rate, run};
use bytes::Bytes;
use clap::Parser;
use futures::{StreamExt, TryStreamExt, future::try_join_all, stream};
use gaia::{client::Client, command::run::follow_log};
use http::Request;
use proto::worker::PipelineRun;
use serde_json::json;
use tests::Cluster;
use tokio::time::sleep;
use transport::Protocols;

#[derive(Parser, Debug)]
struct Arguments {
    /// How many runs there are at once
    #[arg(long, value_delimiter = ',', default_values_t = [1, 100, 1_000])]
    runs: Vec<usize>,
    /// MiB that they send together
    #[arg(long, default_value_t = 256)]
    mebibytes: usize,
    /// Seconds for which they are followed
    #[arg(long, default_value_t = 10)]
    seconds: u64,
}

const LINE: usize = 100;
const PIECE: usize = 1 << 20;
/// Lines a second that all runs print together while they are followed.
const LINES: usize = 500;
/// Calls that one user may have open on a connection are 256.
const FOLLOWERS: usize = 200;
/// Of those that start and end runs.
const AT_ONCE: usize = 32;

fn main() -> Result<ExitCode> {
    run(async |arguments: Arguments| {
        identity::install_crypto();
        bench(&arguments).await
    })
}

async fn bench(arguments: &Arguments) -> Result<()> {
    println!("load average: {}", load());
    let folder = tempfile::tempdir()?;
    let (mut file, piece) = (std::fs::File::create(folder.path().join("raw"))?, vec![7; PIECE]);
    let begun = now();
    for _ in 0..arguments.mebibytes {
        file.write_all(&piece)?;
        file.sync_data()?;
    }
    let raw = mebibytes(arguments.mebibytes * PIECE, begun.elapsed());
    println!("raw disk, fdatasync each MiB: {raw:.0} MiB/s");
    let cluster = Cluster::start(&std::env::current_exe()?).await?;
    for (word, http) in [("h2", Protocols::Http2), ("h3", Protocols::Http3)] {
        let worker = BenchWorker::join(&cluster, word, http).await?;
        let pipeline = worker.pipeline(&cluster, word, Bytes::from_static(b"unused")).await?;
        for &count in &arguments.runs {
            let orders = start(&cluster, &worker, &pipeline, count).await?;
            println!("{word}, {count} runs");
            let sent = arguments.mebibytes * PIECE / count / LINE * LINE;
            ingest(&cluster, &worker, &orders, sent).await?;
            tail(&cluster, &worker, &orders, (sent, arguments.seconds)).await?;
            stream::iter(&orders)
                .map(|order| worker.report(order, "success"))
                .buffer_unordered(AT_ONCE)
                .try_collect::<()>()
                .await?;
        }
        worker.leave().await?;
    }
    println!("load average: {}", load());
    Ok(())
}

async fn start(
    cluster: &Cluster,
    worker: &BenchWorker,
    pipeline: &gaia::api::Pipeline,
    count: usize,
) -> Result<Vec<PipelineRun>> {
    let starting = stream::iter(0..count)
        .map(|_| cluster.start_run(pipeline, json!({})))
        .buffer_unordered(AT_ONCE)
        .try_for_each(|_| async { Ok(()) });
    let taking = async {
        let mut orders = vec![];
        while orders.len() < count {
            let (order, _) = worker.order().await?;
            worker.report(&order, "running").await?;
            orders.push(order);
        }
        anyhow::Ok(orders)
    };
    Ok(tokio::try_join!(starting, taking)?.1)
}

/// Each run sends so many bytes.
async fn ingest(
    cluster: &Cluster,
    worker: &BenchWorker,
    orders: &[PipelineRun],
    bytes: usize,
) -> Result<()> {
    let mut line = Bytes::from_static(&[b'x'; LINE]).to_vec();
    line[LINE - 1] = b'\n';
    let text: Bytes = line.repeat(PIECE / LINE).into();
    let text = &text;
    let (server, bulk) = (cluster.pid("server")?, worker.apart()?);
    let (before, begun) = (Usage::of(server)?, now());
    let sending = orders.iter().map(async |order| {
        let mut offset = 0;
        while offset < bytes {
            let piece = text.slice(..text.len().min(bytes - offset));
            let length = piece.len();
            append(&bulk, order, offset, piece).await?;
            offset += length;
        }
        anyhow::Ok(())
    });
    try_join_all(sending).await?;
    let (took, total) = (begun.elapsed(), bytes * orders.len());
    let cpu = Usage::of(server)?.cpu_since(before);
    println!(
        "  in: {:.0} MiB/s, {:.0} lines/s; a core of the server takes {:.0} MiB/s, {:.0} lines/s",
        mebibytes(total, took),
        rate(total / LINE, took),
        mebibytes(total, cpu),
        rate(total / LINE, cpu),
    );
    Ok(())
}

async fn append(
    worker: &BenchWorker,
    order: &PipelineRun,
    offset: usize,
    piece: Bytes,
) -> Result<()> {
    let (run, attempt) = (&order.unique_id, order.attempt);
    let path = format!("/runs/{run}/attempts/{attempt}/log?offset={offset}");
    worker.bulk(order, Request::put(path), piece).await.map(drop)
}

/// How late the lines are that each run prints, at its follower.
async fn tail(
    cluster: &Cluster,
    worker: &BenchWorker,
    orders: &[PipelineRun],
    (mut offset, seconds): (usize, u64),
) -> Result<()> {
    let (origin, delays) = (now(), Arc::new(Mutex::new(vec![])));
    let mut followers = vec![];
    for orders in orders.chunks(FOLLOWERS) {
        let client = cluster.fresh_client(&cluster.ca()?).await?;
        for order in orders {
            let (client, run) = (client.clone(), order.unique_id.clone());
            followers.push(tokio::spawn(follow(client, run, offset, origin, Arc::clone(&delays))));
        }
    }
    // What was sent before is skipped, which takes a moment.
    sleep(Duration::from_secs(2)).await;
    let pause = Duration::from_secs(1) * u32::try_from(orders.len())? / u32::try_from(LINES)?;
    let pause = pause.max(Duration::from_millis(20));
    let begun = now();
    while begun.elapsed() < Duration::from_secs(seconds) {
        let turn = now();
        let lines = orders.iter().enumerate().map(async |(number, order)| {
            // Not all at once.
            sleep(pause * u32::try_from(number)? / u32::try_from(orders.len())?).await;
            let line = format!("{:>1$}\n", origin.elapsed().as_micros(), LINE - 1);
            append(worker, order, offset, line.into()).await
        });
        try_join_all(lines).await?;
        offset += LINE;
        sleep(pause.saturating_sub(turn.elapsed())).await;
    }
    sleep(Duration::from_secs(1)).await;
    for follower in followers {
        follower.abort();
    }
    let mut delays = std::mem::take(&mut *delays.lock().expect("no follower panics"));
    let (count, took) = (delays.len(), begun.elapsed());
    println!(
        "  live: {:.0} lines/s, {:.1} of each run; from sending to the follower: {}",
        rate(count, took),
        each(f64::from(u32::try_from(count)?), orders.len()),
        percentiles(&mut delays),
    );
    Ok(())
}

/// Follows from the offset on; each line says when it was sent.
async fn follow(
    client: Client,
    run: String,
    offset: usize,
    origin: Instant,
    delays: Arc<Mutex<Vec<Duration>>>,
) -> Result<()> {
    let (view, mut rest) = (format!("&offset={offset}"), String::new());
    follow_log(&client, &run, &view, |piece| {
        let at = origin.elapsed();
        rest.push_str(piece);
        while let Some(end) = rest.find('\n') {
            let line: String = rest.drain(..=end).collect();
            let sent = line.trim().parse().context("a line says when it was sent")?;
            let delay = at.saturating_sub(Duration::from_micros(sent));
            delays.lock().expect("no follower panics").push(delay);
        }
        Ok(())
    })
    .await
}
