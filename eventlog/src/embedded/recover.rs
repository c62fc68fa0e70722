//! What a start does: reads the newest segment, takes the indexes of the others from their files, and
//! cuts an unfinished last write.
//!
//! Of a sealed segment a start sees that it is there, that it goes on where the one before ended, and
//! that it is as long as it was. What is damaged inside is seen by whoever reads it.
//!
//! The hard question is what a place means that holds no sound record. The writer syncs each write
//! before it begins the next, and unwritten space is zero, so:
//! - nothing but zeros follows: the end;
//! - a sound record follows that belongs to a *later* write: what stood here was durable, so it is
//!   damage;
//! - otherwise it was part of the last write. If that write never reached the disk as a whole, a
//!   piece of it is missing: its end, or a whole disk sector, is zero or beyond the file's end. Then it
//!   was never acknowledged, and is cut. If no piece is missing, it was there and was damaged.

use std::{io, path::Path, sync::Arc};

use uuid::Uuid;

use super::{
    OpenError,
    format::{self, Chain, Dialect, FORMAT, HEAD, SegmentHeader},
    index::{self, Fresh, IdDigest, Index, Note, RecentIds, Sealed, Span},
    segment::Segment,
};
use crate::{
    disk,
    retention::{Standings, subject},
};

/// The smallest piece that a disk writes as a whole.
const SECTOR: u64 = 512;

pub(super) struct Recovered {
    pub(super) index: Index,
    pub(super) tail: Tail,
}

/// Where the writer goes on.
pub(super) struct Tail {
    pub(super) segment: Arc<Segment>,
    /// Where the next record goes.
    pub(super) end: u32,
    pub(super) chain: Chain,
    pub(super) recent: RecentIds,
}

pub(super) fn recover(dir: &Path) -> Result<Recovered, OpenError> {
    let mut paths = Segment::list(dir)?;
    let index = Index::default();
    let Some(newest) = paths.pop() else { return begin(dir, index) };
    let mut segments = Vec::new();
    for path in paths {
        segments.push(Segment::open(path, false)?);
    }
    segments.push(Segment::open(newest, true)?);
    let headers: Vec<_> = segments.iter().map(|segment| segment.header).collect();
    let newest = segments.pop().expect("there is at least one");
    let mut chain = Chain::START;
    for (segment, next) in segments.into_iter().zip(&headers[1..]) {
        let segment = follow(segment, &index, chain)?;
        chain = add_sealed(&index, &segment, *next)?;
    }
    let segment = follow(newest, &index, chain)?;
    let failed = |source| OpenError::io("read", &segment.path, source);
    let mut recent = index.recent().map_err(failed)?;
    let Loaded { fresh, chain, rest } = load(&segment)?;
    cut(&segment, &rest)?;
    disk::sync_dir(dir).map_err(|source| OpenError::io("sync", dir, source))?;
    let positions = segment.header.first..;
    fresh.ids().iter().zip(positions).for_each(|(id, position)| recent.push(*id, position));
    let notes = fresh.note_spans(&segment);
    index.write().begin(Arc::clone(&segment), fresh);
    recall(&index, notes).map_err(failed)?;
    if segment.header.dialect.format == FORMAT {
        let tail = Tail { segment, end: rest.end, chain, recent };
        return Ok(Recovered { index, tail });
    }
    // An older format is read, not written. An empty file of it is replaced.
    let header = SegmentHeader::new(index.next_position(), chain, salt());
    let next =
        Segment::create(dir, header).map_err(|source| OpenError::io("write to", dir, source))?;
    let next = Arc::new(next);
    let is_replaced = segment.header.first == next.header.first;
    let sealed = index.write().begin(Arc::clone(&next), Fresh::default());
    if let Some(sealed) = sealed {
        if is_replaced { index.write().forget_empty() } else { sealed.make_file() }
    }
    let tail = Tail { segment: next, end: format::SEGMENT_HEADER as u32, chain, recent };
    Ok(Recovered { index, tail })
}

/// Takes a sealed segment's index from its file, or makes it anew; returns the chain after it.
fn add_sealed(
    index: &Index,
    segment: &Arc<Segment>,
    next: SegmentHeader,
) -> Result<Chain, OpenError> {
    let (sealed, chain) = match Sealed::open(segment, next)? {
        Some(sealed) => (sealed, next.chain),
        None => Sealed::rebuild(Arc::clone(segment))?,
    };
    let failed = |source| OpenError::io("read", &segment.path, source);
    let notes = sealed.notes().map_err(failed)?;
    index.write().add_sealed(sealed);
    recall(index, notes).map_err(failed)?;
    Ok(chain)
}

