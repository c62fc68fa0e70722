//! For how long a client is believed: until its certificate expires or is revoked, its CA is dropped, or the
//! worker that it names is dismissed. Then its connections end, whatever they carry.

use crate::Connection;
use identity::{Live, Peer};
use ids::{Digest, Timestamp, WorkerId};
use rustls_pki_types::CertificateDer;
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
    live: Live,
    dismissed: HashSet<WorkerId>,
    /// It is not known yet who is revoked.
    in_doubt: bool,
    /// Each connection once for its certificate, once for its worker, and once for who signed that.
    open: BTreeMap<(Key, u64), CancellationToken>,
    /// One certificate of each signer, with what was shown behind it.
    signed: BTreeMap<Signer, Vec<CertificateDer<'static>>>,
    next: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Certificate(String),
    Worker(WorkerId),
    Signer(Signer),
}

/// Who signed a certificate, and whether that is a service's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Signer {
    is_of_service: bool,
    issuer: Digest,
}

impl Signer {
    /// `None`: there is no certificate.
    fn of(peer: &Peer, chain: &[CertificateDer<'_>]) -> Option<Self> {
        let issuer = identity::issuer_of(chain.first()?)?;
        Some(Self { is_of_service: matches!(peer, Peer::Service(_)), issuer })
    }
}

impl Watchlist {
    pub(crate) fn new(live: Live) -> Self {
        let (dismissed, open, signed) = (HashSet::new(), BTreeMap::new(), BTreeMap::new());
        let inner = Inner { live, dismissed, in_doubt: false, open, signed, next: 0 };
        Self(Arc::new(Mutex::new(inner)))
    }

    /// Refuses the certificate with this serial (hex), and ends its connections.
    pub fn revoke(&self, serial: &str) {
        let inner = self.lock();
        inner.live.revoked().add(serial.to_owned());
        inner.end(&Key::Certificate(serial.to_owned()));
    }

    /// Ends the worker's connections. It may connect again, to hear that it is not wanted.
    pub fn dismiss(&self, worker: WorkerId) {
        let mut inner = self.lock();
        if inner.dismissed.insert(worker) {
            inner.end(&Key::Worker(worker));
        }
    }

    /// Ends the connections of workers, or of services, whose certificates lead to no root that is trusted now.
    pub fn drop_old_ca(&self, of_services: bool) {
        let mut inner = self.lock();
        let Inner { live, signed, .. } = &*inner;
        let is_gone = |signer: &Signer, chain: &[CertificateDer<'_>]| {
            signer.is_of_service == of_services && !live.vouches_for(chain)
        };
        let gone = signed.iter().filter(|(signer, chain)| is_gone(signer, chain));
        let gone: Vec<_> = gone.map(|(signer, _)| signer.clone()).collect();
        for signer in gone {
            inner.signed.remove(&signer);
            inner.end(&Key::Signer(signer));
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
    pub(crate) fn admit(
        &self,
        connection: &Connection,
        until: Option<Timestamp>,
        chain: &[CertificateDer<'_>],
    ) -> Standing {
        let certificate = connection.certificate.clone().map(Key::Certificate);
        let worker = match connection.peer {
            Peer::Worker(worker) => Some(Key::Worker(worker)),
            _ => None,
        };
        let signer = Signer::of(&connection.peer, chain);
        let over = CancellationToken::new();
        let mut inner = self.lock();
        inner.next += 1;
        let id = inner.next;
        // Between the handshake's look at it and now it may have been revoked, or its CA dropped.
        let serial = connection.certificate.as_ref();
        let is_revoked = serial.is_some_and(|serial| inner.live.revoked().contains(serial));
        let is_strange = signer.as_ref().is_some_and(|signer| !inner.knows(signer, chain));
        let in_doubt = inner.in_doubt && worker.is_some() && !is_revoked && !is_strange;
        if is_revoked || is_strange || in_doubt {
            over.cancel();
        }
        let keys = certificate.into_iter().chain(worker).chain(signer.map(Key::Signer));
        let keys: Vec<_> = keys.map(|key| (key, id)).collect();
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
    /// Whether the signer is trusted. One look at each is enough, until roots are dropped.
    fn knows(&mut self, signer: &Signer, chain: &[CertificateDer<'_>]) -> bool {
        if self.signed.contains_key(signer) {
            return true;
        }
        let is_known = self.live.vouches_for(chain);
        if is_known {
            let chain = chain.iter().map(|one| one.clone().into_owned()).collect();
            self.signed.insert(signer.clone(), chain);
        }
        is_known
    }

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
