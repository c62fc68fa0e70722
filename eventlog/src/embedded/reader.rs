//! Reading, in chunks, from the files themselves; the writer never waits for a reader.

use std::{io, sync::Arc, vec};

use futures::{
    Stream,
    stream::{self, TryStreamExt},
};
use tokio::{sync::watch, task};

use super::{
    Shared, format,
    index::{Index, Span},
};
use crate::{
    event::Recorded,
    filter::{Direction, Filter},
    log::LogError,
};

/// About how many bytes are read at once.
const CHUNK: usize = 1 << 20;
/// Most events of one stream that are read at once.
const EVENTS: usize = 256;
/// Events that are read at once when going back.
const BACK: u64 = 32;
/// Reads of what lies this near the end are answered by the page cache, and need no other thread.
const HOT: usize = 64 << 10;

type Chunk = Result<vec::IntoIter<Recorded>, LogError>;

/// Events of the whole log from a position on.
pub(super) fn all(
    shared: Arc<Shared>,
    from: u64,
    filter: Filter,
    follow: bool,
) -> impl Stream<Item = Result<Recorded, LogError>> {
    let durable = shared.durable.clone();
    let end = if follow { u64::MAX } else { *durable.borrow() };
    let all = All { shared, durable, at: from, end, filter: Arc::new(filter) };
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
            let mut spans = Vec::new();
            let mut at = start;
            while at < end
                && let Some(span) = shared.index().span(at, end, CHUNK)
            {
                at += span.events;
                spans.push(span);
            }
            Ok(Some((reversed(read(spans, filter).await?), start)))
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
    let length = shared.index().length(&stream);
    let range = match direction {
        Direction::Forward => from.unwrap_or(0)..length,
        Direction::Backward => 0..from.map_or(length, |from| from.saturating_add(1).min(length)),
    };
    // What was removed does not count against the limit, so what was found decides when to end.
    flatten(stream::try_unfold((range, limit), move |(range, left)| {
        let (shared, stream) = (Arc::clone(&shared), stream.clone());
        async move {
            if range.is_empty() || left == 0 {
                return Ok(None);
            }
            let (chunk, range) = match direction {
                Direction::Forward => {
                    let end = range.start.saturating_add(left as u64).min(range.end);
                    let (spans, events) = spans_of(&shared.index(), &stream, range.start, end);
                    (read(spans, Arc::default()).await?, range.start + events..range.end)
                }
                Direction::Backward => {
                    let start = range.end.saturating_sub(BACK.min(left as u64));
                    let (mut spans, mut at) = (Vec::new(), start);
                    while at < range.end {
                        let (more, events) = spans_of(&shared.index(), &stream, at, range.end);
                        spans.extend(more);
                        at += events;
                    }
                    let chunk = reversed(read(spans, Arc::default()).await?);
                    // Before what was removed nothing is to be seen.
                    let whole = chunk.len() as u64 == range.end - start;
                    (chunk, 0..if whole { start } else { 0 })
                }
            };
            let left = left - chunk.len();
            Ok(Some((chunk, (range, left))))
        }
    }))
}

fn reversed(chunk: vec::IntoIter<Recorded>) -> vec::IntoIter<Recorded> {
    let mut events: Vec<_> = chunk.collect();
    events.reverse();
    events.into_iter()
}

fn flatten(chunks: impl Stream<Item = Chunk>) -> impl Stream<Item = Result<Recorded, LogError>> {
    chunks.map_ok(|chunk| stream::iter(chunk.map(Ok))).try_flatten()
}

struct All {
    shared: Arc<Shared>,
    durable: watch::Receiver<u64>,
    at: u64,
    /// The first position that is not wanted.
    end: u64,
    filter: Arc<Filter>,
}

impl All {
    async fn chunk(&mut self) -> Result<Option<vec::IntoIter<Recorded>>, LogError> {
        if self.at >= self.end {
            return Ok(None);
        }
        let at = self.at;
        if self.durable.wait_for(|durable| *durable > at).await.is_err() {
            return Err(self.shared.stopped());
        }
        let span = self.shared.index().span(self.at, self.end, CHUNK);
        let Some(span) = span else { return Err(self.shared.stopped()) };
        self.at += span.events;
        let hot = span.length <= HOT && self.at == *self.durable.borrow();
        let chunk = if hot {
            decode(&[span], &self.filter)?
        } else {
            read(vec![span], Arc::clone(&self.filter)).await?
        };
        Ok(Some(chunk))
    }
}

/// Where the next events of a stream lie, and how many they are.
fn spans_of(index: &Index, stream: &str, from: u64, to: u64) -> (Vec<Span>, u64) {
    let limit = EVENTS.min((to - from) as usize);
    let mut spans: Vec<Span> = Vec::new();
    let (mut bytes, mut events) = (0, 0);
    for &position in index.positions(stream, from, limit) {
        let Some(next) = index.span(position, position + 1, 0) else { break };
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
    (spans, events)
}

/// Reads and decodes on a thread that may wait for the disk.
async fn read(spans: Vec<Span>, filter: Arc<Filter>) -> Chunk {
    task::spawn_blocking(move || decode(&spans, &filter))
        .await
        .unwrap_or_else(|error| Err(LogError::Stopped(format!("a read did not finish: {error}"))))
}

fn decode(spans: &[Span], filter: &Filter) -> Chunk {
    let mut events = Vec::new();
    let mut bytes = Vec::new();
    for span in spans {
        bytes.resize(span.length, 0);
        let offset = u64::from(span.offset);
        span.segment
            .file
            .read_exact_at(&mut bytes, offset)
            .map_err(|error| unreadable(span, &error))?;
        let mut at = 0;
        while at < bytes.len() {
            let record = format::decode(&bytes[at..], span.segment.header.dialect)
                .ok_or_else(|| corrupt(span, at))?;
            at += record.length;
            let wanted = filter.matches(record.content.stream, record.content.event_type);
            if wanted && !record.is_removed() {
                events.push(record.to_recorded());
            }
        }
    }
    Ok(events.into_iter())
}

fn unreadable(span: &Span, error: &io::Error) -> LogError {
    LogError::Corrupt(format!("`{}` at byte {}: {error}", span.segment.path.display(), span.offset))
}

fn corrupt(span: &Span, at: usize) -> LogError {
    let (file, at) = (span.segment.path.display(), span.offset as usize + at);
    LogError::Corrupt(format!(
        "`{file}` is damaged at byte {at}: stop the process, keep a copy of the folder, and restore it from a backup"
    ))
}
