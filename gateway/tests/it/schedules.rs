//! Starts by themselves and from outside.

use http::Method;
use serde_json::{Value, json};

use crate::{agent::job, client::Client, house::House};

#[tokio::test]
async fn a_schedule_starts_runs_by_itself() {
    let house = House::start().await;
    let mut agent = house.agent("ada").await;
    let id = house.pipeline("Nightly", &mut agent, vec![job(1, "dump", &[], vec![])]).await;
    let path = format!("pipeline/{id}");

    let never = json!({ "periodicschedules": ["0 0 0 30 2 *"] });
    let never = house.admin.json(Method::PUT, &path, never).await.expect(400);
    assert_eq!(
        never.message(),
        "periodicschedules: `0 0 0 30 2 *` never comes: there is no such day"
    );
    let list = house.admin.post("pipeline/periodicschedules", json!(["@daily"])).await;
    assert_eq!(list.expect(200).json(), Value::Null);
    let wrong = house.admin.post("pipeline/periodicschedules", json!(["0 0 0 * * 7"])).await;
    let why = "periodicschedules: day of week: `7` is out of range: use 0 to 6";
    assert_eq!(wrong.expect(400).message(), why);

    let each_second = json!({ "periodicschedules": ["* * * * * *"], "time_zone": "Asia/Tokyo" });
    let set = house.admin.json(Method::PUT, &path, each_second).await.expect(200).json();
    assert_eq!(set["periodicschedules"], json!(["* * * * * *"]));
    assert_eq!((&set["time_zone"], &set["missed_ticks"]), (&json!("Asia/Tokyo"), &json!("skip")));
    assert!(set["next_start_at"].as_u64() > Some(0), "{set}");

    let order = agent.order().await;
    let none = json!({ "periodicschedules": [] });
    let off = house.admin.json(Method::PUT, &path, none).await.expect(200).json();
    assert_eq!(off["next_start_at"], 0);
    let runs = house.admin.get(&format!("pipelinerun/{id}")).await.expect(200).json();
    let run = runs.as_array().unwrap().last().unwrap();
    assert_eq!(run["uniqueid"], order.unique_id);
    assert_eq!(run["started_reason"], "scheduled");
}

#[tokio::test]
async fn who_has_the_token_can_start_and_nobody_else() {
    let house = House::start().await;
    let mut agent = house.agent("ada").await;
    let id = house.pipeline("Deploy", &mut agent, vec![job(1, "deploy", &[], vec![])]).await;
    let outside: &Client = &house.anonymous();
    let trigger = |token: String| async move {
        outside.post(&format!("pipeline/{id}/{token}/trigger"), json!([])).await
    };
    let denied = "this is not the trigger token of the pipeline";
    assert_eq!(trigger("0".repeat(64)).await.expect(403).message(), denied);

    let reset = format!("pipeline/{id}/reset-trigger-token");
    let token = || async {
        let made = house.admin.json(Method::PUT, &reset, json!({})).await.expect(200).json();
        made["trigger_token"].as_str().unwrap().to_owned()
    };
    let first = token().await;
    assert_eq!(first.len(), 64);
    let text = trigger(first.clone()).await.expect(200).text();
    assert_eq!(text, format!("Trigger successful for pipeline: {id}"));
    let order = agent.order().await;
    let run = house.admin.get(&format!("run/{}", order.unique_id)).await.expect(200).json();
    assert_eq!(run["started_reason"], "remote");
    assert_eq!(run["started_by"], format!("trigger:{id}"));

    let second = token().await;
    assert_eq!(trigger(first).await.expect(403).message(), denied);
    let shown = house.admin.get(&format!("pipeline/{id}")).await.expect(200).json();
    assert_eq!(shown["has_trigger_token"], true);
    assert!(!shown.to_string().contains(&second));
    house.admin.delete(&format!("pipeline/{id}/trigger-token")).await.expect(200);
    trigger(second).await.expect(403);
}
