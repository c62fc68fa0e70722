//! Binaries by digest: read under a lease of a run of that binary, written under a lease of a build.

use axum::{
    Json,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use futures::{StreamExt, TryStreamExt};
use ids::Digest;
use proto::{
    artifacts::v1::{Artifact, GetArtifactRequest, PutArtifactRequest, StatArtifactRequest},
    scheduler::v1::Run,
};
use serde_json::json;
use tonic::{Code, Status};

use super::range;
use crate::{
    door::Leased, error::ApiError, gate::Gate, orders, peer::WorkerPeer, rest::Params, upload,
};

pub(crate) async fn read(
    State(gate): State<Gate>,
    Leased(run): Leased,
    params: Params,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let artifact = readable(&gate, &run, &params).await?;
    let size = artifact.size;
    let description = describe(&artifact)?;
    if is_known(&headers, &description) {
        return Ok((StatusCode::NOT_MODIFIED, description).into_response());
    }
    let wanted = headers.get(header::RANGE).and_then(|range| range.to_str().ok());
    let (status, offset, length) = match range::wanted(wanted, size) {
        range::Wanted::All => (StatusCode::OK, 0, size),
        range::Wanted::Part { offset, length } => (StatusCode::PARTIAL_CONTENT, offset, length),
        range::Wanted::Nothing => return Ok(out_of_range(size)),
    };
    // A length of 0 means "to the end" to the service.
    let body = match length {
        0 => Body::empty(),
        length => {
            let request = GetArtifactRequest { digest: artifact.digest.clone(), offset, length };
            let pieces =
                gate.artifacts().get_artifact(request).await.map_err(not_given)?.into_inner();
            Body::from_stream(pieces.map_ok(|piece| piece.data))
        }
    };
    let mut response = (status, description, body).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LENGTH, length.into());
    if status == StatusCode::PARTIAL_CONTENT {
        let range = format!("bytes {offset}-{}/{size}", offset + length - 1);
        headers.insert(header::CONTENT_RANGE, range.parse().expect("digits are a header's value"));
    }
    Ok(response)
}

pub(crate) async fn stat(
    State(gate): State<Gate>,
    Leased(run): Leased,
    params: Params,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let artifact = readable(&gate, &run, &params).await?;
    let description = describe(&artifact)?;
    if is_known(&headers, &description) {
        return Ok((StatusCode::NOT_MODIFIED, description).into_response());
    }
    let mut response = (description, Body::empty()).into_response();
    response.headers_mut().insert(header::CONTENT_LENGTH, artifact.size.into());
    Ok(response)
}

pub(crate) async fn write(
    State(gate): State<Gate>,
    worker: WorkerPeer,
    Leased(run): Leased,
    params: Params,
    body: Body,
) -> Result<Response, ApiError> {
    let digest = writable(&run, &params)?;
    let mut first = Some(worker.caller);
    let parts = body.into_data_stream().map(move |data| {
        let data =
            data.map_err(|fault| Status::aborted(format!("the upload broke off: {fault}")))?;
        Ok(part(digest, data, first.take()))
    });
    let upload = upload::upload(parts);
    let mut artifacts = gate.artifacts();
    // An empty body has no part that could name the digest.
    let parts = futures::stream::iter([part(digest, Bytes::new(), None)]).chain(upload.parts);
    let stored = upload::outcome(artifacts.put_artifact(parts), upload.fault).await;
    Ok(created(digest, &stored.map_err(not_taken)?.into_inner()))
}

/// What is damaged stays so: to ask again would not help.
pub(super) fn not_given(refusal: Status) -> ApiError {
    match refusal.code() {
        Code::DataLoss => ApiError::new(
            StatusCode::GONE,
            format!("{}: build the pipeline again", refusal.message()),
        ),
        _ => refusal.into(),
    }
}

/// What is too large is never taken; what finds no room may be later.
pub(super) fn not_taken(refusal: Status) -> ApiError {
    match refusal.code() {
        Code::OutOfRange => ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, refusal.message()),
        Code::ResourceExhausted => {
            ApiError::new(StatusCode::INSUFFICIENT_STORAGE, refusal.message())
        }
        _ => refusal.into(),
    }
}

pub(super) fn created(digest: Digest, stored: &Artifact) -> Response {
    let answer = json!({ "sha256": digest.to_string(), "size": stored.size });
    (StatusCode::CREATED, Json(answer)).into_response()
}

/// The digest, if the worker may store a binary.
pub(super) fn writable(run: &Run, params: &Params) -> Result<Digest, ApiError> {
    if !run.spec.as_ref().is_some_and(orders::is_build) {
        return Err(ApiError::forbidden(format!(
            "run {} is not a build: only a build stores a binary",
            run.run_id
        )));
    }
    params.get("digest")
}

fn part(
    digest: Digest,
    data: Bytes,
    caller: Option<proto::common::v1::Caller>,
) -> PutArtifactRequest {
    PutArtifactRequest { digest: digest.as_bytes().to_vec().into(), data, caller }
}

/// The blob, if the worker's run is of it.
async fn readable(gate: &Gate, run: &Run, params: &Params) -> Result<Artifact, ApiError> {
    let digest = may_read(run, params)?;
    let request = StatArtifactRequest { digest: digest.as_bytes().to_vec().into() };
    match gate.artifacts().stat_artifact(request).await {
        Ok(artifact) => Ok(artifact.into_inner()),
        Err(refusal) if refusal.code() == Code::NotFound => Err(ApiError::new(
            StatusCode::NOT_FOUND,
            format!("binary {digest} is not stored: build the pipeline again"),
        )),
        Err(fault) => Err(not_given(fault)),
    }
}

/// The digest, if the worker's run is of it.
pub(super) fn may_read(run: &Run, params: &Params) -> Result<Digest, ApiError> {
    let digest: Digest = params.get("digest")?;
    if is_of(run, digest) {
        return Ok(digest);
    }
    Err(ApiError::forbidden(format!(
        "run {} is not of binary {digest}: a worker gets only the binaries of its runs",
        run.run_id
    )))
}

fn is_of(run: &Run, digest: Digest) -> bool {
    run.spec.as_ref().is_some_and(|spec| spec.artifact[..] == digest.as_bytes()[..])
}

/// The client has it (RFC 9110, section 13.1.2): a blob never changes.
fn is_known(headers: &HeaderMap, description: &Description) -> bool {
    let [_, _, (_, tag)] = description;
    let known = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|it| it.to_str().ok());
    known
        .flat_map(|list| list.split(','))
        .map(str::trim)
        .any(|known| known == "*" || known.strip_prefix("W/").unwrap_or(known) == tag)
}

type Description = [(header::HeaderName, String); 3];

fn describe(artifact: &Artifact) -> Result<Description, ApiError> {
    let digest = Digest::try_from(&artifact.digest[..])
        .map_err(|error| Status::internal(error.to_string()))?;
    Ok([
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::ACCEPT_RANGES, "bytes".to_owned()),
        (header::ETAG, format!("\"{digest}\"")),
    ])
}

fn out_of_range(size: u64) -> Response {
    let message = format!("the range is beyond the end: the binary has {size} bytes");
    let mut response = ApiError::new(StatusCode::RANGE_NOT_SATISFIABLE, message).into_response();
    let range = format!("bytes */{size}").parse().expect("digits are a header's value");
    response.headers_mut().insert(header::CONTENT_RANGE, range);
    response
}
