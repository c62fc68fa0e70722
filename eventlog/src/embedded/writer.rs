//! The one thread that writes.
//!
//! It takes what waits in order of the calls, checks each append against what is stored and what it
//! is about to write, writes all with one write and one sync, then shows the events to readers, then
//! answers. Appends to a stream that are already part of the write under way see its events.

use std::{
    collections::HashMap,
    io,
    ops::Range,
    os::unix::fs::FileExt,
    path::PathBuf,
    sync::{Arc, PoisonError, mpsc},
};

use tokio::sync::{oneshot, watch};

use super::{
    Options, Shared,
    format::{self, Chain, Content, HEAD, SEGMENT_HEADER, SegmentHeader},
    index::RecentIds,
    recover::{Tail, salt},
    segment::{Segment, reserve},
};
use crate::{
    Clock,
    event::{Expected, NewEvent},
    log::{AppendError, Appended},
    retention::{Standing, Standings},
    store::Append,
};

/// No more than about this goes into one write.
const WRITE: usize = 8 << 20;

pub(super) type Reply = oneshot::Sender<Result<Appended, AppendError>>;

pub(super) struct Request {
    pub(super) append: Append,
    pub(super) reply: Reply,
}

pub(super) struct Writer {
    dir: PathBuf,
    options: Options,
    clock: Clock,
    shared: Arc<Shared>,
    publish: watch::Sender<u64>,
    segment: Arc<Segment>,
    /// Where the next write goes.
    end: u32,
    /// How far the file has taken space.
    reserved: u64,
    chain: Chain,
    next_position: u64,
    recent: RecentIds,
    staged: Staged,
}

/// The next write.
#[derive(Default)]
struct Staged {
    bytes: Vec<u8>,
    /// Where each record starts in the file.
    offsets: Vec<u32>,
    batches: Vec<StagedBatch>,
    /// Streams that it lengthens, and their new lengths.
    lengths: HashMap<String, u64>,
    answers: Vec<(Reply, Result<Appended, AppendError>)>,
}

struct StagedBatch {
    stream: String,
    /// What says something about a stream, and its revision.
    notes: Vec<(u64, NewEvent)>,
    /// Its part of `offsets`.
    records: Range<usize>,
    end: u32,
}

impl Writer {
    pub(super) fn new(
        dir: PathBuf,
        options: Options,
        clock: Clock,
        tail: Tail,
        shared: Arc<Shared>,
        publish: watch::Sender<u64>,
    ) -> Self {
        let next_position = *publish.borrow();
        Self {
            dir,
            options: Options { segment_bytes: options.segment_bytes.min(1 << 30) },
            clock,
            shared,
            publish,
            segment: tail.segment,
            end: tail.end,
            reserved: u64::from(tail.end),
            chain: tail.chain,
            next_position,
            recent: tail.recent,
            staged: Staged::default(),
        }
    }

    /// Until the last handle is gone, or something fails.
    pub(super) fn run(mut self, inbox: &mpsc::Receiver<Request>) {
        while let Ok(first) = inbox.recv() {
            if let Err(error) = self.take(first, inbox) {
                self.stop(&error);
                return;
            }
        }
        // Gives back the space that was not needed.
        if let Err(error) = self.segment.file.set_len(u64::from(self.end)) {
            tracing::warn!(%error, "shorten the log's last file");
        }
    }

    fn take(&mut self, first: Request, inbox: &mpsc::Receiver<Request>) -> io::Result<()> {
        self.stage(first)?;
        while self.staged.bytes.len() < WRITE {
            let Ok(request) = inbox.try_recv() else { break };
            self.stage(request)?;
        }
        self.commit()
    }

    /// Decides one append, and puts it into the next write.
    fn stage(&mut self, request: Request) -> io::Result<()> {
        let Request { append, reply } = request;
        let is_noted = |event: &NewEvent| Standings::concerns(&append.stream, &event.event_type);
        let noted = append.events.iter().any(is_noted);
        if noted {
            // What it changes is looked up where it is durable.
            self.commit()?;
        }
        let answer = self.decide(append)?;
        self.staged.answers.push((reply, answer));
        if noted { self.commit() } else { Ok(()) }
    }

    fn decide(&mut self, append: Append) -> io::Result<Result<Appended, AppendError>> {
        let Append { stream, expected, events, guard } = append;
        let standing = self.standing(&stream);
        if let Some(first_answer) = self.answer_to_retry(&stream, &standing, expected, &events)? {
            return Ok(Ok(first_answer));
        }
        let guarded = guard.map_or(Ok(()), |(guarded, expected)| {
            self.standing(&guarded).check(&guarded, expected)
        });
        Ok(match guarded.and_then(|()| standing.check(&stream, expected)) {
            Ok(()) => Ok(self.put(stream, standing.next_revision, events)),
            Err(error) => Err(error),
        })
    }

    fn standing(&self, stream: &str) -> Standing {
        let standing = self.shared.index().standing(stream);
        let next_revision = self.staged.lengths.get(stream).copied();
        Standing { next_revision: next_revision.unwrap_or(standing.next_revision), ..standing }
    }

