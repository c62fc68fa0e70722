//! Where a server is, and reaching it.

use crate::{InvalidServer, limits};
use http::uri::Authority;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use std::{io, net::SocketAddr, sync::Arc};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};

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

/// TCP and TLS. The host's addresses are tried one after the other.
pub(super) async fn tls(
    target: &Target,
    config: &Arc<rustls::ClientConfig>,
) -> io::Result<TokioIo<TlsStream<TcpStream>>> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for address in target.addresses().await? {
        match timeout(limits::HANDSHAKE, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                stream.set_nodelay(true)?;
                let connector = TlsConnector::from(config.clone());
                let stream = connector.connect(target.name.clone(), stream);
                return Ok(TokioIo::new(timeout(limits::HANDSHAKE, stream).await??));
            }
            Ok(Err(error)) => last = io::Error::new(error.kind(), format!("{address}: {error}")),
            Err(_) => {
                last = io::Error::new(io::ErrorKind::TimedOut, format!("{address}: no answer"));
            }
        }
    }
    Err(last)
}
