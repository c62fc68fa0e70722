//! A random life of streams that keep, hide, lose and end, against a model that only counts.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use eventlog::{
    AppendError, Clock, Expected, Log, LogError, Options, StreamMetadata, retention::DELETED,
};
use futures::StreamExt;
use ids::Timestamp;
use proptest::prelude::*;

use crate::{all, event, numbers};

const START: u64 = 1_700_000_000_000;

#[derive(Clone, Debug)]
enum Step {
    Append { stream: u8, expected: Expected, count: u64 },
    Keep { stream: u8, metadata: StreamMetadata },
    Delete { stream: u8 },
    Tombstone { stream: u8 },
    Wait { millis: u64 },
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let expected = prop_oneof![
        4 => Just(Expected::Any),
        1 => Just(Expected::None),
        1 => Just(Expected::Exists),
        1 => (0..6_u64).prop_map(Expected::Revision),
    ];
    let stream = 0..3_u8;
    let before = prop_oneof![5 => (0..12_u64).boxed(), 1 => Just(DELETED).boxed()];
    let metadata =
        (prop::option::of(1..6_u64), prop::option::of(1..5_u64), prop::option::of(before));
    let metadata = metadata.prop_map(|(count, age, before)| StreamMetadata {
        max_count: count,
        max_age: age.map(Duration::from_secs),
        truncate_before: before,
        ..StreamMetadata::default()
    });
    prop_oneof![
        12 => (stream.clone(), expected, 1..4_u64)
            .prop_map(|(stream, expected, count)| Step::Append { stream, expected, count }),
        4 => (stream.clone(), metadata).prop_map(|(stream, metadata)| Step::Keep { stream, metadata }),
        2 => stream.clone().prop_map(|stream| Step::Delete { stream }),
        1 => stream.prop_map(|stream| Step::Tombstone { stream }),
        4 => (0..3_000_u64).prop_map(|millis| Step::Wait { millis }),
        1 => Just(Step::Reopen),
    ]
}

/// What is known of a stream by counting.
#[derive(Clone, Debug, Default)]
struct Model {
    /// Number and time of each event.
    events: Vec<(u64, u64)>,
    metadata: StreamMetadata,
    /// How many events there were at the soft delete, if it still holds.
    deleted: Option<u64>,
    ended: bool,
}

impl Model {
    fn keep(&mut self, mut metadata: StreamMetadata) {
        if let Some(deleted) = self.deleted {
            let before = metadata.truncate_before.unwrap_or(0).max(deleted);
            metadata.truncate_before = Some(before);
        }
        let deletes = metadata.truncate_before == Some(DELETED);
        self.deleted = deletes.then_some(self.events.len() as u64);
        self.metadata = metadata;
    }

    fn takes(&self, expected: Expected) -> bool {
        let length = self.events.len() as u64;
        let is_there = length > 0 && self.deleted != Some(length);
        match expected {
            Expected::Any => true,
            Expected::None => !is_there,
            Expected::Exists => is_there,
            Expected::Revision(revision) => revision + 1 == length,
        }
    }

    /// Numbers of what is to be seen, with revisions.
    fn visible(&self, now: u64) -> Vec<(u64, u64)> {
        let length = self.events.len() as u64;
        let hidden = self.deleted.or(self.metadata.truncate_before).unwrap_or(0);
        let counted = self.metadata.max_count.map_or(0, |most| length.saturating_sub(most));
        let is_young =
            |at: u64| self.metadata.max_age.is_none_or(|age| at + age.as_millis() as u64 >= now);
        (0..)
            .zip(&self.events)
            .filter(|(revision, (_, at))| {
                *revision >= hidden && *revision >= counted && is_young(*at)
            })
            .map(|(revision, (number, _))| (revision, *number))
            .collect()
    }
}

struct Life {
    now: Arc<AtomicU64>,
    /// `None`: in memory.
    dir: Option<tempfile::TempDir>,
    log: Log,
    streams: BTreeMap<u8, Model>,
    next: u64,
}

impl Life {
    fn new(dir: Option<tempfile::TempDir>) -> Self {
        let now = Arc::new(AtomicU64::new(START));
        let log = Self::open(dir.as_ref(), &now);
        Self { now, dir, log, streams: BTreeMap::new(), next: 0 }
    }

