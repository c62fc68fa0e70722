//! Walks through a whole log and proves that nothing in it was changed.

use std::{collections::HashMap, path::Path};

use ids::Digest;

use super::{
    OpenError,
    format::{Chain, Record, SEGMENT_HEADER},
    recover::damage,
    segment::Segment,
};

/// What was found in a sound log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// With those that a scavenge removed.
    pub events: u64,
    pub removed: u64,
    pub segments: usize,
    /// What the records take, without reserved space.
    pub bytes: u64,
    /// The chain up to the last event: two logs with the same head hold the same events.
    pub head: Digest,
    /// Bytes at the end that belong to a write which never finished, or is still going on.
    pub unfinished: u64,
}

/// Follows the chain from the first event to the last. The log may be in use meanwhile; what is
/// written after the call began may be counted or not.
pub fn verify(dir: &Path) -> Result<Summary, OpenError> {
    let paths = Segment::list(dir)?;
    let mut walk =
        Walk { chain: Chain::START, events: 0, removed: 0, bytes: 0, streams: HashMap::new() };
    let mut unfinished = 0;
    for (at, path) in paths.iter().enumerate() {
        let segment = Segment::open(path.clone(), false)?;
        unfinished = walk.segment(&segment)?;
        if unfinished > 0 && at + 1 < paths.len() {
            let end = segment.file.length().unwrap_or(0);
            let why = "it ends in the middle of a record, though a later file exists";
            return Err(OpenError::damaged(path, end, why));
        }
    }
    Ok(Summary {
        events: walk.events,
        removed: walk.removed,
        segments: paths.len(),
        bytes: walk.bytes,
        head: Digest::from_bytes(walk.chain.0),
        unfinished,
    })
}

struct Walk {
    chain: Chain,
    events: u64,
    removed: u64,
    bytes: u64,
    /// How many events each stream has.
    streams: HashMap<Box<str>, u64>,
}

impl Walk {
    /// Returns how many bytes at its end are the remains of an unfinished write.
    fn segment(&mut self, segment: &Segment) -> Result<u64, OpenError> {
        let failed = |source| OpenError::io("read", &segment.path, source);
        let damaged = |at, why: String| Err(OpenError::damaged(&segment.path, at, why));
        if segment.header.first != self.events || segment.header.chain != self.chain {
            return damaged(16, format!("it does not go on after event {}", self.events));
        }
        let mut scanner = segment.scan().map_err(failed)?;
        // Where the last whole batch ended.
        let mut whole = (self.chain, self.events, scanner.offset());
        loop {
            let at = scanner.offset();
            let Some(record) = scanner.next().map_err(failed)? else { break };
            if let Some(why) = self.flaw(&record) {
                return damaged(at, why);
            }
            self.chain = record.chain;
            self.events += 1;
            self.removed += u64::from(record.is_removed());
            if record.content.left == 0 {
                whole = (self.chain, self.events, at + record.length as u64);
            }
        }
        let at = scanner.offset();
        let rest = scanner.rest().map_err(failed)?;
        if let Some(why) = damage(&rest, at, segment.header.dialect) {
            return damaged(at, why);
        }
        let end = rest.iter().rposition(|byte| *byte != 0).map_or(at, |last| at + last as u64 + 1);
        (self.chain, self.events, _) = whole;
        self.bytes += whole.2 - SEGMENT_HEADER as u64;
        Ok(end - whole.2)
    }

    fn flaw(&mut self, record: &Record<'_>) -> Option<String> {
        let next = self.events;
        let content = record.content;
        let length = match self.streams.get_mut(content.stream) {
            Some(length) => length,
            None => self.streams.entry(content.stream.into()).or_default(),
        };
        if content.position != next || content.revision != *length {
            let (position, revision) = (content.position, content.revision);
            return Some(format!(
                "event {position} (revision {revision} of `{}`) stands where event {next} belongs",
                content.stream
            ));
        }
        *length += 1;
        (record.chain_after(self.chain) != record.chain)
            .then(|| format!("event {next} was changed after it was written"))
    }
}
