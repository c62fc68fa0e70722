//! A client of a log, what it was told, and what must therefore be in the log.

use std::{
    collections::{BTreeMap, HashMap},
    thread,
};

use futures::StreamExt;
use ids::{EventId, Timestamp};
use uuid::Uuid;

use crate::{
    AppendError, Appended, Clock, Content, Expected, Log, LogError, NewEvent, Recorded,
    StreamMetadata,
    disk::simulated::{Disk, Random},
    retention::{DELETED, TOMBSTONE_TYPE, subject},
};

pub(super) fn clock() -> Clock {
    Clock::from_fn(|| Timestamp(1_700_000_000_000))
}

/// What comes of every append that is not refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Unknown,
    Refused,
    /// From this position on.
    Stored(u64),
}

#[derive(Clone, Debug)]
struct Batch {
    stream: String,
    expected: Expected,
    events: Vec<NewEvent>,
    fate: Fate,
}

#[derive(Debug)]
enum Outcome {
    Stored(Appended),
    Conflict,
    Deleted,
}

/// Why a client cannot go on.
#[derive(Debug)]
pub(super) struct Broke(pub(super) String);

pub(super) struct History {
    random: Random,
    /// By position: whatever was acknowledged or seen.
    known: Vec<Recorded>,
    lengths: BTreeMap<String, u64>,
    batches: Vec<Batch>,
    sent: HashMap<EventId, usize>,
    /// The lengths that streams had when they were deleted.
    deleted: BTreeMap<String, u64>,
    tombstoned: Vec<String>,
    /// Events of the log's own whose fate is not known.
    own: usize,
    streams: u64,
}

