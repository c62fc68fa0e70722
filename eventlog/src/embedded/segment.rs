//! Segment files: their names, how one is made, and walking through its records.
//!
//! A segment appears under its name only when its header is on the disk, and only after everything
//! in the segments before it is.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::{
    OpenError,
    format::{self, FORMAT, HeaderFlaw, Record, SEGMENT_HEADER, SegmentHeader},
};
use crate::disk::{self, File};

const EXTENSION: &str = "segment";
/// A segment in the making.
const UNFINISHED: &str = "segment.new";
/// How much of a file is looked at at once.
const WINDOW: usize = 1 << 20;

/// A segment's file, for reading.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) path: PathBuf,
    pub(super) file: File,
    pub(super) header: SegmentHeader,
}

impl Segment {
    /// Makes the file and syncs it and its folder.
    pub(super) fn create(dir: &Path, header: SegmentHeader) -> io::Result<Self> {
        Self::write(dir, header, |_| Ok(()))
    }

    /// Makes the file with what `records` writes into it. It takes the place of one with its name.
    pub(super) fn write(
        dir: &Path,
        header: SegmentHeader,
        records: impl FnOnce(&File) -> io::Result<()>,
    ) -> io::Result<Self> {
        let path = dir.join(format!("{:020}.{EXTENSION}", header.first));
        let unfinished = dir.join(UNFINISHED);
        let file = File::create(&unfinished)?;
        file.write_all_at(&header.encode(), 0)?;
        records(&file)?;
        file.sync_all()?;
        disk::rename(&unfinished, &path)?;
        disk::sync_dir(dir)?;
        Ok(Self { path, file, header })
    }

    pub(super) fn open(path: PathBuf, write: bool) -> Result<Self, OpenError> {
        let file = if write { File::open_to_write(&path) } else { File::open(&path) };
        let file = file.map_err(|source| OpenError::io("open", &path, source))?;
        let mut bytes = [0; SEGMENT_HEADER];
        let damaged = |why: &str| OpenError::damaged(&path, 0, why);
        match file.read_exact_at(&mut bytes, 0) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(damaged("its header is cut short"));
            }
            Err(source) => return Err(OpenError::io("read", &path, source)),
        }
        match SegmentHeader::decode(&bytes) {
            Ok(header) => Ok(Self { path, file, header }),
            Err(HeaderFlaw::NotALog) => Err(damaged("it does not start as a segment does")),
            Err(HeaderFlaw::Damaged) => Err(damaged("its header's checksum is wrong")),
            Err(HeaderFlaw::Newer(found)) => {
                Err(OpenError::NewerFormat { file: path, found, known: FORMAT })
            }
        }
    }

    /// The folder's segments, oldest first.
    pub(super) fn list(dir: &Path) -> Result<Vec<PathBuf>, OpenError> {
        let mut paths = disk::list(dir).map_err(|source| OpenError::io("list", dir, source))?;
        paths.retain(|path| path.extension().is_some_and(|extension| extension == EXTENSION));
        paths.sort();
        Ok(paths)
    }

    pub(super) fn scan(&self) -> io::Result<Scanner<'_>> {
        let length = self.file.length()?;
        let offset = SEGMENT_HEADER as u64;
        Ok(Scanner { segment: self, length, offset, window: Vec::new(), window_at: offset })
    }
}

/// Walks through the records of a segment.
pub(super) struct Scanner<'a> {
    segment: &'a Segment,
    length: u64,
    /// Where the next record starts.
    offset: u64,
    window: Vec<u8>,
    window_at: u64,
}

impl Scanner<'_> {
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// The next record; `None`: at `offset` is the end, or no sound record.
    pub(super) fn next(&mut self) -> io::Result<Option<Record<'_>>> {
        let dialect = self.segment.header.dialect;
        self.load(format::HEAD)?;
        let Some(length) = format::record_length(self.ahead(), dialect) else { return Ok(None) };
        self.load(length)?;
        let start = (self.offset - self.window_at) as usize;
        let record = format::decode(&self.window[start..], dialect);
        if record.is_some() {
            self.offset += length as u64;
        }
        Ok(record)
    }

    /// Everything from `offset` to the file's end.
    pub(super) fn rest(&self) -> io::Result<Vec<u8>> {
        let mut rest = vec![0; self.length.saturating_sub(self.offset) as usize];
        self.segment.file.read_exact_at(&mut rest, self.offset)?;
        Ok(rest)
    }

    fn ahead(&self) -> &[u8] {
        &self.window[(self.offset - self.window_at) as usize..]
    }

    /// Makes at least `wanted` bytes from `offset` on present, if the file has them.
    fn load(&mut self, wanted: usize) -> io::Result<()> {
        if self.ahead().len() >= wanted {
            return Ok(());
        }
        let there = self.length.saturating_sub(self.offset) as usize;
        self.window.resize(wanted.max(WINDOW).min(there), 0);
        self.window_at = self.offset;
        self.segment.file.read_exact_at(&mut self.window, self.offset)
    }
}
