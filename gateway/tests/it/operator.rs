//! What operators do with workers, as they see it, and as an agent does.

use std::time::Duration;

use proto::worker::{EnvironmentVariable, Instruction};
use serde_json::{Value, json};

use crate::{
    agent::{Agent, job},
    client::patiently,
    house::House,
};

async fn shown(house: &House, agent: &Agent) -> Value {
    let workers = house.admin.get("worker").await.expect(200).json();
    let mut workers = workers.as_array().unwrap().iter();
    workers.find(|worker| worker["uniqueid"] == agent.id).unwrap().clone()
}

/// Asks until the worker is so.
async fn until(house: &House, agent: &Agent, is: impl Fn(&Value) -> bool) -> Value {
    let mut tick = tokio::time::interval(Duration::from_millis(5));
    patiently(async {
        loop {
            tick.tick().await;
            let shown = shown(house, agent).await;
            if is(&shown) {
                return shown;
            }
        }
    })
    .await
}

fn ahead(duration: Duration) -> u64 {
    let now = eventlog::Clock::system().now() + duration;
    now.as_millis()
}

#[tokio::test]
async fn a_worker_is_renamed_and_tagged_and_every_change_says_who_and_why() {
    let house = House::start().await;
    let agent = house.agent("ada").await;
    let path = |what: &str| format!("worker/{what}/{}", agent.id);
    let body = json!({ "name": "grace", "note": "moved" });
    let renamed = house.admin.post(&path("rename"), body).await.expect(200).json();
    assert_eq!(renamed["name"], "grace");
    let body = json!({ "add": ["GPU", "-golang"], "note": "a new card" });
    let tagged = house.admin.post(&path("tags"), body).await.expect(200).json();
    assert_eq!(tagged["tags"], json!(["golang", "GPU", "-golang"]));
    let labels = json!([
        { "tag": "golang", "source": "configured" },
        { "tag": "GPU", "source": "operator" },
        { "tag": "-golang", "source": "operator" },
    ]);
    assert_eq!(tagged["labels"], labels);
    let refused = house.admin.post(&path("tags"), json!({ "remove": ["golang"] })).await;
    assert!(refused.clone().expect(409).message().contains("add `-golang`"), "{refused:?}");
    let body = json!({ "remove": ["-golang"] });
    let tagged = house.admin.post(&path("tags"), body).await.expect(200).json();
    assert_eq!(tagged["tags"], json!(["golang", "GPU"]));
    let events = house.admin.get(&format!("events?stream=worker-{}", agent.id)).await.expect(200);
    let events = events.json();
    let changes = events.as_array().unwrap().iter().rev().take(3);
    assert!(changes.clone().all(|event| event["actor"] == "user:admin"), "{events}");
}

#[tokio::test]
async fn bad_wishes_of_operators_are_named_and_change_nothing() {
    let house = House::start().await;
    let agent = house.agent("ada").await;
    let before = shown(&house, &agent).await;
    let long = "x".repeat(1 << 20);
    let many = vec!["x"; 10_000];
    for (what, body, why) in [
        ("rename", json!({ "name": "a/b" }), "`name`"),
        ("rename", json!({ "name": "a\\b" }), "`name`"),
        ("rename", json!({ "name": "a\u{7}" }), "`name`"),
        ("rename", json!({ "name": "" }), "`name`"),
        ("rename", json!({ "name": long }), "`name`"),
        ("tags", json!({ "add": [long] }), "`tags`"),
        ("tags", json!({ "add": many }), "`tags`"),
        ("tags", json!({ "add": ["a\u{0}"] }), "`tags`"),
        ("tags", json!({ "add": ["-"] }), "`tags`"),
        ("tags", json!({ "add": ["a"], "remove": ["A"] }), "tag `a`"),
        ("tags", json!({}), "`add`"),
        ("suspend", json!({ "until": "2020-01-01T00:00:00Z" }), "the end time passed"),
        ("suspend", json!({ "until": "2999-01-01T00:00:00Z" }), "the end time is"),
        ("suspend", json!({ "until": "soon" }), "`until` is `soon`"),
        ("suspend", json!({ "note": long }), "`note`"),
        ("drain", json!({ "deadline": 1 }), "the end time passed"),
        ("drain", json!({ "deadline": u64::MAX }), "the end time is"),
    ] {
        let refused = house.admin.post(&format!("worker/{what}/{}", agent.id), body).await;
        let message = refused.expect(400).message();
        assert!(message.starts_with(why) && message.len() < 300, "{what}: {message}");
    }
    let stranger = "00000000-0000-0000-0000-000000000001";
    for what in ["rename", "tags", "suspend", "drain", "resume"] {
        let body = json!({ "name": "n", "add": ["t"] });
        let refused = house.admin.post(&format!("worker/{what}/{stranger}"), body).await;
        assert!(refused.expect(404).message().contains(stranger));
    }
    let mut after = shown(&house, &agent).await;
    for moving in ["lastcontact", "last_contact_at"] {
        after[moving] = before[moving].clone();
    }
    assert_eq!(after, before);
}

