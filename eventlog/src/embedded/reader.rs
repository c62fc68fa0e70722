//! Reading, in chunks, from the files themselves; the writer never waits for a reader.
//!
//! A chunk is read into a few pieces of memory, and its events are parts of those: nothing is copied, and
//! a piece is free when the last of its events is.

use std::{collections::VecDeque, io, mem, ops::Range, sync::Arc, vec};

use bytes::Bytes;
use futures::{
    Stream,
    stream::{self, TryStreamExt},
};
use tokio::{
    sync::{oneshot, watch},
    task,
};

use super::{
    Shared, format,
    index::{Index, Span},
};
use crate::{
    disk,
    event::Recorded,
    filter::{Direction, Filter},
    log::LogError,
};

/// About how many bytes are read at once.
const CHUNK: usize = 1 << 20;
/// So much of it fits into a processor's own cache, where it is checked after it was read.
const PIECE: usize = 256 << 10;
/// Chunks that are read while one is used.
const AHEAD: usize = 2;
/// Most events of one stream that are read at once.
const EVENTS: usize = 256;
/// Events that are read at once when going back.
const BACK: u64 = 32;
/// Reads of what lies this near the end are answered by the page cache, and need no other thread.
const HOT: usize = 64 << 10;

type Events = vec::IntoIter<Recorded>;

/// Events of the whole log from a position on.
pub(super) fn all(
    shared: Arc<Shared>,
    from: u64,
    filter: Filter,
    follow: bool,
) -> impl Stream<Item = Result<Recorded, LogError>> {
    let durable = shared.durable.clone();
    let end = if follow { u64::MAX } else { *durable.borrow() };
    let (ahead, next) = (VecDeque::new(), oneshot::channel().1);
    let all = All { shared, durable, at: from, end, filter: Arc::new(filter), ahead, next };
    flatten(stream::try_unfold(all, |mut all| async move {
        Ok(all.chunk().await?.map(|chunk| (chunk, all)))
    }))
}

/// Events of the whole log from a position back.
pub(super) fn all_backward(
    shared: Arc<Shared>,
    from: Option<u64>,
    filter: Filter,
) -> impl Stream<Item = Result<Recorded, LogError>> {
    let next = *shared.durable.borrow();
    let end = from.map_or(next, |from| from.saturating_add(1).min(next));
    let filter = Arc::new(filter);
    flatten(stream::try_unfold(end, move |end| {
        let (shared, filter) = (Arc::clone(&shared), Arc::clone(&filter));
        async move {
            if end == 0 {
                return Ok(None);
            }
            let start = end.saturating_sub(BACK);
            let chunk = blocking(move || {
                let (mut events, mut at) = (Vec::new(), start);
                while at < end
                    && let Some(span) = shared.index.span(at, end, CHUNK)?
                {
                    decode(&span, Order::Log { next: at, filter: &filter }, &mut events)?;
                    at += span.events;
                }
                Ok(events)
            });
            Ok(Some((reversed(chunk.await?), start)))
        }
    }))
}

/// Events of one stream from a revision on, or back.
pub(super) fn stream(
    shared: Arc<Shared>,
    stream: String,
    from: Option<u64>,
    direction: Direction,
    limit: usize,
) -> impl Stream<Item = Result<Recorded, LogError>> {
    // What comes later is not read, if that can be said without waiting.
    let length = shared.index.length_in_memory(&stream);
    let range = match direction {
        Direction::Forward => from.unwrap_or(0)..length.unwrap_or(u64::MAX),
        Direction::Backward => 0..from.map_or(u64::MAX, |from| from.saturating_add(1)),
    };
    let range = range.start..range.end.min(length.unwrap_or(u64::MAX));
    let knows_end = length.is_some();
    let one = One { shared, stream: stream.into(), range, knows_end, is_first: true };
    // What was removed does not count against the limit, so what was found decides when to end.
    flatten(stream::try_unfold((one, limit), move |(mut one, left)| async move {
        if one.range.is_empty() || left == 0 {
            return Ok(None);
        }
        let is_first = mem::take(&mut one.is_first);
        let work = move || {
            let mut one = one.clone();
            if !one.knows_end {
                one.range.end = one.range.end.min(one.shared.index.length(&one.stream)?);
                one.knows_end = true;
            }
            let events = match direction {
                _ if one.range.is_empty() => Vec::new(),
                Direction::Forward => one.forward(left)?,
                Direction::Backward => one.backward(left)?,
            };
            Ok((events, one))
        };
        // Who reads more would be in the way of others.
        let (events, one) =
            if is_first { cached_or_blocking(work).await? } else { blocking(work).await? };
        let left = left.saturating_sub(events.len());
        Ok(Some((events.into_iter(), (one, left))))
    }))
}

