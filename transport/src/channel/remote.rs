//! A server over the network: connects when it is first needed, and again after a loss.

use super::{
    ChannelError, InvalidServer, Protocols,
    connect::{self, Target},
    exchange::{self, Download, Failure, Upload},
    http2,
};
use crate::{Protocol, call, deadline, deadline::Timer, http3, limits};
use futures::{
    FutureExt,
    future::{BoxFuture, Either, Shared, select},
};
use http::{Request, Response, Uri, header::HOST};
use identity::Peer;
use quinn::crypto::rustls::QuicClientConfig;
use rustls::client::Resumption;
use std::{
    pin::pin,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};
use tokio::time::{Instant, timeout, timeout_at};
use tonic::{Status, body::Body};

/// A server, and the connection to it if there is one.
pub(super) struct Remote {
    target: Target,
    protocols: Protocols,
    tcp: Arc<rustls::ClientConfig>,
    udp: quinn::ClientConfig,
    window: u32,
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
    /// HTTP/3 did not pass; until then it gets no head start, and then it is tried again.
    http3_again: Option<Instant>,
}

#[derive(Clone)]
enum Live {
    Http2(http2::Connection),
    Http3(http3::Client),
}

impl Live {
    fn is_open(&self) -> bool {
        match self {
            Self::Http2(connection) => connection.is_open(),
            Self::Http3(connection) => connection.is_open(),
        }
    }

    fn protocol(&self) -> Protocol {
        match self {
            Self::Http2(_) => Protocol::Http2,
            Self::Http3(_) => Protocol::Http3,
        }
    }

    async fn send(self, request: Request<Upload>) -> Result<Response<Body>, Failure> {
        match self {
            Self::Http2(connection) => Ok(connection.send(request).await?.map(Body::new)),
            Self::Http3(connection) => Ok(connection.send(request).await?.map(Body::new)),
        }
    }
}

