//! What nothing needs goes, and nothing else.

use std::{sync::atomic::Ordering, time::Duration};

use eventlog::{Clock, Expected, Metadata, NewEvent};
use ids::{Digest, EventId};
use prost::Message;
use proto::{
    artifacts::v1::{CollectGarbageRequest, CollectGarbageResponse},
    common::v1::Build,
    pipelines::events::v1::PipelineBuilt,
    scheduler::{
        events::v1::{RunFinished, RunSubmitted},
        v1::RunSpec,
    },
};
use svc_artifacts::Config;
use tonic::Code;
use uuid::Uuid;

use crate::{House, Life, blob, bytes, cut, until_async};

const DAY: u64 = 86_400_000;
const HOUR: u64 = 3_600_000;

/// A service that keeps what nothing needs for two days, now.
async fn start() -> (House, Life) {
    let house = House::new();
    house.now.store(Clock::system().now().0, Ordering::Relaxed);
    let life = house.start_with(Config { keep_days: 2, ..Config::default() }).await;
    (house, life)
}

impl House {
    fn later(&self, millis: u64) {
        self.now.fetch_add(millis, Ordering::Relaxed);
    }

    #[expect(clippy::disallowed_methods, reason = "a test is an edge too")]
    async fn append(&self, stream: &str, event_type: &str, event: impl Message) {
        let id = EventId::from_uuid(Uuid::new_v4());
        let event = NewEvent::new(id, event_type, event.encode_to_vec(), &Metadata::default());
        self.log.append(stream.to_owned(), Expected::Any, vec![event]).await.unwrap();
    }

    pub(crate) async fn built(&self, pipeline_id: u64, blob: &[u8]) {
        let build = Some(Build { digest: bytes(Digest::of(blob)), ..Build::default() });
        let at = self.now.load(Ordering::Relaxed);
        let event = PipelineBuilt { pipeline_id, build, at, ..PipelineBuilt::default() };
        self.append(&format!("pipeline-{pipeline_id}"), "PipelineBuilt", event).await;
    }

    async fn submitted(&self, run: u128, blob: &[u8]) {
        let run_id = Uuid::from_u128(run).to_string();
        let artifact = bytes(Digest::of(blob));
        let spec = Some(RunSpec { artifact, ..RunSpec::default() });
        let event = RunSubmitted { run_id: run_id.clone(), spec, ..RunSubmitted::default() };
        self.append(&format!("run-{run_id}"), "RunSubmitted", event).await;
    }

    async fn finished(&self, run: u128) {
        let run_id = Uuid::from_u128(run).to_string();
        let at = self.now.load(Ordering::Relaxed);
        let event = RunFinished { run_id: run_id.clone(), at, ..RunFinished::default() };
        self.append(&format!("run-{run_id}"), "RunFinished", event).await;
    }
}

impl Life {
    async fn collect(&mut self, dry_run: bool) -> CollectGarbageResponse {
        let request = CollectGarbageRequest { dry_run, caller: None };
        self.client.collect_garbage(request).await.unwrap().into_inner()
    }

    /// Waits until so many artifacts would go, which is when it knows what others wrote.
    pub(crate) async fn would_remove(&mut self, count: u64) {
        until_async(async || self.collect(true).await.artifacts == count).await;
    }
}

#[tokio::test]
async fn what_nothing_needs_goes_and_its_bytes_an_hour_later() {
    let (house, mut life) = start().await;
    let (old, new) = (blob(1_000_000), blob(1_100_000));
    life.put(&old).await.unwrap();
    life.put(&new).await.unwrap();
    house.built(1, &old).await;
    house.built(1, &new).await;
    house.later(2 * DAY - 1);
    assert_eq!(life.collect(false).await.artifacts, 0);
    house.later(1);
    life.would_remove(1).await;
    let planned = life.collect(true).await;
    assert!(planned.objects > 0 && planned.bytes > 0, "{planned:?}");
    assert_eq!(life.stat(&old).await.unwrap().size, 1_000_000);

    let collected = life.collect(false).await;
    assert_eq!((collected.artifacts, collected.objects, collected.kept_artifacts), (1, 0, 1));
    assert_eq!(life.stat(&old).await.unwrap_err().code(), Code::NotFound);
    house.later(HOUR);
    // What the two have in common stays.
    let collected = life.collect(false).await;
    assert_eq!((collected.objects, collected.bytes), (planned.objects, planned.bytes));
    assert_eq!((collected.kept_artifacts, collected.kept_bytes), (1, planned.kept_bytes));
    assert_eq!(house.objects("chunks"), cut(&new).1.len());
    assert_eq!(life.get(&new, 0, 0).await.unwrap(), new);
    assert_eq!(life.collect(false).await.objects, 0);

    // The same after a restart, and it can be stored again.
    life.stop().await;
    let mut life = house.start().await;
    assert_eq!(life.stat(&old).await.unwrap_err().code(), Code::NotFound);
    life.upload(&old).await;
    assert_eq!(life.get(&old, 0, 0).await.unwrap(), old);
}

