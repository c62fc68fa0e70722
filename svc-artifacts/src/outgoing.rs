//! Blobs on their way out: any part of the bytes, or chunks as they are stored.

use std::sync::Arc;

use bytes::Bytes;
use chunks::{Chunk, Manifest};
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use ids::Digest;

use crate::{
    error::BlobError,
    incoming::AHEAD,
    store::{Kind, Store},
};

/// Most bytes of one answer.
const PIECE: u64 = 256 << 10;

/// How a blob is stored.
#[derive(Debug)]
pub(crate) enum Form {
    Chunks(Manifest),
    /// By an earlier version.
    Whole,
}

pub(crate) type Parts<T> = BoxStream<'static, Result<T, BlobError>>;

/// The blob, if nothing of it is known to be missing.
pub(crate) async fn open(store: &Store, digest: Digest, size: u64) -> Result<Form, BlobError> {
    let whole = (Kind::Whole, digest);
    if store.size((Kind::Manifest, digest)).is_none() && store.size(whole).is_some() {
        store.look(digest, whole).await?;
        return match store.size(whole) {
            Some(found) if found == size => Ok(Form::Whole),
            _ => Err(store.damaged(digest, whole, "a part is missing")),
        };
    }
    let manifest = store.manifest(digest).await?;
    if manifest.size() != size {
        return Err(store.damaged(digest, (Kind::Manifest, digest), "its manifest has changed"));
    }
    Ok(Form::Chunks(manifest))
}

/// The bytes from `from` to `to`, which are within the blob.
pub(crate) fn bytes(
    store: Arc<Store>,
    digest: Digest,
    form: Form,
    (from, to): (u64, u64),
) -> Parts<Bytes> {
    match form {
        Form::Chunks(manifest) => {
            let touched = |(start, chunk): &(u64, Chunk)| {
                *start < to && start + u64::from(chunk.length) > from
            };
            let touched: Vec<_> = manifest.placed().filter(touched).collect();
            let read = move |(start, chunk): (u64, Chunk)| {
                let store = Arc::clone(&store);
                async move {
                    let stored = store.chunk(digest, chunk).await?;
                    let bytes = chunk.unpack(&stored).map_err(|_| {
                        store.damaged(digest, (Kind::Chunk, chunk.digest), "a chunk has changed")
                    })?;
                    let first = from.saturating_sub(start) as usize;
                    let end = bytes.len().min((to - start) as usize);
                    Ok(bytes.slice(first..end))
                }
            };
            stream::iter(touched).map(read).buffered(AHEAD).boxed()
        }
        Form::Whole => {
            let pieces = (from..to).step_by(PIECE as usize);
            let read = move |from: u64| {
                let store = Arc::clone(&store);
                async move { store.part(digest, from, to.min(from + PIECE)).await }
            };
            stream::iter(pieces).map(read).buffered(2).boxed()
        }
    }
}

/// These chunks, as they are stored.
pub(crate) fn chunks(
    store: Arc<Store>,
    digest: Digest,
    wanted: Vec<Chunk>,
) -> Parts<(Digest, Bytes)> {
    let read = move |chunk: Chunk| {
        let store = Arc::clone(&store);
        async move { Ok((chunk.digest, store.chunk(digest, chunk).await?)) }
    };
    stream::iter(wanted).map(read).buffered(AHEAD).boxed()
}
