//! The objects: chunks, manifests, and whole blobs of earlier versions.
//!
//! `chunks/<aa>/<hex>` is a chunk by its sha256, `manifests/<aa>/<hex>` the list of a blob's chunks by the
//! blob's sha256, `sha256/<aa>/<hex>` a whole blob. An object is there only when it is whole and durable.
//! Which there are is kept in memory, so that asking costs nothing; what turns out to be damaged is
//! forgotten, so that it can be sent again.
//!
//! Who uses an object for a blob that is still to come pins it, and what is pinned is not removed.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use chunks::{Chunk, Manifest};
use futures::TryStreamExt;
use ids::{Digest, Timestamp};
use object_store::{ObjectStore, ObjectStoreExt, path::Path};
use tokio::sync::RwLock;

use crate::error::BlobError;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Chunk,
    Manifest,
    Whole,
}

impl Kind {
    fn folder(self) -> &'static str {
        match self {
            Self::Chunk => "chunks",
            Self::Manifest => "manifests",
            Self::Whole => "sha256",
        }
    }
}

pub(crate) type Key = (Kind, Digest);

fn path((kind, digest): Key) -> Path {
    let hex = digest.to_string();
    Path::from_iter([kind.folder(), &hex[..2], &hex])
}

fn key(path: &Path) -> Option<Key> {
    let mut parts = path.parts();
    let (folder, _, hex) = (parts.next()?, parts.next()?, parts.next()?);
    let kinds = [Kind::Chunk, Kind::Manifest, Kind::Whole];
    let kind = kinds.into_iter().find(|kind| kind.folder() == folder.as_ref())?;
    Some((kind, hex.as_ref().parse().ok()?)).filter(|_| parts.next().is_none())
}

#[derive(Debug)]
pub(crate) struct Store {
    objects: Arc<dyn ObjectStore>,
    /// For messages.
    place: String,
    /// Bytes; 0: as many as there is room for.
    quota: u64,
    held: Mutex<Held>,
    /// Held for writing while objects are removed, and for reading while one is pinned.
    removing: RwLock<()>,
    uses: AtomicU64,
}

#[derive(Debug, Default)]
struct Held {
    /// With their bytes.
    objects: HashMap<Key, u64>,
    pins: HashMap<Key, Pin>,
    /// Bytes of all objects, those on their way included.
    taken: u64,
}

#[derive(Clone, Copy, Debug)]
struct Pin {
    /// `None`: several did.
    by: Option<Use>,
    at: Timestamp,
}

/// One call that stores something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Use {
    number: u64,
    at: Timestamp,
}

/// An object as the store lists it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Listed {
    pub(crate) key: Key,
    pub(crate) bytes: u64,
    pub(crate) modified: Timestamp,
}

impl Store {
    /// Looks at everything that is there.
    pub(crate) async fn open(
        objects: Arc<dyn ObjectStore>,
        place: String,
        quota: u64,
    ) -> Result<Self, BlobError> {
        let (held, removing, uses) = (Mutex::default(), RwLock::new(()), AtomicU64::new(0));
        let store = Self { objects, place, quota, held, removing, uses };
        let listed = store.list().await?;
        let mut held = store.held();
        held.taken = listed.iter().map(|object| object.bytes).sum();
        held.objects = listed.into_iter().map(|object| (object.key, object.bytes)).collect();
        drop(held);
        Ok(store)
    }

    pub(crate) async fn list(&self) -> Result<Vec<Listed>, BlobError> {
        let listed = self.objects.list(None).try_filter_map(|meta| async move {
            let modified = Timestamp(meta.last_modified.timestamp_millis().max(0) as u64);
            Ok(key(&meta.location).map(|key| Listed { key, bytes: meta.size, modified }))
        });
        listed.try_collect().await.map_err(|error| self.error(error))
    }

