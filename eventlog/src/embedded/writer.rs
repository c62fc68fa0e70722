//! What writes: two threads take turns.
//!
//! One of them holds the [`Stager`]: it takes what waits in order of the calls, checks each append
//! against what is stored and what is staged, and encodes the next write. When the disk is free it
//! becomes the one that holds the [`Committer`]: one write, one sync, then the events are shown to
//! readers, then the callers are answered. Meanwhile the other thread stages. Whoever stages also
//! commits, so an append never changes threads between its call and its answer.

use std::{
    collections::HashMap,
    io, mem,
    os::unix::fs::FileExt,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use bytestring::ByteString;
use foldhash::fast::RandomState;
use tokio::sync::{oneshot, watch};

use super::{
    Options, Shared,
    format::{self, Chain, Content, HEAD, Hashed, SEGMENT_HEADER, SegmentHeader},
    inbox::{Inbox, Next},
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
/// Nor more than this many appends.
const APPENDS: usize = 8_192;

pub(super) type Reply = oneshot::Sender<Result<Appended, AppendError>>;

#[derive(Debug)]
pub(super) struct Request {
    pub(super) append: Append,
    pub(super) hashed: Vec<Hashed>,
    pub(super) reply: Reply,
}

/// Both threads' common work.
pub(super) struct Writer {
    pub(super) inbox: Inbox,
    stager: Mutex<Stager>,
    committer: Mutex<Committer>,
    shared: Arc<Shared>,
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
        let stager = Stager {
            clock,
            shared: Arc::clone(&shared),
            segment_bytes: options.segment_bytes.min(1 << 30),
            salt: tail.segment.header.dialect.salt,
            end: tail.end,
            chain: tail.chain,
            next_position: *publish.borrow(),
            heads: Heads::default(),
            recent: tail.recent,
            staged: Staged::default(),
        };
        let committer = Committer {
            dir,
            shared: Arc::clone(&shared),
            publish,
            segment: tail.segment,
            end: tail.end,
            reserved: u64::from(tail.end),
            spare: None,
            stopped: false,
        };
        let (stager, committer) = (Mutex::new(stager), Mutex::new(committer));
        Self { inbox: Inbox::default(), stager, committer, shared }
    }

    /// Until the last handle is gone, or something fails.
    pub(super) fn run(&self) {
        let _end = End(self);
        loop {
            match self.turn() {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => return self.lock(&self.committer).stop(&error),
            }
        }
    }

    /// A thread that panicked in the middle of something has left it half done.
    fn lock<'a, T>(&self, part: &'a Mutex<T>) -> MutexGuard<'a, T> {
        part.lock().unwrap_or_else(|poisoned| {
            self.shared.cause.set("its writer panicked: this is a bug".into()).ok();
            self.inbox.stop();
            poisoned.into_inner()
        })
    }

    /// One write. `false`: there will be none any more.
    #[expect(clippy::disallowed_methods, reason = "paces the writer; nothing stored depends on it")]
    fn turn(&self) -> io::Result<bool> {
        let mut stager = self.lock(&self.stager);
        let mut requests = Vec::new();
        loop {
            match self.inbox.next(stager.staged.answers.len(), stager.is_full(), &mut requests) {
                Next::End => return Ok(false),
                Next::Write => break,
                Next::Stage => {
                    for request in requests.drain(..) {
                        stager.stage(request, &self.committer)?;
                    }
                }
            }
        }
        let mut committer = self.lock(&self.committer);
        let staged = stager.take(committer.spare.take());
        drop(stager);
        let (answered, begun) = (staged.answers.len(), Instant::now());
        committer.commit(staged)?;
        drop(committer);
        self.inbox.wrote(answered, begun.elapsed());
        Ok(true)
    }

    /// Gives back the space that was not needed.
    pub(super) fn finish(&self) {
        let committer = self.lock(&self.committer);
        if self.shared.cause.get().is_none()
            && let Err(error) = committer.segment.file.set_len(u64::from(committer.end))
        {
            tracing::warn!(%error, "shorten the log's last file");
        }
    }
}

