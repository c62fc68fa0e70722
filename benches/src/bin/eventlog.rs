//! The log: `cargo run --release -p benches --bin eventlog [FOLDER]`.
//!
//! Appends of one event of 1 KiB to streams of 20, each with an expected revision and durable before its
//! answer, from 1, 16 and 256 writers; then a replay of all of it. Beside it raw writes of the same size
//! with `fdatasync`, one at a time and in batches of 16 and 256, on the same disk in the same minute.

use std::{fs::File, io::Write, path::Path, time::Duration};

use anyhow::Result;
use benches::{load, now, percentiles, rate};
use eventlog::{Clock, Expected, Log, Metadata, NewEvent};
use futures::{StreamExt, future};
use ids::EventId;

const EVENT: usize = 1 << 10;
const STREAM: usize = 20;
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
        append(&log, writers).await?;
    }
    replay(&log).await?;
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

async fn append(log: &Log, writers: usize) -> Result<()> {
    let begun = now();
    let work = (0..writers).map(|writer| tokio::spawn(write(log.clone(), writer, writers)));
    let mut took = Vec::new();
    for done in future::join_all(work).await {
        took.extend(done??);
    }
    let rate = rate(took.len(), begun.elapsed());
    println!("{writers} writers: {rate:.0} appends/s, {}", percentiles(&mut took));
    Ok(())
}

async fn write(log: Log, writer: usize, writers: usize) -> Result<Vec<Duration>> {
    let begun = now();
    let mut took = Vec::new();
    while begun.elapsed() < Duration::from_secs(SECONDS) {
        let (number, place) = (took.len() / STREAM, (took.len() % STREAM) as u64);
        let stream = format!("bench-{writers}-{writer}-{number}");
        let expected = place.checked_sub(1).map_or(Expected::None, Expected::Revision);
        let event = event();
        let asked = now();
        log.append(stream, expected, vec![event]).await?;
        took.push(asked.elapsed());
    }
    Ok(took)
}

fn event() -> NewEvent {
    #[expect(clippy::disallowed_methods, reason = "the benchmark is the edge where ids are made")]
    let id = EventId::from_uuid(uuid::Uuid::now_v7());
    let mut data = vec![0; EVENT];
    data.chunks_mut(16).for_each(|chunk| chunk.copy_from_slice(&id.as_uuid().as_bytes()[..]));
    let metadata = Metadata { version: 1, actor: "service:bench".into(), ..Metadata::default() };
    NewEvent::new(id, "Measured", data, &metadata)
}

async fn replay(log: &Log) -> Result<()> {
    let begun = now();
    let mut events = log.read_all(0, &[]);
    let mut count = 0;
    while let Some(event) = events.next().await {
        event?;
        count += 1;
    }
    println!("replay, warm: {:.0} events/s ({count} events)", rate(count, begun.elapsed()));
    Ok(())
}
