//! The service as its clients see it, over its own event log and folder.

#![expect(clippy::unwrap_used, reason = "a test stops where something is wrong")]

use std::{path::PathBuf, time::Duration};

use eventlog::{Clock, Log};
use futures::stream;
use identity::Peer;
use ids::{Digest, Timestamp};
use proto::{
    artifacts::v1::{
        Artifact, GetArtifactRequest, PutArtifactRequest, StatArtifactRequest,
        artifacts_client::ArtifactsClient,
    },
    common::v1::Caller,
};
use svc_artifacts::{Config, Deps, Service};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};
use transport::Channel;

const DEADLINE: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_blob_comes_back_after_a_restart() {
    let house = House::new();
    let blob = blob(3 << 20);
    let mut life = house.start().await;
    let stored = life.put(&blob).await.unwrap();
    assert_eq!((stored.size, stored.stored_at), (3 << 20, 1_000));
    assert_eq!(stored.digest, Digest::of(&blob).as_bytes()[..]);
    life.stop().await;

    let mut life = house.start().await;
    assert_eq!(life.stat(&blob).await.unwrap(), stored);
    assert_eq!(life.get(&blob, 0, 0).await.unwrap(), blob);
    assert_eq!(std::fs::read(house.path(&blob)).unwrap(), blob);
}

#[tokio::test]
async fn any_part_of_a_blob_can_be_had() {
    let house = House::new();
    let blob = blob(1_000_000);
    let mut life = house.start().await;
    life.put(&blob).await.unwrap();
    for (offset, length) in
        [(0, 1), (7, 300_000), (999_999, 0), (999_999, 50), (500_000, u64::MAX), (1_000_000, 0)]
    {
        let end = match length {
            0 => blob.len(),
            length => length.saturating_add(offset).min(1_000_000) as usize,
        };
        let part = life.get(&blob, offset, length).await.unwrap();
        assert_eq!(part, blob[offset as usize..end], "{offset} + {length}");
    }
    let beyond = life.get(&blob, 1_000_001, 0).await.unwrap_err();
    assert_eq!(beyond.code(), Code::OutOfRange);
    let missing = life.get(b"another", 0, 0).await.unwrap_err();
    assert_eq!(missing.code(), Code::NotFound);
    assert!(missing.message().contains(&Digest::of(b"another").to_string()), "{missing}");
    assert_eq!(life.stat(b"another").await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn an_empty_blob_is_a_blob() {
    let house = House::new();
    let mut life = house.start().await;
    assert_eq!(life.put(b"").await.unwrap().size, 0);
    assert_eq!(life.get(b"", 0, 0).await.unwrap(), b"");
}

#[tokio::test]
async fn bytes_with_another_digest_are_refused_and_leave_nothing() {
    let house = House::new();
    let mut life = house.start().await;
    let refused = life.client.put_artifact(stream::iter(messages(b"what", b"another"))).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains(&Digest::of(b"another").to_string()), "{refused}");
    assert_eq!(life.stat(b"what").await.unwrap_err().code(), Code::NotFound);
    house.is_empty().await;
}

#[tokio::test]
async fn an_upload_that_breaks_off_leaves_nothing() {
    let house = House::new();
    let life = house.start().await;
    let (messages, stream) = mpsc::channel(4);
    let mut client = life.client.clone();
    let call = tokio::spawn(async move { client.put_artifact(ReceiverStream::new(stream)).await });
    let digest = Digest::of(b"hello world");
    messages.send(message(digest, b"hello ")).await.unwrap();
    house.something_is_incoming().await;
    call.abort();
    call.await.unwrap_err();
    house.is_empty().await;
}

#[tokio::test]
async fn what_is_stored_is_answered_without_reading_it_again() {
    let house = House::new();
    let mut life = house.start().await;
    let stored = life.put(b"hello world").await.unwrap();
    // A stream that never ends: only its first message can be read.
    let (messages, stream) = mpsc::channel(4);
    messages.send(message(Digest::of(b"hello world"), b"hel")).await.unwrap();
    let put = life.client.put_artifact(ReceiverStream::new(stream));
    let again = timeout(DEADLINE, put).await.expect("an answer at once").unwrap().into_inner();
    assert_eq!(again, stored);
    assert_eq!(house.log.next_position().await.unwrap(), 1);
}

#[tokio::test]
async fn many_who_store_the_same_blob_store_it_once() {
    let house = House::new();
    let life = house.start().await;
    let blob = blob(300_000);
    let puts = (0..8).map(|_| {
        let (mut client, messages) = (life.client.clone(), messages(&blob, &blob));
        async move { client.put_artifact(stream::iter(messages)).await }
    });
    for put in futures::future::join_all(puts).await {
        assert_eq!(put.unwrap().into_inner().size, 300_000);
    }
    assert_eq!(house.log.next_position().await.unwrap(), 1);
}

#[tokio::test]
async fn a_damaged_blob_is_told_and_can_be_stored_again() {
    let house = House::new();
    let blob = blob(500_000);
    let mut life = house.start().await;
    life.put(&blob).await.unwrap();
    for harm in [harm_by_cutting, harm_by_removing] {
        harm(house.path(&blob));
        for refused in
            [life.get(&blob, 0, 0).await.unwrap_err(), life.stat(&blob).await.unwrap_err()]
        {
            assert_eq!(refused.code(), Code::DataLoss);
            assert!(refused.message().contains(&Digest::of(&blob).to_string()), "{refused}");
        }
        life.put(&blob).await.unwrap();
        assert_eq!(life.get(&blob, 0, 0).await.unwrap(), blob);
    }
    assert_eq!(house.log.next_position().await.unwrap(), 1);
}

#[tokio::test]
async fn a_blob_has_a_largest_size() {
    let house = House::new();
    let mut life = house.start_with(Config { max_artifact_bytes: 10, ..Config::default() }).await;
    assert_eq!(life.put(b"0123456789").await.unwrap().size, 10);
    let refused = life.put(b"0123456789!").await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().contains("max_artifact_bytes"), "{refused}");
}