/// However a thread ends, nobody waits for it in vain.
struct End<'a>(&'a Writer);

impl Drop for End<'_> {
    fn drop(&mut self) {
        let writer = self.0;
        if std::thread::panicking() || writer.shared.cause.get().is_some() {
            writer.shared.cause.set("its writer panicked: this is a bug".into()).ok();
            writer.inbox.stop();
            drop(mem::take(&mut writer.lock(&writer.stager).staged));
        }
    }
}

/// The next write.
#[derive(Default)]
pub(super) struct Staged {
    bytes: Vec<u8>,
    /// Where each record starts in the file.
    offsets: Vec<u32>,
    appends: Vec<StagedAppend>,
    answers: Vec<(Reply, Result<Appended, AppendError>)>,
    next_position: u64,
    /// The segment is full after it; how the next one begins.
    then: Option<SegmentHeader>,
}

struct StagedAppend {
    stream: ByteString,
    /// What says something about a stream, and its revision.
    notes: Vec<(u64, NewEvent)>,
    /// How many of `offsets` are its.
    records: usize,
    /// Where its last record ends.
    end: u32,
}

impl Staged {
    /// Empty, but with its room.
    fn clear(&mut self) {
        self.bytes.clear();
        self.offsets.clear();
        self.appends.clear();
        self.answers.clear();
        self.then = None;
    }
}

/// Decides, and encodes.
struct Stager {
    clock: Clock,
    shared: Arc<Shared>,
    segment_bytes: u32,
    salt: u32,
    /// Where the next record goes.
    end: u32,
    chain: Chain,
    next_position: u64,
    heads: Heads,
    recent: RecentIds,
    staged: Staged,
}

impl Stager {
    fn is_full(&self) -> bool {
        let staged = &self.staged;
        !staged.answers.is_empty()
            && (self.end >= self.segment_bytes
                || staged.bytes.len() >= WRITE
                || staged.answers.len() >= APPENDS)
    }

    /// Hands out what is staged.
    fn take(&mut self, spare: Option<Staged>) -> Staged {
        let mut staged = mem::replace(&mut self.staged, spare.unwrap_or_default());
        staged.next_position = self.next_position;
        if self.end >= self.segment_bytes {
            self.salt = salt();
            self.end = SEGMENT_HEADER as u32;
            staged.then = Some(SegmentHeader::new(self.next_position, self.chain, self.salt));
        }
        staged
    }

    /// Decides one append, and puts it into the next write.
    fn stage(&mut self, request: Request, committer: &Mutex<Committer>) -> io::Result<()> {
        let Request { append, hashed, reply } = request;
        let is_noted = |event: &NewEvent| Standings::concerns(&append.stream, &event.event_type);
        let noted = append.events.iter().any(is_noted);
        if noted {
            // What it changes is looked up where it is durable.
            self.flush(self.next_position, committer)?;
        }
        let answer = self.decide(append, hashed, committer)?;
        self.staged.answers.push((reply, answer));
        if noted { self.flush(self.next_position, committer) } else { Ok(()) }
    }

    fn decide(
        &mut self,
        append: Append,
        hashed: Vec<Hashed>,
        committer: &Mutex<Committer>,
    ) -> io::Result<Result<Appended, AppendError>> {
        let Append { stream, expected, events, guard } = append;
        let stream = ByteString::from(stream);
        let standing = self.standing(&stream);
        let retry = self.answer_to_retry(&stream, &standing, expected, &events, committer)?;
        if let Some(first_answer) = retry {
            return Ok(Ok(first_answer));
        }
        let guarded = guard.map_or(Ok(()), |(guarded, expected)| {
            self.standing(&ByteString::from(guarded.as_str())).check(&guarded, expected)
        });
        Ok(match guarded.and_then(|()| standing.check(&stream, expected)) {
            Ok(()) => Ok(self.put(stream, standing.next_revision, events, hashed)),
            Err(error) => Err(error),
        })
    }

