//! A log on disk: a folder of segments of equal length, each named by the offset where it begins.
//!
//! A segment is synced before the next one begins. Beside each stands the state of the digest at its
//! beginning, so that the digest of the whole log can be told after older segments were removed, by
//! a later life of the agent too; and a file that says of each stretch of its bytes where they came from.
//! Bytes are kept as they came.

use std::{
    fs, io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use ids::Digest;
use sha2::{Digest as _, Sha256, digest::common::hazmat::SerializableState};
use tokio::{fs::File, io::AsyncWriteExt as _, task::spawn_blocking};

use super::{
    Gaps, now,
    spans::{Origin, Spans, read_records},
};
use crate::home::{make_dir, write_private};

/// Bytes of one segment.
const SEGMENT: u64 = 4 << 20;
/// Bytes that are read of a file at once.
const PIECE: usize = 128 << 10;

/// Where a log's segments are.
#[derive(Clone, Debug)]
pub(crate) struct Shelf {
    dir: PathBuf,
    segment: u64,
}

impl Shelf {
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self { dir, segment: SEGMENT }
    }

    #[cfg(test)]
    pub(crate) fn with_segments(dir: PathBuf, segment: u64) -> Self {
        Self { dir, segment }
    }

    /// Bytes of one segment.
    pub(crate) fn segment(&self) -> u64 {
        self.segment
    }

    fn log(&self, start: u64) -> PathBuf {
        self.dir.join(format!("{start:020}.log"))
    }

    fn state(&self, start: u64) -> PathBuf {
        self.dir.join(format!("{start:020}.sha256"))
    }

    pub(super) fn spans(&self, start: u64) -> PathBuf {
        self.dir.join(format!("{start:020}.spans"))
    }

    fn gaps(&self) -> PathBuf {
        self.dir.join("gaps")
    }

    /// What an earlier life of the agent dropped.
    pub(crate) fn read_gaps(&self) -> Gaps {
        let text = fs::read_to_string(self.gaps()).unwrap_or_default();
        let mut numbers = text.split(' ').map(|word| word.trim().parse().unwrap_or(0));
        Gaps { count: numbers.next().unwrap_or(0), bytes: numbers.next().unwrap_or(0) }
    }

    /// Opens the spans of the segment where the log ends, up to the last record that is whole and of
    /// bytes that are there.
    fn reopen_spans(&self, start: u64, size: u64) -> io::Result<fs::File> {
        let path = self.spans(start);
        let file = fs::File::options().append(true).read(true).create(true).open(&path)?;
        let bytes = fs::read(&path)?;
        let mut rest = &bytes[..];
        let records = read_records(&mut rest);
        let is_there = |(offset, spans): &&(u64, Spans)| offset + spans.length() <= size;
        let whole = records.iter().take_while(is_there);
        let length: usize = whole.map(|(offset, spans)| spans.record(*offset).len()).sum();
        file.set_len(length as u64)?;
        Ok(file)
    }

    /// At most `most` bytes from `offset` on, up to the end of a segment. `NotFound`: they were removed.
    pub(crate) async fn read(&self, offset: u64, most: u64) -> io::Result<Bytes> {
        let within = offset % self.segment;
        let path = self.log(offset - within);
        let length = most.min(self.segment - within);
        blocking(move || {
            let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
            fs::File::open(path)?.read_exact_at(&mut bytes, within)?;
            Ok(bytes.into())
        })
        .await
    }

    /// Where the segments begin that follow each other without a gap, and where the last one ends.
    fn survey(&self) -> io::Result<(Vec<u64>, u64)> {
        let mut starts = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let name = entry?.file_name();
            let start: Option<u64> =
                name.to_str().and_then(|name| name.strip_suffix(".log")?.parse().ok());
            starts.extend(start);
        }
        starts.sort_unstable();
        let mut end = starts.first().copied().unwrap_or(0);
        let mut whole = Vec::new();
        for start in starts {
            if start != end {
                break;
            }
            whole.push(start);
            end += fs::metadata(self.log(start))?.len();
        }
        Ok((whole, end))
    }

    /// The state of the digest at the end, from the newest segment at whose beginning it is known.
    fn rehash(&self, starts: &[u64]) -> io::Result<Sha256> {
        let known = starts.iter().enumerate().rev().find_map(|(index, start)| {
            let hash = if *start == 0 { Some(Sha256::new()) } else { restore(&self.state(*start)) };
            Some((index, hash?))
        });
        let unknown = || io::Error::new(io::ErrorKind::InvalidData, "its digest is not known");
        let (index, mut hash) = known.ok_or_else(unknown)?;
        let mut piece = vec![0; PIECE];
        for start in &starts[index..] {
            let mut file = fs::File::open(self.log(*start))?;
            loop {
                match io::Read::read(&mut file, &mut piece)? {
                    0 => break,
                    count => hash.update(&piece[..count]),
                }
            }
        }
        Ok(hash)
    }
}

