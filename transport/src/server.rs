//! One port, two protocols.
#![allow(clippy::todo, clippy::unused_async, unused_variables)]
use identity::Credentials;
use std::{io, net::SocketAddr};
use tokio_util::sync::CancellationToken;

/// A bound port: TCP (TLS, HTTP/1.1 and HTTP/2) and UDP (QUIC, HTTP/3) of the same number.
#[derive(Debug)]
pub struct Server(());

impl Server {
    /// Port 0 picks a free one, the same for both. An occupied port is an error that says which.
    pub async fn bind(address: SocketAddr, credentials: &Credentials) -> io::Result<Self> {
        todo!("lands within minutes")
    }
    /// The address that was bound.
    pub fn local_addr(&self) -> SocketAddr {
        todo!("lands within minutes")
    }
    /// Serves until `shutdown`; then lets running calls finish for a short while.
    pub async fn serve(self, router: axum::Router, shutdown: CancellationToken) {
        todo!("lands within minutes")
    }
}