/// How many events a stream has.
pub(super) fn length(
    shared: Arc<Shared>,
    stream: String,
) -> impl Future<Output = Result<u64, LogError>> {
    let known = shared.index.length_in_memory(&stream);
    async move {
        match known {
            Some(length) => Ok(length),
            None => cached_or_blocking(move || shared.index.length(&stream)).await,
        }
    }
}

/// A read of one stream.
#[derive(Clone)]
struct One {
    shared: Arc<Shared>,
    stream: Arc<str>,
    /// Revisions that are still to be read.
    range: Range<u64>,
    /// Whether the range ends where the stream does.
    knows_end: bool,
    /// Nothing was read yet.
    is_first: bool,
}

impl One {
    fn forward(&mut self, left: usize) -> io::Result<Vec<Recorded>> {
        let end = self.range.start.saturating_add(left as u64).min(self.range.end);
        let mut events = Vec::new();
        self.range.start = self.read(self.range.start..end, &mut events)?;
        Ok(events)
    }

    fn backward(&mut self, left: usize) -> io::Result<Vec<Recorded>> {
        let Range { start: first, end } = self.range;
        let start = end.saturating_sub(BACK.min(left as u64)).max(first);
        let (mut events, mut at) = (Vec::new(), start);
        while at < end {
            at = self.read(at..end, &mut events)?;
        }
        events.reverse();
        // Before what was removed nothing is to be seen.
        let whole = events.len() as u64 == end - start;
        self.range.end = if whole { start } else { 0 };
        Ok(events)
    }

    /// Reads events that lie in one segment, and not too many; returns the revision after them.
    fn read(&self, range: Range<u64>, events: &mut Vec<Recorded>) -> io::Result<u64> {
        let (spans, count) = spans_of(&self.shared.index, &self.stream, range.clone())?;
        if count == 0 {
            let (stream, revision) = (&self.stream, range.start);
            return Err(io::Error::other(format!("event {revision} of `{stream}` is not found")));
        }
        let mut next = range.start;
        for span in &spans {
            decode(span, Order::Stream { name: &self.stream, next }, events)?;
            next += span.events;
        }
        Ok(next)
    }
}

fn reversed(mut events: Vec<Recorded>) -> Events {
    events.reverse();
    events.into_iter()
}

fn flatten(
    chunks: impl Stream<Item = Result<Events, LogError>>,
) -> impl Stream<Item = Result<Recorded, LogError>> {
    chunks.map_ok(|chunk| stream::iter(chunk.map(Ok))).try_flatten()
}

struct All {
    shared: Arc<Shared>,
    durable: watch::Receiver<u64>,
    at: u64,
    /// The first position that is not wanted.
    end: u64,
    filter: Arc<Filter>,
    /// The next chunks, which are being read while this one is used.
    ahead: VecDeque<task::JoinHandle<Result<Option<Chunk>, LogError>>>,
    /// Where the one after them begins, as soon as that is known.
    next: oneshot::Receiver<u64>,
}

struct Chunk {
    events: Events,
    /// The position after it.
    after: u64,
}

impl All {
    async fn chunk(&mut self) -> Result<Option<Events>, LogError> {
        if let Some(reading) = self.ahead.pop_front() {
            if let Some(chunk) = joined(reading.await)? {
                return Ok(Some(self.take(chunk)));
            }
            self.ahead.clear();
        }
        if self.at >= self.end {
            return Ok(None);
        }
        let at = self.at;
        if self.durable.wait_for(|durable| *durable > at).await.is_err() {
            return Err(self.shared.stopped());
        }
        if let Some(hot) = self.hot()? {
            self.at = hot.after;
            return Ok(Some(hot.events));
        }
        let reading = self.begin_at(at);
        match joined(reading.await)? {
            Some(chunk) => Ok(Some(self.take(chunk))),
            None => Err(self.shared.stopped()),
        }
    }

    /// Has the next chunks read while this one is used.
    fn take(&mut self, chunk: Chunk) -> Events {
        self.at = chunk.after;
        if self.at < self.end.min(*self.durable.borrow()) {
            if self.ahead.is_empty() {
                let reading = self.begin_at(self.at);
                self.ahead.push_back(reading);
            }
            while self.ahead.len() < AHEAD {
                let reading = self.begin();
                self.ahead.push_back(reading);
            }
        }
        chunk.events
    }

    /// What lies near the end, which the page cache has.
    fn hot(&self) -> Result<Option<Chunk>, LogError> {
        let Some(span) = self.shared.index.span_in_memory(self.at, self.end, CHUNK) else {
            return Ok(None);
        };
        let after = self.at + span.events;
        if span.length > HOT || after != *self.durable.borrow() {
            return Ok(None);
        }
        let mut events = Vec::with_capacity(span.events as usize);
        let order = Order::Log { next: self.at, filter: &self.filter };
        decode(&span, order, &mut events).map_err(|error| unreadable(&error))?;
        Ok(Some(Chunk { events: events.into_iter(), after }))
    }

