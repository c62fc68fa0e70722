//! Networks that block UDP, servers that stop and come back, ports that are taken.

use crate::{
    house::{House, PATIENCE, Way, reaches, service, soon},
    vehicle::rpc::{AppendRequest, HeadRequest, ReadStreamRequest, vehicle_client::VehicleClient},
};
use bytes::Bytes;
use futures::future::join_all;
use http::{Request, Version, header::ALT_SVC};
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream, UdpSocket},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tonic::Code;
use transport::{Channel, Protocol, Protocols, Server};

fn client(channel: &Channel) -> VehicleClient<Channel> {
    VehicleClient::new(channel.clone())
}

async fn head(channel: &Channel) -> Result<u64, tonic::Status> {
    Ok(soon(client(channel).head(HeadRequest {})).await?.into_inner().next_position)
}

/// Passes TCP on to the house; UDP to the same port gets no answer.
async fn without_udp(house: &House) -> (SocketAddr, UdpSocket) {
    let (tcp, udp) = ports().await;
    let address = tcp.local_addr().unwrap();
    pass_tcp(tcp, house.address);
    (address, udp)
}

/// A free port of both protocols.
async fn ports() -> (TcpListener, UdpSocket) {
    loop {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()).await {
            return (tcp, udp);
        }
    }
}

fn pass_tcp(tcp: TcpListener, to: SocketAddr) {
    tokio::spawn(async move {
        while let Ok((mut inbound, _)) = tcp.accept().await {
            let mut outbound = TcpStream::connect(to).await.unwrap();
            tokio::spawn(async move { copy_bidirectional(&mut inbound, &mut outbound).await });
        }
    });
}

/// Passes both on to the house, of one client, until it is told to swallow UDP.
async fn until_udp_ends(house: &House) -> (SocketAddr, CancellationToken) {
    let (tcp, front) = ports().await;
    let (address, to, ended) = (tcp.local_addr().unwrap(), house.address, CancellationToken::new());
    pass_tcp(tcp, to);
    let passing = ended.clone();
    tokio::spawn(async move {
        let back = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let (mut up, mut down, mut client) = (vec![0; 65_536], vec![0; 65_536], to);
        loop {
            tokio::select! {
                Ok((length, from)) = front.recv_from(&mut up) => {
                    client = from;
                    if !passing.is_cancelled() {
                        back.send_to(&up[..length], to).await.ok();
                    }
                }
                Ok((length, _)) = back.recv_from(&mut down) => {
                    if !passing.is_cancelled() {
                        front.send_to(&down[..length], client).await.ok();
                    }
                }
            }
        }
    });
    (address, ended)
}

#[tokio::test]
async fn where_udp_passes_no_more_http2_takes_over() {
    let house = House::open().await;
    let (address, udp_ends) = until_udp_ends(&house).await;
    let tls = identity::client_tls(&house.credentials).unwrap();
    let channel =
        Channel::remote(&address.to_string(), "svc-test", tls, Protocols::PreferHttp3).unwrap();
    let idle = ReadStreamRequest { stream: "idle".to_owned(), limit: 1 };
    let mut events = soon(client(&channel).read_stream(idle)).await.unwrap().into_inner();
    soon(events.message()).await.unwrap().unwrap();
    assert_eq!(channel.protocol(), Some(Protocol::Http3));
    udp_ends.cancel();
    // It ends because of what the channel saw, not when QUIC gave up.
    let why = soon(events.message()).await.unwrap_err();
    assert!(!why.message().contains("timed out"), "{why}");
    assert_eq!(head(&channel).await.unwrap(), 42);
    assert_eq!(channel.protocol(), Some(Protocol::Http2));
}

#[tokio::test]
async fn http3_is_preferred() {
    let house = House::open().await;
    let channel = house.remote(&house.credentials, Protocols::PreferHttp3);
    assert_eq!(head(&channel).await.unwrap(), 42);
    assert_eq!(channel.protocol(), Some(Protocol::Http3));
}

#[tokio::test]
async fn where_udp_does_not_pass_http2_is_used() {
    let house = House::open().await;
    let (address, _silent) = without_udp(&house).await;
    let tls = identity::client_tls(&house.credentials).unwrap();
    let channel =
        Channel::remote(&address.to_string(), "svc-test", tls, Protocols::PreferHttp3).unwrap();
    assert_eq!(head(&channel).await.unwrap(), 42);
    assert_eq!(channel.protocol(), Some(Protocol::Http2));
}

