//! Dials a pipeline: HTTP/2 over mutually authenticated TLS over TCP or a Unix socket.

use std::{io, sync::Arc, time::Duration};

use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream, lookup_host},
    time::{Instant, sleep},
};
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

use super::{certificates::SERVER_NAME, handshake::Address};

/// Some programs print their line a moment before they listen.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(50);
const TLS_TIMEOUT: Duration = Duration::from_secs(20);

trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Socket for T {}

/// A channel over one connection. It is not dialled again when it breaks: a pipeline that closed
/// its connection is gone.
pub(super) async fn connect(address: &Address, config: Arc<ClientConfig>) -> io::Result<Channel> {
    let socket = open(address).await?;
    let name = ServerName::try_from(SERVER_NAME).expect("a constant that is a DNS name");
    let tls = TlsConnector::from(config).connect(name, socket);
    let stream = tokio::time::timeout(TLS_TIMEOUT, tls)
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no TLS handshake in 20 s"))??;
    let mut stream = Some(TokioIo::new(stream));
    Endpoint::from_static("http://unused")
        .origin(http::Uri::from_static("https://unused"))
        .connect_with_connector(tower::service_fn(move |_| {
            let stream = stream.take();
            async move { stream.ok_or_else(|| io::Error::from(io::ErrorKind::ConnectionReset)) }
        }))
        .await
        .map_err(io::Error::other)
}

async fn open(address: &Address) -> io::Result<Box<dyn Socket>> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match open_once(address).await {
            Err(error) if worth_waiting(&error) && Instant::now() < deadline => sleep(PAUSE).await,
            done => return done,
        }
    }
}

fn worth_waiting(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound)
}

async fn open_once(address: &Address) -> io::Result<Box<dyn Socket>> {
    match address {
        Address::Unix(path) => Ok(Box::new(UnixStream::connect(path).await?)),
        Address::Tcp(address) => Ok(Box::new(open_tcp(address).await?)),
    }
}

/// Node and Java print `localhost`, and may listen on only one of its addresses.
async fn open_tcp(address: &str) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for candidate in lookup_host(address).await? {
        match TcpStream::connect(candidate).await {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}
