//! The list of a blob's chunks.
//!
//! Encoded: `gaiachunks1\n`, then for each chunk its sha256 and its length (4 bytes, big endian), then
//! the sha256 of all that. That the chunks make up a certain blob is not in it: whoever puts them together
//! compares the whole.

use bytes::Bytes;
use ids::Digest;

use crate::{DamagedChunk, LARGEST, unpack};

const MAGIC: &[u8] = b"gaiachunks1\n";
const DIGEST: usize = 32;
const ENTRY: usize = DIGEST + 4;

/// Most bytes of an encoded manifest: as many chunks as a blob of 16 GiB has, more or less.
pub const LARGEST_MANIFEST: usize = 12 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Chunk {
    pub digest: Digest,
    /// Bytes, from 1 to [`LARGEST`].
    pub length: u32,
}

impl Chunk {
    pub fn of(bytes: &[u8]) -> Self {
        Self { digest: Digest::of(bytes), length: bytes.len() as u32 }
    }

    /// The bytes of a stored form, if they are this chunk.
    pub fn unpack(self, stored: &Bytes) -> Result<Bytes, DamagedChunk> {
        let bytes = unpack(stored, self.digest)?;
        (bytes.len() == self.length as usize).then_some(bytes).ok_or(DamagedChunk)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    chunks: Vec<Chunk>,
    size: u64,
}

/// Why bytes are no manifest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadManifest {
    #[error("the manifest is cut off, or is none")]
    Malformed,
    #[error("the manifest is damaged: it does not have the digest at its end")]
    Damaged,
    #[error("the manifest has a chunk of {0} bytes: a chunk has from 1 to {LARGEST}")]
    Length(u32),
}

impl FromIterator<Chunk> for Manifest {
    fn from_iter<I: IntoIterator<Item = Chunk>>(chunks: I) -> Self {
        let chunks: Vec<Chunk> = chunks.into_iter().collect();
        let size = chunks.iter().map(|chunk| u64::from(chunk.length)).sum();
        Self { chunks, size }
    }
}

impl Manifest {
    pub fn chunks(&self) -> &[Chunk] {
        &self.chunks
    }

    /// Bytes of the blob.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The chunks, each with where it begins.
    pub fn placed(&self) -> impl Iterator<Item = (u64, Chunk)> + '_ {
        self.chunks.iter().scan(0, |end, chunk| {
            let start = *end;
            *end += u64::from(chunk.length);
            Some((start, *chunk))
        })
    }

    pub fn encode(&self) -> Bytes {
        let mut bytes = Vec::with_capacity(MAGIC.len() + self.chunks.len() * ENTRY + DIGEST);
        bytes.extend_from_slice(MAGIC);
        for chunk in &self.chunks {
            bytes.extend_from_slice(chunk.digest.as_bytes());
            bytes.extend_from_slice(&chunk.length.to_be_bytes());
        }
        let end = Digest::of(&bytes);
        bytes.extend_from_slice(end.as_bytes());
        bytes.into()
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, BadManifest> {
        let (rest, end) = bytes.split_last_chunk::<DIGEST>().ok_or(BadManifest::Malformed)?;
        let entries = rest.strip_prefix(MAGIC).ok_or(BadManifest::Malformed)?;
        if Digest::of(rest) != Digest::from_bytes(*end) {
            return Err(BadManifest::Damaged);
        }
        let (entries, []) = entries.as_chunks::<ENTRY>() else {
            return Err(BadManifest::Malformed);
        };
        entries.iter().map(chunk).collect()
    }
}

fn chunk(entry: &[u8; ENTRY]) -> Result<Chunk, BadManifest> {
    let [digest @ .., a, b, c, d] = *entry;
    let length = u32::from_be_bytes([a, b, c, d]);
    if length == 0 || length as usize > LARGEST {
        return Err(BadManifest::Length(length));
    }
    Ok(Chunk { digest: Digest::from_bytes(digest), length })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn manifest() -> impl Strategy<Value = Manifest> {
        prop::collection::vec((any::<[u8; 32]>(), 1..=LARGEST as u32), 0..9).prop_map(|chunks| {
            let chunk = |(digest, length)| Chunk { digest: Digest::from_bytes(digest), length };
            chunks.into_iter().map(chunk).collect()
        })
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_read_back(manifest in manifest()) {
            prop_assert_eq!(Manifest::decode(&manifest.encode()), Ok(manifest));
        }

        #[test]
        fn a_changed_or_cut_manifest_is_none(manifest in manifest(), at: prop::sample::Index, bit in 0..8_u32) {
            let mut bytes = manifest.encode().to_vec();
            let at = at.index(bytes.len());
            prop_assert!(Manifest::decode(&bytes[..at]).is_err());
            bytes[at] ^= 1_u8 << bit;
            prop_assert!(Manifest::decode(&bytes).is_err());
        }
    }

    #[test]
    fn the_form_stays() {
        let bytes = Manifest::from_iter([Chunk::of(b"one"), Chunk::of(b"two")]).encode();
        assert_eq!(bytes.len(), 12 + 2 * 36 + 32);
        let expected = "f2e7419b";
        assert_eq!(&Digest::of(&bytes).to_string()[..8], expected);
    }

    #[test]
    fn a_chunk_of_an_absurd_length_is_refused() {
        for length in [0, LARGEST as u32 + 1, u32::MAX] {
            let chunk = Chunk { digest: Digest::of(b""), length };
            let bytes = Manifest { chunks: vec![chunk], size: 0 }.encode();
            assert_eq!(Manifest::decode(&bytes), Err(BadManifest::Length(length)));
        }
    }
}
