//! The index file of a sealed segment. FORMAT.md says the same in words.
//!
//! It is derived: whatever is wrong with it, it is made again from the segment. So each of its blocks has
//! a checksum, and the file says which segment it belongs to, in which state: nothing of it is believed
//! before that is checked. In memory are only the filter and where each block of streams begins.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::{
    Fresh, IdDigest, Key, Place, Run,
    filter::{Filter, LINE},
};
use crate::{
    disk::{self, File},
    embedded::{OpenError, format::Chain, segment::Segment},
};

const FORMAT: u32 = 1;
const MAGIC: [u8; 8] = *b"GAIAIDX\n";
const EXTENSION: &str = "index";

const BLOCK: usize = 512;
/// The checksum of a block is its end.
const CONTENT: usize = BLOCK - 4;
const HEADER: usize = 80;

/// What an index file says of its segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bound {
    pub(super) salt: u32,
    /// Position of the first record.
    pub(super) first: u64,
    /// Where the last record ends.
    pub(super) end: u32,
    /// The chain after the last record.
    pub(super) chain: Chain,
}

#[derive(Debug)]
pub(super) struct Table {
    path: PathBuf,
    file: File,
    salt: u32,
    filter: Filter,
    /// The beginning of the first key in each block of streams.
    fences: Vec<u64>,
    columns: Columns,
}

/// A list of items of the same width, in blocks of its own.
#[derive(Clone, Copy, Debug)]
struct Column {
    first_block: u64,
    width: usize,
    count: usize,
}

#[derive(Clone, Copy, Debug)]
struct Columns {
    filter: Column,
    fences: Column,
    offsets: Column,
    ids: Column,
    streams: Column,
    places: Column,
    notes: Column,
}

const STREAM: usize = 32;
const PLACE: usize = 8;

impl Column {
    fn per_block(self) -> usize {
        CONTENT / self.width
    }

    fn blocks(self) -> u64 {
        self.count.div_ceil(self.per_block()) as u64
    }
}

impl Columns {
    fn new(records: usize, streams: usize, notes: usize) -> Self {
        let mut next = 1;
        let mut column = |width: usize, count: usize| {
            let column = Column { first_block: next, width, count };
            next += column.blocks();
            column
        };
        Self {
            filter: column(LINE, Filter::lines(streams)),
            fences: column(8, streams.div_ceil(CONTENT / STREAM)),
            offsets: column(4, records),
            ids: column(8, records),
            streams: column(STREAM, streams),
            places: column(PLACE, records),
            notes: column(PLACE, notes),
        }
    }
}

fn path(segment: &Path) -> PathBuf {
    segment.with_extension(EXTENSION)
}

/// Takes away the index file of a segment that is gone, or was changed, if there is one.
pub(in crate::embedded) fn remove_index(segment: &Path) -> Result<(), OpenError> {
    let path = path(segment);
    match disk::remove_file(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome.map_err(|source| OpenError::io("remove", &path, source)),
    }
}

/// The whole file.
fn encode(bound: Bound, fresh: &Fresh) -> Vec<u8> {
    let mut streams: Vec<_> =
        fresh.streams().map(|(stream, run, places)| (Key::of(stream), run, places)).collect();
    streams.sort_unstable_by_key(|(key, ..)| *key);
    let notes = fresh.notes();
    let columns = Columns::new(fresh.count(), streams.len(), notes.len());
    let mut out = Blocks { salt: bound.salt, bytes: Vec::new() };
    out.column(columns_header(bound, fresh.count(), streams.len(), notes.len()));
    let filter = Filter::of(streams.iter().map(|(key, ..)| key).collect::<Vec<_>>().into_iter());
    out.column(filter.encode());
    let fences = streams.iter().step_by(columns.streams.per_block());
    out.column(fences.map(|(key, ..)| key.high().to_le_bytes()));
    out.column(fresh.offsets().iter().map(|offset| offset.to_le_bytes()));
    out.column(fresh.ids().iter().map(|id| id.0.to_le_bytes()));
    let mut start = 0;
    out.column(streams.iter().map(|(key, run, _)| {
        let mut bytes = [0; STREAM];
        bytes[..16].copy_from_slice(&key.0);
        bytes[16..24].copy_from_slice(&run.first.to_le_bytes());
        bytes[24..28].copy_from_slice(&u32::to_le_bytes(start));
        bytes[28..].copy_from_slice(&(run.count as u32).to_le_bytes());
        start += run.count as u32;
        bytes
    }));
    out.column(streams.into_iter().flat_map(|(.., places)| places).map(Place::to_bytes));
    out.column(notes.into_iter().map(Place::to_bytes));
    out.bytes
}

