//! One port, two protocols: TCP (TLS, HTTP/1.1 and HTTP/2) and UDP (QUIC, HTTP/3).
//!
//! Both wings hand every request to the same router, through the same `call::handle`.

mod endpoint;
mod quic;
mod socket;
mod tcp;

use crate::{Connection, Protocol, Watchlist, limits, standing::Standing};
use axum::Router;
use identity::{Credentials, Live, Peer};
use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Handshakes that failed: over TCP, over QUIC.
static REFUSED_HANDSHAKES: [AtomicU64; 2] = [AtomicU64::new(0), AtomicU64::new(0)];

/// How many connections this process refused in the TLS handshake, or because the certificate names
/// nobody: by what they came over.
pub fn refused_handshakes() -> [(&'static str, u64); 2] {
    let count = |wing: usize| REFUSED_HANDSHAKES[wing].load(Ordering::Relaxed);
    [("tcp", count(0)), ("quic", count(1))]
}

/// Ports that are tried until one is free for both protocols.
const PORT_TRIES: usize = 64;

/// A bound port: TCP (TLS, HTTP/1.1 and HTTP/2) and UDP (QUIC, HTTP/3) of the same number.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    tls: Tls,
    endpoint: quinn::Endpoint,
    // What quinn runs in the background; the port is free once it has ended.
    drivers: TaskTracker,
    address: SocketAddr,
    watchlist: Watchlist,
    at_once: bool,
}

struct Tls(TlsAcceptor);

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls")
    }
}

/// What every connection of a server shares.
#[derive(Clone)]
struct Shared {
    router: Router,
    shutdown: CancellationToken,
    /// The future of `serve` was dropped: every connection ends now.
    gone: CancellationToken,
    port: u16,
    watchlist: Watchlist,
    at_once: bool,
}

impl Server {
    /// Port 0 picks a free one, the same for both. An occupied port is an error that says which.
    pub async fn bind(address: SocketAddr, credentials: &Credentials) -> io::Result<Self> {
        let live = Live::new(credentials.clone()).map_err(io::Error::other)?;
        Self::bind_live(address, &live).await
    }

    /// The same with credentials that may be replaced while it serves.
    #[allow(clippy::unused_async)] // the sockets need a runtime, and callers shall not forget it
    pub async fn bind_live(address: SocketAddr, live: &Live) -> io::Result<Self> {
        let mut tls = identity::live_server_tls(live).map_err(io::Error::other)?;
        let mut quic = tls.clone();
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        quic.alpn_protocols = vec![b"h3".to_vec()];
        let (listener, socket) = bind_both(address)?;
        let address = listener.local_addr()?;
        let drivers = TaskTracker::new();
        let endpoint = endpoint::start(socket, quic, &live.credentials(), drivers.clone())?;
        let tls = Tls(TlsAcceptor::from(Arc::new(tls)));
        let watchlist = Watchlist::new(live.clone());
        Ok(Self { listener, tls, endpoint, drivers, address, watchlist, at_once: false })
    }

    /// Who is believed no more, and whose connections end.
    pub fn watchlist(&self) -> Watchlist {
        self.watchlist.clone()
    }

    /// Acknowledges over TCP whatever arrives as soon as it was read, for clients with Nagle's algorithm,
    /// which hold back what they have until then: 40 ms in each of their calls.
    #[must_use]
    pub fn acknowledge_at_once(mut self) -> Self {
        self.at_once = true;
        self
    }

    /// The address that was bound, with the port that was picked.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown`; then lets running calls finish for a short while (5 s). When it
    /// returns, the port is free again. Dropped instead, it cuts all connections off.
    pub async fn serve(self, router: Router, shutdown: CancellationToken) {
        let gone = CancellationToken::new();
        let _guard = gone.clone().drop_guard();
        let (port, watchlist, at_once) = (self.address.port(), self.watchlist, self.at_once);
        let shared = Shared { router, shutdown, gone, port, watchlist, at_once };
        let tcp = tcp::serve(self.listener, self.tls.0, shared.clone());
        let quic = quic::serve(self.endpoint, shared);
        tokio::join!(tcp, quic);
        self.drivers.close();
        if tokio::time::timeout(limits::GRACE, self.drivers.wait()).await.is_err() {
            tracing::warn!(port, "QUIC did not end in time; port still held");
        }
    }
}

fn bind_both(address: SocketAddr) -> io::Result<(TcpListener, std::net::UdpSocket)> {
    let tries = if address.port() == 0 { PORT_TRIES } else { 1 };
    let mut refused = None;
    for _ in 0..tries {
        let tcp = std::net::TcpListener::bind(address).map_err(|e| explain("TCP", address, &e))?;
        let bound = tcp.local_addr()?;
        match std::net::UdpSocket::bind(bound) {
            Ok(udp) => {
                tcp.set_nonblocking(true)?;
                return Ok((TcpListener::from_std(tcp)?, udp));
            }
            Err(error) => refused = Some(explain("UDP", bound, &error)),
        }
    }
    Err(refused.expect("at least one port was tried"))
}

fn explain(wing: &str, address: SocketAddr, error: &io::Error) -> io::Error {
    let port = address.port();
    let text = match error.kind() {
        io::ErrorKind::AddrInUse => format!(
            "{wing} port {port} of {} is already in use; stop what uses it or choose another port",
            address.ip()
        ),
        io::ErrorKind::PermissionDenied => {
            format!("{wing} port {port} needs privileges; choose one from 1024 up")
        }
        _ => format!("{wing} port {port} of {} cannot be bound: {error}", address.ip()),
    };
    io::Error::new(error.kind(), text)
}

/// Who is at the other end, from the chain that TLS has verified, and for how long that is believed.
fn connection(
    chain: Option<&[rustls_pki_types::CertificateDer<'_>]>,
    address: SocketAddr,
    protocol: Protocol,
    watchlist: &Watchlist,
) -> Result<(Connection, Standing), identity::IdentityError> {
    let (peer, certificate, until) = match chain.and_then(<[_]>::first) {
        None => (Peer::Anonymous, None, None),
        Some(certificate) => {
            let (peer, serial) = identity::peer_of(certificate)?;
            (peer, Some(serial), Some(identity::validity_of(certificate)?.until))
        }
    };
    let connection = Connection { peer, certificate, address, protocol };
    let standing = watchlist.admit(&connection, until, chain.unwrap_or_default());
    Ok((connection, standing))
}
