//! The service as its clients see it, over its own event log and folder.

#![expect(clippy::unwrap_used, reason = "a test stops where something is wrong")]

#[path = "api/s3.rs"]
mod s3;

use std::time::Duration;

use eventlog::{Clock, Expected, Log, NewEvent};
use futures::{StreamExt, stream};
use identity::Peer;
use ids::{Digest, EventId, Timestamp};
use prost::Message;
use proto::{
    logs::v1::{
        AppendLogRequest, GetLogRequest, LogEnd, LogSource, LogSpans, LogStream, ReadLogRequest,
        ReadLogResponse, ReplaceLogRequest, logs_client::LogsClient,
    },
    scheduler::events::v1::{RunCancelled, RunFinished, RunRequeued, RunSubmitted},
};
use svc_logs::{Config, Deps, Service};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Code, Status, Streaming,
    codegen::{Service as _, http},
};
use transport::Channel;
use uuid::Uuid;

const DEADLINE: Duration = Duration::from_secs(10);
const RUN: &str = "00000000-0000-0000-0000-000000000007";

#[tokio::test]
async fn an_interrupted_log_goes_on_after_a_restart_and_is_sealed() {
    let house = House::new();
    let mut life = house.start().await;
    assert_eq!(life.append(1, 0, b"hello ").await.unwrap(), 6);
    assert_eq!(life.append(1, 9, b"gap").await.unwrap(), 6);
    life.stop().await;

    let mut life = house.start().await;
    assert_eq!(life.append(1, 0, b"").await.unwrap(), 6, "where to go on");
    let whole = b"hello world";
    assert_eq!(life.end(1, 3, b"lo world", whole).await.unwrap(), 11);
    assert_eq!(life.read(1, 0, false).await.unwrap(), whole);
    assert_eq!(life.read(0, 6, false).await.unwrap(), b"world");
    assert_eq!(life.end(1, 11, b"", whole).await.unwrap(), 11, "a retry");
    life.stop().await;

    let mut life = house.start().await;
    let refused = life.append(1, 11, b"!").await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert_eq!(life.end(1, 0, whole, whole).await.unwrap(), 11, "a retry after a restart");
    let refused = life.append(1, 11, b"!").await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    let refused = life.end(1, 11, b"", b"hello World").await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    let sealed: Vec<_> = house.log.read_all(0, &["runlog-"]).collect().await;
    assert_eq!(sealed.len(), 1);
}

#[tokio::test]
async fn an_end_that_does_not_fit_is_refused_and_seals_nothing() {
    let house = House::new();
    let mut life = house.start().await;
    life.append(1, 0, b"hello").await.unwrap();
    let refused = life.end(1, 5, b"", b"hellO").await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert_eq!(life.end(1, 7, b"ld", b"hello world").await.unwrap(), 5, "bytes are missing");
    assert_eq!(life.append(1, 5, b"!").await.unwrap(), 6);
    assert_eq!(house.log.next_position().await.unwrap(), 0);
}

#[tokio::test]
async fn a_follower_waits_for_the_log_and_sees_each_append() {
    let house = House::new();
    let mut life = house.start().await;
    house.submitted().await;
    let mut follower = life.follow(0, 0).await.unwrap();
    assert_eq!(life.append(1, 0, b"one ").await.unwrap(), 4);
    assert_eq!(next(&mut follower).await, Some((1, 0, b"one ".to_vec())));
    assert_eq!(life.append(1, 4, b"two").await.unwrap(), 7);
    assert_eq!(next(&mut follower).await, Some((1, 4, b"two".to_vec())));
    let mut late = life.follow(1, 5).await.unwrap();
    assert_eq!(next(&mut late).await, Some((1, 5, b"wo".to_vec())));
    life.end(1, 7, b"!", b"one two!").await.unwrap();
    for follower in [&mut follower, &mut late] {
        assert_eq!(next(follower).await, Some((1, 7, b"!".to_vec())));
        assert_eq!(next(follower).await, None, "the log is sealed");
    }
}

