//! Binaries in chunks over HTTP: what is missing, and what is refused.

use bytes::Bytes;
use chunks::{Chunk, Cutter, Manifest, frames};
use http::Method;
use ids::Digest;
use proto::worker::PipelineRun;
use serde_json::json;

use crate::{
    agent::{Agent, job},
    house::House,
};

fn blob() -> Vec<u8> {
    noise(400_000, 7)
}

fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..length).map(|_| next()).collect()
}

fn cut(blob: &[u8]) -> (Manifest, Vec<Bytes>) {
    let chunks = {
        let mut cutter = Cutter::default();
        let first = cutter.push(blob);
        first.into_iter().chain(cutter.finish()).collect::<Vec<_>>()
    };
    (chunks.iter().map(|chunk| Chunk::of(chunk)).collect(), chunks)
}

fn framed(chunks: &[Bytes]) -> Vec<u8> {
    let frame = |chunk: &Bytes| {
        let stored = chunks::pack(chunk);
        [frames::head(Digest::of(chunk), &stored), stored].concat()
    };
    chunks.iter().flat_map(frame).collect()
}

fn path(blob: &[u8], what: &str) -> String {
    format!("/artifacts/sha256/{}/{what}", Digest::of(blob))
}

/// An agent with a build to do.
async fn building(house: &House) -> (Agent, PipelineRun) {
    let mut agent = house.agent("ada").await;
    let body = json!({ "name": "Ten", "type": "golang", "url": "https://example.org/it.git" });
    house.admin.post("pipeline", body).await.expect(200);
    let order = agent.order().await;
    (agent, order)
}

#[tokio::test]
async fn a_binary_goes_up_and_down_in_chunks() {
    let house = House::start().await;
    let (mut agent, order) = building(&house).await;
    let blob = blob();
    let (manifest, chunks) = cut(&blob);
    let (list, some) = (path(&blob, "manifest"), path(&blob, "chunks"));
    let put = |path: &str, body: Vec<u8>| {
        let (agent, order, path) = (&agent, &order, path.to_owned());
        async move { agent.bulk(Method::PUT, &path, order, &[], body).await }
    };
    let missing = put(&list, manifest.encode().to_vec()).await.expect(202).json();
    let all: Vec<usize> = (0..chunks.len()).collect();
    assert_eq!(missing, json!({ "missing": all }));
    // The line breaks in the third: what was whole is there.
    let frames = framed(&chunks[..3]);
    put(&some, frames[..frames.len() - 9].to_vec()).await.expect(400);
    put(&some, framed(&chunks[..2])).await.expect(204);
    let missing = put(&list, manifest.encode().to_vec()).await.expect(202).json();
    assert_eq!(missing, json!({ "missing": all[2..] }));
    put(&some, framed(&chunks[2..])).await.expect(204);
    let stored = put(&list, manifest.encode().to_vec()).await.expect(201).json();
    assert_eq!(stored["size"], blob.len());

    agent.build(&order, &blob, vec![job(1, "go", &[], vec![])]).await;
    let id = order.pipeline_id as u64;
    house.built(id).await;
    house.run(id, json!([])).await;
    let run = agent.order().await;
    let get = |path: String| {
        let (agent, run) = (&agent, &run);
        async move { agent.bulk(Method::GET, &path, run, &[], "").await }
    };
    assert_eq!(get(list).await.expect(200).body, manifest.encode());
    let got = get(format!("{some}?of=1-2,4")).await.expect(200);
    assert_eq!(got.header("content-type"), frames::MEDIA_TYPE);
    let wanted = [chunks[1].clone(), chunks[2].clone(), chunks[4].clone()];
    assert_eq!(got.body, framed(&wanted));
    for (query, code) in [
        ("", 400),
        ("?of=", 400),
        ("?of=x", 400),
        ("?of=2-1", 400),
        ("?of=1,1", 400),
        ("?of=0-99999", 400),
    ] {
        get(format!("{some}{query}")).await.expect(code);
    }
}

#[tokio::test]
async fn chunks_are_for_the_leases_that_need_them() {
    let house = House::start().await;
    let (agent, order) = building(&house).await;
    let blob = blob();
    let stranger = Agent::join(&house, "bob", &["golang"]).await;
    for what in ["manifest", "chunks"] {
        stranger.bulk(Method::PUT, &path(&blob, what), &order, &[], "").await.expect(403);
        // A build reads nothing.
        let of = format!("{}?of=0", path(&blob, what));
        agent.bulk(Method::GET, &of, &order, &[], "").await.expect(403);
    }
    let wrong = [frames::head(Digest::of(b"x"), b"y"), Bytes::from_static(b"y")].concat();
    let refused = agent.bulk(Method::PUT, &path(&blob, "chunks"), &order, &[], wrong).await;
    assert!(refused.expect(400).message().contains(&Digest::of(b"x").to_string()));
    let endless = [&[7; 32][..], &u32::MAX.to_be_bytes()].concat();
    let refused = agent.bulk(Method::PUT, &path(&blob, "chunks"), &order, &[], endless).await;
    assert!(refused.expect(400).message().contains("4294967295"));
    agent.bulk(Method::PUT, &path(&blob, "manifest"), &order, &[], "nonsense").await.expect(400);
}

#[tokio::test]
async fn what_is_too_much_is_refused_with_the_limit() {
    let house = House::start().await;
    let (agent, order) = building(&house).await;
    let put = |path: String, body: Vec<u8>| {
        let (agent, order) = (&agent, &order);
        async move { agent.bulk(Method::PUT, &path, order, &[], body).await }
    };
    let whole = |blob: &[u8]| format!("/artifacts/sha256/{}", Digest::of(blob));
    let large = noise(1_000_001, 7);
    for answer in [
        put(whole(&large), large.clone()).await,
        put(path(&large, "manifest"), cut(&large).0.encode().to_vec()).await,
    ] {
        assert!(answer.expect(413).message().contains("max_artifact_bytes"));
    }
    put(whole(&blob()), blob()).await.expect(201);
    put(path(b"x", "chunks"), framed(&cut(&noise(900_000, 8)).1)).await.expect(204);
    let more = noise(900_000, 9);
    for answer in [
        put(whole(&more), more.clone()).await,
        put(path(&more, "chunks"), framed(&cut(&more).1)).await,
    ] {
        assert!(answer.expect(507).message().contains("max_total_bytes"));
    }
}

#[tokio::test]
async fn who_may_collects_garbage() {
    let house = House::start().await;
    let (mut agent, order) = building(&house).await;
    agent.build(&order, b"binary", vec![job(1, "go", &[], vec![])]).await;
    let figures = house.admin.post("artifact/gc?dry_run", json!({})).await.expect(200).json();
    assert_eq!((&figures["dry_run"], &figures["artifacts"]), (&json!(true), &json!(0)));
    assert_eq!(figures["kept_artifacts"], 1);
    house.admin.post("artifact/gc", json!({})).await.expect(200);
    house.anonymous().post("artifact/gc", json!({})).await.expect(401);
}
