//! What the contract suite cannot see from outside: the stored bytes, and what power cuts do to them.

mod crashes;
mod history;
mod rot;
mod scavenges;
mod sites;

use std::{collections::HashMap, fs, path::PathBuf};

use futures::StreamExt;
use ids::{EventId, Timestamp};
use proptest::prelude::*;
use tempfile::TempDir;
use uuid::Uuid;

use super::{
    format::{Chain, Content, Dialect, FORMAT, Said, SegmentHeader},
    recover::{Recovered, recover},
    segment::Segment,
    *,
};
use crate::{Expected, Log, Metadata, NewEvent, disk::simulated::mount, store::Stored};

const SALT: u32 = 0x5a17_0001;
const SECTOR: usize = 512;
/// As a disk: `fallocate` leaves zeros.
const RESERVED: usize = 4 * SECTOR;

/// Writes a segment as the writer does.
struct Build {
    bytes: Vec<u8>,
    chain: Chain,
    position: u64,
    lengths: HashMap<String, u64>,
    kind: crate::Content,
}

impl Build {
    fn new() -> Self {
        let header = SegmentHeader::new(0, Chain::START, SALT);
        let bytes = header.encode().to_vec();
        let kind = crate::Content::Binary;
        Self { bytes, chain: Chain::START, position: 0, lengths: HashMap::new(), kind }
    }

    /// One write of several batches: each a stream, and its events' data.
    fn write(&mut self, batches: &[(String, Vec<Vec<u8>>)]) {
        let commit = self.bytes.len() as u32;
        for (stream, events) in batches {
            let length = self.lengths.entry(stream.clone()).or_default();
            for (at, data) in events.iter().enumerate() {
                let metadata = prost::Message::encode_to_vec(&Metadata {
                    version: 1,
                    actor: "user:ada".into(),
                    ..Metadata::default()
                });
                let id = EventId::from_uuid(Uuid::from_u128(u128::from(self.position) + 1));
                let mut new = NewEvent::new(id, "Counted", data.clone(), &Metadata::default());
                new.metadata = metadata.into();
                new.content = self.kind;
                let content = Content {
                    position: self.position,
                    revision: *length,
                    recorded_at: 1_700_000_000_000 + self.position,
                    id,
                    left: (events.len() - at - 1) as u16,
                    kind: new.content.into(),
                    stream,
                    event_type: "Counted",
                    metadata: &new.metadata,
                    data,
                };
                let said = Said::by(&new);
                content.encode(said, commit, SALT, &mut self.chain, &mut self.bytes);
                self.position += 1;
                *length += 1;
            }
        }
    }
}

struct Folder(TempDir);

impl Folder {
    fn with(bytes: &[u8]) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        fs::write(folder.file(), bytes).unwrap();
        folder
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("00000000000000000000.segment")
    }

    fn recover(&self) -> Result<Recovered, OpenError> {
        recover(self.0.path())
    }
}

type Write = Vec<(String, Vec<Vec<u8>>)>;

fn a_write(byte: impl Strategy<Value = u8> + Clone + 'static) -> impl Strategy<Value = Write> {
    let data = prop::collection::vec(byte, 0..1_400);
    let batch = ("[a-c]", prop::collection::vec(data, 1..4));
    prop::collection::vec(batch, 1..4)
}

