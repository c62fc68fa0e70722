//! Binaries in chunks: the peer's part, and what an agent makes of it.

use std::collections::HashMap;

use axum::{
    Router,
    body::Body,
    extract::{DefaultBodyLimit, Path as UrlPath, Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::Bytes;
use chunks::{Chunk, Cutter, Manifest, frames};
use ids::Digest;
use proto::worker::PipelineRun;
use serde_json::json;

use crate::{
    builds::{build_of, repository},
    peer::Shared,
    worker::{Fixture, script},
};

/// What the peer has and does about chunks; nothing, unless it serves them.
#[derive(Debug, Default)]
pub(crate) struct Chunks {
    serves: bool,
    stored: HashMap<Digest, Bytes>,
    /// How many each request asked for.
    asked: Vec<usize>,
    /// How many were sent and received.
    sent: usize,
    received: usize,
    /// How many of the next answers hold something else, are cut off, or never end.
    corrupt: u32,
    cut: u32,
    endless: u32,
    /// How many of the next uploads break off after three chunks.
    cut_uploads: u32,
}

pub(crate) fn routes() -> Router<Shared> {
    Router::new()
        .route("/artifacts/sha256/{digest}/manifest", get(read_manifest).put(write_manifest))
        .route("/artifacts/sha256/{digest}/chunks", get(read).put(write))
        .layer(DefaultBodyLimit::disable())
}

fn cut(blob: &[u8]) -> (Manifest, Vec<Bytes>) {
    let mut cutter = Cutter::default();
    let mut chunks = cutter.push(blob);
    chunks.extend(cutter.finish());
    (chunks.iter().map(|chunk| Chunk::of(chunk)).collect(), chunks)
}

async fn read_manifest(State(shared): State<Shared>, UrlPath(digest): UrlPath<String>) -> Response {
    let seen = shared.seen();
    match seen.artifacts.get(&digest) {
        Some(bytes) if seen.chunks.serves => cut(bytes).0.encode().into_response(),
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn write_manifest(
    State(shared): State<Shared>,
    UrlPath(digest): UrlPath<String>,
    body: Bytes,
) -> Response {
    let manifest = Manifest::decode(&body).unwrap();
    shared.change(|seen| {
        if !seen.chunks.serves {
            return StatusCode::NOT_FOUND.into_response();
        }
        let stored = |chunk: &Chunk| seen.chunks.stored.get(&chunk.digest);
        let chunks = manifest.chunks().iter();
        let missing: Vec<usize> = chunks
            .clone()
            .enumerate()
            .filter(|(_, it)| stored(it).is_none())
            .map(|it| it.0)
            .collect();
        if !missing.is_empty() {
            let answer = axum::Json(json!({ "missing": missing }));
            return (StatusCode::ACCEPTED, answer).into_response();
        }
        let blob: Vec<u8> = chunks.flat_map(|chunk| stored(chunk).unwrap().to_vec()).collect();
        assert_eq!(Digest::of(&blob).to_string(), digest);
        seen.artifacts.insert(digest, blob);
        StatusCode::CREATED.into_response()
    })
}

async fn read(
    State(shared): State<Shared>,
    UrlPath(digest): UrlPath<String>,
    Query(query): Query<HashMap<String, String>>,
) -> Response {
    shared.change(|seen| {
        let (_, chunks) = cut(&seen.artifacts[&digest]);
        let ranges = query["of"].split(',').map(|range| range.split_once('-').unwrap());
        let numbers = ranges.flat_map(|(first, last)| {
            first.parse::<usize>().unwrap()..=last.parse::<usize>().unwrap()
        });
        let (mut body, before) = (vec![], seen.chunks.sent);
        for number in numbers {
            let mut stored = chunks::pack(&chunks[number]).to_vec();
            if seen.chunks.corrupt > 0 && seen.chunks.sent == 2 {
                seen.chunks.corrupt -= 1;
                *stored.last_mut().unwrap() ^= 1;
            }
            body.extend_from_slice(&frames::head(Chunk::of(&chunks[number]).digest, &stored));
            body.extend_from_slice(&stored);
            seen.chunks.sent += 1;
        }
        let asked = seen.chunks.sent - before;
        seen.chunks.asked.push(asked);
        if seen.chunks.endless > 0 {
            seen.chunks.endless -= 1;
            let again = futures::stream::repeat_with(move || Ok::<_, std::io::Error>(body.clone()));
            return Body::from_stream(again).into_response();
        }
        if seen.chunks.cut > 0 {
            seen.chunks.cut -= 1;
            body.truncate(body.len() / 2);
            let broken = std::io::Error::other("the line broke");
            return Body::from_stream(futures::stream::iter([Ok(body), Err(broken)]))
                .into_response();
        }
        body.into_response()
    })
}

async fn write(State(shared): State<Shared>, body: Bytes) -> StatusCode {
    let mut arriving = frames::Frames::default();
    arriving.push(&body);
    shared.change(|seen| {
        let before = seen.chunks.received;
        while let Some((digest, stored)) = arriving.next_chunk().unwrap() {
            seen.chunks.stored.insert(digest, chunks::unpack(&stored, digest).unwrap());
            seen.chunks.received += 1;
            if seen.chunks.cut_uploads > 0 && seen.chunks.received == before + 3 {
                seen.chunks.cut_uploads -= 1;
                return StatusCode::SERVICE_UNAVAILABLE;
            }
        }
        StatusCode::NO_CONTENT
    })
}

/// A pipeline with so much behind it that nobody reads.
fn program(kind: &str, noise: u64) -> Vec<u8> {
    let mut state = noise | 1;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        b'a' + (state % 26) as u8
    };
    let noise: Vec<u8> = (0..3_000_000).map(|_| next()).collect();
    [script(kind).as_bytes(), &noise].concat()
}

fn order_of(test: &Fixture, blob: &[u8], like: &str) -> PipelineRun {
    let digest = test.peer.store(blob);
    let artifact_size = blob.len() as u64;
    PipelineRun { sha_sum: digest.as_bytes().to_vec(), artifact_size, ..test.order(like) }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_chunks_that_are_not_here_are_downloaded() {
    let test = Fixture::new().await;
    test.peer.seen().chunks.serves = true;
    let agent = test.agent();
    let old = program("greets", 7);
    let mut new = old.clone();
    new.splice(1_500_000..1_500_000, vec![b'x'; 30_000]);
    let first = order_of(&test, &old, "greets");
    test.peer.order(&first).await;
    assert_eq!(test.peer.ended(&first).await.status, "success");
    assert_eq!(test.peer.seen().chunks.sent, cut(&old).1.len());
    let second = order_of(&test, &new, "greets");
    test.peer.order(&second).await;
    assert_eq!(test.peer.ended(&second).await.status, "success");
    let sent = test.peer.seen().chunks.sent - cut(&old).1.len();
    assert!((1..=5).contains(&sent), "{sent} chunks were sent");
    // What it takes from another binary is compared: this one was harmed.
    let path = test.config.home.join("cache").join(Digest::of(&old).to_string());
    std::fs::write(path, vec![0; old.len()]).unwrap();
    let mut third = new.clone();
    third.truncate(2_900_000);
    let order = order_of(&test, &third, "greets");
    test.peer.order(&order).await;
    assert_eq!(test.peer.ended(&order).await.status, "success");
    assert_eq!(test.peer.seen().downloads, 0);
    agent.drained().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_that_lie_are_not_believed_and_those_that_came_are_not_fetched_twice() {
    let test = Fixture::new().await;
    test.peer.seen().chunks.serves = true;
    let agent = test.agent();
    test.peer.wait("a session", |seen| seen.sessions.first().cloned()).await;
    let blob = program("greets", 9);
    let count = cut(&blob).1.len();
    let order = order_of(&test, &blob, "greets");
    // As kill -9 leaves it: some of it, and a hole.
    let part = test.config.home.join("cache").join(format!("{}.part", Digest::of(&blob)));
    let mut half = blob.clone();
    half[1_000_000..].fill(0);
    std::fs::write(part, half).unwrap();
    {
        let mut seen = test.peer.seen();
        (seen.chunks.corrupt, seen.chunks.cut, seen.chunks.endless) = (1, 1, 1);
    }
    test.peer.order(&order).await;
    let end = test.peer.ended(&order).await;
    assert_eq!(end.status, "success", "{}", end.reason);
    {
        let seen = test.peer.seen();
        assert_eq!((seen.chunks.corrupt, seen.chunks.cut, seen.chunks.endless), (0, 0, 0));
        // The first time two came before the one that lied; the last time nothing was left.
        let asked = &seen.chunks.asked;
        assert!(asked[0] < count && asked[1] == asked[0] - 2, "{asked:?} of {count}");
        assert!(asked[2] <= asked[1], "{asked:?}");
    }
    agent.drained().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_sends_what_the_server_lacks_and_goes_on_after_a_break() {
    let test = Fixture::new().await;
    test.peer.seen().chunks.serves = true;
    let agent = test.agent();
    let dir = test.dir.path().join("repository");
    let makefile = "all:\n\tcp script pipeline.out\n\tchmod 755 pipeline.out\n";
    let old = program("greets", 11);
    let script = String::from_utf8(old.clone()).unwrap();
    repository(&dir, &[("Makefile", makefile), ("script", &script)]);
    test.peer.seen().chunks.cut_uploads = 2;
    let order = build_of(&dir, "");
    test.peer.order(&order).await;
    let end = test.peer.ended(&order).await;
    assert_eq!(end.status, "success", "{}", end.reason);
    let count = cut(&old).1.len();
    {
        let seen = test.peer.seen();
        assert_eq!((seen.chunks.cut_uploads, seen.chunks.received), (0, count));
        assert_eq!(seen.artifacts[&Digest::of(&old).to_string()], old);
    }
    let mut new = script;
    new.insert_str(2_000_000, "a few more");
    let other = test.dir.path().join("other");
    repository(&other, &[("Makefile", makefile), ("script", &new)]);
    let order = build_of(&other, "");
    test.peer.order(&order).await;
    assert_eq!(test.peer.ended(&order).await.status, "success");
    let sent = test.peer.seen().chunks.received - count;
    assert!((1..=3).contains(&sent), "{sent} chunks were sent");
    agent.drained().await;
}
