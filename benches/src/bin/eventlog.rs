//! The log: `cargo run --release -p benches --bin eventlog [FOLDER]`.
//!
//! Appends of one event of 1 KiB to streams of 20, each with an expected revision and durable before its
//! answer, from 1, 16 and 256 writers: to the log itself, and to the same log served over TLS, through the
//! official client in this process; then a replay of all of it. Beside it raw writes of as many KiB with
//! `fdatasync`, one at a time and in batches of 16 and 256, on the same disk in the same minute: what as many
//! writers could reach who do nothing else, all in one write. Their bytes are ready, without frames. The share
//! is of those into new space, which a log always needs.

use std::{
    fs::File,
    io::{Seek, Write},
    path::Path,
    time::Duration,
};

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
/// Bytes of the file whose space was written before.
const WRITTEN: usize = 64 << 20;

#[tokio::main]
async fn main() -> Result<()> {
    let folder = match std::env::args().nth(1) {
        Some(parent) => tempfile::tempdir_in(parent)?,
        None => tempfile::tempdir()?,
    };
    println!("load average: {}", load());
    let log = Log::open(&folder.path().join("log"), Clock::system())?;
    for writers in [1, 16, 256] {
        let raw = raw(folder.path(), writers)?;
        append(&log, "embedded", writers, raw).await?;
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
fn raw(folder: &Path, batch: usize) -> Result<f64> {
    let new = raw_rate(folder, batch, false)?;
    let written = raw_rate(folder, batch, true)?;
    println!(
        "raw fdatasync, batches of {batch}: {new:.0} events/s into new space, {written:.0} over what was written"
    );
    Ok(new)
}

/// The first write into a part of a file also makes the file system note where that is.
fn raw_rate(folder: &Path, batch: usize, written: bool) -> Result<f64> {
    let mut file = File::create(folder.join("raw"))?;
    if written {
        file.write_all(&vec![0; WRITTEN])?;
        file.rewind()?;
    } else {
        file.set_len(256 << 20)?;
    }
    file.sync_all()?;
    let bytes = vec![7; EVENT * batch];
    let (begun, mut count, mut end) = (now(), 0, 0);
    while begun.elapsed() < Duration::from_secs(1) {
        if written && end + bytes.len() > WRITTEN {
            file.rewind()?;
            end = 0;
        }
        file.write_all(&bytes)?;
        file.sync_data()?;
        count += batch;
        end += bytes.len();
    }
    Ok(rate(count, begun.elapsed()))
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
        let raw = raw(folder, writers)?;
        append(&client, "served", writers, raw).await?;
    }
    drop(client);
    stop.cancel();
    Ok(serving.await?)
}

async fn append(log: &Log, way: &'static str, writers: usize, raw: f64) -> Result<()> {
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
    let (share, percentiles) = (rate / raw, percentiles(&mut took));
    println!("{way}, {writers} writers: {rate:.0} appends/s ({share:.2} of raw), {percentiles}");
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
