//! HTTP/2 over TLS over TCP.

use super::{
    connect::{self, Target},
    exchange::{Failure, Upload, is_refusal, status},
    watched::{Refusal, Watched},
};
use crate::limits;
use http::{Request, Response};
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::sync::Arc;
use tonic::Status;

/// A connection; many calls share it.
#[derive(Clone)]
pub(super) struct Connection {
    http: http2::SendRequest<Upload>,
    refusal: Refusal,
}

pub(super) async fn connect(
    target: &Target,
    tls: &Arc<rustls::ClientConfig>,
    window: u32,
) -> Result<Connection, Status> {
    let stream = connect::tls(target, tls).await.map_err(|error| status(&error))?;
    let refusal = Refusal::default();
    let stream = TokioIo::new(Watched { stream, refusal: refusal.clone() });
    let (http, driver) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(limits::STREAM_WINDOW)
        .initial_connection_window_size(window)
        .max_header_list_size(limits::HEADERS)
        .max_send_buf_size(limits::SEND_BUFFER)
        .keep_alive_interval(limits::KEEP_ALIVE)
        .keep_alive_timeout(limits::KEEP_ALIVE_ANSWER)
        .keep_alive_while_idle(true)
        .handshake(stream)
        .await
        .map_err(|error| status(&error))?;
    tokio::spawn(async move {
        if let Err(error) = driver.await {
            tracing::debug!(%error, "HTTP/2 connection ended");
        }
    });
    Ok(Connection { http, refusal })
}

impl Connection {
    pub(super) fn is_open(&self) -> bool {
        !self.http.is_closed()
    }

    pub(super) async fn send(
        mut self,
        request: Request<Upload>,
    ) -> Result<Response<Incoming>, Failure> {
        self.http.try_send_request(request).await.map_err(|mut failed| {
            let why = status(failed.error());
            // A handshake that the server did not finish handed it no request.
            if let Some(refusal) = self.refusal.get() {
                return Failure::Refused(refusal.clone());
            }
            match failed.take_message() {
                Some(request) => Failure::Unsent(Box::new(request), why),
                None if is_refusal(failed.error()) => Failure::Refused(why),
                None => Failure::Lost(why),
            }
        })
    }
}
