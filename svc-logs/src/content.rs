//! The bytes of a log, wherever they lie: in the file that is written, or in an archive. Blocking.

use std::{fs::File, io, os::unix::fs::FileExt};

use bytes::Bytes;

use crate::{archive::Archive, file::Place};

#[derive(Debug)]
pub(crate) enum Content {
    Raw(File),
    Archived(Box<Archive>),
}

impl Content {
    pub(crate) fn open(place: &Place) -> io::Result<Self> {
        match File::open(place.path()) {
            // The one file goes only after the other is there.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Ok(Self::Archived(Box::new(Archive::open(place.shelf.open(place.log)?)?)))
            }
            raw => Ok(Self::Raw(raw?)),
        }
    }

    pub(crate) fn size(&self) -> io::Result<u64> {
        match self {
            Self::Raw(file) => Ok(file.metadata()?.len()),
            Self::Archived(archive) => Ok(archive.size()),
        }
    }

    /// At most `wanted` bytes from `at` on; none: there are no more.
    pub(crate) fn read(&mut self, at: u64, wanted: usize) -> io::Result<Bytes> {
        let file = match self {
            Self::Raw(file) => file,
            Self::Archived(archive) => return Ok(archive.read(at, wanted)?.into()),
        };
        let mut data = vec![0; wanted];
        let mut filled = 0;
        while filled < wanted {
            match file.read_at(&mut data[filled..], at + filled as u64)? {
                0 => break,
                read => filled += read,
            }
        }
        data.truncate(filled);
        Ok(data.into())
    }
}
