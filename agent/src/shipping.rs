//! Ships a spooled log, by offset, until the server has all of it.
//!
//! One request at a time carries whatever has accumulated, so a busy log goes in large pieces and a
//! quiet one line by line. After any failure the same bytes go again: the server skips what it knows
//! and says from where to go on. A header says of each stretch of them where it came from and when. The
//! last request carries the log's length and digest, and how much was dropped; if the server does not
//! take the log, it says why the end is missing.

use std::{fmt::Write as _, io};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{Method, StatusCode};
use prost::Message as _;
use proto::logs::v1::LogSpans;
use serde::Deserialize;
use tokio::sync::watch;
use transport::Channel;

use crate::{
    http::{Answer, HttpError, call, full, leased},
    order::Lease,
    retry::Pauses,
    spool::{Ledger, Progress, Shelf, Shipment},
};

/// Where the bytes of a request came from: `LogSpans` in base64.
const SPANS: &str = "x-gaia-log-spans";
/// Characters of a reason that is told.
const LONGEST_REASON: usize = 500;

/// What the server takes at once.
const LARGEST: u64 = 1 << 20;
/// Tries to read what a disk refuses: it may be short of something for a moment.
const READS: u32 = 8;
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
    let Shipment { shelf, first, mut progress, incomplete, acknowledged: known } = shipment;
    let mut ledger = Ledger::new(shelf.clone());
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
        let mut piece = Piece::read(&shelf, &mut ledger, acknowledged, now, largest).await?;
        if piece.offset + piece.bytes.len() as u64 == now.size
            && let Some(sha256) = now.end
        {
            piece.end = Some(format!("&sha256={sha256}{}", ending(incomplete, now)));
        }
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

/// Ends a log that the server did not take there as it is, once nothing more would come: that it is
/// incomplete is to be seen.
pub(crate) async fn abandon(
    channel: &Channel,
    lease: &Lease,
    why: &ShipError,
    mut progress: watch::Receiver<Progress>,
) {
    let ended = progress.wait_for(|progress| progress.end.is_some()).await.map(|end| *end);
    // Nobody ends it any more when the spool is gone.
    let Ok(end) = ended else { return };
    let end = Some(ending(&why.to_string(), end));
    let piece = Piece { offset: 0, bytes: Bytes::new(), spans: None, end };
    let mut pauses = Pauses::new();
    while let Ok(Reply::Again) = piece.send(channel, lease).await {
        pauses.pause().await;
    }
}

/// Query parameters that end a log of this size.
fn ending(incomplete: &str, end: Progress) -> String {
    let mut query =
        format!("&size={}&gaps={}&dropped={}", end.size, end.gaps.count, end.gaps.bytes);
    if !incomplete.is_empty() {
        query.push_str("&incomplete=");
        let text: String = incomplete.chars().take(LONGEST_REASON).collect();
        for byte in text.bytes() {
            if byte.is_ascii_alphanumeric() {
                query.push(char::from(byte));
            } else {
                write!(query, "%{byte:02X}").expect("a String takes everything");
            }
        }
    }
    query
}

struct Piece {
    offset: u64,
    bytes: Bytes,
    /// In base64.
    spans: Option<String>,
    /// Query parameters that end the log.
    end: Option<String>,
}

enum Reply {
    /// The server has everything before this offset.
    Until(u64),
    Again,
}

async fn read(shelf: &Shelf, offset: u64, most: u64) -> Result<Bytes, ShipError> {
    let mut pauses = Pauses::new();
    let mut tries = 0;
    loop {
        match shelf.read(offset, most).await {
            Ok(bytes) => return Ok(bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(ShipError::Gone(offset));
            }
            Err(error) if tries == READS => return Err(ShipError::File(error)),
            Err(error) => tracing::warn!(%error, "cannot read a log now; trying again"),
        }
        tries += 1;
        pauses.pause().await;
    }
}

impl Piece {
    async fn read(
        shelf: &Shelf,
        ledger: &mut Ledger,
        offset: u64,
        now: Progress,
        largest: u64,
    ) -> Result<Self, ShipError> {
        // Up to the end of a segment.
        let most = (now.size - offset).min(largest).min(shelf.segment() - offset % shelf.segment());
        let (spans, most) = match most {
            0 => (LogSpans::default(), 0),
            most => ledger.spans(offset, most).await,
        };
        let bytes = match most {
            0 => Bytes::new(),
            most => read(shelf, offset, most).await?,
        };
        let is_known = !spans.lengths.is_empty();
        let spans = is_known.then(|| STANDARD.encode(spans.encode_to_vec()));
        Ok(Self { offset, bytes, spans, end: None })
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
        let mut request =
            leased(Method::PUT, &path, lease).header("content-type", "application/octet-stream");
        if let Some(spans) = &self.spans {
            request = request.header(SPANS, spans);
        }
        let request =
            request.body(full(self.bytes.clone())).expect("ids and numbers make a valid request");
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
        _ if answer.is_passing_for_worker() => Ok(Reply::Again),
        _ => Err(ShipError::Refused(answer.text())),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_log_that_cannot_be_read_for_a_moment_is_shipped_whole() {
        let dir = tempfile::tempdir().unwrap();
        let shelf = Shelf::new(dir.path().into());
        // A disk gives no bytes of this.
        let path = dir.path().join(format!("{:020}.log", 0));
        std::fs::create_dir(&path).unwrap();
        let mend = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            std::fs::remove_dir(&path).unwrap();
            std::fs::write(&path, "one line").unwrap();
        };
        let (bytes, ()) = tokio::join!(read(&shelf, 4, 4), mend);
        assert_eq!(bytes.unwrap(), "line");

        std::fs::remove_file(&path).unwrap();
        assert!(matches!(read(&shelf, 4, 4).await, Err(ShipError::Gone(4))));
        std::fs::create_dir(&path).unwrap();
        assert!(matches!(read(&shelf, 4, 4).await, Err(ShipError::File(_))));
    }
}
