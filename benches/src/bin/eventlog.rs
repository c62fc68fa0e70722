//! The log: `cargo run --release -p benches --bin eventlog [FOLDER]`.
//!
//! Appends of one event of 1 KiB to streams of 20, each with an expected revision and durable before its
//! answer, from 1, 16 and 256 writers: to the log itself, and to the same log served over TLS, through the
//! official client in this process; then a replay of all of it. Beside it raw writes of the same size with
//! `fdatasync`, one at a time and in batches of 16 and 256, on the same disk in the same minute.

use std::{fs::File, io::Write, path::Path, time::Duration};

use anyhow::Result;
use benches::{
    events::{STREAM, event, replay},
    load, now, percentiles, rate,
};
use eventlog::{
    Clock, Expected, Log,
    server::{self, Access, Users},
};
use futures::future;
use identity::Authority;
use tokio_util::sync::CancellationToken;
use transport::Server;

const EVENT: usize = 1 << 10;
const SECONDS: u64 = 3;

#[tokio::main]
async fn main() -> Result<()> {
    let folder = match std::env::args().nth(1) {
        Some(parent) => tempfile::tempdir_in(parent)?,
        None => tempfile::tempdir()?,
    };
    println!("load average: {}", load());
    let log = Log::open(&folder.path().join("log"), Clock::system())?;
    for writers in [1, 16, 256] {
        raw(folder.path(), writers)?;
        append(&log, "embedded", writers).await?;
    }
    served(&log, folder.path()).await?;
    replay(&log, "warm").await?;
    drop(log);
    let begun = now();
    let log = Log::open(&folder.path().join("log"), Clock::system())?;
    println!("open again: {:?} for {} events", begun.elapsed(), log.next_position().await?);
    Ok(())
}

/// One write and one `fdatasync` for each batch: what the disk can do.
fn raw(folder: &Path, batch: usize) -> Result<()> {
    let mut file = File::create(folder.join("raw"))?;
    file.set_len(256 << 20)?;
    file.sync_all()?;
    let bytes = vec![7; EVENT * batch];
    let (begun, mut written) = (now(), 0);
    while begun.elapsed() < Duration::from_secs(1) {
        file.write_all(&bytes)?;
        file.sync_data()?;
        written += batch;
    }
    println!("raw fdatasync, batches of {batch}: {:.0} events/s", rate(written, begun.elapsed()));
    Ok(())
}

async fn served(log: &Log, folder: &Path) -> Result<()> {
    identity::install_crypto();
    let ca = Authority::open_or_create(&folder.join("ca"))?;
    let hour = Duration::from_hours(1);
    let identity = folder.join("identity");
    ca.issue_service("server", &[], hour)?.credentials.save(&identity)?;
    let credentials = ca.issue_service("log", &[], hour)?.credentials;
    let server = Server::bind(([127, 0, 0, 1], 0).into(), &credentials).await?;
    let client = Log::esdb(&format!("esdb://{}", server.local_addr()), Some(&identity))?;
    let stop = CancellationToken::new();
    let router = server::router(log.clone(), Access::new(Users::default()), stop.clone());
    let serving = tokio::spawn(server.acknowledge_at_once().serve(router, stop.clone()));
    for writers in [1, 16, 256] {
        raw(folder, writers)?;
        append(&client, "served", writers).await?;
    }
    drop(client);
    stop.cancel();
    Ok(serving.await?)
}

async fn append(log: &Log, way: &'static str, writers: usize) -> Result<()> {
    let begun = now();
    let work = (0..writers).map(|writer| {
        let streams = format!("{way}-{writers}-{writer}");
        tokio::spawn(write(log.clone(), streams))
    });
    let mut took = Vec::new();
    for done in future::join_all(work).await {
        took.extend(done??);
    }
    let rate = rate(took.len(), begun.elapsed());
    println!("{way}, {writers} writers: {rate:.0} appends/s, {}", percentiles(&mut took));
    Ok(())
}

async fn write(log: Log, streams: String) -> Result<Vec<Duration>> {
    let begun = now();
    let mut took = Vec::new();
    while begun.elapsed() < Duration::from_secs(SECONDS) {
        let (number, place) = (took.len() / STREAM, (took.len() % STREAM) as u64);
        let stream = format!("{streams}-{number}");
        let expected = place.checked_sub(1).map_or(Expected::None, Expected::Revision);
        let event = event(EVENT);
        let asked = now();
        log.append(stream, expected, vec![event]).await?;
        took.push(asked.elapsed());
    }
    Ok(took)
}
