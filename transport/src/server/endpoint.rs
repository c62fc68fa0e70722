//! The UDP socket and what quinn needs around it.

use crate::limits;
use hmac::{Hmac, KeyInit, Mac};
use identity::{Credentials, Peer};
use quinn::{
    AsyncTimer, AsyncUdpSocket, ConnectionId, ConnectionIdGenerator, Endpoint, EndpointConfig,
    Runtime, ServerConfig, TokioRuntime,
    crypto::{CryptoError, HmacKey, rustls::QuicServerConfig},
};
use sha2::Sha256;
use std::{
    io,
    net::UdpSocket,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio_util::task::TaskTracker;

pub(super) fn start(
    socket: UdpSocket,
    tls: rustls::ServerConfig,
    credentials: &Credentials,
    drivers: TaskTracker,
) -> io::Result<Endpoint> {
    let crypto = QuicServerConfig::try_from(tls).map_err(io::Error::other)?;
    let mut server = ServerConfig::with_crypto(Arc::new(crypto));
    // Who the peer is turns up in the handshake; then the limits are set anew.
    let anonymous = Peer::Anonymous;
    server
        .transport_config(limits::quic(
            limits::FIRST_STREAMS,
            limits::connection_window(&anonymous),
        ))
        .max_incoming(limits::UNACCEPTED)
        .incoming_buffer_size(limits::UNACCEPTED_BYTES)
        .incoming_buffer_size_total(limits::UNACCEPTED_TOTAL)
        .migration(true);
    let mut config = EndpointConfig::new(Arc::new(ResetKey::new(credentials)));
    config.cid_generator(|| Box::new(RandomIds));
    Endpoint::new(config, Some(server), socket, Arc::new(Tracked(drivers)))
}

/// Names connections at random. quinn's own generator marks them as made by this process, and
/// answers no others; but those of the process before it must get their reset.
struct RandomIds;

const ID: usize = 8;

impl ConnectionIdGenerator for RandomIds {
    fn generate_cid(&mut self) -> ConnectionId {
        ConnectionId::new(&identity::random::<ID>())
    }

    fn cid_len(&self) -> usize {
        ID
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// Signs stateless resets. Derived from the certificate's key, so that a server that was killed and
/// came back can tell its clients at once that their connections are gone; with a random key they
/// would wait for the idle timeout.
struct ResetKey(Hmac<Sha256>);

impl ResetKey {
    fn new(credentials: &Credentials) -> Self {
        let mut mac = Hmac::<Sha256>::new_from_slice(credentials.key.as_bytes())
            .expect("HMAC takes keys of any length");
        mac.update(b"gaia quic stateless reset");
        let key = mac.finalize().into_bytes();
        Self(Hmac::new_from_slice(&key).expect("HMAC takes keys of any length"))
    }
}

impl HmacKey for ResetKey {
    fn sign(&self, data: &[u8], signature: &mut [u8]) {
        let mac = self.0.clone().chain_update(data).finalize().into_bytes();
        signature.copy_from_slice(&mac);
    }

    fn signature_len(&self) -> usize {
        32
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        self.0.clone().chain_update(data).verify_slice(signature).map_err(|_| CryptoError)
    }
}

/// tokio, and knowing when quinn's background tasks have ended: only then is the port free.
#[derive(Debug)]
struct Tracked(TaskTracker);

impl Runtime for Tracked {
    fn new_timer(&self, at: Instant) -> Pin<Box<dyn AsyncTimer>> {
        TokioRuntime.new_timer(at)
    }

    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) {
        self.0.spawn(future);
    }

    fn wrap_udp_socket(&self, socket: UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        TokioRuntime.wrap_udp_socket(socket)
    }

    fn now(&self) -> Instant {
        TokioRuntime.now()
    }
}
