//! The agent's folder: who it is, what it keeps, and what a previous life left behind.
//!
//! One agent at a time: the folder is locked for as long as `Home` lives. Layout:
//! `identity/` certificate, key, CA, id; `cache/` binaries by digest; `prepared/` what was made of
//! them; `work/<run>-<attempt>/` scratch of an attempt and the ids of its processes;
//! `spool/<run>-<attempt>/` what it printed; `tools/` caches of pip, npm, cargo and so on.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use identity::{Credentials, Key, Peer};
use nix::fcntl::{Flock, FlockArg};

use crate::{AgentError, processes};

const IDENTITY: &str = "identity";
const WORKER_ID: &str = "worker-id";
/// The key of an agent that has not heard the answer to its join.
const JOINING_KEY: &str = "joining-key.pem";

/// Whether an agent that had this home has an identity there.
#[must_use]
pub fn has_joined(home: &Path) -> bool {
    home.join(IDENTITY).join(WORKER_ID).exists()
}

/// The locked folder.
#[derive(Debug)]
pub(crate) struct Home {
    root: PathBuf,
    _lock: Flock<fs::File>,
}

/// Who the agent is to the server.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) worker: String,
    pub(crate) credentials: Credentials,
}

impl Home {
    /// Makes the folder where needed, locks it and clears what a previous life left running.
    pub(crate) fn open(root: &Path) -> Result<Self, AgentError> {
        let failed = |source| AgentError::Home { path: root.to_path_buf(), source };
        make_dir(root).map_err(failed)?;
        let root = fs::canonicalize(root).map_err(failed)?;
        let file = private_file(&root.join("lock")).map_err(failed)?;
        let lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => {
                return Err(AgentError::HomeInUse { path: root });
            }
            Err((_, errno)) => return Err(failed(errno.into())),
        };
        for dir in ["cache", "prepared", "spool", "tools", "work"] {
            make_dir(&root.join(dir)).map_err(failed)?;
        }
        let home = Self { root, _lock: lock };
        home.clear_leftovers().map_err(failed)?;
        Ok(home)
    }

    /// The identity of an earlier join, if it can be read whole.
    pub(crate) fn identity(&self) -> Option<Identity> {
        let dir = self.root.join(IDENTITY);
        let worker = fs::read_to_string(dir.join(WORKER_ID)).ok()?.trim().to_owned();
        let credentials = Credentials::load(&dir).ok()?;
        // The files are replaced one by one when the agent joins another server.
        let worker = match credentials.peer() {
            Ok(Peer::Worker(named)) => named.to_string(),
            _ => worker,
        };
        (!worker.is_empty()).then_some(Identity { worker, credentials })
    }

    pub(crate) fn save_identity(&self, identity: &Identity) -> Result<(), AgentError> {
        let dir = self.root.join(IDENTITY);
        identity.credentials.save(&dir)?;
        let path = dir.join(WORKER_ID);
        write_private(&path, identity.worker.as_bytes())
            .map_err(|source| AgentError::Home { path, source })?;
        let path = dir.join(JOINING_KEY);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(AgentError::Home { path, source })
            }
            _ => Ok(()),
        }
    }

    /// The key to join with. It is kept until the answer is: a token is good for one key alone, and an
    /// agent that was restarted meanwhile asks again with the same.
    pub(crate) fn joining_key(&self) -> Result<Key, AgentError> {
        let path = self.root.join(IDENTITY).join(JOINING_KEY);
        if let Ok(pem) = fs::read_to_string(&path)
            && let Ok(key) = Key::from_pem(&pem)
        {
            return Ok(key);
        }
        let key = Key::generate()?;
        identity::write_private(&path, key.to_pem().as_bytes())?;
        Ok(key)
    }

    /// A renewed certificate of the same worker.
    pub(crate) fn save_credentials(&self, credentials: &Credentials) -> Result<(), AgentError> {
        Ok(credentials.save(&self.root.join(IDENTITY))?)
    }

    /// The server does not know this identity any more.
    pub(crate) fn forget_identity(&self) -> Result<(), AgentError> {
        let path = self.root.join(IDENTITY);
        match fs::remove_dir_all(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(AgentError::Home { path, source })
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn cache(&self) -> PathBuf {
        self.root.join("cache")
    }

    pub(crate) fn prepared(&self) -> PathBuf {
        self.root.join("prepared")
    }

    /// A folder that tools may keep between runs.
    pub(crate) fn tools(&self, name: &str) -> PathBuf {
        self.root.join("tools").join(name)
    }

    /// What builds of Rust keep, a folder for each pipeline.
    pub(crate) fn targets(&self) -> PathBuf {
        self.tools("cargo-target")
    }

    pub(crate) fn works(&self) -> PathBuf {
        self.root.join("work")
    }

    pub(crate) fn work(&self, attempt: &str) -> PathBuf {
        self.works().join(attempt)
    }

    pub(crate) fn spool(&self, attempt: &str) -> PathBuf {
        self.root.join("spool").join(attempt)
    }

    pub(crate) fn spools(&self) -> PathBuf {
        self.root.join("spool")
    }

    /// Ends the processes of attempts that a previous life of the agent began, and removes their
    /// files, but not their logs.
    fn clear_leftovers(&self) -> io::Result<()> {
        let work = self.works();
        processes::end_marked(&work);
        for entry in fs::read_dir(work)? {
            let dir = entry?.path();
            processes::end_recorded(&dir);
            fs::remove_dir_all(&dir)?;
        }
        Ok(())
    }
}

/// A folder that only its owner may enter.
pub(crate) fn make_dir(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn private_file(path: &Path) -> io::Result<fs::File> {
    fs::OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)
}

/// Writes a file that only its owner may read; whole or not at all.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    use io::Write as _;
    let new = path.with_extension("new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = private_file(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_agents_never_share_a_home() {
        let dir = tempfile::tempdir().unwrap();
        let first = Home::open(dir.path()).unwrap();
        let error = Home::open(dir.path()).unwrap_err();
        assert!(matches!(error, AgentError::HomeInUse { .. }), "{error}");
        drop(first);
        Home::open(dir.path()).unwrap();
    }

    #[test]
    fn a_file_is_replaced_whole_and_private() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        write_private(&path, b"one").unwrap();
        write_private(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
