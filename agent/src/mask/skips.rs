//! Where one of many patterns may begin next, found without looking at most of the bytes (Wu and Manber,
//! "A fast algorithm for multi-pattern searching", 1994).
//!
//! A window as long as the shortest pattern moves over the text. The last bytes of the window say how far it may
//! move: until they could be the same bytes of some pattern. The longer the shortest pattern, the further.

/// Bytes at the end of the window that are looked at.
const BLOCK: usize = 3;
/// A longer window would only fill the table.
const WIDEST: usize = 16;
/// A power of two.
const SLOTS: usize = 1 << 16;

#[derive(Debug)]
pub(super) struct Skips {
    window: usize,
    /// By the hash of a block; one that is in no pattern shares a slot now and then, which only costs time.
    shifts: Box<[u8; SLOTS]>,
    /// The hashes of what patterns begin with.
    begins: Box<[bool; SLOTS]>,
}

impl Skips {
    /// `None`: a pattern is too short for it to be worth it.
    pub(super) fn new(patterns: &[&[u8]], shortest: usize) -> Option<Self> {
        let window = patterns.iter().map(|pattern| pattern.len()).min()?.min(WIDEST);
        if window < shortest.max(BLOCK) {
            return None;
        }
        let farthest = window - BLOCK + 1;
        let mut shifts: Box<[u8; SLOTS]> =
            vec![u8::try_from(farthest).ok()?; SLOTS].try_into().ok()?;
        let mut begins: Box<[bool; SLOTS]> = vec![false; SLOTS].try_into().ok()?;
        for pattern in patterns {
            begins[slot(pattern)] = true;
            for (at, block) in pattern[..window].windows(BLOCK).enumerate() {
                let shift = &mut shifts[slot(block)];
                *shift = (*shift).min(u8::try_from(window - BLOCK - at).ok()?);
            }
        }
        Some(Self { window, shifts, begins })
    }

    /// Where a pattern begins next, or something that looks like one.
    pub(super) fn next(&self, bytes: &[u8]) -> Option<usize> {
        let mut end = self.window;
        while let Some(block) = bytes.get(end - BLOCK..end) {
            let shift = usize::from(self.shifts[slot(block)]);
            let begin = end - self.window;
            if shift > 0 {
                end += shift;
            } else if self.may_begin(&bytes[begin..]) {
                return Some(begin);
            } else {
                end += 1;
            }
        }
        None
    }

    /// Whether a pattern may begin with these bytes, or end before they do.
    pub(super) fn may_begin(&self, bytes: &[u8]) -> bool {
        bytes.len() < BLOCK || self.begins[slot(bytes)]
    }
}

/// Of the first bytes.
fn slot(bytes: &[u8]) -> usize {
    let block = u32::from(bytes[0]) | u32::from(bytes[1]) << 8 | u32::from(bytes[2]) << 16;
    (block.wrapping_mul(0x9E37_79B1) >> 16) as usize
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// No pattern is passed over, whatever the window.
        #[test]
        fn the_next_pattern_is_found(
            patterns in prop::collection::vec("[ab]{3,20}", 1..6),
            text in "[abc]{0,80}",
        ) {
            let patterns: Vec<&[u8]> = patterns.iter().map(String::as_bytes).collect();
            let skips = Skips::new(&patterns, 0).unwrap();
            let text = text.as_bytes();
            let stands = |at: &usize| patterns.iter().any(|it| text[*at..].starts_with(it));
            let first = (0..text.len()).find(stands);
            let mut at = 0;
            while let Some(next) = skips.next(&text[at..]) {
                at += next;
                prop_assert!(first.is_none_or(|first| at <= first), "it passed {first:?}");
                if first == Some(at) {
                    return Ok(());
                }
                at += 1;
            }
            prop_assert_eq!(first, None);
        }
    }
}