fn columns_header(
    bound: Bound,
    records: usize,
    streams: usize,
    notes: usize,
) -> impl Iterator<Item = [u8; HEADER]> {
    let mut header = [0; HEADER];
    header[..8].copy_from_slice(&MAGIC);
    header[8..12].copy_from_slice(&FORMAT.to_le_bytes());
    header[12..16].copy_from_slice(&bound.salt.to_le_bytes());
    header[16..24].copy_from_slice(&bound.first.to_le_bytes());
    header[24..56].copy_from_slice(&bound.chain.0);
    header[56..60].copy_from_slice(&bound.end.to_le_bytes());
    for (at, count) in [(60, records), (64, streams), (68, notes)] {
        header[at..at + 4].copy_from_slice(&(count as u32).to_le_bytes());
    }
    std::iter::once(header)
}

/// A file in the making.
struct Blocks {
    salt: u32,
    bytes: Vec<u8>,
}

impl Blocks {
    fn column<const WIDTH: usize>(&mut self, items: impl Iterator<Item = [u8; WIDTH]>) {
        let mut room = 0;
        for item in items {
            if room < WIDTH {
                self.end_block();
                room = CONTENT;
            }
            self.bytes.extend_from_slice(&item);
            room -= WIDTH;
        }
        self.end_block();
    }

    /// Fills up and seals a block that was begun.
    fn end_block(&mut self) {
        let number = self.bytes.len() / BLOCK;
        if self.bytes.len().is_multiple_of(BLOCK) {
            return;
        }
        self.bytes.resize(number * BLOCK + CONTENT, 0);
        let check = checksum(self.salt, number as u64, &self.bytes[number * BLOCK..]);
        self.bytes.extend_from_slice(&check.to_le_bytes());
    }
}

/// A block that stands elsewhere than where it belongs is not sound.
fn checksum(salt: u32, number: u64, content: &[u8]) -> u32 {
    crc32c::crc32c_append(salt ^ number as u32, content)
}

impl Table {
    /// Makes the file. If it does not get as far as to the disk, it is missing, or a block of it is not
    /// sound: so the folder need not be synced.
    pub(super) fn write(segment: &Segment, bound: Bound, fresh: &Fresh) -> io::Result<Self> {
        let path = path(&segment.path);
        let unfinished = path.with_extension("index.new");
        let file = File::create(&unfinished)?;
        file.write_all_at(&encode(bound, fresh), 0)?;
        file.sync_data()?;
        disk::rename(&unfinished, &path)?;
        Self::load(path, file, bound)?.ok_or_else(|| io::Error::other("it is not what was written"))
    }