/// The segment's bytes, where its last write begins, and how many events a cut may leave.
fn built(writes: &[Write]) -> (Vec<u8>, usize, Vec<u64>) {
    let mut build = Build::new();
    let (last, earlier) = writes.split_last().unwrap();
    for write in earlier {
        build.write(write);
    }
    let start = build.bytes.len();
    let mut counts = vec![build.position];
    for (_, events) in last {
        counts.push(counts.last().unwrap() + events.len() as u64);
    }
    build.write(last);
    (build.bytes, start, counts)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// The power went before the last write was synced: any of its sectors may be missing.
    #[test]
    fn a_write_that_the_power_cut_is_cut(
        writes in prop::collection::vec(a_write(any::<u8>()), 1..4),
        lost in prop::collection::vec(any::<bool>(), 64),
        reach in prop::option::of(0..12_000_usize),
    ) {
        let (mut bytes, start, counts) = built(&writes);
        let whole = bytes.len();
        bytes.resize(whole.next_multiple_of(SECTOR) + RESERVED, 0);
        let mut missing = false;
        for (sector, _) in lost.iter().enumerate().filter(|(_, lost)| **lost) {
            let from = (start / SECTOR + sector) * SECTOR;
            if let Some(lost) = bytes.get_mut(from.max(start)..from + SECTOR) {
                missing |= lost.iter().any(|byte| *byte != 0);
                lost.fill(0);
            }
        }
        if let Some(reach) = reach {
            bytes.truncate(start + reach);
            missing |= bytes.len() < whole;
        }
        let folder = Folder::with(&bytes);
        let count = folder.recover().unwrap().index.next_position();
        prop_assert!(counts.contains(&count), "{count} of {counts:?}");
        if !missing {
            prop_assert_eq!(Some(&count), counts.last());
        }
        // What was cut does not come back.
        prop_assert_eq!(folder.recover().unwrap().index.next_position(), count);
        prop_assert_eq!(verify::verify(folder.0.path()).unwrap().events, count);
    }

    /// What had been synced before the last write began cannot be the work of a power cut.
    #[test]
    fn damage_before_the_last_write_is_refused(
        writes in prop::collection::vec(a_write(any::<u8>()), 2..4),
        at in any::<prop::sample::Index>(),
        mask in 1..=255_u8,
        sector in any::<bool>(),
        rest in 0..9_000_usize,
    ) {
        let (mut bytes, start, _) = built(&writes);
        let at = 64 + at.index(start - 64);
        if sector {
            let end = (at + SECTOR).min(start);
            bytes[at..end].fill(0);
        }
        bytes[at] ^= mask;
        // However much of the last write is there, as long as one of its records is whole.
        let first = format::record_length(&bytes[start..], Dialect { format: FORMAT, salt: SALT }).unwrap();
        bytes.truncate(start + first + rest);
        let folder = Folder::with(&bytes);
        let error = folder.recover().err();
        prop_assert!(matches!(error, Some(OpenError::Damaged { .. })), "{error:?}");
        prop_assert!(verify::verify(folder.0.path()).is_err());
        prop_assert_eq!(fs::read(folder.file()).unwrap(), bytes, "nothing was changed");
    }

    /// Even in the last write a flipped bit is told from a missing piece.
    #[test]
    fn a_flipped_bit_in_the_last_write_is_refused(
        writes in prop::collection::vec(a_write(1..=255_u8), 1..3),
        at in any::<prop::sample::Index>(),
        bit in 0..8_u32,
        reserved in prop::bool::ANY,
    ) {
        let (mut bytes, start, _) = built(&writes);
        let at = start + at.index(bytes.len() - start);
        bytes[at] ^= 1_u8 << bit;
        if reserved {
            bytes.resize(bytes.len() + RESERVED, 0);
        }
        let error = Folder::with(&bytes).recover().err();
        prop_assert!(matches!(error, Some(OpenError::Damaged { .. })), "{error:?}");
    }

    #[test]
    fn nonsense_is_refused_without_panic(
        nonsense in prop::collection::vec(any::<u8>(), 0..2_000),
        keep in 0..600_usize,
    ) {
        let mut build = Build::new();
        build.write(&[("run-1".into(), vec![vec![7; 300]])]);
        let mut bytes = build.bytes;
        bytes.truncate(keep);
        bytes.extend(nonsense);
        let folder = Folder::with(&bytes);
        drop(folder.recover());
        drop(verify::verify(folder.0.path()));
    }
}

/// The formats, as they were when they were decided. If this fails, old logs can no longer be read: a
/// change of the format needs a new number, and a new file beside these.
#[tokio::test]
async fn the_formats_are_what_they_were() {
    let mut build = Build::new();
    build.write(&[("run-1".into(), vec![b"one".to_vec(), vec![]])]);
    build.kind = crate::Content::Json;
    build.write(&[("räume-2".into(), vec![vec![0, 255]]), ("run-1".into(), vec![vec![7; 20]])]);
    let one = include_bytes!("golden/format-1.segment");
    let two = include_bytes!("golden/format-2.segment");
    assert_eq!(build.bytes, two);

    for (bytes, kind) in [(&one[..], crate::Content::Binary), (&two[..], crate::Content::Json)] {
        let folder = Folder::with(bytes);
        assert_eq!(verify::verify(folder.0.path()).unwrap().events, 4);
        let log = Log::open(folder.0.path(), clock()).unwrap();
        let events: Vec<_> = log.read_all(0, &[]).map(Result::unwrap).collect().await;
        let seen: Vec<_> = events
            .iter()
            .map(|event| (&*event.stream, event.revision, event.event.data.as_ref()))
            .collect();
        let expected: [(&str, u64, &[u8]); 4] = [
            ("run-1", 0, b"one"),
            ("run-1", 1, b""),
            ("räume-2", 0, &[0, 255]),
            ("run-1", 2, &[7; 20]),
        ];
        assert_eq!(seen, expected);
        assert_eq!(events[3].event.metadata().actor, "user:ada");
        assert_eq!(events[3].event.content, kind);
        assert_eq!(events[3].recorded_at, Timestamp(1_700_000_000_003));
    }
}

