//! Says of a name whether a segment may have events of its stream: a Bloom filter in lines of a cache
//! line each, so a look costs one access to memory.

use super::Key;

/// Bits that stand for one name, all in one line.
const BITS: u32 = 7;
const LINE_BITS: u64 = 512;
/// A line for so many names: 16 bits for each, and about one in a thousand absent names seems present.
const NAMES: usize = 32;

pub(super) const LINE: usize = 64;
pub(super) type Line = [u64; 8];

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Filter(Vec<Line>);

impl Filter {
    /// How many lines hold so many names.
    pub(super) fn lines(names: usize) -> usize {
        names.div_ceil(NAMES)
    }

    pub(super) fn of<'a>(keys: impl ExactSizeIterator<Item = &'a Key>) -> Self {
        let mut filter = Self(vec![Line::default(); Self::lines(keys.len())]);
        for key in keys {
            let line = filter.line(key);
            for bit in bits(key) {
                filter.0[line][(bit / 64) as usize] |= 1 << (bit % 64);
            }
        }
        filter
    }

    pub(super) fn may_hold(&self, key: &Key) -> bool {
        let Some(line) = self.0.get(self.line(key)) else { return false };
        bits(key).all(|bit| line[(bit / 64) as usize] & (1 << (bit % 64)) != 0)
    }

    fn line(&self, key: &Key) -> usize {
        ((u128::from(key.low()) * self.0.len() as u128) >> 64) as usize
    }

    pub(super) fn encode(&self) -> impl ExactSizeIterator<Item = [u8; LINE]> {
        self.0.iter().map(|line| {
            let mut bytes = [0; LINE];
            for (bytes, word) in bytes.chunks_exact_mut(8).zip(line) {
                bytes.copy_from_slice(&word.to_le_bytes());
            }
            bytes
        })
    }

    pub(super) fn decode<'a>(lines: impl Iterator<Item = &'a [u8]>) -> Self {
        let word = |line: &[u8], at: usize| {
            u64::from_le_bytes(line[at * 8..][..8].try_into().expect("eight bytes"))
        };
        Self(lines.map(|line| std::array::from_fn(|at| word(line, at))).collect())
    }
}

fn bits(key: &Key) -> impl Iterator<Item = u64> {
    let high = key.high();
    (0..BITS).map(move |at| (high >> (9 * at)) % LINE_BITS)
}
