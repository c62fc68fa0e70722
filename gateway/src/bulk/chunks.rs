//! Binaries as chunks, so that only what is missing travels.
//!
//! Up: `PUT …/manifest` with the list of a binary's chunks answers 201 when it is stored, or 202 with the
//! numbers of the chunks that are missing; `PUT …/chunks` brings these, and then the manifest is put again.
//! After a break it is the same question. Down: `GET …/manifest`, then `GET …/chunks?of=0-5,9`.

use ::chunks::{
    frames::{self, Frames},
    manifest::LARGEST_MANIFEST,
};
use axum::{
    Json,
    body::Body,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures::{Stream, StreamExt, future, stream};
use http_body_util::{BodyExt, Limited};
use ids::Digest;
use proto::artifacts::v1::{
    ChunkRange, GetChunksRequest, GetChunksResponse, GetManifestRequest, PutChunksRequest,
    PutManifestRequest,
};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::oneshot;
use tonic::Status;

use super::artifacts::{created, may_read, not_given, not_taken, writable};
use crate::{
    door::Leased,
    error::ApiError,
    gate::Gate,
    peer::WorkerPeer,
    rest::{Params, Query},
};

/// Most ranges of one request.
const MOST_RANGES: usize = 1000;

pub(crate) async fn read_manifest(
    State(gate): State<Gate>,
    Leased(run): Leased,
    params: Params,
) -> Result<Response, ApiError> {
    let digest = bytes(may_read(&run, &params)?);
    let answer = gate.artifacts().get_manifest(GetManifestRequest { digest }).await;
    let answer = answer.map_err(not_given)?;
    let kind = [(header::CONTENT_TYPE, "application/octet-stream")];
    Ok((kind, answer.into_inner().manifest).into_response())
}

pub(crate) async fn write_manifest(
    State(gate): State<Gate>,
    worker: WorkerPeer,
    Leased(run): Leased,
    params: Params,
    body: Body,
) -> Result<Response, ApiError> {
    let digest = writable(&run, &params)?;
    let manifest = Limited::new(body, LARGEST_MANIFEST).collect().await;
    let manifest = manifest
        .map_err(|error| {
            ApiError::bad_request(format!("the manifest did not come whole: {error}"))
        })?
        .to_bytes();
    let request =
        PutManifestRequest { digest: bytes(digest), manifest, caller: Some(worker.caller) };
    let answer = gate.artifacts().put_manifest(request).await.map_err(not_taken)?.into_inner();
    Ok(match answer.artifact {
        Some(artifact) => created(digest, &artifact),
        None => (StatusCode::ACCEPTED, Json(json!({ "missing": answer.missing }))).into_response(),
    })
}

#[derive(Deserialize)]
pub(crate) struct Wanted {
    of: String,
}

pub(crate) async fn read(
    State(gate): State<Gate>,
    Leased(run): Leased,
    params: Params,
    Query(Wanted { of }): Query<Wanted>,
) -> Result<Response, ApiError> {
    let digest = bytes(may_read(&run, &params)?);
    let ranges = ranges(&of).ok_or_else(|| {
        ApiError::bad_request(format!(
            "query `of`: name at most {MOST_RANGES} chunks or ranges of them, such as `0-5,9`"
        ))
    })?;
    let chunks = gate.artifacts().get_chunks(GetChunksRequest { digest, ranges }).await;
    let chunks = chunks.map_err(not_given)?;
    let frames = chunks.into_inner().flat_map(|chunk| stream::iter(framed(chunk)));
    let kind = [(header::CONTENT_TYPE, frames::MEDIA_TYPE)];
    Ok((kind, Body::from_stream(frames)).into_response())
}

fn framed(chunk: Result<GetChunksResponse, Status>) -> Vec<Result<Bytes, Status>> {
    let framed = chunk.and_then(|GetChunksResponse { digest, stored }| {
        let digest = Digest::try_from(&digest[..]);
        let digest = digest.map_err(|error| Status::internal(error.to_string()))?;
        Ok([frames::head(digest, &stored), stored])
    });
    match framed {
        Ok(parts) => parts.into_iter().map(Ok).collect(),
        Err(status) => vec![Err(status)],
    }
}

pub(crate) async fn write(
    State(gate): State<Gate>,
    Leased(run): Leased,
    params: Params,
    body: Body,
) -> Result<StatusCode, ApiError> {
    writable(&run, &params)?;
    let (tell, fault) = oneshot::channel();
    let mut tell = Some(tell);
    // Each chunk is whole by itself: those before a fault, or before the client went away, are kept.
    let chunks = chunks(body).scan((), move |(), chunk| {
        let whole = chunk.map_err(|status| tell.take().map(|tell| tell.send(status)));
        future::ready(whole.ok())
    });
    let mut artifacts = gate.artifacts();
    let storing = tokio::spawn(async move { artifacts.put_chunks(chunks).await });
    let stored = storing.await.map_err(|fault| Status::internal(fault.to_string()))?;
    stored.map_err(not_taken)?;
    match fault.await {
        Ok(status) => Err(status.into()),
        Err(_) => Ok(StatusCode::NO_CONTENT),
    }
}

/// The chunks of a body, as they arrive.
fn chunks(body: Body) -> impl Stream<Item = Result<PutChunksRequest, Status>> + Send + 'static {
    let state = Some((body.into_data_stream(), Frames::default()));
    stream::unfold(state, |state| async {
        let (mut body, mut frames) = state?;
        loop {
            match frames.next_chunk() {
                Ok(Some((digest, stored))) => {
                    let chunk = PutChunksRequest { digest: bytes(digest), stored };
                    return Some((Ok(chunk), Some((body, frames))));
                }
                Ok(None) => {}
                Err(error) => return Some((Err(invalid(error)), None)),
            }
            match body.next().await {
                Some(Ok(piece)) => frames.push(&piece),
                Some(Err(fault)) => {
                    let fault = Status::aborted(format!("the upload broke off: {fault}"));
                    return Some((Err(fault), None));
                }
                None => return frames.finish().err().map(|error| (Err(invalid(error)), None)),
            }
        }
    })
}

fn invalid(error: frames::BadFrames) -> Status {
    Status::invalid_argument(error.to_string())
}

fn bytes(digest: Digest) -> Bytes {
    Bytes::copy_from_slice(digest.as_bytes())
}

/// `0-5,9`.
fn ranges(text: &str) -> Option<Vec<ChunkRange>> {
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse().ok()).flatten()
    };
    let range = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(ChunkRange { first: number(first)?, last: number(last)? })
    };
    let ranges: Vec<ChunkRange> = text.split(',').map(range).collect::<Option<_>>()?;
    (ranges.len() <= MOST_RANGES).then_some(ranges)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_named_by_numbers_and_ranges() {
        let range = |first, last| ChunkRange { first, last };
        assert_eq!(ranges("0-5,9"), Some(vec![range(0, 5), range(9, 9)]));
        for bad in ["", "a", "1-", "-1", "1-2-3", "1,,2", "+1", "4294967296", " 1"] {
            assert_eq!(ranges(bad), None, "{bad}");
        }
        assert_eq!(ranges(&["1"; 1001].join(",")), None);
    }
}
