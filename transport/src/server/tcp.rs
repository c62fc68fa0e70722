//! The TCP wing: TLS, then HTTP/1.1 or HTTP/2 by hyper.

use super::{Shared, socket::Socket};
use crate::{
    Connection, Heard, Protocol, Watchlist, call, limits,
    standing::{Over, Standing},
};
use axum::{body::Body, http::HeaderValue};
use http::{Request, Response, Version, header::ALT_SVC};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use identity::Peer;
use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::{io::AsyncWriteExt, net::TcpListener, sync::Semaphore, time::timeout};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::task::TaskTracker;

/// Pause after an accept that failed for want of descriptors, so that the loop does not spin.
const PAUSE: Duration = Duration::from_millis(50);

/// How long a client that was refused may take to close.
const LINGER: Duration = Duration::from_secs(1);

/// Accepts until shutdown, then waits for the connections to end.
pub(super) async fn serve(listener: TcpListener, tls: TlsAcceptor, shared: Shared) {
    let connections = TaskTracker::new();
    let free = Arc::new(Semaphore::new(limits::CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shared.shutdown.cancelled() => break,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "no connection could be accepted");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let Ok(permit) = free.clone().try_acquire_owned() else {
            tracing::warn!(%address, "refused: {} connections are open", limits::CONNECTIONS);
            continue;
        };
        let (tls, shared) = (tls.clone(), shared.clone());
        let gone = shared.gone.clone();
        connections.spawn(gone.run_until_cancelled_owned(async move {
            let socket = Socket::new(stream, shared.at_once);
            // In boxes: a connection is then no larger than the phase in which it is.
            match Box::pin(handshake(socket, address, &tls, &shared.watchlist)).await {
                Ok((stream, connection, standing)) => {
                    Box::pin(converse(stream, connection, standing, shared)).await;
                }
                Err(error) => {
                    super::REFUSED_HANDSHAKES[0].fetch_add(1, Ordering::Relaxed);
                    tracing::debug!(%address, %error, "handshake failed");
                }
            }
            drop(permit);
        }));
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

async fn handshake(
    socket: io::Result<Socket>,
    address: SocketAddr,
    tls: &TlsAcceptor,
    watchlist: &Watchlist,
) -> io::Result<(TlsStream<Socket>, Connection, Standing)> {
    let accepting = tls.accept(socket?).into_fallible();
    let stream = match timeout(limits::HANDSHAKE, accepting).await? {
        Ok(stream) => stream,
        Err((error, stream)) => {
            timeout(LINGER, linger(stream)).await.ok();
            return Err(error);
        }
    };
    let chain = stream.get_ref().1.peer_certificates();
    // hyper tells HTTP/1.1 from HTTP/2 later; each request corrects it.
    let (connection, standing) =
        super::connection(chain, address, Protocol::Http2, watchlist).map_err(io::Error::other)?;
    Ok((stream, connection, standing))
}

/// Lets the client read why it was refused. To close at once would reset the connection, since what
/// it has sent by now is unread, and the reset would overtake the alert.
async fn linger(mut stream: Socket) {
    if stream.shutdown().await.is_ok() {
        tokio::io::copy(&mut stream, &mut tokio::io::sink()).await.ok();
    }
}

async fn converse(
    stream: TlsStream<Socket>,
    connection: Connection,
    standing: Standing,
    shared: Shared,
) {
    let builder = builder(&connection.peer);
    let shutdown = shared.shutdown.clone();
    let over = standing.over();
    let heard = Heard::over_tcp(stream.get_ref().0.reads());
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(heard.clone());
        answer(request, connection.clone(), over.clone(), shared.clone())
    });
    let mut http = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let result = tokio::select! {
        result = &mut http => result,
        () = shutdown.cancelled() => {
            http.as_mut().graceful_shutdown();
            timeout(limits::GRACE, http).await.unwrap_or(Ok(()))
        }
        () = standing.ended() => {
            http.as_mut().graceful_shutdown();
            timeout(limits::FAREWELL, http).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "connection ended");
    }
}

async fn answer(
    mut request: Request<Incoming>,
    mut connection: Connection,
    over: Over,
    shared: Shared,
) -> Result<Response<Body>, Infallible> {
    if let Some(why) = over.why() {
        return Ok(call::not_believed(request.headers(), why));
    }
    if request.version() != Version::HTTP_2 {
        connection.protocol = Protocol::Http1;
    }
    request.extensions_mut().insert(connection);
    let mut response = call::handle(shared.router, request.map(Body::new)).await;
    if let Ok(value) = HeaderValue::from_str(&format!("h3=\":{}\"; ma=86400", shared.port)) {
        response.headers_mut().insert(ALT_SVC, value);
    }
    Ok(response)
}

fn builder(peer: &Peer) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits::HANDSHAKE)
        .max_buf_size(limits::HEADERS as usize);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits::streams(peer))
        .max_pending_accept_reset_streams(limits::RESETS)
        .max_local_error_reset_streams(limits::RESETS)
        .max_header_list_size(limits::HEADERS)
        .initial_stream_window_size(limits::STREAM_WINDOW)
        .initial_connection_window_size(limits::connection_window(peer))
        .max_send_buf_size(limits::SEND_BUFFER)
        .keep_alive_interval(limits::KEEP_ALIVE)
        .keep_alive_timeout(limits::KEEP_ALIVE_ANSWER);
    builder
}
