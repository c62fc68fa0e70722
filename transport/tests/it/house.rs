//! A server that does whatever a call can suffer, and channels to it.

use crate::vehicle;
use identity::{Authority, Credentials, Live, Peer};
use std::{
    net::SocketAddr,
    path::Path,
    sync::{Arc, OnceLock},
    time::Duration,
};
use tempfile::TempDir;
use tokio::{sync::watch, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;
use transport::{Channel, Protocols, Server, Watchlist};

pub const DAY: Duration = Duration::from_hours(24);
/// Longer than anything here may take; a test that waits this long has failed.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// How a test's calls travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Local,
    Http2,
    Http3,
}

/// The CA of all tests, since making keys takes a while.
pub fn authority() -> &'static Authority {
    &shared().1
}

pub fn authority_dir() -> &'static Path {
    shared().0.path()
}

fn shared() -> &'static (TempDir, Authority) {
    static AUTHORITY: OnceLock<(TempDir, Authority)> = OnceLock::new();
    AUTHORITY.get_or_init(new_authority)
}

pub fn new_authority() -> (TempDir, Authority) {
    identity::install_crypto();
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::open_or_create(Path::new(dir.path())).unwrap();
    (dir, authority)
}

pub fn service(name: &str) -> Credentials {
    authority().issue_service(name, &[], DAY).unwrap().credentials
}

/// A running server, stopped when dropped.
pub struct House {
    pub address: SocketAddr,
    pub credentials: Credentials,
    pub seen: Arc<vehicle::Seen>,
    pub live: Live,
    pub watchlist: Watchlist,
    pub shutdown: CancellationToken,
    pub task: JoinHandle<()>,
}

impl House {
    pub async fn open() -> Self {
        Self::at("127.0.0.1:0".parse().unwrap()).await
    }

    pub async fn at(address: SocketAddr) -> Self {
        Self::with(address, service("svc-test")).await
    }

    pub async fn with(address: SocketAddr, credentials: Credentials) -> Self {
        let live = Live::new(credentials.clone()).unwrap();
        let server = Server::bind_live(address, &live).await.unwrap();
        let (address, watchlist) = (server.local_addr(), server.watchlist());
        let seen = Arc::new(vehicle::Seen::default());
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(server.serve(vehicle::router(seen.clone()), shutdown.clone()));
        Self { address, credentials, seen, live, watchlist, shutdown, task }
    }

    pub fn channel(&self, way: Way) -> Channel {
        match way {
            Way::Local => Channel::local(
                vehicle::router(self.seen.clone()),
                Peer::Service("svc-test".to_owned()),
            ),
            Way::Http2 => self.remote(&self.credentials, Protocols::Http2),
            Way::Http3 => self.remote(&self.credentials, Protocols::Http3),
        }
    }

    pub fn remote(&self, credentials: &Credentials, protocols: Protocols) -> Channel {
        let tls = identity::client_tls(credentials).unwrap();
        Channel::remote(&self.address.to_string(), "svc-test", tls, protocols).unwrap()
    }

    pub async fn close(self) {
        self.shutdown.cancel();
        timeout(PATIENCE, self.task).await.expect("the server stops in time").unwrap();
    }
}

/// Waits until the counter has reached `least`.
pub async fn reaches(counter: &watch::Sender<u64>, least: u64) {
    let mut counter = counter.subscribe();
    let reached = timeout(PATIENCE, counter.wait_for(|count| *count >= least)).await;
    reached.expect("what should have happened did not").unwrap();
}

/// Awaits what must come soon.
pub async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("what should have come did not")
}
