//! Decides each append, and encodes the next write.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    io, mem,
    sync::Arc,
};

use bytestring::ByteString;

use super::{APPENDS, Disk, Request, Staged, StagedAppend, WRITE};
use crate::{
    Clock,
    embedded::{
        Options, Shared,
        format::{self, Chain, Content, HEAD, SEGMENT_HEADER, Said, SegmentHeader},
        index::{IdDigest, RecentIds},
        recover::{Tail, salt},
    },
    event::{Expected, NewEvent},
    log::{AppendError, Appended},
    retention::{Standing, Standings},
    store::Append,
};

/// Decides, and encodes.
pub(super) struct Stager {
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
    pub(super) staged: Staged,
}

impl Stager {
    pub(super) fn new(
        clock: Clock,
        shared: Arc<Shared>,
        options: Options,
        tail: Tail,
        next_position: u64,
    ) -> Self {
        Self {
            clock,
            shared,
            segment_bytes: options.segment_bytes.min(1 << 30),
            salt: tail.segment.header.dialect.salt,
            end: tail.end,
            chain: tail.chain,
            next_position,
            heads: Heads::default(),
            recent: tail.recent,
            staged: Staged::default(),
        }
    }

    pub(super) fn is_full(&self) -> bool {
        let staged = &self.staged;
        !staged.answers.is_empty()
            && (self.end >= self.segment_bytes
                || staged.bytes.len() >= WRITE
                || staged.answers.len() >= APPENDS)
    }

    /// Hands out what is staged.
    pub(super) fn take(&mut self, spare: Option<Staged>) -> Staged {
        let mut staged = mem::replace(&mut self.staged, spare.unwrap_or_default());
        staged.next_position = self.next_position;
        if self.end >= self.segment_bytes {
            self.salt = salt();
            self.end = SEGMENT_HEADER as u32;
            staged.then = Some(SegmentHeader::new(self.next_position, self.chain, self.salt));
        }
        staged
    }

    /// Decides the appends, and puts them into the next write.
    pub(super) fn stage(
        &mut self,
        requests: &mut VecDeque<Request>,
        disk: &mut Disk<'_>,
    ) -> io::Result<()> {
        while let Some(request) = requests.pop_front() {
            if self.is_full() {
                self.flush(self.next_position, disk)?;
            }
            self.stage_one(request, disk)?;
        }
        Ok(())
    }

    fn stage_one(&mut self, request: Request, disk: &mut Disk<'_>) -> io::Result<()> {
        let Request { append, said, reply } = request;
        let is_noted = |event: &NewEvent| Standings::concerns(&append.stream, &event.event_type);
        let noted = append.events.iter().any(is_noted);
        // What it changes is looked up where it is durable.
        let before = if noted { self.next_position } else { 0 };
        let answer = self.flush(before, disk).and_then(|()| self.decide(append, said, disk));
        match answer {
            Ok(answer) => self.staged.answers.push((reply, answer)),
            // The cause must be known before the caller hears that there is no answer.
            Err(error) => {
                disk.stop(&error);
                return Err(error);
            }
        }
        if noted { self.flush(self.next_position, disk) } else { Ok(()) }
    }

    fn decide(
        &mut self,
        append: Append,
        said: Vec<Said>,
        disk: &mut Disk<'_>,
    ) -> io::Result<Result<Appended, AppendError>> {
        let Append { stream, expected, events, guard } = append;
        let stream = ByteString::from(stream);
        let standing = self.standing(&stream)?;
        let retry = self.answer_to_retry(&stream, &standing, expected, &events, disk)?;
        if let Some(first_answer) = retry {
            return Ok(Ok(first_answer));
        }
        let guarded = match guard {
            Some((guarded, expected)) => {
                self.standing(&ByteString::from(guarded.as_str()))?.check(&guarded, expected)
            }
            None => Ok(()),
        };
        Ok(match guarded.and_then(|()| standing.check(&stream, expected)) {
            Ok(()) => Ok(self.put(stream, standing.next_revision, events, said)),
            Err(error) => Err(error),
        })
    }

    /// With what is staged.
    fn standing(&mut self, stream: &ByteString) -> io::Result<Standing> {
        let next_revision = self.head(stream)?.length;
        Ok(Standing { next_revision, ..self.shared.index.standing(stream) })
    }

    fn head(&mut self, stream: &ByteString) -> io::Result<&mut Head> {
        let shared = &self.shared;
        self.heads.get(stream, || shared.index.length(stream))
    }

