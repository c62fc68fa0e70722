//! Whether anything still comes over the connection that a call came by.
//!
//! Both protocols send signs of life ([`limits::KEEP_ALIVE`](crate::limits::KEEP_ALIVE)), but give a connection
//! up late, so that a stall costs nobody a transfer. Whoever must know sooner listens here.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::{Instant, sleep};

/// How often it is looked at.
const BEAT: Duration = Duration::from_secs(1);

/// Of the connection of a request; an extension of each that came over a socket.
#[derive(Clone)]
pub struct Heard(Source);

#[derive(Clone)]
enum Source {
    /// Counts what was read.
    Tcp(Arc<AtomicU64>),
    Quic(quinn::Connection),
}

impl Heard {
    pub(crate) fn over_tcp(reads: Arc<AtomicU64>) -> Self {
        Self(Source::Tcp(reads))
    }

    pub(crate) fn over_quic(connection: quinn::Connection) -> Self {
        Self(Source::Quic(connection))
    }

    /// Waits until nothing has come for this long, to a second; says for how long.
    ///
    /// A process that stood still itself has heard nothing meanwhile, and does not count that time.
    pub async fn falls_silent(&self, limit: Duration) -> Duration {
        let (mut heard, mut silent, mut looked) = (self.count(), Duration::ZERO, Instant::now());
        while silent < limit {
            sleep(BEAT).await;
            let now = self.count();
            silent =
                if now == heard { silent + looked.elapsed().min(2 * BEAT) } else { Duration::ZERO };
            (heard, looked) = (now, Instant::now());
        }
        silent
    }

    fn count(&self) -> u64 {
        match &self.0 {
            Source::Tcp(reads) => reads.load(Ordering::Relaxed),
            Source::Quic(connection) => connection.stats().udp_rx.datagrams,
        }
    }
}

impl fmt::Debug for Heard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Heard")
    }
}
