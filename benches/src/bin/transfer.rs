//! Binaries and logs through the public door: `cargo run --release -p benches --bin transfer`.
//!
//! A real server process; this program is the worker. A binary is uploaded whole, changed, uploaded in
//! chunks, and downloaded, and a log is sent in pieces of 1 MiB, each durable before its answer, on HTTP/2
//! and HTTP/3. Beside it what TCP, TLS over TCP, raw QUIC and the disk do, in the same run. Then how long a
//! small call takes beside a bulk one, and a download over a path of 100 ms that loses nothing, and one
//! packet of a hundred. Processor time is that of both ends.

use std::{io::Write, net::SocketAddr, process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use benches::{BenchWorker, Relay, Usage, load, mebibytes, now, percentiles, run};
use bytes::Bytes;
use chunks::{Chunk, Cutter, Manifest, frames};
use clap::Parser;
use http::Request;
use identity::{Authority, Credentials};
use ids::Digest;
use proto::worker::PipelineRun;
use quinn::congestion::{BbrConfig, ControllerFactory, CubicConfig};
use rustls_pki_types::ServerName;
use serde_json::json;
use tests::Cluster;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use transport::Protocols;

const BINARY: usize = 128 << 20;
const LOG: usize = 64 << 20;
const PIECE: usize = 1 << 20;
/// What goes over the far path.
const FAR: usize = 8 << 20;
/// One way.
const DELAY: Duration = Duration::from_millis(50);
/// Of a thousand packets.
const LOST: u64 = 10;
/// Small calls whose time is taken.
const CALLS: usize = 300;

/// Transfers of binaries and logs, each beside the raw line: takes no options.
#[derive(Parser, Debug)]
struct Arguments {}

fn main() -> Result<ExitCode> {
    run(async |_: Arguments| {
        identity::install_crypto();
        bench().await
    })
}

async fn bench() -> Result<()> {
    println!("load average: {}", load());
    let folder = tempfile::tempdir()?;
    let authority = Authority::open_or_create(folder.path())?;
    let day = Duration::from_hours(24);
    let credentials = authority.issue_service("bench", &[], day)?.credentials;
    raw_disk(folder.path())?;
    measured("raw TCP", BINARY, None, raw_tcp(None)).await?;
    measured("raw TLS over TCP", BINARY, None, raw_tcp(Some(&credentials))).await?;
    let local = raw_quic(&credentials, BINARY, None, Arc::new(CubicConfig::default()));
    measured("raw QUIC", BINARY, None, local).await?;

    let cluster = Cluster::start(&std::env::current_exe()?).await?;
    for (name, http) in [("HTTP/2", Protocols::Http2), ("HTTP/3", Protocols::Http3)] {
        through_the_door(&cluster, name, http).await?;
    }
    for lost in [0, LOST] {
        far(&cluster, &credentials, lost).await?;
    }
    println!("load average: {}", load());
    Ok(())
}

/// Prints how fast it was, and what it cost both ends.
async fn measured<T>(
    what: &str,
    bytes: usize,
    server: Option<u32>,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    let ends: Vec<u32> = server.into_iter().chain([std::process::id()]).collect();
    let used = || ends.iter().map(|pid| Usage::of(*pid)).collect::<Result<Vec<_>>>();
    let (before, begun) = (used()?, now());
    let done = work.await?;
    let took = begun.elapsed();
    let cpu: Duration =
        used()?.into_iter().zip(before).map(|(now, before)| now.cpu_since(before)).sum();
    let speed = mebibytes(bytes, took);
    let cost = cpu.as_secs_f64() / mebibytes(bytes, Duration::from_secs(1024));
    println!("{what}: {speed:.0} MiB/s, {cost:.2} CPU-s/GiB");
    Ok(done)
}

async fn through_the_door(cluster: &Cluster, name: &str, http: Protocols) -> Result<()> {
    let server = Some(cluster.pid("server")?);
    let worker = BenchWorker::join(cluster, name, http).await?;
    // Bytes that no other round has, or the upload would be known already; no compression makes them less.
    let mut binary = noise(BINARY, name.len() as u64 + u64::from(http == Protocols::Http3));
    let building = worker.pipeline(cluster, name, binary.clone().into());
    let pipeline = measured(&format!("{name}, whole binary up"), BINARY, server, building).await?;
    let run = cluster.start_run(&pipeline, json!({})).await?;
    let (order, _) = worker.order().await?;
    let digest = Digest::of(&binary);
    let down = download(&worker, &order, digest);
    measured(&format!("{name}, binary down"), BINARY, server, down).await?;
    beside(name, &worker, &order, digest).await?;
    append_log(name, &worker, &order, server).await?;
    worker.report(&order, "success").await?;
    cluster.ended(&run.uniqueid).await?;

    // 1 % in one place, and in fifty.
    let edit = noise(BINARY / 100, 99);
    binary.splice(BINARY / 2..BINARY / 2, edit.iter().copied());
    edited(cluster, &worker, (name, "1 % inserted"), &binary).await?;
    for place in 0..50 {
        let at = place * (binary.len() / 50);
        binary[at..at + edit.len() / 50].copy_from_slice(&edit[..edit.len() / 50]);
    }
    edited(cluster, &worker, (name, "1 % in 50 places"), &binary).await?;
    worker.leave().await
}

async fn download(worker: &BenchWorker, order: &PipelineRun, digest: Digest) -> Result<()> {
    let request = Request::get(format!("/artifacts/sha256/{digest}"));
    let got = worker.bulk(order, request, Bytes::new()).await?;
    ensure!(got >= FAR, "{got} bytes came back");
    Ok(())
}

/// Uploads in chunks, and prints what moved.
async fn edited(
    cluster: &Cluster,
    worker: &BenchWorker,
    (tag, edit): (&str, &str),
    binary: &[u8],
) -> Result<()> {
    let name = format!("{tag}, {edit}");
    let (order, _) = worker.build(cluster, &name.replace(['%', ','], ""), tag).await?;
    let mut cutter = Cutter::default();
    let mut cut = cutter.push(binary);
    cut.extend(cutter.finish());
    let manifest: Manifest = cut.iter().map(|chunk| Chunk::of(chunk)).collect();
    let path = format!("/artifacts/sha256/{}", Digest::of(binary));
    let list = manifest.encode();
    let begun = now();
    let put = || Request::put(format!("{path}/manifest"));
    let (missing, _) = worker.ask(&order, put(), list.clone()).await?;
    let missing: serde_json::Value = serde_json::from_slice(&missing)?;
    let numbers = missing["missing"].as_array().context("the server says what it lacks")?;
    let mut body = vec![];
    for number in numbers {
        let chunk = &cut[number.as_u64().context("a number")? as usize];
        let stored = chunks::pack(chunk);
        body.extend_from_slice(&frames::head(Digest::of(chunk), &stored));
        body.extend_from_slice(&stored);
    }
    let moved = body.len() + 2 * list.len();
    worker.ask(&order, Request::put(format!("{path}/chunks")), body.into()).await?;
    let (_, status) = worker.ask(&order, put(), list).await?;
    ensure!(status == http::StatusCode::CREATED, "{status}");
    let share = mebibytes(moved, Duration::from_secs(1)) * 100.0
        / mebibytes(binary.len(), Duration::from_secs(1));
    println!("{name}: {share:.1} % of the bytes moved, {:.1?} in all", begun.elapsed());
    worker.report(&order, "failed").await
}

/// What a small call takes: alone, beside a download in another connection, and in the same.
async fn beside(
    name: &str,
    worker: &BenchWorker,
    order: &PipelineRun,
    digest: Digest,
) -> Result<()> {
    let calls = async || -> Result<String> {
        let mut took = vec![];
        for _ in 0..CALLS {
            let begun = now();
            worker.report(order, "running").await?;
            took.push(begun.elapsed());
        }
        Ok(percentiles(&mut took))
    };
    println!("{name}, small call alone: {}", calls().await?);
    for (where_, bulk) in [("another connection", worker.apart()?), ("the same", worker.clone())] {
        let loading = async {
            loop {
                if let Err(error) = download(&bulk, order, digest).await {
                    return error;
                }
            }
        };
        let figures = tokio::select! {
            figures = calls() => figures?,
            error = loading => return Err(error),
        };
        println!("{name}, small call beside a download in {where_}: {figures}");
    }
    Ok(())
}

async fn append_log(
    name: &str,
    worker: &BenchWorker,
    order: &PipelineRun,
    server: Option<u32>,
) -> Result<()> {
    let line: Bytes = [b'x'; 99].into_iter().chain([b'\n']).collect::<Vec<u8>>().into();
    let piece: Bytes = line.iter().copied().cycle().take(PIECE).collect::<Vec<u8>>().into();
    let sending = async {
        for offset in (0..LOG).step_by(PIECE) {
            let path =
                format!("/runs/{}/attempts/{}/log?offset={offset}", order.unique_id, order.attempt);
            worker.bulk(order, Request::put(path), piece.clone()).await?;
        }
        Ok(())
    };
    measured(&format!("{name}, log, each MiB durable"), LOG, server, sending).await
}

/// 100 ms there and back, and so many of a thousand packets lost.
async fn far(cluster: &Cluster, credentials: &Credentials, lost: u64) -> Result<()> {
    let factories: [(&str, Arc<dyn ControllerFactory + Send + Sync>); 2] =
        [("cubic", Arc::new(CubicConfig::default())), ("BBR", Arc::new(BbrConfig::default()))];
    let path = format!("100 ms, {} % lost", lost / 10);
    for (name, control) in factories {
        let begun = now();
        raw_quic(credentials, FAR, Some(lost), control).await?;
        println!("{path}, raw QUIC, {name}: {}", megabits(FAR, begun.elapsed()));
    }
    let address = cluster.url().trim_start_matches("https://").parse()?;
    let name = format!("far-{lost}");
    let near = BenchWorker::join(cluster, &name, Protocols::Http3).await?;
    let binary: Bytes = noise(FAR, 5 + lost).into();
    let digest = Digest::of(&binary);
    let pipeline = near.pipeline(cluster, &name, binary).await?;
    let run = cluster.start_run(&pipeline, json!({})).await?;
    let (order, _) = near.order().await?;
    let relay = Relay::to(address, DELAY, lost).await?;
    let far = near.at(&format!("https://{}", relay.address))?;
    let begun = now();
    download(&far, &order, digest).await?;
    println!("{path}, binary down over HTTP/3: {}", megabits(FAR, begun.elapsed()));
    near.report(&order, "success").await?;
    cluster.ended(&run.uniqueid).await?;
    near.leave().await
}

fn megabits(bytes: usize, took: Duration) -> String {
    format!("{:.1} Mbit/s", mebibytes(bytes, took) * 1.048_576 * 8.0)
}

fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1 << 40;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_be_bytes()
    };
    (0..length.div_ceil(8)).flat_map(|_| next()).take(length).collect()
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

