//! What holds a run back, and how that is changed.

use http::Method;
use proto::worker::{Instruction, Job, PipelineRun};
use serde_json::json;

use crate::{
    agent::{job, report},
    house::House,
};

#[tokio::test]
async fn a_limit_holds_runs_back_until_it_is_lifted() {
    let house = House::start().await;
    let mut agent = house.agent("ada").await;
    let id = house.pipeline("Deploy", &mut agent, vec![job(1, "deploy", &[], vec![])]).await;
    let put = async |path: &str, body| house.admin.json(Method::PUT, path, body).await;
    let of_pipeline = format!("limit/pipeline/{id}");
    let bad = put(&of_pipeline, json!({ "running": 1, "when_full": "panic" }));
    assert!(bad.await.expect(400).message().contains("`panic`"));
    let absurd = put(&of_pipeline, json!({ "running": 0, "when_full": "cancel-newer" }));
    assert!(absurd.await.expect(400).message().contains("queue"));
    put("limit/pipeline/77", json!({ "running": 1 })).await.expect(404);
    put("limit/group/a%20b", json!({ "running": 1 })).await.expect(400);
    let limit = put(&of_pipeline, json!({ "running": 1 })).await.expect(200).json();
    assert_eq!(limit["when_full"], "queue");

    let first = house.run(id, json!([])).await;
    let order = agent.order().await;
    assert_eq!(first["uniqueid"], order.unique_id);
    agent.report(&order, "running").await;
    let second = house.run(id, json!([])).await;
    let path = format!("run/{}/placement", second["uniqueid"].as_str().unwrap());
    let why = house.admin.get(&path).await.expect(200).json();
    assert_eq!(why["summary"], format!("pipeline {id} has 1 of at most 1 running"));
    assert_eq!(why["limits"], json!([{ "pipelineid": id, "running": 1, "running_now": 1 }]));
    let limits = house.admin.get("limit").await.expect(200).json();
    assert_eq!((&limits[0]["running_now"], &limits[0]["open"]), (&json!(1), &json!(2)));
    house.admin.json(Method::DELETE, &of_pipeline, json!({})).await.expect(200);
    let order = agent.order().await;
    assert_eq!(second["uniqueid"], order.unique_id);
    assert_eq!(house.admin.get("limit").await.expect(200).json(), json!([]));
}

#[tokio::test]
async fn a_newer_run_takes_the_place_of_an_older_one() {
    let house = House::start().await;
    let mut agent = house.agent("ada").await;
    let id = house.pipeline("Deploy", &mut agent, vec![job(1, "deploy", &[], vec![])]).await;
    let changed = json!({ "policy": { "groups": ["Live"], "priority": 5 }, "selector": "!slow" });
    let path = format!("pipeline/{id}");
    let changed = house.admin.json(Method::PUT, &path, changed).await.expect(200).json();
    assert_eq!(changed["policy"]["groups"], json!(["live"]));
    assert_eq!(changed["policy"]["priority"], 5);
    assert_eq!((&changed["selector"], &changed["name"]), (&json!("!slow"), &json!("Deploy")));
    for (bad, says) in [
        (json!({ "policy": { "priority": 101 } }), "priority"),
        (json!({ "policy": { "groups": ["a b"] } }), "groups"),
        (json!({ "policy": { "colour": 1 } }), "colour"),
        (json!({ "selector": "!" }), "selector"),
    ] {
        let refused = house.admin.json(Method::PUT, &path, bad).await.expect(400);
        assert!(refused.message().contains(says), "{}", refused.message());
    }
    let limit = json!({ "running": 1, "when_full": "cancel-older" });
    house.admin.json(Method::PUT, "limit/group/live", limit).await.expect(200);
    let first = house.run(id, json!([])).await;
    let order = agent.order().await;
    agent.report(&order, "running").await;
    let second = house.run(id, json!([])).await;
    let stop = agent.next().await.unwrap();
    assert_eq!((stop.instruction(), &stop.unique_id), (Instruction::Cancel, &order.unique_id));
    agent.try_report(report(&order, "cancelled")).await.unwrap();
    assert_eq!(house.ended(&first).await["status"], "cancelled");
    assert_eq!(agent.order().await.unique_id, second["uniqueid"]);
}

