//! What streams hide goes from the files, and the chain still proves the rest.

use std::{
    collections::HashSet,
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
    time::Duration,
};

use eventlog::{
    Clock, Expected, Head, Log, NewEvent, OpenError, Options, Recorded, Scavenged, StreamMetadata,
    files::{self, Entry, Imported},
    scavenge, verify,
};
use ids::Timestamp;
use sha2::{Digest as _, Sha256};

use crate::{all, event, open_small};

const STREAMS: [&str; 5] = ["kept", "counted", "truncated", "deleted", "ended"];

/// An event whose data tell it from all others.
fn told(stream: &str, number: u64) -> NewEvent {
    let place = STREAMS.iter().position(|name| *name == stream).unwrap() as u64;
    let mut told = event(place * 1_000 + number);
    told.data = format!("{:>80}", format!("<{stream} {number}>")).into();
    told
}

/// Twelve events in each stream, taking turns; then streams are told what to keep.
async fn told_log(dir: &Path) -> Log {
    let log = open_small(dir);
    for number in 0..12 {
        for stream in STREAMS {
            log.append(stream, Expected::Any, vec![told(stream, number)]).await.unwrap();
        }
    }
    let counted = StreamMetadata { max_count: Some(3), ..StreamMetadata::default() };
    let truncated = StreamMetadata { truncate_before: Some(5), ..StreamMetadata::default() };
    let once = StreamMetadata { max_count: Some(9), ..StreamMetadata::default() };
    for (id, stream, metadata) in
        [(9_001, "counted", once), (9_002, "counted", counted), (9_003, "truncated", truncated)]
    {
        let id = event(id).id;
        log.set_stream_metadata(stream, Expected::Any, metadata, id).await.unwrap();
    }
    log.delete("deleted", Expected::Exists).await.unwrap();
    log.tombstone("ended", Expected::Exists).await.unwrap();
    log
}

/// What readers of streams see, both ways.
async fn seen(log: &Log) -> Vec<Recorded> {
    let mut seen = Vec::new();
    for stream in &STREAMS[..4] {
        let forward = all(log.read_stream(*stream, 0, 100)).await;
        let mut backward = all(log.read_stream_backward(*stream, None, 100)).await;
        backward.reverse();
        assert_eq!(forward, backward);
        seen.extend(forward);
    }
    seen
}

/// The data that can be found in any of the folder's files.
fn found(dir: &Path) -> HashSet<String> {
    let mut found = HashSet::new();
    for path in listed(dir) {
        let bytes = fs::read(path).unwrap();
        for stream in STREAMS {
            for number in 0..12 {
                let data = format!("<{stream} {number}>");
                if bytes.windows(data.len()).any(|window| window == data.as_bytes()) {
                    found.insert(data);
                }
            }
        }
    }
    found
}

fn listed(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "segment"));
    paths.sort();
    paths
}