    fn begin_at(&mut self, at: u64) -> task::JoinHandle<Result<Option<Chunk>, LogError>> {
        let (tell, next) = oneshot::channel();
        tell.send(at).ok();
        self.next = next;
        self.begin()
    }

    /// Begins to read the next chunk; there is none if nothing is there yet.
    fn begin(&mut self) -> task::JoinHandle<Result<Option<Chunk>, LogError>> {
        let (tell, next) = oneshot::channel();
        let from = mem::replace(&mut self.next, next);
        let (shared, filter, end) = (Arc::clone(&self.shared), Arc::clone(&self.filter), self.end);
        task::spawn_blocking(move || {
            // The one before was begun before, and says this first of all.
            let Ok(at) = from.blocking_recv() else { return Ok(None) };
            let span = shared.index.span(at, end, CHUNK).map_err(|error| unreadable(&error))?;
            let Some(span) = span else { return Ok(None) };
            let after = at + span.events;
            tell.send(after).ok();
            let mut events = Vec::with_capacity(span.events as usize);
            decode(&span, Order::Log { next: at, filter: &filter }, &mut events)
                .map_err(|error| unreadable(&error))?;
            Ok(Some(Chunk { events: events.into_iter(), after }))
        })
    }
}

/// Where events of a stream lie in one segment, and how many they are.
fn spans_of(index: &Index, stream: &str, range: Range<u64>) -> io::Result<(Vec<Span>, u64)> {
    let limit = EVENTS.min((range.end - range.start) as usize);
    let mut spans: Vec<Span> = Vec::new();
    let (mut bytes, mut events) = (0, 0);
    for next in index.places(stream, range.start, limit)? {
        if events > 0 && bytes + next.length > CHUNK {
            break;
        }
        bytes += next.length;
        events += 1;
        match spans.last_mut() {
            Some(span) if span.is_followed_by(&next) => span.extend(&next),
            _ => spans.push(next),
        }
    }
    Ok((spans, events))
}

/// Works here with what the page cache has, which is sooner done than another thread is woken; if the
/// disk is needed, works on a thread that may wait for it.
async fn cached_or_blocking<T: Send + 'static>(
    work: impl Fn() -> io::Result<T> + Send + 'static,
) -> Result<T, LogError> {
    match disk::without_waiting(&work) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => blocking(work).await,
        done => done.map_err(|error| unreadable(&error)),
    }
}

/// Works on a thread that may wait for the disk.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, LogError> {
    let work = move || work().map_err(|error| unreadable(&error));
    joined(task::spawn_blocking(work).await)
}

fn joined<T>(done: Result<Result<T, LogError>, task::JoinError>) -> Result<T, LogError> {
    done.unwrap_or_else(|error| Err(LogError::Stopped(format!("a read did not finish: {error}"))))
}

/// What must stand in a span next.
enum Order<'a> {
    /// Events from this position on, of which the filter chooses.
    Log { next: u64, filter: &'a Filter },
    /// Events of one stream from this revision on.
    Stream { name: &'a str, next: u64 },
}

fn decode(span: &Span, mut order: Order<'_>, events: &mut Vec<Recorded>) -> io::Result<()> {
    let (mut at, mut size) = (0, PIECE);
    while at < span.length {
        size = size.min(span.length - at);
        let mut bytes = vec![0; size];
        let offset = u64::from(span.offset) + at as u64;
        let file = &span.segment.file;
        file.read_exact_at(&mut bytes, offset).map_err(|error| span.unreadable(&error))?;
        let done = decode_piece(span, at, &Bytes::from(bytes), &mut order, events)?;
        // A record that the piece ends in is read again as a whole.
        size = if done > 0 { PIECE } else { span.length };
        at += done;
    }
    Ok(())
}

/// Decodes what begins at `start` in the span; returns how much of it are whole records.
fn decode_piece(
    span: &Span,
    start: usize,
    piece: &Bytes,
    order: &mut Order<'_>,
    events: &mut Vec<Recorded>,
) -> io::Result<usize> {
    let is_last = start + piece.len() == span.length;
    let mut at = 0;
    while at < piece.len() {
        let Some(record) = format::decode(&piece[at..], span.segment.header.dialect) else {
            return if is_last { Err(span.corrupt(start + at)) } else { Ok(at) };
        };
        let content = record.content;
        let (is_right, is_wanted) = match order {
            Order::Log { next, filter } => (
                content.position == mem::replace(next, *next + 1),
                filter.matches(content.stream, content.event_type),
            ),
            Order::Stream { name, next } => {
                let revision = mem::replace(next, *next + 1);
                (content.stream == *name && content.revision == revision, true)
            }
        };
        if !is_right {
            return Err(span.misplaced(start + at));
        }
        at += record.length;
        if is_wanted && !record.is_removed() {
            events.push(record.into_recorded(piece));
        }
    }
    Ok(at)
}

fn unreadable(error: &io::Error) -> LogError {
    LogError::Corrupt(error.to_string())
}
