//! Where a server is, and reaching it.

use crate::{InvalidServer, limits};
use futures::{StreamExt, stream::FuturesUnordered};
use http::uri::Authority;
use rustls_pki_types::ServerName;
use std::{io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// What one address gets before the next is tried beside it (RFC 8305).
const STAGGER: Duration = Duration::from_millis(250);

/// Where to connect to, and the name that the certificate must hold.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) authority: Authority,
    pub(super) name: ServerName<'static>,
    host: String,
    port: u16,
}

impl Target {
    pub(super) fn parse(server: &str, server_name: &str) -> Result<Self, InvalidServer> {
        let invalid = |why: &str| InvalidServer { text: server.to_owned(), why: why.to_owned() };
        let rest = server.strip_prefix("https://").unwrap_or(server);
        if rest.contains("://") {
            return Err(invalid("only https is spoken; write https://host:port"));
        }
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let authority: Authority =
            rest.parse().map_err(|_| invalid("expected https://host:port"))?;
        let port = authority.port_u16().filter(|port| *port != 0);
        let port = port.ok_or_else(|| invalid("a port from 1 to 65535 is missing"))?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() || authority.as_str().contains('@') {
            return Err(invalid("expected https://host:port"));
        }
        let name = ServerName::try_from(server_name.to_owned()).map_err(|_| InvalidServer {
            text: server_name.to_owned(),
            why: "a certificate's name must be a DNS name or an IP address".to_owned(),
        })?;
        Ok(Self { authority, name, host, port })
    }

    /// All addresses of the host, in the resolver's order.
    pub(super) async fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        let found = tokio::net::lookup_host((self.host.as_str(), self.port)).await?;
        let found: Vec<_> = found.collect();
        if found.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the host has no address"));
        }
        Ok(found)
    }
}

/// Tries the addresses, each a little after the one before ("happy eyeballs"): the first that
/// connects wins. A refusal lets the next begin at once.
pub(super) async fn first<T, F: Future<Output = io::Result<T>>>(
    addresses: Vec<SocketAddr>,
    connect: impl Fn(SocketAddr) -> F,
) -> io::Result<T> {
    let attempt = |address| {
        let connecting = connect(address);
        async move {
            let named = |e: io::Error| io::Error::new(e.kind(), Unreached { address, source: e });
            connecting.await.map_err(named)
        }
    };
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    let mut untried = addresses.into_iter();
    let mut attempts = FuturesUnordered::new();
    loop {
        match untried.next() {
            Some(address) => attempts.push(attempt(address)),
            None if attempts.is_empty() => return Err(last),
            None => {}
        }
        let outcome = if untried.len() > 0 {
            timeout(STAGGER, attempts.next()).await.ok().flatten()
        } else {
            attempts.next().await
        };
        match outcome {
            Some(Ok(connected)) => return Ok(connected),
            Some(Err(error)) => last = error,
            None => {}
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{address}")]
struct Unreached {
    address: SocketAddr,
    source: io::Error,
}

/// TCP and TLS.
pub(super) async fn tls(
    target: &Target,
    config: &Arc<rustls::ClientConfig>,
) -> io::Result<TlsStream<TcpStream>> {
    let stream = first(target.addresses().await?, |address| async move {
        timeout(limits::HANDSHAKE, TcpStream::connect(address)).await?
    });
    let stream = stream.await?;
    stream.set_nodelay(true)?;
    let connected = TlsConnector::from(config.clone()).connect(target.name.clone(), stream);
    timeout(limits::HANDSHAKE, connected).await?
}
