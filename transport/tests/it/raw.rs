//! A client that speaks HTTP/3 badly, byte by byte.

use crate::{
    house::{House, Way, reaches, soon},
    vehicle::rpc::{HeadRequest, vehicle_client::VehicleClient},
};
use quinn::crypto::rustls::QuicClientConfig;
use std::sync::Arc;

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
