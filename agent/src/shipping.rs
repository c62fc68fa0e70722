//! Ships a spooled log, by offset, until the server has all of it.
//!
//! One request at a time carries whatever has accumulated, so a busy log goes in large pieces and a
//! quiet one line by line. After any failure the same bytes go again: the server skips what it knows
//! and says from where to go on. The last request carries the log's length and digest.

use std::{io::SeekFrom, path::Path};

use bytes::Bytes;
use http::{Method, StatusCode};
use serde::Deserialize;
use tokio::{
    fs::File,
    io::{AsyncReadExt as _, AsyncSeekExt as _},
    sync::watch,
};
use transport::Channel;

use crate::{
    http::{Answer, HttpError, call, full, leased},
    order::Lease,
    retry::Pauses,
    spool::Progress,
};

/// What the server takes at once.
const LARGEST: u64 = 1 << 20;
/// What gets through a very bad line.
const SMALLEST: u64 = 16 << 10;

#[derive(Debug, thiserror::Error)]
pub(crate) enum ShipError {
    #[error("cannot read the log's file: {0}")]
    File(#[from] std::io::Error),
    #[error("the server does not take the log: {0}")]
    Refused(String),
}

/// Ends when the server has acknowledged the log's end.
pub(crate) async fn ship(
    channel: &Channel,
    lease: &Lease,
    path: &Path,
    mut progress: watch::Receiver<Progress>,
) -> Result<(), ShipError> {
    let mut file = File::open(path).await?;
    let mut acknowledged = 0;
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
        let piece = Piece::read(&mut file, acknowledged, now, largest).await?;
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
        file: &mut File,
        offset: u64,
        now: Progress,
        largest: u64,
    ) -> std::io::Result<Self> {
        let length = (now.size - offset).min(largest);
        file.seek(SeekFrom::Start(offset)).await?;
        let mut bytes = vec![0; usize::try_from(length).expect("a piece is small")];
        file.read_exact(&mut bytes).await?;
        let is_last = offset + length == now.size;
        let end = now.end.filter(|_| is_last);
        let end = end.map(|sha256| format!("&size={}&sha256={sha256}", now.size));
        Ok(Self { offset, bytes: bytes.into(), end })
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
