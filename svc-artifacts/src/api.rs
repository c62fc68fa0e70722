//! The gRPC face: parses, stamps the time, moves bytes between streams and the store.

use std::sync::Arc;

use bytes::Bytes;
use chunks::{Chunk, Manifest};
use eventlog::{Clock, Origin, Stopped};
use futures::{StreamExt, TryStreamExt, stream::BoxStream};
use ids::Digest;
use proto::{artifacts::v1 as wire, common::v1::Caller};
use tonic::{Request, Response, Status, Streaming};

use crate::{
    crew::Crew,
    domain::{Artifact, Command},
    error::BlobError,
    garbage::{CollectError, Figures, Garbage},
    incoming::{self, Incoming},
    outgoing::{self, Form},
    service::Artifacts,
    store::{Kind, Store},
};

pub(crate) struct Api {
    pub(crate) owner: Artifacts,
    pub(crate) store: Arc<Store>,
    pub(crate) clock: Clock,
    pub(crate) most_bytes: u64,
    pub(crate) garbage: Arc<Garbage>,
}

impl Api {
    async fn find(&self, digest: Digest) -> Result<Artifact, Status> {
        let found = self.owner.read(move |state| state.artifact(digest)).await.map_err(stopped)?;
        found.ok_or_else(|| Status::not_found(format!("there is no artifact {digest}")))
    }

    /// The artifact and how it is stored.
    async fn open(&self, digest: &[u8]) -> Result<(Artifact, Form), Status> {
        let artifact = self.find(parse(digest)?).await?;
        let form = outgoing::open(&self.store, artifact.digest, artifact.size).await;
        Ok((artifact, form.map_err(refused)?))
    }

    /// Whether it is stored and whole, and then for some time longer. What was harmed may be uploaded again.
    async fn stored(
        &self,
        digest: Digest,
        caller: Option<Caller>,
    ) -> Result<Option<wire::Artifact>, Status> {
        let found = self.owner.read(move |state| state.artifact(digest)).await.map_err(stopped)?;
        let Some(Artifact { size, .. }) = found else { return Ok(None) };
        let is_whole = match outgoing::open(&self.store, digest, size).await {
            Ok(Form::Whole) => true,
            Ok(Form::Chunks(manifest)) => {
                let by = self.store.begin(self.clock.now());
                self.store.pin((Kind::Manifest, digest), by).await
                    && incoming::count_on(&self.store, &manifest, by).await
            }
            Err(BlobError::Damaged { .. }) => false,
            Err(error) => return Err(refused(error)),
        };
        if is_whole { Ok(Some(self.store(digest, size, caller).await?)) } else { Ok(None) }
    }

    async fn receive(
        &self,
        digest: Digest,
        first: Bytes,
        mut rest: Streaming<wire::PutArtifactRequest>,
    ) -> Result<u64, Status> {
        let store = Arc::clone(&self.store);
        let mut incoming = Incoming::new(store, self.most_bytes, self.clock.now());
        incoming.write(first).await.map_err(refused)?;
        while let Some(next) = rest.message().await? {
            if !next.digest.is_empty() && next.digest[..] != digest.as_bytes()[..] {
                return Err(Status::invalid_argument("digest: differs from the first message's"));
            }
            incoming.write(next.data).await.map_err(refused)?;
        }
        incoming.keep(digest).await.map_err(refused)
    }

    async fn store(
        &self,
        digest: Digest,
        size: u64,
        caller: Option<Caller>,
    ) -> Result<wire::Artifact, Status> {
        let command = Command::StoreArtifact { digest, size, at: self.clock.now() };
        let Ok(_) = self.owner.ask(command, Origin::from(caller)).await.map_err(stopped)?;
        Ok(shown(self.find(digest).await?))
    }
}

#[tonic::async_trait]
impl wire::artifacts_server::Artifacts for Api {
    type GetArtifactStream = BoxStream<'static, Result<wire::GetArtifactResponse, Status>>;
    type GetChunksStream = BoxStream<'static, Result<wire::GetChunksResponse, Status>>;

