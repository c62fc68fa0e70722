//! A served log over real sockets: who is let in, broken connections, restarts, slow readers.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use eventlog::{AppendError, Expected, Log, LogError, StreamMetadata};
use futures::{StreamExt, future};
use tokio::{
    io::{AsyncReadExt, copy},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use crate::{
    all, event, events, first, numbers, open_small,
    serving::{ANY_PORT, Ca, Serving},
    soon,
};

#[tokio::test]
async fn a_worker_gets_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let ca = Ca::new();
    let serving = Serving::start(open_small(dir.path()), &ca, ANY_PORT);
    let log = serving.client(&ca.worker());
    let append = soon(log.append("run-1", Expected::Any, vec![event(1)])).await.unwrap_err();
    assert!(append.to_string().contains("access denied"), "{append}");
    for error in [
        soon(log.next_position()).await.unwrap_err(),
        soon(log.read_all(0, &[]).next()).await.unwrap().unwrap_err(),
        soon(log.subscribe(0, &[]).next()).await.unwrap().unwrap_err(),
    ] {
        assert!(error.to_string().contains("access denied"), "{error}");
    }
}

#[tokio::test]
async fn a_service_writes_only_to_its_own_streams() {
    let dir = tempfile::tempdir().unwrap();
    let ca = Ca::new();
    let serving = Serving::start(open_small(dir.path()), &ca, ANY_PORT);
    let scheduler = serving.client(&ca.folder("svc-scheduler"));
    let gateway = serving.client(&ca.folder("gateway"));
    scheduler.append("run-1", Expected::None, events(0..2)).await.unwrap();
    for (log, stream) in [(&scheduler, "worker-1"), (&scheduler, "runlog-1"), (&gateway, "run-1")] {
        let refused = soon(log.append(stream, Expected::Any, vec![event(9)])).await.unwrap_err();
        assert!(refused.to_string().contains("access denied"), "{refused}");
        let refused = soon(log.delete(stream, Expected::Any)).await.unwrap_err();
        assert!(refused.to_string().contains("access denied"), "{refused}");
    }
    // What a stream keeps is its owner's too.
    let keep = |log: &Log, stream: &str| {
        let few = StreamMetadata { max_count: Some(5), ..StreamMetadata::default() };
        let stream = stream.to_owned();
        let log = log.clone();
        async move { soon(log.set_stream_metadata(stream, Expected::None, few, event(8).id)).await }
    };
    for (log, stream) in [(&scheduler, "worker-1"), (&gateway, "run-1")] {
        let refused = keep(log, stream).await.unwrap_err();
        assert!(refused.to_string().contains("access denied"), "{refused}");
    }
    keep(&scheduler, "run-1").await.unwrap();
    // The refused ones took nothing with them, and everybody reads.
    scheduler.append("run-1", Expected::Revision(1), vec![event(2)]).await.unwrap();
    assert_eq!(numbers(&all(gateway.read_all(0, &["run-"])).await), [0, 1, 2]);
}

#[tokio::test]
async fn users_have_the_rights_that_their_line_gives() {
    let dir = tempfile::tempdir().unwrap();
    let ca = Ca::new();
    let serving = Serving::start(open_small(dir.path()), &ca, ANY_PORT);
    let user = |credentials: &str| {
        let url =
            format!("esdb://{credentials}{}?tlsCaFile={}", serving.address, ca.file().display());
        Log::esdb(&url, None).unwrap()
    };
    let ada = user("ada:adaada@");
    ada.append("anything", Expected::None, vec![event(0)]).await.unwrap();
    soon(user("%61da:adaad%61@").next_position()).await.unwrap();
    let bob = user("bob:bobbob@");
    assert_eq!(all(bob.read_all(0, &[])).await.len(), 1);
    let refused = soon(bob.append("anything", Expected::Any, vec![event(1)])).await.unwrap_err();
    assert!(refused.to_string().contains("access denied"), "{refused}");
    for credentials in ["ada:bobbob@", "eve:adaada@", ""] {
        let refused = soon(user(credentials).next_position()).await.unwrap_err();
        assert!(refused.to_string().contains("access denied"), "{credentials}: {refused}");
    }
}

#[tokio::test]
async fn a_server_of_another_ca_is_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let serving = Serving::start(open_small(dir.path()), &Ca::new(), ANY_PORT);
    let other = Ca::new();
    let log = serving.client(&other.folder("server"));
    let error = soon(log.append("run-1", Expected::Any, vec![event(0)])).await.unwrap_err();
    assert!(matches!(error, AppendError::Log(LogError::Unavailable(_))), "{error:?}");
}

#[tokio::test]
async fn a_restarted_server_is_found_again() {
    let (dir, ca) = (tempfile::tempdir().unwrap(), Ca::new());
    let serving = Serving::start(open_small(dir.path()), &ca, ANY_PORT);
    let address = serving.address;
    let log = serving.client(&ca.folder("server"));
    let mut subscription = log.subscribe(0, &[]);
    log.append("run-1", Expected::Any, vec![event(0)]).await.unwrap();
    assert_eq!(numbers(&first(1, &mut subscription).await), [0]);
    // A subscription does not hold the server.
    serving.stop().await;
    // Asked while nobody is there.
    let waiting = tokio::spawn(log.append("run-1", Expected::Any, vec![event(1)]));
    let _serving = Serving::start(open_small(dir.path()), &ca, address);
    soon(waiting).await.unwrap().unwrap();
    assert_eq!(numbers(&first(1, &mut subscription).await), [1]);
}

#[tokio::test]
async fn a_log_may_be_asked_before_it_is_there() {
    let (dir, ca) = (tempfile::tempdir().unwrap(), Ca::new());
    let serving = Serving::start(open_small(dir.path()), &ca, ANY_PORT);
    let (address, log) = (serving.address, serving.client(&ca.folder("server")));
    serving.stop().await;
    let waiting = tokio::spawn(log.append("run-1", Expected::None, vec![event(0)]));
    let mut subscription = log.subscribe(0, &[]);
    assert!(future::poll_immediate(subscription.next()).await.is_none());
    let _serving = Serving::start(open_small(dir.path()), &ca, address);
    soon(waiting).await.unwrap().unwrap();
    assert_eq!(numbers(&first(1, &mut subscription).await), [0]);
}

#[tokio::test]
async fn many_readers_that_do_not_read_stop_nobody() {
    let (dir, ca) = (tempfile::tempdir().unwrap(), Ca::new());
    let serving = Serving::start(open_small(dir.path()), &ca, ANY_PORT);
    let log = serving.client(&ca.folder("server"));
    let mut slow = Vec::new();
    let mut big = event(0);
    big.data = vec![7; 1_000_000].into();
    for number in 0..10 {
        big.id = event(number).id;
        soon(log.append("run-1", Expected::Any, vec![big.clone()])).await.unwrap();
        let mut subscription = log.subscribe(0, &[]);
        first(1, &mut subscription).await;
        slow.push(subscription);
    }
    for subscription in slow {
        assert_eq!(first(9, subscription).await.len(), 9);
    }
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
    let (dir, ca) = (tempfile::tempdir().unwrap(), Ca::new());
    let serving = Serving::start(open_small(dir.path()), &ca, ANY_PORT);
    let (proxy, connections) = breaking_proxy(serving.address).await;
    let log = Log::esdb(&format!("esdb://{proxy}"), Some(&ca.folder("server"))).unwrap();
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
    let mut back = all(log.read_all_backward(None, eventlog::Filter::default())).await;
    back.reverse();
    assert_eq!(back, seen);
    assert_eq!(all(log.read_stream("run-1", 0, usize::MAX)).await, seen);
}