impl Remote {
    pub(super) fn new(
        target: Target,
        tls: rustls::ClientConfig,
        protocols: Protocols,
    ) -> Result<Self, InvalidServer> {
        let (mut tcp, mut udp) = (tls.clone(), tls);
        tcp.alpn_protocols = vec![b"h2".to_vec()];
        udp.alpn_protocols = vec![b"h3".to_vec()];
        // Our servers resume none: certificates are looked at in every handshake.
        tcp.resumption = Resumption::disabled();
        udp.resumption = Resumption::disabled();
        let crypto = QuicClientConfig::try_from(udp).map_err(|error| InvalidServer {
            text: target.authority.to_string(),
            why: format!("QUIC cannot use this TLS configuration: {error}"),
        })?;
        // Whom we call we know.
        let window = limits::connection_window(&Peer::Service(String::new()));
        let mut udp = quinn::ClientConfig::new(Arc::new(crypto));
        udp.transport_config(limits::quic(0, window));
        let state = Mutex::default();
        Ok(Self { target, protocols, tcp: Arc::new(tcp), udp, window, state })
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
        let response = self.exchange(request, deadline, used).await?;
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
        deadline: Option<Instant>,
        used: impl Fn(Protocol),
    ) -> Result<Response<Body>, ChannelError> {
        let mut again = true;
        loop {
            let connected = until(deadline, self.connection()).await.ok_or_else(call::expired);
            let live = connected.flatten().map_err(ChannelError::NotSent)?;
            used(live.protocol());
            let sent = until(deadline, live.send(request)).await;
            match sent.unwrap_or_else(|| Err(Failure::Lost(call::expired()))) {
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

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds the lock")
    }

    async fn connection(self: &Arc<Self>) -> Result<Live, Status> {
        let attempt = {
            let mut state = self.lock();
            if let Some(lost) = state.live.take_if(|live| !live.is_open()) {
                tracing::debug!(server = %self.target.authority, over = ?lost.protocol(), "lost");
            }
            if let Some(live) = state.live.clone() {
                self.reconsider(&mut state);
                return Ok(live);
            }
            // One that is over did not live to say so.
            state.connecting.take_if(|connecting| connecting.peek().is_some());
            state.connecting.get_or_insert_with(|| self.clone().start()).clone()
        };
        attempt.await
    }

    /// A new connection for the calls to come; those that run keep the old one. If there is none to
    /// be had, the old one stays.
    pub(super) async fn reconnect(self: &Arc<Self>) -> Result<(), Status> {
        self.clone().start().await.map(drop)
    }

    /// Connects in the background, for all who wait.
    fn start(self: Arc<Self>) -> Shared<BoxFuture<'static, Result<Live, Status>>> {
        let task = tokio::spawn(async move {
            let connected = self.connect().await;
            let mut state = self.lock();
            state.connecting = None;
            if let Ok(live) = &connected {
                self.watch(live);
                state.live = Some(live.clone());
                state.http3_again = (live.protocol() == Protocol::Http2)
                    .then(|| Instant::now() + limits::HTTP3_RETRY);
            }
            connected
        });
        let ended = |_| Err(Status::unavailable("stopped while connecting"));
        task.map(move |joined| joined.unwrap_or_else(ended)).boxed().shared()
    }

    /// A channel that fell back to HTTP/2 tries HTTP/3 now and then, beside its calls.
    fn reconsider(self: &Arc<Self>, state: &mut State) {
        let now = Instant::now();
        if self.protocols == Protocols::PreferHttp3
            && state.http3_again.is_some_and(|again| again <= now)
        {
            state.http3_again = Some(now + limits::HTTP3_RETRY);
            let this = self.clone();
            tokio::spawn(async move {
                if let Ok(live) = this.http3().await {
                    this.watch(&live);
                    let mut state = this.lock();
                    state.live = Some(live);
                    state.http3_again = None;
                }
            });
        }
    }

    /// Where nothing comes over UDP any more but TCP passes, goes on over that, at once and not when QUIC has
    /// given up. Calls on the old connection end; whoever made them goes on where they were.
    fn watch(self: &Arc<Self>, live: &Live) {
        let Live::Http3(client) = live else { return };
        if self.protocols != Protocols::PreferHttp3 {
            return;
        }
        let (mut pulse, this) = (client.pulse(), Arc::downgrade(self));
        tokio::spawn(async move {
            while pulse.stops().await {
                let Some(this) = this.upgrade() else { return };
                // A network that is away altogether is waited for.
                let Ok(http2) = this.http2().await else { continue };
                if pulse.is_back() {
                    continue;
                }
                tracing::info!(server = %this.target.authority, "UDP passes no more: HTTP/2 takes over");
                let mut state = this.lock();
                let is_it = |live: &Live| matches!(live, Live::Http3(it) if it.is_of(&pulse));
                if state.live.as_ref().is_some_and(is_it) {
                    state.live = Some(http2);
                    state.http3_again = Some(Instant::now() + limits::HTTP3_RETRY);
                }
                drop(state);
                return pulse.end();
            }
        });
    }

    async fn connect(&self) -> Result<Live, Status> {
        let connected = match self.protocols {
            Protocols::Http2 => self.http2().await,
            Protocols::Http3 => self.http3().await,
            Protocols::PreferHttp3 => self.race().await,
        };
        connected.map_err(|why| {
            let server = &self.target.authority;
            Status::new(why.code(), format!("cannot connect to {server}: {}", why.message()))
        })
    }

    async fn http2(&self) -> Result<Live, Status> {
        http2::connect(&self.target, &self.tcp, self.window).await.map(Live::Http2)
    }

    async fn http3(&self) -> Result<Live, Status> {
        let name = self.target.name.to_str();
        let connected = async {
            let addresses = self.target.addresses().await?;
            connect::first(addresses, |to| http3::connect(to, &name, self.udp.clone())).await
        };
        connected.await.map(Live::Http3).map_err(|error| exchange::status(&error))
    }

    /// HTTP/3 with a head start, then HTTP/2 beside it; the first to connect wins.
    async fn race(&self) -> Result<Live, Status> {
        let http2 = pin!(self.http2());
        let mut http3 = pin!(self.http3());
        let start = self.lock().http3_again.map_or(limits::HTTP3_HEAD_START, |again| {
            // It failed not long ago: no head start, but it may still win.
            if again > Instant::now() { Duration::ZERO } else { limits::HTTP3_HEAD_START }
        });
        match timeout(start, &mut http3).await {
            Ok(Ok(live)) => return Ok(live),
            Ok(Err(first)) => return http2.await.map_err(|second| both(&first, &second)),
            Err(_) => {}
        }
        match select(http3, http2).await {
            Either::Left((Ok(live), _)) | Either::Right((Ok(live), _)) => Ok(live),
            Either::Left((Err(first), other)) => {
                other.await.map_err(|second| both(&first, &second))
            }
            Either::Right((Err(first), other)) => {
                let late = timeout(limits::HTTP3_LAST_CHANCE, other).await;
                let late = late.unwrap_or_else(|_| Err(Status::unavailable("no answer")));
                late.map_err(|second| both(&second, &first))
            }
        }
    }
}

/// `None` if the deadline, if any, has passed first.
async fn until<T>(deadline: Option<Instant>, future: impl Future<Output = T>) -> Option<T> {
    match deadline {
        Some(at) => timeout_at(at, future).await.ok(),
        None => Some(future.await),
    }
}

/// Why neither protocol connects. The code is HTTP/2's, which passes more networks.
fn both(http3: &Status, http2: &Status) -> Status {
    let (http2, text) = (http2.code(), format!("{}; HTTP/3: {}", http2.message(), http3.message()));
    Status::new(http2, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Server;
    use identity::Authority;
    use tokio_util::sync::CancellationToken;

    const DAY: Duration = Duration::from_hours(24);

    #[tokio::test]
    async fn a_channel_that_fell_back_finds_http3_again() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::open_or_create(dir.path()).unwrap();
        let credentials = authority.issue_service("svc-test", &[], DAY).unwrap().credentials;
        let server = Server::bind("127.0.0.1:0".parse().unwrap(), &credentials).await.unwrap();
        let target = Target::parse(&server.local_addr().to_string(), "svc-test").unwrap();
        let serving = tokio::spawn(server.serve(axum::Router::new(), CancellationToken::new()));
        let tls = identity::client_tls(&credentials).unwrap();
        let remote = Arc::new(Remote::new(target, tls, Protocols::PreferHttp3).unwrap());
        let fell_back = remote.http2().await.unwrap();
        let later = Instant::now() + limits::HTTP3_RETRY;
        *remote.lock() =
            State { live: Some(fell_back), connecting: None, http3_again: Some(later) };
        // Not before its time.
        assert_eq!(remote.connection().await.unwrap().protocol(), Protocol::Http2);
        assert_eq!(remote.lock().http3_again, Some(later));
        remote.lock().http3_again = Some(Instant::now());
        let found = async {
            while remote.connection().await.unwrap().protocol() != Protocol::Http3 {
                tokio::task::yield_now().await;
            }
        };
        timeout(limits::HANDSHAKE, found).await.expect("HTTP/3 is found again");
        serving.abort();
    }
}