    async fn put_artifact(
        &self,
        request: Request<Streaming<wire::PutArtifactRequest>>,
    ) -> Result<Response<wire::Artifact>, Status> {
        let mut stream = request.into_inner();
        let Some(first) = stream.message().await? else {
            return Err(Status::invalid_argument("digest: the stream had no message"));
        };
        let digest = parse(&first.digest)?;
        // What is stored already need not be read: dropping the stream tells the client to stop.
        if let Some(artifact) = self.stored(digest, first.caller.clone()).await? {
            return Ok(Response::new(artifact));
        }
        let size = self.receive(digest, first.data, stream).await?;
        Ok(Response::new(self.store(digest, size, first.caller).await?))
    }

    async fn stat_artifact(
        &self,
        request: Request<wire::StatArtifactRequest>,
    ) -> Result<Response<wire::Artifact>, Status> {
        let artifact = self.find(parse(&request.into_inner().digest)?).await?;
        let manifest = (Kind::Manifest, artifact.digest);
        let key = match self.store.size(manifest) {
            None => (Kind::Whole, artifact.digest),
            Some(_) => manifest,
        };
        self.store.look(artifact.digest, key).await.map_err(refused)?;
        Ok(Response::new(shown(artifact)))
    }

    async fn get_artifact(
        &self,
        request: Request<wire::GetArtifactRequest>,
    ) -> Result<Response<Self::GetArtifactStream>, Status> {
        let wire::GetArtifactRequest { digest, offset, length } = request.into_inner();
        let (artifact, form) = self.open(&digest).await?;
        if offset > artifact.size {
            return Err(Status::out_of_range(format!(
                "offset: {offset} is beyond the {} bytes of artifact {}",
                artifact.size, artifact.digest
            )));
        }
        let end = match length {
            0 => artifact.size,
            length => artifact.size.min(offset.saturating_add(length)),
        };
        let store = Arc::clone(&self.store);
        let bytes = outgoing::bytes(store, artifact.digest, form, (offset, end));
        let answers = bytes.map_ok(|data| wire::GetArtifactResponse { data }).map_err(refused);
        Ok(Response::new(answers.boxed()))
    }

    async fn put_manifest(
        &self,
        request: Request<wire::PutManifestRequest>,
    ) -> Result<Response<wire::PutManifestResponse>, Status> {
        let wire::PutManifestRequest { digest, manifest, caller } = request.into_inner();
        let digest = parse(&digest)?;
        if let Some(artifact) = self.stored(digest, caller.clone()).await? {
            let artifact = Some(artifact);
            return Ok(Response::new(wire::PutManifestResponse { artifact, missing: vec![] }));
        }
        let manifest = Manifest::decode(&manifest)
            .map_err(|error| Status::invalid_argument(format!("manifest: {error}")))?;
        if manifest.size() > self.most_bytes {
            return Err(refused(BlobError::TooLarge { most: self.most_bytes }));
        }
        let now = self.clock.now();
        let missing = incoming::put_manifest(&self.store, digest, &manifest, now).await;
        let missing = missing.map_err(refused)?;
        let artifact = if missing.is_empty() {
            Some(self.store(digest, manifest.size(), caller).await?)
        } else {
            None
        };
        Ok(Response::new(wire::PutManifestResponse { artifact, missing }))
    }

    async fn put_chunks(
        &self,
        request: Request<Streaming<wire::PutChunksRequest>>,
    ) -> Result<Response<wire::PutChunksResponse>, Status> {
        let mut stream = request.into_inner();
        let (by, mut crew) = (self.store.begin(self.clock.now()), Crew::default());
        while let Some(wire::PutChunksRequest { digest, stored }) = stream.message().await? {
            let chunk = incoming::put_chunk(Arc::clone(&self.store), parse(&digest)?, stored, by);
            crew.give(chunk).await.map_err(refused)?;
        }
        crew.finish().await.map_err(refused)?;
        Ok(Response::new(wire::PutChunksResponse {}))
    }

    async fn get_manifest(
        &self,
        request: Request<wire::GetManifestRequest>,
    ) -> Result<Response<wire::GetManifestResponse>, Status> {
        let (artifact, form) = self.open(&request.into_inner().digest).await?;
        let manifest = manifest(artifact, form)?.encode();
        Ok(Response::new(wire::GetManifestResponse { manifest }))
    }