/// Takes what these events, which are the newest there are, say about streams.
fn recall(index: &Index, notes: Vec<Span>) -> io::Result<()> {
    let mut bytes = Vec::new();
    for span in notes {
        let record = span.read_record(&mut bytes)?;
        let content = record.content;
        if record.is_removed() {
            continue;
        }
        let length = match subject(content.stream) {
            Some(subject) if Standings::deletes(content.data) => {
                index.length_before(subject, span.offset)?
            }
            _ => 0,
        };
        let note = Note {
            stream: content.stream,
            event_type: content.event_type,
            revision: content.revision,
            data: content.data,
        };
        index.write().recall(note, length);
    }
    Ok(())
}

/// An empty folder.
fn begin(dir: &Path, index: Index) -> Result<Recovered, OpenError> {
    // It may have been made by a start that did not get as far as to sync its name.
    let parent = disk::parent(dir);
    disk::sync_dir(parent).map_err(|source| OpenError::io("sync", parent, source))?;
    let header = SegmentHeader::new(0, Chain::START, salt());
    let segment =
        Segment::create(dir, header).map_err(|source| OpenError::io("write to", dir, source))?;
    let segment = Arc::new(segment);
    index.write().begin(Arc::clone(&segment), Fresh::default());
    let end = format::SEGMENT_HEADER as u32;
    let tail = Tail { segment, end, chain: Chain::START, recent: RecentIds::default() };
    Ok(Recovered { index, tail })
}

/// A number that nobody outside can know.
pub(super) fn salt() -> u32 {
    #[expect(clippy::disallowed_methods, reason = "randomness, not an id")]
    let random = Uuid::new_v4();
    random.as_fields().0
}

/// Checks that the segment goes on where the one before ended.
fn follow(segment: Segment, index: &Index, chain: Chain) -> Result<Arc<Segment>, OpenError> {
    let (first, next) = (segment.header.first, index.next_position());
    if first != next {
        let why = format!(
            "it begins with event {first}, but event {next} comes next: a file is missing, or is cut short"
        );
        return Err(OpenError::damaged(&segment.path, 16, why));
    }
    if segment.header.chain != chain {
        return Err(OpenError::damaged(&segment.path, 24, "it does not belong to the file before"));
    }
    Ok(Arc::new(segment))
}

/// What lies after a segment's last whole batch.
pub(super) struct Rest {
    pub(super) end: u32,
    /// Where the last write began that is whole, as far as can be told.
    commit: u32,
    /// Whether records of an unfinished batch were passed over.
    unfinished: bool,
    /// Why what follows is not just the end of a write that never finished.
    damage: Option<(u64, String)>,
    /// Bytes that follow and are not zero.
    remains: bool,
    length: u64,
}

impl Rest {
    pub(super) fn flaw_of_sealed(&self) -> Option<String> {
        match &self.damage {
            Some((offset, why)) => Some(format!("{why} (at byte {offset})")),
            None if self.unfinished || self.remains => {
                Some("it ends in the middle of a record, though a later file exists".into())
            }
            None => None,
        }
    }
}

/// A segment's whole batches.
pub(super) struct Loaded {
    pub(super) fresh: Fresh,
    /// The chain after them.
    pub(super) chain: Chain,
    pub(super) rest: Rest,
}

pub(super) fn load(segment: &Segment) -> Result<Loaded, OpenError> {
    let failed = |source| OpenError::io("read", &segment.path, source);
    let mut scanner = segment.scan().map_err(failed)?;
    let (mut fresh, mut chain) = (Fresh::default(), segment.header.chain);
    let mut batch = Batch::default();
    let mut end = scanner.offset();
    let mut commit = end as u32;
    loop {
        let at = scanner.offset();
        let Some(record) = scanner.next().map_err(failed)? else { break };
        let content = record.content;
        let ahead = batch.offsets.len();
        let position = segment.header.first.checked_add((fresh.count() + ahead) as u64);
        let follows = match fresh.next_revision(content.stream) {
            _ if ahead > 0 => {
                batch.stream == content.stream
                    && content.left.checked_add(1) == Some(batch.left)
                    && batch.revision.checked_add(ahead as u64) == Some(content.revision)
            }
            Some(next) => content.revision == next,
            None => content.revision <= MOST,
        };
        if Some(content.position) != position || !follows {
            let (found, next) = (content.position, position.unwrap_or(u64::MAX));
            let why = format!("event {found} stands where event {next} belongs");
            return Err(OpenError::damaged(&segment.path, at, why));
        }
        if Standings::concerns(content.stream, content.event_type) {
            batch.notes.push((Standings::is_tombstone(content.event_type), ahead));
        }
        if ahead == 0 {
            content.stream.clone_into(&mut batch.stream);
            batch.revision = content.revision;
        }
        batch.offsets.push(at as u32);
        batch.ids.push(IdDigest::of(content.id));
        batch.left = content.left;
        if content.left == 0 {
            (chain, commit) = (record.chain, record.commit);
            end = at + record.length as u64;
            batch.take_into(&mut fresh, end as u32);
        }
    }
    let at = scanner.offset();
    let bytes = scanner.rest().map_err(failed)?;
    let rest = Rest {
        end: end as u32,
        commit,
        unfinished: !batch.offsets.is_empty(),
        damage: damage(&bytes, at, segment.header.dialect).map(|why| (at, why)),
        remains: bytes.iter().any(|byte| *byte != 0),
        length: at + bytes.len() as u64,
    };
    Ok(Loaded { fresh, chain, rest })
}

