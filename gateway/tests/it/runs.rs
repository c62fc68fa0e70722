//! Runs from the wish to the end.

use http::Method;
use serde_json::{Value, json};

use crate::{
    agent::{Agent, argument, job, report},
    house::House,
};
use proto::worker::{Instruction, Job, PipelineRun};
use tonic::Code;

/// A pipeline of two jobs, created as Gaia's clients do it, with credentials; and its build.
async fn ship_it(house: &House, agent: &mut Agent) {
    let wish = json!({ "pipeline": {
        "name": "Ship it",
        "type": "golang",
        "tags": [],
        "repo": {
            "url": "https://example.org/ship.git",
            "selectedbranch": "refs/heads/main",
            "user": "git",
            "password": "hunter2",
            "privatekey": { "key": "" },
        },
    }});
    let created = house.admin.post("pipeline", wish).await.expect(200).json();
    assert_eq!(created["buildstate"], "building");
    assert!(!created.to_string().contains("hunter2"), "{created}");

    let order = agent.order().await;
    let build = order.build.clone().expect("a build");
    assert_eq!((build.username.as_str(), build.password.as_str()), ("git", "hunter2"));
    assert_eq!(build.url, "https://example.org/ship.git");
    let jobs = vec![
        job(7, "compile", &[], vec![]),
        job(
            9,
            "deploy",
            &[7],
            vec![
                argument("textfield", "stage", ""),
                argument("textfield", "region", "eu"),
                argument("vault", "TOKEN", ""),
            ],
        ),
    ];
    agent.build(&order, b"the binary", jobs).await;
    let pipeline = house.built(created["id"].as_u64().unwrap()).await;
    assert_eq!(pipeline["buildstate"], "built", "{pipeline}");
    assert_eq!(pipeline["version"], 1);
    assert_eq!(pipeline["jobs"][1]["dependson"][0]["id"], 7);
    assert_eq!(pipeline["build"]["commit"], "c0ffee");
}

