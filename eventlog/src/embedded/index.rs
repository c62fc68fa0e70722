//! Where events are: for each position its place in a file, for each stream the places of its events.
//!
//! Of the newest segment that is in memory. A sealed one has it in a file beside it, of which a filter of
//! two bytes for each stream stays in memory, so a look for a stream goes to the files that have it.
//!
//! Invariants:
//! - Nothing here is the truth: every part can be made again from its segment.
//! - Who holds the lock does not wait for the disk, so readers never make the writer wait.

mod filter;
mod fresh;
mod recent;
mod sealed;
mod table;
#[cfg(test)]
mod tests;

use std::{
    io,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use sha2::{Digest as _, Sha256};

use super::{
    format::{self, Record},
    segment::Segment,
};
use crate::retention::{Standing, Standings};
pub(super) use fresh::{Batch, Fresh};
pub(super) use recent::{IdDigest, RecentIds};
pub(super) use sealed::Sealed;
pub(super) use table::remove_index;

/// A stream's name in index files. It is a cryptographic hash, so two names never have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key([u8; 16]);

impl Key {
    fn of(stream: &str) -> Self {
        let mut key = [0; 16];
        key.copy_from_slice(&Sha256::digest(stream)[..16]);
        Self(key)
    }

    /// Orders as keys do.
    fn high(&self) -> u64 {
        (u128::from_be_bytes(self.0) >> 64) as u64
    }

    fn low(&self) -> u64 {
        u128::from_be_bytes(self.0) as u64
    }
}

/// A stream's events in one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    /// Revision of the first.
    first: u64,
    count: u64,
}

impl Run {
    fn end(self) -> u64 {
        self.first.saturating_add(self.count)
    }
}

/// Where a record is in its segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    offset: u32,
    length: u32,
}

impl Place {
    fn to_bytes(self) -> [u8; 8] {
        (u64::from(self.length) << 32 | u64::from(self.offset)).to_le_bytes()
    }

    fn from_bytes(bytes: &[u8]) -> Self {
        let both = u64::from_le_bytes(bytes.try_into().expect("a place has eight bytes"));
        Self { offset: both as u32, length: (both >> 32) as u32 }
    }

    fn in_segment(self, segment: &Arc<Segment>) -> Span {
        let (offset, length) = (self.offset, self.length as usize);
        Span { segment: Arc::clone(segment), offset, length, events: 1 }
    }
}

/// Records that lie together in one file.
#[derive(Clone, Debug)]
pub(super) struct Span {
    pub(super) segment: Arc<Segment>,
    pub(super) offset: u32,
    pub(super) length: usize,
    pub(super) events: u64,
}

impl Span {
    /// The one record that it is of, for which `bytes` make room.
    pub(super) fn read_record<'a>(&self, bytes: &'a mut Vec<u8>) -> io::Result<Record<'a>> {
        bytes.resize(self.length, 0);
        let (segment, offset) = (&self.segment, u64::from(self.offset));
        segment.file.read_exact_at(bytes, offset).map_err(|error| self.unreadable(&error))?;
        format::decode(bytes, segment.header.dialect).ok_or_else(|| self.corrupt(0))
    }

    pub(super) fn unreadable(&self, error: &io::Error) -> io::Error {
        let (file, at) = (self.segment.path.display(), self.offset);
        io::Error::new(error.kind(), format!("`{file}` at byte {at}: {error}"))
    }

    /// At so many bytes from its beginning is another record than the index says.
    pub(super) fn misplaced(&self, at: usize) -> io::Error {
        let (file, at) = (self.segment.path.display(), self.offset as usize + at);
        let why = format!(
            "`{file}` has another event at byte {at} than its index says: stop the process, remove the folder's `.index` files, and start it again"
        );
        io::Error::new(io::ErrorKind::InvalidData, why)
    }

    /// At so many bytes from its beginning is no sound record.
    pub(super) fn corrupt(&self, at: usize) -> io::Error {
        let (file, at) = (self.segment.path.display(), self.offset as usize + at);
        let why = format!(
            "`{file}` is damaged at byte {at}: stop the process, keep a copy of the folder, and restore it from a backup"
        );
        io::Error::new(io::ErrorKind::InvalidData, why)
    }

    pub(super) fn is_followed_by(&self, next: &Self) -> bool {
        Arc::ptr_eq(&self.segment, &next.segment)
            && self.offset as usize + self.length == next.offset as usize
    }

    pub(super) fn extend(&mut self, next: &Self) {
        self.length += next.length;
        self.events += next.events;
    }
}

/// What readers see: durable events only.
#[derive(Debug, Default)]
pub(super) struct Index(RwLock<State>);

