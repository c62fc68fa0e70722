//! A sealed log, compressed and still seekable.
//!
//! The file is what the zstd seekable format says (contrib/seekable_format of zstd): independent frames of
//! [`FRAME`] bytes of the log each, and after them a skippable frame with a table of their lengths. Any
//! zstd reads it as a whole; to read a part, only the frames in which it lies are read. Blocking.

use std::{
    fs::File,
    io::{self, Write},
    os::unix::fs::FileExt,
    path::Path,
};

use ids::Digest;
use sha2::{Digest as _, Sha256};
use zstd::bulk::{Compressor, Decompressor};

use crate::{
    domain::{LogId, Seal},
    shelf::{Shelf, Source},
};

/// Bytes of the log in one frame; the last one has fewer.
const FRAME: usize = 256 << 10;
/// Text shrinks to a fifth, and one core does hundreds of MB/s.
const LEVEL: i32 = 3;
/// Of the skippable frame that holds the table, and of the table's end.
const SKIPPABLE: u32 = 0x184D_2A5E;
const SEEKABLE: u32 = 0x8F92_EAB1;
const ENTRY: usize = 8;
const FOOTER: usize = 9;
/// More than a log of the largest size has: 256 GiB.
const MOST_FRAMES: usize = 1 << 20;

/// Writes what `log` holds into `to`, and makes it durable. What is written is read again and held
/// against the seal.
pub(crate) fn write(log: &File, seal: Seal, to: &Path) -> io::Result<()> {
    let mut file = io::BufWriter::new(File::create_new(to)?);
    let mut compressor = Compressor::new(LEVEL)?;
    compressor.include_checksum(true)?;
    let (mut table, mut at, mut buffer) = (vec![], 0, vec![0; FRAME]);
    while at < seal.size {
        let wanted = FRAME.min((seal.size - at) as usize);
        log.read_exact_at(&mut buffer[..wanted], at)?;
        let frame = compressor.compress(&buffer[..wanted])?;
        file.write_all(&frame)?;
        table.extend((frame.len() as u32).to_le_bytes());
        table.extend((wanted as u32).to_le_bytes());
        at += wanted as u64;
    }
    let frames = (table.len() / ENTRY) as u32;
    file.write_all(&SKIPPABLE.to_le_bytes())?;
    file.write_all(&((table.len() + FOOTER) as u32).to_le_bytes())?;
    file.write_all(&table)?;
    file.write_all(&frames.to_le_bytes())?;
    // No checksums in the table: each frame has its own.
    file.write_all(&[0])?;
    file.write_all(&SEEKABLE.to_le_bytes())?;
    let file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.sync_all()?;
    drop(file);
    if is(Source::file(to)?, seal)? {
        Ok(())
    } else {
        Err(damaged("does not hold what was sealed"))
    }
}

/// Whether there is an archive that holds what was sealed, all of which is read. A damaged one does not.
pub(crate) fn holds(shelf: &Shelf, log: LogId, seal: Seal) -> io::Result<bool> {
    match shelf.open(log).and_then(|source| is(source, seal)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            tracing::warn!("the {log}: {error}; it is made again");
            Ok(false)
        }
        known => known,
    }
}

fn is(source: Source, seal: Seal) -> io::Result<bool> {
    Ok(Archive::open(source)?.seal()? == seal)
}

/// It, to be read at any place.
#[derive(Debug)]
pub(crate) struct Archive {
    source: Source,
    /// Where each frame begins in the file, and where the last one ends.
    starts: Vec<u64>,
    size: u64,
    /// The frame that was read last.
    open: Option<(usize, Vec<u8>)>,
}

impl Archive {
    pub(crate) fn open(source: Source) -> io::Result<Self> {
        let length = source.size();
        let end = length.checked_sub(FOOTER as u64).ok_or_else(|| damaged("is too short"))?;
        let footer = source.read(end..length)?;
        let number = |at: usize, bytes: &[u8]| {
            u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
        };
        let frames = number(0, &footer) as usize;
        if number(5, &footer) != SEEKABLE || footer[4] != 0 || frames > MOST_FRAMES {
            return Err(damaged("has no table"));
        }
        let begin = end.checked_sub((frames * ENTRY) as u64);
        let begin = begin.ok_or_else(|| damaged("is too short"))?;
        let table = source.read(begin..end)?;
        let (mut starts, mut size) = (vec![0], 0);
        for (number_of, entry) in table.chunks_exact(ENTRY).enumerate() {
            let (stored, raw) = (number(0, entry), number(4, entry));
            let is_last = number_of + 1 == frames;
            if raw == 0 || raw as usize > FRAME || (!is_last && raw as usize != FRAME) {
                return Err(damaged("has a frame of an odd length"));
            }
            starts.push(starts[number_of] + u64::from(stored));
            size += u64::from(raw);
        }
        if starts[frames] + 8 != begin {
            return Err(damaged("has a table of another file"));
        }
        Ok(Self { source, starts, size, open: None })
    }

