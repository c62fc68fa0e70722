//! The way to whoever leads, of several servers that do the same.
//!
//! Who that is, somebody else finds out and says by a [`Switch`]. Calls that run at the one before end
//! then: it may be paused and never answer.

use super::{Channel, ChannelError};
use bytes::Bytes;
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::{Status, body::Body};
use tower::Service as _;

/// Sends the calls of a channel elsewhere.
#[derive(Clone, Debug)]
pub struct Switch(pub(super) Arc<Leader>);

#[derive(Debug)]
pub(super) struct Leader(Mutex<Current>);

#[derive(Clone, Debug)]
struct Current {
    channel: Channel,
    /// Fires when it is not the current one any more.
    over: CancellationToken,
}

impl Current {
    fn new(channel: Channel) -> Self {
        Self { channel, over: CancellationToken::new() }
    }
}

impl Switch {
    /// Calls go there from now on; those that run end.
    pub fn to(&self, channel: Channel) {
        let mut current = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *current, Current::new(channel));
        before.over.cancel();
    }
}

impl Leader {
    pub(super) fn new(first: Channel) -> Self {
        Self(Mutex::new(Current::new(first)))
    }

    fn current(&self) -> Current {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn channel(&self) -> Channel {
        self.current().channel
    }

    pub(super) async fn call(
        &self,
        request: Request<Body>,
    ) -> Result<Response<Body>, ChannelError> {
        let Current { mut channel, over } = self.current();
        tokio::select! {
            biased;
            answer = channel.call(request) => answer.map(|response| {
                let over = Box::pin(over.cancelled_owned());
                response.map(|body| Body::new(Answer { body, over }))
            }),
            () = over.cancelled() => Err(ChannelError::Lost(moved())),
        }
    }
}

fn moved() -> Status {
    Status::unavailable("another process leads this service now: try again")
}

/// A response's body, which ends with an error when another one leads.
struct Answer {
    body: Body,
    over: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        // What has arrived comes first: it is true, whoever leads.
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Pending if self.over.as_mut().poll(cx).is_ready() => {
                Poll::Ready(Some(Err(moved())))
            }
            polled => polled,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use axum::{Router, body::Body as Sent, extract::Request as Received, routing::any};
    use http_body_util::BodyExt;
    use identity::Peer;

    fn server(name: &'static str) -> Channel {
        let answer = move |_: Received| async move { name };
        let router = Router::new()
            .route("/name", any(answer))
            .route(
                "/for-ever",
                any(|| async {
                    Sent::new(http_body_util::StreamBody::new(futures::stream::pending::<
                        Result<Frame<Bytes>, std::io::Error>,
                    >()))
                }),
            )
            .route("/never", any(std::future::pending::<()>));

        Channel::local(router, Peer::Service("test".into()))
    }

    async fn get(channel: &Channel, path: &str) -> Result<Response<Body>, ChannelError> {
        channel.clone().call(Request::get(path).body(Body::empty()).unwrap()).await
    }

    #[tokio::test]
    async fn calls_follow_the_leader_and_those_at_the_one_before_end() {
        let (channel, switch) = Channel::to_leader(server("first"));
        let name = async || {
            let body = get(&channel, "/name").await.unwrap().into_body();
            body.collect().await.unwrap().to_bytes()
        };
        assert_eq!(name().await, "first");
        let mut body = get(&channel, "/for-ever").await.unwrap().into_body();
        let never = tokio::spawn({
            let channel = channel.clone();
            async move { get(&channel, "/never").await.map(drop) }
        });
        // It has begun: the current-thread runtime runs what was spawned before.
        tokio::task::yield_now().await;
        switch.to(server("second"));
        let ended = body.frame().await.expect("an error is a frame").unwrap_err();
        assert_eq!(ended.code(), tonic::Code::Unavailable);
        assert!(matches!(never.await.unwrap(), Err(ChannelError::Lost(_))));
        assert_eq!(name().await, "second");
    }
}
