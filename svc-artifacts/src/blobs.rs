//! The folder of blobs: `sha256/<aa>/<hex>`, and `incoming/` for what is on its way.
//!
//! A blob gets its name only after all of it is on disk and has the digest that the name says; so a
//! file under such a name is either whole, or was harmed later, which its length may show. Paths are
//! made of digests only.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use ids::Digest;
use sha2::{Digest as _, Sha256};
use tokio::task::spawn_blocking;

use crate::{config::Config, domain::Artifact};

/// Why the folder cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("use {} for artifacts", .folder.display())]
pub struct FolderError {
    folder: PathBuf,
    #[source]
    source: io::Error,
}

/// Why a blob cannot be stored or read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BlobError {
    #[error("the bytes have sha256 {found}, not {expected}; nothing was stored")]
    WrongDigest { found: Digest, expected: Digest },
    #[error(
        "the artifact has more than {most} bytes, the largest that is taken; raise `max_artifact_bytes` of svc-artifacts to store it"
    )]
    TooLarge { most: u64 },
    #[error(
        "the artifacts would have more than {most} bytes together; raise `max_total_bytes` of svc-artifacts to store more"
    )]
    Quota { most: u64 },
    #[error("no space is left in {}", .0.display())]
    Full(PathBuf),
    #[error(
        "artifact {digest} is damaged: {found} of its {expected} bytes are there; upload it again"
    )]
    Damaged { digest: Digest, found: u64, expected: u64 },
    #[error("use {}", .folder.display())]
    Io { folder: PathBuf, source: io::Error },
}

#[derive(Debug)]
pub(crate) struct Blobs {
    folder: PathBuf,
    most_bytes: u64,
    /// For all together.
    quota: u64,
    /// Of all that are stored or on their way, bytes.
    taken: AtomicU64,
    next: AtomicU64,
}

impl Blobs {
    /// Makes the folder if it is missing, and removes what a crash left on its way.
    pub(crate) fn open(config: &Config) -> Result<Self, FolderError> {
        let folder = config.data.clone();
        let error = |source| FolderError { folder: folder.clone(), source };
        let incoming = folder.join("incoming");
        match fs::remove_dir_all(&incoming) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(error(source)),
            _ => fs::create_dir_all(&incoming).map_err(error)?,
        }
        fs::create_dir_all(folder.join("sha256")).map_err(error)?;
        sync_folder(&folder).map_err(error)?;
        let (most_bytes, quota) = (config.max_artifact_bytes, config.max_total_bytes);
        let (taken, next) = (AtomicU64::new(0), AtomicU64::new(0));
        Ok(Self { folder, most_bytes, quota, taken, next })
    }

    /// Counts so many more bytes; `false`: that would be too much, and nothing was counted.
    pub(crate) fn take(&self, bytes: u64) -> bool {
        let most = if self.quota == 0 { u64::MAX } else { self.quota };
        let more = |taken: u64| taken.checked_add(bytes).filter(|taken| *taken <= most);
        self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    fn path(&self, digest: Digest) -> PathBuf {
        let hex = digest.to_string();
        self.folder.join("sha256").join(&hex[..2]).join(hex)
    }

    /// Opens a blob, if as much of it is there as should be.
    pub(crate) async fn read(&self, artifact: Artifact) -> Result<File, BlobError> {
        let path = self.path(artifact.digest);
        let opened = blocking(move || {
            let file = File::open(path)?;
            let length = file.metadata()?.len();
            Ok((file, length))
        });
        let damaged =
            |found| BlobError::Damaged { digest: artifact.digest, found, expected: artifact.size };
        match opened.await {
            Ok((file, length)) if length == artifact.size => Ok(file),
            Ok((_, length)) => Err(damaged(length)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(damaged(0)),
            Err(error) => Err(self.error(error)),
        }
    }

    /// Begins a blob.
    pub(crate) async fn receive(self: &Arc<Self>) -> Result<Incoming, BlobError> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let path = Unnamed(self.folder.join("incoming").join(number.to_string()));
        let share = Share { blobs: Arc::clone(self), bytes: 0 };
        let created = blocking(move || {
            let file = File::create_new(&path.0)?;
            Ok((path, file))
        });
        let (path, file) = created.await.map_err(|error| self.error(error))?;
        let writing = Writing { path, file, hash: Sha256::new(), size: 0 };
        Ok(Incoming { share, writing })
    }

    pub(crate) fn error(&self, error: io::Error) -> BlobError {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                BlobError::Full(self.folder.clone())
            }
            _ => BlobError::Io { folder: self.folder.clone(), source: error },
        }
    }
}

/// A blob on its way; gone when this is dropped before it was kept.
#[derive(Debug)]
pub(crate) struct Incoming {
    share: Share,
    writing: Writing,
}

/// What a blob on its way takes of the quota; given back when this is dropped.
#[derive(Debug)]
struct Share {
    blobs: Arc<Blobs>,
    bytes: u64,
}

impl Drop for Share {
    fn drop(&mut self) {
        self.blobs.taken.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[derive(Debug)]
struct Writing {
    path: Unnamed,
    file: File,
    hash: Sha256,
    size: u64,
}

impl Incoming {
    pub(crate) async fn write(self, data: Bytes) -> Result<Self, BlobError> {
        let Self { mut share, mut writing } = self;
        let blobs = Arc::clone(&share.blobs);
        let length = data.len() as u64;
        writing.size += length;
        if writing.size > blobs.most_bytes {
            return Err(BlobError::TooLarge { most: blobs.most_bytes });
        }
        if !blobs.take(length) {
            return Err(BlobError::Quota { most: blobs.quota });
        }
        share.bytes += length;
        let written = blocking(move || {
            writing.hash.update(&data);
            writing.file.write_all(&data)?;
            Ok(writing)
        });
        match written.await {
            Ok(writing) => Ok(Self { share, writing }),
            Err(error) => Err(blobs.error(error)),
        }
    }

    /// Gives the blob its name, once it is on disk and if it is what it should be. Answers its size.
    pub(crate) async fn keep(self, expected: Digest) -> Result<u64, BlobError> {
        let Self { mut share, writing } = self;
        let blobs = Arc::clone(&share.blobs);
        let Writing { path, file, hash, size } = writing;
        let found = Digest::from_bytes(hash.finalize().into());
        if found != expected {
            return Err(BlobError::WrongDigest { found, expected });
        }
        let target = blobs.path(expected);
        let kept = blocking(move || {
            file.sync_all()?;
            let folder = target.parent().expect("a blob is in a folder");
            make_folder(folder)?;
            // One that is there, whole or harmed, is counted already.
            let is_new = !target.exists();
            fs::rename(&path.0, &target)?;
            sync_folder(folder)?;
            Ok(is_new)
        });
        if kept.await.map_err(|error| blobs.error(error))? {
            share.bytes = 0;
        }
        Ok(size)
    }
}

/// The path of a file that has no name yet; removed when this is dropped, unless it was moved.
#[derive(Debug)]
struct Unnamed(PathBuf);

impl Drop for Unnamed {
    fn drop(&mut self) {
        match fs::remove_file(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!("{} stays until the next start: {error}", self.0.display());
            }
            _ => {}
        }
    }
}

fn make_folder(folder: &Path) -> io::Result<()> {
    match fs::create_dir(folder) {
        Ok(()) => sync_folder(folder.parent().unwrap_or(folder)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    spawn_blocking(work).await.expect("work on files neither panics nor is aborted")
}
