//! The transport alone: `cargo run --release -p benches --bin calls`.
//!
//! gRPC calls per second with their latencies, and 256 MiB down and up, in the process, on HTTP/2 and
//! on HTTP/3. Server and client share one process and its cores. For what TLS and QUIC do beneath, run
//! `transfer` in the same minute.

use std::time::Duration;

use anyhow::Result;
use axum::{Router, body::Body, extract::Request, routing};
use benches::{load, mebibytes, now, percentiles, rate};
use bytes::Bytes;
use eventlog::{Clock, Log, server::Access};
use futures::{future::try_join_all, stream};
use http_body_util::{BodyExt, StreamBody};
use identity::{Authority, Peer};
use proto::event_store::client::{
    Empty, server_features::server_features_client::ServerFeaturesClient,
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use transport::{Channel, Protocols, Server};

const TRANSFER: usize = 256 << 20;
const PIECE: usize = 64 << 10;
const CALLS: usize = 40_000;

#[tokio::main]
async fn main() -> Result<()> {
    identity::install_crypto();
    println!("load average: {}", load());
    let folder = tempfile::tempdir()?;
    let day = Duration::from_hours(24);
    let issued = Authority::open_or_create(folder.path())?.issue_service("bench", &[], day)?;
    let credentials = issued.credentials;
    let server = Server::bind("127.0.0.1:0".parse()?, &credentials).await?;
    let address = server.local_addr().to_string();
    let stop = CancellationToken::new();
    let serving = tokio::spawn(server.serve(router(), stop.clone()));
    let remote = |protocols| -> Result<Channel> {
        let tls = identity::client_tls(&credentials)?;
        Ok(Channel::remote(&address, "bench", tls, protocols)?)
    };
    let local = Channel::local(router(), Peer::Service("bench".to_owned()));
    for (name, channel) in [
        ("local", local),
        ("HTTP/2", remote(Protocols::Http2)?),
        ("HTTP/3", remote(Protocols::Http3)?),
    ] {
        for at_once in [1, 32, 256] {
            calls(name, &channel, at_once).await?;
        }
        download(name, channel.clone()).await?;
        upload(name, channel).await?;
    }
    stop.cancel();
    serving.await?;
    println!("load average: {}", load());
    Ok(())
}

fn router() -> Router {
    let log = Log::in_memory(Clock::system());
    eventlog::server::router(log, Access::default(), CancellationToken::new())
        .route("/down", routing::get(|| async { Body::new(pieces()) }))
        .route("/up", routing::put(receive))
}

fn pieces()
-> StreamBody<impl futures::Stream<Item = Result<http_body::Frame<Bytes>, std::io::Error>>> {
    let piece = Bytes::from(vec![7; PIECE]);
    let pieces = (0..TRANSFER / PIECE).map(move |_| Ok(http_body::Frame::data(piece.clone())));
    StreamBody::new(stream::iter(pieces))
}

async fn receive(request: Request) -> String {
    drain(request.into_body()).await.map_or_else(|error| error.to_string(), |got| got.to_string())
}

async fn drain<B: http_body::Body<Data = Bytes> + Unpin>(mut body: B) -> Result<usize, B::Error> {
    let mut got = 0;
    while let Some(frame) = body.frame().await {
        got += frame?.data_ref().map_or(0, Bytes::len);
    }
    Ok(got)
}

async fn calls(name: &str, channel: &Channel, at_once: usize) -> Result<()> {
    let begun = now();
    let callers = (0..at_once).map(|_| {
        let mut client = ServerFeaturesClient::new(channel.clone());
        tokio::spawn(async move {
            let mut took = Vec::new();
            for _ in 0..CALLS / at_once {
                let begun = now();
                client.get_supported_methods(Empty {}).await?;
                took.push(begun.elapsed());
            }
            Ok::<_, tonic::Status>(took)
        })
    });
    let mut took = Vec::new();
    for caller in try_join_all(callers).await? {
        took.extend(caller?);
    }
    let rate = rate(took.len(), begun.elapsed());
    println!("{name}, {at_once} at once: {rate:.0} calls/s, {}", percentiles(&mut took));
    Ok(())
}

async fn download(name: &str, channel: Channel) -> Result<()> {
    let begun = now();
    let request = http::Request::get("/down").body(tonic::body::Body::empty())?;
    let got = drain(channel.oneshot(request).await?.into_body()).await?;
    anyhow::ensure!(got == TRANSFER, "{got} bytes came");
    println!("{name}, down: {:.0} MiB/s", mebibytes(got, begun.elapsed()));
    Ok(())
}

async fn upload(name: &str, channel: Channel) -> Result<()> {
    let begun = now();
    let request = http::Request::put("/up").body(tonic::body::Body::new(pieces()))?;
    let answer = channel.oneshot(request).await?.into_body().collect().await?.to_bytes();
    anyhow::ensure!(answer == TRANSFER.to_string(), "{answer:?} bytes came");
    println!("{name}, up: {:.0} MiB/s", mebibytes(TRANSFER, begun.elapsed()));
    Ok(())
}