    /// `None`: there is no sound one of the segment as it is now.
    pub(super) fn open(segment: &Segment, bound: Bound) -> Option<Self> {
        let path = path(&segment.path);
        let outcome = File::open(&path).and_then(|file| Self::load(path.clone(), file, bound));
        match outcome {
            Ok(table) => table,
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!(%error, file = %path.display(), "an index file is made again");
                None
            }
        }
    }

    fn load(path: PathBuf, file: File, bound: Bound) -> io::Result<Option<Self>> {
        let header = read_blocks(&file, bound.salt, 0, 1)?;
        if header[..HEADER] != columns_header_of(&header, bound) {
            return Ok(None);
        }
        let [records, streams, notes] = [60, 64, 68].map(|at| u32_at(&header, at) as usize);
        let columns = Columns::new(records, streams, notes);
        let [filter, fences] = [columns.filter, columns.fences].map(|column| {
            read_blocks(&file, bound.salt, column.first_block, column.blocks())
                .map(|content| (content, column))
        });
        let (filter, column) = filter?;
        let filter = Filter::decode(items(&filter, column));
        let (fences, column) = fences?;
        let fences = items(&fences, column).map(|bytes| u64_at(bytes, 0)).collect();
        Ok(Some(Self { path, file, salt: bound.salt, filter, fences, columns }))
    }

    pub(super) fn count(&self) -> usize {
        self.columns.offsets.count
    }

    pub(super) fn find(&self, key: &Key) -> io::Result<Option<(Run, u32)>> {
        if !self.filter.may_hold(key) {
            return Ok(None);
        }
        let high = key.high();
        let mut block = self.fences.partition_point(|fence| *fence < high).saturating_sub(1);
        let column = self.columns.streams;
        while self.fences.get(block).is_some_and(|fence| *fence <= high) {
            let from = block * column.per_block();
            let to = (from + column.per_block()).min(column.count);
            let found = self.read(column, from, to, |entry| {
                let run = Run { first: u64_at(entry, 16), count: u32_at(entry, 28).into() };
                (entry[..16] == key.0).then(|| (run, u32_at(entry, 24)))
            })?;
            if let Some(found) = found.into_iter().flatten().next() {
                return Ok(Some(found));
            }
            block += 1;
        }
        Ok(None)
    }

    /// Places of a stream's events from the `skip`-th here on, at most `limit`.
    pub(super) fn places(&self, key: &Key, skip: u64, limit: usize) -> io::Result<Vec<Place>> {
        let Some((run, start)) = self.find(key)? else { return Ok(Vec::new()) };
        let from = skip.min(run.count);
        let to = skip.saturating_add(limit as u64).min(run.count);
        let (from, to) = (start as usize + from as usize, start as usize + to as usize);
        self.read(self.columns.places, from, to, Place::from_bytes)
    }

    /// Where records start.
    pub(super) fn offsets(&self, from: usize, to: usize) -> io::Result<Vec<u32>> {
        self.read(self.columns.offsets, from, to, |bytes| u32_at(bytes, 0))
    }

    pub(super) fn ids(&self, from: usize, to: usize) -> io::Result<Vec<IdDigest>> {
        self.read(self.columns.ids, from, to, |bytes| IdDigest(u64_at(bytes, 0)))
    }

    pub(super) fn notes(&self) -> io::Result<Vec<Place>> {
        self.read(self.columns.notes, 0, self.columns.notes.count, Place::from_bytes)
    }

    fn read<T>(
        &self,
        column: Column,
        from: usize,
        to: usize,
        item: impl Fn(&[u8]) -> T,
    ) -> io::Result<Vec<T>> {
        if from >= to {
            return Ok(Vec::new());
        }
        let (first, last) = (from / column.per_block(), (to - 1) / column.per_block());
        let at = column.first_block + first as u64;
        let content = read_blocks(&self.file, self.salt, at, (last - first + 1) as u64)
            .map_err(|error| named(&self.path, &error))?;
        let skip = from - first * column.per_block();
        let there = Column { count: skip + to - from, ..column };
        Ok(items(&content, there).skip(skip).map(item).collect())
    }
}

/// What the header must be, given the counts that it says.
fn columns_header_of(header: &[u8], bound: Bound) -> [u8; HEADER] {
    let [records, streams, notes] = [60, 64, 68].map(|at| u32_at(header, at) as usize);
    let mut headers = columns_header(bound, records, streams, notes);
    headers.next().expect("there is one header")
}

/// The blocks, proved.
fn read_blocks(file: &File, salt: u32, first: u64, count: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; count as usize * BLOCK];
    file.read_exact_at(&mut bytes, first * BLOCK as u64)?;
    for (number, block) in (first..).zip(bytes.chunks_exact(BLOCK)) {
        if u32_at(block, CONTENT) != checksum(salt, number, &block[..CONTENT]) {
            let why = format!("the checksum of block {number} is wrong");
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
    }
    Ok(bytes)
}

/// The items of a column, from the beginning of its first block.
fn items<'a>(blocks: &'a [u8], column: Column) -> impl Iterator<Item = &'a [u8]> {
    let per_block = column.per_block();
    let used = per_block * column.width;
    let each = move |block: &'a [u8]| <[u8]>::chunks_exact(&block[..used], column.width);
    blocks.chunks_exact(BLOCK).flat_map(each).take(column.count)
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("read `{}`: {error}", path.display()))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