#[derive(Debug, Default)]
pub(super) struct State {
    /// Oldest first.
    sealed: Arc<Vec<Arc<Sealed>>>,
    newest: Option<Newest>,
    standings: Standings,
    next_position: u64,
}

#[derive(Debug)]
struct Newest {
    segment: Arc<Segment>,
    fresh: Fresh,
}

impl Newest {
    fn span(&self, from: u64, to: u64, bytes: usize) -> Option<Span> {
        let (first, fresh) = (self.segment.header.first, &self.fresh);
        let start = from.checked_sub(first)? as usize;
        if from >= to {
            return None;
        }
        let last = (to - first) as usize;
        let offsets = &fresh.offsets()[start..last];
        let end = fresh.offsets().get(last).copied().unwrap_or(fresh.end());
        together(&self.segment, offsets, end, bytes)
    }
}

impl Index {
    /// A panic while the lock was held stops the writer, and readers then see what was durable.
    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Readers wait meanwhile.
    pub(super) fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn next_position(&self) -> u64 {
        self.read().next_position
    }

    /// What is known of the stream, but for how many events it has.
    pub(super) fn standing(&self, stream: &str) -> Standing {
        self.read().standings.standing(stream, 0)
    }

    fn sealed(&self) -> Arc<Vec<Arc<Sealed>>> {
        Arc::clone(&self.read().sealed)
    }

    /// How many events the stream has, if that can be said without the disk.
    pub(super) fn length_in_memory(&self, stream: &str) -> Option<u64> {
        let state = self.read();
        let run = state.newest.as_ref().and_then(|newest| newest.fresh.find(stream));
        run.map(Run::end).or_else(|| state.sealed.is_empty().then_some(0))
    }

    /// How many events the stream has.
    pub(super) fn length(&self, stream: &str) -> io::Result<u64> {
        match self.length_in_memory(stream) {
            Some(length) => Ok(length),
            None => length(&self.sealed(), stream),
        }
    }

    /// Where the stream's events are that lie in the same segment as that of revision `from`, from that
    /// one on, at most `limit`. Empty: there is no such event.
    pub(super) fn places(&self, stream: &str, from: u64, limit: usize) -> io::Result<Vec<Span>> {
        let sealed = {
            let state = self.read();
            if let Some(Newest { segment, fresh }) = &state.newest
                && let Some(run) = fresh.find(stream)
                && run.first <= from
            {
                let places = fresh.places(stream, from - run.first, limit);
                return Ok(places.into_iter().map(|place| place.in_segment(segment)).collect());
            }
            Arc::clone(&state.sealed)
        };
        let key = Key::of(stream);
        for sealed in sealed.iter().rev() {
            if let Some(run) = sealed.find(stream, &key)?
                && run.first <= from
            {
                return sealed.places(stream, &key, from - run.first, limit);
            }
        }
        Ok(Vec::new())
    }

    /// Like [`Index::span`], if the disk is not needed to tell.
    pub(super) fn span_in_memory(&self, from: u64, to: u64, bytes: usize) -> Option<Span> {
        let state = self.read();
        state.newest.as_ref()?.span(from, to.min(state.next_position), bytes)
    }

    /// The events from `from` up to `to` that lie together, at most `bytes`, at least one event.
    /// `None`: there is none.
    pub(super) fn span(&self, from: u64, to: u64, bytes: usize) -> io::Result<Option<Span>> {
        if from >= to {
            return Ok(None);
        }
        let sealed = {
            // Under one lock: what is the newest now may be sealed in a moment.
            let state = self.read();
            match &state.newest {
                Some(newest) if from < newest.segment.header.first => Arc::clone(&state.sealed),
                Some(newest) => return Ok(newest.span(from, to.min(state.next_position), bytes)),
                None => return Ok(None),
            }
        };
        let at = sealed.partition_point(|sealed| sealed.segment.header.first <= from);
        match at.checked_sub(1) {
            Some(at) => sealed[at].span(from, to, bytes),
            None => Ok(None),
        }
    }

    /// How many of the stream's events came before a place in the newest segment that is there, which
    /// nobody is writing to.
    pub(super) fn length_before(&self, stream: &str, offset: u32) -> io::Result<u64> {
        let (sealed, in_newest) = {
            let state = self.read();
            let in_newest = state.newest.as_ref().and_then(|newest| {
                let run = newest.fresh.find(stream)?;
                let places = newest.fresh.places(stream, 0, usize::MAX);
                Some(run.first + before(&places, offset))
            });
            (Arc::clone(&state.sealed), in_newest)
        };
        if let Some(length) = in_newest {
            return Ok(length);
        }
        let newest_is_sealed = self.read().newest.is_none();
        if let Some((last, earlier)) = sealed.split_last().filter(|_| newest_is_sealed) {
            return match last.length_before(stream, offset)? {
                Some(length) => Ok(length),
                None => length(earlier, stream),
            };
        }
        length(&sealed, stream)
    }

