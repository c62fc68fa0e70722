//! Calls that no client would make, over real TLS: each is answered, and the server goes on.

use std::{env, fs, process::Command};

use axum::http::{Request, Response};
use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::BodyExt;
use prost::Message;
use proto::event_store::client::{
    Empty, StreamIdentifier, Uuid as WireUuid,
    streams::{
        AppendReq, BatchAppendReq, DeleteReq, ReadReq, TombstoneReq, append_req, batch_append_req,
        delete_req, read_req, tombstone_req,
    },
    uuid,
};
use tonic::codegen::Service as _;
use transport::{Channel, Protocols};

use crate::{
    open_small,
    serving::{ANY_PORT, Ca, Serving},
    soon,
};

/// Calls of each method.
const ROUNDS: usize = 300;
const SEED: u64 = 20_261_124;

const METHODS: [&str; 7] = [
    "event_store.client.streams.Streams/Read",
    "event_store.client.streams.Streams/Append",
    "event_store.client.streams.Streams/BatchAppend",
    "event_store.client.streams.Streams/Delete",
    "event_store.client.streams.Streams/Tombstone",
    "event_store.client.gossip.Gossip/Read",
    "event_store.client.server_features.ServerFeatures/GetSupportedMethods",
];

/// xorshift64*
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    fn bytes(&mut self) -> Vec<u8> {
        (0..self.below(200)).map(|_| self.next() as u8).collect()
    }
}

fn stream() -> StreamIdentifier {
    StreamIdentifier { stream_name: b"fuzzed-1".to_vec().into() }
}

fn id() -> WireUuid {
    let text = "00000000-0000-0000-0000-000000000001";
    WireUuid { value: Some(uuid::Value::String(text.into())) }
}

fn metadata() -> std::collections::HashMap<String, String> {
    let pairs = [("type", "Fuzzed"), ("content-type", "application/json")];
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
}

fn read() -> Vec<u8> {
    use read_req::{
        Options,
        options::{
            AllOptions, CountOption, FilterOption, FilterOptions, StreamOption, UuidOption,
            all_options::AllOption, filter_options, uuid_option,
        },
    };
    let expression = filter_options::Expression { regex: "^(?!x).*".into(), prefix: vec![] };
    let filter = FilterOptions {
        filter: Some(filter_options::Filter::StreamIdentifier(expression)),
        checkpoint_interval_multiplier: 1,
        window: Some(filter_options::Window::Max(32)),
    };
    let options = Options {
        stream_option: Some(StreamOption::All(AllOptions {
            all_option: Some(AllOption::Start(Empty {})),
        })),
        count_option: Some(CountOption::Count(10)),
        filter_option: Some(FilterOption::Filter(filter)),
        uuid_option: Some(UuidOption { content: Some(uuid_option::Content::String(Empty {})) }),
        ..Options::default()
    };
    ReadReq { options: Some(options) }.encode_to_vec()
}

/// Messages that a client would send in one call.
fn valid(method: usize) -> Vec<Vec<u8>> {
    match method {
        0 => vec![read()],
        1 => {
            use append_req::{Content, Options, ProposedMessage, options::ExpectedStreamRevision};
            let options = Options {
                stream_identifier: Some(stream()),
                expected_stream_revision: Some(ExpectedStreamRevision::Any(Empty {})),
            };
            let event = ProposedMessage {
                id: Some(id()),
                metadata: metadata(),
                data: b"{}".to_vec().into(),
                ..ProposedMessage::default()
            };
            [Content::Options(options), Content::ProposedMessage(event)]
                .map(|content| AppendReq { content: Some(content) }.encode_to_vec())
                .into()
        }
        2 => {
            use batch_append_req::{Options, ProposedMessage, options::ExpectedStreamPosition};
            let event = ProposedMessage {
                id: Some(id()),
                metadata: metadata(),
                data: b"{}".to_vec().into(),
                ..ProposedMessage::default()
            };
            let request = BatchAppendReq {
                correlation_id: Some(id()),
                options: Some(Options {
                    stream_identifier: Some(stream()),
                    expected_stream_position: Some(ExpectedStreamPosition::Any(())),
                    ..Options::default()
                }),
                proposed_messages: vec![event],
                is_final: true,
            };
            vec![request.encode_to_vec()]
        }
        3 => {
            let expected_stream_revision =
                Some(delete_req::options::ExpectedStreamRevision::Any(Empty {}));
            let options =
                delete_req::Options { stream_identifier: Some(stream()), expected_stream_revision };
            vec![DeleteReq { options: Some(options) }.encode_to_vec()]
        }
        4 => {
            let expected_stream_revision =
                Some(tombstone_req::options::ExpectedStreamRevision::Any(Empty {}));
            let options = tombstone_req::Options {
                stream_identifier: Some(stream()),
                expected_stream_revision,
            };
            vec![TombstoneReq { options: Some(options) }.encode_to_vec()]
        }
        _ => vec![vec![]],
    }
}