#[tokio::test]
async fn a_suspension_ends_by_itself_at_its_time() {
    let house = House::start().await;
    let mut agent = house.agent("ada").await;
    let pipeline = house.pipeline("hello", &mut agent, vec![job(1, "a", &[], vec![])]).await;
    let suspend = format!("worker/suspend/{}", agent.id);
    let until_when = ahead(Duration::from_millis(300));
    let body = json!({ "note": "new disk", "until": until_when });
    let suspended = house.admin.post(&suspend, body).await.expect(200).json();
    assert_eq!(
        (&suspended["state"], &suspended["until"]),
        (&json!("suspended"), &json!(until_when))
    );
    house.run(pipeline, json!({})).await;
    // Comes only once the suspension is over.
    agent.order().await;
    let active = shown(&house, &agent).await;
    assert_eq!((&active["state"], &active["note"]), (&json!("active"), &json!("")));
    let events = house.admin.get(&format!("events?stream=worker-{}", agent.id)).await.expect(200);
    let events = events.json();
    let resumed = events.as_array().unwrap().last().unwrap().clone();
    assert_eq!(resumed["type"], "WorkerResumed");
    assert_eq!(resumed["actor"], "service:svc-registry");
}

#[tokio::test]
async fn a_drain_lets_runs_finish_until_its_deadline_and_then_takes_them() {
    let house = House::start().await;
    let mut ada = house.agent("ada").await;
    let pipeline = house.pipeline("hello", &mut ada, vec![job(1, "a", &[], vec![])]).await;
    house.run(pipeline, json!({})).await;
    let order = ada.order().await;
    ada.report(&order, "running").await;
    let drain = format!("worker/drain/{}", ada.id);
    let draining = house.admin.post(&drain, json!({ "note": "old" })).await.expect(200).json();
    assert_eq!(
        (&draining["state"], &draining["status"]),
        (&json!("draining"), &json!("suspended"))
    );
    assert_eq!(draining["runs"], json!([order.unique_id]));
    let body = json!({ "note": "old", "deadline": ahead(Duration::from_millis(300)) });
    house.admin.post(&drain, body).await.expect(200);
    let mut bob = house.agent("bob").await;
    let stop = ada.next().await.expect("an instruction");
    assert_eq!((stop.instruction(), &stop.unique_id), (Instruction::Cancel, &order.unique_id));
    let again = bob.order().await;
    assert_eq!((&again.unique_id, again.attempt), (&order.unique_id, 2));
    let drained = until(&house, &ada, |shown| shown["runs"] == json!([])).await;
    assert_eq!((&drained["state"], &drained["drain_expired"]), (&json!("draining"), &json!(true)));
    let run = house.shown(&again).await;
    let reason = run["attempts"][0]["reason"].as_str().unwrap();
    assert_eq!(reason, "worker ada was drained, and the deadline came");
}