    fn put(
        &mut self,
        stream: ByteString,
        length: u64,
        events: Vec<NewEvent>,
        said: Vec<Said>,
    ) -> Appended {
        let recorded_at = self.clock.now().as_millis();
        let staged = &mut self.staged;
        let commit = self.end - staged.bytes.len() as u32;
        for ((at, event), said) in events.iter().enumerate().zip(said) {
            let content = Content {
                position: self.next_position,
                revision: length + at as u64,
                recorded_at,
                id: event.id,
                left: (events.len() - at - 1) as u16,
                kind: event.content.into(),
                stream: &stream,
                event_type: &event.event_type,
                metadata: &event.metadata,
                data: &event.data,
            };
            let before = staged.bytes.len();
            staged.offsets.push(self.end);
            content.encode(said, commit, self.salt, &mut self.chain, &mut staged.bytes);
            self.end += (staged.bytes.len() - before) as u32;
            let id = IdDigest::of(event.id);
            staged.ids.push(id);
            self.recent.push(id, self.next_position);
            self.next_position += 1;
        }
        let after = length + events.len() as u64;
        self.heads.set(&stream, Head { length: after, before: self.next_position });
        let staged = &mut self.staged;
        let records = events.len();
        let is_noted = |event: &NewEvent| Standings::concerns(&stream, &event.event_type);
        let notes = (length..).zip(events).filter(|(_, event)| is_noted(event)).collect();
        staged.appends.push(StagedAppend {
            stream,
            revision: length,
            notes,
            records,
            end: self.end,
        });
        Appended { position: self.next_position - 1, revision: after - 1 }
    }

    /// What the first append was answered, if this one repeats it.
    fn answer_to_retry(
        &mut self,
        stream: &ByteString,
        standing: &Standing,
        expected: Expected,
        events: &[NewEvent],
        disk: &mut Disk<'_>,
    ) -> io::Result<Option<Appended>> {
        let mut recent = None;
        if !matches!(expected, Expected::Revision(_))
            && let Some(position) = self.recent.position(events[0].id)
        {
            self.flush(position + 1, disk)?;
            recent = self
                .revision(stream, position)?
                .filter(|first| standing.may_have_gone_to(*first, expected));
        }
        for first in standing.places_of_retry(expected).into_iter().chain([recent]).flatten() {
            if standing.next_revision < first.saturating_add(events.len() as u64) {
                continue;
            }
            // What it may repeat must be in the file to be compared.
            let before = self.head(stream)?.before;
            self.flush(before, disk)?;
            if let Some(first_answer) = self.compare(stream, first, events)? {
                return Ok(Some(first_answer));
            }
        }
        Ok(None)
    }

    /// Makes sure that all events before this position are in the file.
    fn flush(&mut self, before: u64, disk: &mut Disk<'_>) -> io::Result<()> {
        if before <= self.shared.index.next_position() {
            return Ok(());
        }
        let committer = disk.wait()?;
        let spare = committer.spare.take();
        committer.commit(self.take(spare))
    }

    /// The revision that the event at this position has, if it is one of the stream's.
    fn revision(&self, stream: &str, position: u64) -> io::Result<Option<u64>> {
        let Some(span) = self.shared.index.span(position, position + 1, 0)? else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        let content = span.read_record(&mut bytes)?.content;
        Ok((content.stream == stream).then_some(content.revision))
    }

    /// Whether the stream holds these very events from a revision on.
    fn compare(
        &self,
        stream: &str,
        first: u64,
        events: &[NewEvent],
    ) -> io::Result<Option<Appended>> {
        // A batch lies in one segment.
        let places = self.shared.index.places(stream, first, events.len())?;
        if places.len() < events.len() {
            return Ok(None);
        }
        let mut last = None;
        for (span, event) in places.iter().zip(events) {
            let mut head = [0; HEAD];
            span.segment.file.read_exact_at(&mut head, u64::from(span.offset))?;
            if format::id(&head) != event.id {
                return Ok(None);
            }
            last = Some(format::position(&head));
        }
        let revision = first + events.len() as u64 - 1;
        Ok(last.map(|position| Appended { position, revision }))
    }
}

/// Where each stream ends, of those used lately: always of those that are staged.
#[derive(Default)]
struct Heads {
    young: HashMap<ByteString, Head>,
    old: HashMap<ByteString, Head>,
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

    fn get(
        &mut self,
        stream: &ByteString,
        find: impl FnOnce() -> io::Result<u64>,
    ) -> io::Result<&mut Head> {
        if self.young.len() >= Self::MOST && !self.young.contains_key(stream) {
            self.old = mem::take(&mut self.young);
        }
        Ok(match self.young.entry(stream.clone()) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(match self.old.remove(stream) {
                Some(head) => head,
                None => Head { length: find()?, before: 0 },
            }),
        })
    }

    fn set(&mut self, stream: &ByteString, head: Head) {
        self.young.insert(stream.clone(), head);
    }
}