/// Changes, cuts, repeats.
fn mutated(mut message: Vec<u8>, random: &mut Random) -> Vec<u8> {
    for _ in 0..=random.below(4) {
        let at = random.below(message.len());
        match random.below(5) {
            0 => message.truncate(at),
            1 => message.splice(at..at, random.bytes()).for_each(drop),
            2 => message.extend_from_within(at..),
            _ => {
                if let Some(byte) = message.get_mut(at) {
                    *byte ^= 1 << random.below(8);
                }
            }
        }
    }
    message
}

/// The messages of a call in their frames, of which some are wrong.
fn framed(messages: &[Vec<u8>], random: &mut Random) -> Bytes {
    let mut frames = BytesMut::new();
    for message in messages {
        let odd = random.below(12);
        frames.put_u8(u8::from(odd == 0));
        let length = message.len() as u32;
        frames.put_u32(if odd == 1 { random.next() as u32 } else { length });
        frames.put_slice(message);
    }
    frames.freeze()
}

async fn call(channel: &mut Channel, path: &str, body: Bytes) -> Response<tonic::body::Body> {
    let request = Request::post(format!("https://log/{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(tonic::body::Body::new(axum::body::Body::from(body)))
        .unwrap();
    soon(channel.call(request)).await.unwrap()
}

fn channel(serving: &Serving, ca: &Ca) -> Channel {
    let tls = identity::client_tls(&ca.service("server")).unwrap();
    Channel::remote(&serving.address.to_string(), "log", tls, Protocols::Http2).unwrap()
}

/// Tells the child, which is this same test binary, that it is one: memory is counted by process.
const CHILD: &str = "EVENTLOG_TEST_FUZZ";
/// Most memory for the server, its log and its clients, in KiB: a hundred times what came by then.
const MOST_MEMORY: u64 = 128 << 10;

#[tokio::test]
async fn nonsense_is_answered_and_takes_little_memory() {
    if env::var_os(CHILD).is_some() {
        nonsense_is_answered_and_stops_nobody().await;
        println!("{}", fs::read_to_string("/proc/self/status").unwrap());
        return;
    }
    let name = "fuzz::nonsense_is_answered_and_takes_little_memory";
    let mut child = Command::new(env::current_exe().unwrap());
    child.args([name, "--exact", "--nocapture"]).env(CHILD, "1");
    let child = tokio::task::spawn_blocking(move || child.output()).await.unwrap().unwrap();
    let (said, why) =
        [child.stdout, child.stderr].map(|text| String::from_utf8(text).unwrap()).into();
    assert!(child.status.success(), "{said}{why}");
    let peak = said.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak < MOST_MEMORY, "{peak} KiB of memory");
}

async fn nonsense_is_answered_and_stops_nobody() {
    let (dir, ca) = (tempfile::tempdir().unwrap(), Ca::new());
    let serving = Serving::start(open_small(dir.path()), &ca, ANY_PORT);
    let mut channel = channel(&serving, &ca);
    let mut random = Random(SEED);
    for (number, path) in METHODS.iter().enumerate() {
        for round in 0..ROUNDS {
            let messages: Vec<Vec<u8>> = if random.below(3) == 0 {
                (0..random.below(4)).map(|_| random.bytes()).collect()
            } else {
                let valid = valid(number).into_iter();
                valid.map(|message| mutated(message, &mut random)).collect()
            };
            let body = framed(&messages, &mut random);
            let mut answer = call(&mut channel, path, body).await;
            // A panic would be a 500, or no answer.
            assert_eq!(answer.status(), 200, "seed {SEED}, {path}, round {round}");
            // A subscription goes on for ever, but begins with a confirmation.
            if let Some(frame) = soon(answer.body_mut().frame()).await {
                frame.unwrap_or_else(|error| panic!("seed {SEED}, {path}, {round}: {error}"));
            }
        }
    }
    let log = serving.client(&ca.folder("server"));
    soon(log.append("after-1", eventlog::Expected::None, vec![crate::event(1)])).await.unwrap();
}

#[tokio::test]
async fn a_message_that_is_too_long_is_refused_by_its_length() {
    let (dir, ca) = (tempfile::tempdir().unwrap(), Ca::new());
    let serving = Serving::start(open_small(dir.path()), &ca, ANY_PORT);
    let mut channel = channel(&serving, &ca);
    for path in &METHODS[..5] {
        // Four GiB are announced, none comes.
        let answer = call(&mut channel, path, Bytes::from_static(b"\0\xff\xff\xff\xff")).await;
        let mut status = answer.headers().get("grpc-status").cloned();
        if status.is_none() {
            let body = soon(answer.into_body().collect()).await.unwrap();
            let trailers = body.trailers().cloned().unwrap_or_default();
            status = trailers.get("grpc-status").cloned();
        }
        // OUT_OF_RANGE
        assert!(status.as_ref().is_some_and(|status| status == "11"), "{path}: {status:?}");
    }
}
