//! One log on disk. Blocking; its one user is the task in `writer`.
//!
//! What was acknowledged has been synced before. A crash of the process leaves a prefix of what the
//! worker sent, perhaps longer than what was acknowledged, and its end counts from then on. After a
//! loss of power (`harm`) that unacknowledged end may also hold pages of zeros. It is at most
//! [`MOST_UNSYNCED`] long, so that much of the file is *unsure* then: where a worker
//! sends those bytes again, as it does with all that was not acknowledged to it, they are compared,
//! and from the first difference on the worker's bytes hold. Elsewhere known bytes are skipped
//! unread: the worker's machine may have lost power, and what is here is what was printed.
//! Whatever happened, a log is only ever sealed with the digest of what is really there.

use std::{
    fs::{self, File, OpenOptions},
    io,
    ops::Range,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use ids::Digest;
use proto::logs::v1::LogSpans;
use sha2::{Digest as _, Sha256};

use crate::{
    archive::Archive,
    domain::{LogId, Seal},
    shelf::Shelf,
    spans::{self, SpanFile},
};

/// Bytes that are written at most between two syncs, and that a power loss may therefore harm.
pub(crate) const MOST_UNSYNCED: u64 = 4 << 20;

/// Why a log does not take something.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("the {log} is sealed with {size} bytes and takes nothing more")]
    Sealed { log: LogId, size: u64 },
    #[error(
        "the {log} has {} bytes with sha256 {}, but should have {} with {}: send it whole, to replace it",
        .found.size, .found.digest, .expected.size, .expected.digest
    )]
    Differs { log: LogId, found: Seal, expected: Seal },
    #[error("the {log} would have more than {most} bytes, which is the most that is kept")]
    TooLong { log: LogId, most: u64 },
    #[error("no space is left in {}: the {log} must wait until there is", .folder.display())]
    Full { log: LogId, folder: PathBuf },
    #[error("write the {log} in {}", .folder.display())]
    Io { log: LogId, folder: PathBuf, source: Arc<io::Error> },
    #[error("the {0} was closed; try again")]
    Closed(LogId),
}

/// Where and how a log is kept.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) log: LogId,
    /// Of this log's run.
    pub(crate) folder: PathBuf,
    /// Where it is once it is sealed and compressed.
    pub(crate) shelf: Shelf,
    pub(crate) most_bytes: u64,
    /// What may not be what was sent, if it is not sealed.
    pub(crate) unsure: Range<u64>,
}

impl Place {
    pub(crate) fn path(&self) -> PathBuf {
        self.folder.join(format!("{}.log", self.log.attempt))
    }

    /// Where it came from, and when.
    pub(crate) fn spans(&self) -> PathBuf {
        self.folder.join(format!("{}.spans", self.log.attempt))
    }

    pub(crate) fn refusal(&self, error: io::Error) -> Refusal {
        let (log, folder) = (self.log, self.folder.clone());
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Refusal::Full { log, folder }
            }
            _ => Refusal::Io { log, folder, source: Arc::new(error) },
        }
    }
}

/// A log that is open for writing. After an error it must be dropped: it may not know any more what
/// is on disk.
pub(crate) struct LogFile {
    place: Place,
    /// `None`: nothing was written yet, or it is in an archive.
    file: Option<File>,
    archived: bool,
    length: u64,
    /// Everything before it is on disk for good.
    durable: u64,
    /// What may not be what was sent.
    unsure: Range<u64>,
    /// Of all bytes; `None`: to be read from the file.
    hash: Option<Sha256>,
    sealed: Option<Seal>,
    /// Opened when it is needed.
    spans: Option<SpanFile>,
    /// How often the file was replaced.
    generation: u64,
}

/// How far a log is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) exists: bool,
    /// Bytes on disk.
    pub(crate) length: u64,
    /// Changes when the bytes before `length` did.
    pub(crate) generation: u64,
}

impl LogFile {
    /// Opens what is there. Makes nothing.
    pub(crate) fn open(place: Place, mut sealed: Option<Seal>) -> io::Result<Self> {
        let mut archived = false;
        let opened = OpenOptions::new().read(true).write(true).open(place.path());
        let (file, length) = match opened {
            Ok(file) => {
                // From here on its length is what is told to be durable.
                file.sync_all()?;
                let length = file.metadata()?.len();
                (Some(file), length)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let archive = archived_as(&place, sealed)?;
                (archived, sealed) = (archive.is_some(), archive.or(sealed));
                (None, archive.map_or(0, |seal| seal.size))
            }
            Err(error) => return Err(error),
        };
        let unsure = match sealed {
            Some(_) => length..length,
            None => place.unsure.start.min(length)..place.unsure.end.min(length),
        };
        let hash = (length == 0).then(Sha256::new);
        Ok(Self {
            place,
            file,
            archived,
            length,
            durable: length,
            unsure,
            hash,
            sealed,
            spans: None,
            generation: 0,
        })
    }

