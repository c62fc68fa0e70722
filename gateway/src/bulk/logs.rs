//! The log of an attempt, appended by offset and acknowledged by offset.

use axum::{
    Json,
    body::{Body, BodyDataStream, Bytes},
    extract::State,
    http::HeaderMap,
};
use bytes::BytesMut;
use futures::{FutureExt, StreamExt};
use ids::Digest;
use proto::{
    common::v1::Lease,
    logs::v1::{AppendLogRequest, LogEnd},
};
use serde::Deserialize;
use serde_json::{Value, json};
use tonic::Status;

use super::attempt_of;
use crate::{
    error::ApiError,
    gate::Gate,
    rest::{Params, Query},
};

/// Largest piece that the log service takes.
const PIECE: usize = 1 << 20;

/// Where the body belongs; with `size` and `sha256` the log is complete after it.
#[derive(Debug, Deserialize)]
pub(crate) struct Place {
    #[serde(default)]
    offset: u64,
    size: Option<u64>,
    sha256: Option<String>,
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
    let log = Writer { gate, lease };
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
        match (self.size, &self.sha256) {
            (None, None) => Ok(None),
            (Some(size), Some(sha256)) => {
                let digest: Digest = sha256
                    .parse()
                    .map_err(|error| ApiError::bad_request(format!("`sha256`: {error}")))?;
                Ok(Some(LogEnd { size, sha256: digest.as_bytes().to_vec().into() }))
            }
            _ => Err(ApiError::bad_request(
                "`size` and `sha256` belong together: send both with the last bytes, or neither",
            )),
        }
    }
}

struct Writer {
    gate: Gate,
    lease: Lease,
}

impl Writer {
    /// The offset up to which the log is on disk.
    async fn append(&self, offset: u64, data: Bytes, end: Option<LogEnd>) -> Result<u64, ApiError> {
        let wanted = offset.saturating_add(data.len() as u64);
        let request = AppendLogRequest {
            run_id: self.lease.run_id.clone(),
            attempt: self.lease.attempt,
            offset,
            data,
            end,
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