#[tokio::test]
async fn all_blobs_together_have_a_largest_size() {
    let house = House::new();
    let config = Config { max_total_bytes: 20, ..Config::default() };
    let mut life = house.start_with(config.clone()).await;
    life.put(b"0123456789").await.unwrap();
    for _ in 0..2 {
        // What was refused, and what is known already, takes no room.
        let refused = life.put(b"0123456789!").await.unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted);
        assert!(refused.message().contains("max_total_bytes"), "{refused}");
        life.put(b"0123456789").await.unwrap();
    }
    life.put(b"98765").await.unwrap();
    life.stop().await;
    let mut life = house.start_with(config).await;
    life.put(b"43210!").await.unwrap_err();
    life.put(b"43210").await.unwrap();
}

#[tokio::test]
async fn what_a_crash_left_is_gone_after_a_start() {
    let house = House::new();
    house.start().await.stop().await;
    std::fs::write(house.folder.path().join("incoming/0"), "half").unwrap();
    let mut life = house.start().await;
    house.is_empty().await;
    life.put(b"hello").await.unwrap();
}

#[tokio::test]
async fn bad_requests_are_refused() {
    let house = House::new();
    let mut life = house.start().await;
    let short = PutArtifactRequest { digest: vec![1, 2, 3].into(), ..Default::default() };
    let refused = life.client.put_artifact(stream::iter([short])).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let nothing = stream::iter(Vec::<PutArtifactRequest>::new());
    let refused = life.client.put_artifact(nothing).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let mixed = [message(Digest::of(b"ab"), b"a"), message(Digest::of(b"x"), b"b")];
    let refused = life.client.put_artifact(stream::iter(mixed)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    house.is_empty().await;
}

#[tokio::test]
async fn only_services_of_the_house_are_let_in() {
    let house = House::new();
    let life = house.start().await;
    let router = life.service.router.clone();
    let mut client = ArtifactsClient::new(Channel::local(router, Peer::Anonymous));
    let request = StatArtifactRequest { digest: Digest::of(b"x").as_bytes().to_vec().into() };
    let refused = client.stat_artifact(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
}

/// What outlives the service.
struct House {
    folder: tempfile::TempDir,
    log: Log,
}

/// The service between a start and a stop.
struct Life {
    service: Service,
    client: ArtifactsClient<Channel>,
}

impl House {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), log: Log::in_memory(clock()) }
    }

    async fn start(&self) -> Life {
        self.start_with(Config::default()).await
    }

    async fn start_with(&self, config: Config) -> Life {
        let config = Config { data: self.folder.path().into(), ..config };
        let deps = Deps { log: self.log.clone(), clock: clock() };
        let service = svc_artifacts::start(deps, config).await.unwrap();
        let gateway = Peer::Service("gateway".into());
        let client = ArtifactsClient::new(Channel::local(service.router.clone(), gateway));
        Life { service, client }
    }

    fn path(&self, blob: &[u8]) -> PathBuf {
        let hex = Digest::of(blob).to_string();
        self.folder.path().join("sha256").join(&hex[..2]).join(hex)
    }

    fn incoming(&self) -> usize {
        std::fs::read_dir(self.folder.path().join("incoming")).unwrap().count()
    }

    async fn something_is_incoming(&self) {
        until(|| self.incoming() > 0).await;
    }

    /// The server notices on its own that a client is gone.
    async fn is_empty(&self) {
        until(|| self.incoming() == 0).await;
        let names = std::fs::read_dir(self.folder.path().join("sha256")).unwrap();
        assert_eq!(names.count(), 0, "no blob has a name");
    }
}

