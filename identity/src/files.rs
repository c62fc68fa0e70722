//! Files that only their owner may read.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

use zeroize::Zeroizing;

use crate::{IdentityError, random};

/// Reads a secret of 32 bytes from the file, or makes one.
///
/// Refuses a file that others can read, and one of another length.
pub fn secret_file(path: &Path) -> Result<Zeroizing<[u8; 32]>, IdentityError> {
    if let Some(bytes) = read_private(path)? {
        let bytes = Zeroizing::new(bytes);
        let secret = bytes.as_slice().try_into().map_err(|_| IdentityError::WrongLength {
            path: path.into(),
            found: bytes.len(),
            expected: 32,
        })?;
        return Ok(Zeroizing::new(secret));
    }
    let secret = Zeroizing::new(random());
    write_private(path, secret.as_slice())?;
    Ok(secret)
}

/// `None` when there is no such file.
pub fn read_private(path: &Path) -> Result<Option<Vec<u8>>, IdentityError> {
    let failed = |source| IdentityError::Read { path: path.into(), source };
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mode = fs::metadata(path).map_err(failed)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(IdentityError::NotPrivate { path: path.into(), mode });
    }
    Ok(Some(bytes))
}

/// The file appears whole or not at all, mode 0600; folders that are missing get mode 0700.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<(), IdentityError> {
    write(path, bytes).map_err(|source| IdentityError::Write { path: path.into(), source })
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy();
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let unfinished = dir.join(format!(".{name}.{:016x}", u64::from_ne_bytes(random())));
    let written = write_new(&unfinished, bytes).and_then(|()| fs::rename(&unfinished, path));
    if written.is_err() {
        // The first error is the one to tell.
        fs::remove_file(&unfinished).ok();
    }
    written?;
    File::open(dir)?.sync_all()
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}
