//! A served log over real sockets with mTLS, while connections break and its server is restarted.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use eventlog::{AppendError, Expected, Log, LogError};
use futures::{StreamExt, future};
use identity::{Authority, Credentials};
use tokio::{
    io::{AsyncReadExt, copy},
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;
use transport::{Channel, Protocols, Server};

use crate::{all, event, events, first, numbers, open_small, soon};

const HOUR: Duration = Duration::from_hours(1);

/// A server process's worth: the folder's log behind a port.
struct Serving {
    address: SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Serving {
    async fn start(dir: &Path, address: SocketAddr, credentials: &Credentials) -> Self {
        let server = Server::bind(address, credentials).await.unwrap();
        let address = server.local_addr();
        let stop = CancellationToken::new();
        let log = open_small(&dir.join("log"));
        let task = tokio::spawn(server.serve(eventlog::server::router(log), stop.clone()));
        Self { address, stop, task }
    }

    async fn stop(self) {
        self.stop.cancel();
        soon(self.task).await.unwrap();
    }
}

fn service(authority: &Authority, name: &str) -> Credentials {
    authority.issue_service(name, &[], HOUR).unwrap().credentials
}

fn authority(dir: &Path) -> Authority {
    identity::install_crypto();
    Authority::open_or_create(&dir.join("identity")).unwrap()
}

fn client(address: SocketAddr, credentials: &Credentials, protocols: Protocols) -> Log {
    let tls = identity::client_tls(credentials).unwrap();
    Log::remote(Channel::remote(&address.to_string(), "log", tls, protocols).unwrap())
}

const ANY_PORT: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

#[tokio::test]
async fn a_log_is_served_over_both_protocols() {
    let dir = tempfile::tempdir().unwrap();
    let authority = authority(dir.path());
    let serving = Serving::start(dir.path(), ANY_PORT, &service(&authority, "log")).await;
    let me = service(&authority, "svc-test");
    for (number, protocols) in [(0, Protocols::Http2), (1, Protocols::Http3)] {
        let log = client(serving.address, &me, protocols);
        let mut subscription = log.subscribe(number * 100, &[]);
        let stream = format!("run-{number}");
        let calls: Vec<_> = (0..100)
            .map(|revision: u64| {
                let expected = revision.checked_sub(1).map_or(Expected::None, Expected::Revision);
                log.append(stream.as_str(), expected, vec![event(revision)])
            })
            .collect();
        for answer in soon(future::join_all(calls)).await {
            answer.unwrap();
        }
        let seen = first(100, &mut subscription).await;
        assert_eq!(numbers(&seen), (0..100).collect::<Vec<_>>());
        assert_eq!(all(log.read_stream(stream, 0, usize::MAX)).await, seen);
        let conflict = log.append("run-0", Expected::None, vec![event(999)]).await;
        assert!(matches!(conflict, Err(AppendError::Conflict { current: Some(99), .. })));
    }
    serving.stop().await;
}

#[tokio::test]
async fn a_worker_gets_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let authority = authority(dir.path());
    let serving = Serving::start(dir.path(), ANY_PORT, &service(&authority, "log")).await;
    let worker = ids::WorkerId::from_uuid(uuid::Uuid::from_u128(7));
    let worker = authority.issue_worker(worker, HOUR).unwrap().credentials;
    let log = client(serving.address, &worker, Protocols::Http2);
    let append = soon(log.append("run-1", Expected::Any, vec![event(1)])).await.unwrap_err();
    assert!(append.to_string().contains("only services of the house may"), "{append}");
    for error in [
        soon(log.next_position()).await.unwrap_err(),
        soon(log.read_all(0, &[]).next()).await.unwrap().unwrap_err(),
        soon(log.subscribe(0, &[]).next()).await.unwrap().unwrap_err(),
    ] {
        assert!(matches!(error, LogError::Unavailable(_)), "{error:?}");
        assert!(error.to_string().contains("PermissionDenied"), "{error}");
    }
    serving.stop().await;
}

#[tokio::test]
async fn a_restarted_server_is_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let authority = authority(dir.path());
    let me = service(&authority, "log");
    let serving = Serving::start(dir.path(), ANY_PORT, &me).await;
    let address = serving.address;
    let log = client(address, &service(&authority, "svc-test"), Protocols::Http2);
    let mut subscription = log.subscribe(0, &[]);
    log.append("run-1", Expected::Any, vec![event(0)]).await.unwrap();
    assert_eq!(numbers(&first(1, &mut subscription).await), [0]);
    serving.stop().await;
    // Asked while nobody is there.
    let waiting = tokio::spawn(log.append("run-1", Expected::Any, vec![event(1)]));
    let serving = Serving::start(dir.path(), address, &me).await;
    soon(waiting).await.unwrap().unwrap();
    assert_eq!(numbers(&first(1, &mut subscription).await), [1]);
    drop((log, subscription));
    serving.stop().await;
}

/// Passes bytes on, and breaks every connection after some KiB of answers, each later than the one
/// before.
async fn breaking_proxy(server: SocketAddr) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind(ANY_PORT).await.unwrap();
    let address = listener.local_addr().unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    tokio::spawn(async move {
        let mut connections = JoinSet::new();
        let mut most = 4_000;
        while let Ok((client, _)) = listener.accept().await {
            most += 700;
            counted.fetch_add(1, Ordering::Relaxed);
            connections.spawn(pass(client, server, most));
        }
    });
    (address, count)
}

async fn pass(mut client: TcpStream, server: SocketAddr, most: u64) {
    let mut server = TcpStream::connect(server).await.unwrap();
    let (mut up, mut down) = client.split();
    let (answers, mut requests) = server.split();
    let mut answers = answers.take(most);
    // Whichever ends first, both connections are dropped.
    tokio::select! {
        _ = copy(&mut up, &mut requests) => {}
        _ = copy(&mut answers, &mut down) => {}
    }
}

#[tokio::test]
async fn broken_connections_lose_and_repeat_nothing() {
    const APPENDS: u64 = 400;
    let dir = tempfile::tempdir().unwrap();
    let authority = authority(dir.path());
    let serving = Serving::start(dir.path(), ANY_PORT, &service(&authority, "log")).await;
    let (proxy, connections) = breaking_proxy(serving.address).await;
    let log = client(proxy, &service(&authority, "svc-test"), Protocols::Http2);
    let subscription = tokio::spawn(first(2 * APPENDS as usize, log.subscribe(0, &["run-"])));
    let mut waiting = Vec::new();
    for number in 0..APPENDS {
        let expected =
            number.checked_sub(1).map_or(Expected::None, |n| Expected::Revision(2 * n + 1));
        let batch = events(2 * number..2 * number + 2);
        waiting.push(log.append("run-1", expected, batch));
        if number % 7 == 0 {
            for answer in soon(future::join_all(waiting.drain(..))).await {
                answer.unwrap();
            }
        }
    }
    for answer in soon(future::join_all(waiting)).await {
        answer.unwrap();
    }
    let seen = soon(subscription).await.unwrap();
    assert_eq!(numbers(&seen), (0..2 * APPENDS).collect::<Vec<_>>());
    let connections = connections.load(Ordering::Relaxed);
    assert!(connections > 10, "only {connections} connections");
    assert_eq!(all(log.read_all(0, &[])).await, seen);
    assert_eq!(all(log.read_stream("run-1", 0, usize::MAX)).await, seen);
    serving.stop().await;
}
