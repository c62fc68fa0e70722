//! For how long a client is believed: until its certificate expires or is revoked, or the worker that it
//! names is dismissed. Then its connections end, whatever they carry.

use crate::Connection;
use identity::{Peer, Revoked};
use ids::{Timestamp, WorkerId};
use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, SystemTime},
};
use tokio_util::sync::CancellationToken;

/// How long a wait for an expiry sleeps at most: the wall clock may be set, or the machine suspended.
const LOOK: Duration = Duration::from_mins(1);

/// Who is believed no more, and the connections of all others; cheap to clone, all clones are one.
#[derive(Clone, Debug)]
pub struct Watchlist(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    revoked: Revoked,
    dismissed: HashSet<WorkerId>,
    /// It is not known yet who is revoked.
    in_doubt: bool,
    /// Each connection once for its certificate and once for its worker.
    open: BTreeMap<(Key, u64), CancellationToken>,
    next: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Certificate(String),
    Worker(WorkerId),
}

impl Watchlist {
    pub(crate) fn new(revoked: Revoked) -> Self {
        let (dismissed, open) = (HashSet::new(), BTreeMap::new());
        Self(Arc::new(Mutex::new(Inner { revoked, dismissed, in_doubt: false, open, next: 0 })))
    }

    /// Refuses the certificate with this serial (hex), and ends its connections.
    pub fn revoke(&self, serial: &str) {
        let inner = self.lock();
        inner.revoked.add(serial.to_owned());
        inner.end(&Key::Certificate(serial.to_owned()));
    }

    /// Ends the worker's connections. It may connect again, to hear that it is not wanted.
    pub fn dismiss(&self, worker: WorkerId) {
        let mut inner = self.lock();
        if inner.dismissed.insert(worker) {
            inner.end(&Key::Worker(worker));
        }
    }

    /// While it is not known who is revoked, no worker is served.
    pub fn doubt_workers(&self, in_doubt: bool) {
        self.lock().in_doubt = in_doubt;
    }

    pub fn is_dismissed(&self, worker: WorkerId) -> bool {
        self.lock().dismissed.contains(&worker)
    }

    /// Connections of clients with a certificate.
    pub fn connections(&self) -> usize {
        let inner = self.lock();
        inner.open.keys().filter(|(key, _)| matches!(key, Key::Certificate(_))).count()
    }

    /// Takes note of a connection, from the handshake on.
    pub(crate) fn admit(&self, connection: &Connection, until: Option<Timestamp>) -> Standing {
        let certificate = connection.certificate.clone().map(Key::Certificate);
        let worker = match connection.peer {
            Peer::Worker(worker) => Some(Key::Worker(worker)),
            _ => None,
        };
        let over = CancellationToken::new();
        let mut inner = self.lock();
        inner.next += 1;
        let id = inner.next;
        // Between the handshake's look at it and now it may have been revoked.
        let serial = connection.certificate.as_ref();
        let is_revoked = serial.is_some_and(|serial| inner.revoked.contains(serial));
        let in_doubt = inner.in_doubt && worker.is_some() && !is_revoked;
        if is_revoked || in_doubt {
            over.cancel();
        }
        let keys: Vec<_> = certificate.into_iter().chain(worker).map(|key| (key, id)).collect();
        inner.open.extend(keys.iter().map(|key| (key.clone(), over.clone())));
        drop(inner);
        let why = if in_doubt { NotBelieved::InDoubt } else { NotBelieved::Ended };
        Standing { watchlist: self.clone(), keys, over: Over { token: over, why }, until }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().expect("nothing panics while it holds the lock")
    }
}

impl Inner {
    fn end(&self, key: &Key) {
        let range = (key.clone(), 0)..=(key.clone(), u64::MAX);
        self.open.range(range).for_each(|(_, over)| over.cancel());
    }
}

/// One connection's; it is forgotten when this is dropped.
pub(crate) struct Standing {
    watchlist: Watchlist,
    keys: Vec<(Key, u64)>,
    over: Over,
    until: Option<Timestamp>,
}

/// Whether a connection's client is believed no more, and why.
#[derive(Clone)]
pub(crate) struct Over {
    token: CancellationToken,
    why: NotBelieved,
}

/// Why a client is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotBelieved {
    /// Its certificate expired or is revoked, or its worker is dismissed.
    Ended,
    /// It is not known yet who is revoked: the client may be believed on its next connection.
    InDoubt,
}

impl Over {
    /// None while the client is believed.
    pub(crate) fn why(&self) -> Option<NotBelieved> {
        self.token.is_cancelled().then_some(self.why)
    }
}

impl Standing {
    pub(crate) fn over(&self) -> Over {
        self.over.clone()
    }

    /// Waits until the client is believed no more.
    pub(crate) async fn ended(&self) {
        tokio::select! {
            () = self.over.token.cancelled() => {}
            () = passed(self.until) => self.over.token.cancel(),
        }
    }
}

impl Drop for Standing {
    fn drop(&mut self) {
        let mut inner = self.watchlist.lock();
        for key in &self.keys {
            inner.open.remove(key);
        }
    }
}

async fn passed(until: Option<Timestamp>) {
    let Some(until) = until else { return std::future::pending().await };
    loop {
        #[expect(clippy::disallowed_methods, reason = "certificates are dated by the wall clock")]
        let now = SystemTime::now();
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let left = Duration::from_millis(until.as_millis()).saturating_sub(now);
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(LOOK)).await;
    }
}