async fn send(mut stream: impl AsyncWrite + Unpin) -> std::io::Result<()> {
    let piece = vec![7; PIECE];
    for _ in (0..BINARY).step_by(PIECE) {
        stream.write_all(&piece).await?;
    }
    stream.shutdown().await
}

async fn receive(mut stream: impl AsyncRead + Unpin) -> Result<()> {
    let (mut buffer, mut got) = (vec![0; PIECE], 0);
    loop {
        match stream.read(&mut buffer).await? {
            0 => break,
            count => got += count,
        }
    }
    ensure!(got == BINARY, "{got} bytes came");
    Ok(())
}

async fn raw_tcp(credentials: Option<&Credentials>) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let tls = credentials.map(identity::server_tls).transpose()?;
    let sender = tokio::spawn(async move {
        let (stream, _) = listener.accept().await?;
        match tls {
            None => send(stream).await,
            Some(tls) => {
                let tls = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
                send(tls.accept(stream).await?).await
            }
        }
    });
    let stream = TcpStream::connect(address).await?;
    match credentials {
        None => receive(stream).await?,
        Some(credentials) => {
            let tls = Arc::new(identity::client_tls(credentials)?);
            let connecting = tokio_rustls::TlsConnector::from(tls);
            receive(connecting.connect(ServerName::try_from("localhost")?, stream).await?).await?;
        }
    }
    Ok(sender.await??)
}