#[tokio::test]
async fn a_follower_reads_to_the_end_when_the_attempt_is_over() {
    let house = House::new();
    let mut life = house.start().await;
    house.submitted().await;
    life.append(1, 0, b"one").await.unwrap();
    let (mut first, mut second) =
        (life.follow(1, 0).await.unwrap(), life.follow(2, 0).await.unwrap());
    assert_eq!(next(&mut first).await, Some((1, 0, b"one".to_vec())));
    life.append(1, 3, b" more").await.unwrap();
    house.requeued(1).await;
    assert_eq!(next(&mut first).await, Some((1, 3, b" more".to_vec())));
    assert_eq!(next(&mut first).await, None);

    life.append(2, 0, b"again").await.unwrap();
    assert_eq!(next(&mut second).await, Some((2, 0, b"again".to_vec())));
    let mut newest = life.follow(0, 0).await.unwrap();
    assert_eq!(next(&mut newest).await, Some((2, 0, b"again".to_vec())));
    house.finished().await;
    assert_eq!(next(&mut second).await, None);
    assert_eq!(next(&mut newest).await, None);
    assert_eq!(life.read(0, 0, true).await.unwrap(), b"again", "following what has ended");
    assert_eq!(life.read(1, 0, true).await.unwrap(), b"one more");
}

#[tokio::test]
async fn a_follower_of_a_run_that_never_prints_ends_with_it() {
    let house = House::new();
    let mut life = house.start().await;
    house.submitted().await;
    let (mut any, mut second) =
        (life.follow(0, 0).await.unwrap(), life.follow(2, 0).await.unwrap());
    house.requeued(1).await;
    house.cancelled().await;
    assert_eq!(next(&mut any).await, None);
    assert_eq!(next(&mut second).await, None);
}

#[tokio::test]
async fn an_attempt_that_was_over_before_is_not_waited_for() {
    let house = House::new();
    house.submitted().await;
    house.requeued(1).await;
    let mut life = house.start().await;
    life.append(1, 0, b"one").await.unwrap();
    let mut follower = life.follow(1, 0).await.unwrap();
    assert_eq!(next(&mut follower).await, Some((1, 0, b"one".to_vec())));
    assert_eq!(next(&mut follower).await, None);
}

#[tokio::test]
async fn a_run_without_a_log_is_not_found() {
    let house = House::new();
    let mut life = house.start().await;
    for follow in [false, true] {
        let refused = life.read(0, 0, follow).await.unwrap_err();
        assert_eq!(refused.code(), Code::NotFound, "nobody knows the run");
    }
    house.submitted().await;
    let refused = life.read(0, 0, false).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    life.append(1, 0, b"one").await.unwrap();
    let refused = life.read(2, 0, false).await.unwrap_err();
    assert!(refused.message().contains("attempt 2"), "{refused}");
    house.finished().await;
    // Until it hears of that, the service waits for the attempt with us.
    let refused = timeout(DEADLINE, async {
        loop {
            if let Err(refused) = life.read(2, 0, true).await {
                return refused;
            }
        }
    });
    assert_eq!(refused.await.expect("it hears of the end").code(), Code::NotFound);
}

#[tokio::test]
async fn a_follower_that_does_not_read_delays_nobody() {
    let house = House::new();
    let mut life = house.start().await;
    house.submitted().await;
    life.append(1, 0, b"x").await.unwrap();
    let mut stalled = life.follow(1, 0).await.unwrap();
    let mebibyte = vec![b'y'; 1 << 20];
    for n in 0..24 {
        let appended = life.append(1, 1 + (n << 20), &mebibyte);
        timeout(DEADLINE, appended).await.expect("nobody waits for the follower").unwrap();
    }
    house.finished().await;
    let mut read = 0;
    while let Some((_, offset, data)) = next(&mut stalled).await {
        assert_eq!(offset, read);
        assert!(data.len() <= 256 << 10);
        read += data.len() as u64;
    }
    assert_eq!(read, 1 + (24 << 20));
}

