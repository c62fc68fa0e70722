//! A chunk as it is stored and sent: how it is compressed (one byte: 0 not, 1 by zstd), the CRC-32C of
//! what follows (4 bytes, big endian), and the bytes.
//!
//! The checksum lets a store find rot without taking the chunk apart; only the digest says that it is the
//! right chunk.

use std::cell::RefCell;

use bytes::Bytes;
use ids::Digest;
use zstd::bulk::{Compressor, Decompressor};

use crate::LARGEST;

pub(crate) const HEAD: usize = 5;
const PLAIN: u8 = 0;
const ZSTD: u8 = 1;
/// The quickest that still halves a program.
const LEVEL: i32 = 1;

/// These bytes are no chunk, or not the one that was meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a chunk is damaged")]
pub struct DamagedChunk;

thread_local! {
    // Each has tables of half a megabyte, which are not made anew for each chunk.
    static COMPRESSOR: RefCell<Compressor<'static>> =
        RefCell::new(Compressor::new(LEVEL).expect("the level exists"));
    static DECOMPRESSOR: RefCell<Decompressor<'static>> =
        RefCell::new(Decompressor::new().expect("there is no dictionary"));
}

/// The stored form; compressed if that saves an eighth.
pub fn pack(chunk: &[u8]) -> Bytes {
    let shrunk = COMPRESSOR.with_borrow_mut(|compressor| compressor.compress(chunk)).ok();
    match shrunk.filter(|shrunk| shrunk.len() <= chunk.len() - chunk.len() / 8) {
        Some(shrunk) => with_head(ZSTD, &shrunk),
        None => with_head(PLAIN, chunk),
    }
}

fn with_head(kind: u8, body: &[u8]) -> Bytes {
    let mut stored = Vec::with_capacity(HEAD + body.len());
    stored.push(kind);
    stored.extend_from_slice(&crc32c::crc32c(body).to_be_bytes());
    stored.extend_from_slice(body);
    stored.into()
}

/// The way in which it is compressed, and the bytes, if they are what was stored.
pub fn check(stored: &[u8]) -> Result<(u8, &[u8]), DamagedChunk> {
    let ([kind, sum @ ..], body) = stored.split_first_chunk::<HEAD>().ok_or(DamagedChunk)?;
    if body.len() > LARGEST || u32::from_be_bytes(*sum) != crc32c::crc32c(body) {
        return Err(DamagedChunk);
    }
    Ok((*kind, body))
}

/// The chunk, if it has this digest. Never more bytes than a chunk has, whatever is sent.
pub fn unpack(stored: &Bytes, digest: Digest) -> Result<Bytes, DamagedChunk> {
    let bytes = open(stored)?;
    let is_one = !bytes.is_empty() && Digest::of(&bytes) == digest;
    is_one.then_some(bytes).ok_or(DamagedChunk)
}

fn open(stored: &Bytes) -> Result<Bytes, DamagedChunk> {
    match check(stored)? {
        (PLAIN, body) => Ok(stored.slice_ref(body)),
        (ZSTD, body) => DECOMPRESSOR
            .with_borrow_mut(|decompressor| decompressor.decompress(body, LARGEST))
            .map(Bytes::from)
            .map_err(|_| DamagedChunk),
        _ => Err(DamagedChunk),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_packed_is_unpacked(
            piece in prop::collection::vec(any::<u8>(), 1..99), times in 1..2000_usize
        ) {
            let chunk: Bytes = piece.repeat(times).into();
            prop_assert_eq!(unpack(&pack(&chunk), Digest::of(&chunk)), Ok(chunk));
        }

        #[test]
        fn any_flipped_bit_is_seen(
            chunk in prop::collection::vec(0..4_u8, 1..999), at: prop::sample::Index, bit in 0..8_u32
        ) {
            let mut stored = pack(&chunk).to_vec();
            let at = at.index(stored.len());
            stored[at] ^= 1_u8 << bit;
            prop_assert_eq!(unpack(&stored.into(), Digest::of(&chunk)), Err(DamagedChunk));
        }

        #[test]
        fn nonsense_is_no_chunk(stored in prop::collection::vec(any::<u8>(), 0..99)) {
            prop_assert_eq!(unpack(&stored.into(), Digest::of(b"x")), Err(DamagedChunk));
        }
    }

    #[test]
    fn what_does_not_shrink_is_kept_as_it_is() {
        let noise: Vec<u8> =
            (0..2000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()).collect();
        assert_eq!(pack(&[7; 4000])[0], ZSTD);
        assert!(pack(&noise).len() <= noise.len() + HEAD);
    }

    #[test]
    fn a_bomb_is_not_taken_apart() {
        let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 3).unwrap();
        assert!(bomb.len() < LARGEST);
        assert_eq!(open(&with_head(ZSTD, &bomb)), Err(DamagedChunk));
        assert_eq!(open(&with_head(PLAIN, &vec![0; LARGEST + 1])), Err(DamagedChunk));
        assert_eq!(open(&with_head(9, b"x")), Err(DamagedChunk));
        // Frames that zstd skips.
        let mut padded = [0x184D_2A50_u32, 1 << 20].map(u32::to_le_bytes).concat();
        padded.extend(vec![0; 1 << 20]);
        padded.extend(zstd::bulk::compress(b"x", 3).unwrap());
        assert_eq!(zstd::bulk::decompress(&padded, 9).unwrap(), b"x");
        assert_eq!(open(&with_head(ZSTD, &padded)), Err(DamagedChunk));
    }
}
