//! What a start does: reads every segment, builds the index, and cuts an unfinished last write.
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
    index::{Index, RecentIds},
    segment::Segment,
};
use crate::{disk, retention::Standings};

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
    let paths = Segment::list(dir)?;
    let mut index = Index::default();
    let mut recent = RecentIds::default();
    let Some((newest, sealed)) = paths.split_last() else {
        return begin(dir, index, recent);
    };
    let mut chain = Chain::START;
    for path in sealed {
        let segment = follow(Segment::open(path.clone(), false)?, &index, chain)?;
        let (after, rest) = load(&segment, &mut index, &mut recent, chain)?;
        chain = after;
        if let Some(flaw) = rest.flaw_of_sealed() {
            return Err(OpenError::damaged(path, u64::from(rest.end), flaw));
        }
    }
    let segment = follow(Segment::open(newest.clone(), true)?, &index, chain)?;
    let (chain, rest) = load(&segment, &mut index, &mut recent, chain)?;
    cut(&segment, &rest)?;
    disk::sync_dir(dir).map_err(|source| OpenError::io("sync", dir, source))?;
    let (segment, end) = if segment.header.dialect.format == FORMAT {
        (segment, rest.end)
    } else {
        // An older format is read, not written. An empty file of it is replaced.
        let header = SegmentHeader::new(index.next_position(), chain, salt());
        let next = Segment::create(dir, header)
            .map_err(|source| OpenError::io("write to", dir, source))?;
        let next = Arc::new(next);
        index.add_segment(Arc::clone(&next));
        (next, format::SEGMENT_HEADER as u32)
    };
    let tail = Tail { segment, end, chain, recent };
    Ok(Recovered { index, tail })
}

/// An empty folder.
fn begin(dir: &Path, mut index: Index, recent: RecentIds) -> Result<Recovered, OpenError> {
    // It may have been made by a start that did not get as far as to sync its name.
    let parent = disk::parent(dir);
    disk::sync_dir(parent).map_err(|source| OpenError::io("sync", parent, source))?;
    let header = SegmentHeader::new(0, Chain::START, salt());
    let segment =
        Segment::create(dir, header).map_err(|source| OpenError::io("write to", dir, source))?;
    let segment = Arc::new(segment);
    index.add_segment(Arc::clone(&segment));
    let end = format::SEGMENT_HEADER as u32;
    Ok(Recovered { index, tail: Tail { segment, end, chain: Chain::START, recent } })
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
struct Rest {
    end: u32,
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
    fn flaw_of_sealed(&self) -> Option<String> {
        match &self.damage {
            Some((offset, why)) => Some(format!("{why} (at byte {offset})")),
            None if self.unfinished || self.remains => {
                Some("it ends in the middle of a record, though a later file exists".into())
            }
            None => None,
        }
    }
}

/// Takes the segment's whole batches into the index.
fn load(
    segment: &Arc<Segment>,
    index: &mut Index,
    recent: &mut RecentIds,
    mut chain: Chain,
) -> Result<(Chain, Rest), OpenError> {
    let failed = |source| OpenError::io("read", &segment.path, source);
    index.add_segment(Arc::clone(segment));
    let mut scanner = segment.scan().map_err(failed)?;
    let mut batch = Batch::default();
    let mut end = scanner.offset();
    let mut commit = end as u32;
    loop {
        let at = scanner.offset();
        let Some(record) = scanner.next().map_err(failed)? else { break };
        let content = record.content;
        let position = index.next_position() + batch.offsets.len() as u64;
        let revision = index.length(content.stream) + batch.offsets.len() as u64;
        let follows = batch.offsets.is_empty()
            || (batch.stream == content.stream && content.left.checked_add(1) == Some(batch.left));
        if content.position != position || content.revision != revision || !follows {
            let why = format!("event {} stands where event {position} belongs", content.position);
            return Err(OpenError::damaged(&segment.path, at, why));
        }
        if Standings::concerns(content.stream, content.event_type) && !record.is_removed() {
            batch.notes.push((content.event_type.to_owned(), revision, content.data.to_vec()));
        }
        batch.offsets.push(at as u32);
        batch.ids.push(content.id);
        batch.left = content.left;
        if batch.offsets.len() == 1 {
            content.stream.clone_into(&mut batch.stream);
        }
        if content.left == 0 {
            chain = record.chain;
            end = at + record.length as u64;
            commit = record.commit;
            batch
                .ids
                .drain(..)
                .zip(index.next_position()..)
                .for_each(|(id, at)| recent.push(id, at));
            for (event_type, revision, data) in batch.notes.drain(..) {
                index.note(&batch.stream, &event_type, revision, &data);
            }
            index.push(&batch.stream, &batch.offsets, end as u32);
            batch.offsets.clear();
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
    Ok((chain, rest))
}

/// A batch whose last record has not been seen yet.
#[derive(Default)]
struct Batch {
    stream: String,
    offsets: Vec<u32>,
    ids: Vec<ids::EventId>,
    /// What says something about a stream: type, revision, data.
    notes: Vec<(String, u64, Vec<u8>)>,
    left: u16,
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