    /// Bytes of the log.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// At most `wanted` bytes from `at` on, up to the end of a frame; none: that is the log's end.
    pub(crate) fn read(&mut self, at: u64, wanted: usize) -> io::Result<Vec<u8>> {
        if at >= self.size {
            return Ok(vec![]);
        }
        let (number, within) = ((at / FRAME as u64) as usize, (at % FRAME as u64) as usize);
        if self.open.as_ref().is_none_or(|(open, _)| *open != number) {
            self.open = Some((number, self.frame(number)?));
        }
        let frame = self.open.as_ref().map_or(&[][..], |(_, frame)| frame);
        let rest = &frame[within..];
        Ok(rest[..rest.len().min(wanted)].to_vec())
    }

    /// One frame, whole; `number` counts from 0 and is less than there are.
    fn frame(&self, number: usize) -> io::Result<Vec<u8>> {
        let (start, end) = (self.starts[number], self.starts[number + 1]);
        let stored = self.source.read(start..end)?;
        let begin = number as u64 * FRAME as u64;
        let length = (self.size - begin).min(FRAME as u64);
        let frame = Decompressor::new()?.decompress(&stored, FRAME);
        frame.ok().filter(|frame| frame.len() as u64 == length).ok_or_else(|| {
            damaged(&format!(
                "is damaged at bytes {start} to {end}: bytes {begin} to {} of the log cannot be read",
                begin + length
            ))
        })
    }

    /// Of what it holds, all of which is read.
    pub(crate) fn seal(&mut self) -> io::Result<Seal> {
        let (mut hash, mut size) = (Sha256::new(), 0);
        loop {
            let bytes = self.read(size, FRAME)?;
            if bytes.is_empty() {
                return Ok(Seal { size, digest: Digest::from_bytes(hash.finalize().into()) });
            }
            hash.update(&bytes);
            size += bytes.len() as u64;
        }
    }
}

fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the compressed log {what}"))
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn open(path: &Path) -> io::Result<Archive> {
        Archive::open(Source::file(path)?)
    }

    fn archive(text: &[u8]) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let (raw, to) = (dir.path().join("1.log"), dir.path().join("1.log.zst"));
        std::fs::write(&raw, text).unwrap();
        let seal = Seal { size: text.len() as u64, digest: Digest::of(text) };
        write(&File::open(raw).unwrap(), seal, &to).unwrap();
        (dir, to)
    }

    #[test]
    fn any_part_of_it_is_read_and_any_zstd_reads_it() {
        let text: Vec<u8> =
            (0..90_000_u32).flat_map(|n| format!("line {n}\n").into_bytes()).collect();
        for length in [0, 1, FRAME, FRAME + 1, text.len()] {
            let (_dir, path) = archive(&text[..length]);
            let mut whole = vec![];
            zstd::Decoder::new(File::open(&path).unwrap())
                .unwrap()
                .read_to_end(&mut whole)
                .unwrap();
            assert_eq!(whole, text[..length]);
            let mut archive = open(&path).unwrap();
            assert_eq!(archive.size(), length as u64);
            for (at, wanted) in
                [(0, 10), (FRAME - 3, 10), (FRAME, 7), (length / 2, 1 << 20), (length, 1)]
            {
                let bytes = archive.read(at as u64, wanted).unwrap();
                assert!(text[at.min(length)..length].starts_with(&bytes));
                assert_eq!(bytes.is_empty(), at >= length, "{at} of {length}");
            }
        }
        let (_dir, path) = archive(&text);
        assert!(std::fs::metadata(path).unwrap().len() < text.len() as u64 / 3);
    }

    #[test]
    fn damage_is_an_error_and_never_other_bytes() {
        let text = b"hello world\n".repeat(50_000);
        let (_dir, path) = archive(&text);
        let good = std::fs::read(&path).unwrap();
        let seal = Seal { size: text.len() as u64, digest: Digest::of(&text) };
        for at in (0..good.len()).step_by(7) {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            std::fs::write(&path, &bad).unwrap();
            match open(&path).and_then(|mut archive| archive.seal()) {
                Ok(found) => assert_eq!(found, seal, "byte {at}"),
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::InvalidData, "byte {at}"),
            }
        }
        std::fs::write(&path, &good[..5]).unwrap();
        assert!(open(&path).is_err());
    }

    #[test]
    fn a_damaged_frame_is_named_and_the_others_are_read() {
        let text = b"hello world\n".repeat(50_000);
        let (_dir, path) = archive(&text);
        let mut bad = std::fs::read(&path).unwrap();
        let start = open(&path).unwrap().starts[1] as usize;
        bad[start + 9] ^= 0x10;
        std::fs::write(&path, &bad).unwrap();
        let mut archive = open(&path).unwrap();
        assert_eq!(archive.read(0, FRAME).unwrap(), text[..FRAME]);
        assert_eq!(archive.read(2 * FRAME as u64, FRAME).unwrap(), text[2 * FRAME..]);
        let error = archive.read(FRAME as u64 + 7, 1).unwrap_err().to_string();
        assert!(error.contains("bytes 262144 to 524288 of the log cannot be read"), "{error}");
    }
}
