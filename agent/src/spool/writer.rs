//! Keeps a log within its bounds.
//!
//! What the server has not acknowledged may take so much of the disk and no more. Then the job waits,
//! or what it prints is dropped and a line of the log says how much: which of the two is the operator's choice.

use std::io;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    Progress,
    lanes::Ready,
    now,
    segments::{Shelf, Tail},
    spans::{Origin, Spans},
};
use crate::{
    config::{Config, WhenFull},
    stop::{Stopper, Why},
};

const PIECE: usize = 64 << 10;

/// How large a log may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Bytes of the whole log; what comes after is dropped.
    pub(crate) log: u64,
    /// Bytes on this disk that wait for the server.
    pub(crate) spool: u64,
    pub(crate) when_full: WhenFull,
}

impl Bounds {
    pub(crate) fn of(config: &Config) -> Self {
        Self { log: config.log_limit, spool: config.spool_limit, when_full: config.spool_full }
    }
}

/// Why no room can be waited for any more.
#[derive(Clone, Debug)]
pub(super) struct Impatience {
    pub(super) stopper: Stopper,
    pub(super) close: CancellationToken,
}

#[derive(Debug)]
pub(super) struct Writer {
    tail: Tail,
    bounds: Bounds,
    /// Bytes that find room together or not at all.
    piece: usize,
    progress: watch::Sender<Progress>,
    acknowledged: watch::Receiver<u64>,
    impatience: Impatience,
    /// Bytes that are missing at this place.
    dropped: u64,
    /// Something is missing at the end of what was written.
    in_gap: bool,
    in_line: bool,
    /// The log's bound was reached, or the disk refused.
    closed: bool,
}

impl Writer {
    pub(super) async fn create(
        shelf: Shelf,
        bounds: Bounds,
        progress: watch::Sender<Progress>,
        acknowledged: watch::Receiver<u64>,
        impatience: Impatience,
    ) -> io::Result<Self> {
        let segment = shelf.segment();
        // Less than that and no segment could ever be removed.
        let bounds = Bounds { spool: bounds.spool.max(2 * segment), ..bounds };
        let piece = usize::try_from(segment).unwrap_or(PIECE).min(PIECE);
        let tail = Tail::create(shelf).await?;
        let (dropped, in_gap, in_line, closed) = (0, false, false, false);
        Ok(Self {
            tail,
            bounds,
            piece,
            progress,
            acknowledged,
            impatience,
            dropped,
            in_gap,
            in_line,
            closed,
        })
    }

    pub(super) async fn write(&mut self, ready: Ready) {
        let Ready { bytes, mut spans } = ready;
        let room = usize::try_from(self.bounds.log.saturating_sub(self.tail.size()));
        let kept = bytes.len().min(room.unwrap_or(usize::MAX));
        for piece in bytes[..kept].chunks(self.piece) {
            let spans = spans.take(piece.len() as u64);
            self.take(piece, spans).await;
        }
        if kept < bytes.len() {
            if !self.closed {
                let limit = self.bounds.log;
                self.tell(&format!("\nThe log reached {limit} bytes; the rest is dropped.\n"))
                    .await;
                self.closed = true;
            }
            self.miss((bytes.len() - kept) as u64).await;
        }
    }

    async fn take(&mut self, piece: &[u8], spans: Spans) {
        if !self.closed && self.has_room(piece.len() as u64).await {
            self.tell_gap().await;
            self.append(piece, spans).await;
        } else {
            self.dropped += piece.len() as u64;
            self.miss(piece.len() as u64).await;
        }
    }

    /// So many bytes are not kept.
    async fn miss(&mut self, bytes: u64) {
        let begins = !std::mem::replace(&mut self.in_gap, true);
        self.progress.send_modify(|progress| {
            progress.gaps.count += u64::from(begins);
            progress.gaps.bytes += bytes;
        });
        if begins {
            self.keep_gaps().await;
        }
    }

    /// For a later life of the agent.
    async fn keep_gaps(&self) {
        let gaps = self.progress.borrow().gaps;
        if let Err(error) = self.tail.keep_gaps(gaps).await {
            tracing::warn!(%error, "cannot note how much of a log was dropped");
        }
    }

    /// Waits for room where that is wanted, and where somebody still makes some.
    async fn has_room(&mut self, length: u64) -> bool {
        let room = loop {
            let acknowledged = *self.acknowledged.borrow_and_update();
            let waiting = self.tail.size().saturating_sub(acknowledged);
            if waiting + length <= self.bounds.spool {
                let keep = self.bounds.spool.saturating_sub(length);
                if let Err(error) = self.tail.forget(acknowledged, keep) {
                    tracing::warn!(%error, "cannot remove a part of a log that was shipped");
                }
                break true;
            }
            if self.bounds.when_full == WhenFull::Drop {
                break false;
            }
            self.show_blocked(true);
            tokio::select! {
                changed = self.acknowledged.changed() => if changed.is_err() { break false },
                () = self.impatience.stopper.token().cancelled() => break false,
                () = self.impatience.close.cancelled() => break false,
            }
        };
        self.show_blocked(false);
        room
    }

    fn show_blocked(&self, blocked: bool) {
        self.progress.send_if_modified(|progress| {
            let changed = progress.blocked != blocked;
            progress.blocked = blocked;
            changed
        });
    }

    /// What is missing is said where it is missing.
    async fn tell_gap(&mut self) {
        if self.dropped > 0 && !self.closed {
            let start = if self.in_line { "\n" } else { "" };
            let (dropped, limit) = (self.dropped, self.bounds.spool);
            let gap = format!(
                "{start}--- gap: {dropped} bytes are missing here: {limit} bytes of this log were waiting for the server ---\n"
            );
            self.dropped = 0;
            self.tell(&gap).await;
            self.in_gap = false;
            self.keep_gaps().await;
        }
    }

    /// A line of the agent.
    async fn tell(&mut self, line: &str) {
        self.append(line.as_bytes(), Spans::one(line.len(), Origin::agent(now()))).await;
    }

    async fn append(&mut self, bytes: &[u8], spans: Spans) {
        if self.closed {
            return;
        }
        match self.tail.append(bytes, spans).await {
            Ok(()) => {
                self.in_line = bytes.last().is_some_and(|last| *last != b'\n');
                let size = self.tail.size();
                self.progress.send_modify(|progress| progress.size = size);
            }
            Err(error) => self.fail(&error),
        }
    }

    fn fail(&mut self, error: &io::Error) {
        self.closed = true;
        tracing::error!(%error, "cannot keep the log of a run");
        let why = format!("cannot keep the log on this worker: {error}");
        self.impatience.stopper.stop(Why::NoLog(why));
    }

    pub(super) async fn finish(mut self) {
        self.tell_gap().await;
        if let Err(error) = self.tail.sync().await {
            self.fail(&error);
        }
        // Of a piece that failed in its middle the digest has the beginning, as the file does.
        let (size, end) = (self.tail.size(), Some(self.tail.digest()));
        self.progress.send_modify(|progress| {
            progress.size = size;
            progress.end = end;
        });
    }
}