#[tokio::test]
async fn a_deregistered_worker_is_told_to_stop_before_it_is_cut_off_unless_forced() {
    let house = House::start().await;
    for force in [false, true] {
        let mut agent = house.agent(&format!("ada-{force}")).await;
        let pipeline = house
            .pipeline(&format!("hello-{force}"), &mut agent, vec![job(1, "a", &[], vec![])])
            .await;
        house.run(pipeline, json!({})).await;
        let order = agent.order().await;
        agent.report(&order, "running").await;
        house.admin.delete(&format!("worker/{}?force={force}", agent.id)).await.expect(200);
        let mut stopped = false;
        let end = loop {
            match agent.next().await {
                Ok(stop) => {
                    assert_eq!(stop.instruction(), Instruction::Cancel);
                    assert_eq!(stop.unique_id, order.unique_id);
                    stopped = true;
                }
                Err(end) => break end,
            }
        };
        assert_eq!(end.message(), "worker is not registered");
        assert!(stopped || force, "it was not told to stop");
        // It is tried elsewhere.
        let mut tick = tokio::time::interval(Duration::from_millis(5));
        patiently(async {
            while house.shown(&order).await["status"] != "not scheduled" {
                tick.tick().await;
            }
        })
        .await;
        house.admin.post(&format!("run/{}/stop", order.unique_id), json!({})).await.expect(200);
    }
}

#[tokio::test]
async fn runs_get_the_variables_of_their_worker_and_nobody_else_sees_secret_ones() {
    let house = House::start().await;
    let mut agent = house.agent("ada").await;
    let pipeline = house.pipeline("hello", &mut agent, vec![job(1, "a", &[], vec![])]).await;
    let put = async |body: Value| {
        house.admin.json(http::Method::PUT, "environment", body).await.expect(200).json()
    };
    put(json!({ "worker": agent.id, "key": "REGION", "value": "eu" })).await;
    put(json!({ "tag": "GoLang", "key": "REGION", "value": "us" })).await;
    put(json!({ "tag": "golang", "key": "PROXY", "value": "http://p" })).await;
    put(json!({ "tag": "java", "key": "OTHER", "value": "x" })).await;
    let secret = json!({ "worker": agent.id, "key": "KEY", "value": "s3cr=et\n", "secret": true });
    assert_eq!(put(secret).await["value"], "**********");
    house.run(pipeline, json!({})).await;
    let order = agent.order().await;
    let variable = |key: &str, value: &str, secret| EnvironmentVariable {
        key: key.into(),
        value: value.into(),
        secret,
    };
    let wanted = [
        variable("KEY", "s3cr=et\n", true),
        variable("PROXY", "http://p", false),
        variable("REGION", "eu", false),
    ];
    assert_eq!(order.environment, wanted);
    let listed = house.admin.get("environment").await.expect(200);
    assert!(!listed.text().contains("s3cr"), "{}", listed.text());
    assert_eq!(listed.json().as_array().unwrap().len(), 5);
    let of_tag = house.admin.get("environment?tag=golang").await.expect(200).json();
    assert_eq!(of_tag.as_array().unwrap().len(), 2);
    let events = house.admin.get("events?stream=environment-*").await.expect(200);
    let sealed = ["s3cr", "czNjcg"];
    assert!(sealed.iter().all(|part| !events.text().contains(part)), "{}", events.text());
    let body = json!({ "worker": agent.id, "key": "REGION" });
    house.admin.json(http::Method::DELETE, "environment", body).await.expect(200);
    house.run(pipeline, json!({})).await;
    assert_eq!(agent.order().await.environment[2].value, "us");
    for (body, why) in [
        (json!({ "worker": agent.id, "key": "A B", "value": "" }), "`key`"),
        (json!({ "worker": agent.id, "key": "PLUGIN_X", "value": "" }), "`key`"),
        (json!({ "worker": agent.id, "key": "A", "value": "a\u{0}" }), "`value`"),
        (json!({ "worker": agent.id, "key": "A", "value": "x".repeat(40 << 10) }), "`value`"),
        (json!({ "worker": "x", "key": "A", "value": "" }), "`worker`"),
        (json!({ "worker": agent.id, "tag": "x", "key": "A", "value": "" }), "`worker` and `tag`"),
        (json!({ "tag": "-x", "key": "A", "value": "" }), "`scope`"),
        (json!({ "key": "A", "value": "" }), "`scope`"),
    ] {
        let refused = house.admin.json(http::Method::PUT, "environment", body).await;
        let message = refused.expect(400).message();
        assert!(message.starts_with(why), "{message}");
    }
}
