//! The log in memory: gone with the process; for tests.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures::{
    future::BoxFuture,
    stream::{self, BoxStream, StreamExt},
};
use ids::EventId;
use tokio::sync::watch;

use crate::{
    Clock,
    event::{Expected, NewEvent, Recorded},
    filter::{Direction, Filter},
    log::{AppendError, Appended, LogError},
    retention::{Standing, Standings},
    store::{Append, Store},
};

pub(crate) struct Memory {
    clock: Clock,
    stored: Arc<Mutex<Held>>,
    /// Count of events, for followers to wait on.
    length: watch::Sender<u64>,
}

#[derive(Default)]
struct Held {
    events: Vec<Recorded>,
    streams: HashMap<String, Stream>,
    standings: Standings,
}

#[derive(Default)]
struct Stream {
    /// Where its events are, by revision.
    places: Vec<usize>,
    /// The last revision with this id.
    last: HashMap<EventId, u64>,
}

impl Memory {
    pub(crate) fn new(clock: Clock) -> Self {
        Self { clock, stored: Arc::default(), length: watch::Sender::new(0) }
    }

    fn append_now(&self, append: Append) -> Result<Appended, AppendError> {
        let Append { stream, expected, events, guard } = append;
        let mut stored = lock(&self.stored);
        let standing = stored.standing(&stream);
        if let Some(first_answer) = stored.answer_to_retry(&stream, &standing, expected, &events) {
            return Ok(first_answer);
        }
        if let Some((guarded, expected)) = guard {
            stored.standing(&guarded).check(&guarded, expected)?;
        }
        standing.check(&stream, expected)?;
        let recorded_at = self.clock.now();
        for (revision, event) in (standing.next_revision..).zip(events) {
            let position = stored.events.len() as u64;
            stored.push(Recorded {
                position,
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

impl Held {
    fn push(&mut self, recorded: Recorded) {
        let Recorded { stream, revision, event, .. } = &recorded;
        let streams = &self.streams;
        let length_of =
            |name: &str| streams.get(name).map_or(0, |stream| stream.places.len()) as u64;
        self.standings.note(stream, &event.event_type, *revision, &event.data, length_of);
        let held = self.streams.entry(stream.to_string()).or_default();
        held.places.push(self.events.len());
        held.last.insert(event.id, *revision);
        self.events.push(recorded);
    }

    fn places(&self, stream: &str) -> &[usize] {
        self.streams.get(stream).map_or(&[][..], |stream| &stream.places)
    }

    fn standing(&self, stream: &str) -> Standing {
        self.standings.standing(stream, self.places(stream).len() as u64)
    }

    fn answer_to_retry(
        &self,
        stream: &str,
        standing: &Standing,
        expected: Expected,
        events: &[NewEvent],
    ) -> Option<Appended> {
        let Stream { places, last } = self.streams.get(stream)?;
        let anywhere = match expected {
            Expected::Revision(_) => None,
            _ => last
                .get(&events[0].id)
                .copied()
                .filter(|first| standing.may_have_gone_to(*first, expected)),
        };
        let firsts = standing.places_of_retry(expected).into_iter().chain([anywhere]);
        firsts.flatten().find_map(|first| {
            let first = usize::try_from(first).ok()?;
            let earlier = places.get(first..first.checked_add(events.len())?)?;
            let mut pairs = earlier.iter().zip(events);
            let same = pairs.all(|(&at, new)| self.events[at].event.id == new.id);
            let last = &self.events[*earlier.last()?];
            same.then_some(Appended { position: last.position, revision: last.revision })
        })
    }

    /// The first event from a position on in either direction that is wanted.
    fn next(&self, at: u64, direction: Direction, filter: &Filter) -> Option<&Recorded> {
        let at = usize::try_from(at).unwrap_or(usize::MAX);
        let wanted = |event: &&Recorded| filter.matches(&event.stream, &event.event.event_type);
        match direction {
            Direction::Forward => self.events.get(at..)?.iter().find(wanted),
            Direction::Backward => {
                let end = at.saturating_add(1).min(self.events.len());
                self.events[..end].iter().rev().find(wanted)
            }
        }
    }
}

impl Store for Memory {
    fn append(&self, append: Append) -> BoxFuture<'static, Result<Appended, AppendError>> {
        let answer = self.append_now(append);
        Box::pin(async { answer })
    }

    fn standing(&self, stream: &str) -> Standing {
        lock(&self.stored).standing(stream)
    }

    fn length(&self, stream: String) -> BoxFuture<'static, Result<u64, LogError>> {
        let length = lock(&self.stored).places(&stream).len() as u64;
        Box::pin(async move { Ok(length) })
    }

    fn read_stream(
        &self,
        stream: String,
        from: Option<u64>,
        direction: Direction,
        limit: usize,
    ) -> BoxStream<'static, Result<Recorded, LogError>> {
        let stored = lock(&self.stored);
        let places = stored.places(&stream);
        let from = from.map(|from| usize::try_from(from).unwrap_or(usize::MAX));
        let event = |&place: &usize| Ok(stored.events[place].clone());
        let found: Vec<_> = match direction {
            Direction::Forward => {
                places.iter().skip(from.unwrap_or(0)).take(limit).map(event).collect()
            }
            Direction::Backward => {
                let end = from.map_or(usize::MAX, |from| from.saturating_add(1)).min(places.len());
                places[..end].iter().rev().take(limit).map(event).collect()
            }
        };
        stream::iter(found).boxed()
    }

    fn read_all(
        &self,
        from: Option<u64>,
        direction: Direction,
        filter: Filter,
        follow: bool,
    ) -> BoxStream<'static, Result<Recorded, LogError>> {
        let stored = Arc::clone(&self.stored);
        let count = lock(&stored).events.len() as u64;
        let end = if follow { u64::MAX } else { count };
        // The next position to look at; going backward, nothing is left below 0.
        let at = match direction {
            Direction::Forward => Some(from.unwrap_or(0)),
            Direction::Backward => count.checked_sub(1).map(|last| last.min(from.unwrap_or(last))),
        };
        stream::unfold((at, self.length.subscribe()), move |(at, mut length)| {
            let (stored, filter) = (Arc::clone(&stored), filter.clone());
            async move {
                let mut at = at.filter(|at| *at < end)?;
                loop {
                    let seen = *length.borrow_and_update();
                    let next = lock(&stored).next(at, direction, &filter).cloned();
                    if let Some(event) = next.filter(|event| event.position < end) {
                        let after = match direction {
                            Direction::Forward => Some(event.position + 1),
                            Direction::Backward => event.position.checked_sub(1),
                        };
                        return Some((Ok(event), (after, length)));
                    }
                    if !follow {
                        return None;
                    }
                    at = at.max(seen);
                    length.changed().await.ok()?;
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
fn lock(stored: &Mutex<Held>) -> MutexGuard<'_, Held> {
    stored.lock().unwrap_or_else(PoisonError::into_inner)
}