#[tokio::test]
async fn many_runs_append_at_once() {
    let house = House::new();
    let life = house.start().await;
    let writers = (1..=40_u32).map(|attempt| {
        let mut client = life.client.clone();
        async move {
            let mut offset = 0;
            for line in 0..25 {
                let data = format!("line {line} of {attempt}\n").into_bytes();
                let request = AppendLogRequest { offset, ..append_request(attempt, &data) };
                offset += data.len() as u64;
                let answer = client.append_log(request).await.unwrap().into_inner();
                assert_eq!(answer.durable_offset, offset);
            }
        }
    });
    futures::future::join_all(writers).await;
    let mut life = life;
    let log = life.read(17, 0, false).await.unwrap();
    assert_eq!(log.split(|&byte| byte == b'\n').count(), 26);
    assert!(log.starts_with(b"line 0 of 17\nline 1 of 17\n"));
}

#[tokio::test]
async fn a_whole_log_replaces_a_shorter_one() {
    let house = House::new();
    let mut life = house.start().await;
    house.submitted().await;
    let mut follower = life.follow(1, 0).await.unwrap();
    assert_eq!(life.replace(&[b"on", b"e "]).await.unwrap(), 4);
    assert_eq!(next(&mut follower).await, Some((1, 0, b"one ".to_vec())));
    assert_eq!(life.replace(&[b"one two"]).await.unwrap(), 7);
    assert_eq!(next(&mut follower).await, Some((1, 4, b"two".to_vec())));
    assert_eq!(life.replace(&[b"one"]).await.unwrap(), 7, "never shorter");
    assert_eq!(life.read(1, 0, false).await.unwrap(), b"one two");
    life.stop().await;

    let mut life = house.start().await;
    assert_eq!(life.replace(&[b"one two three"]).await.unwrap(), 13);
    assert_eq!(life.read(1, 0, false).await.unwrap(), b"one two three");
}

#[tokio::test]
async fn a_replacement_that_breaks_off_changes_nothing() {
    let house = House::new();
    let mut life = house.start().await;
    life.append(1, 0, b"one").await.unwrap();
    let (messages, stream) = mpsc::channel(4);
    let mut client = life.client.clone();
    let call = tokio::spawn(async move { client.replace_log(ReceiverStream::new(stream)).await });
    messages.send(replace_request(b"one two three")).await.unwrap();
    messages.send(replace_request(b" four")).await.unwrap();
    call.abort();
    call.await.unwrap_err();
    // Another one goes through meanwhile, and what broke off is gone.
    assert_eq!(life.replace(&[b"one two"]).await.unwrap(), 7);
    assert_eq!(life.read(1, 0, false).await.unwrap(), b"one two");
    house.nothing_is_left_aside().await;

    let mut other = replace_request(b"x");
    other.attempt = 2;
    let mixed = stream::iter([replace_request(b"one two three"), other]);
    let refused = life.client.replace_log(mixed).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let nothing = stream::iter(Vec::<ReplaceLogRequest>::new());
    let refused = life.client.replace_log(nothing).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert_eq!(life.read(1, 0, false).await.unwrap(), b"one two");
}

#[tokio::test]
async fn a_replacement_whose_stream_fails_changes_nothing() {
    let house = House::new();
    let mut life = house.start().await;
    life.append(1, 0, b"one").await.unwrap();
    let message = replace_request(b"one two").encode_to_vec();
    let frame = [&[0], &(message.len() as u32).to_be_bytes()[..], &message[..]].concat();
    let pieces = [Ok(frame), Err(std::io::Error::other("the uplink is gone"))];
    let request = http::Request::post("http://localhost/gaia.logs.v1.Logs/ReplaceLog")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(tonic::body::Body::new(axum::body::Body::from_stream(stream::iter(pieces))))
        .unwrap();
    let gateway = Peer::Service("gateway".into());
    let mut channel = Channel::local(life.service.router.clone(), gateway);
    let response = channel.call(request).await.unwrap();
    assert_ne!(response.headers()["grpc-status"], "0");
    assert_eq!(life.read(1, 0, false).await.unwrap(), b"one");
    house.nothing_is_left_aside().await;
}