    async fn get_chunks(
        &self,
        request: Request<wire::GetChunksRequest>,
    ) -> Result<Response<Self::GetChunksStream>, Status> {
        let wire::GetChunksRequest { digest, ranges } = request.into_inner();
        let (artifact, form) = self.open(&digest).await?;
        let wanted = wanted(&manifest(artifact, form)?, &ranges)?;
        let chunks = outgoing::chunks(Arc::clone(&self.store), artifact.digest, wanted);
        let answers = chunks
            .map_err(refused)
            .map_ok(|(digest, stored)| wire::GetChunksResponse { digest: bytes(digest), stored });
        Ok(Response::new(answers.boxed()))
    }

    async fn collect_garbage(
        &self,
        request: Request<wire::CollectGarbageRequest>,
    ) -> Result<Response<wire::CollectGarbageResponse>, Status> {
        let wire::CollectGarbageRequest { dry_run, caller } = request.into_inner();
        let (garbage, origin) = (Arc::clone(&self.garbage), Origin::from(caller));
        // Whoever asks may go away; what is being deleted then must not outlive the lock that keeps
        // uploads off it.
        let collecting = tokio::spawn(async move { garbage.collect(dry_run, origin).await });
        let collected = collecting.await.map_err(|fault| Status::internal(fault.to_string()))?;
        let Figures { artifacts, objects, bytes, kept_artifacts, kept_bytes } =
            collected.map_err(|error| match error {
                CollectError::Stopped(error) => stopped(error),
                CollectError::Store(error) => refused(error),
            })?;
        let answer =
            wire::CollectGarbageResponse { artifacts, objects, bytes, kept_artifacts, kept_bytes };
        Ok(Response::new(answer))
    }
}

fn manifest(artifact: Artifact, form: Form) -> Result<Manifest, Status> {
    match form {
        Form::Chunks(manifest) => Ok(manifest),
        Form::Whole => Err(Status::failed_precondition(format!(
            "artifact {} is stored whole: read its bytes",
            artifact.digest
        ))),
    }
}

/// No chunk twice, and so never more than the blob has.
fn wanted(manifest: &Manifest, ranges: &[wire::ChunkRange]) -> Result<Vec<Chunk>, Status> {
    let (mut wanted, mut next) = (vec![], 0);
    for wire::ChunkRange { first, last } in ranges {
        let (first, last) = (*first as usize, *last as usize);
        if first < next || last < first {
            return Err(Status::invalid_argument(format!(
                "chunks {first}-{last}: name chunks in order, and none twice"
            )));
        }
        let chunks = manifest.chunks().get(first..=last).ok_or_else(|| {
            let count = manifest.chunks().len();
            Status::out_of_range(format!("chunks {first}-{last}: the artifact has {count}"))
        })?;
        wanted.extend_from_slice(chunks);
        next = last + 1;
    }
    Ok(wanted)
}

fn parse(digest: &[u8]) -> Result<Digest, Status> {
    Digest::try_from(digest).map_err(|error| Status::invalid_argument(format!("digest: {error}")))
}

fn bytes(digest: Digest) -> Bytes {
    Bytes::copy_from_slice(digest.as_bytes())
}

fn shown(artifact: Artifact) -> wire::Artifact {
    wire::Artifact {
        digest: bytes(artifact.digest),
        size: artifact.size,
        stored_at: artifact.stored_at.0,
    }
}

fn refused(error: BlobError) -> Status {
    let message = match std::error::Error::source(&error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    };
    match error {
        BlobError::WrongDigest { .. } | BlobError::WrongChunk(_) => {
            Status::invalid_argument(message)
        }
        BlobError::TooLarge { .. } => Status::out_of_range(message),
        BlobError::Quota { .. } | BlobError::Full(_) => Status::resource_exhausted(message),
        BlobError::Damaged { .. } => Status::data_loss(message),
        BlobError::Store { .. } => Status::internal(message),
    }
}

fn stopped(stopped: Stopped) -> Status {
    Status::unavailable(format!("svc-artifacts: {stopped}"))
}
