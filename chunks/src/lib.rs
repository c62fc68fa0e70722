//! Blobs as lists of content-defined chunks, the same for whoever stores and whoever moves them.
//!
//! `cutter` finds the borders, [`manifest`] is the list, `stored` a chunk at rest and on the wire, and
//! [`frames`] how several travel in one body. Pure: no IO. Nothing here trusts what it reads.

mod cutter;
pub mod frames;
pub mod manifest;
mod stored;

pub use cutter::Cutter;
pub use manifest::{Chunk, Manifest};
pub use stored::{DamagedChunk, check, pack, unpack};

/// Bytes of a chunk, on average. Half a binary's edits are within one chunk or two, so smaller chunks
/// move less after an edit; each costs an object in the store. Lists that were cut otherwise are as good: only, what
/// is cut now has few chunks in common with what was cut when the average was 64 KiB.
const AVERAGE: usize = 32 << 10;
const SMALLEST: usize = 8 << 10;
/// Most bytes of a chunk.
pub const LARGEST: usize = 256 << 10;
/// Most bytes of a chunk's stored form.
pub const LARGEST_STORED: usize = LARGEST + stored::HEAD;
