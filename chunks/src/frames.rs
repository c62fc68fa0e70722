//! Several chunks in one body: for each its sha256, the length of its stored form (4 bytes, big endian), and
//! the stored form.

use bytes::{Buf as _, Bytes, BytesMut};
use ids::Digest;

use crate::LARGEST_STORED;

/// `application/vnd.gaia.chunks`.
pub const MEDIA_TYPE: &str = "application/vnd.gaia.chunks";
const HEAD: usize = 36;

/// What goes before a chunk's stored form.
pub fn head(digest: Digest, stored: &[u8]) -> Bytes {
    let mut head = Vec::with_capacity(HEAD);
    head.extend_from_slice(digest.as_bytes());
    head.extend_from_slice(&(stored.len() as u32).to_be_bytes());
    head.into()
}

/// Why a body is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadFrames {
    #[error("a chunk of {0} bytes was sent: the largest has {LARGEST_STORED}")]
    TooLong(u32),
    #[error("the chunks end in the middle of one")]
    Cut,
}

/// Takes a body apart that arrives in pieces. Holds one chunk and one piece at most.
#[derive(Debug, Default)]
pub struct Frames {
    buffer: BytesMut,
}

impl Frames {
    pub fn push(&mut self, piece: &[u8]) {
        self.buffer.extend_from_slice(piece);
    }

    /// The next chunk that is whole, with the digest that it is sent under.
    pub fn next_chunk(&mut self) -> Result<Option<(Digest, Bytes)>, BadFrames> {
        let Some(head) = self.buffer.first_chunk::<HEAD>() else { return Ok(None) };
        let [digest @ .., a, b, c, d] = *head;
        let length = u32::from_be_bytes([a, b, c, d]);
        if length as usize > LARGEST_STORED {
            return Err(BadFrames::TooLong(length));
        }
        if self.buffer.len() - HEAD < length as usize {
            return Ok(None);
        }
        self.buffer.advance(HEAD);
        let stored = self.buffer.split_to(length as usize).freeze();
        Ok(Some((Digest::from_bytes(digest), stored)))
    }

    /// Nothing is left over.
    pub fn finish(&self) -> Result<(), BadFrames> {
        if self.buffer.is_empty() { Ok(()) } else { Err(BadFrames::Cut) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn chunks_arrive_in_any_pieces(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..9),
            piece in 1..99_usize, lost in 0..5_usize
        ) {
            let body: Vec<u8> = chunks
                .iter()
                .flat_map(|chunk| [&head(Digest::of(chunk), chunk)[..], &chunk[..]].concat())
                .collect();
            let kept = body.len().saturating_sub(lost);
            let (mut frames, mut got) = (Frames::default(), vec![]);
            for piece in body[..kept].chunks(piece) {
                frames.push(piece);
                while let Some((digest, stored)) = frames.next_chunk().unwrap() {
                    prop_assert_eq!(digest, Digest::of(&stored));
                    got.push(stored.to_vec());
                }
            }
            prop_assert!(chunks.starts_with(&got));
            prop_assert_eq!(frames.finish().is_ok(), got.len() == chunks.len() || kept == 0);
        }
    }

    #[test]
    fn an_endless_chunk_is_refused_at_its_head() {
        let mut frames = Frames::default();
        frames.push(&[7; 32]);
        assert_eq!(frames.next_chunk(), Ok(None));
        frames.push(&u32::MAX.to_be_bytes());
        assert_eq!(frames.next_chunk(), Err(BadFrames::TooLong(u32::MAX)));
    }
}