#[tokio::test]
async fn where_a_log_came_from_is_told_beside_it() {
    let house = House::new();
    let mut life = house.start().await;
    let spans = |offset, lengths: &[u64]| LogSpans {
        offset,
        at: 1_000,
        lengths: lengths.to_vec(),
        delays: vec![0; lengths.len()],
        origins: (0..lengths.len() as u32).map(|number| number % 2).collect(),
        sources: vec![
            LogSource { stream: LogStream::Stdout.into(), jobs: vec![7] },
            LogSource { stream: LogStream::Stderr.into(), jobs: vec![] },
        ],
    };
    house.submitted().await;
    let mut follower = life.follow(1, 0).await.unwrap();
    for (offset, data, spans) in [
        (0, &b"one\ntwo\n"[..], Some(spans(0, &[4, 4]))),
        // Sent again, and more.
        (4, b"two\nthree\n", Some(spans(4, &[4, 6]))),
        // Of an agent that tells nothing.
        (14, b"four\n", None),
    ] {
        let request = AppendLogRequest { offset, spans, ..append_request(1, data) };
        life.client.append_log(request).await.unwrap();
        let chunk = timeout(DEADLINE, follower.message()).await.unwrap().unwrap().unwrap();
        let told: u64 = chunk.spans.iter().map(|span| span.length).sum();
        assert_eq!(told, chunk.data.len() as u64);
    }
    life.stop().await;
    let mut life = house.start().await;
    let request =
        ReadLogRequest { run_id: RUN.into(), attempt: 1, offset: 2, follow: false, spans: true };
    let chunk = life.client.read_log(request).await.unwrap().into_inner().message().await;
    let chunk = chunk.unwrap().unwrap();
    let told: Vec<_> = chunk.spans.iter().map(|span| (span.length, span.at)).collect();
    assert_eq!(told, [(2, 1_000), (10, 1_000), (5, 0)]);
    let stream = |at: usize| chunk.spans[at].source.as_ref().map(LogSource::stream);
    assert_eq!(stream(0), Some(LogStream::Stdout));
    assert_eq!((stream(1), stream(2)), (Some(LogStream::Stderr), None));
    assert_eq!(life.read(1, 0, false).await.unwrap(), b"one\ntwo\nthree\nfour\n");

    let odd = AppendLogRequest { spans: Some(spans(19, &[0])), ..append_request(1, b"") };
    let refused = life.client.append_log(odd).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().starts_with("spans: "), "{}", refused.message());
}

#[tokio::test]
async fn a_log_that_cannot_be_completed_is_sealed_as_it_is_and_says_so() {
    let house = House::new();
    let mut life = house.start().await;
    life.append(1, 0, b"hello").await.unwrap();
    let about = |attempt| GetLogRequest { run_id: RUN.into(), attempt };
    let known = life.client.get_log(about(0)).await.unwrap().into_inner();
    assert_eq!((known.attempt, known.size, known.sealed), (1, 5, None));
    let end = LogEnd {
        size: 11,
        gaps: 2,
        dropped: 30,
        incomplete: "too long".into(),
        ..LogEnd::default()
    };
    // The answer may have been lost.
    for _ in 0..2 {
        let request = AppendLogRequest { end: Some(end.clone()), ..append_request(1, b"") };
        life.client.append_log(request).await.unwrap();
    }
    let whole = life.end(1, 5, b" world", b"hello world").await.unwrap_err();
    assert_eq!(whole.code(), Code::FailedPrecondition);
    life.stop().await;

    let mut life = house.start().await;
    let sealed = life.client.get_log(about(1)).await.unwrap().into_inner().sealed.unwrap();
    let sha256 = Digest::of(b"hello").as_bytes().to_vec().into();
    assert_eq!(sealed, LogEnd { size: 5, sha256, missing: 6, ..end });
    let none = life.client.get_log(about(2)).await.unwrap_err();
    assert_eq!(none.code(), Code::NotFound);
}

