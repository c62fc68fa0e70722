//! A log behind a port, on threads of its own, with a CA and users.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use eventlog::{
    Log,
    server::{Access, Rights, Users},
};
use identity::{Authority, Credentials};
use tokio_util::sync::CancellationToken;
use transport::Server;

use crate::soon;

const HOUR: Duration = Duration::from_hours(1);
pub(crate) const ANY_PORT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// The CA of a test, and the identities that it has given.
pub(crate) struct Ca {
    folder: tempfile::TempDir,
    authority: Authority,
}

impl Ca {
    pub(crate) fn new() -> Self {
        identity::install_crypto();
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::open_or_create(&folder.path().join("ca")).unwrap();
        Self { folder, authority }
    }

    pub(crate) fn service(&self, name: &str) -> Credentials {
        self.authority.issue_service(name, &[], HOUR).unwrap().credentials
    }

    /// The folder of a service's identity.
    pub(crate) fn folder(&self, service: &str) -> PathBuf {
        let folder = self.folder.path().join(service);
        if !folder.exists() {
            self.service(service).save(&folder).unwrap();
        }
        folder
    }

    pub(crate) fn worker(&self) -> PathBuf {
        let worker = ids::WorkerId::from_uuid(uuid::Uuid::from_u128(7));
        let folder = self.folder.path().join("worker");
        self.authority.issue_worker(worker, HOUR).unwrap().credentials.save(&folder).unwrap();
        folder
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.folder.path().join("ca/ca.pem")
    }
}

/// A server process's worth.
pub(crate) struct Serving {
    pub(crate) address: SocketAddr,
    stop: CancellationToken,
    thread: Option<thread::JoinHandle<()>>,
}

impl Serving {
    /// Users: ada may read and write, bob may read; their passwords are their names, twice.
    pub(crate) fn start(log: Log, ca: &Ca, address: SocketAddr) -> Self {
        let credentials = ca.service("log");
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let (tell, told) = std::sync::mpsc::channel();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(async {
                let server = Server::bind(address, &credentials).await.unwrap();
                tell.send(server.local_addr()).unwrap();
                let access = Access::new(users());
                let router = eventlog::server::router(log, access, stopped.clone());
                server.acknowledge_at_once().serve(router, stopped).await;
            });
        });
        Self { address: told.recv().unwrap(), stop, thread: Some(thread) }
    }

    /// The address as the official clients take it.
    pub(crate) fn url(&self) -> String {
        format!("esdb://{}", self.address)
    }

    /// Through the official Rust client, as the service whose identity the folder holds.
    pub(crate) fn client(&self, identity: &Path) -> Log {
        Log::esdb(&self.url(), Some(identity)).unwrap()
    }
}

impl Serving {
    /// Ends it, and returns when the port is free.
    pub(crate) async fn stop(mut self) {
        self.stop.cancel();
        let thread = self.thread.take().unwrap();
        soon(tokio::task::spawn_blocking(|| thread.join())).await.unwrap().unwrap();
    }
}

impl Drop for Serving {
    /// Without waiting: the clients that it waits for may share the thread with whoever drops it.
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Hashing is slow, so once for all tests.
fn users() -> Users {
    static FILE: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    let file = FILE.get_or_init(|| {
        let ada = Users::line("ada", Rights::ReadWrite, "adaada").unwrap();
        let bob = Users::line("bob", Rights::Read, "bobbob").unwrap();
        format!("# who may use the log\n\n{ada}\n{bob}\n")
    });
    Users::parse(file).unwrap()
}