    fn error(&self, error: object_store::Error) -> BlobError {
        BlobError::of_store(&self.place, error)
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn begin(&self, at: Timestamp) -> Use {
        Use { number: self.uses.fetch_add(1, Ordering::Relaxed), at }
    }

    pub(crate) fn taken(&self) -> u64 {
        self.held().taken
    }

    /// Bytes of an object, if it is there.
    pub(crate) fn size(&self, key: Key) -> Option<u64> {
        self.held().objects.get(&key).copied()
    }

    /// Whether it is there; from now on it is not removed, or not looked for when it comes.
    pub(crate) async fn pin(&self, key: Key, by: Use) -> bool {
        let _nobody_removes = self.removing.read().await;
        let mut held = self.held();
        let pin = held.pins.entry(key).or_insert(Pin { by: Some(by), at: by.at });
        pin.by = pin.by.filter(|earlier| *earlier == by);
        pin.at = pin.at.max(by.at);
        held.objects.contains_key(&key)
    }

    /// Stores an object, unless it is there. Answers whether it was not.
    pub(crate) async fn put(&self, key: Key, bytes: Bytes, by: Use) -> Result<bool, BlobError> {
        if self.pin(key, by).await {
            return Ok(false);
        }
        self.write(key, bytes).await
    }

    /// Stores an object, also where there is another under its name.
    pub(crate) async fn replace(&self, key: Key, bytes: Bytes, by: Use) -> Result<(), BlobError> {
        self.pin(key, by).await;
        self.write(key, bytes).await.map(drop)
    }

    /// Answers whether it was not there.
    async fn write(&self, key: Key, bytes: Bytes) -> Result<bool, BlobError> {
        let size = bytes.len() as u64;
        let mut share = Share::take(self, size)?;
        let put = self.objects.put(&path(key), bytes.into()).await;
        put.map_err(|error| self.error(error))?;
        let before = self.held().objects.insert(key, size);
        share.bytes = before.unwrap_or_default();
        Ok(before.is_none())
    }

    /// A chunk's stored form, as whole as when it was stored.
    pub(crate) async fn chunk(&self, of: Digest, chunk: Chunk) -> Result<Bytes, BlobError> {
        let key = (Kind::Chunk, chunk.digest);
        let stored = self.get(of, key).await?;
        if chunks::check(&stored).is_err() {
            return Err(self.damaged(of, key, "a chunk has changed"));
        }
        Ok(stored)
    }

    pub(crate) async fn manifest(&self, of: Digest) -> Result<Manifest, BlobError> {
        let key = (Kind::Manifest, of);
        let bytes = self.get(of, key).await?;
        Manifest::decode(&bytes).map_err(|_| self.damaged(of, key, "its manifest has changed"))
    }

    /// A part of a whole blob.
    pub(crate) async fn part(&self, of: Digest, from: u64, to: u64) -> Result<Bytes, BlobError> {
        let key = (Kind::Whole, of);
        match self.objects.get_range(&path(key), from..to).await {
            Ok(bytes) if bytes.len() as u64 == to - from => Ok(bytes),
            Ok(_) | Err(object_store::Error::NotFound { .. }) => {
                Err(self.damaged(of, key, "a part is missing"))
            }
            Err(error) => Err(self.error(error)),
        }
    }

    /// Whether the object is still there, as long as it was.
    pub(crate) async fn look(&self, of: Digest, key: Key) -> Result<(), BlobError> {
        match self.objects.head(&path(key)).await {
            Ok(meta) if Some(meta.size) == self.size(key) => Ok(()),
            Ok(_) => Err(self.damaged(of, key, "a part is missing")),
            Err(object_store::Error::NotFound { .. }) => {
                Err(self.damaged(of, key, "a part is missing"))
            }
            Err(error) => Err(self.error(error)),
        }
    }

    async fn get(&self, of: Digest, key: Key) -> Result<Bytes, BlobError> {
        let got = async { self.objects.get(&path(key)).await?.bytes().await };
        match got.await {
            Ok(bytes) => Ok(bytes),
            Err(object_store::Error::NotFound { .. }) => {
                Err(self.damaged(of, key, "a part is missing"))
            }
            Err(error) => Err(self.error(error)),
        }
    }

    /// Forgets the object, so that it is stored again when it comes.
    pub(crate) fn damaged(&self, of: Digest, key: Key, what: &'static str) -> BlobError {
        tracing::error!(artifact = %of, object = %path(key), "{what}");
        self.forget(key);
        BlobError::Damaged { digest: of, what }
    }

    fn forget(&self, key: Key) {
        let mut held = self.held();
        if let Some(bytes) = held.objects.remove(&key) {
            held.taken = held.taken.saturating_sub(bytes);
        }
    }

    /// Removes these, but what a use since `pinned_since` counts on. Answers what went.
    pub(crate) async fn remove(
        &self,
        listed: &[Listed],
        pinned_since: Timestamp,
    ) -> Result<Vec<Listed>, BlobError> {
        let _nobody_pins = self.removing.write().await;
        let mut gone = vec![];
        for object in listed {
            let pin = self.held().pins.get(&object.key).copied();
            if pin.is_none_or(|pin| pin.at < pinned_since) {
                self.delete(object.key).await?;
                gone.push(*object);
            }
        }
        Ok(gone)
    }

    /// Removes what this use stored, but what others count on.
    pub(crate) async fn undo(&self, keys: Vec<Key>, by: Use) -> Result<(), BlobError> {
        let _nobody_pins = self.removing.write().await;
        for key in keys {
            let pin = self.held().pins.get(&key).copied();
            if pin.is_some_and(|pin| pin.by == Some(by)) {
                self.delete(key).await?;
            }
        }
        // It counts on nothing any more, so that whoever comes next is not the second.
        self.held().pins.retain(|_, pin| pin.by != Some(by));
        Ok(())
    }

    async fn delete(&self, key: Key) -> Result<(), BlobError> {
        self.forget(key);
        match self.objects.delete(&path(key)).await {
            Err(object_store::Error::NotFound { .. }) | Ok(()) => Ok(()),
            Err(error) => Err(self.error(error)),
        }
    }

    /// Forgets old pins.
    pub(crate) fn unpin(&self, before: Timestamp) {
        self.held().pins.retain(|_, pin| pin.at >= before);
    }
}

/// What an object on its way takes of the quota; given back when this is dropped.
struct Share<'a> {
    store: &'a Store,
    bytes: u64,
}

impl<'a> Share<'a> {
    fn take(store: &'a Store, bytes: u64) -> Result<Self, BlobError> {
        let most = if store.quota == 0 { u64::MAX } else { store.quota };
        let mut held = store.held();
        match held.taken.checked_add(bytes).filter(|taken| *taken <= most) {
            Some(taken) => held.taken = taken,
            None => return Err(BlobError::Quota { most }),
        }
        Ok(Self { store, bytes })
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        let mut held = self.store.held();
        held.taken = held.taken.saturating_sub(self.bytes);
    }
}

#[cfg(test)]
mod tests;
