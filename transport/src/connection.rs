//! What a handler may know of the connection that its request came by.

use identity::Peer;
use std::net::SocketAddr;

/// What the server knows of the connection that a request came by; an extension of every request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Who the client's certificate proves it to be.
    pub peer: Peer,
    /// Serial number of the client certificate, in hex.
    pub certificate: Option<String>,
    /// Where the client connected from; for calls within the process, port 0 of the loopback.
    pub address: SocketAddr,
    /// What the request came over.
    pub protocol: Protocol,
}

/// The protocol that carries a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Within the process, without a socket.
    Local,
    /// HTTP/1.1 over TLS over TCP.
    Http1,
    /// HTTP/2 over TLS over TCP.
    Http2,
    /// HTTP/3 over QUIC.
    Http3,
}
