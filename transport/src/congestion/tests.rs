//! Paths that lose by chance, by a queue that runs over, and by a queue that is too short to be seen.

use super::{Control, Seen, path::Path};
use crate::limits;
use identity::Authority;
use quinn::{
    Endpoint, VarInt,
    crypto::rustls::{QuicClientConfig, QuicServerConfig},
};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    net::UdpSocket,
    sync::{OnceCell, mpsc},
    task::JoinSet,
    time::sleep_until,
};

const MS: Duration = Duration::from_millis(1);
const BASE: Duration = Duration::from_millis(100);

/// A path over which packets have come, a millisecond apart, each after `took`.
fn path(packets: u32, took: impl Fn(u32) -> Duration) -> Path {
    let begun = tokio::time::Instant::now().into_std();
    let mut path = Path::new(begun);
    for number in 0..packets {
        let sent = begun + MS * number;
        path.delivered(sent + took(number), sent);
    }
    path
}

#[test]
fn a_loss_without_a_queue_is_noise() {
    assert!(!path(1000, |_| BASE).lost(1));
    // A queue that was there once, and acknowledgements that are late one by one.
    assert!(!path(1000, |number| if number < 500 { 2 * BASE } else { BASE }).lost(1));
    assert!(!path(1000, |number| if number % 5 == 0 { BASE } else { 2 * BASE }).lost(1));
}

#[test]
fn a_loss_behind_a_queue_is_congestion() {
    assert!(path(1000, |number| if number < 500 { BASE } else { BASE + 20 * MS }).lost(1));
    assert!(!path(1000, |number| if number < 500 { BASE } else { BASE + 10 * MS }).lost(1));
    // Near, where no queue shows.
    assert!(path(1000, |_| 5 * MS).lost(1));
}

#[test]
fn many_losses_are_congestion_whatever_is_seen() {
    let mut five_of_a_hundred = path(0, |_| BASE);
    let begun = tokio::time::Instant::now().into_std();
    for number in 0..10_000_u32 {
        let sent = begun + MS * number;
        five_of_a_hundred.delivered(sent + BASE, sent);
        if number % 20 == 0 {
            assert!(!five_of_a_hundred.lost(1), "after {number}");
        }
    }
    // However much came before.
    let mut more = path(100_000, |_| BASE);
    let verdicts: Vec<bool> = (0..60).map(|_| more.lost(1)).collect();
    assert!(verdicts.contains(&true));
}

/// Of a thousand packets, and in bytes a second with so many bytes of queue.
#[derive(Clone, Copy)]
struct Bad {
    lost: u64,
    rate: Option<(u64, u64)>,
}

#[tokio::test]
async fn a_far_path_that_loses_by_chance_does_not_slow_down() {
    let seen = send(1 << 20, Bad { lost: 20, rate: None }).await;
    assert!(seen.noise > 0 && seen.congestion == 0, "{seen:?}");
}

#[tokio::test]
async fn a_narrow_path_does() {
    let seen = send(1 << 19, Bad { lost: 0, rate: Some((1 << 20, 32 << 10)) }).await;
    assert!(seen.congestion > 0, "{seen:?}");
}

#[tokio::test]
async fn a_path_without_a_queue_does() {
    let seen = send(1 << 20, Bad { lost: 0, rate: Some((1 << 20, 4 << 10)) }).await;
    assert!(seen.congestion > 0, "{seen:?}");
}

/// Sends so many bytes over a round trip of 40 ms, and says what was seen.
async fn send(bytes: usize, bad: Bad) -> Seen {
    identity::install_crypto();
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::open_or_create(folder.path()).unwrap();
    let day = Duration::from_hours(24);
    let credentials = authority.issue_service("svc-test", &[], day).unwrap().credentials;
    let mut tls = identity::server_tls(&credentials).unwrap();
    tls.alpn_protocols = vec![b"test".to_vec()];
    let tls = Arc::new(QuicServerConfig::try_from(tls).unwrap());
    let mut config = quinn::ServerConfig::with_crypto(tls);
    config.transport_config(limits::quic(1, 8 << 20));
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let server = Endpoint::server(config, any).unwrap();
    let (address, _relay) = relay(server.local_addr().unwrap(), bad).await;

    let mut tls = identity::client_tls(&credentials).unwrap();
    tls.alpn_protocols = vec![b"test".to_vec()];
    let mut config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
    config.transport_config(limits::quic(0, 8 << 20));
    let client = Endpoint::client(any).unwrap();
    let connecting = client.connect_with(config, address, "svc-test").unwrap();
    let (there, here) = tokio::join!(async { server.accept().await.unwrap().await }, connecting);
    let (there, here) = (there.unwrap(), here.unwrap());
    let mut sending = here.open_uni().await.unwrap();
    let receiving = async {
        let mut stream = there.accept_uni().await.unwrap();
        stream.read_to_end(bytes).await.unwrap().len()
    };
    let sent = async {
        sending.write_all(&vec![7; bytes]).await.unwrap();
        sending.finish().unwrap();
    };
    let (arrived, ()) = tokio::join!(receiving, sent);
    assert_eq!(arrived, bytes);
    let control = here.congestion_state().into_any().downcast::<Control>().unwrap();
    here.close(VarInt::default(), b"");
    control.seen
}

/// Passes on what one client sends, and the answers. Everything goes with the tasks.
async fn relay(server: SocketAddr, bad: Bad) -> (SocketAddr, JoinSet<()>) {
    let front = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
    let back = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
    back.connect(server).await.unwrap();
    let client = Arc::new(OnceCell::new());
    let address = front.local_addr().unwrap();
    let mut tasks = JoinSet::new();
    let ways = [(Arc::clone(&front), Arc::clone(&back)), (back, front)];
    for (number, (from, to)) in ways.into_iter().enumerate() {
        let (queue, mut queued) = mpsc::unbounded_channel::<(tokio::time::Instant, Vec<u8>)>();
        let (known, is_up) = (Arc::clone(&client), number == 0);
        tasks.spawn(async move {
            let (mut packet, mut dice) = (vec![0; 65_536], 42 + number as u64);
            let mut free = tokio::time::Instant::now();
            loop {
                let Ok((length, source)) = from.recv_from(&mut packet).await else { continue };
                if is_up {
                    known.set(source).ok();
                }
                dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let mut leaves = tokio::time::Instant::now();
                if let Some((rate, most)) = bad.rate.filter(|_| is_up) {
                    let takes = |bytes| Duration::from_micros(bytes * 1_000_000 / rate);
                    if free.saturating_duration_since(leaves) > takes(most) {
                        continue;
                    }
                    free = free.max(leaves) + takes(length as u64);
                    leaves = free;
                }
                if (dice >> 33) % 1000 >= bad.lost {
                    queue.send((leaves + 20 * MS, packet[..length].to_vec())).unwrap();
                }
            }
        });
        let client = Arc::clone(&client);
        tasks.spawn(async move {
            while let Some((due, packet)) = queued.recv().await {
                sleep_until(due).await;
                let sent = match client.get().filter(|_| !is_up) {
                    Some(client) => to.send_to(&packet, client).await,
                    None => to.send(&packet).await,
                };
                sent.ok();
            }
        });
    }
    (address, tasks)
}