impl History {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            random: Random::new(seed),
            known: Vec::new(),
            lengths: BTreeMap::new(),
            batches: Vec::new(),
            sent: HashMap::new(),
            deleted: BTreeMap::new(),
            tombstoned: Vec::new(),
            own: 0,
            streams: 5,
        }
    }

    pub(super) fn count(&self) -> u64 {
        self.known.len() as u64
    }

    /// Reads everything: what is known must be there, unchanged, and what is new must be what was
    /// sent, in whole batches.
    pub(super) async fn look(&mut self, log: &Log) -> Result<(), Broke> {
        let mut events = Vec::new();
        let mut reading = log.read_all(0, &[]);
        while let Some(event) = reading.next().await {
            events.push(event.map_err(broke)?);
        }
        assert!(events.len() >= self.known.len(), "lost: {:#?}", &self.known[events.len()..]);
        for (known, found) in self.known.iter().zip(&events) {
            assert_eq!(known, found, "changed");
        }
        let mut new = &events[self.known.len()..];
        while let Some(first) = new.first() {
            let is_own = first.stream.starts_with("$$") || first.event.event_type == TOMBSTONE_TYPE;
            let count = if is_own { self.take_own(first) } else { self.take_batch(new) };
            let (taken, rest) = new.split_at(count);
            for event in taken {
                self.learn(event.clone());
            }
            new = rest;
        }
        assert_eq!(log.next_position().await.map_err(broke)?, self.count());
        self.look_at_a_stream(log).await
    }

    /// Reads one stream of which nothing is hidden: it is what the whole log has of it.
    async fn look_at_a_stream(&mut self, log: &Log) -> Result<(), Broke> {
        let stream = format!("run-{}", self.random.below(self.streams));
        let is_noted = self.lengths.contains_key(&format!("$${stream}"));
        if is_noted || self.tombstoned.contains(&stream) {
            return Ok(());
        }
        let mut reading = log.read_stream(stream.as_str(), 0, usize::MAX);
        let mut known = self.known.iter().filter(|event| event.stream == stream);
        while let Some(event) = reading.next().await {
            assert_eq!(Some(&event.map_err(broke)?), known.next(), "changed in `{stream}`");
        }
        assert_eq!(known.next(), None, "lost of `{stream}`");
        Ok(())
    }

    fn take_own(&mut self, event: &Recorded) -> usize {
        assert!(self.own > 0, "nobody asked for {event:?}");
        self.own -= 1;
        1
    }

    fn take_batch(&mut self, new: &[Recorded]) -> usize {
        let at = *self.sent.get(&new[0].event.id).expect("it was sent");
        let batch = &mut self.batches[at];
        assert_eq!(batch.fate, Fate::Unknown, "it was refused, or is there twice: {:?}", new[0]);
        assert!(batch.events.len() <= new.len(), "a torn batch: {batch:?}");
        for (sent, found) in batch.events.iter().zip(new) {
            assert_eq!((sent, &*batch.stream), (&found.event, &*found.stream), "torn or changed");
        }
        batch.fate = Fate::Stored(new[0].position);
        batch.events.len()
    }

    fn learn(&mut self, event: Recorded) {
        assert_eq!(event.position, self.count(), "positions have a gap");
        let length = self.lengths.entry(event.stream.to_string()).or_default();
        assert_eq!(event.revision, *length, "revisions of `{}` have a gap", event.stream);
        *length += 1;
        if event.event.event_type == TOMBSTONE_TYPE {
            self.tombstoned.push(event.stream.to_string());
        }
        if let Some(subject) = subject(&event.stream) {
            let metadata = StreamMetadata::from_json(&event.event.data).unwrap();
            let length = self.lengths.get(subject).copied().unwrap_or(0);
            if metadata.truncate_before == Some(DELETED) {
                self.deleted.insert(subject.to_owned(), length);
            } else {
                self.deleted.remove(subject);
            }
        }
        self.known.push(event);
    }

    /// One thing that a client does.
    pub(super) async fn step(&mut self, log: &Log, disk: &Disk) -> Result<(), Broke> {
        match self.random.below(100) {
            0..60 => {
                let batch = self.new_batch();
                self.append(log, batch).await
            }
            60..75 => self.group(log, disk).await,
            75..85 if !self.batches.is_empty() => {
                let again = self.random.below(self.batches.len() as u64) as usize;
                if self.batches[again].fate == Fate::Refused {
                    return Ok(());
                }
                self.append(log, again).await
            }
            85..90 => self.own_event(log).await,
            _ => self.look(log).await,
        }
    }

    fn stream(&mut self) -> String {
        let number = self.random.below(self.streams);
        let stream = format!("run-{number}");
        if self.tombstoned.contains(&stream) && self.random.chance(3, 4) {
            self.streams += 1;
            return format!("run-{}", self.streams - 1);
        }
        stream
    }

    fn new_batch(&mut self) -> usize {
        let stream = self.stream();
        let length = self.lengths.get(&stream).copied().unwrap_or(0);
        let expected = match self.random.below(10) {
            0..3 => Expected::Any,
            3 => Expected::Revision(self.random.below(4)),
            4 => Expected::None,
            _ => length.checked_sub(1).map_or(Expected::None, Expected::Revision),
        };
        let count = if self.random.chance(2, 3) { 1 } else { 1 + self.random.below(4) };
        let events = (0..count).map(|_| self.new_event()).collect::<Vec<_>>();
        let number = self.batches.len();
        self.sent.extend(events.iter().map(|event| (event.id, number)));
        self.batches.push(Batch { stream, expected, events, fate: Fate::Unknown });
        number
    }

    fn new_event(&mut self) -> NewEvent {
        let id = Uuid::from_u64_pair(self.random.next(), self.random.next());
        let length = match self.random.below(10) {
            0 => 0,
            1 => self.random.below(1_500),
            _ => self.random.below(200),
        };
        let is_zero = self.random.chance(1, 10);
        let byte = |random: &mut Random| if is_zero { 0 } else { random.next() as u8 };
        let data: Vec<_> = (0..length).map(|_| byte(&mut self.random)).collect();
        NewEvent {
            id: EventId::from_uuid(id),
            event_type: "Counted".into(),
            content: Content::Binary,
            data: data.into(),
            metadata: "".into(),
        }
    }

    /// What a log that holds what is known has to answer.
    fn outcome(&self, batch: &Batch) -> Outcome {
        let count = batch.events.len() as u64;
        if let Fate::Stored(first) = batch.fate {
            let last = &self.known[(first + count - 1) as usize];
            return Outcome::Stored(Appended { position: last.position, revision: last.revision });
        }
        if self.tombstoned.contains(&batch.stream) {
            return Outcome::Deleted;
        }
        let length = self.lengths.get(&batch.stream).copied().unwrap_or(0);
        let is_deleted = self.deleted.get(&batch.stream) == Some(&length);
        if batch.expected.is_met_by(length.checked_sub(1))
            || (is_deleted && batch.expected == Expected::None)
        {
            let position = self.count() + count - 1;
            return Outcome::Stored(Appended { position, revision: length + count - 1 });
        }
        Outcome::Conflict
    }

    async fn append(&mut self, log: &Log, number: usize) -> Result<(), Broke> {
        let batch = self.batches[number].clone();
        let answer = log.append(batch.stream, batch.expected, batch.events).await;
        self.answered(number, answer)
    }

    /// Appends that wait together while the disk is busy with the first.
    async fn group(&mut self, log: &Log, disk: &Disk) -> Result<(), Broke> {
        let count = 2 + self.random.below(5);
        let numbers: Vec<_> = (0..count).map(|_| self.new_batch()).collect();
        // The first is not refused, so it comes to the disk.
        let first = &mut self.batches[numbers[0]];
        (first.stream, first.expected) = ("first".into(), Expected::Any);
        disk.pause();
        let append = |&number: &usize| {
            let batch = self.batches[number].clone();
            log.append(batch.stream, batch.expected, batch.events)
        };
        let mut waiting = vec![append(&numbers[0])];
        // Not polled: whoever asks for the answer may write, and would wait for the disk here.
        while !disk.is_waited_for() && disk.struck().is_none() {
            thread::yield_now();
        }
        waiting.extend(numbers[1..].iter().map(append));
        disk.resume();
        let answers = futures::future::join_all(waiting).await;
        let mut outcome = Ok(());
        for (number, answer) in numbers.into_iter().zip(answers) {
            let answered = self.answered(number, answer);
            assert!(outcome.is_ok() || answered.is_err(), "acknowledged after a failure");
            outcome = answered;
        }
        outcome
    }

    fn answered(
        &mut self,
        number: usize,
        answer: Result<Appended, AppendError>,
    ) -> Result<(), Broke> {
        let batch = self.batches[number].clone();
        match (self.outcome(&batch), answer) {
            (_, Err(AppendError::Log(error))) => return Err(broke(error)),
            (Outcome::Stored(expected), Ok(appended)) => {
                assert_eq!(appended, expected, "{batch:?}");
                if batch.fate == Fate::Unknown {
                    let count = batch.events.len() as u64;
                    self.batches[number].fate = Fate::Stored(appended.position + 1 - count);
                    let first = (appended.position + 1 - count, appended.revision + 1 - count);
                    for (at, event) in (0..).zip(batch.events) {
                        self.learn(Recorded {
                            position: first.0 + at,
                            stream: batch.stream.as_str().into(),
                            revision: first.1 + at,
                            recorded_at: clock().now(),
                            event,
                        });
                    }
                }
            }
            (Outcome::Conflict, Err(AppendError::Conflict { .. }))
            | (Outcome::Deleted, Err(AppendError::Deleted { .. })) => {
                self.batches[number].fate = Fate::Refused;
            }
            (expected, answer) => panic!("{batch:?}: {answer:?} instead of {expected:?}"),
        }
        Ok(())
    }

    /// A delete, a tombstone, or metadata.
    async fn own_event(&mut self, log: &Log) -> Result<(), Broke> {
        let stream = self.stream();
        if self.tombstoned.contains(&stream) || !self.lengths.contains_key(&stream) {
            return Ok(());
        }
        self.own += 1;
        let answer = match self.random.below(4) {
            0 => log.tombstone(stream.as_str(), Expected::Any).await,
            1 => {
                let metadata = StreamMetadata { max_count: Some(3), ..StreamMetadata::default() };
                let id = self.new_event().id;
                let set =
                    log.set_stream_metadata(stream.as_str(), Expected::Any, metadata, id).await;
                set.map(drop)
            }
            _ => log.delete(stream.as_str(), Expected::Any).await,
        };
        match answer {
            Ok(()) => {
                let before = self.count();
                self.look(log).await?;
                assert_eq!(self.count(), before + 1, "an acknowledged delete is not there");
                Ok(())
            }
            Err(AppendError::Log(error)) => Err(broke(error)),
            Err(other) => panic!("{other}"),
        }
    }

    /// A log that has stopped once goes on stopping, and shows what was acknowledged and no more.
    pub(super) async fn is_stopped(&mut self, log: &Log, disk_works: bool) -> String {
        let number = self.new_batch();
        let batch = self.batches[number].clone();
        let error = log.append(batch.stream, batch.expected, batch.events).await.unwrap_err();
        assert!(matches!(error, AppendError::Log(LogError::Stopped(_))), "{error:?}");
        if disk_works && self.own == 0 {
            let before = self.count();
            self.look(log).await.unwrap();
            assert_eq!(self.count(), before, "a reader saw what was never acknowledged");
        }
        error.to_string()
    }

    /// What was asked for before and did not come to be is not expected any more.
    pub(super) fn forget_own(&mut self) {
        self.own = 0;
    }
}

fn broke(error: LogError) -> Broke {
    assert!(matches!(error, LogError::Stopped(_) | LogError::Corrupt(_)), "{error:?}");
    Broke(error.to_string())
}
