//! Blobs on their way in: whole, or as chunks and the manifest that makes them a blob.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use chunks::{Chunk, Cutter, Manifest};
use futures::{StreamExt, TryStreamExt, stream};
use ids::{Digest, Timestamp};
use sha2::{Digest as _, Sha256};

use crate::{
    crew::Crew,
    error::BlobError,
    store::{Key, Kind, Store, Use},
};

/// Chunks that are read ahead.
pub(crate) const AHEAD: usize = 8;

/// A whole blob; what came of it is removed when this is dropped before it was kept.
pub(crate) struct Incoming {
    leftovers: Leftovers,
    most_bytes: u64,
    hash: Sha256,
    size: u64,
    cutter: Cutter,
    chunks: Vec<Chunk>,
}

impl Incoming {
    pub(crate) fn new(store: Arc<Store>, most_bytes: u64, now: Timestamp) -> Self {
        let by = store.begin(now);
        let leftovers =
            Leftovers { store, by, stored: Arc::default(), crew: Crew::default(), kept: false };
        let (hash, cutter) = (Sha256::new(), Cutter::default());
        Self { leftovers, most_bytes, hash, size: 0, cutter, chunks: vec![] }
    }

    pub(crate) async fn write(&mut self, data: Bytes) -> Result<(), BlobError> {
        self.size += data.len() as u64;
        if self.size > self.most_bytes {
            return Err(BlobError::TooLarge { most: self.most_bytes });
        }
        self.hash.update(&data);
        for chunk in self.cutter.push(&data) {
            self.store(chunk).await?;
        }
        Ok(())
    }

    async fn store(&mut self, bytes: Bytes) -> Result<(), BlobError> {
        let chunk = Chunk::of(&bytes);
        self.chunks.push(chunk);
        let Leftovers { store, by, stored, crew, .. } = &mut self.leftovers;
        let (store, by, stored) = (Arc::clone(store), *by, Arc::clone(stored));
        let work = async move {
            let key = (Kind::Chunk, chunk.digest);
            // What is there need not be packed.
            if !store.pin(key, by).await && store.put(key, chunks::pack(&bytes), by).await? {
                stored.lock().unwrap_or_else(PoisonError::into_inner).push(key);
            }
            Ok(())
        };
        crew.give(work).await
    }

    /// Makes it a blob, if it is what it should be. Answers its size.
    pub(crate) async fn keep(mut self, expected: Digest) -> Result<u64, BlobError> {
        for chunk in std::mem::take(&mut self.cutter).finish() {
            self.store(chunk).await?;
        }
        self.leftovers.crew.finish().await?;
        let found = Digest::from_bytes(self.hash.finalize().into());
        if found != expected {
            return Err(BlobError::WrongDigest { found, expected });
        }
        let Leftovers { store, by, .. } = &self.leftovers;
        let manifest: Manifest = self.chunks.into_iter().collect();
        // One that was there at its time may have been found damaged since.
        if !count_on(store, &manifest, *by).await {
            let what = "a chunk of it was lost while it came";
            return Err(BlobError::Damaged { digest: expected, what });
        }
        store.replace((Kind::Manifest, expected), manifest.encode(), *by).await?;
        self.leftovers.kept = true;
        Ok(self.size)
    }
}

/// Whether all chunks are there; from now on they are not removed.
pub(crate) async fn count_on(store: &Store, manifest: &Manifest, by: Use) -> bool {
    for chunk in manifest.chunks() {
        if !store.pin((Kind::Chunk, chunk.digest), by).await {
            return false;
        }
    }
    true
}

/// What was stored, and is being stored, for a blob that is none yet.
struct Leftovers {
    store: Arc<Store>,
    by: Use,
    stored: Arc<Mutex<Vec<Key>>>,
    crew: Crew,
    /// They are a blob now. What it counts on stays pinned: a collection that has begun does not know
    /// the blob yet.
    kept: bool,
}

