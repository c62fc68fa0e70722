//! Reads and subscriptions. Those that break go on after the last event seen.
//!
//! A cluster's positions have gaps, and it understands only positions that it gave. So a read from
//! position `n` begins at `n − 1`, which whoever asks has mostly seen, and skips; where that one does not
//! exist, at `n` itself.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use kurrentdb::{
    AppendToStreamOptions, CurrentRevision, Error, EventData, Position, ReadAllOptions, ReadStream,
    ReadStreamOptions, StreamPosition, StreamState, SubscribeToAllOptions, Subscription,
    SubscriptionEvent, SubscriptionFilter,
};

use super::{
    convert::to_recorded,
    pool::{Lease, Pool},
    trouble::{PATIENCE, Trouble, code},
};
use crate::{
    event::Recorded,
    filter::{Direction, Filter},
    log::LogError,
};

/// A read of the whole log may take long; it ends by itself.
const LONG: Duration = Duration::from_hours(24);

/// What is still to be read.
pub(super) enum What {
    Stream {
        stream: String,
        from: Option<u64>,
        direction: Direction,
        left: usize,
    },
    /// Up to the present end, which is asked for at the first poll.
    Forward {
        next: u64,
        filter: Filter,
        end: Option<u64>,
    },
    /// From this position, inclusive; `None`: from the end. It goes on before what was seen.
    Backward {
        from: Option<u64>,
        seen: Option<u64>,
        filter: Filter,
    },
    Following {
        next: u64,
        filter: Filter,
    },
}

pub(super) struct Reading {
    pool: Arc<Pool>,
    what: What,
    /// The client goes back once the call is dropped.
    open: Option<(Open, Lease)>,
    /// Events that were read before the call from which the rest comes.
    before: VecDeque<Recorded>,
    /// `next − 1` is a position that does not exist.
    exact: bool,
    trouble: Trouble,
}

/// A call that gives events.
enum Open {
    Read(Box<ReadStream>),
    Subscription(Box<Subscription>),
    /// What was asked for has no events.
    Nothing,
}

impl Reading {
    pub(super) fn new(pool: Arc<Pool>, what: What) -> Self {
        let (before, trouble) = (VecDeque::new(), Trouble::default());
        Self { pool, what, open: None, before, exact: false, trouble }
    }