/// No stream is longer.
const MOST: u64 = i64::MAX as u64;

/// A batch whose last record has not been seen yet.
#[derive(Default)]
struct Batch {
    stream: String,
    /// Of its first record.
    revision: u64,
    offsets: Vec<u32>,
    ids: Vec<IdDigest>,
    /// Which of them say something about a stream, and whether they are tombstones.
    notes: Vec<(bool, usize)>,
    left: u16,
}

impl Batch {
    fn take_into(&mut self, fresh: &mut Fresh, end: u32) {
        for (is_tombstone, ahead) in self.notes.drain(..) {
            fresh.note(&self.stream, is_tombstone, ahead);
        }
        let Self { stream, revision, offsets, ids, .. } = self;
        fresh.push(index::Batch { stream, revision: *revision, offsets, ids, end });
        self.offsets.clear();
        self.ids.clear();
    }
}

/// Why `rest`, which starts at byte `at` of the file and with no sound record, is more than the
/// remains of a write that never finished.
pub(super) fn damage(rest: &[u8], at: u64, dialect: Dialect) -> Option<String> {
    let last = rest.iter().rposition(|byte| *byte != 0)?;
    let mut later = None;
    let mut place = format::ALIGN;
    while place < rest.len() {
        match format::decode(&rest[place..], dialect) {
            Some(record) if u64::from(record.commit) > at => {
                let found = at + place as u64;
                return Some(format!(
                    "a later record, written after this one, is sound at byte {found}"
                ));
            }
            Some(record) => {
                later.get_or_insert(place);
                place += record.length;
            }
            None => place += format::ALIGN,
        }
    }
    let end = match (later, format::record_length(rest, dialect)) {
        (Some(later), _) => later,
        (None, Some(length)) if rest.get(length - 1).is_none_or(|end| *end == 0) => return None,
        (None, Some(length)) => length,
        (None, None) if last < HEAD => return None,
        (None, None) => HEAD,
    };
    if has_missing_sector(rest, at, end) {
        return None;
    }
    Some("its checksum is wrong, and no part of it is missing".into())
}

/// Whether a disk sector that holds a part of `rest[..end]` was never written.
fn has_missing_sector(rest: &[u8], at: u64, end: usize) -> bool {
    let mut from = 0;
    while from < end {
        let to = ((at + from as u64) / SECTOR + 1) * SECTOR - at;
        let to = (to as usize).min(rest.len());
        if rest[from..to].iter().all(|byte| *byte == 0) {
            return true;
        }
        from = to;
    }
    // What lies beyond the file's end was never written either.
    end > rest.len()
}

/// Cuts what an unfinished write left behind.
fn cut(segment: &Segment, rest: &Rest) -> Result<(), OpenError> {
    if let Some((offset, why)) = &rest.damage {
        return Err(OpenError::damaged(&segment.path, *offset, why.clone()));
    }
    let failed = |source: io::Error| OpenError::io("write to", &segment.path, source);
    if rest.unfinished || rest.remains {
        let bytes = rest.length - u64::from(rest.end);
        tracing::warn!(file = %segment.path.display(), at = rest.end, bytes, "cut an unfinished write, which was never acknowledged");
    }
    // What was read may so far be in the page cache only. If its sync failed and the process ended
    // before it could cut it, the system takes it for synced: it must be written again.
    let mut last = vec![0; rest.end.saturating_sub(rest.commit) as usize];
    let mut rewrite = || {
        segment.file.set_length(u64::from(rest.end))?;
        segment.file.read_exact_at(&mut last, u64::from(rest.commit))?;
        segment.file.write_all_at(&last, u64::from(rest.commit))?;
        segment.file.sync_all()
    };
    rewrite().map_err(failed)
}