fn restore(path: &Path) -> Option<Sha256> {
    let state = fs::read(path).ok()?;
    Sha256::deserialize(&state.as_slice().try_into().ok()?).ok()
}

/// The end of a log, which grows, and what is kept before it.
#[derive(Debug)]
pub(crate) struct Tail {
    shelf: Shelf,
    file: File,
    spans: File,
    /// Where the oldest segment begins that is kept.
    first: u64,
    /// Where the segment of `file` begins.
    start: u64,
    size: u64,
    hash: Sha256,
}

impl Tail {
    /// Begins a log.
    pub(crate) async fn create(shelf: Shelf) -> io::Result<Self> {
        make_dir(&shelf.dir)?;
        let file = File::create(shelf.log(0)).await?;
        let spans = File::create(shelf.spans(0)).await?;
        Ok(Self { shelf, file, spans, first: 0, start: 0, size: 0, hash: Sha256::new() })
    }

    /// Goes on with what a previous life of the agent left.
    pub(crate) async fn reopen(shelf: Shelf) -> io::Result<Self> {
        let survey = shelf.clone();
        let found = blocking(move || {
            let (starts, size) = survey.survey()?;
            let hash = survey.rehash(&starts)?;
            Ok((starts, size, hash))
        });
        let (starts, size, hash) = found.await?;
        let (Some(first), Some(start)) = (starts.first().copied(), starts.last().copied()) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let file = File::options().append(true).open(shelf.log(start)).await?;
        let of = shelf.clone();
        let spans = File::from_std(blocking(move || of.reopen_spans(start, size)).await?);
        Ok(Self { shelf, file, spans, first, start, size, hash })
    }

    /// Bytes of the whole log, removed ones included.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// The oldest byte that is kept.
    pub(crate) fn first(&self) -> u64 {
        self.first
    }

    /// After an error nothing more may be appended.
    pub(super) async fn append(&mut self, mut bytes: &[u8], mut spans: Spans) -> io::Result<()> {
        while !bytes.is_empty() {
            let room = self.start + self.shelf.segment - self.size;
            if room == 0 {
                self.turn().await?;
                continue;
            }
            let length = bytes.len().min(usize::try_from(room).unwrap_or(usize::MAX));
            let (now, later) = bytes.split_at(length);
            self.file.write_all(now).await?;
            self.file.flush().await?;
            let now_spans = spans.take(length as u64);
            if !now_spans.is_empty() {
                self.spans.write_all(&now_spans.record(self.size)).await?;
                self.spans.flush().await?;
            }
            self.hash.update(now);
            self.size += length as u64;
            bytes = later;
        }
        Ok(())
    }

    /// Begins the next segment.
    async fn turn(&mut self) -> io::Result<()> {
        self.file.sync_data().await?;
        let (state, path) = (self.hash.serialize(), self.shelf.state(self.size));
        blocking(move || write_private(&path, &state)).await?;
        self.file = File::create(self.shelf.log(self.size)).await?;
        self.spans = File::create(self.shelf.spans(self.size)).await?;
        self.start = self.size;
        Ok(())
    }

