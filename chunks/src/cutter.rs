//! Finds the borders of chunks in a blob that arrives in pieces.

use bytes::{Bytes, BytesMut};
use fastcdc::v2020::FastCDC;

use crate::{AVERAGE, LARGEST, SMALLEST};

/// Bytes that are looked at together.
const WINDOW: usize = 8 * LARGEST;

/// The borders depend on the bytes alone, not on the pieces in which they come.
#[derive(Debug, Default)]
pub struct Cutter {
    buffer: BytesMut,
}

impl Cutter {
    /// The chunks that are known to end.
    pub fn push(&mut self, piece: &[u8]) -> Vec<Bytes> {
        self.buffer.extend_from_slice(piece);
        if self.buffer.len() < WINDOW {
            return vec![];
        }
        // Where less follows than a chunk may have, more bytes could move its end.
        self.cut(LARGEST)
    }

    /// The last chunks.
    pub fn finish(mut self) -> Vec<Bytes> {
        self.cut(1)
    }

    fn cut(&mut self, follows: usize) -> Vec<Bytes> {
        let buffer = &self.buffer[..];
        let lengths: Vec<usize> = FastCDC::new(buffer, SMALLEST as _, AVERAGE as _, LARGEST as _)
            .take_while(|chunk| buffer.len() - chunk.offset >= follows)
            .map(|chunk| chunk.length)
            .collect();
        lengths.into_iter().map(|length| self.buffer.split_to(length).freeze()).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Bytes without a pattern.
    pub(crate) fn noise(length: usize, seed: u64) -> Vec<u8> {
        let mut state = seed | 1;
        let mut next = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        };
        (0..length).map(|_| next()).collect()
    }

    fn chunks(pieces: &[&[u8]]) -> Vec<Bytes> {
        let mut cutter = Cutter::default();
        let mut chunks: Vec<Bytes> = pieces.iter().flat_map(|piece| cutter.push(piece)).collect();
        chunks.extend(cutter.finish());
        chunks
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn borders_do_not_depend_on_the_pieces(
            length in 0..6_000_000_usize, piece in 1000..3_000_000_usize, seed: u64
        ) {
            let blob = noise(length, seed);
            let whole = chunks(&[&blob]);
            let pieces: Vec<&[u8]> = blob.chunks(piece).collect();
            prop_assert_eq!(&chunks(&pieces), &whole);
            prop_assert_eq!(whole.concat(), blob);
            prop_assert!(whole.iter().all(|chunk| (1..=LARGEST).contains(&chunk.len())));
        }
    }

    #[test]
    fn an_edit_changes_the_chunks_around_it() {
        let old = noise(8 << 20, 7);
        let mut new = old.clone();
        new.splice((4 << 20)..(4 << 20), *b"a few bytes more");
        let known = chunks(&[&old]);
        let moved: usize =
            chunks(&[&new]).iter().filter(|new| !known.contains(new)).map(Bytes::len).sum();
        assert!(moved <= 4 * LARGEST, "{moved} bytes would move");
    }
}
