//! Opens the place where a service keeps its objects: a folder, or a bucket.
//!
//! What is put is durable before the answer, in a folder as in a bucket: files and their folders are
//! synced, and a file has its name only when it is whole.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

#[cfg(feature = "testing")]
pub mod testing;

pub use object_store::ObjectStore;
use object_store::{
    aws::{AmazonS3Builder, AmazonS3ConfigKey},
    local::LocalFileSystem,
    prefix::PrefixStore,
};

/// Where Amazon's own tools go when nothing says which region.
const REGION: &str = "us-east-1";

/// Why a place cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("`{0}` is no place for objects: write `s3://<bucket>` or `s3://<bucket>/<prefix>`")]
    Malformed(String),
    #[error("use the folder {}", .path.display())]
    Folder {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("use `{place}`")]
    Store {
        place: String,
        #[source]
        source: object_store::Error,
    },
}

/// A bucket, `s3://<bucket>/<prefix>`: what speaks S3's protocol. Endpoint, region and credentials come
/// from the usual variables (`AWS_ENDPOINT_URL`, `AWS_REGION`, `AWS_ACCESS_KEY_ID`,
/// `AWS_SECRET_ACCESS_KEY`, …). Nothing is asked of it yet.
pub fn bucket(place: &str) -> Result<Arc<dyn ObjectStore>, OpenError> {
    let rest = place.strip_prefix("s3://").ok_or_else(|| OpenError::Malformed(place.into()))?;
    let (name, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    if name.is_empty() {
        return Err(OpenError::Malformed(place.into()));
    }
    let mut builder = AmazonS3Builder::from_env().with_bucket_name(name);
    if builder.get_config_value(&AmazonS3ConfigKey::Region).is_none() {
        builder = builder.with_region(REGION);
    }
    // Whoever writes such an endpoint means it; it is as a rule this machine.
    let endpoint = [AmazonS3ConfigKey::S3Endpoint, AmazonS3ConfigKey::Endpoint];
    let endpoint = endpoint.iter().find_map(|key| builder.get_config_value(key));
    if endpoint.is_some_and(|endpoint| endpoint.starts_with("http://")) {
        builder = builder.with_allow_http(true);
    }
    let store =
        builder.build().map_err(|source| OpenError::Store { place: place.into(), source })?;
    Ok(match prefix.trim_matches('/') {
        "" => Arc::new(store),
        prefix => Arc::new(PrefixStore::new(store, prefix)),
    })
}

/// A folder, made if it is missing. Of one process alone: what a crash left half written is removed.
pub fn folder(path: &Path) -> Result<Arc<dyn ObjectStore>, OpenError> {
    fs::create_dir_all(path)
        .and_then(|()| remove_staged(path))
        .map_err(|source| OpenError::Folder { path: path.into(), source })?;
    let store = LocalFileSystem::new_with_prefix(path)
        .map_err(|source| OpenError::Store { place: path.display().to_string(), source })?;
    Ok(Arc::new(store.with_fsync(true)))
}

/// A file on its way is `<name>#<number>`, and no object is called so.
fn remove_staged(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_staged(&entry.path())?;
        } else if is_staged(&entry.file_name().to_string_lossy()) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn is_staged(name: &str) -> bool {
    let number = name.rsplit_once('#').map(|(_, number)| number);
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|it| it.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use object_store::ObjectStoreExt as _;

    use super::*;

    #[test]
    fn a_bucket_that_is_none_is_refused() {
        for place in ["bucket/prefix", "s3://", "s3:///prefix", "gs://bucket"] {
            let error = bucket(place).unwrap_err();
            assert!(error.to_string().contains(&format!("`{place}`")), "{error}");
        }
        bucket("s3://bucket").unwrap();
        bucket("s3://bucket/some/prefix/").unwrap();
    }

    #[tokio::test]
    async fn a_folder_is_made_and_keeps_what_is_put() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        let store = folder(&path).unwrap();
        store.put(&"c/d".into(), "object".into()).await.unwrap();
        assert_eq!(fs::read(path.join("c/d")).unwrap(), b"object");
        fs::write(path.join("c/d#17"), "half").unwrap();
        let store = folder(&path).unwrap();
        assert!(!path.join("c/d#17").exists());
        store.head(&"c/d".into()).await.unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        let error = folder(&dir.path().join("file")).unwrap_err();
        assert!(error.to_string().contains("file"), "{error}");
    }
}
