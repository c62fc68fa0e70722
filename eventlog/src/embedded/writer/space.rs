//! What the newest file has beyond its records: space that was taken, and zeros that were written.
//!
//! The first write into space that was only taken also makes the file system note that it is written, and
//! a sync waits for that. A write over zeros that are on the disk already changes nothing but data. So a
//! short write brings zeros for those after it; for a long one that would cost more than it saves.

use std::io;

use crate::disk::File;

/// Space is taken from the file system in steps of this many bytes.
const STEP: u64 = if cfg!(test) { 8 << 10 } else { 4 << 20 };
/// So many zeros go with a write.
const ZEROS: usize = if cfg!(test) { 2 << 10 } else { 256 << 10 };
/// No write is short that is longer.
const SHORT: usize = ZEROS / 4;

pub(super) struct Space {
    /// How far the file has space.
    taken: u64,
    /// How far it was written.
    written: u64,
}

impl Space {
    /// Of a file of which nothing is known beyond its records.
    pub(super) fn beyond(end: u32) -> Self {
        Self { taken: end.into(), written: end.into() }
    }

    /// Makes room for what is to be written from `start` on, to which it may add zeros.
    pub(super) fn make(&mut self, file: &File, start: u32, bytes: &mut Vec<u8>) -> io::Result<()> {
        let end = |bytes: &[u8]| u64::from(start) + bytes.len() as u64;
        if end(bytes) > self.written && bytes.len() <= SHORT {
            bytes.resize(bytes.len() + ZEROS, 0);
        }
        self.written = self.written.max(end(bytes));
        if self.written > self.taken {
            let taken = self.written.next_multiple_of(STEP);
            file.allocate(self.taken, taken - self.taken)?;
            self.taken = taken;
        }
        Ok(())
    }
}
