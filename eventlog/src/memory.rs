//! The log in memory: gone with the process; for tests.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures::{
    future::BoxFuture,
    stream::{self, BoxStream, StreamExt},
};
use tokio::sync::watch;

use crate::{
    Clock,
    event::{Expected, NewEvent, Recorded},
    log::{AppendError, Appended, Engine, LogError},
};

pub(crate) struct Memory {
    clock: Clock,
    stored: Arc<Mutex<Stored>>,
    /// Count of events, for followers to wait on.
    length: watch::Sender<u64>,
}

#[derive(Default)]
struct Stored {
    events: Vec<Recorded>,
    streams: HashMap<String, Vec<usize>>,
}

impl Memory {
    pub(crate) fn new(clock: Clock) -> Self {
        Self { clock, stored: Arc::default(), length: watch::Sender::new(0) }
    }

    fn append_now(
        &self,
        stream: String,
        expected: Expected,
        events: Vec<NewEvent>,
    ) -> Result<Appended, AppendError> {
        let mut stored = lock(&self.stored);
        if let Some(first_answer) = stored.answer_to_retry(&stream, expected, &events) {
            return Ok(first_answer);
        }
        let places = stored.streams.get(&stream).map_or(0, Vec::len) as u64;
        let current = places.checked_sub(1);
        if !expected.is_met_by(current) {
            return Err(AppendError::Conflict { stream, expected, current });
        }
        let recorded_at = self.clock.now();
        for (revision, event) in (places..).zip(events) {
            let position = stored.events.len();
            stored.streams.entry(stream.clone()).or_default().push(position);
            stored.events.push(Recorded {
                position: position as u64,
                stream: stream.as_str().into(),
                revision,
                recorded_at,
                event,
            });
        }
        let last = stored.events.last().expect("a batch is never empty");
        let appended = Appended { position: last.position, revision: last.revision };
        self.length.send_replace(appended.position + 1);
        Ok(appended)
    }
}

impl Stored {
    fn answer_to_retry(
        &self,
        stream: &str,
        expected: Expected,
        events: &[NewEvent],
    ) -> Option<Appended> {
        let places = self.streams.get(stream)?;
        let first = match expected {
            Expected::None => 0,
            Expected::Revision(revision) => usize::try_from(revision).ok()?.checked_add(1)?,
            Expected::Any | Expected::Exists => {
                places.iter().rposition(|&place| self.events[place].event.id == events[0].id)?
            }
        };
        let earlier = places.get(first..first.checked_add(events.len())?)?;
        let same = earlier.iter().zip(events).all(|(&at, new)| self.events[at].event.id == new.id);
        let last = &self.events[*earlier.last()?];
        same.then_some(Appended { position: last.position, revision: last.revision })
    }
}

impl Engine for Memory {
    fn append(
        &self,
        stream: String,
        expected: Expected,
        events: Vec<NewEvent>,
    ) -> BoxFuture<'static, Result<Appended, AppendError>> {
        let answer = self.append_now(stream, expected, events);
        Box::pin(async { answer })
    }

    fn read_stream(
        &self,
        stream: String,
        from_revision: u64,
        limit: usize,
    ) -> BoxStream<'static, Result<Recorded, LogError>> {
        let stored = lock(&self.stored);
        let places = stored.streams.get(&stream).map_or(&[][..], Vec::as_slice);
        let from = usize::try_from(from_revision).unwrap_or(usize::MAX);
        let found: Vec<_> = places
            .iter()
            .skip(from)
            .take(limit)
            .map(|&place| Ok(stored.events[place].clone()))
            .collect();
        stream::iter(found).boxed()
    }

    fn read_all(
        &self,
        from_position: u64,
        prefixes: Vec<String>,
        follow: bool,
    ) -> BoxStream<'static, Result<Recorded, LogError>> {
        let stored = Arc::clone(&self.stored);
        let end = if follow { None } else { Some(lock(&stored).events.len() as u64) };
        let start = (from_position, self.length.subscribe());
        stream::unfold(start, move |(mut at, mut length)| {
            let (stored, prefixes) = (Arc::clone(&stored), prefixes.clone());
            async move {
                loop {
                    if end.is_some_and(|end| at >= end) {
                        return None;
                    }
                    let next = lock(&stored).events.get(usize::try_from(at).ok()?).cloned();
                    match next {
                        Some(event) => {
                            at += 1;
                            let wanted = prefixes.is_empty()
                                || prefixes.iter().any(|prefix| event.stream.starts_with(prefix));
                            if wanted {
                                return Some((Ok(event), (at, length)));
                            }
                        }
                        None => length.wait_for(|&length| length > at).await.map(drop).ok()?,
                    }
                }
            }
        })
        .boxed()
    }

    fn next_position(&self) -> BoxFuture<'static, Result<u64, LogError>> {
        let next = lock(&self.stored).events.len() as u64;
        Box::pin(async move { Ok(next) })
    }
}

/// A panic while the lock was held cannot leave a batch half stored: events are pushed whole.
fn lock(stored: &Mutex<Stored>) -> MutexGuard<'_, Stored> {
    stored.lock().unwrap_or_else(PoisonError::into_inner)
}
