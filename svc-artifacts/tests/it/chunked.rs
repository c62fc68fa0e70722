//! Blobs that come and go as chunks.

use std::collections::HashSet;

use chunks::{Chunk, Manifest};
use futures::stream;
use ids::Digest;
use proto::artifacts::v1::{
    ChunkRange, GetChunksRequest, GetManifestRequest, PutChunksRequest, PutManifestRequest,
};
use svc_artifacts::Config;
use tonic::Code;

use crate::{House, Life, blob, bytes, cut};

async fn get_chunks(
    life: &mut Life,
    digest: Digest,
    ranges: &[(u32, u32)],
) -> Result<Vec<u8>, tonic::Status> {
    let ranges = ranges.iter().map(|(first, last)| ChunkRange { first: *first, last: *last });
    let request = GetChunksRequest { digest: bytes(digest), ranges: ranges.collect() };
    let mut chunks = life.client.get_chunks(request).await?.into_inner();
    let mut got = vec![];
    while let Some(chunk) = chunks.message().await? {
        let digest = Digest::try_from(&chunk.digest[..]).unwrap();
        got.extend_from_slice(&chunks::unpack(&chunk.stored, digest).unwrap());
    }
    Ok(got)
}

#[tokio::test]
async fn a_blob_of_chunks_is_the_blob() {
    let house = House::new();
    let mut life = house.start().await;
    let blob = blob(2_000_000);
    let (manifest, chunks) = cut(&blob);
    let digest = Digest::of(&blob);
    assert_eq!(life.upload(&blob).await, chunks.len());
    assert_eq!(life.get(&blob, 0, 0).await.unwrap(), blob);
    let got = life.client.get_manifest(GetManifestRequest { digest: bytes(digest) }).await;
    assert_eq!(Manifest::decode(&got.unwrap().into_inner().manifest), Ok(manifest));
    let last = chunks.len() as u32 - 1;
    assert_eq!(get_chunks(&mut life, digest, &[(0, last)]).await.unwrap(), blob);
    let some = get_chunks(&mut life, digest, &[(1, 2), (4, 4)]).await.unwrap();
    assert_eq!(some, [&chunks[1][..], &chunks[2], &chunks[4]].concat());
    assert_eq!(life.upload(b"").await, 0);
    assert_eq!(life.get(b"", 0, 0).await.unwrap(), b"");
}

#[tokio::test]
async fn absurd_chunks_are_not_asked_for() {
    let house = House::new();
    let mut life = house.start().await;
    let blob = blob(1_000_000);
    life.upload(&blob).await;
    let count = cut(&blob).1.len() as u32;
    let digest = Digest::of(&blob);
    for (ranges, code) in [
        (&[(0, count)][..], Code::OutOfRange),
        (&[(u32::MAX, u32::MAX)], Code::OutOfRange),
        (&[(0, u32::MAX)], Code::OutOfRange),
        (&[(3, 2)], Code::InvalidArgument),
        (&[(0, 2), (2, 3)], Code::InvalidArgument),
        (&[(4, 4), (0, 0)], Code::InvalidArgument),
    ] {
        let refused = get_chunks(&mut life, digest, ranges).await.unwrap_err();
        assert_eq!(refused.code(), code, "{ranges:?}");
    }
    let unknown = get_chunks(&mut life, Digest::of(b"?"), &[(0, 0)]).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
}

#[tokio::test]
async fn an_edit_moves_the_chunks_that_it_touches() {
    let house = House::new();
    let mut life = house.start().await;
    let old = blob(8_000_000);
    life.put(&old).await.unwrap();
    let mut new = old.clone();
    new.splice(4_000_000..4_000_000, vec![7; 80_000]);
    let before = house.objects("chunks");
    let sent = life.upload(&new).await;
    assert!((1..=6).contains(&sent), "{sent} chunks were sent");
    assert_eq!(house.objects("chunks"), before + sent);
    assert_eq!(life.get(&new, 0, 0).await.unwrap(), new);
    assert_eq!(life.get(&old, 0, 0).await.unwrap(), old);
}