    fn put(&mut self, stream: String, length: u64, events: Vec<NewEvent>) -> Appended {
        let recorded_at = self.clock.now().as_millis();
        let staged = &mut self.staged;
        let first = staged.offsets.len();
        for (at, event) in events.iter().enumerate() {
            staged.offsets.push(self.end + staged.bytes.len() as u32);
            let content = Content {
                position: self.next_position,
                revision: length + at as u64,
                recorded_at,
                id: event.id,
                left: (events.len() - at - 1) as u16,
                stream: &stream,
                event_type: &event.event_type,
                metadata: &event.metadata,
                data: &event.data,
            };
            content.encode(self.end, self.segment.header.salt, &mut self.chain, &mut staged.bytes);
            self.recent.push(event.id, self.next_position);
            self.next_position += 1;
        }
        let after = length + events.len() as u64;
        staged.lengths.insert(stream.clone(), after);
        let is_noted = |event: &NewEvent| Standings::concerns(&stream, &event.event_type);
        let notes = (length..).zip(events).filter(|(_, event)| is_noted(event)).collect();
        staged.batches.push(StagedBatch {
            stream,
            notes,
            records: first..staged.offsets.len(),
            end: self.end + staged.bytes.len() as u32,
        });
        Appended { position: self.next_position - 1, revision: after - 1 }
    }

    /// What the first append was answered, if this one repeats it.
    fn answer_to_retry(
        &mut self,
        stream: &str,
        standing: &Standing,
        expected: Expected,
        events: &[NewEvent],
    ) -> io::Result<Option<Appended>> {
        let mut firsts = standing.places_of_retry(expected);
        if matches!(expected, Expected::Any | Expected::Exists)
            && let Some(position) = self.recent.position(events[0].id)
        {
            if position >= self.shared.index().next_position() {
                self.commit()?;
            }
            firsts[0] = self.shared.index().revision(stream, position);
        }
        for first in firsts.into_iter().flatten() {
            if standing.next_revision < first.saturating_add(events.len() as u64) {
                continue;
            }
            if self.staged.lengths.contains_key(stream) {
                // What it may repeat must be in the file to be compared.
                self.commit()?;
            }
            if let Some(first_answer) = self.compare(stream, first, events)? {
                return Ok(Some(first_answer));
            }
        }
        Ok(None)
    }

    /// Whether the stream holds these very events from a revision on.
    fn compare(
        &self,
        stream: &str,
        first: u64,
        events: &[NewEvent],
    ) -> io::Result<Option<Appended>> {
        let index = self.shared.index();
        let positions = index.positions(stream, first, events.len());
        for (&position, event) in positions.iter().zip(events) {
            let Some(span) = index.span(position, position + 1, 0) else { return Ok(None) };
            let mut head = [0; HEAD];
            span.segment.file.read_exact_at(&mut head, u64::from(span.offset))?;
            if format::id(&head) != event.id {
                return Ok(None);
            }
        }
        let revision = first + events.len() as u64 - 1;
        let last = positions.last();
        Ok(last.map(|&position| Appended { position, revision }))
    }

    /// Makes what is staged durable, then shows it, then answers.
    fn commit(&mut self) -> io::Result<()> {
        if !self.staged.bytes.is_empty() {
            self.write()?;
        }
        let staged = std::mem::take(&mut self.staged);
        for (reply, answer) in staged.answers {
            // The caller may have gone away.
            reply.send(answer).ok();
        }
        if self.end >= self.options.segment_bytes { self.roll() } else { Ok(()) }
    }

    fn write(&mut self) -> io::Result<()> {
        let staged = &self.staged;
        let file = &self.segment.file;
        let end = u64::from(self.end) + staged.bytes.len() as u64;
        self.reserved = reserve(file, self.reserved, end)?;
        file.write_all_at(&staged.bytes, u64::from(self.end))?;
        file.sync_data()?;
        self.end = end as u32;
        let mut index = self.shared.index.write().unwrap_or_else(PoisonError::into_inner);
        for batch in &staged.batches {
            for (revision, event) in &batch.notes {
                index.note(&batch.stream, &event.event_type, *revision, &event.data);
            }
            index.push(&batch.stream, &staged.offsets[batch.records.clone()], batch.end);
        }
        drop(index);
        self.publish.send_replace(self.next_position);
        Ok(())
    }

    /// Seals the segment and begins the next one.
    fn roll(&mut self) -> io::Result<()> {
        self.segment.file.set_len(u64::from(self.end))?;
        self.segment.file.sync_all()?;
        let header = SegmentHeader { first: self.next_position, chain: self.chain, salt: salt() };
        self.segment = Arc::new(Segment::create(&self.dir, header)?);
        self.end = SEGMENT_HEADER as u32;
        self.reserved = u64::from(self.end);
        let mut index = self.shared.index.write().unwrap_or_else(PoisonError::into_inner);
        index.add_segment(Arc::clone(&self.segment));
        Ok(())
    }

    /// Nothing is written any more. What the failed write may have left in the page cache is taken
    /// away, so that the next start does not believe it.
    fn stop(&self, error: &io::Error) {
        let file = &self.segment.path;
        let cause = format!("write to `{}`: {error}", file.display());
        tracing::error!("the log has stopped: {cause}");
        self.shared.cause.set(cause).ok();
        if let Err(error) = self.segment.file.set_len(u64::from(self.end)) {
            tracing::error!(%error, file = %file.display(), "cut a failed write");
        }
    }
}
