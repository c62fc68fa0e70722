//! One router on HTTP/2 and HTTP/3; a client channel that prefers HTTP/3 and falls back to HTTP/2.
//!
//! API agreed; bodies to be written.
#![allow(missing_docs, unused_variables, clippy::all, clippy::pedantic, clippy::todo)]
use identity::{Credentials, Peer};
use std::{
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};
use tokio_util::sync::CancellationToken;

/// What the server knows of the connection that a request came by; an extension of every request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    pub peer: Peer,
    /** Serial number of the client certificate, in hex. */
    pub certificate: Option<String>,
    pub address: SocketAddr,
    pub protocol: Protocol,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /** within the process */
    Local,
    Http1,
    Http2,
    Http3,
}

/// A bound port: TCP (TLS, HTTP/1.1 and HTTP/2) and UDP (QUIC, HTTP/3) of the same number.
#[derive(Debug)]
pub struct Server(());
impl Server {
    /// Port 0 picks a free one, the same for both. An occupied port is an error that says which.
    pub async fn bind(address: SocketAddr, credentials: &Credentials) -> io::Result<Self> {
        todo!()
    }
    pub fn local_addr(&self) -> SocketAddr {
        todo!()
    }
    /// Serves until `shutdown`; then lets running calls finish for a short while.
    pub async fn serve(self, router: axum::Router, shutdown: CancellationToken) {
        todo!()
    }
}

/// Which protocols a remote channel may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocols {
    /** HTTP/3, and HTTP/2 where UDP does not pass */
    PreferHttp3,
    Http2,
    Http3,
}

/// A client's way to one server: in this process, or over the network. Connects when first used, and again after a
/// loss; cheap to clone. A `tower::Service`, so that generated gRPC clients take it: `RegistryClient::new(channel)`.
#[derive(Clone, Debug)]
pub struct Channel(());
impl Channel {
    /// Calls the router directly, as `peer`. No socket.
    pub fn local(router: axum::Router, peer: Peer) -> Self {
        todo!()
    }
    /// `server`: "https://host:port" or "host:port". `server_name`: the name that the server's certificate must hold
    /// ("gaia-pipeline.io" for the gateway, "svc-registry", … for services).
    pub fn remote(
        server: &str,
        server_name: &str,
        tls: rustls::ClientConfig,
        protocols: Protocols,
    ) -> Result<Self, InvalidServer> {
        todo!()
    }
    /// What the last call went over; `None` before the first.
    pub fn protocol(&self) -> Option<Protocol> {
        todo!()
    }
}
#[derive(Debug, thiserror::Error)]
#[error("`{text}` is not a server address: {why}")]
pub struct InvalidServer {
    pub text: String,
    pub why: String,
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ChannelError(pub String); // the real one: variants that say whether the request may have been handled

impl tower::Service<http::Request<tonic::body::Body>> for Channel {
    type Response = http::Response<tonic::body::Body>;
    type Error = ChannelError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, ChannelError>> + Send>>;
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ChannelError>> {
        Poll::Ready(Ok(()))
    }
    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        todo!()
    }
}

/// An axum layer: refuses (403 / gRPC PermissionDenied) whoever is not a service of the house. Every service's
/// router wears it, the gateway's does not.
pub fn services_only(router: axum::Router) -> axum::Router {
    todo!()
}