fn entries(dir: &Path) -> Vec<Entry> {
    let mut entries = Vec::new();
    files::walk(dir, 0, |entry| {
        entries.push(entry);
        Ok::<_, OpenError>(ControlFlow::Continue(()))
    })
    .unwrap();
    entries
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for path in listed(from) {
        fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

#[tokio::test]
async fn what_streams_hide_is_gone_and_the_chain_still_holds() {
    let dir = tempfile::tempdir().unwrap();
    let log = told_log(dir.path()).await;
    let before = seen(&log).await;
    assert!(matches!(scavenge(dir.path(), Timestamp(0)), Err(OpenError::InUse { .. })));
    drop(log);
    let whole = verify(dir.path()).unwrap();
    assert_eq!((whole.removed, found(dir.path()).len()), (0, 60));

    let done = scavenge(dir.path(), Timestamp(0)).unwrap();
    // Nine of "counted", five of "truncated", twelve each of "deleted" and "ended", metadata once.
    assert_eq!((done.removed, done.kept), (9 + 5 + 24 + 1, 0));
    let after = verify(dir.path()).unwrap();
    assert_eq!((after.head, after.events, after.removed), (whole.head, whole.events, 39));
    assert_eq!(whole.bytes - after.bytes, done.freed_bytes);
    let data = |event: &Recorded| str::from_utf8(&event.event.data).unwrap().trim().to_owned();
    assert_eq!(found(dir.path()), before.iter().map(data).collect());
    assert_eq!(scavenge(dir.path(), Timestamp(0)).unwrap(), Scavenged::default());

    let log = open_small(dir.path());
    assert_eq!(seen(&log).await, before);
    let all_of_it = all(log.read_all(0, &[])).await;
    assert_eq!(all_of_it.len() as u64, whole.events - 39);
    assert!(all_of_it.iter().all(|recorded| !recorded.event.event_type.is_empty()));
    // It goes on as if nothing had happened, and even a retry is known again.
    let retried = log.append("counted", Expected::None, vec![told("counted", 0)]).await.unwrap();
    assert_eq!((retried.position, retried.revision), (1, 0));
    let appended = log.append("deleted", Expected::None, vec![event(8_000)]).await.unwrap();
    assert_eq!((appended.position, appended.revision), (whole.events, 12));
    log.append("ended", Expected::Any, vec![event(8_001)]).await.unwrap_err();
    let metadata = log.stream_metadata("counted").await.unwrap();
    assert_eq!((metadata.0.max_count, metadata.1), (Some(3), Some(1)));
    // What is gone does not come back when the stream would show it again, and does not count.
    let id = event(9_004).id;
    let anything = StreamMetadata::default();
    log.set_stream_metadata("counted", Expected::Any, anything, id).await.unwrap();
    let revisions =
        |events: Vec<Recorded>| -> Vec<u64> { events.iter().map(|event| event.revision).collect() };
    assert_eq!(revisions(all(log.read_stream("counted", 0, 2)).await), [9, 10]);
    assert_eq!(revisions(all(log.read_stream_backward("counted", None, 9)).await), [11, 10, 9]);
}

#[tokio::test]
async fn what_is_too_old_goes_from_the_beginning_of_its_stream() {
    let dir = tempfile::tempdir().unwrap();
    let times = std::sync::Mutex::new(vec![60_000, 20_000, 50_000, 10_000, 10_000, 10_000]);
    let clock = Clock::from_fn(move || Timestamp(times.lock().unwrap().pop().unwrap_or(60_000)));
    let log = Log::open_with(dir.path(), clock, Options { segment_bytes: 300 }).unwrap();
    for number in 0..6 {
        log.append("aged", Expected::Any, vec![event(number)]).await.unwrap();
    }
    let metadata =
        StreamMetadata { max_age: Some(Duration::from_secs(30)), ..StreamMetadata::default() };
    log.set_stream_metadata("aged", Expected::Any, metadata, event(9).id).await.unwrap();
    drop(log);
    let head = verify(dir.path()).unwrap().head;
    let gone = |dir: &Path| -> Vec<u64> {
        let removed = entries(dir).into_iter().filter(|entry| entry.removed.is_some());
        removed.map(|entry| entry.recorded.position).collect()
    };
    // The fifth is old too, by a clock that went back, but stands after one that stays.
    assert_eq!(scavenge(dir.path(), Timestamp(60_000)).unwrap().removed, 3);
    assert_eq!(gone(dir.path()), [0, 1, 2]);
    assert_eq!(scavenge(dir.path(), Timestamp(85_000)).unwrap().removed, 2);
    assert_eq!(gone(dir.path()), [0, 1, 2, 3, 4]);
    assert_eq!(verify(dir.path()).unwrap().head, head);
}

/// Whatever the moment: some files are new, the next one may be in the making, the others are old.
#[tokio::test]
async fn a_scavenge_that_broke_off_has_lost_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (dir.path().join("old"), dir.path().join("new"));
    fs::create_dir(&old).unwrap();
    let log = told_log(&old).await;
    let before = seen(&log).await;
    drop(log);
    let head = verify(&old).unwrap().head;
    copy(&old, &new);
    let removed = scavenge(&new, Timestamp(0)).unwrap().removed;
    let names: Vec<_> = files::segments(&old).unwrap();
    assert!(names.len() > 5);
    for done in 0..=names.len() {
        let broken = dir.path().join(format!("broken-{done}"));
        copy(&old, &broken);
        // The newest file is sealed before the first one is replaced.
        let sealing = files::segments(&new).unwrap().pop().unwrap().path;
        fs::copy(&sealing, broken.join(sealing.file_name().unwrap())).unwrap();
        for segment in &names[..done] {
            let name = segment.path.file_name().unwrap();
            fs::copy(new.join(name), broken.join(name)).unwrap();
        }
        if let Some(next) = names.get(done) {
            let bytes = fs::read(new.join(next.path.file_name().unwrap())).unwrap();
            fs::write(broken.join("segment.new"), &bytes[..bytes.len() * done / 7 % bytes.len()])
                .unwrap();
        }
        assert_eq!(verify(&broken).unwrap().head, head);
        let log = open_small(&broken);
        assert_eq!(seen(&log).await, before);
        drop(log);
        // What is left to do is done by the next one.
        let gone = verify(&broken).unwrap().removed;
        assert_eq!(scavenge(&broken, Timestamp(0)).unwrap().removed, removed - gone);
        assert_eq!(found(&broken), found(&new));
        assert_eq!(verify(&broken).unwrap().head, head);
    }
}

#[tokio::test]
async fn a_scavenged_log_can_be_copied_event_by_event() {
    let dir = tempfile::tempdir().unwrap();
    let (log, other) = (dir.path().join("log"), dir.path().join("other"));
    fs::create_dir(&log).unwrap();
    drop(told_log(&log).await);
    scavenge(&log, Timestamp(0)).unwrap();
    let imported = entries(&log).into_iter().map(|entry| Ok::<_, OpenError>(Imported::from(entry)));
    let head = files::import(&other, imported).unwrap().unwrap();
    let (one, two) = (verify(&log).unwrap(), verify(&other).unwrap());
    assert_eq!((one.head, one.events, one.removed), (two.head, two.events, two.removed));
    assert_eq!(files::head(&log).unwrap(), Some(head));
    assert_eq!(head, Head { position: one.events - 1, chain: one.head });
}

/// As FORMAT.md says, without the code that wrote it.
#[tokio::test]
async fn what_stays_of_an_event_is_what_the_format_says() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), crate::clock()).unwrap();
    let mut gone = told("deleted", 0);
    gone.content = eventlog::Content::Json;
    log.append("deleted", Expected::None, vec![gone.clone()]).await.unwrap();
    log.delete("deleted", Expected::Any).await.unwrap();
    drop(log);
    scavenge(dir.path(), Timestamp(0)).unwrap();
    let record = fs::read(&listed(dir.path())[0]).unwrap().split_off(64);
    assert_eq!(&record[..8], [152_u32.to_le_bytes(), 64_u32.to_le_bytes()].concat());
    assert_eq!(&record[32..48], gone.id.as_uuid().as_bytes());
    let (kind, metadata) = (gone.event_type.as_bytes(), gone.metadata.as_ref());
    let lengths = [7, 0, kind.len() as u8, 0, metadata.len() as u8, 0, 0, 0, 80, 0, 0, 0];
    assert_eq!(&record[48..64], [7, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0, 0, 0, 0, 2, 0]);
    let said = Sha256::digest([&lengths[2..], &[1], kind, metadata, &gone.data].concat());
    assert_eq!(&record[72..111], [b"deleted", said.as_slice()].concat());
    let covered: [&[u8]; 5] = [&[0; 32], &said, &record[8..50], &[0, 0], b"deleted"];
    assert_eq!(&record[112..144], Sha256::digest(covered.concat()).as_slice());
    assert_eq!(&record[148..152], b"end\n");
}

#[tokio::test]
async fn a_damaged_or_missing_log_is_not_scavenged() {
    let dir = tempfile::tempdir().unwrap();
    let error = scavenge(dir.path(), Timestamp(0)).unwrap_err().to_string();
    assert!(error.starts_with("find a log in `"), "{error}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    drop(told_log(dir.path()).await);
    let damaged = listed(dir.path())[1].clone();
    let mut bytes = fs::read(&damaged).unwrap();
    bytes[64 + 80] ^= 1;
    fs::write(&damaged, bytes).unwrap();
    let before: Vec<_> = listed(dir.path()).iter().map(|path| fs::read(path).unwrap()).collect();
    let error = scavenge(dir.path(), Timestamp(0)).unwrap_err();
    assert!(matches!(error, OpenError::Damaged { offset: 64, .. }), "{error}");
    let after: Vec<_> = listed(dir.path()).iter().map(|path| fs::read(path).unwrap()).collect();
    assert_eq!(before, after);
}
