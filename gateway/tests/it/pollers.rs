//! Gaia's own agents: they poll, know no attempts, and send logs whole.

use futures::stream;
use proto::worker::{LogChunk, PipelineId, PipelineRun};
use serde_json::json;
use tonic::Code;

use crate::{
    agent::{Agent, argument, job},
    client::patiently,
    house::House,
};

/// What Go sends for a time that is not set.
const GO_ZERO: i64 = -62_135_596_800;

async fn poll(agent: &mut Agent, slots: i32) -> Vec<PipelineRun> {
    let mut orders = agent.get_work(slots, &["golang"], false).await.unwrap();
    let mut all = vec![];
    while let Some(order) = patiently(orders.message()).await.unwrap() {
        all.push(order);
    }
    all
}

/// As Gaia's agent reports: neither attempt nor token.
fn report(order: &PipelineRun, status: &str) -> PipelineRun {
    PipelineRun {
        unique_id: order.unique_id.clone(),
        id: order.id,
        pipeline_id: order.pipeline_id,
        status: status.into(),
        schedule_date: order.schedule_date,
        start_date: GO_ZERO,
        finish_date: GO_ZERO,
        ..PipelineRun::default()
    }
}

fn chunks(order: &PipelineRun, texts: &[&str]) -> impl futures::Stream<Item = LogChunk> + use<> {
    let chunk = |text: &&str| LogChunk {
        run_id: order.id,
        pipeline_id: order.pipeline_id,
        chunk: (*text).to_owned().into(),
    };
    stream::iter(texts.iter().map(chunk).collect::<Vec<_>>())
}

#[tokio::test]
async fn an_agent_of_gaia_polls_runs_and_reports() {
    let house = House::start().await;
    let mut ada = house.agent("ada").await;
    let binary = "x".repeat(150_000);
    let body = json!({ "name": "Big", "type": "golang", "url": "https://example.org/it.git" });
    let id = house.admin.post("pipeline", body).await.expect(200).json()["id"].as_u64().unwrap();
    let order = ada.order().await;
    ada.build(&order, binary.as_bytes(), vec![job(1, "go", &[], vec![])]).await;
    house.built(id).await;
    ada.disconnect();
    let first = house.run(id, json!([])).await;
    let second = house.run(id, json!([])).await;
    house.admin.post(&format!("worker/suspend/{}", ada.id), json!({})).await.expect(200);

    let mut go = Agent::join(&house, "go", &["golang"]).await;
    assert_eq!(poll(&mut go, 0).await, []);
    let orders = poll(&mut go, 4).await;
    assert_eq!(orders.len(), 1, "one run a poll");
    let order = &orders[0];
    assert_eq!(first["uniqueid"], order.unique_id);
    assert_eq!((order.status.as_str(), order.pipeline_name.as_str()), ("scheduled", "Big"));
    for status in ["not scheduled", "not scheduled", "running"] {
        go.try_report(report(order, status)).await.unwrap();
    }

    let wanted = go.request(order.clone());
    let mut chunked = go.api.stream_binary(wanted).await.unwrap().into_inner();
    let mut received = vec![];
    while let Some(chunk) = patiently(chunked.message()).await.unwrap() {
        assert!(chunk.chunk.len() <= 64 << 10);
        received.extend_from_slice(&chunk.chunk);
    }
    assert_eq!(received, binary.as_bytes());

    let empty = go.request(chunks(order, &[]));
    go.api.stream_logs(empty).await.unwrap();
    for texts in [&["one\n"][..], &["one\n", "two\n"]] {
        let log = go.request(chunks(order, texts));
        go.api.stream_logs(log).await.unwrap();
    }
    go.try_report(report(order, "success")).await.unwrap();
    // Its last log may come after its last report.
    let late = go.request(chunks(order, &["one\n", "two\n", "three\n"]));
    go.api.stream_logs(late).await.unwrap();
    let log = house.admin.get(&format!("pipelinerun/{id}/1/log")).await.expect(200).json();
    assert_eq!(log["log"], "one\ntwo\nthree\n");
    let ended = house.ended(&first).await;
    assert_eq!((&ended["status"], &ended["started_reason"]), (&json!("success"), &json!("manual")));

    let orders = poll(&mut go, 1).await;
    assert_eq!(second["uniqueid"], orders[0].unique_id);
    go.try_report(report(&orders[0], "reschedule")).await.unwrap();
    assert_eq!(house.shown(&orders[0]).await["status"], "not scheduled");
    let workers = house.admin.get("worker").await.expect(200).json();
    let worker = workers.as_array().unwrap().iter().find(|w| w["name"] == "go").unwrap();
    assert_eq!(worker["finishedruns"], 1);
}

