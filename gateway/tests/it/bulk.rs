//! Binaries and logs as HTTP bodies: who may, and what part.

use http::Method;
use ids::Digest;
use serde_json::json;

use crate::{
    agent::{Agent, job, report},
    house::House,
};
use proto::worker::{BuildResult, PipelineRun};
use tonic::Code;

/// An agent with a run of a binary `0123456789`.
async fn running(house: &House) -> (Agent, PipelineRun) {
    let mut agent = house.agent("ada").await;
    let body = json!({ "name": "Ten", "type": "golang", "url": "https://example.org/it.git" });
    let id = house.admin.post("pipeline", body).await.expect(200).json()["id"].as_u64().unwrap();
    let order = agent.order().await;
    agent.build(&order, b"0123456789", vec![job(1, "go", &[], vec![])]).await;
    house.built(id).await;
    house.run(id, json!([])).await;
    let order = agent.order().await;
    (agent, order)
}

fn path(order: &PipelineRun) -> String {
    format!("/artifacts/sha256/{}", Digest::try_from(&order.sha_sum[..]).unwrap())
}

#[tokio::test]
async fn a_binary_is_read_in_parts() {
    let house = House::start().await;
    let (agent, order) = running(&house).await;
    let path = path(&order);
    let get = |range: &'static str| {
        let (agent, order, path) = (&agent, &order, &path);
        async move { agent.bulk(Method::GET, path, order, &[("range", range)], "").await }
    };
    let whole = agent.binary(&order).await.expect(200);
    assert_eq!(whole.body, "0123456789");
    assert_eq!((whole.header("content-length"), whole.header("accept-ranges")), ("10", "bytes"));
    let tag = format!("\"{}\"", Digest::of(b"0123456789"));
    assert_eq!(whole.header("etag"), tag);
    let part = get("bytes=4-").await.expect(206);
    assert_eq!((&part.body[..], part.header("content-range")), (&b"456789"[..], "bytes 4-9/10"));
    assert_eq!(get("bytes=2-3").await.expect(206).body, "23");
    assert_eq!(get("bytes=-1").await.expect(206).body, "9");
    let beyond = get("bytes=10-").await.expect(416);
    assert_eq!(beyond.header("content-range"), "bytes */10");
    assert!(beyond.message().contains("10 bytes"), "{}", beyond.message());
    let absurd = "bytes=18446744073709551615-18446744073709551615";
    get(absurd).await.expect(416);
    for ignored in ["bytes=5-2", "bytes=-1-2", "bytes=0-1,4-5,0-9", "bytes=1e3-", "lines=1-2"] {
        assert_eq!(get(ignored).await.expect(200).body, "0123456789", "{ignored}");
    }
    for (known, code) in
        [(format!("\"x\", {tag}"), 304), (format!("W/{tag}"), 304), ("\"x\"".into(), 200)]
    {
        let headers = [("if-none-match", &known[..])];
        for method in [Method::GET, Method::HEAD] {
            let answer = agent.bulk(method, &path, &order, &headers, "").await.expect(code);
            assert_eq!(answer.header("etag"), tag);
        }
    }
    let head = agent.bulk(Method::HEAD, &path, &order, &[], "").await.expect(200);
    assert_eq!((head.body.len(), head.header("content-length")), (0, "10"));
}

#[tokio::test]
async fn binaries_are_for_the_leases_that_need_them() {
    let house = House::start().await;
    let (agent, order) = running(&house).await;
    let path = path(&order);
    let bob = Agent::join(&house, "bob", &["golang"]).await;
    bob.bulk(Method::GET, &path, &order, &[], "").await.expect(403);
    bob.bulk(Method::HEAD, &path, &order, &[], "").await.expect(403);
    house.anonymous().call(Method::GET, &path, &[], "").await.expect(401);
    house.admin.call(Method::GET, &path, &[], "").await.expect(401);
    let missing = agent.client.call(Method::GET, &path, &[], "").await.expect(400);
    assert!(missing.message().contains("x-gaia-attempt"), "{}", missing.message());
    let other = format!("/artifacts/sha256/{}", Digest::of(b"other"));
    let refused = agent.bulk(Method::GET, &other, &order, &[], "").await.expect(403);
    assert!(refused.message().contains("gets only the binaries of its runs"));
    let bad = agent.bulk(Method::GET, "/artifacts/sha256/xyz", &order, &[], "").await.expect(400);
    assert!(bad.message().contains("`xyz`"), "{}", bad.message());
    let put = agent.bulk(Method::PUT, &other, &order, &[], "other").await.expect(403);
    assert!(put.message().contains("is not a build"), "{}", put.message());
}

#[tokio::test]
async fn a_binary_that_is_not_what_it_says_is_refused() {
    let house = House::start().await;
    let mut agent = house.agent("ada").await;
    let body = json!({ "name": "Ten", "type": "golang", "url": "https://example.org/it.git" });
    house.admin.post("pipeline", body).await.expect(200);
    let order = agent.order().await;
    let path = format!("/artifacts/sha256/{}", Digest::of(b"right"));
    agent.bulk(Method::PUT, &path, &order, &[], "wrong").await.expect(400);
    let stored = agent.bulk(Method::PUT, &path, &order, &[], "right").await.expect(201).json();
    assert_eq!(stored["size"], 5);
    // A retry after a lost answer.
    agent.bulk(Method::PUT, &path, &order, &[], "right").await.expect(201);
}