    #[cfg(test)]
    pub(crate) fn write_to(&mut self, file: File) {
        self.file = Some(file);
    }

    pub(crate) fn progress(&self) -> Progress {
        Progress { exists: self.exists(), length: self.durable, generation: self.generation }
    }

    fn exists(&self) -> bool {
        self.file.is_some() || self.archived
    }

    /// Writes what is new of `data`, and what is told of it. It is durable after the next
    /// [`LogFile::sync`].
    pub(crate) fn append(
        &mut self,
        offset: u64,
        data: &[u8],
        spans: Option<&LogSpans>,
    ) -> Result<(), Refusal> {
        self.append_bytes(offset, data)?;
        match spans {
            Some(spans) if self.sealed.is_none() && spans.offset <= self.length => {
                self.tell(spans).map_err(|error| self.place.refusal(error))
            }
            _ => Ok(()),
        }
    }

    fn tell(&mut self, spans: &LogSpans) -> io::Result<()> {
        self.spans()?.append(spans)
    }

    fn spans(&mut self) -> io::Result<&mut SpanFile> {
        let opened = match self.spans.take() {
            Some(opened) => opened,
            None => SpanFile::open(&self.place.spans())?,
        };
        Ok(self.spans.insert(opened))
    }

    fn append_bytes(&mut self, offset: u64, data: &[u8]) -> Result<(), Refusal> {
        if offset > self.length {
            return Ok(());
        }
        let agreed = self.agreed(offset, data).map_err(|error| self.place.refusal(error))?;
        let new = &data[agreed..];
        if new.is_empty() && self.exists() {
            return Ok(());
        }
        let log = self.place.log;
        if let Some(Seal { size, .. }) = self.sealed {
            return Err(Refusal::Sealed { log, size });
        }
        if self.length + new.len() as u64 > self.place.most_bytes {
            return Err(Refusal::TooLong { log, most: self.place.most_bytes });
        }
        self.write(new).map_err(|error| self.place.refusal(error))
    }

    /// How many of the bytes are known already. Where the file's unsure bytes differ from them, the
    /// file is cut.
    fn agreed(&mut self, offset: u64, data: &[u8]) -> io::Result<usize> {
        let end = self.length.min(offset + data.len() as u64);
        let compare = offset.max(self.unsure.start)..end.min(self.unsure.end);
        if let Some(file) = &self.file
            && !compare.is_empty()
        {
            let mut stored = vec![0; (compare.end - compare.start) as usize];
            file.read_exact_at(&mut stored, compare.start)?;
            let sent = &data[(compare.start - offset) as usize..];
            if let Some(at) = stored.iter().zip(sent).position(|(stored, sent)| stored != sent) {
                let cut = compare.start + at as u64;
                tracing::warn!("the {} was damaged from byte {cut} on; it is cut", self.place.log);
                file.set_len(cut)?;
                if self.place.spans().exists() {
                    self.spans()?.cut(cut)?;
                }
                (self.length, self.hash) = (cut, None);
                self.durable = self.durable.min(cut);
                self.generation += 1;
                self.unsure.end = cut;
                return Ok((cut - offset) as usize);
            }
            if compare.start == self.unsure.start {
                self.unsure.start = compare.end;
            }
        }
        Ok((end - offset) as usize)
    }

    fn write(&mut self, new: &[u8]) -> io::Result<()> {
        if self.file.is_none() {
            self.file = Some(create(&self.place)?);
        }
        let file = self.file.as_ref().expect("it was just made");
        file.write_all_at(new, self.length)?;
        if let Some(hash) = &mut self.hash {
            hash.update(new);
        }
        self.length += new.len() as u64;
        Ok(())
    }

    /// Makes everything durable that was written.
    pub(crate) fn sync(&mut self) -> Result<(), Refusal> {
        if let Some(file) = &self.file
            && self.durable != self.length
        {
            file.sync_data().map_err(|error| self.place.refusal(error))?;
            self.durable = self.length;
        }
        Ok(())
    }

    /// Gives up what was not synced, after an error: nobody was told that it is stored.
    pub(crate) fn give_up(self) {
        let undone = self.file.as_ref().map_or(Ok(()), |file| file.set_len(self.durable));
        if let Err(error) = undone {
            tracing::warn!("the unsynced end of the {} stays: {error}", self.place.log);
        }
    }