#[tokio::test]
async fn a_server_that_is_absent_is_reported_and_found_once_it_is_there() {
    let credentials = service("svc-test");
    let reserved = Server::bind("127.0.0.1:0".parse().unwrap(), &credentials).await.unwrap();
    let address = reserved.local_addr();
    drop(reserved);
    let tls = identity::client_tls(&credentials).unwrap();
    let server = format!("https://localhost:{}", address.port());
    let channel = Channel::remote(&server, "svc-test", tls, Protocols::Http2).unwrap();
    let status = head(&channel).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains(&format!("localhost:{}", address.port())), "{status}");
    let _house = House::at(address).await;
    assert_eq!(head(&channel).await.unwrap(), 42);
}

#[tokio::test]
async fn localhost_is_found_though_the_server_listens_on_ipv4_alone() {
    let house = House::open().await;
    for protocols in [Protocols::Http2, Protocols::Http3, Protocols::PreferHttp3] {
        let tls = identity::client_tls(&house.credentials).unwrap();
        let server = format!("localhost:{}", house.address.port());
        let channel = Channel::remote(&server, "svc-test", tls, protocols).unwrap();
        assert_eq!(head(&channel).await.unwrap(), 42, "{protocols:?}");
    }
}

#[tokio::test]
async fn calls_go_on_after_a_restart_on_the_same_port() {
    let house = House::open().await;
    let address = house.address;
    let channels = [Way::Http2, Way::Http3].map(|way| house.channel(way));
    for channel in &channels {
        assert_eq!(head(channel).await.unwrap(), 42);
    }
    house.close().await;
    let _house = House::at(address).await;
    for channel in &channels {
        // The first call may meet the old connection before the news of its end has arrived.
        while head(channel).await.is_err() {}
    }
}

/// Without a word: no GOAWAY, no close. QUIC's client must not wait for its idle timeout.
#[test]
fn calls_go_on_after_a_server_was_killed_and_came_back() {
    let runtime = || tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let servers = runtime();
    let house = servers.block_on(House::open());
    let address = house.address;
    let clients = runtime();
    let channels = [Way::Http2, Way::Http3].map(|way| house.channel(way));
    clients.block_on(async {
        for channel in &channels {
            assert_eq!(head(channel).await.unwrap(), 42);
        }
    });
    servers.shutdown_timeout(PATIENCE);
    clients.block_on(async {
        let _house = House::with(address, house.credentials.clone()).await;
        for channel in &channels {
            let again = async { while head(channel).await.is_err() {} };
            timeout(Duration::from_secs(8), again).await.expect("the client learns of it soon");
        }
    });
}

#[tokio::test]
async fn running_calls_finish_when_the_server_stops_and_new_ones_are_refused() {
    for way in [Way::Http2, Way::Http3] {
        let house = House::open().await;
        let channel = house.channel(way);
        let begun = house.seen.begun.clone();
        let slow = AppendRequest { stream: "until told".to_owned(), ..AppendRequest::default() };
        let mut client = client(&channel);
        let call = tokio::spawn(async move { client.append(slow).await });
        reaches(&begun, 1).await;
        house.shutdown.cancel();
        // A new connection is refused once the server has begun to stop.
        let refused = async { while head(&house.channel(way)).await.is_ok() {} };
        soon(refused).await;
        assert!(!call.is_finished() && !house.task.is_finished(), "{way:?}");
        house.seen.told.cancel();
        soon(call).await.unwrap().unwrap_or_else(|status| panic!("{way:?}: {status}"));
        soon(house.task).await.unwrap();
    }
}

#[tokio::test]
async fn calls_that_do_not_finish_are_cut_off_when_the_server_stops() {
    let cut_off = |way| async move {
        let house = House::open().await;
        let channel = house.channel(way);
        let idle = ReadStreamRequest { stream: "idle".to_owned(), limit: 1 };
        let mut events = soon(client(&channel).read_stream(idle)).await.unwrap().into_inner();
        soon(events.message()).await.unwrap().unwrap();
        let seen = house.seen.clone();
        house.close().await;
        let end = soon(events.message()).await;
        assert!(end.is_err(), "{way:?}: a stream that was cut off must not look whole: {end:?}");
        reaches(&seen.cancelled, 1).await;
    };
    tokio::join!(cut_off(Way::Http2), cut_off(Way::Http3));
}