#[tokio::test]
async fn a_sealed_log_is_compressed_and_read_as_before() {
    let house = House::new();
    let mut life = house.start().await;
    let whole: Vec<u8> = (0..80_000).flat_map(|n| format!("line {n}\n").into_bytes()).collect();
    for (number, piece) in whole.chunks(500_000).enumerate() {
        life.append(1, number as u64 * 500_000, piece).await.unwrap();
    }
    let folder = house.folder.path().join(RUN);
    let (raw, archive) = (folder.join("1.log"), folder.join("1.log.zst"));
    life.end(1, whole.len() as u64, b"", &whole).await.unwrap();
    until(|| !raw.exists()).await;
    assert!(std::fs::metadata(&archive).unwrap().len() < whole.len() as u64 / 3);
    assert_eq!(life.read(1, 0, false).await.unwrap(), whole);
    assert_eq!(life.read(0, 700_001, true).await.unwrap(), whole[700_001..]);
    let size = whole.len() as u64;
    // What is sent again is known, and nothing more is taken.
    assert_eq!(life.end(1, 0, &whole[..1000], &whole).await.unwrap(), size);
    assert_eq!(life.append(1, size, b"!").await.unwrap_err().code(), Code::FailedPrecondition);
    assert_eq!(life.replace(&[b"short"]).await.unwrap(), size);
    life.stop().await;

    // Killed after the archive got its name, and before the log went.
    std::fs::write(&raw, &whole).unwrap();
    let mut life = house.start().await;
    until(|| !raw.exists()).await;
    assert_eq!(life.read(1, 0, false).await.unwrap(), whole);
    assert_eq!(life.end(1, size, b"", &whole).await.unwrap(), size);
    life.stop().await;

    // So too, and what has the name is damaged: the log that is left makes another one.
    std::fs::write(&raw, &whole).unwrap();
    let mut bytes = std::fs::read(&archive).unwrap();
    bytes[1000] ^= 1;
    std::fs::write(&archive, bytes).unwrap();
    let mut life = house.start().await;
    until(|| !raw.exists()).await;
    assert_eq!(life.read(1, 0, false).await.unwrap(), whole);
    life.stop().await;

    // Killed before.
    std::fs::write(&raw, &whole).unwrap();
    std::fs::remove_file(&archive).unwrap();
    let mut life = house.start().await;
    until(|| !raw.exists()).await;
    assert_eq!(life.read(1, 0, false).await.unwrap(), whole);
    life.stop().await;

    // A log that is not what was sealed is kept for who can tell why, and makes no archive.
    std::fs::write(&raw, &whole[1..]).unwrap();
    std::fs::remove_file(&archive).unwrap();
    let mut life = house.start().await;
    assert_eq!(life.read(1, 0, false).await.unwrap_err().code(), Code::DataLoss);
    life.stop().await;
    assert!(raw.exists() && !archive.exists());
}

async fn until(is_so: impl Fn() -> bool) {
    let waited = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(DEADLINE, waited).await.expect("it becomes so");
}

#[tokio::test]
async fn what_a_sealed_log_lost_is_told() {
    let house = House::new();
    let mut life = house.start().await;
    life.end(1, 0, b"hello", b"hello").await.unwrap();
    life.stop().await;
    let file = house.folder.path().join(RUN).join("1.log");
    std::fs::write(file, "hell").unwrap();
    let mut life = house.start().await;
    assert_eq!(life.read(1, 0, false).await.unwrap_err().code(), Code::DataLoss);
}

