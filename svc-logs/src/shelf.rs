//! Where the archives of sealed logs lie: beside the logs, or as objects of a bucket. Blocking.
//!
//! An archive has its name only when it is whole and durable.

use std::{
    fs::{self, File},
    io::{self, Read},
    ops::Range,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use object_store::{ObjectStoreExt as _, buffered::BufWriter, path::Path as Name};
use objects::ObjectStore;
use tokio::{io::AsyncWriteExt as _, runtime::Handle};

use crate::{domain::LogId, file::sync_folder};

/// What is sent to a bucket at once.
const PART: usize = 8 << 20;

#[derive(Clone, Debug)]
pub(crate) enum Shelf {
    /// `<folder>/<run>/<attempt>.log.zst`.
    Folder(PathBuf),
    /// `<run>/<attempt>.log.zst`.
    Bucket(Arc<dyn ObjectStore>),
}

impl Shelf {
    /// Puts the file there, under the name of the log. The folder of the run is there.
    pub(crate) fn put(&self, log: LogId, file: &Path) -> io::Result<()> {
        match self {
            Self::Folder(folder) => {
                let to = path(folder, log);
                fs::rename(file, &to)?;
                sync_folder(to.parent().unwrap_or(folder))
            }
            Self::Bucket(objects) => {
                let mut file = File::open(file)?;
                let mut to = BufWriter::with_capacity(Arc::clone(objects), name(log), PART);
                Handle::current().block_on(async {
                    let sent = send(&mut file, &mut to).await;
                    if sent.is_err() {
                        // What arrived of it costs until the bucket forgets it.
                        to.abort().await.ok();
                    }
                    sent
                })
            }
        }
    }

    pub(crate) fn open(&self, log: LogId) -> io::Result<Source> {
        match self {
            Self::Folder(folder) => Source::file(&path(folder, log)),
            Self::Bucket(objects) => {
                let name = name(log);
                let meta = Handle::current().block_on(objects.head(&name))?;
                let objects = Arc::clone(objects);
                Ok(Source { size: meta.size, place: Place::Object(objects, name) })
            }
        }
    }

    /// Whether it is not on this machine.
    pub(crate) fn is_far(&self) -> bool {
        matches!(self, Self::Bucket(_))
    }
}

fn path(folder: &Path, log: LogId) -> PathBuf {
    folder.join(log.run.to_string()).join(format!("{}.log.zst", log.attempt))
}

fn name(log: LogId) -> Name {
    Name::from_iter([log.run.to_string(), format!("{}.log.zst", log.attempt)])
}

async fn send(file: &mut File, to: &mut BufWriter) -> io::Result<()> {
    let mut part = vec![0; PART];
    loop {
        match file.read(&mut part)? {
            0 => return to.shutdown().await,
            read => to.write_all(&part[..read]).await?,
        }
    }
}

/// An archive, to be read at any place.
#[derive(Debug)]
pub(crate) struct Source {
    size: u64,
    place: Place,
}

#[derive(Debug)]
enum Place {
    File(File),
    Object(Arc<dyn ObjectStore>, Name),
}

impl Source {
    pub(crate) fn file(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        Ok(Self { size: file.metadata()?.len(), place: Place::File(file) })
    }

    /// Bytes.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// All of these bytes.
    pub(crate) fn read(&self, range: Range<u64>) -> io::Result<Bytes> {
        let wanted = (range.end - range.start) as usize;
        match &self.place {
            Place::File(file) => {
                let mut bytes = vec![0; wanted];
                file.read_exact_at(&mut bytes, range.start)?;
                Ok(bytes.into())
            }
            // A bucket does not like to be asked for nothing.
            Place::Object(..) if wanted == 0 => Ok(Bytes::new()),
            Place::Object(objects, name) => {
                let bytes = Handle::current().block_on(objects.get_range(name, range))?;
                if bytes.len() == wanted {
                    return Ok(bytes);
                }
                Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("{name} is cut off")))
            }
        }
    }
}