#[tokio::test]
async fn a_pipeline_is_built_started_run_and_shown() {
    let house = House::start().await;
    let mut agent = house.agent("ada").await;
    ship_it(&house, &mut agent).await;
    let secret = json!({ "key": "TOKEN", "value": "s3cr=et\nand more" });
    assert_eq!(
        house.admin.post("secret", secret).await.expect(201).text(),
        "secret successfully set"
    );
    let args = json!([{ "key": "stage", "value": "live", "type": "textfield" }]);
    let run = house.run(1, args).await;
    assert_eq!((&run["id"], &run["started_reason"]), (&json!(1), &json!("manual")));

    let order = agent.order().await;
    assert_eq!(run["uniqueid"], order.unique_id);
    assert_eq!((order.id, order.attempt, order.artifact_size), (1, 1, 10));
    let values: Vec<_> = order.jobs[1].args.iter().map(|a| a.value.as_str()).collect();
    assert_eq!(values, ["live", "eu", "s3cr=et\nand more"]);
    assert_eq!(order.jobs[1].depends_on[0].unique_id, 7);
    assert_eq!(agent.binary(&order).await.expect(200).body, "the binary");

    agent.report(&order, "running").await;
    let piece = agent.log(&order, "?offset=0", "compiling\n").await.expect(200).json();
    assert_eq!(piece["offset"], 10);
    let done = |id| Job { unique_id: id, status: "success".into(), ..Job::default() };
    let end = PipelineRun { jobs: vec![done(7), done(9)], ..report(&order, "success") };
    agent.try_report(end).await.unwrap();

    let ended = house.ended(&run).await;
    assert_eq!(ended["status"], "success");
    assert_eq!(ended["jobs"][0]["status"], "success");
    assert_eq!(ended["jobs"][1]["args"][0]["value"], "live");
    assert_eq!(ended["jobs"][1]["args"][2]["value"], "");
    assert_eq!(ended["attempts"][0]["workername"], "ada");
    assert!(!ended.to_string().contains("s3cr"), "{ended}");
    let by_number = house.admin.get("pipelinerun/1/1").await.expect(200).json();
    assert_eq!(by_number, ended);
    let log = house.admin.get("pipelinerun/1/1/log").await.expect(200).json();
    assert_eq!((&log["log"], &log["finished"]), (&json!("compiling\n"), &json!(true)));
    let latest = house.admin.get("pipelinerun/1/latest").await.expect(200).json();
    assert_eq!(latest["uniqueid"], ended["uniqueid"]);
    let open = house.admin.get("run?open=1&builds=1").await.expect(200).json();
    assert_eq!(open, json!([]));
    let all = house.admin.get("run?builds=1").await.expect(200).json();
    assert_eq!(all.as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_start_says_what_is_wrong_with_it() {
    let house = House::start().await;
    let mut agent = house.agent("ada").await;
    let args = vec![argument("textfield", "stage", ""), argument("vault", "TOKEN", "")];
    let id = house.pipeline("Deploy", &mut agent, vec![job(1, "deploy", &[], args)]).await;
    let start = |body: Value| {
        let admin = house.admin.clone();
        async move { admin.post(&format!("pipeline/{id}/start"), body).await }
    };
    let stage = json!([{ "key": "stage", "value": "live" }]);

    let missing = start(stage.clone()).await.expect(400);
    assert_eq!(
        missing.message(),
        "vault key `TOKEN` does not exist: create it with `gaia secret set TOKEN`"
    );
    assert_eq!(missing.json()["key"], "TOKEN");
    let secret = json!({ "key": "TOKEN", "newvalue": "x" });
    house.admin.json(Method::PUT, "secret/update", secret).await.expect(201);

    let unknown = start(json!([{ "key": "stag", "value": "live" }])).await.expect(400);
    assert_eq!(unknown.message(), "the pipeline has no argument `stag`: it takes `stage`");
    let absent = start(json!([])).await.expect(400);
    assert!(absent.message().contains("stage"), "{}", absent.message());
    let empty = start(json!({ "args": stage, "idempotency": " " })).await.expect(400);
    assert_eq!(empty.message(), "`idempotency` is empty: leave it out, or give a key");

    let twice = json!({ "args": stage, "idempotency": "01890a5d-ac96-774b-bcce-b302099a8057" });
    let first = start(twice.clone()).await.expect(201).json();
    let second = start(twice).await.expect(201).json();
    assert_eq!(first["uniqueid"], "01890a5d-ac96-774b-bcce-b302099a8057");
    assert_eq!((&first["id"], &first["uniqueid"]), (&second["id"], &second["uniqueid"]));
    let named = json!({ "args": stage, "idempotency": "seven" });
    let third = start(named.clone()).await.expect(201).json();
    let fourth = start(named).await.expect(201).json();
    assert_eq!((&third["id"], &third["uniqueid"]), (&fourth["id"], &fourth["uniqueid"]));
    assert_ne!(third["uniqueid"], first["uniqueid"]);

    let body = json!({ "name": "Later", "type": "golang", "url": "https://example.org/l.git" });
    let later = house.admin.post("pipeline", body).await.expect(200).json();
    let path = format!("pipeline/{}/start", later["id"]);
    let not_built = house.admin.post(&path, json!([])).await.expect(409);
    assert_eq!(not_built.json()["buildstate"], "building");
    let absent = house.admin.post("pipeline/77/start", json!([])).await.expect(404);
    assert!(absent.message().contains("77"), "{}", absent.message());
    let unreadable = house.admin.post("pipeline/x/start", json!([])).await.expect(400);
    assert!(unreadable.message().contains("`x`"), "{}", unreadable.message());
}

#[tokio::test]
async fn a_secret_that_vanished_before_the_start_fails_the_run() {
    let house = House::start().await;
    let mut agent = house.agent("ada").await;
    let args = vec![argument("vault", "TOKEN", "")];
    let id = house.pipeline("Deploy", &mut agent, vec![job(1, "deploy", &[], args)]).await;
    house.admin.post("secret", json!({ "key": "TOKEN", "value": "x" })).await.expect(201);
    agent.disconnect();
    let run = house.run(id, json!([])).await;
    house.admin.delete("secret/TOKEN").await.expect(200);
    agent.connect(1, &["golang"]).await;
    let ended = house.ended(&run).await;
    assert_eq!(ended["status"], "failed");
    let reason = "vault key `TOKEN` does not exist: create it with `gaia secret set TOKEN`";
    assert_eq!(ended["reason"], reason);
}

#[tokio::test]
async fn secrets_that_can_never_be_sent_fail_the_run() {
    let house = House::start().await;
    let mut agent = house.agent("ada").await;
    let keys: Vec<_> = (0..50).map(|n| format!("KEY_{n}")).collect();
    let args = keys.iter().map(|key| argument("vault", key, "")).collect();
    let id = house.pipeline("Deploy", &mut agent, vec![job(1, "deploy", &[], args)]).await;
    for key in keys {
        let secret = json!({ "key": key, "value": "x".repeat(64 << 10) });
        house.admin.post("secret", secret).await.expect(201);
    }
    let run = house.run(id, json!([])).await;
    let ended = crate::client::patiently(house.ended(&run)).await;
    assert_eq!(ended["status"], "failed");
    let reason = ended["reason"].as_str().unwrap();
    assert!(reason.starts_with("these secrets have"), "{reason}");
}

#[tokio::test]
async fn a_run_that_is_stopped_is_cancelled_at_its_worker() {
    let house = House::start().await;
    let mut agent = house.agent("ada").await;
    let id = house.pipeline("Sleep", &mut agent, vec![job(1, "sleep", &[], vec![])]).await;
    let run = house.run(id, json!([])).await;
    let order = agent.order().await;
    agent.report(&order, "running").await;
    let stopped = house.admin.post(&format!("pipelinerun/{id}/1/stop"), Value::Null).await;
    assert_eq!(stopped.expect(200).text(), "pipeline successfully stopped");
    let cancel = agent.next().await.unwrap();
    assert_eq!(cancel.instruction(), Instruction::Cancel);
    assert_eq!(
        (&cancel.unique_id, cancel.attempt, &cancel.lease_token),
        (&order.unique_id, 1, &order.lease_token)
    );
    assert_eq!(house.shown(&order).await["cancelrequested"], true);
    agent.report(&order, "cancelled").await;
    assert_eq!(house.ended(&run).await["status"], "cancelled");
}

#[tokio::test]
async fn a_run_is_told_at_every_change_until_it_ends() {
    let house = House::start().await;
    let mut agent = house.agent("ada").await;
    let id = house.pipeline("Quick", &mut agent, vec![job(1, "go", &[], vec![])]).await;
    agent.disconnect();
    let run = house.run(id, json!([])).await;
    let mut events = house.follow(&format!("run/{}", run["uniqueid"].as_str().unwrap())).await;
    let mut seen = vec![events.expect("run").await.json()["status"].clone()];
    agent.connect(1, &["golang"]).await;
    let order = agent.order().await;
    agent.report(&order, "running").await;
    agent.report(&order, "success").await;
    while let Some(event) = events.next().await {
        seen.push(event.json()["status"].clone());
    }
    seen.dedup();
    assert_eq!(seen.first().unwrap(), "not scheduled");
    assert_eq!(seen.last().unwrap(), "success");
}

#[tokio::test]
async fn a_run_that_was_stopped_early_is_shown_as_such() {
    let house = House::start().await;
    let mut agent = house.agent("ada").await;
    let jobs = vec![job(1, "check", &[], vec![]), job(2, "go", &[1], vec![])];
    let id = house.pipeline("Once", &mut agent, jobs).await;
    house.run(id, json!([])).await;
    let order = agent.order().await;
    let job = |unique_id, status: &str| Job { unique_id, status: status.into(), ..Job::default() };
    let stopped = PipelineRun {
        jobs: vec![job(1, "success"), job(2, "skipped")],
        stopped_early: true,
        reason: "nothing is new".into(),
        ..report(&order, "success")
    };
    agent.try_report(stopped).await.unwrap();
    let shown = house.shown(&order).await;
    assert_eq!((&shown["status"], &shown["stoppedearly"]), (&json!("success"), &json!(true)));
    assert_eq!(shown["reason"], "nothing is new");
    let states: Vec<_> =
        shown["jobs"].as_array().unwrap().iter().map(|job| &job["status"]).collect();
    assert_eq!(states, ["success", "skipped"]);
}

#[tokio::test]
async fn why_a_run_waits_is_told() {
    let house = House::start().await;
    let mut agent = house.agent("ada").await;
    let id = house.pipeline("Rare", &mut agent, vec![job(1, "go", &[], vec![])]).await;
    let run = house.run(id, json!({ "tags": ["gpu"] })).await;
    let path = format!("run/{}/placement", run["uniqueid"].as_str().unwrap());
    let placement = house.admin.get(&path).await.expect(200).json();
    assert!(placement["summary"].as_str().unwrap().contains("gpu"), "{placement}");
    assert_eq!(placement["missing"], json!([{ "tag": "gpu", "workers": 1 }]));
    let by_number = house.admin.get(&format!("pipelinerun/{id}/1/placement")).await;
    assert_eq!(by_number.expect(200).json(), placement);
}

#[tokio::test]
async fn a_report_with_a_stale_token_is_refused() {
    let house = House::start().await;
    let mut agent = house.agent("ada").await;
    let id = house.pipeline("Once", &mut agent, vec![job(1, "go", &[], vec![])]).await;
    house.run(id, json!([])).await;
    let first = agent.order().await;
    agent.report(&first, "reschedule").await;
    let second = agent.order().await;
    assert_eq!(second.attempt, 2);
    let refusal = agent.try_report(report(&first, "success")).await.unwrap_err();
    assert_eq!(refusal.code(), Code::FailedPrecondition, "{refusal}");
    let forged =
        PipelineRun { lease_token: first.lease_token.clone(), ..report(&second, "success") };
    let refusal = agent.try_report(forged).await.unwrap_err();
    assert_eq!(refusal.code(), Code::FailedPrecondition, "{refusal}");
    assert_eq!(house.shown(&second).await["status"], "scheduled");
    assert_eq!(agent.binary(&first).await.status, 403);
    agent.report(&second, "success").await;
}

/// So often was something rejected for this reason; other tests count, too.
fn rejected(service: &str, reason: &str) -> u64 {
    let counter =
        format!("gaia_rejected_requests_total{{service=\"{service}\",reason=\"{reason}\"}} ");
    let metrics = authz::metrics();
    let count = metrics.lines().find_map(|line| line.strip_prefix(&counter));
    count.map_or(0, |count| count.parse().unwrap())
}

#[tokio::test]
async fn a_status_outside_the_protocol_is_refused_and_counted() {
    let house = House::start().await;
    let mut agent = house.agent("ada").await;
    let id = house.pipeline("Once", &mut agent, vec![job(1, "go", &[], vec![])]).await;
    house.run(id, json!([])).await;
    let order = agent.order().await;
    for status in ["paused", "", "SUCCESS", "\u{1F525}"] {
        let before = rejected("gateway", "invalid_report");
        let refusal = agent.try_report(report(&order, status)).await.unwrap_err();
        assert_eq!(refusal.code(), Code::InvalidArgument, "{refusal}");
        assert!(refusal.message().contains(&format!("`{status}`")), "{refusal}");
        assert!(rejected("gateway", "invalid_report") > before);
    }
    let job = |status: &str| Job { unique_id: 1, status: status.into(), ..Job::default() };
    let resting = PipelineRun { jobs: vec![job("resting")], ..report(&order, "running") };
    let before = rejected("gateway", "invalid_report");
    let refusal = agent.try_report(resting).await.unwrap_err();
    assert_eq!(refusal.code(), Code::InvalidArgument, "{refusal}");
    assert!(refusal.message().contains("`resting` is not a status of job 1"), "{refusal}");
    assert!(rejected("gateway", "invalid_report") > before);
    // Of the attempt after this one.
    let ahead = PipelineRun { attempt: order.attempt + 1, ..report(&order, "success") };
    let before = rejected("svc-scheduler", "stale_lease");
    let refusal = agent.try_report(ahead).await.unwrap_err();
    assert_eq!(refusal.code(), Code::FailedPrecondition, "{refusal}");
    assert!(rejected("svc-scheduler", "stale_lease") > before);
    assert_eq!(house.shown(&order).await["status"], "scheduled");
}

#[tokio::test]
async fn why_a_run_waits_is_told_live_until_it_ended() {
    let house = House::start().await;
    let mut agent = house.agent("ada").await;
    let id = house.pipeline("Once", &mut agent, vec![job(1, "go", &[], vec![])]).await;
    for _ in 0..2 {
        house.run(id, json!([])).await;
    }
    let [first, second] = [agent.order().await, agent.order().await];
    let waits = house.run(id, json!([])).await;
    let mut events = house.follow(&format!("pipelinerun/{id}/3/placement")).await;
    let full = events.expect("placement").await.json();
    assert_eq!((&full["matching_full"], &full["queue_position"]), (&json!(1), &json!(0)), "{full}");
    let path = format!("run/{}/placement", waits["uniqueid"].as_str().unwrap());
    assert_eq!(house.admin.get(&path).await.expect(200).json(), full);
    agent.report(&first, "success").await;
    let third = agent.order().await;
    // It may have been seen between the two.
    while !events.expect("placement").await.json()["summary"].as_str().unwrap().contains("ada") {}
    agent.report(&third, "running").await;
    agent.report(&third, "success").await;
    while let Some(event) = events.next().await {
        assert_eq!(event.name, "placement", "{event:?}");
    }
    agent.report(&second, "success").await;
}

#[tokio::test]
async fn a_deleted_pipeline_cannot_be_started_by_any_way() {
    let house = House::start().await;
    let mut agent = house.agent("ada").await;
    let id = house.pipeline("Gone", &mut agent, vec![job(1, "go", &[], vec![])]).await;
    let run = house.run(id, json!([])).await;
    let order = agent.order().await;
    agent.report(&order, "success").await;
    house.ended(&run).await;
    house.admin.delete(&format!("pipeline/{id}")).await.expect(200);
    let again = format!("run/{}/rerun", run["uniqueid"].as_str().unwrap());
    for path in [format!("pipeline/{id}/start"), again] {
        let before = rejected("svc-pipelines", "unknown_pipeline");
        let refused = house.admin.post(&path, json!({})).await.expect(404);
        assert!(refused.message().contains("there is no pipeline"), "{}", refused.message());
        assert!(rejected("svc-pipelines", "unknown_pipeline") > before, "{path}");
    }
    let runs = house.admin.get("run").await.expect(200).json();
    assert_eq!(runs.as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_report_of_a_run_that_nobody_knows_does_not_end_the_agent() {
    let house = House::start().await;
    let mut agent = Agent::join(&house, "ada", &["golang"]).await;
    let unknown = PipelineRun {
        unique_id: "01890a5d-ac96-774b-bcce-b302099a8057".into(),
        status: "success".into(),
        ..PipelineRun::default()
    };
    let refusal = agent.try_report(unknown).await.unwrap_err();
    assert_eq!(refusal.code(), Code::NotFound, "{refusal}");
}
