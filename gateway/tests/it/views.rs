//! What is shown of workers, of the vault, and of the log itself.

use base64::{Engine, prelude::BASE64_STANDARD};
use prost::Message;
use proto::scheduler::events::v1::RunAssigned;
use serde_json::{Value, json};

use crate::{
    agent::{Agent, job},
    client::patiently,
    house::House,
};

#[tokio::test]
async fn workers_are_seen_suspended_and_resumed() {
    let house = House::start().await;
    let mut ada = house.agent("ada").await;
    let bob = Agent::join(&house, "bob", &["java"]).await;
    let id = house.pipeline("Once", &mut ada, vec![job(1, "go", &[], vec![])]).await;
    house.run(id, json!([])).await;
    let order = ada.order().await;

    let workers = house.admin.get("worker").await.expect(200).json();
    let shown = workers.as_array().unwrap().iter().find(|w| w["name"] == "ada").unwrap();
    assert_eq!((&shown["uniqueid"], &shown["status"]), (&json!(ada.id), &json!("active")));
    assert_eq!((&shown["slots"], &shown["tags"]), (&json!(2), &json!(["golang"])));
    assert_eq!((&shown["runs"], &shown["finishedruns"]), (&json!([order.unique_id]), &json!(1)));
    assert_eq!((&shown["connected"], &shown["os"]), (&json!(true), &json!("linux")));
    assert!(shown["registerdate"].as_str().unwrap().starts_with("20"), "{shown}");
    let overview = house.admin.get("worker/status").await.expect(200).json();
    assert_eq!(overview["runningruns"], 1);
    assert_eq!((&overview["finishedruns"], &overview["queuesize"]), (&json!(1), &json!(0)));

    let note = json!({ "note": "new disk" });
    let suspended = house.admin.post(&format!("worker/suspend/{}", bob.id), note).await;
    let suspended = suspended.expect(200).json();
    assert_eq!(
        (&suspended["status"], &suspended["note"]),
        (&json!("suspended"), &json!("new disk"))
    );
    let overview = house.admin.get("worker/status").await.expect(200).json();
    assert_eq!(overview["suspendedworker"], 1);
    let resumed = house.admin.post(&format!("worker/resume/{}", bob.id), Value::Null).await;
    assert_ne!(resumed.expect(200).json()["status"], "suspended");
    house.admin.post("worker/suspend/x", Value::Null).await.expect(400);
}

#[tokio::test]
async fn the_vault_shows_keys_only() {
    let house = House::start().await;
    house.admin.post("secret", json!({ "key": "A", "value": "deep" })).await.expect(201);
    let secrets = house.admin.get("secrets").await.expect(200);
    assert!(!secrets.text().contains("deep"));
    assert_eq!(secrets.json()[0]["key"], "A");
    assert_eq!(secrets.json()[0]["value"], "**********");
    let bad = json!({ "key": "a b", "value": "x" });
    house.admin.post("secret", bad).await.expect(400).message();
    let removed = house.admin.delete("secret/A").await.expect(200);
    assert_eq!(removed.text(), "secret successfully deleted");
    assert_eq!(house.admin.get("secrets").await.expect(200).json(), json!([]));
}

#[tokio::test]
async fn every_event_is_shown_with_who_caused_it() {
    let house = House::start().await;
    let mut ada = house.agent("ada").await;
    let id = house.pipeline("Once", &mut ada, vec![job(1, "go", &[], vec![])]).await;
    let run = house.run(id, json!([])).await;
    let order = ada.order().await;
    ada.report(&order, "success").await;

    let events = house.admin.get("events?limit=1000").await.expect(200).json();
    let events = events.as_array().unwrap();
    for (place, event) in events.iter().enumerate() {
        assert_eq!(event["position"], place);
    }
    let stream = format!("run-{}", run["uniqueid"].as_str().unwrap());
    let of_run = house.admin.get(&format!("events?stream={stream}")).await.expect(200).json();
    let types: Vec<_> =
        of_run.as_array().unwrap().iter().map(|e| e["type"].as_str().unwrap()).collect();
    assert_eq!(types[..2], ["RunSubmitted", "RunAssigned"]);
    assert_eq!(types.last().unwrap(), &"RunFinished");
    assert_eq!(of_run[0]["actor"], "user:admin");
    assert!(of_run[0]["address"].as_str().unwrap().starts_with("127.0.0.1"), "{}", of_run[0]);
    assert_eq!(of_run[2]["actor"], format!("worker:{}", ada.id));
    let data = BASE64_STANDARD.decode(of_run[1]["data"].as_str().unwrap()).unwrap();
    assert_eq!(RunAssigned::decode(&data[..]).unwrap().worker_id, ada.id);

    let from = of_run[1]["position"].as_u64().unwrap();
    let later = house.admin.get(&format!("events?stream={stream}&from={from}&limit=1")).await;
    assert_eq!(later.expect(200).json(), json!([of_run[1]]));

    let some = house.admin.get("events?from=3&limit=2&stream=run-*").await.expect(200).json();
    assert_eq!(some.as_array().unwrap().len(), 2);
    assert!(some[0]["position"].as_u64().unwrap() >= 3);
    assert!(some[0]["stream"].as_str().unwrap().starts_with("run-"));
    let users = house.admin.get("events?stream=user-*").await.expect(200).json();
    assert_eq!(users[0]["payload"]["password_hash"], "[redacted]");
    assert_eq!(
        (&users[0]["payload"]["username"], &users[0]["redacted"]),
        (&json!("admin"), &json!(true))
    );
    let token = RunAssigned::decode(&data[..]).unwrap().lease_token;
    assert_eq!(token, uuid::Uuid::nil().to_string());
}

#[tokio::test]
async fn events_are_followed_from_the_last_one_seen() {
    let house = House::start().await;
    let mut events = house.follow("events?follow=1").await;
    let mut last = events.expect("event").await;
    assert_eq!((last.id.as_str(), &last.json()["position"]), ("0", &json!(0)));
    house.admin.post("secret", json!({ "key": "A", "value": "x" })).await.expect(201);
    while last.json()["type"] != "SecretPut" {
        last = events.expect("event").await;
    }
    drop(events);
    house.admin.delete("secret/A").await.expect(200);
    let mut events = house.admin.follow("events", Some(&last.id)).await;
    let next = events.expect("event").await;
    let position: u64 = last.id.parse().unwrap();
    assert_eq!(
        (&next.json()["type"], next.id),
        (&json!("SecretRemoved"), (position + 1).to_string())
    );
}

#[tokio::test]
async fn a_reader_that_goes_away_leaves_nothing_behind() {
    let house = House::start().await;
    let before = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    for _ in 0..20 {
        drop(house.follow("events?follow=1").await);
    }
    let mut tick = tokio::time::interval(std::time::Duration::from_millis(5));
    patiently(async {
        while tokio::runtime::Handle::current().metrics().num_alive_tasks() > before {
            tick.tick().await;
        }
    })
    .await;
}
