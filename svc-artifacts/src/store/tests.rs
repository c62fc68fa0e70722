//! A disk that fails.

use std::{fmt, io};

use futures::stream::BoxStream;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use super::*;
use crate::incoming::{self, Incoming};

/// A folder that answers with this error, once for each, when something is read or written.
#[derive(Clone, Debug)]
struct Failing {
    folder: Arc<dyn ObjectStore>,
    reads: Arc<Mutex<Vec<io::ErrorKind>>>,
    writes: Arc<Mutex<Vec<io::ErrorKind>>>,
}

impl fmt::Display for Failing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "failing {}", self.folder)
    }
}

fn next(faults: &Mutex<Vec<io::ErrorKind>>) -> Result<()> {
    let Some(kind) = faults.lock().unwrap().pop() else { return Ok(()) };
    let source = io::Error::from(kind).into();
    Err(object_store::Error::Generic { store: "failing", source })
}

#[tonic::async_trait]
impl ObjectStore for Failing {
    async fn put_opts(&self, at: &Path, it: PutPayload, how: PutOptions) -> Result<PutResult> {
        next(&self.writes)?;
        self.folder.put_opts(at, it, how).await
    }

    async fn put_multipart_opts(
        &self,
        at: &Path,
        how: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.folder.put_multipart_opts(at, how).await
    }

    async fn get_opts(&self, at: &Path, how: GetOptions) -> Result<GetResult> {
        next(&self.reads)?;
        self.folder.get_opts(at, how).await
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.folder.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.folder.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.folder.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, how: CopyOptions) -> Result<()> {
        self.folder.copy_opts(from, to, how).await
    }
}

struct House {
    _folder: tempfile::TempDir,
    failing: Failing,
    store: Arc<Store>,
}

async fn house() -> House {
    let folder = tempfile::tempdir().unwrap();
    let objects = objects::folder(folder.path()).unwrap();
    let failing = Failing { folder: objects, reads: Arc::default(), writes: Arc::default() };
    let store = Store::open(Arc::new(failing.clone()), "the folder".into(), 0).await.unwrap();
    House { _folder: folder, failing, store: Arc::new(store) }
}

/// Bytes of many different chunks.
fn blob() -> Vec<u8> {
    (0..400_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()).collect()
}

async fn put(house: &House, blob: &[u8]) -> std::result::Result<u64, BlobError> {
    let store = Arc::clone(&house.store);
    let mut incoming = Incoming::new(store, u64::MAX, Timestamp(1));
    for piece in blob.chunks(64 << 10) {
        incoming.write(Bytes::copy_from_slice(piece)).await?;
    }
    incoming.keep(Digest::of(blob)).await
}

fn manifest(blob: &[u8]) -> Manifest {
    let mut cutter = chunks::Cutter::default();
    let mut cut = cutter.push(blob);
    cut.extend(cutter.finish());
    cut.iter().map(|chunk| Chunk::of(chunk)).collect()
}

#[tokio::test]
async fn a_disk_that_is_full_or_fails_stores_nothing_and_takes_it_later() {
    let house = house().await;
    let blob = blob();
    for kind in [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded, io::ErrorKind::Other] {
        house.failing.writes.lock().unwrap().push(kind);
        let error = put(&house, &blob).await.unwrap_err();
        match kind {
            io::ErrorKind::Other => assert!(matches!(error, BlobError::Store { .. }), "{error}"),
            _ => assert_eq!(error.to_string(), "no space is left in the folder"),
        }
        assert_eq!(house.store.size((Kind::Manifest, Digest::of(&blob))), None);
        // What did come is given back, and counted until then.
        let given_back = async {
            while house.store.taken() > 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(20), given_back).await.unwrap();
    }
    assert_eq!(put(&house, &blob).await.unwrap(), blob.len() as u64);
}

#[tokio::test]
async fn a_blob_has_no_name_before_its_list_is_written() {
    let house = house().await;
    let blob = blob();
    let (digest, list) = (Digest::of(&blob), manifest(&blob));
    put(&house, &blob).await.unwrap();
    house.store.remove(&house.store.list().await.unwrap()[..], Timestamp(2)).await.unwrap();
    let by = house.store.begin(Timestamp(3));
    let mut rest = &blob[..];
    for chunk in list.chunks() {
        let (bytes, others) = rest.split_at(chunk.length as usize);
        let (store, stored) = (Arc::clone(&house.store), chunks::pack(bytes));
        incoming::put_chunk(store, chunk.digest, stored, by).await.unwrap();
        rest = others;
    }
    house.failing.writes.lock().unwrap().push(io::ErrorKind::StorageFull);
    let put = async || incoming::put_manifest(&house.store, digest, &list, Timestamp(4)).await;
    let error = put().await.unwrap_err();
    assert!(matches!(error, BlobError::Full(_)), "{error}");
    assert_eq!(house.store.size((Kind::Manifest, digest)), None);
    // Its chunks are there still.
    assert_eq!(put().await.unwrap(), [0; 0]);
    assert!(house.store.size((Kind::Manifest, digest)).is_some());
}

/// A collection that listed and asked what is needed before the upload ended knows nothing of it.
#[tokio::test]
async fn what_a_blob_counts_on_stays_though_a_collection_had_begun() {
    let house = house().await;
    let blob = blob();
    put(&house, &blob).await.unwrap();
    let listed = house.store.list().await.unwrap();
    put(&house, &blob).await.unwrap();
    for _ in 0..100 {
        // Whatever an upload does after its end is done.
        tokio::task::yield_now().await;
    }
    assert!(house.store.remove(&listed, Timestamp(1)).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_disk_that_cannot_be_read_now_is_not_taken_for_damage() {
    let house = house().await;
    let blob = blob();
    put(&house, &blob).await.unwrap();
    let digest = Digest::of(&blob);
    let first = manifest(&blob).chunks()[0];
    let taken = house.store.taken();
    for _ in 0..3 {
        house.failing.reads.lock().unwrap().push(io::ErrorKind::Other);
        let error = house.store.chunk(digest, first).await.unwrap_err();
        assert!(matches!(error, BlobError::Store { .. }), "{error}");
        house.failing.reads.lock().unwrap().push(io::ErrorKind::Other);
        let error = house.store.manifest(digest).await.unwrap_err();
        assert!(matches!(error, BlobError::Store { .. }), "{error}");
    }
    house.store.chunk(digest, first).await.unwrap();
    assert_eq!(house.store.manifest(digest).await.unwrap(), manifest(&blob));
    assert_eq!(house.store.taken(), taken);
}
