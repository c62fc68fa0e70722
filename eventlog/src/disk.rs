//! Every file operation of the log: nothing else in its engine and its snapshots touches a file.
//!
//! In tests a path may lie on a [`simulated`] disk, which forgets what was not synced and fails where
//! it is told to. In a program only the real variant exists, so the choice costs nothing.

#[cfg(test)]
pub(crate) mod simulated;

use std::{
    cell::Cell,
    fs, io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

/// An open file.
#[derive(Debug)]
pub(crate) enum File {
    Real(fs::File),
    #[cfg(test)]
    Simulated(simulated::Handle),
}

/// Does an operation on a path, on the simulated disk if that has the path.
macro_rules! on {
    ($path:expr, $disk:ident => $simulated:expr, $real:expr) => {{
        #[cfg(test)]
        if let Some($disk) = simulated::holding($path) {
            return $simulated;
        }
        $real
    }};
}

/// Does an operation on an open file.
macro_rules! with {
    ($file:expr, $open:ident => $simulated:expr, $real:ident => $do:expr) => {
        match $file {
            File::Real($real) => $do,
            #[cfg(test)]
            File::Simulated($open) => $simulated,
        }
    };
}

impl File {
    /// For reading.
    #[cfg_attr(test, track_caller)]
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        on!(path, disk => disk.open(path).map(Self::Simulated), fs::File::open(path).map(Self::Real))
    }

    /// For reading and writing.
    #[cfg_attr(test, track_caller)]
    pub(crate) fn open_to_write(path: &Path) -> io::Result<Self> {
        on!(
            path,
            disk => disk.open(path).map(Self::Simulated),
            fs::File::options().read(true).write(true).open(path).map(Self::Real)
        )
    }

    /// For reading and writing; what was there under this name is gone.
    #[cfg_attr(test, track_caller)]
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        on!(
            path,
            disk => disk.create(path, true).map(Self::Simulated),
            fs::File::options()
                .read(true)
                .write(true)
                .create(true)
                .truncate(true)
                .open(path)
                .map(Self::Real)
        )
    }

    /// For a lock: made if it is not there.
    #[cfg_attr(test, track_caller)]
    pub(crate) fn open_or_create(path: &Path) -> io::Result<Self> {
        on!(
            path,
            disk => disk.create(path, false).map(Self::Simulated),
            fs::File::options()
                .write(true)
                .create(true)
                .truncate(false)
                .open(path)
                .map(Self::Real)
        )
    }

    #[cfg_attr(test, track_caller)]
    pub(crate) fn length(&self) -> io::Result<u64> {
        with!(self, open => open.length(), real => real.metadata().map(|metadata| metadata.len()))
    }

    #[cfg_attr(test, track_caller)]
    pub(crate) fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        if !may_wait() {
            return with!(
                self,
                _open => Err(io::ErrorKind::WouldBlock.into()),
                real => read_cached(real, bytes, offset)
            );
        }
        with!(self, open => open.read_exact_at(bytes, offset), real => real.read_exact_at(bytes, offset))
    }

    #[cfg_attr(test, track_caller)]
    pub(crate) fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        with!(self, open => open.write_all_at(bytes, offset), real => real.write_all_at(bytes, offset))
    }

    #[cfg_attr(test, track_caller)]
    pub(crate) fn set_length(&self, length: u64) -> io::Result<()> {
        with!(self, open => open.set_length(length), real => real.set_len(length))
    }

    /// Makes the file longer by `more` bytes from its end `from` on, which read as zeros, with space
    /// taken for them.
    #[cfg_attr(test, track_caller)]
    pub(crate) fn allocate(&self, from: u64, more: u64) -> io::Result<()> {
        with!(self, open => open.allocate(from + more), real => allocate(real, from, more))
    }

    /// Makes durable what was written, with the length.
    #[cfg_attr(test, track_caller)]
    pub(crate) fn sync_data(&self) -> io::Result<()> {
        with!(self, open => open.sync(), real => real.sync_data())
    }

    #[cfg_attr(test, track_caller)]
    pub(crate) fn sync_all(&self) -> io::Result<()> {
        with!(self, open => open.sync(), real => real.sync_all())
    }

    /// Held as long as the file is open; the system frees it however the process ends.
    #[cfg_attr(test, track_caller)]
    pub(crate) fn try_lock(&self) -> Result<(), fs::TryLockError> {
        with!(self, open => open.try_lock(), real => real.try_lock())
    }

    #[cfg_attr(test, track_caller)]
    pub(crate) fn unlock(&self) -> io::Result<()> {
        with!(self, open => open.unlock(), real => real.unlock())
    }
}

