//! Binaries and logs through the public door: `cargo run --release -p benches --bin transfer`.
//!
//! A real server process; this program is the worker. A binary of 256 MiB is uploaded and downloaded, and
//! a log of 128 MiB is sent in pieces of 1 MiB, each durable before its answer, on HTTP/2 and HTTP/3. Beside
//! it what TLS over TCP, raw QUIC and the disk do, in the same minute.

use std::{io::Write, net::SocketAddr, sync::Arc};

use anyhow::{Context, Result};
use benches::{BenchWorker, load, mebibytes, now};
use bytes::Bytes;
use http::Request;
use identity::{Authority, Credentials};
use rustls_pki_types::ServerName;
use serde_json::json;
use tests::Cluster;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use transport::Protocols;

const BINARY: usize = 256 << 20;
const LOG: usize = 128 << 20;
const PIECE: usize = 1 << 20;

fn main() -> Result<()> {
    // This program is also the server.
    if std::env::args().nth(1).as_deref() == Some("server") {
        std::process::exit(i32::from(gaia::main() != std::process::ExitCode::SUCCESS));
    }
    identity::install_crypto();
    tokio::runtime::Runtime::new()?.block_on(bench())
}

async fn bench() -> Result<()> {
    println!("load average: {}", load());
    let folder = tempfile::tempdir()?;
    let authority = Authority::open_or_create(folder.path())?;
    let day = std::time::Duration::from_hours(24);
    let credentials = authority.issue_service("bench", &[], day)?.credentials;
    raw_disk(folder.path())?;
    raw_tls(&credentials).await?;
    raw_quic(&credentials).await?;

    let cluster = Cluster::start(&std::env::current_exe()?).await?;
    for (name, http) in [("HTTP/2", Protocols::Http2), ("HTTP/3", Protocols::Http3)] {
        let worker = BenchWorker::join(&cluster, name, http).await?;
        // Bytes that no other round has, or the upload would be known already.
        let binary: Bytes = name.bytes().cycle().take(BINARY).collect::<Vec<u8>>().into();
        let begun = now();
        let pipeline = worker.pipeline(&cluster, name, binary).await?;
        println!("{name}, binary up: {:.0} MiB/s", mebibytes(BINARY, begun.elapsed()));
        let run = cluster.start_run(&pipeline, json!({})).await?;
        let (order, _) = worker.order().await?;
        let digest = ids::Digest::try_from(order.sha_sum.as_slice())?;
        let begun = now();
        let path = format!("/artifacts/sha256/{digest}");
        let got = worker.bulk(&order, Request::get(path), Bytes::new()).await?;
        anyhow::ensure!(got == BINARY, "{got} bytes came back");
        println!("{name}, binary down: {:.0} MiB/s", mebibytes(BINARY, begun.elapsed()));

        worker.report(&order, "running").await?;
        let line: Bytes = [b'x'; 99].into_iter().chain([b'\n']).collect::<Vec<u8>>().into();
        let piece: Bytes = line.iter().copied().cycle().take(PIECE).collect::<Vec<u8>>().into();
        let begun = now();
        for offset in (0..LOG).step_by(PIECE) {
            let path =
                format!("/runs/{}/attempts/{}/log?offset={offset}", order.unique_id, order.attempt);
            worker.bulk(&order, Request::put(path), piece.clone()).await?;
        }
        println!("{name}, log, each MiB durable: {:.0} MiB/s", mebibytes(LOG, begun.elapsed()));
        worker.report(&order, "success").await?;
        cluster.ended(&run.uniqueid).await?;
        worker.leave().await?;
    }
    println!("load average: {}", load());
    Ok(())
}

/// Writes of 1 MiB with `fdatasync`.
fn raw_disk(folder: &std::path::Path) -> Result<()> {
    let mut file = std::fs::File::create(folder.join("raw"))?;
    let (piece, begun) = (vec![7; PIECE], now());
    for _ in (0..LOG).step_by(PIECE) {
        file.write_all(&piece)?;
        file.sync_data()?;
    }
    println!("raw disk, fdatasync each MiB: {:.0} MiB/s", mebibytes(LOG, begun.elapsed()));
    Ok(())
}

async fn raw_tls(credentials: &Credentials) -> Result<()> {
    let server = tokio_rustls::TlsAcceptor::from(Arc::new(identity::server_tls(credentials)?));
    let client = tokio_rustls::TlsConnector::from(Arc::new(identity::client_tls(credentials)?));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let sender = tokio::spawn(async move {
        let (stream, _) = listener.accept().await?;
        let mut stream = server.accept(stream).await?;
        let piece = vec![7; PIECE];
        for _ in (0..BINARY).step_by(PIECE) {
            stream.write_all(&piece).await?;
        }
        stream.shutdown().await
    });
    let stream = TcpStream::connect(address).await?;
    let mut stream = client.connect(ServerName::try_from("localhost")?, stream).await?;
    let (mut buffer, mut got, begun) = (vec![0; PIECE], 0, now());
    loop {
        match stream.read(&mut buffer).await? {
            0 => break,
            count => got += count,
        }
    }
    sender.await??;
    println!("raw TLS over TCP: {:.0} MiB/s", mebibytes(got, begun.elapsed()));
    Ok(())
}

async fn raw_quic(credentials: &Credentials) -> Result<()> {
    let mut server = identity::server_tls(credentials)?;
    let mut client = identity::client_tls(credentials)?;
    server.alpn_protocols = vec![b"raw".to_vec()];
    client.alpn_protocols = vec![b"raw".to_vec()];
    let server = quinn::crypto::rustls::QuicServerConfig::try_from(server)?;
    let client = quinn::crypto::rustls::QuicClientConfig::try_from(client)?;
    let any: SocketAddr = "127.0.0.1:0".parse()?;
    let listener =
        quinn::Endpoint::server(quinn::ServerConfig::with_crypto(Arc::new(server)), any)?;
    let address = listener.local_addr()?;
    let sender = tokio::spawn(async move {
        let connection = listener.accept().await.context("nobody connects")?.await?;
        let mut stream = connection.open_uni().await?;
        let piece = vec![7; PIECE];
        for _ in (0..BINARY).step_by(PIECE) {
            stream.write_all(&piece).await?;
        }
        stream.finish()?;
        stream.stopped().await?;
        anyhow::Ok(())
    });
    let mut endpoint = quinn::Endpoint::client(any)?;
    endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(client)));
    let connection = endpoint.connect(address, "localhost")?.await?;
    let mut stream = connection.accept_uni().await?;
    let (mut got, begun) = (0, now());
    while let Some(chunk) = stream.read_chunk(usize::MAX, true).await? {
        got += chunk.bytes.len();
    }
    println!("raw QUIC: {:.0} MiB/s", mebibytes(got, begun.elapsed()));
    sender.await??;
    Ok(())
}