    /// Holds the log against what it should be. `Ok(false)`: some of it is missing yet. Once it is as
    /// it should be, it takes nothing more.
    pub(crate) fn seal(&mut self, expected: Seal) -> Result<bool, Refusal> {
        if self.length < expected.size || !self.exists() {
            return Ok(false);
        }
        let digest = match self.sealed {
            Some(known) => known.digest,
            None => self.digest().map_err(|error| self.place.refusal(error))?,
        };
        let found = Seal { size: self.length, digest };
        if found != expected {
            return Err(Refusal::Differs { log: self.place.log, found, expected });
        }
        self.close(expected).map_err(|error| self.place.refusal(error))?;
        Ok(true)
    }

    /// The log takes nothing more, whatever it should have been.
    pub(crate) fn seal_as_it_is(&mut self) -> Result<Seal, Refusal> {
        if let Some(sealed) = self.sealed {
            return Ok(sealed);
        }
        let digest = self.digest().map_err(|error| self.place.refusal(error))?;
        let found = Seal { size: self.length, digest };
        self.close(found).map_err(|error| self.place.refusal(error))?;
        Ok(found)
    }

    fn close(&mut self, seal: Seal) -> io::Result<()> {
        if let Some(spans) = self.spans.take() {
            spans.sync()?;
        }
        self.sealed = Some(seal);
        // Its digest was just found to be right, so nothing that comes later may cut it.
        self.unsure = self.length..self.length;
        Ok(())
    }

    fn digest(&mut self) -> io::Result<Digest> {
        let hash = match self.hash.take() {
            Some(hash) => hash,
            None => self.read_hash()?,
        };
        self.hash = Some(hash.clone());
        Ok(Digest::from_bytes(hash.finalize().into()))
    }

    fn read_hash(&self) -> io::Result<Sha256> {
        let mut hash = Sha256::new();
        let Some(file) = &self.file else { return Ok(hash) };
        let (mut at, mut buffer) = (0, vec![0; 256 << 10]);
        while at < self.length {
            let wanted = buffer.len().min((self.length - at) as usize);
            file.read_exact_at(&mut buffer[..wanted], at)?;
            hash.update(&buffer[..wanted]);
            at += wanted as u64;
        }
        Ok(hash)
    }

    /// Puts `aside` in place of the log, unless the log would get shorter or stay the same.
    pub(crate) fn replace(&mut self, aside: &Path, new: Seal, hash: Sha256) -> Result<(), Refusal> {
        let is_shorter = self.exists() && new.size < self.length;
        if is_shorter || (self.exists() && self.length == new.size && self.is(new)?) {
            return Ok(());
        }
        if let Some(Seal { size, .. }) = self.sealed {
            return Err(Refusal::Sealed { log: self.place.log, size });
        }
        let swap = || {
            let file = OpenOptions::new().read(true).write(true).open(aside)?;
            file.sync_all()?;
            make_folder(&self.place.folder)?;
            fs::rename(aside, self.place.path())?;
            spans::remove(&self.place.spans())?;
            sync_folder(&self.place.folder)?;
            Ok(file)
        };
        self.spans = None;
        self.file = Some(swap().map_err(|error| self.place.refusal(error))?);
        (self.length, self.durable, self.hash) = (new.size, new.size, Some(hash));
        self.unsure = new.size..new.size;
        self.generation += 1;
        Ok(())
    }

    fn is(&mut self, seal: Seal) -> Result<bool, Refusal> {
        if let Some(sealed) = self.sealed {
            return Ok(sealed.digest == seal.digest);
        }
        let digest = self.digest().map_err(|error| self.place.refusal(error))?;
        Ok(digest == seal.digest)
    }
}

/// What the archive of a log holds, if there is one.
fn archived_as(place: &Place, sealed: Option<Seal>) -> io::Result<Option<Seal>> {
    if place.shelf.is_far() {
        // A bucket is not asked about each log that begins: what is there was sealed, and that is known.
        return Ok(sealed);
    }
    let source = match place.shelf.open(place.log) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        source => source?,
    };
    let mut archive = Archive::open(source)?;
    match sealed {
        Some(Seal { digest, .. }) => Ok(Some(Seal { size: archive.size(), digest })),
        None => archive.seal().map(Some),
    }
}

/// A new file whose name survives a crash.
fn create(place: &Place) -> io::Result<File> {
    make_folder(&place.folder)?;
    let path = place.path();
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
    sync_folder(&place.folder)?;
    Ok(file)
}

fn make_folder(folder: &Path) -> io::Result<()> {
    match fs::create_dir(folder) {
        Ok(()) => sync_folder(folder.parent().unwrap_or(folder)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests;
