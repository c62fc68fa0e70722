//! Sessions that do not do as they should.

use std::time::Duration;

use futures::{StreamExt, future, stream};
use identity::Peer;
use proto::event_store::client::{
    self,
    streams::{BatchAppendReq, batch_append_req, streams_client::StreamsClient},
    uuid as wire,
};
use tokio::{task::unconstrained, time::timeout};
use tokio_util::sync::CancellationToken;
use transport::Channel;
use uuid::Uuid;

use crate::{
    Clock, Log,
    disk::simulated::mount,
    server::{Access, Users, router},
};

/// A deadline, so that a test which waits in vain fails.
async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(Duration::from_mins(1), future).await.expect("this takes too long")
}

/// As a client of EventStoreDB sends it in a session: one event, as large as an append may be.
fn large_append(number: u64) -> BatchAppendReq {
    use batch_append_req::{Options, ProposedMessage, options::ExpectedStreamPosition};
    let id = client::Uuid {
        value: Some(wire::Value::String(Uuid::from_u128(u128::from(number) + 1).to_string())),
    };
    let metadata = [("type", "Counted"), ("content-type", "application/octet-stream")];
    let message = ProposedMessage {
        id: Some(id.clone()),
        metadata: metadata.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        data: vec![7; Log::MAX_BATCH_BYTES - 100].into(),
        ..ProposedMessage::default()
    };
    let stream_name = format!("large-{number}").into_bytes().into();
    let options = Options {
        stream_identifier: Some(client::StreamIdentifier { stream_name }),
        expected_stream_position: Some(ExpectedStreamPosition::Any(())),
        ..Options::default()
    };
    BatchAppendReq {
        correlation_id: Some(id),
        options: Some(options),
        proposed_messages: vec![message],
        is_final: true,
    }
}

#[tokio::test]
async fn a_session_that_reads_no_answers_stops_no_other() {
    // As much as all sessions together may hold.
    const MOST: u64 = 64;
    let mounted = mount(1);
    let log = Log::open(&mounted.root.join("log"), Clock::system()).unwrap();
    let access = Access::new(Users::default());
    let router = router(log.clone(), access, CancellationToken::new());
    let client =
        || StreamsClient::new(Channel::local(router.clone(), Peer::Service("server".into())));
    mounted.disk.pause();
    let silent = stream::iter((0..MOST).map(large_append)).chain(stream::pending());
    let mut unread = client().batch_append(silent).await.unwrap().into_inner();
    let begun = unconstrained(future::poll_immediate(unread.next())).await;
    assert!(begun.is_none(), "it cannot be durable yet");
    mounted.disk.resume();
    soon(log.subscribe(0, &[]).take(MOST as usize).count()).await;

    let one = stream::iter([large_append(MOST)]).chain(stream::pending());
    let mut answers = client().batch_append(one).await.unwrap().into_inner();
    soon(answers.next()).await.unwrap().unwrap();
    assert_eq!(log.next_position().await.unwrap(), MOST + 1);
}