#[tokio::test]
async fn bad_requests_are_refused_and_write_nothing() {
    let house = House::new();
    let mut life = house.start().await;
    let end = LogEnd { size: 1, sha256: vec![1, 2, 3].into(), ..LogEnd::default() };
    let cases = [
        AppendLogRequest { run_id: "../../etc".into(), ..append_request(1, b"x") },
        AppendLogRequest { run_id: String::new(), ..append_request(1, b"x") },
        append_request(0, b"x"),
        append_request(1, &vec![0; (1 << 20) + 1]),
        AppendLogRequest { end: Some(end), ..append_request(1, b"x") },
    ];
    for request in cases {
        let refused = life.client.append_log(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    }
    let request = ReadLogRequest { run_id: "x".into(), ..ReadLogRequest::default() };
    let refused = life.client.read_log(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let entries = std::fs::read_dir(house.folder.path()).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
    names.sort_unstable();
    assert_eq!(names, [".aside", ".boot"], "no run");
}

#[tokio::test]
async fn only_services_of_the_house_are_let_in() {
    let house = House::new();
    let life = house.start().await;
    let mut client = LogsClient::new(Channel::local(life.service.router.clone(), Peer::Anonymous));
    let refused = client.append_log(append_request(1, b"x")).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn a_start_goes_on_from_the_snapshot() {
    let house = House::new();
    house.submitted().await;
    let mut life = house.start().await;
    assert_eq!(life.end(1, 0, b"whole", b"whole").await.unwrap(), 5);
    life.stop().await;
    // So many that a start which has read them keeps what it knows.
    for thousand in 0..100 {
        let other = |number: u128| {
            let id = EventId::from_uuid(Uuid::from_u128(thousand * 1_000 + number));
            NewEvent::new(id, "Other", vec![], &eventlog::Metadata::default())
        };
        let others = (0..1_000).map(other).collect();
        house.log.append(format!("other-{thousand}"), Expected::Any, others).await.unwrap();
    }
    house.start().await.stop().await;

    let spoilt = house.with_a_spoilt_beginning().await;
    let mut life = spoilt.start().await;
    let refused = life.end(1, 0, b"other", b"other").await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "it is sealed");
    life.stop().await;
}

/// What outlives the service.
struct House {
    folder: tempfile::TempDir,
    log: Log,
}

/// The service between a start and a stop.
struct Life {
    service: Service,
    client: LogsClient<Channel>,
}

impl House {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), log: Log::in_memory(clock()) }
    }

    async fn start(&self) -> Life {
        self.start_with(Config { data: self.folder.path().into(), ..Config::default() }).await
    }

    async fn start_with(&self, config: Config) -> Life {
        let deps = Deps { log: self.log.clone(), clock: clock() };
        let service = svc_logs::start(deps, config).await.unwrap();
        let gateway = Peer::Service("gateway".into());
        let client = LogsClient::new(Channel::local(service.router.clone(), gateway));
        Life { service, client }
    }

    /// The same log, but for its first event, which nobody can read.
    async fn with_a_spoilt_beginning(&self) -> Self {
        let log = Log::in_memory(clock());
        let mut events = self.log.read_all(0, &[]);
        while let Some(recorded) = events.next().await {
            let recorded = recorded.unwrap();
            let mut event = recorded.event;
            if recorded.position == 0 {
                event.data = vec![255].into();
            }
            log.append(recorded.stream, Expected::Any, vec![event]).await.unwrap();
        }
        let folder = tempfile::tempdir().unwrap();
        let snapshot = "svc-logs.snapshot";
        std::fs::copy(self.folder.path().join(snapshot), folder.path().join(snapshot)).unwrap();
        Self { folder, log }
    }

    #[expect(clippy::disallowed_methods, reason = "a test is an edge too")]
    async fn append(&self, event_type: &str, event: impl Message) {
        let event = NewEvent::new(
            EventId::from_uuid(Uuid::now_v7()),
            event_type,
            event.encode_to_vec(),
            &eventlog::Metadata::default(),
        );
        self.log.append(format!("run-{RUN}"), Expected::Any, vec![event]).await.unwrap();
    }

    async fn submitted(&self) {
        let event = RunSubmitted { run_id: RUN.into(), ..RunSubmitted::default() };
        self.append("RunSubmitted", event).await;
    }

    async fn requeued(&self, attempt: u32) {
        let event = RunRequeued { run_id: RUN.into(), attempt, ..RunRequeued::default() };
        self.append("RunRequeued", event).await;
    }

    async fn finished(&self) {
        let event = RunFinished { run_id: RUN.into(), ..RunFinished::default() };
        self.append("RunFinished", event).await;
    }

    async fn cancelled(&self) {
        let event = RunCancelled { run_id: RUN.into(), ..RunCancelled::default() };
        self.append("RunCancelled", event).await;
    }

    /// The server notices on its own that a client is gone.
    async fn nothing_is_left_aside(&self) {
        let aside = self.folder.path().join(".aside");
        let is_empty = async {
            while std::fs::read_dir(&aside).unwrap().count() > 0 {
                tokio::task::yield_now().await;
            }
        };
        timeout(DEADLINE, is_empty).await.expect("nothing stays aside");
    }
}

