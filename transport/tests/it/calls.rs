//! What a call must survive, in the process, over HTTP/2 and over HTTP/3 alike.

use crate::{
    house::{House, PATIENCE, Way, reaches, soon},
    vehicle::{
        MESSAGE, event,
        rpc::{
            AppendRequest, AppendResponse, HeadRequest, ReadStreamRequest,
            vehicle_client::VehicleClient,
        },
    },
};
use axum::body::to_bytes;
use bytes::Bytes;
use futures::{StreamExt, future::join_all, stream};
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use proto::worker::{LogChunk, worker_client::WorkerClient};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, body::Body};
use tower::ServiceExt;
use transport::{Channel, Protocol};

/// Runs each of the functions over every way.
macro_rules! over_every_way {
    ($($name:ident),* $(,)?) => {
        mod local { $(#[tokio::test] async fn $name() { super::$name(super::Way::Local).await; })* }
        mod http2 { $(#[tokio::test] async fn $name() { super::$name(super::Way::Http2).await; })* }
        mod http3 { $(#[tokio::test] async fn $name() { super::$name(super::Way::Http3).await; })* }
    };
}

over_every_way!(
    a_call_is_answered_and_the_channel_says_over_what,
    the_handler_knows_who_calls,
    a_refusal_brings_its_code_text_and_metadata,
    a_stream_ends_with_its_status,
    a_stream_that_fails_midway_brings_what_came_before,
    an_empty_stream_has_an_end,
    half_close_lets_the_answer_come,
    an_early_answer_comes_though_the_request_is_unread,
    messages_can_alternate,
    dropping_a_flowing_stream_cancels_the_handler,
    dropping_an_idle_stream_cancels_the_handler,
    dropping_a_waiting_call_cancels_the_handler,
    a_deadline_ends_a_waiting_call,
    a_deadline_ends_an_idle_stream,
    a_deadline_ends_an_upload,
    an_aborted_upload_is_not_taken_for_a_whole_one,
    an_upload_whose_caller_went_away_is_not_taken_for_a_whole_one,
    uploads_whose_callers_gave_up_are_not_taken_for_whole_ones,
    a_panic_hurts_only_its_own_call,
    a_panic_midway_hurts_only_its_own_stream,
    big_headers_pass,
    messages_of_eight_mebibytes_pass,
    rest_is_answered,
    a_rest_download_arrives_whole,
    fifteen_hundred_calls_at_once_are_answered,
);

fn log(channel: Channel) -> VehicleClient<Channel> {
    VehicleClient::new(channel)
        .max_decoding_message_size(MESSAGE)
        .max_encoding_message_size(MESSAGE)
}

fn append(stream: &str) -> AppendRequest {
    AppendRequest { stream: stream.to_owned(), ..AppendRequest::default() }
}

fn append_bytes(length: u64) -> AppendRequest {
    AppendRequest { events: vec![event(Bytes::from(vec![9; length as usize]))], ..append("") }
}

fn position(response: AppendResponse) -> u64 {
    response.position
}

fn read(stream: &str, limit: u64) -> ReadStreamRequest {
    ReadStreamRequest { stream: stream.to_owned(), limit }
}

fn chunk(bytes: usize) -> LogChunk {
    LogChunk { chunk: Bytes::from(vec![3; bytes]), ..LogChunk::default() }
}

async fn rest(channel: Channel, method: Method, path: &str, body: &str) -> (StatusCode, String) {
    let body = Body::new(http_body_util::Full::new(Bytes::from(body.to_owned())));
    let request = Request::builder().method(method).uri(path).body(body).unwrap();
    let response = soon(channel.oneshot(request)).await.unwrap();
    let status = response.status();
    let body = to_bytes(axum::body::Body::new(response.into_body()), MESSAGE).await.unwrap();
    (status, String::from_utf8(body.into()).unwrap())
}

async fn a_call_is_answered_and_the_channel_says_over_what(way: Way) {
    let house = House::open().await;
    let channel = house.channel(way);
    assert_eq!(channel.protocol(), None);
    let head = soon(log(channel.clone()).head(HeadRequest {})).await.unwrap();
    assert_eq!(head.into_inner().next_position, 42);
    let expected = match way {
        Way::Local => Protocol::Local,
        Way::Http2 => Protocol::Http2,
        Way::Http3 => Protocol::Http3,
    };
    assert_eq!(channel.protocol(), Some(expected));
}

async fn the_handler_knows_who_calls(way: Way) {
    let house = House::open().await;
    let status = soon(log(house.channel(way)).append(append("whoami"))).await.unwrap_err();
    assert!(status.message().contains("Service(\"svc-test\")"), "{status}");
    let (_, text) = rest(house.channel(way), Method::GET, "/whoami", "").await;
    assert!(text.starts_with("Service(\"svc-test\")"), "{text}");
    assert_eq!(text.contains("Some("), way != Way::Local, "the certificate's serial: {text}");
}

async fn a_refusal_brings_its_code_text_and_metadata(way: Way) {
    let house = House::open().await;
    let status = soon(log(house.channel(way)).append(append("fail"))).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert_eq!(status.message(), "not today – nöt");
    assert_eq!(status.metadata().get("reason").unwrap(), "tuesday");
    let response = soon(log(house.channel(way)).append(append(""))).await.unwrap();
    assert_eq!(response.metadata().get("seen").unwrap(), "yes");
}

async fn a_stream_ends_with_its_status(way: Way) {
    let house = House::open().await;
    let events = soon(log(house.channel(way)).read_stream(read("count", 1000))).await.unwrap();
    let mut events = events.into_inner();
    let mut positions = Vec::new();
    while let Some(event) = soon(events.message()).await.unwrap() {
        positions.push(event.position);
    }
    assert_eq!(positions, (0..1000).collect::<Vec<_>>());
    assert!(soon(events.trailers()).await.unwrap().is_some());
}

async fn a_stream_that_fails_midway_brings_what_came_before(way: Way) {
    let house = House::open().await;
    let events = soon(log(house.channel(way)).read_stream(read("fail", 3))).await.unwrap();
    let mut events = events.into_inner();
    for position in 0..3 {
        assert_eq!(soon(events.message()).await.unwrap().unwrap().position, position);
    }
    let status = soon(events.message()).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::DataLoss, "midway"));
}

async fn an_empty_stream_has_an_end(way: Way) {
    let house = House::open().await;
    let events = soon(log(house.channel(way)).read_stream(read("count", 0))).await.unwrap();
    assert!(soon(events.into_inner().message()).await.unwrap().is_none());
}

async fn half_close_lets_the_answer_come(way: Way) {
    let house = House::open().await;
    let (sender, chunks) = mpsc::channel(1);
    let mut client = WorkerClient::new(house.channel(way));
    let call = tokio::spawn(async move { client.stream_logs(ReceiverStream::new(chunks)).await });
    for _ in 0..3 {
        sender.send(chunk(1000)).await.unwrap();
    }
    reaches(&house.seen.received, 3000).await;
    assert!(!call.is_finished(), "no answer before the end");
    drop(sender);
    soon(call).await.unwrap().unwrap();
    assert_eq!(*house.seen.whole.borrow(), 1);
}

async fn an_early_answer_comes_though_the_request_is_unread(way: Way) {
    let house = House::open().await;
    let endless = stream::repeat_with(|| chunk(64 << 10));
    let mut request = tonic::Request::new(endless);
    request.metadata_mut().insert("early", "1".parse().unwrap());
    let mut client = WorkerClient::new(house.channel(way));
    let status = soon(client.stream_logs(request)).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::ResourceExhausted, "enough"));
    let head = soon(log(house.channel(way)).head(HeadRequest {})).await.unwrap();
    assert_eq!(head.into_inner().next_position, 42);
}

async fn messages_can_alternate(way: Way) {
    let house = House::open().await;
    let (sender, requests) = mpsc::channel(1);
    let mut client = log(house.channel(way));
    let replies = soon(client.append_all(ReceiverStream::new(requests))).await.unwrap();
    let mut replies = replies.into_inner();
    for length in 0..100 {
        sender.send(append_bytes(length)).await.unwrap();
        assert_eq!(position(soon(replies.message()).await.unwrap().unwrap()), length);
    }
    drop(sender);
    assert!(soon(replies.message()).await.unwrap().is_none());
}

async fn dropping_a_flowing_stream_cancels_the_handler(way: Way) {
    let house = House::open().await;
    let events = soon(log(house.channel(way)).read_stream(read("flow", 0))).await.unwrap();
    let mut events = events.into_inner();
    for _ in 0..200 {
        soon(events.message()).await.unwrap().unwrap();
    }
    drop(events);
    reaches(&house.seen.cancelled, 1).await;
}

async fn dropping_an_idle_stream_cancels_the_handler(way: Way) {
    let house = House::open().await;
    let mut client = log(house.channel(way));
    let mut events = soon(client.read_stream(read("idle", 1))).await.unwrap().into_inner();
    soon(events.message()).await.unwrap().unwrap();
    assert_eq!(*house.seen.cancelled.borrow(), 0);
    drop(events);
    reaches(&house.seen.cancelled, 1).await;
}

async fn dropping_a_waiting_call_cancels_the_handler(way: Way) {
    let house = House::open().await;
    let mut client = log(house.channel(way));
    let call = tokio::spawn(async move { client.append(append("never")).await });
    reaches(&house.seen.begun, 1).await;
    call.abort();
    reaches(&house.seen.cancelled, 1).await;
}

/// The server's own deadline, not only the client's: the handler must be gone too.
async fn a_deadline_ends_a_waiting_call(way: Way) {
    let house = House::open().await;
    let mut request = tonic::Request::new(append("never"));
    request.set_timeout(Duration::from_millis(100));
    let status = soon(log(house.channel(way)).append(request)).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    if *house.seen.begun.borrow() > 0 {
        reaches(&house.seen.cancelled, 1).await;
    }
}

async fn a_deadline_ends_an_idle_stream(way: Way) {
    let house = House::open().await;
    let mut client = log(house.channel(way));
    soon(client.head(HeadRequest {})).await.unwrap();
    let mut request = tonic::Request::new(read("idle", 1));
    request.set_timeout(Duration::from_millis(500));
    let mut events = soon(client.read_stream(request)).await.unwrap().into_inner();
    soon(events.message()).await.unwrap().unwrap();
    let status = soon(events.message()).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    reaches(&house.seen.cancelled, 1).await;
}

async fn a_deadline_ends_an_upload(way: Way) {
    let house = House::open().await;
    let mut request = tonic::Request::new(stream::iter([chunk(10)]).chain(stream::pending()));
    request.set_timeout(Duration::from_millis(500));
    let mut client = WorkerClient::new(house.channel(way));
    let status = soon(client.stream_logs(request)).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert_eq!(*house.seen.whole.borrow(), 0);
}

async fn an_aborted_upload_is_not_taken_for_a_whole_one(way: Way) {
    let house = House::open().await;
    let seen = house.seen.clone();
    let frames = stream::iter([Ok(http_body::Frame::data(Bytes::from_static(b"\0\0\0\0\0")))])
        .chain(stream::once(async move {
            reaches(&seen.begun, 1).await;
            Err(Status::cancelled("the disk broke"))
        }));
    let request = Request::post("/protobuf.Worker/StreamLogs")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Body::new(http_body_util::StreamBody::new(frames)))
        .unwrap();
    // Whether an answer comes or not depends on the protocol.
    let answer = soon(house.channel(way).oneshot(request)).await;
    drop(answer);
    reaches(&house.seen.broken, 1).await;
    assert_eq!(*house.seen.whole.borrow(), 0);
}

async fn an_upload_whose_caller_went_away_is_not_taken_for_a_whole_one(way: Way) {
    let house = House::open().await;
    let (sender, requests) = mpsc::channel(1);
    let mut client = log(house.channel(way));
    let replies = soon(client.append_all(ReceiverStream::new(requests))).await.unwrap();
    let mut replies = replies.into_inner();
    sender.send(append_bytes(10)).await.unwrap();
    soon(replies.message()).await.unwrap().unwrap();
    // The response goes, the request's stream stays open: its sender must learn of it.
    drop(replies);
    soon(sender.closed()).await;
}

async fn uploads_whose_callers_gave_up_are_not_taken_for_whole_ones(way: Way) {
    const CALLS: u64 = 100;
    let house = House::open().await;
    let client = WorkerClient::new(house.channel(way));
    let mut calls = Vec::new();
    for _ in 0..CALLS {
        let (sender, chunks) = mpsc::channel(1);
        let mut client = client.clone();
        let upload = async move { client.stream_logs(ReceiverStream::new(chunks)).await };
        calls.push(tokio::spawn(upload));
        sender.send(chunk(10)).await.unwrap();
        // Kept until the call is aborted, or the stream would have an end.
        calls.push(tokio::spawn(async move {
            sender.closed().await;
            Err(Status::cancelled("given up"))
        }));
    }
    reaches(&house.seen.received, CALLS * 10).await;
    for call in calls.iter().step_by(2) {
        call.abort();
    }
    for call in calls {
        assert!(!matches!(soon(call).await, Ok(Ok(_))));
    }
    reaches(&house.seen.cancelled, CALLS).await;
    assert_eq!(*house.seen.whole.borrow(), 0);
}

async fn a_panic_hurts_only_its_own_call(way: Way) {
    let house = House::open().await;
    let mut client = log(house.channel(way));
    let mut events = soon(client.read_stream(read("idle", 1))).await.unwrap().into_inner();
    soon(events.message()).await.unwrap().unwrap();
    let status = soon(client.append(append("panic"))).await.unwrap_err();
    assert_eq!(status.code(), Code::Internal);
    let (status, _) = rest(house.channel(way), Method::GET, "/panic", "").await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
    let next = tokio::time::timeout(Duration::from_millis(50), events.message()).await;
    assert!(next.is_err(), "the neighbour must still wait, not end: {next:?}");
    soon(client.head(HeadRequest {})).await.unwrap();
}

async fn a_panic_midway_hurts_only_its_own_stream(way: Way) {
    let house = House::open().await;
    let mut client = log(house.channel(way));
    let mut neighbour = soon(client.read_stream(read("flow", 0))).await.unwrap().into_inner();
    let mut events = soon(client.read_stream(read("panic", 2))).await.unwrap().into_inner();
    soon(events.message()).await.unwrap().unwrap();
    soon(events.message()).await.unwrap().unwrap();
    let status = soon(events.message()).await.unwrap_err();
    assert_eq!(status.code(), Code::Internal, "{status}");
    for _ in 0..100 {
        soon(neighbour.message()).await.unwrap().unwrap();
    }
}

async fn big_headers_pass(way: Way) {
    let house = House::open().await;
    let big = "x".repeat(32 << 10);
    let request = Request::get("/header").header("big", &big).body(Body::empty()).unwrap();
    let response = soon(house.channel(way).oneshot(request)).await.unwrap();
    assert_eq!(response.headers().get("big").unwrap().len(), big.len());
}

async fn messages_of_eight_mebibytes_pass(way: Way) {
    const LENGTH: u64 = 8 << 20;
    let house = House::open().await;
    let mut client = log(house.channel(way));
    let response = soon(client.append(append_bytes(LENGTH))).await.unwrap();
    assert_eq!(position(response.into_inner()), LENGTH);
    let mut events = soon(client.read_stream(read("huge", LENGTH))).await.unwrap().into_inner();
    let message = soon(events.message()).await.unwrap().unwrap();
    assert_eq!(message.event.unwrap().data.len() as u64, LENGTH);
}

async fn rest_is_answered(way: Way) {
    let house = House::open().await;
    let channel = house.channel(way);
    let (status, _) = rest(channel.clone(), Method::GET, "/length?a=b", "").await;
    assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
    let (status, text) = rest(channel.clone(), Method::POST, "/length", "12345").await;
    assert_eq!((status, text.as_str()), (StatusCode::OK, "5"));
    let (_, text) = rest(channel, Method::POST, "/refuse", &"y".repeat(4 << 20)).await;
    assert_eq!(text, "unread");
}

async fn a_rest_download_arrives_whole(way: Way) {
    const LENGTH: usize = 20_000_000;
    let house = House::open().await;
    let path = format!("/bytes/{LENGTH}");
    let request = Request::get(path).body(Body::empty()).unwrap();
    let response = soon(house.channel(way).oneshot(request)).await.unwrap();
    let mut body = response.into_body();
    let mut received = 0;
    while let Some(frame) = soon(body.frame()).await {
        received += frame.unwrap().data_ref().map_or(0, Bytes::len);
    }
    assert_eq!(received, LENGTH);
}

async fn fifteen_hundred_calls_at_once_are_answered(way: Way) {
    let house = House::open().await;
    let client = log(house.channel(way));
    let calls = (0..1500).map(|_| {
        let mut client = client.clone();
        async move { client.append(append("")).await }
    });
    for answer in tokio::time::timeout(PATIENCE, join_all(calls)).await.unwrap() {
        answer.unwrap();
    }
}
