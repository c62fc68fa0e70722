//! The gRPC face: parses, stamps the time, moves bytes between streams and files.

use std::{fs::File, os::unix::fs::FileExt, sync::Arc};

use bytes::Bytes;
use eventlog::{Clock, Origin, Stopped};
use futures::stream::{self, BoxStream, StreamExt};
use ids::Digest;
use proto::artifacts::v1 as wire;
use tonic::{Request, Response, Status, Streaming};

use crate::{
    blobs::{BlobError, Blobs, blocking},
    domain::{Artifact, Command},
    service::Artifacts,
};

/// Most bytes of one answer.
const CHUNK: u64 = 256 << 10;

pub(crate) struct Api {
    pub(crate) owner: Artifacts,
    pub(crate) blobs: Arc<Blobs>,
    pub(crate) clock: Clock,
}

impl Api {
    async fn find(&self, digest: Digest) -> Result<Option<Artifact>, Status> {
        self.owner.read(move |state| state.artifact(digest)).await.map_err(stopped)
    }

    /// The artifact and its file.
    async fn open(&self, digest: &[u8]) -> Result<(Artifact, File), Status> {
        let digest = parse(digest)?;
        let Some(artifact) = self.find(digest).await? else {
            return Err(Status::not_found(format!("there is no artifact {digest}")));
        };
        let file = self.blobs.read(artifact).await.map_err(|error| refused(&error))?;
        Ok((artifact, file))
    }

    /// Whether it is stored and its file is whole. A file that was harmed may be uploaded again.
    async fn stored(&self, digest: Digest) -> Result<Option<Artifact>, Status> {
        let Some(artifact) = self.find(digest).await? else { return Ok(None) };
        match self.blobs.read(artifact).await {
            Ok(_) => Ok(Some(artifact)),
            Err(BlobError::Damaged { .. }) => Ok(None),
            Err(error) => Err(refused(&error)),
        }
    }

    async fn receive(
        &self,
        digest: Digest,
        first: Bytes,
        mut rest: Streaming<wire::PutArtifactRequest>,
    ) -> Result<u64, Status> {
        let failed = |error| refused(&error);
        let mut incoming = self.blobs.receive().await.map_err(failed)?;
        incoming = incoming.write(first).await.map_err(failed)?;
        while let Some(next) = rest.message().await? {
            if !next.digest.is_empty() && next.digest[..] != digest.as_bytes()[..] {
                return Err(Status::invalid_argument("digest: differs from the first message's"));
            }
            incoming = incoming.write(next.data).await.map_err(failed)?;
        }
        incoming.keep(digest).await.map_err(failed)
    }
}

#[tonic::async_trait]
impl wire::artifacts_server::Artifacts for Api {
    type GetArtifactStream = BoxStream<'static, Result<wire::GetArtifactResponse, Status>>;

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
        if let Some(artifact) = self.stored(digest).await? {
            return Ok(Response::new(shown(artifact)));
        }
        let size = self.receive(digest, first.data, stream).await?;
        let command = Command::StoreArtifact { digest, size, at: self.clock.now() };
        let Ok(_) = self.owner.ask(command, Origin::from(first.caller)).await.map_err(stopped)?;
        let stored = self.find(digest).await?.expect("it was stored just now");
        Ok(Response::new(shown(stored)))
    }

    async fn stat_artifact(
        &self,
        request: Request<wire::StatArtifactRequest>,
    ) -> Result<Response<wire::Artifact>, Status> {
        let (artifact, _) = self.open(&request.into_inner().digest).await?;
        Ok(Response::new(shown(artifact)))
    }

    async fn get_artifact(
        &self,
        request: Request<wire::GetArtifactRequest>,
    ) -> Result<Response<Self::GetArtifactStream>, Status> {
        let wire::GetArtifactRequest { digest, offset, length } = request.into_inner();
        let (artifact, file) = self.open(&digest).await?;
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
        let (file, digest) = (Arc::new(file), artifact.digest);
        let chunks = stream::try_unfold(offset, move |at| {
            let file = Arc::clone(&file);
            async move {
                if at == end {
                    return Ok(None);
                }
                let data = read(file, at, end, digest).await?;
                let next = at + data.len() as u64;
                Ok(Some((wire::GetArtifactResponse { data }, next)))
            }
        });
        Ok(Response::new(chunks.boxed()))
    }
}

async fn read(file: Arc<File>, at: u64, end: u64, digest: Digest) -> Result<Bytes, Status> {
    let wanted = (end - at).min(CHUNK) as usize;
    let read = blocking(move || {
        let mut data = vec![0; wanted];
        file.read_exact_at(&mut data, at)?;
        Ok(data.into())
    });
    read.await.map_err(|error| {
        Status::data_loss(format!("artifact {digest} cannot be read from byte {at} on: {error}"))
    })
}

fn parse(digest: &[u8]) -> Result<Digest, Status> {
    Digest::try_from(digest).map_err(|error| Status::invalid_argument(format!("digest: {error}")))
}

fn shown(artifact: Artifact) -> wire::Artifact {
    wire::Artifact {
        digest: artifact.digest.as_bytes().to_vec().into(),
        size: artifact.size,
        stored_at: artifact.stored_at.0,
    }
}

fn refused(error: &BlobError) -> Status {
    let message = match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    };
    match error {
        BlobError::WrongDigest { .. } => Status::invalid_argument(message),
        BlobError::TooLarge { .. } | BlobError::Quota { .. } | BlobError::Full(_) => {
            Status::resource_exhausted(message)
        }
        BlobError::Damaged { .. } => Status::data_loss(message),
        BlobError::Io { .. } => Status::internal(message),
    }
}

fn stopped(stopped: Stopped) -> Status {
    Status::unavailable(format!("svc-artifacts: {stopped}"))
}
