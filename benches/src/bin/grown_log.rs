//! A log that has grown: `cargo run --release -p benches --bin grown_log -- fill FOLDER EVENTS [BYTES]`,
//! then `… -- measure FOLDER` in a process of its own.
//!
//! Events of 1 KiB, or of so many bytes, in streams of 20, which grow side by side. Measured are opening, the memory that takes,
//! reads of single streams, a replay of everything, and appends to new streams: cold, which is after the
//! files were taken out of the page cache (`POSIX_FADV_DONTNEED`), and warm.

use std::{
    fs::{self, File},
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use benches::{
    events::{STREAM, event, replay},
    load, now, percentiles, rate,
};
use eventlog::{Clock, Expected, Log};
use futures::{StreamExt, future};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

const EVENT: usize = 1 << 10;
/// Events of one append.
const BATCH: usize = 5;
/// Streams that grow side by side.
const WRITERS: usize = 256;
const READS: usize = 2_000;

#[tokio::main]
async fn main() -> Result<()> {
    let args: Vec<_> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["fill", folder, events] => fill(Path::new(folder), events.parse()?, EVENT).await,
        ["fill", folder, events, bytes] => {
            fill(Path::new(folder), events.parse()?, bytes.parse()?).await
        }
        ["measure", folder] => measure(Path::new(folder)).await,
        _ => bail!("say `fill FOLDER EVENTS [BYTES]` or `measure FOLDER`"),
    }
}

async fn fill(folder: &Path, events: usize, bytes: usize) -> Result<()> {
    let log = Log::open(folder, Clock::system())?;
    let (begun, streams) = (now(), events / STREAM);
    let write = |writer: usize| {
        let log = log.clone();
        async move {
            for number in (writer..streams).step_by(WRITERS) {
                for revision in (0..STREAM).step_by(BATCH) {
                    let last = revision.checked_sub(1).map(|last| last as u64);
                    let expected = last.map_or(Expected::None, Expected::Revision);
                    let events = (0..BATCH).map(|_| event(bytes)).collect();
                    log.append(name(number), expected, events).await?;
                }
            }
            anyhow::Ok(())
        }
    };
    let work = (0..WRITERS).map(|writer| tokio::spawn(write(writer)));
    for done in future::join_all(work).await {
        done??;
    }
    println!("filled: {:.0} events/s", rate(events, begun.elapsed()));
    Ok(())
}

fn name(stream: usize) -> String {
    format!("run-{stream}")
}

async fn measure(folder: &Path) -> Result<()> {
    println!("load average: {}", load());
    let before = resident()?;
    let mut streams = 0;
    for state in ["cold", "warm"] {
        if state == "cold" {
            forget(folder)?;
        }
        let begun = now();
        let log = Log::open(folder, Clock::system())?;
        let (took, events) = (begun.elapsed(), log.next_position().await? as usize);
        streams = events / STREAM;
        let memory = resident()?.saturating_sub(before) >> 10;
        println!("open, {state}: {took:?} for {events} events; {memory} KiB more in memory");
    }
    for state in ["cold", "warm"] {
        if state == "cold" {
            forget(folder)?;
        }
        let log = Log::open(folder, Clock::system())?;
        read_streams(&log, streams, state).await?;
        println!("{} KiB more in memory after that", resident()?.saturating_sub(before) >> 10);
    }
    for state in ["cold", "warm"] {
        if state == "cold" {
            forget(folder)?;
        }
        let log = Log::open(folder, Clock::system())?;
        replay(&log, state).await?;
    }
    sizes(folder, streams * STREAM)?;
    append(&Log::open(folder, Clock::system())?, streams).await
}

async fn read_streams(log: &Log, streams: usize, state: &str) -> Result<()> {
    let mut took = Vec::new();
    for read in 0..READS {
        // Spread over the whole log, and each once.
        let stream = name((read * 7_919) % streams);
        let begun = now();
        let events: Vec<_> = log.read_stream(stream, 0, usize::MAX).collect().await;
        took.push(begun.elapsed());
        anyhow::ensure!(events.len() == STREAM && events.iter().all(Result::is_ok));
    }
    println!("read one stream, {state}: {}", percentiles(&mut took));
    Ok(())
}

/// New streams are looked for in the whole log.
async fn append(log: &Log, streams: usize) -> Result<()> {
    let begun = now();
    let write = |writer: usize| {
        let log = log.clone();
        async move {
            let mut count = 0;
            while begun.elapsed() < Duration::from_secs(3) {
                let stream = format!("new-{streams}-{writer}-{count}");
                log.append(stream, Expected::None, vec![event(EVENT)]).await?;
                count += 1;
            }
            anyhow::Ok(count)
        }
    };
    let (work, mut count) = ((0..WRITERS).map(|writer| tokio::spawn(write(writer))), 0);
    for done in future::join_all(work).await {
        count += done??;
    }
    println!("append, each to a new stream: {:.0}/s", rate(count, begun.elapsed()));
    Ok(())
}

fn sizes(folder: &Path, events: usize) -> Result<()> {
    let (mut segments, mut indexes) = (0, 0);
    for path in files(folder)? {
        let length = fs::metadata(&path)?.len() as usize;
        let is_index = path.extension().is_some_and(|extension| extension == "index");
        *(if is_index { &mut indexes } else { &mut segments }) += length;
    }
    println!("bytes an event: {}, and {} in index files", segments / events, indexes / events);
    Ok(())
}

fn files(folder: &Path) -> Result<Vec<std::path::PathBuf>> {
    fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect()
}

/// Takes the files out of the page cache.
fn forget(folder: &Path) -> Result<()> {
    for path in files(folder)? {
        let file = File::open(path)?;
        file.sync_all()?;
        posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
    }
    Ok(())
}

/// Bytes of memory that the process has.
fn resident() -> Result<usize> {
    let statm = fs::read_to_string("/proc/self/statm")?;
    let pages = statm.split_whitespace().nth(1).context("statm has a second number")?;
    Ok(pages.parse::<usize>()? * 4_096)
}
