//! Unpacks the sources that a pipeline's binary is, a tar in gzip. Whatever the archive holds, nothing is
//! written outside the folder, and no more than so many bytes and files.
//!
//! It holds files, folders, and symbolic links that stay inside; anything else is refused. Nothing is
//! written through a link, so where an entry is named is where it goes; and a link goes up only at its
//! beginning, so it cannot come out by way of another.

use std::{
    fs, io,
    os::unix::fs::{OpenOptionsExt as _, symlink},
    path::{Component, Path, PathBuf},
};

use flate2::read::MultiGzDecoder;
use tar::{Archive, Entry, EntryType};

/// What is unpacked at most.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Most {
    /// Bytes of the files together, and a little for each.
    pub(crate) bytes: u64,
    pub(crate) entries: usize,
}

/// Sources and what npm puts beside them fit many times.
pub(crate) const MOST: Most = Most { bytes: 4 << 30, entries: 500_000 };

/// Bytes of an entry that says something about another.
const LONGEST_NAME: u64 = 64 << 10;

#[derive(Debug, thiserror::Error)]
pub(crate) enum UnpackError {
    #[error("the archive has `{0}`, which is outside of it: only names within it are taken")]
    Outside(String),
    #[error("the archive has `{0}` behind a link or a file: each entry must be in a folder")]
    Behind(String),
    #[error(
        "the archive has a link `{0}` that may lead out of it: only links within it are taken, \
         with `..` at their beginning alone"
    )]
    LeadsOut(String),
    #[error(
        "the archive has `{0}`, which is neither a file, a folder nor a symbolic link: leave it out"
    )]
    Kind(String),
    #[error("the archive has more than {} bytes or {} entries: leave some out", .0.bytes, .0.entries)]
    TooMuch(Most),
    #[error("the archive is damaged, or none: {0}")]
    Damaged(#[source] io::Error),
    #[error("unpack the archive: {0}")]
    Disk(#[source] io::Error),
}

pub(crate) fn unpack(archive: &Path, folder: &Path, most: Most) -> Result<(), UnpackError> {
    let damaged = |error: io::Error| match error.kind() {
        io::ErrorKind::QuotaExceeded => UnpackError::TooMuch(most),
        _ => UnpackError::Damaged(error),
    };
    let placed = |error| match error {
        UnpackError::Damaged(error) => damaged(error),
        error => error,
    };
    // Looked through before, since the library takes a name of any length into memory.
    for (count, entry) in open(archive, most)?.entries().map_err(damaged)?.raw(true).enumerate() {
        let entry = entry.map_err(damaged)?;
        let is_about = !matches!(entry.header().entry_type(), EntryType::Regular);
        if count == most.entries || is_about && entry.size() > LONGEST_NAME {
            return Err(UnpackError::TooMuch(most));
        }
    }
    for entry in open(archive, most)?.entries().map_err(damaged)? {
        place(&mut entry.map_err(damaged)?, folder).map_err(placed)?;
    }
    Ok(())
}

type Bytes = Counted<MultiGzDecoder<io::BufReader<fs::File>>>;

fn open(archive: &Path, most: Most) -> Result<Archive<Bytes>, UnpackError> {
    let file = fs::File::open(archive).map_err(UnpackError::Disk)?;
    let inner = MultiGzDecoder::new(io::BufReader::new(file));
    Ok(Archive::new(Counted { inner, left: most.bytes }))
}

/// Ends with an error where a bomb would go on.
struct Counted<R> {
    inner: R,
    left: u64,
}

impl<R: io::Read> io::Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.left = (self.left.checked_sub(count as u64)).ok_or(io::ErrorKind::QuotaExceeded)?;
        Ok(count)
    }
}

fn place<R: io::Read>(entry: &mut Entry<'_, R>, folder: &Path) -> Result<(), UnpackError> {
    let named = entry.path().map_err(UnpackError::Damaged)?.into_owned();
    let shown = || named.to_string_lossy().chars().take(200).collect::<String>();
    let inside = within(&named).ok_or_else(|| UnpackError::Outside(shown()))?;
    let path = folder.join(&inside);
    match entry.header().entry_type() {
        EntryType::Directory => make_folders(folder, &inside, &shown),
        EntryType::Regular => {
            clear(folder, &inside, &shown)?;
            let mode = entry.header().mode().map_err(UnpackError::Damaged)?;
            let mut options = fs::File::options();
            let options = options.write(true).create_new(true).mode(mode & 0o755 | 0o600);
            let mut file = options.open(&path).map_err(UnpackError::Disk)?;
            copy(entry, &mut file)
        }
        EntryType::Symlink => {
            let target = entry.link_name().map_err(UnpackError::Damaged)?.unwrap_or_default();
            if !stays(&inside, &target) {
                return Err(UnpackError::LeadsOut(shown()));
            }
            let target = target.into_owned();
            clear(folder, &inside, &shown)?;
            symlink(target, &path).map_err(UnpackError::Disk)
        }
        // About all that follow, and nothing that we need.
        EntryType::XGlobalHeader => Ok(()),
        _ => Err(UnpackError::Kind(shown())),
    }
}

/// As `io::copy`, knowing which side failed.
fn copy(from: &mut impl io::Read, to: &mut fs::File) -> Result<(), UnpackError> {
    let mut piece = vec![0; 64 << 10];
    loop {
        match from.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(count) => {
                io::Write::write_all(to, &piece[..count]).map_err(UnpackError::Disk)?;
            }
            Err(error) => return Err(UnpackError::Damaged(error)),
        }
    }
}

/// The path without `.`; none if it has anything but names.
fn within(path: &Path) -> Option<PathBuf> {
    let names = path.components().filter(|part| *part != Component::CurDir);
    names.map(|part| matches!(part, Component::Normal(_)).then_some(part)).collect()
}

/// Whether a link there leads to a place inside, by way of whatever links.
fn stays(link: &Path, target: &Path) -> bool {
    let depth = link.components().count().saturating_sub(1);
    let parts = || target.components().filter(|part| *part != Component::CurDir);
    let ups = parts().take_while(|part| *part == Component::ParentDir).count();
    let names = parts().skip(ups).all(|part| matches!(part, Component::Normal(_)));
    names && ups <= depth && parts().count() > 0
}

/// Makes the folders of this path; none may be a link or a file.
fn make_folders(
    folder: &Path,
    inside: &Path,
    shown: &impl Fn() -> String,
) -> Result<(), UnpackError> {
    let mut path = folder.to_owned();
    for name in inside.components() {
        path.push(name);
        match fs::symlink_metadata(&path) {
            Ok(meta) if meta.is_dir() => {}
            Ok(_) => return Err(UnpackError::Behind(shown())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir(&path).map_err(UnpackError::Disk)?;
            }
            Err(error) => return Err(UnpackError::Disk(error)),
        }
    }
    Ok(())
}

/// Makes room for an entry; the last of equal names counts.
fn clear(folder: &Path, inside: &Path, shown: &impl Fn() -> String) -> Result<(), UnpackError> {
    let Some(parent) = inside.parent() else { return Err(UnpackError::Outside(shown())) };
    make_folders(folder, parent, shown)?;
    match fs::remove_file(folder.join(inside)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(UnpackError::Disk(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