#[tokio::test]
async fn what_a_run_that_has_not_ended_needs_stays() {
    let (house, mut life) = start().await;
    let blob = blob(300_000);
    life.put(&blob).await.unwrap();
    house.submitted(1, &blob).await;
    house.later(90 * DAY);
    life.would_remove(0).await;
    assert_eq!(life.collect(false).await.artifacts, 0);
    house.finished(1).await;
    house.later(2 * DAY);
    life.would_remove(1).await;
    life.collect(false).await;

    // Submitted in the very moment: it is there at once, and for good with the next collection.
    house.submitted(2, &blob).await;
    until_async(async || life.stat(&blob).await.is_ok()).await;
    house.later(2 * HOUR);
    assert_eq!(life.collect(false).await.objects, 0);
    life.stop().await;
    let mut life = house.start_with(Config { keep_days: 2, ..Config::default() }).await;
    assert_eq!(life.get(&blob, 0, 0).await.unwrap(), blob);
    house.later(2 * DAY);
    assert_eq!(life.collect(false).await.kept_artifacts, 1);
}

#[tokio::test]
async fn what_is_stored_again_is_kept_as_if_it_were_new() {
    let (house, mut life) = start().await;
    let blob = blob(300_000);
    life.upload(&blob).await;
    house.later(2 * DAY);
    life.would_remove(1).await;
    assert_eq!(life.upload(&blob).await, 0);
    life.would_remove(0).await;
    house.later(2 * DAY - HOUR);
    life.put(&blob).await.unwrap();
    house.later(HOUR);
    assert_eq!(life.collect(false).await.artifacts, 0);
    house.later(2 * DAY);
    assert_eq!(life.collect(false).await.artifacts, 1);
}

#[tokio::test]
async fn what_an_upload_sent_or_counts_on_stays_for_a_day() {
    let (house, mut life) = start().await;
    let (blob, other) = (blob(1_000_000), vec![7; 1_000_000]);
    let (manifest, chunks) = cut(&blob);
    life.put_chunks(&chunks).await.unwrap();
    life.put_chunks(&cut(&other).1[..1]).await.unwrap();
    house.later(DAY - 2 * HOUR);
    assert_eq!(life.collect(false).await.objects, 0);
    // It asks which are missing, and goes on a day later; the other gave up.
    let mut first = manifest.chunks().to_vec();
    first.push(chunks::Chunk::of(b"not sent yet"));
    let longer = first.into_iter().collect();
    let missing = life.put_manifest(Digest::of(b"?"), &longer).await.unwrap().missing;
    assert_eq!(missing.len(), 1);
    house.later(DAY - 2 * HOUR);
    assert_eq!(life.collect(false).await.objects, 1);
    assert!(life.put_manifest(Digest::of(&blob), &manifest).await.unwrap().artifact.is_some());
    house.later(DAY + HOUR);
    life.collect(false).await;
    assert_eq!(life.get(&blob, 0, 0).await.unwrap(), blob);
}

#[tokio::test]
async fn uploads_and_collections_at_once_lose_nothing() {
    let (house, mut life) = start().await;
    for round in 0..6 {
        // Chunks of an upload that was given up, old enough to go while another upload counts on them.
        let blob = blob(700_000 + 100_000 * round);
        life.put_chunks(&cut(&blob).1).await.unwrap();
        house.later(3 * DAY);
        house.built(1, &blob).await;
        let mut other = Life { service: life.service, client: life.client.clone() };
        let collected =
            async { life.client.collect_garbage(CollectGarbageRequest::default()).await };
        let (collected, _) = tokio::join!(collected, other.upload(&blob));
        collected.unwrap();
        assert_eq!(other.get(&blob, 0, 0).await.unwrap(), blob);
        life = other;
    }
    tokio::time::timeout(Duration::from_secs(20), life.stop()).await.unwrap();
}