    /// With what is staged.
    fn standing(&mut self, stream: &ByteString) -> Standing {
        let next_revision = self.head(stream).length;
        Standing { next_revision, ..self.shared.index().standing(stream) }
    }

    fn head(&mut self, stream: &ByteString) -> &mut Head {
        let shared = &self.shared;
        self.heads.get(stream, || shared.index().length(stream))
    }

    fn put(
        &mut self,
        stream: ByteString,
        length: u64,
        events: Vec<NewEvent>,
        hashed: Vec<Hashed>,
    ) -> Appended {
        let recorded_at = self.clock.now().as_millis();
        let staged = &mut self.staged;
        let commit = self.end - staged.bytes.len() as u32;
        for ((at, event), hashed) in events.iter().enumerate().zip(hashed) {
            let content = Content {
                position: self.next_position,
                revision: length + at as u64,
                recorded_at,
                id: event.id,
                left: (events.len() - at - 1) as u16,
                kind: event.content,
                stream: &stream,
                event_type: &event.event_type,
                metadata: &event.metadata,
                data: &event.data,
            };
            let before = staged.bytes.len();
            staged.offsets.push(self.end);
            content.encode(hashed, commit, self.salt, &mut self.chain, &mut staged.bytes);
            self.end += (staged.bytes.len() - before) as u32;
            self.recent.push(event.id, self.next_position);
            self.next_position += 1;
        }
        let after = length + events.len() as u64;
        *self.head(&stream) = Head { length: after, before: self.next_position };
        let staged = &mut self.staged;
        let records = events.len();
        let is_noted = |event: &NewEvent| Standings::concerns(&stream, &event.event_type);
        let notes = (length..).zip(events).filter(|(_, event)| is_noted(event)).collect();
        staged.appends.push(StagedAppend { stream, notes, records, end: self.end });
        Appended { position: self.next_position - 1, revision: after - 1 }
    }

    /// What the first append was answered, if this one repeats it.
    fn answer_to_retry(
        &mut self,
        stream: &ByteString,
        standing: &Standing,
        expected: Expected,
        events: &[NewEvent],
        committer: &Mutex<Committer>,
    ) -> io::Result<Option<Appended>> {
        let mut firsts = standing.places_of_retry(expected);
        if matches!(expected, Expected::Any | Expected::Exists)
            && let Some(position) = self.recent.position(events[0].id)
        {
            self.flush(position + 1, committer)?;
            firsts[0] = self.shared.index().revision(stream, position);
        }
        for first in firsts.into_iter().flatten() {
            if standing.next_revision < first.saturating_add(events.len() as u64) {
                continue;
            }
            // What it may repeat must be in the file to be compared.
            let before = self.head(stream).before;
            self.flush(before, committer)?;
            if let Some(first_answer) = self.compare(stream, first, events)? {
                return Ok(Some(first_answer));
            }
        }
        Ok(None)
    }

    /// Makes sure that all events before this position are in the file.
    fn flush(&mut self, before: u64, committer: &Mutex<Committer>) -> io::Result<()> {
        if before <= self.shared.index().next_position() {
            return Ok(());
        }
        // Waits for the write under way.
        let mut committer = committer
            .lock()
            .map_err(|_| io::Error::other("the other half of its writer panicked"))?;
        let spare = committer.spare.take();
        committer.commit(self.take(spare))
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
}

/// Where each stream ends, of those used lately: always of those that are staged.
#[derive(Default)]
struct Heads {
    young: HashMap<ByteString, Head, RandomState>,
    old: HashMap<ByteString, Head, RandomState>,
}

#[derive(Clone, Copy, Default)]
struct Head {
    /// How many events the stream has, with what is staged.
    length: u64,
    /// All of them are before this position.
    before: u64,
}

impl Heads {
    /// More than two writes can hold, so what is staged is never forgotten.
    const MOST: usize = 4 * APPENDS;