impl Life {
    async fn stop(self) {
        self.service.task.abort();
        self.service.task.await.unwrap_err();
    }

    async fn append(&mut self, attempt: u32, offset: u64, data: &[u8]) -> Result<u64, Status> {
        let request = AppendLogRequest { offset, ..append_request(attempt, data) };
        Ok(self.client.append_log(request).await?.into_inner().durable_offset)
    }

    /// The last append, of a log that is `whole`.
    async fn end(
        &mut self,
        attempt: u32,
        offset: u64,
        data: &[u8],
        whole: &[u8],
    ) -> Result<u64, Status> {
        let sha256 = Digest::of(whole).as_bytes().to_vec().into();
        let end = Some(LogEnd { size: whole.len() as u64, sha256, ..LogEnd::default() });
        let request = AppendLogRequest { offset, end, ..append_request(attempt, data) };
        Ok(self.client.append_log(request).await?.into_inner().durable_offset)
    }

    async fn replace(&mut self, pieces: &[&[u8]]) -> Result<u64, Status> {
        let messages: Vec<_> = pieces.iter().map(|piece| replace_request(piece)).collect();
        let answer = self.client.replace_log(stream::iter(messages)).await?;
        Ok(answer.into_inner().durable_offset)
    }

    async fn follow(
        &mut self,
        attempt: u32,
        offset: u64,
    ) -> Result<Streaming<ReadLogResponse>, Status> {
        let request =
            ReadLogRequest { run_id: RUN.into(), attempt, offset, follow: true, spans: true };
        self.client.read_log(request).await.map(tonic::Response::into_inner)
    }

    async fn read(&mut self, attempt: u32, offset: u64, follow: bool) -> Result<Vec<u8>, Status> {
        let request = ReadLogRequest { run_id: RUN.into(), attempt, offset, follow, spans: false };
        let mut chunks = self.client.read_log(request).await?.into_inner();
        let mut log = vec![];
        while let Some(chunk) = chunks.message().await? {
            log.extend_from_slice(&chunk.data);
        }
        Ok(log)
    }
}

/// Attempt, offset and bytes of the next chunk.
async fn next(follower: &mut Streaming<ReadLogResponse>) -> Option<(u32, u64, Vec<u8>)> {
    let chunk = timeout(DEADLINE, follower.message()).await.expect("a chunk in time").unwrap();
    chunk.map(|chunk| (chunk.attempt, chunk.offset, chunk.data.to_vec()))
}

fn append_request(attempt: u32, data: &[u8]) -> AppendLogRequest {
    AppendLogRequest {
        run_id: RUN.into(),
        attempt,
        offset: 0,
        data: data.to_vec().into(),
        ..AppendLogRequest::default()
    }
}

fn replace_request(data: &[u8]) -> ReplaceLogRequest {
    ReplaceLogRequest { run_id: RUN.into(), attempt: 1, data: data.to_vec().into() }
}

fn clock() -> Clock {
    Clock::from_fn(|| Timestamp(1_000))
}
