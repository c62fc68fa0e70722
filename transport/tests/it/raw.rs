//! Clients that look at the bytes: what they are told, and what becomes of those that do it badly.

use crate::{
    house::{House, Way, authority, reaches, soon},
    vehicle::rpc::{HeadRequest, vehicle_client::VehicleClient},
};
use futures::FutureExt;
use quinn::crypto::rustls::QuicClientConfig;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use std::{collections::HashMap, sync::Arc};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

/// `POST /protobuf.Worker/StreamLogs` in QPACK's static table and literals (RFC 9204).
fn headers() -> Vec<u8> {
    let mut block = vec![0, 0, 0xd4, 0xd7];
    for (name, value) in [
        (&[0x50][..], "svc-test"),
        (&[0x51], "/protobuf.Worker/StreamLogs"),
        (&[0x5f, 0x1d], "application/grpc"),
    ] {
        block.extend_from_slice(name);
        block.push(value.len() as u8);
        block.extend_from_slice(value.as_bytes());
    }
    frame(1, block.len(), &block)
}

/// A frame that promises `length` bytes.
fn frame(kind: u8, length: usize, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind, 0x40 | (length >> 8) as u8, length as u8];
    bytes.extend_from_slice(payload);
    bytes
}

async fn connect(house: &House) -> (quinn::Endpoint, quinn::Connection, quinn::SendStream) {
    let mut tls = identity::client_tls(&house.credentials).unwrap();
    tls.alpn_protocols = vec![b"h3".to_vec()];
    let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
    let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let connecting = endpoint.connect_with(config, house.address, "svc-test").unwrap();
    let connection = soon(connecting).await.unwrap();
    let mut control = connection.open_uni().await.unwrap();
    control.write_all(&[0, 4, 0]).await.unwrap();
    (endpoint, connection, control)
}

/// Ten whole, empty messages, and then the end: in a frame that holds them all, or amid one.
async fn upload(house: &House, promised: usize) {
    let (_endpoint, connection, _control) = connect(house).await;
    let (mut send, mut receive) = connection.open_bi().await.unwrap();
    send.write_all(&headers()).await.unwrap();
    send.write_all(&frame(0, promised, &[0; 50])).await.unwrap();
    send.finish().unwrap();
    // The answer, or the reset.
    drop(soon(receive.read_to_end(10_000)).await);
    assert!(connection.close_reason().is_none(), "one bad call must not end the connection");
}

#[tokio::test]
async fn an_upload_in_a_whole_frame_is_whole() {
    let house = House::open().await;
    upload(&house, 50).await;
    reaches(&house.seen.whole, 1).await;
}

#[tokio::test]
async fn an_upload_that_is_cut_off_within_a_frame_is_not_whole() {
    let house = House::open().await;
    upload(&house, 100).await;
    reaches(&house.seen.broken, 1).await;
    assert_eq!(*house.seen.whole.borrow(), 0);
}

#[tokio::test]
async fn a_client_that_talks_nonsense_harms_nobody_else() {
    let house = House::open().await;
    let mut client = VehicleClient::new(house.channel(Way::Http3));
    for nonsense in [&[0xff; 40][..], &[0, 4, 0, 0], &[1, 0], &[0x21], &[]] {
        let (_endpoint, connection, _control) = connect(&house).await;
        let (mut send, mut receive) = connection.open_bi().await.unwrap();
        send.write_all(nonsense).await.unwrap();
        send.finish().unwrap();
        drop(soon(receive.read_to_end(10_000)).await);
        soon(client.head(HeadRequest {})).await.unwrap();
    }
}

/// One without a certificate, and a service.
fn peers(house: &House) -> [ClientConfig; 2] {
    let anonymous = identity::anonymous_client_tls(&authority().ca_pem()).unwrap();
    [anonymous, identity::client_tls(&house.credentials).unwrap()]
}

fn server_name() -> ServerName<'static> {
    ServerName::try_from("svc-test").unwrap()
}

fn over_quic(mut tls: ClientConfig) -> quinn::ClientConfig {
    tls.alpn_protocols = vec![b"h3".to_vec()];
    quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()))
}