    fn get(&mut self, stream: &ByteString, find: impl FnOnce() -> u64) -> &mut Head {
        if self.young.len() >= Self::MOST && !self.young.contains_key(stream) {
            self.old = mem::take(&mut self.young);
        }
        let old = &mut self.old;
        self.young.entry(stream.clone()).or_insert_with(|| {
            old.remove(stream).unwrap_or_else(|| Head { length: find(), before: 0 })
        })
    }
}

/// Makes durable, shows, answers.
struct Committer {
    dir: PathBuf,
    shared: Arc<Shared>,
    publish: watch::Sender<u64>,
    segment: Arc<Segment>,
    /// Where the next write goes.
    end: u32,
    /// How far the file has taken space.
    reserved: u64,
    /// To be filled again.
    spare: Option<Staged>,
    /// Nothing is written any more.
    stopped: bool,
}

impl Committer {
    /// Makes what was staged durable, then shows it, then answers.
    fn commit(&mut self, staged: Staged) -> io::Result<()> {
        if self.stopped {
            return Err(io::Error::other("an earlier write failed"));
        }
        self.try_commit(staged).inspect_err(|error| self.stop(error))
    }

    fn try_commit(&mut self, mut staged: Staged) -> io::Result<()> {
        if !staged.bytes.is_empty() {
            self.write(&staged)?;
        }
        for (reply, answer) in staged.answers.drain(..) {
            // The caller may have gone away.
            reply.send(answer).ok();
        }
        if let Some(header) = staged.then.take() {
            self.roll(header)?;
        }
        staged.clear();
        self.spare = Some(staged);
        Ok(())
    }

    fn write(&mut self, staged: &Staged) -> io::Result<()> {
        let file = &self.segment.file;
        let end = u64::from(self.end) + staged.bytes.len() as u64;
        self.reserved = reserve(file, self.reserved, end)?;
        file.write_all_at(&staged.bytes, u64::from(self.end))?;
        file.sync_data()?;
        self.end = end as u32;
        let mut index = self.shared.index.write().unwrap_or_else(PoisonError::into_inner);
        let mut offsets = &staged.offsets[..];
        for append in &staged.appends {
            for (revision, event) in &append.notes {
                index.note(&append.stream, &event.event_type, *revision, &event.data);
            }
            let (records, rest) = offsets.split_at(append.records);
            index.push(&append.stream, records, append.end);
            offsets = rest;
        }
        drop(index);
        self.publish.send_replace(staged.next_position);
        Ok(())
    }

    /// Seals the segment and begins the next one.
    fn roll(&mut self, header: SegmentHeader) -> io::Result<()> {
        self.segment.file.set_len(u64::from(self.end))?;
        self.segment.file.sync_all()?;
        self.segment = Arc::new(Segment::create(&self.dir, header)?);
        self.end = SEGMENT_HEADER as u32;
        self.reserved = u64::from(self.end);
        let mut index = self.shared.index.write().unwrap_or_else(PoisonError::into_inner);
        index.add_segment(Arc::clone(&self.segment));
        Ok(())
    }

    /// Nothing is written any more. What the failed write may have left in the page cache is taken
    /// away, so that the next start does not believe it.
    fn stop(&mut self, error: &io::Error) {
        if mem::replace(&mut self.stopped, true) {
            return;
        }
        let file = &self.segment.path;
        let cause = format!("write to `{}`: {error}", file.display());
        tracing::error!("the log has stopped: {cause}");
        self.shared.cause.set(cause).ok();
        if let Err(error) = self.segment.file.set_len(u64::from(self.end)) {
            tracing::error!(%error, file = %file.display(), "cut a failed write");
        }
    }
}
