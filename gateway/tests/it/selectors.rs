//! What a run asks of its worker.

use serde_json::json;

use crate::{agent::job, house::House};

#[tokio::test]
async fn a_selector_is_explained_before_it_is_used() {
    let house = House::start().await;
    let _agent = house.agent("ada").await;
    let check = |body| house.admin.post("selector/check", body);
    let fine = check(json!({ "selector": "Golang  !slow" })).await.expect(200).json();
    assert_eq!(
        fine,
        json!({
            "valid": true, "selector": "golang !slow", "findings": [], "matching": ["ada"], "workers": 1,
        })
    );
    let typo = check(json!({ "selector": "golangg" })).await.expect(200).json();
    assert_eq!(typo["valid"], true);
    assert_eq!(
        typo["findings"][0],
        json!({
            "severity": "warning", "from": 1, "to": 7,
            "text": "no registered worker fulfils `golangg`; did you mean `golang`?",
        })
    );
    let never = json!({ "selector": "!golang", "type": "golang" });
    let never = check(never).await.expect(200).json();
    assert_eq!((&never["valid"], &never["matching"]), (&json!(false), &json!([])));
    let broken = check(json!({ "selector": "a b~x" })).await.expect(200).json();
    assert_eq!((&broken["valid"], &broken["findings"][0]["from"]), (&json!(false), &json!(5)));
    let nobody = house.anonymous().post("selector/check", json!({ "selector": "a" })).await;
    nobody.expect(401);
}

#[tokio::test]
async fn a_run_goes_where_the_selectors_of_pipeline_and_start_say() {
    let house = House::start().await;
    let mut agent = house.agent("ada").await;
    let broken = json!({
        "name": "Bad", "type": "golang", "url": "https://example.org/b.git", "selector": "a &&",
    });
    let refused = house.admin.post("pipeline", broken).await.expect(400);
    assert!(refused.message().starts_with("`selector`, at character 3: "), "{}", refused.message());
    let id = house.pipeline("Deploy", &mut agent, vec![job(1, "deploy", &[], vec![])]).await;
    let path = format!("pipeline/{id}/start");
    let start = |body| house.admin.post(&path, body);
    let refused = start(json!({ "selector": "!" })).await.expect(400);
    assert_eq!(refused.json()["at"], 2);
    let refused = start(json!({ "selector": "!golang" })).await.expect(400);
    assert!(refused.message().contains("could never be placed"), "{}", refused.message());
    let refused = start(json!({ "worker": "nobody" })).await.expect(409);
    assert!(refused.message().contains("worker `nobody`"), "{}", refused.message());
    let waits = start(json!({ "selector": "mem>=16" })).await.expect(201).json();
    assert_eq!(waits["selector"], "mem>=16");
    let path = format!("run/{}/placement", waits["uniqueid"].as_str().unwrap());
    let why = house.admin.get(&path).await.expect(200).json();
    assert_eq!(why["missing"], json!([{ "tag": "mem>=16", "workers": 1 }]));
    let runs = start(json!({ "selector": "!slow ssd~10" })).await.expect(201).json();
    assert_eq!(agent.order().await.unique_id, runs["uniqueid"]);
}
