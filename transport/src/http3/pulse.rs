//! Whether anything still comes over a connection of QUIC.
//!
//! A network that begins to swallow UDP says nothing of it, and QUIC waits for 15 s. A channel that could
//! go on over TCP need not: where it sends and hears nothing, it looks for another way.

use crate::limits;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How often it is looked at.
const BEAT: Duration = Duration::from_millis(250);

/// Keeps no call alive. Dropped or not, the connection ends with its last call.
pub(crate) struct Pulse {
    quic: quinn::Connection,
    /// Datagrams that had come when it was last looked at, and that had gone when one came last.
    heard: u64,
    said: u64,
}

impl Pulse {
    pub(super) fn new(quic: quinn::Connection) -> Self {
        let stats = quic.stats();
        Self { quic, heard: stats.udp_rx.datagrams, said: stats.udp_tx.datagrams }
    }

    /// Names the connection among those of this process.
    pub(super) fn id(&self) -> usize {
        self.quic.stable_id()
    }

    /// Waits until something was sent and nothing came for [`limits::SILENCE`]. `false`: until the
    /// connection ended otherwise.
    pub(crate) async fn stops(&mut self) -> bool {
        let mut unanswered: Option<Instant> = None;
        loop {
            tokio::select! {
                _ = self.quic.closed() => return false,
                () = sleep(BEAT) => {}
            }
            if self.is_back() {
                unanswered = None;
            } else if self.quic.stats().udp_tx.datagrams > self.said {
                let since = *unanswered.get_or_insert_with(Instant::now);
                if since.elapsed() >= limits::SILENCE {
                    return true;
                }
            }
        }
    }

    /// Whether something came since this was asked last.
    pub(crate) fn is_back(&mut self) -> bool {
        let stats = self.quic.stats();
        let is_back = stats.udp_rx.datagrams > self.heard;
        if is_back {
            (self.heard, self.said) = (stats.udp_rx.datagrams, stats.udp_tx.datagrams);
        }
        is_back
    }

    /// Ends the connection and its calls.
    pub(crate) fn end(self) {
        self.quic.close(super::NO_ERROR, b"nothing comes over UDP any more");
    }
}
