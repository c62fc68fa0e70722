//! Takes away what streams hide, and keeps the chain provable. FORMAT.md says what stays of an event.
//!
//! Each file is written anew beside the old one, and takes its name when it is on the disk. So
//! whenever the process or the power ends, each file is either as it was or scavenged, and either way
//! whole; a second scavenge does the rest.

use std::{collections::HashSet, io, path::Path, sync::Arc};

use ids::Timestamp;

use super::{
    OpenError,
    format::{Chain, Content, FORMAT, Kind, Record, SEGMENT_HEADER, SegmentHeader},
    index::{Index, Sealed},
    lock,
    recover::{recover, salt},
    segment::Segment,
    verify::verify,
};
use crate::retention::TOMBSTONE_TYPE;

/// About how many bytes are written at once.
const CHUNK: usize = 1 << 20;

/// What a scavenge did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scavenged {
    /// Events whose type, metadata and data are gone now.
    pub removed: u64,
    /// Events that were to go, but stand in files of format 1, whose chain needs them as they are.
    pub kept: u64,
    /// Files that were written anew.
    pub files: usize,
    /// By how much the files are smaller together. What said less than its hash takes frees nothing.
    pub freed_bytes: u64,
}

/// Removes what no stream shows any more at this moment: what was truncated, deleted, or is too old or
/// too many, all but the end of streams with a tombstone, and metadata that were replaced. What a file
/// was is gone when its name is; copies, backups and snapshots of projections are the caller's.
///
/// The folder must not be in use. Needs room for one more file.
pub fn scavenge(dir: &Path, now: Timestamp) -> Result<Scavenged, OpenError> {
    if Segment::list(dir)?.is_empty() {
        return Err(OpenError::io("find a log in", dir, io::ErrorKind::NotFound.into()));
    }
    let _lock = lock(dir)?;
    let recovered = recover(dir)?;
    // What is damaged would be lost: a file that is written anew ends where the old one cannot be read.
    verify(dir)?;
    let mut work = Work {
        dir,
        now,
        index: recovered.index,
        shown: HashSet::new(),
        done: Scavenged::default(),
    };
    let paths = Segment::list(dir)?;
    let newest = paths.len().saturating_sub(1);
    for (number, path) in paths.into_iter().enumerate() {
        let segment = Segment::open(path, false)?;
        let gone = work.gone(&segment)?;
        if gone.is_empty() {
            continue;
        }
        if segment.header.dialect.format < FORMAT {
            work.done.kept += gone.len() as u64;
            continue;
        }
        if number == newest {
            // Only sealed files may have their records elsewhere than where they were written.
            let header =
                SegmentHeader::new(work.index.next_position(), recovered.tail.chain, salt());
            Segment::create(dir, header).map_err(|source| failed(dir, source))?;
        }
        work.rewrite(&segment, &gone)?;
    }
    Ok(work.done)
}

struct Work<'a> {
    dir: &'a Path,
    now: Timestamp,
    index: Index,
    /// Streams of which an event was seen that stays: those after it stay too, so that what is gone
    /// of a stream is always its beginning.
    shown: HashSet<Box<str>>,
    done: Scavenged,
}

impl Work<'_> {
    /// Positions of what is to go from a segment.
    fn gone(&mut self, segment: &Segment) -> Result<HashSet<u64>, OpenError> {
        let failed = |source| failed(&segment.path, source);
        let mut gone = HashSet::new();
        let mut scanner = segment.scan().map_err(failed)?;
        while let Some(record) = scanner.next().map_err(failed)? {
            if !record.is_removed() && self.is_hidden(&record.content).map_err(failed)? {
                gone.insert(record.content.position);
            }
        }
        Ok(gone)
    }

    fn is_hidden(&mut self, content: &Content<'_>) -> io::Result<bool> {
        let mut standing = self.index.standing(content.stream);
        if standing.counts(content.stream) {
            standing.next_revision = self.index.length(content.stream)?;
        }
        let visible = standing.visible(content.stream, self.now);
        let is_old = content.revision < visible.from || content.recorded_at < visible.since.0;
        if standing.tombstoned {
            return Ok(content.event_type != TOMBSTONE_TYPE);
        }
        if !is_old && standing.metadata.max_age.is_some() {
            self.shown.insert(content.stream.into());
        }
        Ok(is_old && !self.shown.contains(content.stream))
    }

    /// Puts a file without these events in the place of the old one.
    fn rewrite(&mut self, old: &Segment, gone: &HashSet<u64>) -> Result<(), OpenError> {
        // With another salt it is another file: an index of what was is not one of what is.
        let mut header = old.header;
        header.dialect.salt = salt();
        let mut end = SEGMENT_HEADER as u64;
        let mut chain = header.chain;
        let mut flaw = None;
        let written = Segment::write(self.dir, header, |file| {
            let (mut scanner, mut bytes) = (old.scan()?, Vec::new());
            let mut at = scanner.offset();
            while let Some(record) = scanner.next()? {
                if record.chain_after(chain) != record.chain {
                    flaw = Some((at, record.content.position));
                    return Err(io::Error::other("the chain is broken"));
                }
                let is_gone = gone.contains(&record.content.position);
                put(&record, is_gone, header.dialect.salt, &mut chain, &mut bytes);
                at += record.length as u64;
                if bytes.len() >= CHUNK {
                    file.write_all_at(&bytes, end)?;
                    end += bytes.len() as u64;
                    bytes.clear();
                }
            }
            file.write_all_at(&bytes, end)?;
            end += bytes.len() as u64;
            Ok(())
        });
        if let Some((at, position)) = flaw {
            let why = format!("event {position} was changed after it was written");
            return Err(OpenError::damaged(&old.path, at, why));
        }
        let written = written.map_err(|source| failed(self.dir, source))?;
        // It has another salt, so its index file is not that of before.
        Sealed::rebuild(Arc::new(written))?;
        let before = old.file.length().map_err(|source| failed(&old.path, source))?;
        self.done.removed += gone.len() as u64;
        self.done.files += 1;
        self.done.freed_bytes += before.saturating_sub(end);
        Ok(())
    }
}

/// Writes a record again, or what stays of it.
fn put(record: &Record<'_>, is_gone: bool, salt: u32, chain: &mut Chain, out: &mut Vec<u8>) {
    let said = record.said();
    let content = if is_gone {
        let kind = Kind::Removed;
        Content { kind, event_type: "", metadata: &[], data: &said.0, ..record.content }
    } else {
        record.content
    };
    content.encode(said, SEGMENT_HEADER as u32, salt, chain, out);
}

fn failed(path: &Path, source: io::Error) -> OpenError {
    OpenError::io("scavenge", path, source)
}
