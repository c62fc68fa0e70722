//! Why a blob cannot be stored or read.

use std::{error::Error, io};

use ids::Digest;

#[derive(Debug, thiserror::Error)]
pub(crate) enum BlobError {
    #[error("the bytes have sha256 {found}, not {expected}; nothing was stored")]
    WrongDigest { found: Digest, expected: Digest },
    #[error("what was sent as chunk {0} is something else; send it again")]
    WrongChunk(Digest),
    #[error(
        "the artifact has more than {most} bytes, the largest that is taken; raise `max_artifact_bytes` of svc-artifacts to store it"
    )]
    TooLarge { most: u64 },
    #[error(
        "the artifacts would take more than {most} bytes together; raise `max_total_bytes` of svc-artifacts to store more, or remove what nobody needs with `gaia artifact gc`"
    )]
    Quota { most: u64 },
    #[error("no space is left in {0}")]
    Full(String),
    #[error("artifact {digest} is damaged: {what}; upload it again")]
    Damaged { digest: Digest, what: &'static str },
    #[error("use {place}")]
    Store {
        place: String,
        #[source]
        source: object_store::Error,
    },
}

impl BlobError {
    pub(crate) fn of_store(place: &str, source: object_store::Error) -> Self {
        let place = place.to_owned();
        if is_full(&source) { Self::Full(place) } else { Self::Store { place, source } }
    }
}

fn is_full(error: &object_store::Error) -> bool {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return matches!(io.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_from_other_troubles() {
        let error = |kind: io::ErrorKind| object_store::Error::Generic {
            store: "LocalFileSystem",
            source: Box::new(io::Error::from(kind)),
        };
        let of = |kind| BlobError::of_store("the folder", error(kind));
        assert!(matches!(of(io::ErrorKind::StorageFull), BlobError::Full(_)));
        assert!(matches!(of(io::ErrorKind::PermissionDenied), BlobError::Store { .. }));
    }
}