    /// Removes the oldest segments, as long as more than `keep` bytes are on disk and the server has
    /// what is in them.
    pub(crate) fn forget(&mut self, acknowledged: u64, keep: u64) -> io::Result<()> {
        while self.size - self.first > keep
            && self.first < self.start
            && self.first + self.shelf.segment <= acknowledged
        {
            fs::remove_file(self.shelf.log(self.first))?;
            for beside in [self.shelf.state(self.first), self.shelf.spans(self.first)] {
                match fs::remove_file(beside) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
            self.first += self.shelf.segment;
        }
        Ok(())
    }

    pub(super) async fn keep_gaps(&self, gaps: Gaps) -> io::Result<()> {
        let (path, text) = (self.shelf.gaps(), format!("{} {}", gaps.count, gaps.bytes));
        blocking(move || write_private(&path, text.as_bytes())).await
    }

    /// A last line of the agent.
    pub(crate) async fn close(&mut self, line: &[u8]) -> io::Result<()> {
        let origin = Origin::agent(now());
        self.append(line, Spans::one(line.len(), origin)).await
    }

    /// The sha256 of the whole log.
    pub(crate) fn digest(&self) -> Digest {
        Digest::from_bytes(self.hash.clone().finalize().into())
    }

    pub(crate) async fn sync(&self) -> io::Result<()> {
        self.file.sync_data().await
    }
}

pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    spawn_blocking(work).await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shelf(dir: &tempfile::TempDir) -> Shelf {
        Shelf::with_segments(dir.path().join("log"), 10)
    }

    #[tokio::test]
    async fn old_segments_go_only_when_they_are_acknowledged_and_the_digest_stays() {
        let dir = tempfile::tempdir().unwrap();
        let mut tail = Tail::create(shelf(&dir)).await.unwrap();
        let text: Vec<u8> = (0..47).collect();
        tail.append(&text, Spans::default()).await.unwrap();
        tail.forget(9, 0).unwrap();
        assert_eq!(tail.first(), 0);
        tail.forget(29, 0).unwrap();
        assert_eq!(tail.first(), 20);
        tail.forget(40, 27).unwrap();
        assert_eq!(tail.first(), 20, "there is room");
        assert_eq!(tail.shelf.read(25, 100).await.unwrap(), text[25..30]);
        let error = tail.shelf.read(19, 1).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        drop(tail);

        // Another life.
        let mut tail = Tail::reopen(shelf(&dir)).await.unwrap();
        assert_eq!((tail.first(), tail.size()), (20, 47));
        tail.append(b"end", Spans::default()).await.unwrap();
        tail.append(b"!", Spans::default()).await.unwrap();
        let whole = [&text[..], b"end!"].concat();
        assert_eq!(tail.digest(), Digest::of(&whole));
    }

    proptest! {
        #[test]
        fn however_it_is_written_and_taken_up_again_it_is_the_same(
            pieces in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..25), any::<bool>()), 0..8)
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let dir = tempfile::tempdir().unwrap();
                let mut tail = Tail::create(shelf(&dir)).await.unwrap();
                let mut whole = Vec::new();
                for (piece, restart) in pieces {
                    tail.append(&piece, Spans::default()).await.unwrap();
                    whole.extend(piece);
                    if restart {
                        tail = Tail::reopen(shelf(&dir)).await.unwrap();
                        tail.forget(tail.size(), 0).unwrap();
                    }
                }
                assert_eq!(tail.size(), whole.len() as u64);
                assert_eq!(tail.digest(), Digest::of(&whole));
                let mut at = tail.first();
                while at < tail.size() {
                    let bytes = tail.shelf.read(at, tail.size() - at).await.unwrap();
                    let from = usize::try_from(at).unwrap();
                    assert_eq!(bytes[..], whole[from..from + bytes.len()]);
                    at += bytes.len() as u64;
                }
            });
        }
    }
}