async fn until(is_so: impl Fn() -> bool) {
    let wait = async {
        while !is_so() {
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, wait).await.expect("it becomes so in time");
}

impl Life {
    async fn stop(self) {
        self.service.task.abort();
        self.service.task.await.unwrap_err();
    }

    async fn put(&mut self, blob: &[u8]) -> Result<Artifact, Status> {
        let put = self.client.put_artifact(stream::iter(messages(blob, blob))).await?;
        Ok(put.into_inner())
    }

    async fn stat(&mut self, blob: &[u8]) -> Result<Artifact, Status> {
        let digest = Digest::of(blob).as_bytes().to_vec().into();
        let stat = self.client.stat_artifact(StatArtifactRequest { digest }).await?;
        Ok(stat.into_inner())
    }

    async fn get(&mut self, blob: &[u8], offset: u64, length: u64) -> Result<Vec<u8>, Status> {
        let digest = Digest::of(blob).as_bytes().to_vec().into();
        let request = GetArtifactRequest { digest, offset, length };
        let mut chunks = self.client.get_artifact(request).await?.into_inner();
        let mut got = vec![];
        while let Some(chunk) = chunks.message().await? {
            assert!(chunk.data.len() <= 256 << 10);
            got.extend_from_slice(&chunk.data);
        }
        Ok(got)
    }
}

/// An upload of `blob` under the digest of `named`.
fn messages(named: &[u8], blob: &[u8]) -> Vec<PutArtifactRequest> {
    let mut messages = vec![message(Digest::of(named), b"")];
    for piece in blob.chunks(64 << 10) {
        let data = piece.to_vec().into();
        messages.push(PutArtifactRequest { data, ..PutArtifactRequest::default() });
    }
    messages
}

fn message(digest: Digest, data: &[u8]) -> PutArtifactRequest {
    PutArtifactRequest {
        digest: digest.as_bytes().to_vec().into(),
        data: data.to_vec().into(),
        caller: Some(Caller { name: "worker:w".into(), ..Caller::default() }),
    }
}

fn harm_by_cutting(path: PathBuf) {
    std::fs::OpenOptions::new().write(true).open(path).unwrap().set_len(499_999).unwrap();
}

fn harm_by_removing(path: PathBuf) {
    std::fs::remove_file(path).unwrap();
}

fn blob(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n % 251) as u8).collect()
}

fn clock() -> Clock {
    Clock::from_fn(|| Timestamp(1_000))
}
