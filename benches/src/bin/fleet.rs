//! What a fleet costs that does nothing, and how fast workers get in and out:
//! `cargo run --release -p benches --bin fleet -- --workers 10000`.
//!
//! A real server process; this program is all the workers, each with a key, a certificate and a
//! connection of its own. Both share the machine, so joining is slower here than at a server that has it
//! for itself; memory is the server's growth alone. Raw appends to the log stand beside the rates.

use std::{process::ExitCode, time::Duration};

use anyhow::{Context as _, Result};
use benches::{
    Fleet, Joined, Usage, each, kibibytes_each, load, now, percentiles, rate, raw_appends, run,
};
use clap::Parser;
use futures::{StreamExt, TryStreamExt, stream};
use gaia::api::Worker;
use serde_json::{Value, json};
use tests::Cluster;
use tokio::time::sleep;
use transport::Protocols;

#[derive(Parser, Debug)]
struct Arguments {
    /// Workers that are connected at once
    #[arg(long, default_value_t = 1_000)]
    workers: usize,
    /// Seconds in which they do nothing
    #[arg(long, default_value_t = 60)]
    idle: u64,
    /// Certificates to renew
    #[arg(long, default_value_t = 1_000)]
    renewals: usize,
    /// Workers whose certificates are revoked, one after another
    #[arg(long, default_value_t = 50)]
    revoked: usize,
    /// Leave one of the protocols out
    #[arg(long, value_parser = ["h2", "h3"])]
    only: Option<String>,
}

/// Renewals at once.
const AT_ONCE: usize = 32;
/// What the server gets after a crowd has joined, before it is looked at.
const SETTLE: Duration = Duration::from_secs(10);

fn main() -> Result<ExitCode> {
    run(async |arguments: Arguments| bench(&arguments).await)
}

async fn bench(arguments: &Arguments) -> Result<()> {
    for (word, http) in [("h2", Protocols::Http2), ("h3", Protocols::Http3)] {
        if arguments.only.as_ref().is_some_and(|only| only != word) {
            continue;
        }
        println!("{word}, {} workers; load average before: {}", arguments.workers, load());
        println!(
            "  raw appends to the log, {AT_ONCE} at once: {:.0}/s",
            raw_appends(AT_ONCE).await?
        );
        let mut cluster = Cluster::start(&std::env::current_exe()?).await?;
        let mut fleet = Fleet::new(&cluster, http, 4);
        joins(arguments, &cluster, &mut fleet).await?;
        idle(arguments, &cluster).await?;
        renewals(arguments, &fleet).await?;
        storm(&mut cluster, &mut fleet).await?;
        revocations(arguments, &cluster, &mut fleet).await?;
        losses(&cluster, &mut fleet).await?;
        println!("  load average after: {}", load());
    }
    Ok(())
}

async fn joins(arguments: &Arguments, cluster: &Cluster, fleet: &mut Fleet) -> Result<()> {
    // What the first worker costs is not what each costs.
    fleet.join(cluster, 1).await?;
    sleep(Duration::from_secs(1)).await;
    let (before, begun) = (Usage::of(cluster.pid("server")?)?, now());
    let joined = fleet.join(cluster, arguments.workers - 1).await?;
    let took = begun.elapsed();
    let of = |time: fn(&Joined) -> Duration| {
        percentiles(&mut joined.iter().map(time).collect::<Vec<_>>())
    };
    println!("  joins, 16 at once: {:.0}/s", rate(joined.len(), took));
    println!("    token to certificate: {}", of(|joined| joined.certified));
    println!("    token to open stream of orders: {}", of(|joined| joined.ready));
    sleep(SETTLE).await;
    let after = Usage::of(cluster.pid("server")?)?;
    let (cpu, grown) = (after.cpu_since(before), after.resident.saturating_sub(before.resident));
    println!(
        "    server: {:.2} ms of processor a join, {:.1} KiB of memory an idle worker",
        each(1e3 * cpu.as_secs_f64(), joined.len()),
        kibibytes_each(grown, joined.len()),
    );
    Ok(())
}

async fn idle(arguments: &Arguments, cluster: &Cluster) -> Result<()> {
    let (position, before) = (last_position(cluster).await?, Usage::of(cluster.pid("server")?)?);
    sleep(Duration::from_secs(arguments.idle)).await;
    let after = Usage::of(cluster.pid("server")?)?;
    let events = last_position(cluster).await? - position;
    println!(
        "  idle for {} s: {events} events, {} bytes written to disk, {:.1} % of a processor",
        arguments.idle,
        after.written - before.written,
        each(100.0 * after.cpu_since(before).as_secs_f64(), usize::try_from(arguments.idle)?),
    );
    Ok(())
}

async fn last_position(cluster: &Cluster) -> Result<u64> {
    let last: Value = cluster.client.get("/api/v1/events?order=desc&limit=1").await?;
    let position = last.pointer("/0/position").or_else(|| last.pointer("/events/0/position"));
    position.and_then(Value::as_u64).with_context(|| format!("an event has a position: {last}"))
}

async fn renewals(arguments: &Arguments, fleet: &Fleet) -> Result<()> {
    let begun = now();
    let mut took: Vec<Duration> = stream::iter(0..arguments.renewals)
        .map(async |nth| {
            let asked = now();
            fleet.members[nth % fleet.members.len()].renew().await?;
            anyhow::Ok(asked.elapsed())
        })
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await?;
    let rate = rate(took.len(), begun.elapsed());
    println!("  renewals, {AT_ONCE} at once: {rate:.0}/s, {}", percentiles(&mut took));
    Ok(())
}

/// The server is killed and started again, and all workers come back at once, 16 at a time.
async fn storm(cluster: &mut Cluster, fleet: &mut Fleet) -> Result<()> {
    cluster.kill("server").await?;
    fleet.cut()?;
    let begun = now();
    cluster.restart_server().await?;
    let started = begun.elapsed();
    fleet.attach().await?;
    let attached = begun.elapsed();
    let workers: Vec<Worker> = cluster.client.get("/api/v1/worker").await?;
    let lost = workers.iter().filter(|worker| worker.state == "lost").count();
    println!(
        "  killed: started again after {started:.2?}, all {} attached after {attached:.2?}, {lost} lost",
        fleet.members.len()
    );
    Ok(())
}

async fn revocations(arguments: &Arguments, cluster: &Cluster, fleet: &mut Fleet) -> Result<()> {
    let mut took = Vec::new();
    for worker in 0..arguments.revoked {
        let body = json!({ "worker": fleet.members[worker].id, "note": "a figure" });
        let begun = now();
        cluster.client.post::<Value>("/api/v1/certificate/revoke", &body).await?;
        let (ended, at) = fleet.end().await?;
        anyhow::ensure!(ended == worker, "worker {ended} was cut for worker {worker}");
        took.push(at.duration_since(begun));
    }
    println!("  revocation to the end of the worker's stream: {}", percentiles(&mut took));
    Ok(())
}

/// All connections close at once; the grace time of the harness is 8 s.
async fn losses(cluster: &Cluster, fleet: &mut Fleet) -> Result<()> {
    let begun = now();
    fleet.cut()?;
    let lost = cluster.until("all are lost", async || {
        let workers: Vec<Worker> = cluster.client.get("/api/v1/worker").await?;
        let lost = workers.iter().filter(|worker| worker.state == "lost").count();
        Ok((lost == workers.len()).then_some(lost))
    });
    println!("  cut to all {} lost (grace 8 s): {:?}", lost.await?, begun.elapsed());
    Ok(())
}
