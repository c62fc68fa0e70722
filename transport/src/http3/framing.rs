//! Where HTTP/3's frames begin and end (RFC 9114, section 7.1).
//!
//! h3 0.0.8 takes a DATA frame that the stream's end cuts off for a whole one: half a file would look
//! like all of it. So the adapter follows the frames itself.

/// The longest head of a frame: two variable-length integers of eight bytes.
const HEAD: usize = 16;

/// Follows the frames of one stream.
#[derive(Debug, Default)]
pub(super) struct Framing {
    head: [u8; HEAD],
    read: usize,
    payload: u64,
}

impl Framing {
    /// Takes the next bytes of the stream.
    pub(super) fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.payload > 0 {
                let skipped = bytes.len().min(usize::try_from(self.payload).unwrap_or(usize::MAX));
                self.payload -= skipped as u64;
                bytes = &bytes[skipped..];
            } else {
                self.head[self.read] = bytes[0];
                self.read += 1;
                bytes = &bytes[1..];
                if let Some(length) = self.length() {
                    self.payload = length;
                    self.read = 0;
                }
            }
        }
    }

    /// Whether the stream may end here.
    pub(super) fn is_whole(&self) -> bool {
        self.read == 0 && self.payload == 0
    }

    /// The payload's length, once the head is complete.
    fn length(&self) -> Option<u64> {
        let (_, kind) = integer(&self.head[..self.read])?;
        Some(integer(&self.head[kind..self.read])?.0)
    }
}

/// A variable-length integer (RFC 9000, section 16) and its length.
fn integer(bytes: &[u8]) -> Option<(u64, usize)> {
    let length = 1 << (bytes.first()? >> 6);
    let bytes = bytes.get(..length)?;
    let first = u64::from(bytes[0] & 0x3f);
    Some((bytes[1..].iter().fold(first, |value, byte| value << 8 | u64::from(*byte)), length))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A DATA frame of 300 bytes, a HEADERS frame of two, an empty frame of an unknown kind whose
    /// length takes eight bytes.
    fn stream() -> (Vec<u8>, Vec<usize>) {
        let mut bytes = vec![0x00, 0x41, 0x2c];
        bytes.extend([7; 300]);
        let mut ends = vec![0, bytes.len()];
        bytes.extend([0x01, 0x02, 0xff, 0xff]);
        ends.push(bytes.len());
        bytes.extend([0x40, 0x21, 0xc0, 0, 0, 0, 0, 0, 0, 0]);
        ends.push(bytes.len());
        (bytes, ends)
    }

    #[test]
    fn a_stream_is_whole_between_frames_only() {
        let (bytes, ends) = stream();
        for cut in 0..=bytes.len() {
            let mut framing = Framing::default();
            framing.feed(&bytes[..cut]);
            assert_eq!(framing.is_whole(), ends.contains(&cut), "cut at {cut}");
        }
    }

    #[test]
    fn it_does_not_matter_how_the_bytes_arrive() {
        let (bytes, _) = stream();
        for size in 1..bytes.len() {
            let mut framing = Framing::default();
            bytes.chunks(size).for_each(|chunk| framing.feed(chunk));
            assert!(framing.is_whole(), "in chunks of {size}");
        }
    }
}