    pub(super) fn run(self) -> BoxStream<'static, Result<Recorded, LogError>> {
        let events = stream::unfold(Some(self), |reading| async move {
            let mut reading = reading?;
            match reading.next().await {
                Ok(Some(event)) => Some((Ok(event), Some(reading))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        });
        events.boxed()
    }

    async fn next(&mut self) -> Result<Option<Recorded>, LogError> {
        let patience = if self.follows() { None } else { Some(PATIENCE) };
        while !self.is_done() {
            match self.message().await {
                Ok(Some(event)) => {
                    self.trouble = Trouble::default();
                    match self.take(event?) {
                        Taken::Wanted(event) => return Ok(Some(event)),
                        Taken::Skipped => {}
                        Taken::Beyond => return Ok(None),
                    }
                }
                Ok(None) => return Ok(None),
                Err(Error::ResourceDeleted) => {
                    return Err(LogError::Deleted { stream: self.stream() });
                }
                Err(error) => {
                    if let Some((_, lease)) = &mut self.open {
                        lease.spoil();
                    }
                    self.open = None;
                    if self.begins_elsewhere(&error) {
                        continue;
                    }
                    self.trouble.wait(&error, patience).await?;
                }
            }
        }
        Ok(None)
    }

    fn follows(&self) -> bool {
        matches!(self.what, What::Following { .. })
    }

    fn stream(&self) -> String {
        match &self.what {
            What::Stream { stream, .. } => stream.clone(),
            _ => "$all".into(),
        }
    }

    fn is_done(&self) -> bool {
        match &self.what {
            What::Stream { left, .. } => *left == 0,
            What::Forward { next, end, .. } => end.is_some_and(|end| *next >= end),
            What::Backward { seen, .. } => *seen == Some(0),
            What::Following { .. } => false,
        }
    }

    /// Whether the position before the first one wanted is none; then it is begun with that one.
    fn begins_elsewhere(&mut self, error: &Error) -> bool {
        let next = match &self.what {
            What::Forward { next, .. } | What::Following { next, .. } => *next,
            _ => return false,
        };
        let invalid = matches!(
            error,
            Error::Grpc { code, .. } if *code as i32 == code::INVALID_ARGUMENT
        );
        let other = invalid && !self.exact && next > 0;
        self.exact |= other;
        other
    }

    /// The next event of the call, which is made if there is none. The inner error is for good.
    async fn message(&mut self) -> Result<Option<Result<Recorded, LogError>>, Error> {
        if let What::Forward { end: end @ None, .. } = &mut self.what {
            *end = Some(end_of_all(&self.pool).await?);
            if self.is_done() {
                return Ok(None);
            }
        }
        if self.open.is_none() {
            let mut lease = self.pool.lease().await?;
            let called = self.call(&lease).await;
            self.open = Some((lease.look(called)?, lease));
        }
        if let Some(event) = self.before.pop_front() {
            return Ok(Some(Ok(event)));
        }
        let (open, _) = self.open.as_mut().expect("it was just opened");
        let event = match open {
            Open::Nothing => return Ok(None),
            Open::Read(read) => match read.next().await {
                Ok(event) => event,
                Err(Error::ResourceNotFound) => None,
                Err(error) => return Err(error),
            },
            Open::Subscription(subscription) => loop {
                match subscription.next_subscription_event().await? {
                    SubscriptionEvent::EventAppeared(event) => break Some(event),
                    SubscriptionEvent::Checkpoint(position) => {
                        let What::Following { next, .. } = &mut self.what else { continue };
                        *next = (*next).max(position.commit.saturating_add(1));
                        self.exact = false;
                    }
                    _ => {}
                }
            },
        };
        let Some(event) = event else { return Ok(None) };
        Ok(event.link.or(event.event).map(to_recorded))
    }

    async fn call(&mut self, lease: &Lease) -> Result<Open, Error> {
        let client = lease.client();
        match &self.what {
            What::Stream { stream, from, direction, left } => {
                let options = ReadStreamOptions::default().max_count(*left);
                let options = match (direction, from) {
                    (Direction::Forward, from) => {
                        let from = StreamPosition::Position(from.unwrap_or(0));
                        options.forwards().position(from)
                    }
                    (Direction::Backward, None) => {
                        options.backwards().position(StreamPosition::End)
                    }
                    (Direction::Backward, Some(from)) => {
                        options.backwards().position(StreamPosition::Position(*from))
                    }
                };
                client
                    .read_stream(stream.as_str(), &options)
                    .await
                    .map(|read| Open::Read(read.into()))
            }
            What::Forward { next, filter, .. } => {
                let options = all(filter).forwards().position(at(self.first(*next)));
                client.read_all(&options).await.map(|read| Open::Read(read.into()))
            }
            What::Backward { from, seen, filter } => {
                let filter = filter.clone();
                match (*seen, *from) {
                    (Some(seen), _) => backward(lease, at(Some(seen)), &filter).await,
                    (None, Some(from)) => self.backward_from(lease, from, &filter).await,
                    (None, None) => backward(lease, StreamPosition::End, &filter).await,
                }
            }
            What::Following { next, filter } => {
                let (next, filter) = (*next, filter.clone());
                // A subscription begins after its position.
                let position = if self.exact && next > 0 {
                    let found = event_at(lease, next).await?;
                    self.before.extend(found);
                    at(Some(next))
                } else {
                    at(next.checked_sub(1))
                };
                let options = SubscribeToAllOptions::default().position(position);
                let options = match server_side(&filter) {
                    Some(filter) => options.filter(filter),
                    None => options,
                };
                let subscription = client.subscribe_to_all(&options).await;
                Ok(Open::Subscription(subscription.into()))
            }
        }
    }

    /// The position to begin a read at; `None`: the start.
    fn first(&self, next: u64) -> Option<u64> {
        if self.exact { Some(next) } else { next.checked_sub(1) }
    }

    /// Backwards, the protocol means what lies before a position; so the event there is read by itself.
    async fn backward_from(
        &mut self,
        lease: &Lease,
        from: u64,
        filter: &Filter,
    ) -> Result<Open, Error> {
        if from >= end_of_all(&self.pool).await? {
            return backward(lease, StreamPosition::End, filter).await;
        }
        self.before.extend(event_at(lease, from).await?);
        if from == 0 {
            return Ok(Open::Nothing);
        }
        backward(lease, at(Some(from)), filter).await
    }

    /// Notes that the event was seen.
    fn take(&mut self, event: Recorded) -> Taken {
        let wanted = match &mut self.what {
            What::Stream { from, direction, left, .. } => {
                *left -= 1;
                match direction {
                    Direction::Forward => *from = Some(event.revision + 1),
                    // The first revision is the last one that is wanted.
                    Direction::Backward if event.revision == 0 => *left = 0,
                    Direction::Backward => *from = Some(event.revision - 1),
                }
                true
            }
            What::Forward { next, end, filter } => {
                if event.position < *next {
                    return Taken::Skipped;
                }
                if end.is_some_and(|end| event.position >= end) {
                    return Taken::Beyond;
                }
                *next = event.position + 1;
                self.exact = false;
                filter.matches(&event.stream, &event.event.event_type)
            }
            What::Following { next, filter } => {
                if event.position < *next {
                    return Taken::Skipped;
                }
                *next = event.position + 1;
                self.exact = false;
                filter.matches(&event.stream, &event.event.event_type)
            }
            What::Backward { from, seen, filter } => {
                let is_late = from.is_some_and(|from| event.position > from);
                if is_late || seen.is_some_and(|seen| event.position >= seen) {
                    return Taken::Skipped;
                }
                *seen = Some(event.position);
                filter.matches(&event.stream, &event.event.event_type)
            }
        };
        if wanted { Taken::Wanted(event) } else { Taken::Skipped }
    }
}

enum Taken {
    Wanted(Recorded),
    Skipped,
    /// The end of what is wanted.
    Beyond,
}

async fn backward(
    lease: &Lease,
    position: StreamPosition<Position>,
    filter: &Filter,
) -> Result<Open, Error> {
    let options = all(filter).backwards().position(position);
    lease.client().read_all(&options).await.map(|read| Open::Read(read.into()))
}

/// The event at exactly this position.
async fn event_at(lease: &Lease, position: u64) -> Result<Option<Recorded>, Error> {
    let options = ReadAllOptions::default().forwards().position(at(Some(position))).max_count(1);
    let mut read = lease.client().read_all(&options).await?;
    let event = read.next().await?.and_then(|event| event.link.or(event.event));
    let event = event.and_then(|event| to_recorded(event).ok());
    Ok(event.filter(|event| event.position == position))
}

fn all(filter: &Filter) -> ReadAllOptions {
    let options = ReadAllOptions::default().deadline(LONG);
    match server_side(filter) {
        Some(filter) => options.filter(filter),
        None => options,
    }
}

fn at(position: Option<u64>) -> StreamPosition<Position> {
    match position {
        Some(position) => {
            StreamPosition::Position(Position { commit: position, prepare: position })
        }
        None => StreamPosition::Start,
    }
}

/// The server looks for one of the two; the other is looked for here.
fn server_side(filter: &Filter) -> Option<SubscriptionFilter> {
    let (kind, prefixes) = match (&filter.streams[..], &filter.event_types[..]) {
        ([], []) => return None,
        ([], types) => (SubscriptionFilter::on_event_type(), types),
        (streams, _) => (SubscriptionFilter::on_stream_name(), streams),
    };
    Some(prefixes.iter().fold(kind, SubscriptionFilter::add_prefix))
}

/// The revision of the last event of the stream, also of one that was deleted.
pub(super) async fn last_revision(pool: &Arc<Pool>, stream: &str) -> Result<Option<u64>, LogError> {
    let (name, direction) = (stream.to_owned(), Direction::Backward);
    let what = What::Stream { stream: name, from: None, direction, left: 1 };
    match Reading::new(Arc::clone(pool), what).next().await? {
        Some(last) => Ok(Some(last.revision)),
        None => hidden_revision(pool, stream).await,
    }
}

/// What a stream that shows nothing has nevertheless: asked by an append that no stream can meet, since
/// only a refusal tells.
async fn hidden_revision(pool: &Arc<Pool>, stream: &str) -> Result<Option<u64>, LogError> {
    const UNHEARD_OF: u64 = i64::MAX as u64 - 1;
    let mut trouble = Trouble::default();
    loop {
        let asked = async {
            let mut lease = pool.lease().await?;
            let options = AppendToStreamOptions::default()
                .stream_state(StreamState::StreamRevision(UNHEARD_OF));
            let event = EventData::binary("Asked", Bytes::new());
            let answer = lease.client().append_to_stream(stream, &options, event).await;
            lease.look(answer)
        };
        match asked.await {
            Ok(_) => {
                let why = format!("`{stream}` took an append that expected {UNHEARD_OF} events");
                return Err(LogError::Corrupt(why));
            }
            Err(Error::WrongExpectedVersion { current, .. }) => {
                return Ok(match current {
                    CurrentRevision::Current(revision) => Some(revision),
                    CurrentRevision::NoStream => None,
                });
            }
            Err(Error::ResourceDeleted) => {
                return Err(LogError::Deleted { stream: stream.to_owned() });
            }
            Err(error) => trouble.wait(&error, Some(PATIENCE)).await?,
        }
    }
}

/// Where the event with this revision stands in the whole log.
pub(super) async fn position_of(
    pool: &Arc<Pool>,
    stream: &str,
    revision: u64,
) -> Result<u64, LogError> {
    let (stream, direction) = (stream.to_owned(), Direction::Backward);
    let what = What::Stream { stream, from: Some(revision), direction, left: 1 };
    let event = Reading::new(Arc::clone(pool), what).next().await?;
    Ok(event.map_or(0, |event| event.position))
}

pub(super) async fn next_position(pool: &Arc<Pool>) -> Result<u64, LogError> {
    let mut trouble = Trouble::default();
    loop {
        match end_of_all(pool).await {
            Ok(position) => return Ok(position),
            Err(error) => trouble.wait(&error, Some(PATIENCE)).await?,
        }
    }
}

/// One beyond the last event's position.
async fn end_of_all(pool: &Arc<Pool>) -> Result<u64, Error> {
    let mut lease = pool.lease().await?;
    let last = async {
        let options = ReadAllOptions::default().backwards().position(StreamPosition::End);
        let mut read = lease.client().read_all(&options.max_count(1)).await?;
        let last = read.next().await?;
        Ok(last.map_or(0, |last| last.get_original_event().position.commit + 1))
    };
    let last = last.await;
    lease.look(last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::NewEvent;

    fn event(position: u64) -> Recorded {
        let id = ids::EventId::from_uuid(uuid::Uuid::from_u128(u128::from(position)));
        let event = NewEvent::new(id, "Counted", Bytes::new(), &crate::Metadata::default());
        let (stream, recorded_at) = ("run-1".into(), ids::Timestamp(0));
        Recorded { position, stream, revision: position, recorded_at, event }
    }

    #[test]
    fn a_broken_read_backward_repeats_nothing_and_ends_with_the_first_event() {
        let pool = Pool::new("esdb://localhost:1?tls=false".parse().unwrap());
        let what = What::Backward { from: Some(7), seen: None, filter: Filter::default() };
        let mut reading = Reading::new(Arc::new(pool), what);
        // A call that breaks gives what it gave, and more.
        for (position, is_new) in [(9, false), (7, true), (7, false), (3, true), (7, false)] {
            let taken = matches!(reading.take(event(position)), Taken::Wanted(_));
            assert_eq!(taken, is_new, "{position}");
        }
        assert!(!reading.is_done());
        assert!(matches!(reading.take(event(0)), Taken::Wanted(_)));
        assert!(reading.is_done(), "nothing is before the first");
    }
}