#[tokio::test]
async fn a_server_that_is_dropped_cuts_its_calls_off() {
    for way in [Way::Http2, Way::Http3] {
        let house = House::open().await;
        let channel = house.channel(way);
        let idle = ReadStreamRequest { stream: "idle".to_owned(), limit: 1 };
        let mut events = soon(client(&channel).read_stream(idle)).await.unwrap().into_inner();
        soon(events.message()).await.unwrap().unwrap();
        house.task.abort();
        soon(events.message()).await.unwrap_err();
        reaches(&house.seen.cancelled, 1).await;
    }
}

#[tokio::test]
async fn many_calls_share_one_connection() {
    let house = House::open().await;
    let (address, _silent) = without_udp(&house).await;
    let tls = identity::client_tls(&house.credentials).unwrap();
    let channel = Channel::remote(&address.to_string(), "svc-test", tls, Protocols::Http2).unwrap();
    let calls = join_all((0..50).map(|_| head(&channel))).await;
    assert!(calls.iter().all(Result::is_ok));
    assert_eq!(house.seen.addresses.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn an_occupied_port_is_named() {
    let house = House::open().await;
    let error = Server::bind(house.address, &house.credentials).await.unwrap_err();
    let port = house.address.port().to_string();
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
    let text = error.to_string();
    assert!(text.contains(&port) && text.contains("in use"), "{text}");
    let udp = loop {
        let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        if std::net::TcpListener::bind(udp.local_addr().unwrap()).is_ok() {
            break udp;
        }
    };
    let error = Server::bind(udp.local_addr().unwrap(), &house.credentials).await.unwrap_err();
    assert!(error.to_string().contains("UDP port"), "{error}");
}

#[tokio::test]
async fn http1_is_served_too_and_learns_of_http3() {
    let house = House::open().await;
    let mut tls = identity::client_tls(&house.credentials).unwrap();
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let stream = TcpStream::connect(house.address).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(tls));
    let name = ServerName::try_from("svc-test").unwrap();
    let stream = connector.connect(name, stream).await.unwrap();
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.unwrap();
    tokio::spawn(connection);
    let request = Request::get("/whoami").header("host", "svc-test");
    let request = request.body(Empty::<Bytes>::new()).unwrap();
    let response = soon(sender.send_request(request)).await.unwrap();
    assert_eq!(response.version(), Version::HTTP_11);
    let announced = response.headers()[ALT_SVC].to_str().unwrap().to_owned();
    assert!(announced.starts_with(&format!("h3=\":{}\"", house.address.port())), "{announced}");
    let body = axum::body::to_bytes(axum::body::Body::new(response.into_body()), 1000).await;
    let text = String::from_utf8(body.unwrap().into()).unwrap();
    assert!(text.contains("Http1"), "{text}");
}

#[tokio::test]
async fn http3_is_announced_over_tcp_only() {
    let house = House::open().await;
    for (way, announced) in [(Way::Http2, true), (Way::Http3, false)] {
        let request = Request::get("/whoami").body(tonic::body::Body::empty()).unwrap();
        let call = tower::ServiceExt::oneshot(house.channel(way), request);
        let response = soon(call).await.unwrap();
        assert_eq!(response.headers().contains_key(ALT_SVC), announced, "{way:?}");
    }
}

#[tokio::test]
async fn what_is_no_server_address_is_refused() {
    let tls = || identity::client_tls(&service("svc-test")).unwrap();
    for text in [
        "",
        "host",
        "http://host:1",
        "host:0",
        "host:99999",
        "https://:1",
        "a b:1",
        "u@h:1",
        "https://h:1/path",
    ] {
        let error = Channel::remote(text, "svc-test", tls(), Protocols::Http2).unwrap_err();
        assert!(error.to_string().contains(&format!("`{text}`")), "{error}");
    }
    for text in ["host:1", "https://host:1", "https://host:1/", "[::1]:1"] {
        Channel::remote(text, "svc-test", tls(), Protocols::Http2).unwrap();
    }
}

/// The gateway has one open for each worker.
#[tokio::test]
async fn a_service_has_more_calls_open_at_once_than_any_worker() {
    const CALLS: u64 = 1_500;
    for protocols in [Protocols::Http2, Protocols::Http3] {
        let house = House::open().await;
        let channel = house.remote(&house.credentials, protocols);
        let calls = (0..CALLS).map(|_| {
            let mut client = client(&channel);
            let request = AppendRequest { stream: "until told".into(), ..Default::default() };
            async move { client.append(request).await }
        });
        let all_begun = async {
            reaches(&house.seen.begun, CALLS).await;
            house.seen.told.cancel();
        };
        let (answers, ()) = futures::future::join(join_all(calls), all_begun).await;
        assert!(answers.iter().all(Result::is_ok), "{protocols:?}");
    }
}
