//! The service as its clients see it, over its own event log and folder.

#![expect(clippy::unwrap_used, reason = "a test stops where something is wrong")]

mod chunked;
mod garbage;
mod s3;
mod whole;

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use chunks::{Chunk, Cutter, Manifest};
use eventlog::{Clock, Log};
use futures::stream;
use identity::Peer;
use ids::{Digest, Timestamp};
use proto::{
    artifacts::v1::{
        Artifact, GetArtifactRequest, PutArtifactRequest, PutChunksRequest, PutManifestRequest,
        PutManifestResponse, StatArtifactRequest, artifacts_client::ArtifactsClient,
    },
    common::v1::Caller,
};
use svc_artifacts::{Config, Deps, Service};
use tokio::time::timeout;
use tonic::Status;
use transport::Channel;

const DEADLINE: Duration = Duration::from_secs(20);

/// What outlives the service.
struct House {
    folder: tempfile::TempDir,
    log: Log,
    /// Milliseconds.
    now: Arc<AtomicU64>,
}

/// The service between a start and a stop.
struct Life {
    service: Service,
    client: ArtifactsClient<Channel>,
}

impl House {
    fn new() -> Self {
        let now = Arc::new(AtomicU64::new(1_000));
        let log = Log::in_memory(Clock::from_fn(|| Timestamp(1_000)));
        Self { folder: tempfile::tempdir().unwrap(), log, now }
    }

    fn clock(&self) -> Clock {
        let now = Arc::clone(&self.now);
        Clock::from_fn(move || Timestamp(now.load(Ordering::Relaxed)))
    }

    async fn start(&self) -> Life {
        self.start_with(Config::default()).await
    }

    async fn start_with(&self, config: Config) -> Life {
        let config = Config { data: self.folder.path().into(), ..config };
        let deps = Deps { log: self.log.clone(), clock: self.clock() };
        let service = svc_artifacts::start(deps, config).await.unwrap();
        let gateway = Peer::Service("gateway".into());
        let client = ArtifactsClient::new(Channel::local(service.router.clone(), gateway));
        Life { service, client }
    }

    /// Where an earlier version kept it.
    fn whole(&self, blob: &[u8]) -> PathBuf {
        self.object("sha256", Digest::of(blob))
    }

    fn object(&self, kind: &str, digest: Digest) -> PathBuf {
        let hex = digest.to_string();
        self.folder.path().join(kind).join(&hex[..2]).join(hex)
    }

    fn chunk(&self, chunk: Chunk) -> PathBuf {
        self.object("chunks", chunk.digest)
    }

    /// How many objects there are.
    fn objects(&self, kind: &str) -> usize {
        let folders = std::fs::read_dir(self.folder.path().join(kind)).into_iter().flatten();
        folders.map(|folder| std::fs::read_dir(folder.unwrap().path()).unwrap().count()).sum()
    }

    /// The server notices on its own that a client is gone.
    async fn is_empty(&self) {
        until(|| self.objects("chunks") == 0).await;
        assert_eq!(self.objects("manifests"), 0, "no blob has a name");
    }
}

async fn until(is_so: impl Fn() -> bool) {
    let wait = async {
        while !is_so() {
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, wait).await.expect("it becomes so in time");
}

async fn until_async(mut is_so: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !is_so().await {
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, wait).await.expect("it becomes so in time");
}

impl Life {
    async fn stop(self) {
        self.service.task.abort();
        self.service.task.await.unwrap_err();
    }

    async fn put(&mut self, blob: &[u8]) -> Result<Artifact, Status> {
        let put = self.client.put_artifact(stream::iter(messages(blob, blob))).await?;
        Ok(put.into_inner())
    }

    async fn stat(&mut self, blob: &[u8]) -> Result<Artifact, Status> {
        let digest = Digest::of(blob).as_bytes().to_vec().into();
        let stat = self.client.stat_artifact(StatArtifactRequest { digest }).await?;
        Ok(stat.into_inner())
    }

    async fn get(&mut self, blob: &[u8], offset: u64, length: u64) -> Result<Vec<u8>, Status> {
        let digest = Digest::of(blob).as_bytes().to_vec().into();
        let request = GetArtifactRequest { digest, offset, length };
        let mut chunks = self.client.get_artifact(request).await?.into_inner();
        let mut got = vec![];
        while let Some(chunk) = chunks.message().await? {
            assert!(chunk.data.len() <= 256 << 10);
            got.extend_from_slice(&chunk.data);
        }
        Ok(got)
    }

    async fn put_manifest(
        &mut self,
        digest: Digest,
        manifest: &Manifest,
    ) -> Result<PutManifestResponse, Status> {
        let (digest, manifest) = (bytes(digest), manifest.encode());
        let request = PutManifestRequest { digest, manifest, caller: None };
        Ok(self.client.put_manifest(request).await?.into_inner())
    }

    async fn put_chunks(&mut self, chunks: &[bytes::Bytes]) -> Result<(), Status> {
        let message = |chunk: &bytes::Bytes| PutChunksRequest {
            digest: bytes(Digest::of(chunk)),
            stored: chunks::pack(chunk),
        };
        let messages: Vec<_> = chunks.iter().map(message).collect();
        self.client.put_chunks(stream::iter(messages)).await.map(drop)
    }

    /// Uploads as an agent does. Answers how many chunks had to be sent.
    async fn upload(&mut self, blob: &[u8]) -> usize {
        let (manifest, chunks) = cut(blob);
        let mut sent = 0;
        loop {
            let answer = self.put_manifest(Digest::of(blob), &manifest).await.unwrap();
            if answer.artifact.is_some() {
                return sent;
            }
            let missing = answer.missing.iter().map(|number| chunks[*number as usize].clone());
            let missing: Vec<_> = missing.collect();
            sent += missing.len();
            self.put_chunks(&missing).await.unwrap();
        }
    }
}

/// An upload of `blob` under the digest of `named`.
fn messages(named: &[u8], blob: &[u8]) -> Vec<PutArtifactRequest> {
    let mut messages = vec![message(Digest::of(named), b"")];
    for piece in blob.chunks(64 << 10) {
        let data = piece.to_vec().into();
        messages.push(PutArtifactRequest { data, ..PutArtifactRequest::default() });
    }
    messages
}

fn message(digest: Digest, data: &[u8]) -> PutArtifactRequest {
    PutArtifactRequest {
        digest: digest.as_bytes().to_vec().into(),
        data: data.to_vec().into(),
        caller: Some(Caller { name: "worker:w".into(), ..Caller::default() }),
    }
}

/// Bytes without a pattern.
fn blob(length: usize) -> Vec<u8> {
    let mut state = 88_172_645_463_325_252_u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..length).map(|_| next()).collect()
}

/// A blob as an agent takes it apart.
fn cut(blob: &[u8]) -> (Manifest, Vec<bytes::Bytes>) {
    let mut cutter = Cutter::default();
    let mut chunks = cutter.push(blob);
    chunks.extend(cutter.finish());
    (chunks.iter().map(|chunk| Chunk::of(chunk)).collect(), chunks)
}

fn bytes(digest: Digest) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(digest.as_bytes())
}
