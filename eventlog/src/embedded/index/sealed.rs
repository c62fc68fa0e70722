//! A sealed segment with its index: in memory until the index file is there, then in that file.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use super::{
    Fresh, IdDigest, Key, Place, Run, Span, before,
    table::{Bound, Table},
    together,
};
use crate::{
    disk,
    embedded::{
        OpenError,
        format::{Chain, SegmentHeader},
        recover::load,
        segment::Segment,
    },
};

/// Most records whose places are looked up at once.
const SPAN: usize = 1 << 10;

#[derive(Debug)]
pub(in crate::embedded) struct Sealed {
    pub(in crate::embedded) segment: Arc<Segment>,
    /// How many records it has.
    pub(super) count: u64,
    bound: Bound,
    place: RwLock<Arc<Home>>,
    /// Held by whoever makes the index or its file.
    making: Mutex<()>,
}

/// Where the index is.
#[derive(Debug)]
enum Home {
    Memory(Fresh),
    File(Table),
}

impl Sealed {
    /// `after` is the chain after the last record.
    pub(super) fn in_memory(segment: Arc<Segment>, fresh: Fresh, after: Chain) -> Self {
        let SegmentHeader { first, dialect, .. } = segment.header;
        let bound = Bound { salt: dialect.salt, first, end: fresh.end(), chain: after };
        let count = fresh.count() as u64;
        Self::new(segment, count, bound, Home::Memory(fresh))
    }

    fn new(segment: Arc<Segment>, count: u64, bound: Bound, home: Home) -> Self {
        let place = RwLock::new(Arc::new(home));
        Self { segment, count, bound, place, making: Mutex::new(()) }
    }

    /// With the index file that is there, if it is of the segment as it is, up to where `next` goes on.
    pub(in crate::embedded) fn open(
        segment: &Arc<Segment>,
        next: SegmentHeader,
    ) -> Result<Option<Self>, OpenError> {
        let failed = |source| OpenError::io("read", &segment.path, source);
        let SegmentHeader { first, dialect, .. } = segment.header;
        let end = segment.file.length().map_err(failed)?;
        let Ok(end) = u32::try_from(end) else { return Ok(None) };
        let bound = Bound { salt: dialect.salt, first, end, chain: next.chain };
        let count = next.first.wrapping_sub(first);
        let table = Table::open(segment, bound).filter(|table| table.count() as u64 == count);
        let sealed = |table| Self::new(Arc::clone(segment), count, bound, Home::File(table));
        Ok(table.map(sealed))
    }

    /// With an index that is made from the segment. Refuses one that is damaged, or not sealed.
    pub(in crate::embedded) fn rebuild(segment: Arc<Segment>) -> Result<(Self, Chain), OpenError> {
        let (fresh, chain) = read_whole(&segment)?;
        let sealed = Self::in_memory(segment, fresh, chain);
        sealed.make_file();
        Ok((sealed, chain))
    }

    /// Puts an index that is in memory into its file. If that fails it stays in memory, and the next
    /// start makes it again.
    pub(in crate::embedded) fn make_file(&self) {
        let _making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        let home = self.home();
        let Home::Memory(fresh) = &*home else { return };
        match Table::write(&self.segment, self.bound, fresh) {
            Ok(table) => self.set_home(Home::File(table)),
            Err(error) => {
                let file = self.segment.path.display();
                tracing::warn!(%error, segment = %file, "write an index file; the index stays in memory");
            }
        }
    }

    #[cfg(test)]
    pub(in crate::embedded) fn is_in_file(&self) -> bool {
        matches!(*self.home(), Home::File(_))
    }

