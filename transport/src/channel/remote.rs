//! A server over the network: connects when it is first needed, and again after a loss.

use super::{
    ChannelError, Protocols,
    connect::Target,
    exchange::{Download, Failure, Upload},
    http2,
};
use crate::{Protocol, call, deadline, deadline::Timer, limits};
use futures::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use http::{Request, Response, Uri, header::HOST};
use identity::Peer;
use std::sync::{Arc, Mutex};
use tonic::{Status, body::Body};

/// A server, and the connection to it if there is one.
pub(super) struct Remote {
    target: Target,
    protocols: Protocols,
    tcp: Arc<rustls::ClientConfig>,
    state: Mutex<State>,
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Remote").field("target", &self.target).finish_non_exhaustive()
    }
}

#[derive(Default)]
struct State {
    live: Option<Live>,
    /// Runs in a task of its own, so that impatient callers do not undo it.
    connecting: Option<Shared<BoxFuture<'static, Result<Live, Status>>>>,
}

#[derive(Clone)]
enum Live {
    Http2(http2::Connection),
}

impl Live {
    fn is_open(&self) -> bool {
        match self {
            Self::Http2(connection) => connection.is_open(),
        }
    }

    fn protocol(&self) -> Protocol {
        match self {
            Self::Http2(_) => Protocol::Http2,
        }
    }
}

impl Remote {
    pub(super) fn new(target: Target, tls: rustls::ClientConfig, protocols: Protocols) -> Self {
        let mut tcp = tls;
        tcp.alpn_protocols = vec![b"h2".to_vec()];
        Self { target, protocols, tcp: Arc::new(tcp), state: Mutex::default() }
    }

    /// Sends the request; one that surely was not sent is tried once more, on a new connection.
    pub(super) async fn call(
        self: &Arc<Self>,
        request: Request<Body>,
        used: impl Fn(Protocol),
    ) -> Result<Response<Body>, ChannelError> {
        let deadline = deadline::of(request.headers());
        let (parts, body) = request.into_parts();
        let (body, wanted) = Upload::new(body);
        let request = self.address(Request::from_parts(parts, body))?;
        let exchange = self.exchange(request, used);
        let response = match deadline {
            Some(at) => match tokio::time::timeout_at(at, exchange).await {
                Ok(response) => response?,
                Err(_) => return Err(ChannelError::Lost(call::expired())),
            },
            None => exchange.await?,
        };
        let timer = Timer::new(deadline);
        Ok(response.map(|body| Body::new(Download { body, timer, _wanted: wanted })))
    }

    /// Puts scheme and authority into the request's address.
    fn address(&self, mut request: Request<Upload>) -> Result<Request<Upload>, ChannelError> {
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        let uri = Uri::builder().scheme("https").authority(self.target.authority.clone());
        *request.uri_mut() = uri.path_and_query(path).build().map_err(|error| {
            ChannelError::NotSent(Status::invalid_argument(format!("{path}: {error}")))
        })?;
        request.headers_mut().remove(HOST);
        Ok(request)
    }

    async fn exchange(
        self: &Arc<Self>,
        mut request: Request<Upload>,
        used: impl Fn(Protocol),
    ) -> Result<Response<Body>, ChannelError> {
        let mut again = true;
        loop {
            let live = self.connection().await.map_err(ChannelError::NotSent)?;
            used(live.protocol());
            let sent = match live {
                Live::Http2(connection) => {
                    connection.send(request).await.map(|response| response.map(Body::new))
                }
            };
            match sent {
                Ok(response) => return Ok(response),
                Err(Failure::Unsent(unsent, _)) if again => request = *unsent,
                Err(Failure::Unsent(_, why) | Failure::Refused(why)) => {
                    return Err(ChannelError::NotSent(why));
                }
                Err(Failure::Lost(why)) => return Err(ChannelError::Lost(why)),
            }
            again = false;
        }
    }

    async fn connection(self: &Arc<Self>) -> Result<Live, Status> {
        let attempt = {
            let mut state = self.state.lock().expect("nothing panics while it holds the lock");
            if let Some(live) = state.live.take_if(|live| !live.is_open()) {
                tracing::debug!(server = %self.target.authority, over = ?live.protocol(), "connection lost");
            }
            if let Some(live) = &state.live {
                return Ok(live.clone());
            }
            state.connecting.get_or_insert_with(|| self.clone().start()).clone()
        };
        attempt.await
    }

    /// Connects in the background, for all who wait.
    fn start(self: Arc<Self>) -> Shared<BoxFuture<'static, Result<Live, Status>>> {
        let task = tokio::spawn(async move {
            let connected = self.connect().await;
            let mut state = self.state.lock().expect("nothing panics while it holds the lock");
            state.connecting = None;
            state.live = connected.as_ref().ok().cloned();
            connected
        });
        let ended = |_| Err(Status::unavailable("stopped while connecting"));
        task.map(move |joined| joined.unwrap_or_else(ended)).boxed().shared()
    }

    async fn connect(&self) -> Result<Live, Status> {
        let window = limits::connection_window(&Peer::Service(String::new()));
        let connected = http2::connect(&self.target, &self.tcp, window).await;
        connected.map(Live::Http2).map_err(|why| {
            let server = &self.target.authority;
            Status::new(why.code(), format!("cannot connect to {server}: {}", why.message()))
        })
    }
}
