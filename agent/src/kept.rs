//! Folders that are made once and used again: prepared pipelines, and what builds keep for the next one.
//!
//! All of them together are bounded: who used them least recently goes first, what is in use stays. A folder's
//! size is measured when it was filled and noted in it, so that making room reads one small file of each. One
//! without a note was not finished, or its note was lost: it goes first.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use tokio::task::spawn_blocking;

/// Its size in bytes; its time of change is the folder's last use.
const NOTE: &str = ".kept";
/// Begins the name of a folder that is being removed.
const REMOVED: &str = ".removed-";

#[derive(Debug)]
pub(crate) struct Kept {
    /// The folders of these are kept.
    parents: Vec<PathBuf>,
    limit: u64,
    uses: Mutex<HashMap<PathBuf, usize>>,
}

/// The folder stays until this is dropped.
#[derive(Debug)]
pub(crate) struct Use {
    kept: Arc<Kept>,
    folder: PathBuf,
}

impl Kept {
    pub(crate) fn new(parents: Vec<PathBuf>, limit: u64) -> Arc<Self> {
        Arc::new(Self { parents, limit, uses: Mutex::default() })
    }

    /// Takes a folder, which need not exist yet.
    pub(crate) fn take(self: &Arc<Self>, folder: &Path) -> Use {
        *self.uses().entry(folder.to_owned()).or_default() += 1;
        let now = SystemTime::from(time::OffsetDateTime::now_utc());
        // Without a note there is nothing to mark.
        let note = fs::File::options().append(true).open(folder.join(NOTE));
        note.and_then(|note| note.set_modified(now)).ok();
        Use { kept: Arc::clone(self), folder: folder.to_owned() }
    }

    fn make_room(&self) -> io::Result<()> {
        let mut found = vec![];
        for parent in &self.parents {
            for entry in entries(parent)? {
                let folder = entry?.path();
                if name(&folder).starts_with(REMOVED) {
                    fs::remove_dir_all(&folder)?;
                    continue;
                }
                let note = fs::metadata(folder.join(NOTE)).and_then(|note| note.modified());
                let size = fs::read_to_string(folder.join(NOTE)).ok();
                let size = size.and_then(|size| size.trim().parse().ok());
                let size = size.map_or_else(|| size_of(&folder), Ok)?;
                found.push((note.unwrap_or(SystemTime::UNIX_EPOCH), size, folder));
            }
        }
        found.sort();
        let mut total: u64 = found.iter().map(|(_, size, _)| size).sum();
        for (_, size, folder) in found {
            if total > self.limit && self.remove(&folder)? {
                total -= size;
            }
        }
        Ok(())
    }

    /// `false`: it is in use.
    fn remove(&self, folder: &Path) -> io::Result<bool> {
        let aside = folder.with_file_name(format!("{REMOVED}{}", name(folder)));
        {
            // Whoever takes it from here on finds nothing.
            let uses = self.uses();
            if uses.contains_key(folder) {
                return Ok(false);
            }
            fs::rename(folder, &aside)?;
        }
        fs::remove_dir_all(aside).map(|()| true)
    }

    fn uses(&self) -> MutexGuard<'_, HashMap<PathBuf, usize>> {
        self.uses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Use {
    /// It is as it will be used: others make room for it.
    pub(crate) async fn filled(&self) {
        let (kept, folder) = (Arc::clone(&self.kept), self.folder.clone());
        let measured = spawn_blocking(move || {
            fs::write(folder.join(NOTE), size_of(&folder)?.to_string())?;
            kept.make_room()
        });
        let measured = measured.await.expect("measuring neither panics nor is aborted");
        if let Err(error) = measured {
            tracing::warn!(folder = %self.folder.display(), %error, "cannot make room for it");
        }
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        let mut uses = self.kept.uses();
        if let Some(count) = uses.get_mut(&self.folder) {
            *count -= 1;
            if *count == 0 {
                uses.remove(&self.folder);
            }
        }
    }
}

fn name(folder: &Path) -> std::borrow::Cow<'_, str> {
    folder.file_name().unwrap_or_default().to_string_lossy()
}

/// None, where the folder does not exist.
fn entries(folder: &Path) -> io::Result<impl Iterator<Item = io::Result<fs::DirEntry>>> {
    match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None.into_iter().flatten()),
        entries => Ok(Some(entries?).into_iter().flatten()),
    }
}

/// Bytes of all that is in it. What goes meanwhile counts nothing.
fn size_of(folder: &Path) -> io::Result<u64> {
    let mut size = 0;
    for entry in entries(folder)? {
        let entry = entry?;
        size += match entry.metadata() {
            Ok(about) if about.is_dir() => size_of(&entry.path())?,
            Ok(about) => about.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(error),
        };
    }
    Ok(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_used_least_recently_goes_and_what_is_in_use_stays() {
        let home = tempfile::tempdir().unwrap();
        let parents = [home.path().join("prepared"), home.path().join("targets")];
        let kept = Kept::new(parents.to_vec(), 2500);
        let mut in_use = vec![];
        let mut fill = async |folder: PathBuf| {
            let used = kept.take(&folder);
            fs::create_dir_all(folder.join("within")).unwrap();
            fs::write(folder.join("within/file"), [0; 1000]).unwrap();
            used.filled().await;
            in_use.push(used);
            folder
        };
        let first = fill(parents[0].join("1")).await;
        let second = fill(parents[1].join("2")).await;
        let third = fill(parents[0].join("3")).await;
        assert!([&first, &second, &third].iter().all(|it| it.exists()), "all are in use");
        // Half made, by a life that was killed.
        fs::create_dir_all(parents[0].join("half")).unwrap();
        fs::write(parents[0].join("half/file"), [0; 10]).unwrap();

        in_use.clear();
        drop(kept.take(&first));
        drop(kept.take(&third));
        kept.make_room().unwrap();
        assert!(first.exists() && third.exists());
        assert!(!second.exists() && !parents[0].join("half").exists());
        assert_eq!(fs::read_dir(&parents[1]).unwrap().count(), 0);
        assert!(kept.uses().is_empty());
    }
}
