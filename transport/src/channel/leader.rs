//! The way to whoever leads, of several servers that do the same.
//!
//! Who that is, somebody else finds out and says by a [`Switch`]. A call that got no answer by then is made
//! again at the new one, since the one before may be paused and never answer. So each call may come twice:
//! what is called so must take a repetition for what it is. An answer that has begun ends with an error.

use super::{Channel, ChannelError};
use bytes::Bytes;
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use http_body_util::{BodyExt, Full};
use std::{
    error::Error,
    pin::{Pin, pin},
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};
use tokio::time::sleep;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::{Code, Status, body::Body};
use tower::Service as _;

/// How long a call is made again and again while nobody leads: longer than an election should take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two tries at the same one.
const PAUSE: Duration = Duration::from_millis(100);

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
        let (head, body) = request.into_parts();
        // A message, not a stream of them: there is none that goes this way.
        let body = body.collect().await.map_err(ChannelError::NotSent)?.to_bytes();
        let mut patience = pin!(sleep(PATIENCE));
        loop {
            let current = self.current();
            let over = current.over.clone();
            let request = Request::from_parts(head.clone(), Body::new(Full::new(body.clone())));
            let answer = current.call(request).await;
            if !is_away(&answer) {
                return answer;
            }
            tokio::select! {
                () = over.cancelled() => {}
                () = sleep(PAUSE) => {}
                () = &mut patience => return answer,
            }
        }
    }
}

impl Current {
    async fn call(self, request: Request<Body>) -> Result<Response<Body>, ChannelError> {
        let Self { mut channel, over } = self;
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

/// Whether it is not there, does not lead, or stopped before it answered.
fn is_away(answer: &Result<Response<Body>, ChannelError>) -> bool {
    match answer {
        Ok(response) => Status::from_header_map(response.headers())
            .is_some_and(|status| status.code() == Code::Unavailable),
        Err(error) => error
            .source()
            .and_then(|source| source.downcast_ref::<Status>())
            .is_none_or(|status| status.code() == Code::Unavailable),
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
            .route("/echo-of-second", any(move |sent: Bytes| echo(name, sent)));

        Channel::local(router, Peer::Service("test".into()))
    }

    async fn echo(name: &str, sent: Bytes) -> Bytes {
        if name != "second" {
            std::future::pending::<()>().await;
        }
        sent
    }

    async fn get(channel: &Channel, path: &str) -> Result<Response<Body>, ChannelError> {
        channel.clone().call(Request::get(path).body(Body::empty()).unwrap()).await
    }

    #[tokio::test]
    async fn calls_follow_the_leader_and_answers_of_the_one_before_end() {
        let (channel, switch) = Channel::to_leader(server("first"));
        let name = async || {
            let body = get(&channel, "/name").await.unwrap().into_body();
            body.collect().await.unwrap().to_bytes()
        };
        assert_eq!(name().await, "first");
        let mut body = get(&channel, "/for-ever").await.unwrap().into_body();
        switch.to(server("second"));
        let ended = body.frame().await.expect("an error is a frame").unwrap_err();
        assert_eq!(ended.code(), tonic::Code::Unavailable);
        assert_eq!(name().await, "second");
    }

    #[tokio::test]
    async fn a_call_without_an_answer_is_made_again_at_the_next_one() {
        let (channel, switch) = Channel::to_leader(server("first"));
        let hangs = tokio::spawn({
            let channel = channel.clone();
            let request = Request::post("/echo-of-second").body(Body::new(Full::from("text")));
            async move { channel.clone().call(request.unwrap()).await }
        });
        // It has begun: the current-thread runtime runs what was spawned before.
        tokio::task::yield_now().await;
        switch.to(server("second"));
        let body = hangs.await.unwrap().unwrap().into_body();
        assert_eq!(body.collect().await.unwrap().to_bytes(), "text");
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_lead_is_asked_again_until_somebody_does() {
        let away = || Status::unavailable("stands by").into_http::<Sent>();
        let router = Router::new().fallback(move || async move { away() });
        let follower = Channel::local(router, Peer::Service("test".into()));
        let (channel, switch) = Channel::to_leader(follower);
        let asked = tokio::spawn({
            let channel = channel.clone();
            async move { get(&channel, "/name").await }
        });
        sleep(PATIENCE / 2).await;
        switch.to(server("first"));
        let body = asked.await.unwrap().unwrap().into_body();
        assert_eq!(body.collect().await.unwrap().to_bytes(), "first");
        // Not for ever.
        switch.to(Channel::local(
            Router::new().fallback(move || async move { away() }),
            Peer::Service("test".into()),
        ));
        let refused = get(&channel, "/name").await.unwrap();
        let status = Status::from_header_map(refused.headers()).unwrap();
        assert_eq!(status.message(), "stands by");
    }
}
