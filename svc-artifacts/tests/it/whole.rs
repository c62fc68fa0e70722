//! Blobs that come and go whole, as any HTTP client moves them.

use std::{
    path::{Path, PathBuf},
    sync::atomic::Ordering,
};

use chunks::Chunk;
use eventlog::Clock;
use futures::stream;
use identity::Peer;
use ids::Digest;
use proto::artifacts::v1::{
    CollectGarbageRequest, PutArtifactRequest, StatArtifactRequest,
    artifacts_client::ArtifactsClient,
};
use svc_artifacts::Config;
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use transport::Channel;

use crate::{DEADLINE, House, blob, cut, message, messages, until, until_async};

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
    messages.send(message(digest, &blob(3 << 20))).await.unwrap();
    until(|| house.objects("chunks") > 0).await;
    call.abort();
    call.await.unwrap_err();
    house.is_empty().await;
}

#[tokio::test]
async fn an_upload_that_breaks_off_takes_nothing_that_another_counts_on() {
    let house = House::new();
    let mut life = house.start().await;
    let (begin, rest) = (blob(3 << 20), [blob(2 << 20), vec![7; 2 << 20]].concat());
    let (messages, stream) = mpsc::channel(1);
    let mut client = life.client.clone();
    let call = tokio::spawn(async move { client.put_artifact(ReceiverStream::new(stream)).await });
    messages.send(message(Digest::of(b"never whole"), &begin)).await.unwrap();
    until(|| house.objects("chunks") > 0).await;
    life.put(&begin).await.unwrap();
    let count = house.objects("chunks");
    // The same chunks again, and some of its own.
    for piece in [&begin, &rest] {
        messages.send(message(Digest::of(b"never whole"), piece)).await.unwrap();
    }
    until(|| house.objects("chunks") > count).await;
    call.abort();
    call.await.unwrap_err();
    until(|| house.objects("chunks") <= count).await;
    assert_eq!(house.objects("chunks"), count);
    assert_eq!(life.get(&begin, 0, 0).await.unwrap(), begin);
}

#[tokio::test]
async fn an_upload_does_not_count_on_what_was_lost_meanwhile() {
    let house = House::new();
    let mut life = house.start().await;
    let old = blob(3 << 20);
    let new = [&old[..], &vec![7; 2 << 20]].concat();
    life.put(&old).await.unwrap();
    let count = house.objects("chunks");
    let (messages, stream) = mpsc::channel(1);
    let mut client = life.client.clone();
    let call = tokio::spawn(async move { client.put_artifact(ReceiverStream::new(stream)).await });
    for piece in [&new[..4 << 20], &new[4 << 20..]] {
        messages.send(message(Digest::of(&new), piece)).await.unwrap();
    }
    until(|| house.objects("chunks") > count).await;
    std::fs::remove_file(house.chunk(cut(&old).0.chunks()[0])).unwrap();
    life.get(&old, 0, 0).await.unwrap_err();
    drop(messages);
    assert_eq!(call.await.unwrap().unwrap_err().code(), Code::DataLoss);
    life.put(&new).await.unwrap();
    assert_eq!(life.get(&new, 0, 0).await.unwrap(), new);
    assert_eq!(life.get(&old, 0, 0).await.unwrap(), old);
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
    let digest = Digest::of(&blob);
    let mut life = house.start().await;
    life.put(&blob).await.unwrap();
    let manifest = house.object("manifests", digest);
    let chunk = house.chunk(cut(&blob).0.chunks()[3]);
    for path in [manifest, chunk] {
        for harm in [harm_by_cutting, harm_by_flipping, harm_by_removing] {
            harm(&path);
            let refused = life.get(&blob, 0, 0).await.unwrap_err();
            assert_eq!(refused.code(), Code::DataLoss);
            assert!(refused.message().contains(&digest.to_string()), "{refused}");
            life.put(&blob).await.unwrap();
            assert_eq!(life.get(&blob, 0, 0).await.unwrap(), blob);
        }
    }
    assert_eq!(house.log.next_position().await.unwrap(), 1);
}

#[tokio::test]
async fn a_blob_has_a_largest_size() {
    let house = House::new();
    let mut life = house.start_with(Config { max_artifact_bytes: 10, ..Config::default() }).await;
    assert_eq!(life.put(b"0123456789").await.unwrap().size, 10);
    let refused = life.put(b"0123456789!").await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange);
    assert!(refused.message().contains("max_artifact_bytes"), "{refused}");
}