    fn home(&self) -> Arc<Home> {
        Arc::clone(&self.place.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn set_home(&self, home: Home) {
        *self.place.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(home);
    }

    /// Asks the index, unless that would have to wait for the disk. One that cannot be read, or is
    /// damaged, is made again from the segment.
    fn ask<T>(&self, ask: impl Fn(&Home) -> io::Result<T>) -> io::Result<T> {
        let home = self.home();
        ask(&home).or_else(|error| {
            if !disk::may_wait() {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
            if Arc::ptr_eq(&home, &self.home()) {
                tracing::warn!(%error, "an index file is made again");
                let damaged = |error: OpenError| io::Error::other(with_causes(&error));
                let (fresh, chain) = read_whole(&self.segment).map_err(damaged)?;
                if chain != self.bound.chain || fresh.count() as u64 != self.count {
                    let file = self.segment.path.display();
                    return Err(io::Error::other(format!(
                        "`{file}` was changed while it was open"
                    )));
                }
                self.set_home(Home::Memory(fresh));
            }
            drop(making);
            self.make_file();
            ask(&self.home())
        })
    }

    pub(super) fn find(&self, stream: &str, key: &Key) -> io::Result<Option<Run>> {
        self.ask(|home| match home {
            Home::Memory(fresh) => Ok(fresh.find(stream)),
            Home::File(table) => Ok(table.find(key)?.map(|(run, _)| run)),
        })
    }

    pub(super) fn places(
        &self,
        stream: &str,
        key: &Key,
        skip: u64,
        limit: usize,
    ) -> io::Result<Vec<Span>> {
        let places = self.ask(|home| match home {
            Home::Memory(fresh) => Ok(fresh.places(stream, skip, limit)),
            Home::File(table) => table.places(key, skip, limit),
        })?;
        Ok(places.into_iter().map(|place| place.in_segment(&self.segment)).collect())
    }

    /// How many events the stream has before this place; `None`: none of its events is here.
    pub(super) fn length_before(&self, stream: &str, offset: u32) -> io::Result<Option<u64>> {
        let key = Key::of(stream);
        let Some(run) = self.find(stream, &key)? else { return Ok(None) };
        let places = self.ask(|home| match home {
            Home::Memory(fresh) => Ok(fresh.places(stream, 0, usize::MAX)),
            Home::File(table) => table.places(&key, 0, usize::MAX),
        })?;
        Ok(Some(run.first + before(&places, offset)))
    }

    pub(super) fn span(&self, from: u64, to: u64, bytes: usize) -> io::Result<Option<Span>> {
        let start = (from - self.segment.header.first) as usize;
        let last = (to - self.segment.header.first).min(self.count) as usize;
        let last = last.min(start.saturating_add(SPAN));
        // One more, to know where the last one ends.
        let offsets = self.ask(|home| {
            let after = (last + 1).min(self.count as usize);
            match home {
                Home::Memory(fresh) => Ok(fresh.offsets()[start..after].to_vec()),
                Home::File(table) => table.offsets(start, after),
            }
        })?;
        let end = offsets.get(last - start).copied().unwrap_or(self.bound.end);
        Ok(together(&self.segment, &offsets[..last - start], end, bytes))
    }

    /// The ids of its last events, at most so many, and the position of the first of these.
    pub(super) fn last_ids(&self, most: usize) -> io::Result<(u64, Vec<IdDigest>)> {
        let count = self.count as usize;
        let from = count.saturating_sub(most);
        let ids = self.ask(|home| match home {
            Home::Memory(fresh) => Ok(fresh.ids()[from..].to_vec()),
            Home::File(table) => table.ids(from, count),
        })?;
        Ok((self.segment.header.first + from as u64, ids))
    }

    /// Of the events that say something about a stream, in the log's order.
    pub(in crate::embedded) fn notes(&self) -> io::Result<Vec<Span>> {
        let places = self.ask(|home| match home {
            Home::Memory(fresh) => Ok(fresh.notes()),
            Home::File(table) => table.notes(),
        })?;
        Ok(places.into_iter().map(|place: Place| place.in_segment(&self.segment)).collect())
    }
}

/// Makes the index of a sealed segment.
fn read_whole(segment: &Segment) -> Result<(Fresh, Chain), OpenError> {
    let loaded = load(segment)?;
    match loaded.rest.flaw_of_sealed() {
        Some(flaw) => Err(OpenError::damaged(&segment.path, u64::from(loaded.rest.end), flaw)),
        None => Ok((loaded.fresh, loaded.chain)),
    }
}

fn with_causes(error: &OpenError) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}
