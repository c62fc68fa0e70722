//! Ships a spooled log, by offset, until the server has all of it.
//!
//! One request at a time carries whatever has accumulated, so a busy log goes in large pieces and a
//! quiet one line by line. After any failure the same bytes go again: the server skips what it knows
//! and says from where to go on. The last request carries the log's length and digest.

use std::io;

use bytes::Bytes;
use http::{Method, StatusCode};
use serde::Deserialize;
use transport::Channel;

use crate::{
    http::{Answer, HttpError, call, full, leased},
    order::Lease,
    retry::Pauses,
    spool::{Progress, Shelf, Shipment},
};

/// What the server takes at once.
const LARGEST: u64 = 1 << 20;
/// What gets through a very bad line.
const SMALLEST: u64 = 16 << 10;

#[derive(Debug, thiserror::Error)]
pub(crate) enum ShipError {
    #[error("cannot read the log's file: {0}")]
    File(#[source] io::Error),
    #[error(
        "the server lost what it had acknowledged: it asks for byte {0}, which is not kept here any more"
    )]
    Gone(u64),
    #[error("the server does not take the log: {0}")]
    Refused(String),
}

/// Ends when the server has acknowledged the log's end.
pub(crate) async fn ship(
    channel: &Channel,
    lease: &Lease,
    shipment: Shipment,
) -> Result<(), ShipError> {
    let Shipment { shelf, first, mut progress, acknowledged: known } = shipment;
    let mut acknowledged = first;
    let mut largest = LARGEST;
    let mut pauses = Pauses::new();
    loop {
        let now = *progress.borrow_and_update();
        if acknowledged >= now.size && now.end.is_none() {
            if progress.changed().await.is_err() {
                return Err(ShipError::Refused("the log was never ended".into()));
            }
            continue;
        }
        let piece = Piece::read(&shelf, acknowledged, now, largest).await?;
        match piece.send(channel, lease).await? {
            Reply::Until(offset) if offset > now.size => {
                let text = format!("it has {offset} bytes of a log of {}", now.size);
                return Err(ShipError::Refused(text));
            }
            Reply::Until(offset) => {
                if piece.is_last() && offset == now.size {
                    return Ok(());
                }
                let advanced = offset > acknowledged;
                acknowledged = offset;
                known.send_replace(offset);
                if advanced {
                    largest = (largest * 2).min(LARGEST);
                    pauses.reset();
                } else {
                    pauses.pause().await;
                }
            }
            Reply::Again => {
                largest = (largest / 2).max(SMALLEST);
                pauses.pause().await;
            }
        }
    }
}

struct Piece {
    offset: u64,
    bytes: Bytes,
    /// Query parameters that end the log.
    end: Option<String>,
}

enum Reply {
    /// The server has everything before this offset.
    Until(u64),
    Again,
}

impl Piece {
    async fn read(
        shelf: &Shelf,
        offset: u64,
        now: Progress,
        largest: u64,
    ) -> Result<Self, ShipError> {
        let most = (now.size - offset).min(largest);
        let bytes = match most {
            0 => Bytes::new(),
            most => shelf.read(offset, most).await.map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => ShipError::Gone(offset),
                _ => ShipError::File(error),
            })?,
        };
        let is_last = offset + bytes.len() as u64 == now.size;
        let end = now.end.filter(|_| is_last);
        let end = end.map(|sha256| format!("&size={}&sha256={sha256}", now.size));
        Ok(Self { offset, bytes, end })
    }

    fn is_last(&self) -> bool {
        self.end.is_some()
    }

    async fn send(&self, channel: &Channel, lease: &Lease) -> Result<Reply, ShipError> {
        let path = format!(
            "/runs/{}/attempts/{}/log?offset={}{}",
            lease.run,
            lease.attempt,
            self.offset,
            self.end.as_deref().unwrap_or_default()
        );
        let request = leased(Method::PUT, &path, lease)
            .header("content-type", "application/octet-stream")
            .body(full(self.bytes.clone()))
            .expect("ids and numbers make a valid request");
        match call(channel, request).await {
            Ok(answer) => understand(&answer),
            Err(error) => {
                log_failure(&error);
                Ok(Reply::Again)
            }
        }
    }
}

fn log_failure(error: &HttpError) {
    tracing::debug!(%error, "cannot ship a log now");
}

fn understand(answer: &Answer) -> Result<Reply, ShipError> {
    #[derive(Deserialize)]
    struct Offset {
        offset: u64,
    }
    let offset = answer.json::<Offset>().map(|answer| answer.offset);
    match (answer.status, offset) {
        (StatusCode::OK | StatusCode::CONFLICT, Some(offset)) => Ok(Reply::Until(offset)),
        (StatusCode::OK, None) => Ok(Reply::Again),
        _ if answer.is_passing() => Ok(Reply::Again),
        _ => Err(ShipError::Refused(answer.text())),
    }
}