#[tokio::test]
async fn all_blobs_together_have_a_largest_size() {
    let house = House::new();
    // A chunk has a head of 5 bytes, and a list of one chunk has 80.
    let config = Config { max_total_bytes: 3 * 1085, ..Config::default() };
    let [first, second, third] = [0, 1, 2].map(|n| blob(1000 + n)[n..].to_vec());
    let mut life = house.start_with(config.clone()).await;
    life.put(&first).await.unwrap();
    for _ in 0..2 {
        // What was refused, and what is known already, takes no room.
        let refused = life.put(&blob(2200)).await.unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted);
        assert!(refused.message().contains("max_total_bytes"), "{refused}");
        life.put(&first).await.unwrap();
    }
    life.put(&second).await.unwrap();
    life.stop().await;
    let mut life = house.start_with(config).await;
    life.put(&blob(1001)).await.unwrap_err();
    // Its room is given back in a moment.
    until_async(async || life.put(&third).await.is_ok()).await;
    life.stop().await;
    // Lowered, it holds at once, and what is there stays.
    let mut life = house.start_with(Config { max_total_bytes: 100, ..Config::default() }).await;
    assert_eq!(life.put(b"x").await.unwrap_err().code(), Code::ResourceExhausted);
    assert_eq!(life.get(&third, 0, 0).await.unwrap(), third);
}

#[tokio::test]
async fn what_a_crash_left_is_gone_after_a_start() {
    let house = House::new();
    let mut life = house.start().await;
    life.put(b"hello").await.unwrap();
    life.stop().await;
    let half = house.chunk(Chunk::of(b"hello")).with_extension("#1");
    let half = PathBuf::from(half.to_string_lossy().replace(".#", "#"));
    let earlier = house.folder.path().join("incoming");
    std::fs::create_dir(&earlier).unwrap();
    std::fs::write(earlier.join("0"), "half").unwrap();
    std::fs::write(&half, "half").unwrap();
    let mut life = house.start().await;
    assert!(!half.exists() && !earlier.exists());
    assert_eq!(life.get(b"hello", 0, 0).await.unwrap(), b"hello");
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

#[tokio::test]
async fn blobs_of_earlier_versions_are_read_and_become_chunks() {
    let house = House::new();
    let blob = blob(3_000_000);
    let mut life = house.start().await;
    life.put(&blob).await.unwrap();
    life.stop().await;
    for kind in ["chunks", "manifests"] {
        std::fs::remove_dir_all(house.folder.path().join(kind)).unwrap();
    }
    std::fs::create_dir_all(house.whole(&blob).parent().unwrap()).unwrap();
    std::fs::write(house.whole(&blob), &blob).unwrap();

    // There is no room for it a second time, so it stays whole.
    let tight = Config { max_total_bytes: 3_010_000, ..Config::default() };
    let mut life = house.start_with(tight).await;
    assert_eq!(life.stat(&blob).await.unwrap().size, 3_000_000);
    assert_eq!(life.get(&blob, 7, 2_000_000).await.unwrap(), blob[7..2_000_007]);
    assert_eq!(life.upload(&blob).await, 0);
    life.stop().await;
    assert!(house.whole(&blob).exists());

    let mut life = house.start().await;
    assert_eq!(life.get(&blob, 0, 0).await.unwrap(), blob);
    until(|| house.objects("manifests") == 1).await;
    assert_eq!(house.objects("chunks"), cut(&blob).1.len());
    assert_eq!(life.get(&blob, 0, 0).await.unwrap(), blob);
    house.built(1, &blob).await;
    house.now.store(Clock::system().now().0 + 2 * 86_400_000, Ordering::Relaxed);
    life.would_remove(0).await;
    life.client.collect_garbage(CollectGarbageRequest::default()).await.unwrap();
    assert!(!house.whole(&blob).exists());
    assert_eq!(life.get(&blob, 0, 0).await.unwrap(), blob);
}

fn harm_by_cutting(path: &Path) {
    let length = std::fs::metadata(path).unwrap().len();
    std::fs::OpenOptions::new().write(true).open(path).unwrap().set_len(length - 1).unwrap();
}

fn harm_by_flipping(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

fn harm_by_removing(path: &Path) {
    std::fs::remove_file(path).unwrap();
}
