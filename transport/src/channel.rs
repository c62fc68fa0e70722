//! A client's way to one server, in this process or over the network.

mod connect;
mod exchange;
mod http2;
mod leader;
mod remote;
mod watched;

use crate::{Protocol, local::Local};
use axum::Router;
use connect::Target;
pub(crate) use exchange::{Failure, Upload};
use identity::Peer;
use leader::Leader;
pub use leader::Switch;
use remote::Remote;
use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll},
};
use tonic::{Status, body::Body};

/// Which protocols a remote channel may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocols {
    /// HTTP/3, and HTTP/2 where UDP does not pass.
    PreferHttp3,
    /// HTTP/2 over TCP alone.
    Http2,
    /// HTTP/3 over UDP alone.
    Http3,
}

/// A client's way to one server: in this process, or over the network. Connects when first used,
/// and again after a loss; cheap to clone. A `tower::Service`, so that generated gRPC clients take
/// it: `RegistryClient::new(channel)`.
#[derive(Clone, Debug)]
pub struct Channel {
    way: Way,
    last: Arc<LastProtocol>,
}

#[derive(Clone, Debug)]
enum Way {
    Local(Arc<Local>),
    Remote(Arc<Remote>),
    Leader(Arc<Leader>),
}

impl Channel {
    /// Calls the router directly, as `peer`. No socket.
    pub fn local(router: Router, peer: Peer) -> Self {
        Self { way: Way::Local(Arc::new(Local::new(router, peer))), last: Arc::default() }
    }

    /// `server`: "https://host:port" or "host:port". `server_name`: the name that the server's
    /// certificate must hold ("gaia-pipeline.io" for the gateway, "svc-registry", … for services).
    pub fn remote(
        server: &str,
        server_name: &str,
        tls: rustls::ClientConfig,
        protocols: Protocols,
    ) -> Result<Self, InvalidServer> {
        let target = Target::parse(server, server_name)?;
        let remote = Remote::new(target, tls, protocols)?;
        Ok(Self { way: Way::Remote(Arc::new(remote)), last: Arc::default() })
    }

    /// To one of several servers that do the same; the switch says when it is another.
    pub fn to_leader(first: Self) -> (Self, Switch) {
        let leader = Arc::new(Leader::new(first));
        let way = Way::Leader(Arc::clone(&leader));
        (Self { way, last: Arc::default() }, Switch(leader))
    }

    /// Connects anew for the calls to come, so that they show the credentials of now; calls that run
    /// keep their connection. When this fails, everything is as before.
    pub async fn reconnect(&self) -> Result<(), Status> {
        match &self.way {
            Way::Local(_) => Ok(()),
            Way::Remote(remote) => remote.reconnect().await,
            Way::Leader(leader) => Box::pin(leader.channel().reconnect()).await,
        }
    }

    /// What the last call went over; `None` before the first.
    pub fn protocol(&self) -> Option<Protocol> {
        match &self.way {
            Way::Leader(leader) => leader.channel().protocol(),
            Way::Local(_) | Way::Remote(_) => self.last.get(),
        }
    }
}

impl tower::Service<http::Request<Body>> for Channel {
    type Response = http::Response<Body>;
    type Error = ChannelError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, ChannelError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ChannelError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let Self { way, last } = self.clone();
        Box::pin(async move {
            match way {
                Way::Local(local) => {
                    last.set(Protocol::Local);
                    local.call(request).await.ok_or_else(ChannelError::stopped)
                }
                Way::Remote(remote) => remote.call(request, |protocol| last.set(protocol)).await,
                Way::Leader(leader) => leader.call(request).await,
            }
        })
    }
}

/// A server address that cannot be understood.
#[derive(Debug, thiserror::Error)]
#[error("`{text}` is not a server address: {why}")]
pub struct InvalidServer {
    /// What was given.
    pub text: String,
    /// What is wrong with it, and what is expected.
    pub why: String,
}

/// Why a call got no answer. The source is a `tonic::Status`, which gRPC clients pass on.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The server never saw the request; to send it again is safe.
    #[error("the request was not sent")]
    NotSent(#[source] Status),
    /// The connection was lost after the request was sent: the server may have handled it.
    #[error("the request may have been handled, but its answer was lost")]
    Lost(#[source] Status),
}

impl ChannelError {
    /// Whether the server may have handled the request. If not, to send it again is safe.
    pub fn may_have_been_handled(&self) -> bool {
        matches!(self, Self::Lost(_))
    }

    fn stopped() -> Self {
        Self::Lost(Status::unavailable("the handler was stopped before it answered"))
    }
}

/// Remembers what the last call went over.
#[derive(Debug, Default)]
struct LastProtocol(AtomicU8);

impl LastProtocol {
    fn set(&self, protocol: Protocol) {
        let number = match protocol {
            Protocol::Local => 1,
            Protocol::Http1 => 2,
            Protocol::Http2 => 3,
            Protocol::Http3 => 4,
        };
        self.0.store(number, Ordering::Relaxed);
    }

    fn get(&self) -> Option<Protocol> {
        match self.0.load(Ordering::Relaxed) {
            1 => Some(Protocol::Local),
            2 => Some(Protocol::Http1),
            3 => Some(Protocol::Http2),
            4 => Some(Protocol::Http3),
            _ => None,
        }
    }
}
