//! The server's end: h3's requests, answered by the router.

use super::{
    adapter::{Quic, Sending, Stopped},
    body::{Received, strip},
};
use crate::{Connection, Heard, call, limits, standing::Over};
use axum::{Router, body::Body};
use bytes::Bytes;
use h3::{
    error::{Code, ConnectionError, StreamError},
    server::{RequestResolver, RequestStream},
};
use http::{Request, Response};
use http_body_util::BodyExt;
use std::sync::atomic::{AtomicU32, Ordering};
use tokio::time::{sleep, timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

type Http = h3::server::Connection<Quic, Bytes>;

/// Answers the connection's requests until it ends; after `shutdown` for a short while more. Once it is
/// `over`, no further request reaches the router.
pub(crate) async fn converse(
    quic: quinn::Connection,
    connection: Connection,
    over: Over,
    router: Router,
    shutdown: CancellationToken,
) -> Result<(), ConnectionError> {
    let room = Room::new(quic.clone(), limits::streams(&connection.peer));
    let heard = Heard::over_quic(quic.clone());
    let (quic, latest) = Quic::server(quic);
    let mut builder = h3::server::builder();
    builder.max_field_section_size(limits::HEADERS.into());
    let mut http = builder.build(quic).await?;
    let calls = TaskTracker::new();
    let spawn = |resolver| {
        let stopped = latest.take().expect("a stream was accepted just now");
        let known = (connection.clone(), heard.clone());
        calls.spawn(answer(resolver, stopped, known, over.clone(), router.clone()));
        room.has(calls.len());
    };
    tokio::select! {
        ended = accept(&mut http, &spawn) => return ended,
        () = shutdown.cancelled() => {}
    }
    // GOAWAY: h3 rejects what comes after. It would wait for the client to leave, so the calls are
    // counted here.
    http.shutdown(0).await?;
    calls.close();
    tokio::select! {
        ended = accept(&mut http, &spawn) => ended,
        () = calls.wait() => Ok(()),
        () = sleep(limits::GRACE) => Ok(()),
    }
}

/// For how many calls at once the connection has room.
struct Room {
    quic: quinn::Connection,
    now: AtomicU32,
    most: u32,
}

impl Room {
    fn new(quic: quinn::Connection, most: u32) -> Self {
        Self { quic, now: AtomicU32::new(limits::FIRST_STREAMS), most }
    }

    /// Makes more, before so many calls have used it up.
    fn has(&self, calls: usize) {
        let now = self.now.load(Ordering::Relaxed);
        if now < self.most && calls >= now as usize / 2 {
            let more = (now * 2).min(self.most);
            self.quic.set_max_concurrent_bi_streams(more.into());
            self.now.store(more, Ordering::Relaxed);
        }
    }
}

/// Each request gets a task of its own: one that panics ends alone.
async fn accept(
    http: &mut Http,
    spawn: &impl Fn(RequestResolver<Quic, Bytes>),
) -> Result<(), ConnectionError> {
    while let Some(resolver) = http.accept().await? {
        spawn(resolver);
    }
    Ok(())
}

async fn answer(
    resolver: RequestResolver<Quic, Bytes>,
    mut stopped: Stopped,
    (connection, signs): (Connection, Heard),
    over: Over,
    router: Router,
) {
    let head = timeout(limits::HANDSHAKE, resolver.resolve_request()).await;
    let Ok(Ok((mut request, stream))) = head else {
        tracing::debug!(address = %connection.address, "a request without a proper head");
        return;
    };
    let (mut send, receive) = stream.split();
    request.extensions_mut().insert(connection);
    request.extensions_mut().insert(signs);
    let (head, ()) = request.into_parts();
    let body = Received::new(receive, &head.headers);
    let request = Request::from_parts(head, Body::new(body));
    let work = async {
        let response = match over.why() {
            Some(why) => call::not_believed(request.headers(), why),
            None => call::handle(router, request).await,
        };
        respond(&mut send, response).await
    };
    let outcome = tokio::select! {
        outcome = work => outcome,
        _ = &mut stopped => Err(Code::H3_REQUEST_CANCELLED),
    };
    match outcome {
        // A connection that shuts down is closed after its last call, so this one is not over until
        // the client has everything.
        Ok(()) => drop(stopped.await),
        Err(code) => send.stop_stream(code),
    }
}

/// Errs with the code of the reset that the client must see, lest it take half an answer for all.
async fn respond(
    send: &mut RequestStream<Sending, Bytes>,
    response: Response<Body>,
) -> Result<(), Code> {
    let failed = |_: StreamError| Code::H3_INTERNAL_ERROR;
    let (mut head, mut body) = response.into_parts();
    strip(&mut head.headers);
    send.send_response(Response::from_parts(head, ())).await.map_err(failed)?;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Code::H3_INTERNAL_ERROR)?;
        match frame.into_data() {
            // h3 takes an empty frame for the end.
            Ok(data) if data.is_empty() => {}
            Ok(data) => send.send_data(data).await.map_err(failed)?,
            Err(frame) => {
                if let Ok(trailers) = frame.into_trailers() {
                    send.send_trailers(trailers).await.map_err(failed)?;
                }
            }
        }
    }
    send.finish().await.map_err(failed)
}