/// The settings of HTTP/2 by their numbers (RFC 9113, section 6.5.2), and the connection's window.
async fn told(house: &House, mut tls: ClientConfig) -> (HashMap<u16, u32>, u32) {
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let stream = TcpStream::connect(house.address).await.unwrap();
    let connecting = TlsConnector::from(Arc::new(tls)).connect(server_name(), stream);
    let mut stream = connecting.await.unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
    let (mut settings, mut window) = (HashMap::new(), 65_535);
    while settings.is_empty() || window == 65_535 {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.unwrap();
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; length];
        stream.read_exact(&mut payload).await.unwrap();
        match head[3] {
            4 => settings.extend(payload.as_chunks::<6>().0.iter().map(|[a, b, value @ ..]| {
                (u16::from_be_bytes([*a, *b]), u32::from_be_bytes(*value))
            })),
            8 => window += u32::from_be_bytes(payload[..].try_into().unwrap()),
            _ => {}
        }
    }
    (settings, window)
}

#[tokio::test]
async fn what_a_client_may_send_is_told_at_the_beginning() {
    let house = House::open().await;
    let limits = [(256, 16 << 20), (65_536, 128 << 20)];
    for (tls, (streams, connection_window)) in peers(&house).into_iter().zip(limits) {
        let (settings, window) = soon(told(&house, tls.clone())).await;
        // MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_HEADER_LIST_SIZE.
        let told = [3, 4, 6].map(|setting| settings[&setting]);
        assert_eq!((told, window), ([streams, 1 << 20, 64 << 10], connection_window));

        let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
        let connecting = endpoint.connect_with(over_quic(tls), house.address, "svc-test").unwrap();
        let connection = soon(connecting).await.unwrap();
        let calls = || connection.open_bi().now_or_never();
        assert_eq!(std::iter::from_fn(calls).count(), 32, "for a beginning");
        let others = || connection.open_uni().now_or_never();
        assert_eq!(std::iter::from_fn(others).count(), 8);
    }
}

#[tokio::test]
async fn who_uses_the_room_for_calls_gets_more_of_it_up_to_a_bound() {
    let house = House::open().await;
    let [anonymous, _] = peers(&house);
    let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let connecting = endpoint.connect_with(over_quic(anonymous), house.address, "svc-test");
    let connection = soon(connecting.unwrap()).await.unwrap();
    let mut control = connection.open_uni().await.unwrap();
    control.write_all(&[0, 4, 0]).await.unwrap();
    let mut calls = vec![];
    for _ in 0..256 {
        let (mut send, receive) = soon(connection.open_bi()).await.unwrap();
        // The beginning of a head whose end does not come.
        send.write_all(&headers()[..5]).await.unwrap();
        calls.push((send, receive));
    }
    assert!(connection.open_bi().now_or_never().is_none(), "more than 256");
    // Those that end make room for others.
    for (mut send, _) in calls.drain(..128) {
        send.reset(0_u8.into()).unwrap();
    }
    soon(connection.open_bi()).await.unwrap();
}

/// A request that came before the end of the handshake could be a repetition of somebody's.
#[tokio::test]
async fn no_request_is_taken_before_the_handshake_is_over() {
    let house = House::open().await;
    let [_, mut tls] = peers(&house);
    // One that would gladly begin early.
    tls.resumption = rustls::client::Resumption::in_memory_sessions(8);
    tls.enable_early_data = true;
    let quic = over_quic(tls.clone());
    let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    for _ in 0..3 {
        let connecting = endpoint.connect_with(quic.clone(), house.address, "svc-test").unwrap();
        let connecting = connecting.into_0rtt().err().expect("nothing says that one may");
        let connection = soon(connecting).await.unwrap();
        let mut control = connection.open_uni().await.unwrap();
        control.write_all(&[0, 4, 0]).await.unwrap();
        // Whatever comes with the handshake has come once there is an answer.
        let (mut send, mut receive) = connection.open_bi().await.unwrap();
        send.write_all(&headers()).await.unwrap();
        send.finish().unwrap();
        soon(receive.read_to_end(10_000)).await.unwrap();
        connection.close(0_u8.into(), b"");
    }
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let tls = Arc::new(tls);
    for _ in 0..3 {
        let stream = TcpStream::connect(house.address).await.unwrap();
        let mut stream =
            TlsConnector::from(tls.clone()).connect(server_name(), stream).await.unwrap();
        let request = b"GET /whoami HTTP/1.1\r\nhost: svc-test\r\nconnection: close\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let mut answer = vec![];
        soon(stream.read_to_end(&mut answer)).await.unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
        let mut next = rustls::ClientConnection::new(tls.clone(), server_name()).unwrap();
        assert!(next.early_data().is_none());
    }
}