thread_local! {
    static MAY_WAIT: Cell<bool> = const { Cell::new(true) };
}

/// Does work of which every read that would wait for the disk fails instead, by
/// [`WouldBlock`](io::ErrorKind::WouldBlock).
pub(crate) fn without_waiting<T>(work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    struct Reset;
    impl Drop for Reset {
        fn drop(&mut self) {
            MAY_WAIT.set(true);
        }
    }
    MAY_WAIT.set(false);
    let _reset = Reset;
    work()
}

/// Whether this thread is not just [`without_waiting`].
pub(crate) fn may_wait() -> bool {
    MAY_WAIT.get()
}

#[cfg(target_os = "linux")]
fn read_cached(file: &fs::File, mut bytes: &mut [u8], mut offset: u64) -> io::Result<()> {
    use rustix::io::{Errno, ReadWriteFlags, preadv2};
    while !bytes.is_empty() {
        let into = &mut [io::IoSliceMut::new(bytes)];
        match preadv2(file, into, offset, ReadWriteFlags::NOWAIT) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                bytes = &mut bytes[count..];
                offset += count as u64;
            }
            Err(Errno::INTR) => {}
            // Not every file system can.
            Err(Errno::AGAIN | Errno::OPNOTSUPP) => return Err(io::ErrorKind::WouldBlock.into()),
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn read_cached(_file: &fs::File, _bytes: &mut [u8], _offset: u64) -> io::Result<()> {
    Err(io::ErrorKind::WouldBlock.into())
}

#[cfg(target_os = "linux")]
fn allocate(file: &fs::File, from: u64, more: u64) -> io::Result<()> {
    use nix::{
        errno::Errno,
        fcntl::{FallocateFlags, fallocate},
    };
    match fallocate(file, FallocateFlags::empty(), from as i64, more as i64) {
        Ok(()) => Ok(()),
        // Not every file system can.
        Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => file.set_len(from + more),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(not(target_os = "linux"))]
fn allocate(file: &fs::File, from: u64, more: u64) -> io::Result<()> {
    file.set_len(from + more)
}

/// Makes the folder and those above it, durably.
#[cfg_attr(test, track_caller)]
pub(crate) fn create_dir_all(dir: &Path) -> io::Result<()> {
    if is_dir(dir)? {
        return Ok(());
    }
    create_dir_all(parent(dir))?;
    match create_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && is_dir(dir)? => {}
        made => made?,
    }
    sync_dir(parent(dir))
}

/// The folder that a path lies in.
pub(crate) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => path,
    }
}

#[cfg_attr(test, track_caller)]
fn is_dir(dir: &Path) -> io::Result<bool> {
    on!(
        dir,
        disk => disk.is_dir(dir),
        match fs::metadata(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            metadata => Ok(metadata?.is_dir()),
        }
    )
}

#[cfg_attr(test, track_caller)]
fn create_dir(dir: &Path) -> io::Result<()> {
    on!(dir, disk => disk.create_dir(dir), fs::create_dir(dir))
}

/// What the folder has, in no order.
#[cfg_attr(test, track_caller)]
pub(crate) fn list(dir: &Path) -> io::Result<Vec<PathBuf>> {
    on!(
        dir,
        disk => disk.list(dir),
        fs::read_dir(dir)?.map(|entry| entry.map(|entry| entry.path())).collect()
    )
}

/// Makes names in the folder as durable as the files behind them.
#[cfg_attr(test, track_caller)]
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    on!(dir, disk => disk.sync_dir(dir), fs::File::open(dir)?.sync_all())
}

#[cfg_attr(test, track_caller)]
pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    on!(from, disk => disk.rename(from, to), fs::rename(from, to))
}

#[cfg_attr(test, track_caller)]
pub(crate) fn remove_file(path: &Path) -> io::Result<()> {
    on!(path, disk => disk.remove_file(path), fs::remove_file(path))
}

/// The whole file.
#[cfg_attr(test, track_caller)]
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let mut bytes = vec![0; usize::try_from(file.length()?).unwrap_or(usize::MAX)];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}