    fn open(dir: Option<&tempfile::TempDir>, now: &Arc<AtomicU64>) -> Log {
        let now = Arc::clone(now);
        let clock = Clock::from_fn(move || Timestamp(now.load(Ordering::Relaxed)));
        match dir {
            None => Log::in_memory(clock),
            Some(dir) => {
                Log::open_with(dir.path(), clock, Options { segment_bytes: 1_024 }).unwrap()
            }
        }
    }

    async fn step(&mut self, step: Step) {
        let now = self.now.load(Ordering::Relaxed);
        match step {
            Step::Append { stream, expected, count } => {
                let model = self.streams.entry(stream).or_default();
                let numbers = self.next..self.next + count;
                self.next += count;
                let events = numbers.clone().map(event).collect();
                match self.log.append(name(stream), expected, events).await {
                    Ok(appended) => {
                        assert!(model.takes(expected) && !model.ended, "{expected:?} {model:?}");
                        model.events.extend(numbers.map(|number| (number, now)));
                        assert_eq!(appended.revision + 1, model.events.len() as u64);
                    }
                    Err(AppendError::Deleted { .. }) => assert!(model.ended),
                    Err(AppendError::Conflict { .. }) => {
                        assert!(!model.takes(expected) && !model.ended, "{expected:?} {model:?}");
                    }
                    Err(AppendError::Log(error)) => panic!("{error}"),
                }
            }
            Step::Keep { stream, metadata } => {
                let model = self.streams.entry(stream).or_default();
                self.next += 1;
                let id = event(self.next - 1).id;
                let set =
                    self.log.set_stream_metadata(name(stream), Expected::Any, metadata.clone(), id);
                assert_eq!(set.await.is_ok(), !model.ended);
                if !model.ended {
                    model.keep(metadata);
                }
            }
            Step::Delete { stream } => {
                let model = self.streams.entry(stream).or_default();
                let deleted = self.log.delete(name(stream), Expected::Any).await;
                assert_eq!(deleted.is_ok(), !model.ended);
                let before = Some(DELETED);
                model.metadata.truncate_before = before;
                model.deleted = Some(model.events.len() as u64);
            }
            Step::Tombstone { stream } => {
                let model = self.streams.entry(stream).or_default();
                let ended = self.log.tombstone(name(stream), Expected::Any).await;
                assert_eq!(ended.is_ok(), !model.ended);
                model.ended = true;
            }
            Step::Wait { millis } => drop(self.now.fetch_add(millis, Ordering::Relaxed)),
            Step::Reopen => {
                if self.dir.is_some() {
                    // The folder is free when the last handle is gone.
                    self.log = Log::in_memory(Clock::system());
                    self.log = Self::open(self.dir.as_ref(), &self.now);
                }
            }
        }
        self.check().await;
    }

    async fn check(&self) {
        let now = self.now.load(Ordering::Relaxed);
        for (&stream, model) in &self.streams {
            if model.ended {
                let mut reading = self.log.read_stream(name(stream), 0, 9);
                assert!(matches!(reading.next().await, Some(Err(LogError::Deleted { .. }))));
                continue;
            }
            let visible = model.visible(now);
            let length = model.events.len() as u64;
            for (from, limit) in [(0, usize::MAX), (length / 2, 2), (length, 1)] {
                let wanted = |(revision, _): &&(u64, u64)| *revision >= from;
                let expected: Vec<_> = visible.iter().filter(wanted).take(limit).copied().collect();
                let found = all(self.log.read_stream(name(stream), from, limit)).await;
                let revisions = found.iter().map(|event| event.revision);
                let found: Vec<_> = revisions.zip(numbers(&found)).collect();
                assert_eq!(found, expected, "from {from}, at most {limit}: {model:?}");

                let wanted = |(revision, _): &&(u64, u64)| *revision <= from;
                let back = visible.iter().rev().filter(wanted).take(limit);
                let expected: Vec<_> = back.map(|(_, number)| *number).collect();
                let found = all(self.log.read_stream_backward(name(stream), Some(from), limit));
                assert_eq!(numbers(&found.await), expected, "back from {from}: {model:?}");
            }
            let (metadata, _) = self.log.stream_metadata(name(stream)).await.unwrap();
            assert_eq!(metadata, model.metadata);
        }
    }
}

fn name(stream: u8) -> String {
    format!("run-{stream}")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]

    #[test]
    fn streams_keep_what_a_count_says(steps in prop::collection::vec(step(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            for dir in [None, Some(tempfile::tempdir().unwrap())] {
                let mut life = Life::new(dir);
                for step in &steps {
                    life.step(step.clone()).await;
                }
            }
        });
    }
}
