//! Walks through a whole log and proves that nothing in it was changed.

use std::path::Path;

use ids::Digest;

use super::{OpenError, format::Chain, recover::damage, segment::Segment};

/// What was found in a sound log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    pub events: u64,
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
    let mut walk = Walk { chain: Chain::START, events: 0, bytes: 0 };
    let mut unfinished = 0;
    for (at, path) in paths.iter().enumerate() {
        let segment = Segment::open(path.clone(), false)?;
        unfinished = walk.segment(&segment)?;
        if unfinished > 0 && at + 1 < paths.len() {
            let end = walk.bytes;
            let why = "it ends in the middle of a record, though a later file exists";
            return Err(OpenError::damaged(path, end, why));
        }
    }
    Ok(Summary {
        events: walk.events,
        segments: paths.len(),
        bytes: walk.bytes,
        head: Digest::from_bytes(walk.chain.0),
        unfinished,
    })
}

struct Walk {
    chain: Chain,
    events: u64,
    bytes: u64,
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
        loop {
            let at = scanner.offset();
            let Some(record) = scanner.next().map_err(failed)? else { break };
            if record.content.position != self.events {
                let found = record.content.position;
                return damaged(at, format!("event {found} stands where {} belongs", self.events));
            }
            if record.chain_after(self.chain) != record.chain {
                let why = format!("event {} was changed after it was written", self.events);
                return damaged(at, why);
            }
            self.chain = record.chain;
            self.events += 1;
            self.bytes += record.length as u64;
        }
        let at = scanner.offset();
        let rest = scanner.rest().map_err(failed)?;
        if let Some(why) = damage(&rest, at, segment.header.salt) {
            return damaged(at, why);
        }
        Ok(rest.iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u64 + 1))
    }
}