/// An old file is never written to again: what comes next goes into a new one of today's format.
#[tokio::test]
async fn a_log_of_format_1_goes_on_in_format_2() {
    let one = include_bytes!("golden/format-1.segment");
    let folder = Folder::with(one);
    for number in 4..7_u8 {
        let log = Log::open(folder.0.path(), clock()).unwrap();
        let mut new = new(u128::from(number) + 1);
        new.content = crate::Content::Json;
        let expected = Expected::Revision(u64::from(number) - 2);
        log.append("run-1", expected, vec![new]).await.unwrap();
        let events: Vec<_> = log.read_stream("run-1", 0, 9).map(Result::unwrap).collect().await;
        assert_eq!(events.len(), usize::from(number));
        assert_eq!(events.last().unwrap().event.content, crate::Content::Json);
    }
    assert_eq!(fs::read(folder.file()).unwrap(), one);
    let summary = verify::verify(folder.0.path()).unwrap();
    assert_eq!((summary.segments, summary.events), (2, 7));
    // Of the old format, and empty: replaced.
    let header = SegmentHeader {
        dialect: Dialect { format: 1, salt: SALT },
        ..SegmentHeader::new(0, Chain::START, SALT)
    };
    let folder = Folder::with(&header.encode());
    let log = Log::open(folder.0.path(), clock()).unwrap();
    log.append("run-1", Expected::None, vec![new(1)]).await.unwrap();
    drop(log);
    assert_eq!(fs::read(folder.file()).unwrap()[8], 2);
    assert_eq!(verify::verify(folder.0.path()).unwrap().events, 1);
}

fn clock() -> Clock {
    Clock::from_fn(|| Timestamp(0))
}

fn new(number: u128) -> NewEvent {
    NewEvent::new(
        EventId::from_uuid(Uuid::from_u128(number)),
        "Counted",
        bytes::Bytes::new(),
        &Metadata::default(),
    )
}

#[tokio::test]
async fn a_failed_write_stops_the_log_for_good() {
    let folder = Folder::with(&Build::new().bytes);
    let dir = folder.0.path();
    let log = Log::open(dir, clock()).unwrap();
    log.append("run-1", Expected::None, vec![new(1)]).await.unwrap();
    drop(log);
    // A file that is open for reading only stands for a disk that takes nothing more.
    let mut recovered = recover(dir).unwrap();
    recovered.tail.segment = Arc::new(Segment::open(folder.file(), false).unwrap());
    let engine = Embedded::start(dir, lock(dir).unwrap(), recovered, clock(), Options::default());
    let log = Log::new(Stored::new(engine.unwrap(), clock()));
    let mut subscription = log.subscribe(0, &[]);
    let waiting: Vec<_> =
        (2..10).map(|number| log.append("run-1", Expected::Any, vec![new(number)])).collect();
    for answer in futures::future::join_all(waiting).await {
        let error = answer.unwrap_err();
        assert!(matches!(error, AppendError::Log(LogError::Stopped(_))), "{error:?}");
        assert!(error.to_string().contains("00000.segment`: "), "{error}");
    }
    let later = log.append("run-2", Expected::None, vec![new(10)]).await.unwrap_err();
    assert!(later.to_string().contains("Bad file descriptor"), "{later}");
    // What was durable can still be read; then a subscriber hears that nothing more will come.
    assert_eq!(subscription.next().await.unwrap().unwrap().position, 0);
    assert!(matches!(subscription.next().await, Some(Err(LogError::Stopped(_)))));
    drop(log);
    let log = Log::open(dir, clock()).unwrap();
    assert_eq!(log.next_position().await.unwrap(), 1);
}

#[tokio::test]
async fn damage_under_a_living_log_is_told_to_its_reader() {
    let mut build = Build::new();
    build.write(&[("run-1".into(), vec![vec![1; 50], vec![2; 50]])]);
    let folder = Folder::with(&build.bytes);
    let log = Log::open(folder.0.path(), clock()).unwrap();
    build.bytes[300] ^= 1;
    fs::write(folder.file(), &build.bytes).unwrap();
    let read: Vec<_> = log.read_all(0, &[]).collect().await;
    let error = read.last().unwrap().as_ref().unwrap_err();
    assert!(matches!(error, LogError::Corrupt(_)), "{error:?}");
    assert!(error.to_string().contains("00000.segment` is damaged at byte 2"), "{error}");
    let read: Vec<_> = log.read_stream("run-1", 0, 9).collect().await;
    assert!(matches!(read.last(), Some(Err(LogError::Corrupt(_)))));
}