    /// The ids of the newest events, of those that are in index files.
    pub(super) fn recent(&self) -> io::Result<RecentIds> {
        let sealed = self.sealed();
        let (mut parts, mut missing) = (Vec::new(), RecentIds::MOST);
        for sealed in sealed.iter().rev() {
            let (first, ids) = sealed.last_ids(missing)?;
            missing -= ids.len();
            parts.push((first, ids));
            if missing == 0 {
                break;
            }
        }
        let mut recent = RecentIds::default();
        for (first, ids) in parts.into_iter().rev() {
            ids.into_iter().zip(first..).for_each(|(id, position)| recent.push(id, position));
        }
        Ok(recent)
    }
}

impl State {
    pub(super) fn add_sealed(&mut self, sealed: Sealed) {
        self.next_position = sealed.segment.header.first + sealed.count;
        Arc::make_mut(&mut self.sealed).push(Arc::new(sealed));
    }

    /// From now on events come into this segment. That of before is sealed, and wants an index file.
    pub(super) fn begin(&mut self, segment: Arc<Segment>, fresh: Fresh) -> Option<Arc<Sealed>> {
        let header = segment.header;
        let before = self.newest.replace(Newest { segment, fresh });
        let sealed = before.map(|newest| {
            let sealed = Sealed::in_memory(newest.segment, newest.fresh, header.chain);
            let sealed = Arc::new(sealed);
            Arc::make_mut(&mut self.sealed).push(Arc::clone(&sealed));
            sealed
        });
        let count = self.newest.as_ref().map_or(0, |newest| newest.fresh.count());
        self.next_position = header.first + count as u64;
        sealed
    }

    /// Takes away the part before the newest, which has no events.
    pub(super) fn forget_empty(&mut self) {
        Arc::make_mut(&mut self.sealed).pop();
    }

    pub(super) fn push(&mut self, batch: Batch<'_>) {
        self.next_position += batch.offsets.len() as u64;
        self.newest_mut().fresh.push(batch);
    }

    /// Takes what an event says about a stream, before the event itself, which is the `ahead`-th of those
    /// that are pushed next. `length` is that of the stream that it says something about.
    pub(super) fn note(&mut self, event: Note<'_>, ahead: usize, length: u64) {
        let Note { stream, event_type, revision, data } = event;
        self.newest_mut().fresh.note(stream, Standings::is_tombstone(event_type), ahead);
        self.standings.note(stream, event_type, revision, data, |_| length);
    }

    /// Takes what an event says about a stream that is in the index already.
    pub(super) fn recall(&mut self, event: Note<'_>, length: u64) {
        let Note { stream, event_type, revision, data } = event;
        self.standings.note(stream, event_type, revision, data, |_| length);
    }

    fn newest_mut(&mut self) -> &mut Newest {
        self.newest.as_mut().expect("events come after their segment")
    }
}

/// An event that says something about a stream.
#[derive(Clone, Copy, Debug)]
pub(super) struct Note<'a> {
    pub(super) stream: &'a str,
    pub(super) event_type: &'a str,
    pub(super) revision: u64,
    pub(super) data: &'a [u8],
}

fn length(sealed: &[Arc<Sealed>], stream: &str) -> io::Result<u64> {
    if sealed.is_empty() {
        return Ok(0);
    }
    let key = Key::of(stream);
    for sealed in sealed.iter().rev() {
        if let Some(run) = sealed.find(stream, &key)? {
            return Ok(run.end());
        }
    }
    Ok(0)
}

fn before(places: &[Place], offset: u32) -> u64 {
    places.partition_point(|place| place.offset < offset) as u64
}

/// Of records that follow each other and of which the last ends at `end`, those that have room in
/// `bytes`, at least one.
fn together(segment: &Arc<Segment>, offsets: &[u32], end: u32, bytes: usize) -> Option<Span> {
    let offset = *offsets.first()?;
    let limit = u64::from(offset).saturating_add(bytes as u64);
    // The end of a record is the start of the next.
    let fitting = offsets[1..].partition_point(|&at| u64::from(at) <= limit);
    let all_fit = fitting + 1 == offsets.len() && u64::from(end) <= limit;
    let after = if all_fit { offsets.len() } else { fitting.max(1) };
    let after_last = offsets.get(after).copied().unwrap_or(end);
    let length = (after_last - offset) as usize;
    Some(Span { segment: Arc::clone(segment), offset, length, events: after as u64 })
}