#[tokio::test]
async fn a_delayed_start_waits_and_says_so() {
    let house = House::start().await;
    let mut agent = house.agent("ada").await;
    let id = house.pipeline("Deploy", &mut agent, vec![job(1, "deploy", &[], vec![])]).await;
    let later = house.run(id, json!({ "delay": 3_600 })).await;
    let path = format!("run/{}/placement", later["uniqueid"].as_str().unwrap());
    let why = house.admin.get(&path).await.expect(200).json();
    assert_eq!(why["summary"], "the run is delayed; its time has not come");
    assert!(why["delayed_until"].as_u64().unwrap() > later["submitted_at"].as_u64().unwrap());
    let soon = house.run(id, json!({ "delay": 1 })).await;
    assert_eq!(agent.order().await.unique_id, soon["uniqueid"]);
    let never = json!({ "delay": 40_000_000_000_u64 });
    let path = format!("pipeline/{id}/start");
    assert!(house.admin.post(&path, never).await.expect(400).message().contains("days ahead"));
}

#[tokio::test]
async fn a_run_is_repeated_whole_or_without_the_jobs_that_succeeded() {
    let house = House::start().await;
    let mut agent = house.agent("ada").await;
    let jobs = vec![job(1, "compile", &[], vec![]), job(2, "deploy", &[1], vec![])];
    let id = house.pipeline("Deploy", &mut agent, jobs).await;
    let first = house.run(id, json!([])).await;
    let path = format!("run/{}/rerun", first["uniqueid"].as_str().unwrap());
    let early = house.admin.post(&path, json!({})).await.expect(409);
    assert!(early.message().contains("has not ended"), "{}", early.message());
    let order = agent.order().await;
    agent.report(&order, "running").await;
    let state = |id, status: &str| Job { unique_id: id, status: status.into(), ..Job::default() };
    let end = PipelineRun {
        jobs: vec![state(1, "success"), state(2, "failed")],
        ..report(&order, "failed")
    };
    agent.try_report(end).await.unwrap();
    house.ended(&first).await;
    let again = house.admin.post(&path, json!({ "failed_only": true })).await.expect(201).json();
    assert_eq!(
        (&again["rerun_of"], &again["started_reason"]),
        (&first["uniqueid"], &json!("rerun"))
    );
    assert_eq!(again["jobs"][0]["status"], "success");
    let order = agent.order().await;
    let states: Vec<_> = order.jobs.iter().map(|job| job.status.as_str()).collect();
    assert_eq!(states, ["success", "waiting for execution"]);
    agent.report(&order, "running").await;
    agent.report(&order, "success").await;
    let ended = house.ended(&again).await;
    assert_eq!(
        (&ended["status"], &ended["jobs"][1]["status"]),
        (&json!("success"), &json!("success"))
    );
    let path = format!("run/{}/rerun", ended["uniqueid"].as_str().unwrap());
    let all = house.admin.post(&path, json!({ "failed_only": true })).await.expect(409);
    assert!(all.message().contains("all of its jobs succeeded"), "{}", all.message());
}

#[tokio::test]
async fn a_run_that_takes_too_long_fails_with_that_reason_and_its_worker_is_told() {
    let house = House::start().await;
    let mut agent = house.agent("ada").await;
    let id = house.pipeline("Deploy", &mut agent, vec![job(1, "deploy", &[], vec![])]).await;
    let body = json!({ "policy": { "run_timeout": 1, "silence_timeout": 7 } });
    let run = house.run(id, body).await;
    let order = agent.order().await;
    assert_eq!(order.silence_timeout, 7);
    agent.report(&order, "running").await;
    let stop = agent.next().await.unwrap();
    assert_eq!((stop.instruction(), &stop.unique_id), (Instruction::Cancel, &order.unique_id));
    let ended = house.ended(&run).await;
    assert_eq!(ended["status"], "failed");
    assert_eq!(ended["reason"], "timed out: it ran for more than 1 s");
    let late = agent.try_report(report(&order, "success")).await.unwrap_err();
    assert!(late.message().contains("already failed"), "{late}");
}