/// On a disk whose page cache has it, where reads begin without waiting.
#[tokio::test]
async fn an_index_file_that_rots_under_a_living_log_is_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let open = || Log::open_with(folder.path(), clock(), Options { segment_bytes: 200 }).unwrap();
    let log = open();
    for number in 1..=3 {
        let id = EventId::from_uuid(Uuid::from_u128(number));
        let new = NewEvent::new(id, "Counted", vec![1; 200], &Metadata::default());
        log.append("run-1", Expected::Any, vec![new]).await.unwrap();
    }
    drop(log);
    let log = open();
    let path = folder.path().join("00000000000000000000.index");
    let whole = fs::read(&path).unwrap();
    let rotten: Vec<_> = whole.iter().map(|byte| !byte).collect();
    fs::write(&path, rotten).unwrap();
    let read: Vec<_> = log.read_stream("run-1", 0, 9).map(Result::unwrap).collect().await;
    assert_eq!(read.iter().map(|event| event.revision).collect::<Vec<_>>(), [0, 1, 2]);
    assert_eq!(fs::read(&path).unwrap(), whole);
}

#[test]
fn a_later_file_forbids_to_cut_an_earlier_one() {
    let mut build = Build::new();
    build.write(&[("run-1".into(), vec![vec![1; 50]])]);
    let end = build.bytes.len();
    let folder = Folder::with(&build.bytes);
    let header = SegmentHeader::new(1, build.chain, 7);
    let next = folder.0.path().join("00000000000000000001.segment");
    fs::write(&next, header.encode()).unwrap();
    assert_eq!(folder.recover().unwrap().index.next_position(), 1);
    // Cut short, or with something behind.
    for bytes in [&build.bytes[..end - 1], &[&build.bytes[..], &[1; 8]].concat()] {
        fs::write(folder.file(), bytes).unwrap();
        assert!(matches!(folder.recover(), Err(OpenError::Damaged { .. })));
        assert!(verify::verify(folder.0.path()).is_err());
    }
    fs::write(folder.file(), &build.bytes).unwrap();
    // Of another log, or not the next one.
    for (first, chain) in [(1, Chain([1; 32])), (2, build.chain)] {
        fs::write(&next, SegmentHeader::new(first, chain, 7).encode()).unwrap();
        assert!(matches!(folder.recover(), Err(OpenError::Damaged { .. })));
        assert!(verify::verify(folder.0.path()).is_err());
    }
    fs::remove_file(folder.file()).unwrap();
    let error = folder.recover().err().unwrap().to_string();
    assert!(error.contains("a file is missing"), "{error}");
}

#[test]
fn verify_sees_a_forged_event() {
    let mut build = Build::new();
    build.write(&[("run-1".into(), vec![vec![1; 50]])]);
    // An event that was written by another history: sound by itself, but the chain tells.
    build.chain = Chain([9; 32]);
    build.write(&[("run-1".into(), vec![vec![2; 50]])]);
    let folder = Folder::with(&build.bytes);
    let error = verify::verify(folder.0.path()).unwrap_err().to_string();
    assert!(error.contains("event 1 was changed after it was written"), "{error}");
}

/// More than the writer remembers the heads of.
#[tokio::test]
async fn a_stream_of_very_many_that_wait_together_goes_on() {
    const STREAMS: u64 = 70_000;
    let mounted = mount(1);
    let dir = mounted.root.join("log");
    let log = Log::open(&dir, clock()).unwrap();
    let append = |number: u64, stream: u64| {
        let id = EventId::from_uuid(Uuid::from_u128(u128::from(number) + 1));
        let new = NewEvent::new(id, "Counted", Vec::new(), &Metadata::default());
        log.append(format!("run-{stream}"), Expected::Any, vec![new])
    };
    mounted.disk.pause();
    let first = append(STREAMS, STREAMS);
    while !mounted.disk.is_waited_for() {
        std::thread::yield_now();
    }
    let mut waiting: Vec<_> = (0..STREAMS).map(|number| append(number, number)).collect();
    waiting.push(append(STREAMS + 1, 0));
    mounted.disk.resume();
    first.await.unwrap();
    let last = futures::future::try_join_all(waiting).await.unwrap().pop().unwrap();
    assert_eq!(last.revision, 1);
    drop(log);
    Log::open(&dir, clock()).unwrap();
}