async fn raw_quic(
    credentials: &Credentials,
    bytes: usize,
    lost_afar: Option<u64>,
    control: Arc<dyn ControllerFactory + Send + Sync>,
) -> Result<()> {
    let mut server = identity::server_tls(credentials)?;
    let mut client = identity::client_tls(credentials)?;
    server.alpn_protocols = vec![b"raw".to_vec()];
    client.alpn_protocols = vec![b"raw".to_vec()];
    let server = quinn::crypto::rustls::QuicServerConfig::try_from(server)?;
    let client = quinn::crypto::rustls::QuicClientConfig::try_from(client)?;
    let any: SocketAddr = "127.0.0.1:0".parse()?;
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(server));
    let mut transport = quinn::TransportConfig::default();
    transport.congestion_controller_factory(control);
    config.transport_config(Arc::new(transport));
    let listener = quinn::Endpoint::server(config, any)?;
    let address = listener.local_addr()?;
    let sender = tokio::spawn(async move {
        let connection = listener.accept().await.context("nobody connects")?.await?;
        let mut stream = connection.open_uni().await?;
        let piece = vec![7; PIECE];
        for _ in (0..bytes).step_by(PIECE) {
            stream.write_all(&piece).await?;
        }
        stream.finish()?;
        stream.stopped().await?;
        anyhow::Ok(())
    });
    let relay = match lost_afar {
        Some(lost) => Some(Relay::to(address, DELAY, lost).await?),
        None => None,
    };
    let address = relay.as_ref().map_or(address, |relay| relay.address);
    let mut endpoint = quinn::Endpoint::client(any)?;
    endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(client)));
    let connection = endpoint.connect(address, "localhost")?.await?;
    let mut stream = connection.accept_uni().await?;
    let mut got = 0;
    while let Some(chunk) = stream.read_chunk(usize::MAX, true).await? {
        got += chunk.bytes.len();
    }
    ensure!(got == bytes, "{got} bytes came");
    sender.await?
}