impl Drop for Leftovers {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        let (store, by) = (Arc::clone(&self.store), self.by);
        let (stored, mut crew) = (Arc::clone(&self.stored), std::mem::take(&mut self.crew));
        tokio::spawn(async move {
            // What is on its way to a disk gets there, whoever waits for it.
            while crew.finish().await.is_err() {}
            let stored =
                std::mem::take(&mut *stored.lock().unwrap_or_else(PoisonError::into_inner));
            if let Err(error) = store.undo(stored, by).await {
                tracing::warn!("an upload's leftovers stay until the next collection: {error}");
            }
        });
    }
}

/// Stores a chunk that came alone.
pub(crate) async fn put_chunk(
    store: Arc<Store>,
    digest: Digest,
    stored: Bytes,
    by: Use,
) -> Result<(), BlobError> {
    if chunks::unpack(&stored, digest).is_err() {
        return Err(BlobError::WrongChunk(digest));
    }
    store.put((Kind::Chunk, digest), stored, by).await.map(drop)
}

/// The numbers of the chunks that are missing; none: the manifest is stored, and with it the blob.
pub(crate) async fn put_manifest(
    store: &Store,
    expected: Digest,
    manifest: &Manifest,
    now: Timestamp,
) -> Result<Vec<u32>, BlobError> {
    let by = store.begin(now);
    let mut missing = vec![];
    let mut asked = std::collections::HashSet::new();
    for (number, chunk) in (0..).zip(manifest.chunks()) {
        let is_new = asked.insert(chunk.digest);
        if is_new && !store.pin((Kind::Chunk, chunk.digest), by).await {
            missing.push(number);
        }
    }
    if missing.is_empty() {
        missing = damaged(store, expected, manifest).await?;
    }
    if missing.is_empty() {
        // Another list of the same bytes may have lost a chunk.
        store.replace((Kind::Manifest, expected), manifest.encode(), by).await?;
    }
    Ok(missing)
}

/// Reads the blob from its chunks. Answers with the numbers of those that are not what they should be.
async fn damaged(
    store: &Store,
    expected: Digest,
    manifest: &Manifest,
) -> Result<Vec<u32>, BlobError> {
    let chunks = (0..).zip(manifest.chunks().iter().copied());
    let mut read = stream::iter(chunks)
        .map(|(number, chunk)| async move { (number, chunk, store.chunk(expected, chunk).await) })
        .buffered(AHEAD);
    let (mut hash, mut damaged) = (Sha256::new(), vec![]);
    while let Some((number, chunk, stored)) = read.next().await {
        match stored {
            Ok(stored) => match chunk.unpack(&stored) {
                Ok(bytes) => hash.update(&bytes),
                Err(_) if chunks::unpack(&stored, chunk.digest).is_ok() => {
                    // The chunk is right, so the manifest lies about its length.
                    return Err(BlobError::WrongChunk(chunk.digest));
                }
                Err(_) => {
                    store.damaged(expected, (Kind::Chunk, chunk.digest), "a chunk has changed");
                    damaged.push(number);
                }
            },
            Err(BlobError::Damaged { .. }) => damaged.push(number),
            Err(error) => return Err(error),
        }
    }
    let found = Digest::from_bytes(hash.finalize().into());
    if damaged.is_empty() && found != expected {
        return Err(BlobError::WrongDigest { found, expected });
    }
    Ok(damaged)
}

/// Makes chunks of a whole blob of an earlier version. It goes with the next collection: who reads it now
/// reads it to the end.
pub(crate) async fn convert(
    store: &Arc<Store>,
    digest: Digest,
    size: u64,
    now: Timestamp,
) -> Result<(), BlobError> {
    const PIECE: u64 = 1 << 20;
    let mut incoming = Incoming::new(Arc::clone(store), u64::MAX, now);
    let parts = (0..size).step_by(PIECE as usize);
    let mut parts = stream::iter(parts)
        .map(|from| store.part(digest, from, size.min(from + PIECE)))
        .buffered(2);
    while let Some(part) = parts.try_next().await? {
        incoming.write(part).await?;
    }
    incoming.keep(digest).await.map(drop)
}