#[tokio::test]
async fn an_upload_goes_on_after_a_restart() {
    let house = House::new();
    let blob = blob(2_000_000);
    let (manifest, chunks) = cut(&blob);
    let mut life = house.start().await;
    let missing = life.put_manifest(Digest::of(&blob), &manifest).await.unwrap().missing;
    assert_eq!(missing.len(), chunks.len());
    life.put_chunks(&chunks[..7]).await.unwrap();
    life.stop().await;
    let mut life = house.start().await;
    assert_eq!(life.stat(&blob).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(life.upload(&blob).await, chunks.len() - 7);
    assert_eq!(life.get(&blob, 0, 0).await.unwrap(), blob);
}

#[tokio::test]
async fn a_chunk_of_a_blob_twice_is_asked_for_once() {
    let house = House::new();
    let mut life = house.start().await;
    let zeros = vec![0; 2_000_000];
    let different: HashSet<Chunk> = cut(&zeros).0.chunks().iter().copied().collect();
    assert_eq!(life.upload(&zeros).await, different.len());
    assert_eq!(life.get(&zeros, 0, 0).await.unwrap(), zeros);
    let bytes: u64 = house.objects("chunks") as u64;
    assert_eq!(bytes, different.len() as u64);
}

#[tokio::test]
async fn what_lies_is_refused() {
    let house = House::new();
    let mut life = house.start().await;
    let blob = blob(300_000);
    let (manifest, chunks) = cut(&blob);
    // A chunk that is another, one that is cut off, and one that is none.
    let packed = chunks::pack(&chunks[0]);
    for stored in [chunks::pack(&chunks[1]), packed.slice(..packed.len() - 1), "x".into()] {
        let wrong = PutChunksRequest { digest: bytes(Digest::of(&chunks[0])), stored };
        let refused = life.client.put_chunks(stream::iter([wrong])).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().contains(&Digest::of(&chunks[0]).to_string()), "{refused}");
    }
    house.is_empty().await;
    life.put_chunks(&chunks).await.unwrap();
    // Chunks that are another blob, and a chunk that is not as long as the list says.
    let refused = life.put_manifest(Digest::of(b"another"), &manifest).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains(&Digest::of(&blob).to_string()), "{refused}");
    let mut longer = manifest.chunks().to_vec();
    longer[0].length += 1;
    let longer: Manifest = longer.into_iter().collect();
    let refused = life.put_manifest(Digest::of(&blob), &longer).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    for manifest in [&b""[..], b"nonsense", &manifest.encode()[1..]] {
        let manifest = manifest.to_vec().into();
        let digest = bytes(Digest::of(&blob));
        let request = PutManifestRequest { digest, manifest, caller: None };
        let refused = life.client.put_manifest(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
    }
    assert_eq!(house.objects("manifests"), 0);
    assert!(life.put_manifest(Digest::of(&blob), &manifest).await.unwrap().artifact.is_some());
}

#[tokio::test]
async fn a_chunk_that_rotted_meanwhile_is_asked_for_again() {
    let house = House::new();
    let mut life = house.start().await;
    let blob = blob(500_000);
    let (manifest, chunks) = cut(&blob);
    life.put_chunks(&chunks).await.unwrap();
    std::fs::write(house.chunk(manifest.chunks()[2]), b"rot").unwrap();
    std::fs::remove_file(house.chunk(manifest.chunks()[4])).unwrap();
    let missing = life.put_manifest(Digest::of(&blob), &manifest).await.unwrap().missing;
    assert_eq!(missing, [2, 4]);
    assert_eq!(life.upload(&blob).await, 2);
    assert_eq!(life.get(&blob, 0, 0).await.unwrap(), blob);
}

#[tokio::test]
async fn another_list_of_a_damaged_blob_takes_the_place_of_the_first() {
    let house = House::new();
    let mut life = house.start().await;
    let blob = blob(500_000);
    life.upload(&blob).await;
    std::fs::remove_file(house.chunk(cut(&blob).0.chunks()[1])).unwrap();
    life.get(&blob, 0, 0).await.unwrap_err();
    let others: Vec<_> = blob.chunks(90_000).map(bytes::Bytes::copy_from_slice).collect();
    let list: Manifest = others.iter().map(|chunk| Chunk::of(chunk)).collect();
    life.put_chunks(&others).await.unwrap();
    assert!(life.put_manifest(Digest::of(&blob), &list).await.unwrap().artifact.is_some());
    assert_eq!(life.get(&blob, 0, 0).await.unwrap(), blob);
}

#[tokio::test]
async fn a_quota_counts_what_is_stored_and_each_chunk_once() {
    let house = House::new();
    let config = Config { max_total_bytes: 1_100_000, ..Config::default() };
    let mut life = house.start_with(config).await;
    let (first, second) = (blob(1_000_000), blob(1_200_000));
    life.upload(&first).await;
    // It begins with the first.
    let (manifest, chunks) = cut(&second);
    let missing = life.put_manifest(Digest::of(&second), &manifest).await.unwrap().missing;
    let missing: Vec<_> = missing.iter().map(|number| chunks[*number as usize].clone()).collect();
    let refused = life.put_chunks(&missing).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().contains("max_total_bytes"), "{refused}");
    // Ten million zeros are a few bytes.
    life.upload(&vec![0; 10_000_000]).await;
    assert_eq!(life.get(&first, 0, 0).await.unwrap(), first);
}

#[tokio::test]
async fn a_blob_that_is_too_large_is_refused_by_its_list() {
    let house = House::new();
    let mut life = house.start_with(Config { max_artifact_bytes: 10, ..Config::default() }).await;
    let refused = life.put_manifest(Digest::of(b"x"), &cut(&[1; 11]).0).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange);
    assert!(refused.message().contains("max_artifact_bytes"), "{refused}");
}
