//! Reads the spans of what is shipped, piece by piece, as they grow.

use std::{fs, io, os::unix::fs::FileExt as _};

use proto::logs::v1::LogSpans;

use super::{
    segments::{Shelf, blocking},
    spans::{Origin, Spans, read_records},
};

/// Bytes of the spans of one piece: a header that every server takes.
const MOST: usize = 12 << 10;
/// Bytes that are read of a file at once.
const PIECE: usize = 64 << 10;

/// A place in the files of spans; goes on from where it was, as shipping does.
#[derive(Debug)]
pub(crate) struct Ledger {
    shelf: Shelf,
    /// Where its segment begins.
    start: u64,
    /// Bytes that were read of the file.
    position: u64,
    /// Where `ahead` begins in the log.
    at: u64,
    ahead: Spans,
}

impl Ledger {
    pub(crate) fn new(shelf: Shelf) -> Self {
        Self { shelf, start: u64::MAX, position: 0, at: 0, ahead: Spans::default() }
    }

    /// The spans of the bytes from `offset` on, and of how many bytes they are: fewer than `length` where
    /// they would be too many. The piece must lie in one segment. A file that cannot be read
    /// costs only what it says.
    pub(crate) async fn spans(&mut self, offset: u64, length: u64) -> (LogSpans, u64) {
        let start = offset - offset % self.shelf.segment();
        if start != self.start || offset < self.at {
            (self.start, self.position, self.at) = (start, 0, start);
            self.ahead = Spans::default();
        }
        while self.at + self.ahead.length() < offset + length {
            match self.read().await {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    tracing::debug!(%error, "cannot read where a log came from");
                    break;
                }
            }
        }
        let known = offset - self.at;
        let gone = self.ahead.take(known).length();
        self.at += gone;
        if self.at < offset {
            return (LogSpans::default(), length);
        }
        let mut within = self.ahead.take(length);
        let mut taken = within.take_small(MOST);
        let spans = taken.encode(offset);
        let length = if within.is_empty() { length } else { taken.length() };
        taken.append(within);
        taken.append(std::mem::take(&mut self.ahead));
        self.ahead = taken;
        (spans, length)
    }

    /// Reads on. `false`: there is no whole record more.
    async fn read(&mut self) -> io::Result<bool> {
        let (path, position) = (self.shelf.spans(self.start), self.position);
        let mut most = PIECE;
        loop {
            let path = path.clone();
            let bytes = blocking(move || {
                let mut bytes = vec![0; most];
                let file = fs::File::open(path)?;
                let mut filled = 0;
                while filled < most {
                    match file.read_at(&mut bytes[filled..], position + filled as u64)? {
                        0 => break,
                        count => filled += count,
                    }
                }
                bytes.truncate(filled);
                Ok(bytes)
            });
            let bytes = bytes.await?;
            let mut rest = &bytes[..];
            let records = read_records(&mut rest);
            if records.is_empty() && bytes.len() == most {
                most *= 2;
                continue;
            }
            self.position += (bytes.len() - rest.len()) as u64;
            let is_some = !records.is_empty();
            for (offset, spans) in records {
                let end = self.at + self.ahead.length();
                self.ahead.push(offset.saturating_sub(end), Origin::unknown());
                self.ahead.append(spans);
            }
            return Ok(is_some);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        runtime::{Jobs, Stream},
        spool::segments::Tail,
    };

    #[tokio::test]
    async fn a_piece_has_its_spans_wherever_it_begins_and_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let shelf = Shelf::with_segments(dir.path().join("log"), 10);
        let mut tail = Tail::create(shelf.clone()).await.unwrap();
        let mut ledger = Ledger::new(shelf.clone());
        let origin = |at| Origin::pipeline(Stream::Stderr, Jobs::from([4]), at);
        tail.append(b"1234567", Spans::one(7, origin(1))).await.unwrap();
        let (spans, length) = ledger.spans(0, 7).await;
        assert_eq!((spans.lengths, spans.at, length), (vec![7], 1, 7));
        // In two segments.
        tail.append(b"89abcdef", Spans::one(8, origin(2))).await.unwrap();
        let (spans, _) = ledger.spans(5, 5).await;
        assert_eq!((spans.lengths, spans.delays, spans.offset), (vec![2, 3], vec![0, 1], 5));
        let (spans, _) = ledger.spans(10, 5).await;
        assert_eq!((spans.lengths, spans.at), (vec![5], 2));
        // Killed after the bytes and before the spans were written.
        tail.append(b"g", Spans::default()).await.unwrap();
        drop(tail);
        let file = fs::File::options().append(true).open(shelf.spans(10)).unwrap();
        io::Write::write_all(&mut &file, &[9, 9]).unwrap();
        let mut tail = Tail::reopen(shelf.clone()).await.unwrap();
        tail.append(b"h", Spans::one(1, origin(3))).await.unwrap();
        let (spans, _) = Ledger::new(shelf).spans(12, 5).await;
        assert_eq!(spans.lengths, [3, 1, 1]);
        let streams: Vec<_> = spans.sources.iter().map(|source| source.stream).collect();
        assert_eq!(streams, [2, 0]);
        assert_eq!(spans.origins, [0, 1, 0]);
    }
}