#[tokio::test]
async fn a_log_of_mixed_runs_or_of_anothers_run_is_refused() {
    let house = House::start().await;
    let mut ada = house.agent("ada").await;
    let id = house.pipeline("Once", &mut ada, vec![job(1, "go", &[], vec![])]).await;
    house.run(id, json!([])).await;
    let order = ada.order().await;
    let other = PipelineRun { id: order.id + 1, ..order.clone() };
    let first: Vec<_> = futures::StreamExt::collect(chunks(&order, &["a"])).await;
    let then: Vec<_> = futures::StreamExt::collect(chunks(&other, &["b"])).await;
    let mixed = ada.request(stream::iter([first, then].concat()));
    let refusal = ada.api.stream_logs(mixed).await.unwrap_err();
    assert_eq!(
        (refusal.code(), refusal.message()),
        (Code::Unknown, "corrupted chunk found in stream")
    );
    let log = house.admin.get(&format!("pipelinerun/{id}/1/log")).await.expect(200).json();
    assert_eq!(log["log"], "", "nothing of a refused log is kept");

    let mut bob = Agent::join(&house, "bob", &["golang"]).await;
    let foreign = bob.request(chunks(&order, &["a"]));
    let refusal = bob.api.stream_logs(foreign).await.unwrap_err();
    assert_eq!(refusal.code(), Code::PermissionDenied);
    for wanted in [order.clone(), PipelineRun { pipeline_id: 1, ..PipelineRun::default() }] {
        let wanted = bob.request(wanted);
        let refusal = bob.api.stream_binary(wanted).await.unwrap_err();
        let denied = [Code::PermissionDenied, Code::FailedPrecondition];
        assert!(denied.contains(&refusal.code()), "{refusal}");
    }
    let by_pipeline = PipelineRun { pipeline_id: order.pipeline_id, ..PipelineRun::default() };
    let wanted = ada.request(by_pipeline);
    ada.api.stream_binary(wanted).await.unwrap();
}

#[tokio::test]
async fn builds_and_values_wait_for_an_agent_of_ours() {
    let house = House::start().await;
    let mut go = Agent::join(&house, "go", &["golang"]).await;
    let body = json!({ "name": "New", "type": "golang", "url": "https://example.org/it.git" });
    let created = house.admin.post("pipeline", body).await.expect(200).json();
    let build = created["buildrunid"].as_str().unwrap();
    let mut events = house.follow(&format!("run/{build}")).await;
    events.expect("run").await;
    assert_eq!(poll(&mut go, 1).await, []);
    let shown = house.admin.get(&format!("run/{build}")).await.expect(200).json();
    assert_eq!(shown["attempts"], json!([]), "{shown}");
    assert!(shown["reason"].as_str().unwrap().contains("Gaia"), "{shown}");

    let mut ada = house.agent("ada").await;
    let order = ada.order().await;
    let args = vec![argument("textfield", "stage", "test")];
    ada.build(&order, b"binary", vec![job(1, "go", &[], args)]).await;
    let id = created["id"].as_u64().unwrap();
    house.built(id).await;
    ada.disconnect();
    house.admin.post(&format!("worker/suspend/{}", ada.id), json!({})).await.expect(200);
    house.run(id, json!([])).await;
    assert_eq!(poll(&mut go, 1).await, []);
    let request = go.request(PipelineId { id: id as i64 });
    assert_eq!(go.api.get_git_repo(request).await.unwrap_err().code(), Code::PermissionDenied);
}
