//! Looks at the files of a log, and repairs them.
//!
//! Invariants:
//! - Only `repair` and `scavenge` change anything; a repair keeps every byte that it cuts.
//! - What may have been acknowledged goes only when that is asked for by name.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read as _, Seek as _, SeekFrom},
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use clap::Args;
use eventlog::{Clock, OpenError, files, files::Wound};
use serde::Serialize;

use crate::output::{Output, table, time};

#[derive(Args, Clone, Debug)]
pub(crate) struct LogArgs {
    /// Folder with the log
    data: PathBuf,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct InspectArgs {
    /// Folder with the log
    data: PathBuf,
    /// Show records, from this position on, instead of files
    #[arg(long, value_name = "POSITION")]
    from: Option<u64>,
    /// Show so many records at most
    #[arg(long, default_value_t = 100, requires = "from", value_name = "N")]
    limit: usize,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct RepairArgs {
    /// Folder with the log, which no server may use meanwhile
    data: PathBuf,
    /// Also cut everything from the first damage on, which may lose events that were acknowledged
    #[arg(long)]
    lose_what_follows_damage: bool,
}

/// Refuses a folder without a log: that nothing in it is wrong would prove nothing.
pub(crate) fn must_hold_a_log(dir: &Path) -> Result<()> {
    let is_empty = files::segments(dir)?.is_empty();
    let dir = dir.display();
    anyhow::ensure!(!is_empty, "there is no log in `{dir}`: no file there ends with `.segment`");
    Ok(())
}

pub(crate) fn verify(args: &LogArgs, output: Output) -> Result<()> {
    must_hold_a_log(&args.data)?;
    let found = eventlog::verify(&args.data)?;
    let answer = serde_json::json!({
        "events": found.events,
        "removed": found.removed,
        "segments": found.segments,
        "bytes": found.bytes,
        "unfinished": found.unfinished,
        "head": found.head.to_string(),
    });
    output.show(&answer, |_| format!("{} events, every record and the chain hold.", found.events))
}

#[derive(Serialize)]
struct Segment {
    file: PathBuf,
    first: u64,
    bytes: u64,
    before: String,
}

#[derive(Serialize)]
struct Record {
    position: u64,
    file: PathBuf,
    offset: u64,
    length: u64,
    /// Events of the same append that follow.
    left: u16,
    stream: String,
    revision: u64,
    #[serde(rename = "type")]
    event_type: String,
    id: String,
    recorded_at: u64,
    removed: bool,
    chain: String,
}

pub(crate) fn inspect(args: &InspectArgs, output: Output) -> Result<()> {
    must_hold_a_log(&args.data)?;
    let segments = files::segments(&args.data)?;
    if let Some(from) = args.from {
        return records(args, from, &segments, output);
    }
    let segments = segments.into_iter().map(|segment| Segment {
        file: segment.path,
        first: segment.first,
        bytes: segment.bytes,
        before: segment.before.to_string(),
    });
    output.show(&segments.collect::<Vec<_>>(), |segments| {
        let rows = segments.iter().map(|segment| {
            let file = segment.file.display().to_string();
            let (first, bytes) = (segment.first.to_string(), segment.bytes.to_string());
            [file, first, bytes, segment.before.clone()]
        });
        table(["FILE", "FIRST EVENT", "BYTES", "CHAIN BEFORE IT"], rows)
    })
}

/// What comes before a damage is shown all the same.
fn records(
    args: &InspectArgs,
    from: u64,
    segments: &[files::SegmentFile],
    output: Output,
) -> Result<()> {
    let mut records = Vec::new();
    let walked = files::walk(&args.data, from, |entry| {
        if records.len() >= args.limit {
            return Ok(ControlFlow::Break(()));
        }
        let event = entry.recorded;
        if event.position >= from {
            records.push(Record {
                position: event.position,
                file: segments
                    .get(entry.segment)
                    .map(|segment| segment.path.clone())
                    .unwrap_or_default(),
                offset: entry.place.start,
                length: entry.place.end - entry.place.start,
                left: entry.left,
                stream: event.stream.to_string(),
                revision: event.revision,
                event_type: event.event.event_type.to_string(),
                id: event.event.id.to_string(),
                recorded_at: event.recorded_at.as_millis(),
                removed: entry.removed.is_some(),
                chain: entry.chain.to_string(),
            });
        }
        Ok::<_, OpenError>(ControlFlow::Continue(()))
    });
    output.show(&records, |records| {
        let rows = records.iter().map(|record| {
            let file = record.file.file_name().unwrap_or_default().to_string_lossy();
            [
                record.position.to_string(),
                format!("{file} {}+{}", record.offset, record.length),
                format!("{}@{}", record.stream, record.revision),
                if record.removed { "(removed)".into() } else { record.event_type.clone() },
                time(record.recorded_at),
                record.chain.clone(),
            ]
        });
        table(["EVENT", "PLACE", "STREAM", "TYPE", "WHEN", "CHAIN"], rows)
    })?;
    Ok(walked?)
}

#[derive(Default, Serialize)]
struct Stats {
    events: u64,
    removed: u64,
    streams: u64,
    segments: usize,
    /// Of the records, without reserved space.
    bytes: u64,
    bytes_per_event: u64,
    categories: BTreeMap<String, Category>,
}

/// The streams whose names begin alike, up to the first `-`.
#[derive(Default, Serialize)]
struct Category {
    streams: u64,
    events: u64,
    bytes: u64,
}

pub(crate) fn stats(args: &LogArgs, output: Output) -> Result<()> {
    let stats = count(&args.data)?;
    output.show(&stats, |stats| {
        let rows = stats.categories.iter().map(|(name, category)| {
            let Category { streams, events, bytes } = category;
            [name.clone(), streams.to_string(), events.to_string(), bytes.to_string()]
        });
        let removed = match stats.removed {
            0 => String::new(),
            removed => format!(", {removed} of them removed"),
        };
        format!(
            "{} events{removed}, {} streams, {} bytes in {} files, {} bytes an event\n{}",
            stats.events,
            stats.streams,
            stats.bytes,
            stats.segments,
            stats.bytes_per_event,
            table(["CATEGORY", "STREAMS", "EVENTS", "BYTES"], rows)
        )
    })
}

fn count(dir: &Path) -> Result<Stats> {
    let mut stats = Stats { segments: files::segments(dir)?.len(), ..Stats::default() };
    files::walk(dir, 0, |entry| {
        let (stream, bytes) = (&entry.recorded.stream, entry.place.end - entry.place.start);
        // The metadata of a stream belong to its category.
        let name = stream.strip_prefix("$$").unwrap_or(stream);
        let name = name.split_once('-').map_or(name, |(category, _)| category);
        let category = stats.categories.entry(name.to_owned()).or_default();
        category.events += 1;
        category.bytes += bytes;
        // The first event of every stream is in the log, or what is left of it.
        if entry.recorded.revision == 0 {
            category.streams += 1;
            stats.streams += 1;
        }
        stats.events += 1;
        stats.removed += u64::from(entry.removed.is_some());
        stats.bytes += bytes;
        Ok::<_, OpenError>(ControlFlow::Continue(()))
    })?;
    stats.bytes_per_event = stats.bytes / stats.events.max(1);
    Ok(stats)
}

#[derive(Serialize)]
struct Repaired {
    /// Events that the log has now.
    events: u64,
    /// Why something was cut; `None`: nothing was.
    why: Option<String>,
    /// Where the bytes are now.
    kept: Option<PathBuf>,
}

pub(crate) fn repair(args: &RepairArgs, output: Output) -> Result<()> {
    let repaired = mend(&args.data, args.lose_what_follows_damage)?;
    output.show(&repaired, |repaired| match (&repaired.why, &repaired.kept) {
        (Some(why), Some(kept)) => format!(
            "{why}.\n{} events are left; what was cut is kept in {}.",
            repaired.events,
            kept.display()
        ),
        _ => format!("{} events, and nothing to repair.", repaired.events),
    })
}

fn mend(dir: &Path, lose: bool) -> Result<Repaired> {
    must_hold_a_log(dir)?;
    let wound = match files::wound(dir)? {
        Some(wound) if !lose => {
            let files = match wound.later.len() {
                0 => String::new(),
                later => format!(", and {later} whole files"),
            };
            bail!(
                "{}\n{} events before it are sound. What follows{files} can only be cut, and may hold \
                 events that were acknowledged: restore the folder from a backup, or cut with \
                 --lose-what-follows-damage",
                wound.why,
                wound.sound
            );
        }
        Some(wound) => Some(wound),
        None => torn(dir)?,
    };
    let Some(wound) = wound else {
        let events = eventlog::verify(dir)?.events;
        return Ok(Repaired { events, why: None, kept: None });
    };
    let kept = keep(dir, &wound)?;
    if let Err(error) = files::cut(dir, &wound) {
        // Nothing was cut if another process uses the log.
        if matches!(error, OpenError::InUse { .. }) {
            fs::remove_dir_all(&kept).ok();
        }
        return Err(error.into());
    }
    let events = eventlog::verify(dir)?.events;
    Ok(Repaired { events, why: Some(wound.why), kept: Some(kept) })
}

#[derive(Serialize)]
struct Scavenged {
    removed: u64,
    kept: u64,
    files: usize,
    freed_bytes: u64,
}

pub(crate) fn scavenge(args: &LogArgs, output: Output) -> Result<()> {
    let done = eventlog::scavenge(&args.data, Clock::system().now())?;
    let eventlog::Scavenged { removed, kept, files, freed_bytes } = done;
    let done = Scavenged { removed, kept, files, freed_bytes };
    output.show(&done, |done| {
        let old = match done.kept {
            0 => String::new(),
            kept => {
                format!(" {kept} more stand in files of an older format, which stay as they are.")
            }
        };
        format!(
            "{} events are gone from {} files, which are {} bytes smaller; the chain holds.{old}",
            done.removed, done.files, done.freed_bytes
        )
    })
}

/// The remains of a last write that nobody was told of.
fn torn(dir: &Path) -> Result<Option<Wound>> {
    let found = eventlog::verify(dir)?;
    let Some(newest) = files::segments(dir)?.pop().filter(|_| found.unfinished > 0) else {
        return Ok(None);
    };
    let mut end = None;
    files::walk(dir, newest.first, |entry| {
        if entry.left == 0 && entry.recorded.position >= newest.first {
            end = Some(entry.place.end);
        }
        Ok::<_, OpenError>(ControlFlow::Continue(()))
    })?;
    let (file, unfinished) = (newest.path.display(), found.unfinished);
    let why = format!("`{file}` ends with {unfinished} bytes of a write that was never finished");
    Ok(Some(match end {
        Some(end) => {
            Wound { why, sound: found.events, cut: Some((newest.path, end)), later: vec![] }
        }
        // No record of it is whole, so it goes as a whole.
        None => Wound { why, sound: found.events, cut: None, later: vec![newest.path] },
    }))
}

/// Copies what a cut takes into a new folder beside the log.
fn keep(dir: &Path, wound: &Wound) -> Result<PathBuf> {
    let name = dir.canonicalize().with_context(|| format!("find {}", dir.display()))?;
    let now = Clock::system().now().as_millis();
    let folder = PathBuf::from(format!("{}.cut-{now}", name.display()));
    let copy = || -> io::Result<()> {
        fs::create_dir(&folder)?;
        for path in &wound.later {
            copy_from(path, 0, &folder.join(path.file_name().unwrap_or_default()))?;
        }
        if let Some((path, offset)) = &wound.cut {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            copy_from(path, *offset, &folder.join(format!("{name}.from-{offset}")))?;
        }
        File::open(&folder)?.sync_all()
    };
    copy().with_context(|| format!("keep what is to be cut in {}", folder.display()))?;
    Ok(folder)
}

fn copy_from(path: &Path, offset: u64, to: &Path) -> io::Result<()> {
    let mut from = File::open(path)?;
    from.seek(SeekFrom::Start(offset))?;
    let mut kept = File::create_new(to)?;
    let length = from.metadata()?.len().saturating_sub(offset);
    io::copy(&mut from.take(length), &mut kept)?;
    kept.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;
    use crate::log::export::tests::sample;

    fn newest(dir: &Path) -> PathBuf {
        files::segments(dir).unwrap().pop().unwrap().path
    }

    fn last_end(dir: &Path) -> u64 {
        let mut end = 0;
        files::walk(dir, 0, |entry| {
            end = entry.place.end;
            Ok::<_, OpenError>(ControlFlow::Continue(()))
        })
        .unwrap();
        end
    }

    #[tokio::test]
    async fn stats_count_by_category() {
        let dir = tempfile::tempdir().unwrap();
        sample(dir.path()).await;
        let stats = count(dir.path()).unwrap();
        assert_eq!((stats.events, stats.streams, stats.removed), (8, 4, 0));
        let run = &stats.categories["run"];
        assert_eq!((run.streams, run.events), (3, 7));
        assert_eq!(stats.categories["secret"].events, 1);
        let bytes: u64 = stats.categories.values().map(|category| category.bytes).sum();
        assert_eq!(stats.bytes, bytes);
        assert_eq!(stats.bytes, eventlog::verify(dir.path()).unwrap().bytes);
    }

    #[tokio::test]
    async fn a_torn_tail_is_cut_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        sample(&log).await;
        assert!(mend(&log, false).unwrap().kept.is_none());
        let file = File::options().write(true).open(newest(&log)).unwrap();
        let end = last_end(&log);
        file.write_all_at(b"half a record", end).unwrap();
        let repaired = mend(&log, false).unwrap();
        assert_eq!(repaired.events, 8);
        let name = newest(&log).file_name().unwrap().to_string_lossy().into_owned();
        let kept = fs::read(repaired.kept.unwrap().join(format!("{name}.from-{end}"))).unwrap();
        assert!(kept.starts_with(b"half a record"));
        assert_eq!(eventlog::verify(&log).unwrap().unfinished, 0);
        assert!(eventlog::Log::open(&log, Clock::system()).is_ok());
    }

    #[tokio::test]
    async fn what_a_stream_hides_goes_and_the_chain_holds() {
        let dir = tempfile::tempdir().unwrap();
        sample(dir.path()).await;
        let head = files::head(dir.path()).unwrap();
        let log = LogArgs { data: dir.path().into() };
        scavenge(&log, Output::Json).unwrap();
        let found = eventlog::verify(dir.path()).unwrap();
        assert_eq!((found.events, found.removed), (8, 3));
        assert_eq!(files::head(dir.path()).unwrap(), head);
        let missing = LogArgs { data: dir.path().join("none") };
        assert!(scavenge(&missing, Output::Json).is_err());
        assert!(!missing.data.exists());
    }

    #[tokio::test]
    async fn what_follows_damage_goes_only_when_asked() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        sample(&log).await;
        let mut places = Vec::new();
        files::walk(&log, 0, |entry| {
            places.push((entry.left, entry.place));
            Ok::<_, OpenError>(ControlFlow::Continue(()))
        })
        .unwrap();
        let place = &places[6].1;
        let path = newest(&log);
        let before = fs::read(&path).unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        file.write_all_at(&[before[place.end as usize - 1] ^ 1], place.end - 1).unwrap();
        let damaged = fs::read(&path).unwrap();
        let error = mend(&log, false).err().unwrap().to_string();
        assert!(error.contains("--lose-what-follows-damage"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), damaged);

        let repaired = mend(&log, true).unwrap();
        assert_eq!(repaired.events, 6);
        let offset = place.start;
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let kept = fs::read(repaired.kept.unwrap().join(format!("{name}.from-{offset}"))).unwrap();
        assert_eq!(kept, damaged[offset as usize..]);
    }

    #[tokio::test]
    async fn a_log_in_use_is_not_repaired() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        sample(&log).await;
        let end = last_end(&log);
        let used = eventlog::Log::open(&log, Clock::system()).unwrap();
        let file = File::options().write(true).open(newest(&log)).unwrap();
        file.write_all_at(b"half a record", end).unwrap();
        let error = mend(&log, false).err().unwrap().to_string();
        assert!(error.contains("another process uses this folder"), "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        drop(used);
    }
}