#[tokio::test]
async fn a_log_grows_by_offset_and_says_where_a_gap_is() {
    let house = House::start().await;
    let (agent, order) = running(&house).await;
    let log = |query: &'static str, text: &'static str| agent.log(&order, query, text);
    assert_eq!(log("?offset=0", "one\n").await.expect(200).json(), json!({ "offset": 4 }));
    // What is known is skipped.
    assert_eq!(log("?offset=2", "e\ntwo\n").await.expect(200).json(), json!({ "offset": 8 }));
    let gap = log("?offset=20", "later").await.expect(409).json();
    assert_eq!(gap["offset"], 8);
    assert!(gap["message"].as_str().unwrap().contains("send from 8"), "{gap}");
    assert_eq!(log("", "").await.expect(200).json(), json!({ "offset": 8 }));
    let half = log("?offset=8&size=8", "").await.expect(400);
    assert!(half.message().contains("belong together"), "{}", half.message());
    let digest = Digest::of(b"one\ntwo\nthree\n");
    let end = format!("?offset=8&size=14&sha256={digest}");
    let sealed = agent.log(&order, &end, "three\n").await.expect(200).json();
    assert_eq!(sealed, json!({ "offset": 14 }));
    agent.log(&order, "?offset=14", "more").await.expect(409);
    let run = &order.unique_id;
    let raw = house.admin.get(&format!("run/{run}/log?raw=1")).await.expect(200);
    assert_eq!(raw.text(), "one\ntwo\nthree\n");
    assert_eq!(raw.header("content-type"), "text/plain; charset=utf-8");
}

#[tokio::test]
async fn a_large_log_is_passed_on_in_pieces() {
    let house = House::start().await;
    let (agent, order) = running(&house).await;
    let line = "0123456789abcde\n";
    let text = line.repeat(200_000);
    let answer = agent.log(&order, "?offset=0", &text).await.expect(200).json();
    assert_eq!(answer["offset"], text.len());
    let run = &order.unique_id;
    let raw = house.admin.get(&format!("run/{run}/log?raw=1&offset=16")).await.expect(200);
    assert_eq!(raw.body.len(), text.len() - 16);
}

#[tokio::test]
async fn a_log_is_written_by_the_leases_holder_even_late() {
    let house = House::start().await;
    let (mut agent, order) = running(&house).await;
    let bob = Agent::join(&house, "bob", &["golang"]).await;
    bob.log(&order, "?offset=0", "forged").await.expect(403);
    let forged = PipelineRun { lease_token: uuid::Uuid::from_u128(1).to_string(), ..order.clone() };
    let refused = agent.log(&forged, "?offset=0", "forged").await.expect(403);
    assert!(refused.message().contains("the current attempt is 1"), "{}", refused.message());

    agent.log(&order, "?offset=0", "one\n").await.expect(200);
    agent.report(&order, "reschedule").await;
    let second = agent.order().await;
    agent.report(&second, "success").await;
    agent.log(&order, "?offset=4", "two\n").await.expect(200);
    bob.log(&order, "?offset=8", "forged").await.expect(403);
    let run = &order.unique_id;
    let log = house.admin.get(&format!("run/{run}/log?attempt=1")).await.expect(200).json();
    assert_eq!(log["log"], "one\ntwo\n");
}

#[tokio::test]
async fn a_damaged_binary_is_gone_and_not_to_be_asked_for_again() {
    let house = House::start().await;
    let (agent, order) = running(&house).await;
    agent.binary(&order).await.expect(200);
    let digest = Digest::try_from(&order.sha_sum[..]).unwrap().to_string();
    let kept = house.data.path().join("artifacts/manifests").join(&digest[..2]).join(&digest);
    std::fs::write(kept, "").unwrap();
    for path in [path(&order), format!("{}/manifest", path(&order))] {
        let answer = agent.bulk(Method::GET, &path, &order, &[], "").await.expect(410);
        assert!(answer.message().contains("build the pipeline again"), "{}", answer.message());
    }
}

#[tokio::test]
async fn a_build_without_its_binary_is_no_success() {
    let house = House::start().await;
    let mut agent = house.agent("ada").await;
    let body = json!({ "name": "None", "type": "golang", "url": "https://example.org/it.git" });
    house.admin.post("pipeline", body).await.expect(200);
    let order = agent.order().await;
    agent.report(&order, "running").await;
    let path = format!("/artifacts/sha256/{}", Digest::of(b"binary"));
    agent.bulk(Method::PUT, &path, &order, &[], "binary").await.expect(201);
    let told = |binary: &[u8], size| {
        let sha_sum = Digest::of(binary).as_bytes().to_vec();
        let build = BuildResult { sha_sum, size, ..BuildResult::default() };
        PipelineRun { build_result: Some(build), ..report(&order, "success") }
    };
    for (binary, size) in [(&b"another"[..], 7), (b"binary", 7)] {
        let refusal = agent.try_report(told(binary, size)).await.unwrap_err();
        assert_eq!(refusal.code(), Code::InvalidArgument, "{refusal}");
        assert!(refusal.message().contains("upload it"), "{refusal}");
    }
    agent.try_report(told(b"binary", 6)).await.unwrap();
}

#[tokio::test]
async fn a_stranger_may_send_little() {
    let house = House::start().await;
    let long = json!({ "username": "admin", "password": "x".repeat(200 << 10) });
    let refused = house.anonymous().post("login", long).await.expect(413);
    assert!(refused.message().contains("131072 bytes"), "{}", refused.message());
}
