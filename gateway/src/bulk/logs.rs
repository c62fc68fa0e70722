//! The log of an attempt, appended by offset and acknowledged by offset.

use axum::{
    Json,
    body::{Body, BodyDataStream, Bytes},
    extract::State,
    http::HeaderMap,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::BytesMut;
use futures::{FutureExt, StreamExt};
use ids::Digest;
use prost::Message;
use proto::{
    common::v1::Lease,
    logs::v1::{AppendLogRequest, LogEnd, LogSpans},
};
use serde::Deserialize;
use serde_json::{Value, json};
use tonic::Status;

use super::attempt_of;
use crate::{
    error::ApiError,
    gate::Gate,
    limits,
    rest::{Params, Query},
};

/// Largest piece that the log service takes.
const PIECE: usize = 1 << 20;

/// Of where the bytes of the body came from: `LogSpans` in base64.
const SPANS: &str = "x-gaia-log-spans";

/// Where the body belongs; with `size` and `sha256` the log is complete after it. With `size` and
/// `incomplete`, which says why, the worker cannot bring more.
#[derive(Debug, Deserialize)]
pub(crate) struct Place {
    #[serde(default)]
    offset: u64,
    size: Option<u64>,
    sha256: Option<String>,
    /// Places where the worker dropped something, and how many bytes in all.
    #[serde(default)]
    gaps: u64,
    #[serde(default)]
    dropped: u64,
    #[serde(default)]
    incomplete: String,
}

pub(crate) async fn append(
    State(gate): State<Gate>,
    params: Params,
    Query(place): Query<Place>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, ApiError> {
    let (_, lease) = attempt_of(&params, &headers)?;
    let end = place.end()?;
    let mut log = Writer { gate, lease, spans: spans_of(&headers)? };
    let mut at = place.offset;
    let mut durable = None;
    let mut body = body.into_data_stream();
    while let Some(mut arrived) = next_piece(&mut body).await? {
        while !arrived.is_empty() {
            let piece = arrived.split_to(arrived.len().min(PIECE));
            let length = piece.len() as u64;
            durable = Some(log.append(at, piece, None).await?);
            at = at.saturating_add(length);
        }
    }
    let durable = match (durable, end) {
        (Some(durable), None) => durable,
        // An empty body without an end asks how much is known.
        (_, end) => log.append(at, Bytes::new(), end).await?,
    };
    Ok(Json(json!({ "offset": durable })))
}

impl Place {
    fn end(&self) -> Result<Option<LogEnd>, ApiError> {
        limits::text("incomplete", &self.incomplete, limits::NOTE)?;
        let end = |size, sha256: Vec<u8>| LogEnd {
            size,
            sha256: sha256.into(),
            gaps: self.gaps,
            dropped: self.dropped,
            incomplete: self.incomplete.clone(),
            missing: 0,
        };
        match (self.size, &self.sha256) {
            (None, None) => Ok(None),
            (Some(size), Some(sha256)) => {
                let digest: Digest = sha256
                    .parse()
                    .map_err(|error| ApiError::bad_request(format!("`sha256`: {error}")))?;
                Ok(Some(end(size, digest.as_bytes().to_vec())))
            }
            (Some(size), None) if !self.incomplete.is_empty() => Ok(Some(end(size, vec![]))),
            _ => Err(ApiError::bad_request(
                "`size` and `sha256` belong together: send both with the last bytes, or neither, or \
                 `size` and `incomplete` for a log whose end cannot be sent",
            )),
        }
    }
}

struct Writer {
    gate: Gate,
    lease: Lease,
    /// Goes with the first piece, and tells of all of them.
    spans: Option<LogSpans>,
}

fn spans_of(headers: &HeaderMap) -> Result<Option<LogSpans>, ApiError> {
    let Some(value) = headers.get(SPANS) else { return Ok(None) };
    let decoded = STANDARD.decode(value).ok();
    let spans = decoded.and_then(|bytes| LogSpans::decode(&bytes[..]).ok());
    spans.map(Some).ok_or_else(|| {
        ApiError::bad_request(format!("header `{SPANS}`: is no `LogSpans` in base64"))
    })
}

impl Writer {
    /// The offset up to which the log is on disk.
    async fn append(
        &mut self,
        offset: u64,
        data: Bytes,
        end: Option<LogEnd>,
    ) -> Result<u64, ApiError> {
        let wanted = offset.saturating_add(data.len() as u64);
        let request = AppendLogRequest {
            run_id: self.lease.run_id.clone(),
            attempt: self.lease.attempt,
            offset,
            data,
            end,
            spans: self.spans.take(),
        };
        let durable = self.gate.logs().append_log(request).await?.into_inner().durable_offset;
        if durable < wanted {
            let message = format!(
                "the log ends at {durable}, so bytes at {offset} would leave a gap: send from {durable}"
            );
            return Err(ApiError::conflict(message).with("offset", durable));
        }
        Ok(durable)
    }
}

/// What has arrived, up to a piece; waits only when nothing has.
async fn next_piece(body: &mut BodyDataStream) -> Result<Option<Bytes>, ApiError> {
    let mut piece = BytesMut::new();
    loop {
        let next = match piece.is_empty() {
            true => body.next().await,
            false if piece.len() >= PIECE / 2 => break,
            false => match body.next().now_or_never() {
                Some(next) => next,
                None => break,
            },
        };
        match next {
            Some(Ok(data)) => piece.extend_from_slice(&data),
            Some(Err(fault)) => {
                return Err(Status::aborted(format!("the upload broke off: {fault}")).into());
            }
            None => break,
        }
    }
    Ok((!piece.is_empty()).then(|| piece.freeze()))
}
