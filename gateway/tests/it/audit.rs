//! The log by place and time, and what happened to a run.

use serde_json::{Value, json};

use crate::{
    agent::{argument, job},
    house::House,
};

fn types(events: &Value) -> Vec<String> {
    let of = |event: &Value| event["type"].as_str().unwrap().to_owned();
    events.as_array().unwrap().iter().map(of).collect()
}

#[tokio::test]
async fn a_runs_trail_goes_through_all_streams_with_who_and_why() {
    let house = House::start().await;
    let secret = json!({ "key": "TOKEN", "value": "deep" });
    house.admin.post("secret", secret).await.expect(201);
    let mut ada = house.agent("ada").await;
    let jobs = vec![job(1, "go", &[], vec![argument("vault", "TOKEN", "")])];
    let id = house.pipeline("Once", &mut ada, jobs).await;
    let run = house.run(id, json!([])).await;
    let order = ada.order().await;
    ada.report(&order, "success").await;
    house.ended(&run).await;

    let path = format!("audit/run/{}", run["uniqueid"].as_str().unwrap());
    let trail = house.admin.get(&path).await.expect(200);
    assert!(!trail.text().contains("deep"));
    let trail = trail.json();
    let events = trail["events"].as_array().unwrap();
    let find = |kind: &str| {
        events
            .iter()
            .find(|event| event["type"] == kind)
            .unwrap_or_else(|| panic!("{kind}: {trail}"))
    };
    let about = |kind: &str| find(kind)["about"].as_str().unwrap().to_owned();
    assert_eq!(about("WorkerRegistered"), "worker");
    assert_eq!(about("PipelineBuilt"), "pipeline");
    assert_eq!(about("ArtifactStored"), "artifact");
    assert_eq!(about("RunSubmitted"), "run");
    assert_eq!(about("SecretPut"), "vault");
    let why = find("SecretPut")["why"].as_str().unwrap();
    assert_eq!(why, format!("its value went to worker {} with attempt 1", ada.id));
    assert_eq!(find("RunSubmitted")["actor"], "user:admin");
    assert_eq!(find("RunSubmitted")["why"], "manual");
    let finished = find("RunFinished");
    assert_eq!(finished["actor"], format!("worker:{}", ada.id));
    assert!(finished["address"].as_str().unwrap().starts_with("127."), "{finished}");
    // Each says what its type leaves open.
    let says = |kind: &str| find(kind)["says"].as_str().unwrap().to_owned();
    assert_eq!(about("RunNumbered"), "run");
    assert_eq!(says("RunNumbered"), format!("run 1 of pipeline {id}"));
    assert_eq!(says("RunAssigned"), format!("attempt 1 to worker {}", ada.id));
    assert_eq!(says("RunFinished"), "attempt 1 succeeded");
    assert_eq!(says("JobFinished"), "job `go` succeeded, attempt 1");
    let digest = says("ArtifactStored");
    let (_, digest) = digest.split_once("bytes, sha256 ").unwrap();
    assert_eq!(says("RunSubmitted"), format!("Once, sha256 {digest}"));
    let positions: Vec<_> = events.iter().map(|event| event["position"].as_u64()).collect();
    assert!(positions.is_sorted(), "{positions:?}");

    // Another run of the same pipeline and worker is another story.
    let other = house.run(id, json!([])).await;
    let again = house.admin.get(&path).await.expect(200).json();
    assert_eq!(again, trail, "{other}");
    house.admin.get(&format!("audit/run/{}", uuid::Uuid::nil())).await.expect(404);
    house.admin.get("audit/run/7").await.expect(400);
}

#[tokio::test]
async fn events_are_found_by_place_type_and_id() {
    let house = House::start().await;
    for key in ["A", "B", "C"] {
        house.admin.post("secret", json!({ "key": key, "value": "x" })).await.expect(201);
    }
    let get =
        async |query: &str| house.admin.get(&format!("events?{query}")).await.expect(200).json();
    let all = get("limit=1000").await;
    let last = all.as_array().unwrap().last().unwrap();
    let position = last["position"].as_u64().unwrap();

    assert_eq!(types(&get("type=SecretPut").await), ["SecretPut"; 3]);
    assert_eq!(types(&get("type=User*,SecretR*").await), ["UserCreated", "UserLoggedIn"]);
    assert_eq!(get(&format!("at={position}&limit=1")).await, json!([last]));
    let back = get("order=desc&limit=1000").await;
    assert!(back.as_array().unwrap().iter().eq(all.as_array().unwrap().iter().rev()));
    let middle = get(&format!("from={}&to={}", position - 2, position - 1)).await;
    let wanted: Vec<_> =
        middle.as_array().unwrap().iter().map(|e| e["position"].as_u64()).collect();
    assert_eq!(wanted, [Some(position - 2), Some(position - 1)]);
    let stream = get("stream=secret-A&order=desc&limit=1").await;
    assert_eq!(stream[0]["payload"]["key"], "A");

    // Everything was recorded before tomorrow and after the beginning of time.
    assert_eq!(get("from=1970-01-02&limit=1000").await, all);
    assert_eq!(get("to=1970-01-02").await, json!([]));
    assert_eq!(get("at=9999-01-01&limit=1").await, json!([last]));
    assert_eq!(get("from=9999-01-01").await, json!([]));

    let by_position = house.admin.get(&format!("events/{position}")).await.expect(200).json();
    let by_id = format!("events/{}", last["id"].as_str().unwrap());
    let by_id = house.admin.get(&by_id).await.expect(200).json();
    assert_eq!((&by_position, &by_id), (last, last));
    let first = format!("events/{}", all[0]["id"].as_str().unwrap());
    assert_eq!(house.admin.get(&first).await.expect(200).json(), all[0]);
    house.admin.get(&format!("events/{}", position + 1)).await.expect(404);
    house.admin.get(&format!("events/{}", uuid::Uuid::from_u128(5))).await.expect(404);
    for wrong in ["events/x", "events?from=soon", "events?order=up", "events?at=1&to=1"] {
        house.admin.get(wrong).await.expect(400).message();
    }
}
