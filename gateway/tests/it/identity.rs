//! Who may call the Worker API, and as whom.

use ::identity::Peer;
use ids::WorkerId;
use proto::worker::{LogChunk, PipelineId, PipelineRun};
use serde_json::json;
use tonic::{Code, Request, Status};
use uuid::Uuid;

use crate::{
    agent::{Agent, job},
    client::patiently,
    house::House,
};

/// Every call of the Worker API, with nothing in it that could be refused before the identity is.
async fn every_call(agent: &Agent) -> Vec<(&'static str, Status)> {
    let mut api = agent.api.clone();
    let chunks = || {
        let chunk = LogChunk { run_id: 1, pipeline_id: 1, chunk: "x".into() };
        futures::stream::iter([chunk])
    };
    let run = || PipelineRun {
        unique_id: Uuid::from_u128(7).to_string(),
        pipeline_id: 1,
        status: "success".into(),
        ..PipelineRun::default()
    };
    let instance = || agent.instance(1, &["golang"], true);
    patiently(async {
        vec![
            ("GetWork", api.get_work(agent.request(instance())).await.unwrap_err()),
            ("UpdateWork", api.update_work(agent.request(run())).await.unwrap_err()),
            ("StreamBinary", api.stream_binary(agent.request(run())).await.unwrap_err()),
            ("StreamLogs", api.stream_logs(agent.request(chunks())).await.unwrap_err()),
            ("Deregister", refusal(api.deregister(agent.request(instance())).await)),
            (
                "GetGitRepo",
                api.get_git_repo(agent.request(PipelineId { id: 1 })).await.unwrap_err(),
            ),
        ]
    })
    .await
}

/// Who is deregistered already is not refused to be.
fn refusal<T>(answer: Result<T, Status>) -> Status {
    answer.err().unwrap_or_else(|| Status::ok("already so"))
}

#[tokio::test]
async fn only_a_workers_certificate_opens_the_worker_api() {
    let house = House::start().await;
    let id = Agent::join(&house, "ada", &[]).await.id;
    for (peer, code) in [
        (Peer::Anonymous, Code::Unauthenticated),
        (Peer::Service("svc-registry".into()), Code::PermissionDenied),
    ] {
        let agent = Agent::over(house.channel(peer.clone()), id.clone());
        for (call, refusal) in every_call(&agent).await {
            assert_eq!(refusal.code(), code, "{call} as {peer:?}: {refusal}");
        }
    }
}

#[tokio::test]
async fn a_worker_cannot_pose_as_another() {
    let house = House::start().await;
    let ada = Agent::join(&house, "ada", &[]).await;
    let bob = Agent::join(&house, "bob", &[]).await;
    let posing = Agent::over(house.channel(Peer::Worker(bob.id.parse().unwrap())), ada.id.clone());
    for (call, refusal) in every_call(&posing).await {
        assert_eq!(refusal.code(), Code::PermissionDenied, "{call}: {refusal}");
    }
    let mut api = bob.api.clone();
    let refusal = api.deregister(bob.request(ada.instance(1, &[], false))).await.unwrap_err();
    assert_eq!(refusal.code(), Code::PermissionDenied);
    assert_eq!(house.admin.get("worker").await.expect(200).json().as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_worker_that_is_not_registered_learns_it_from_every_call() {
    let house = House::start().await;
    let mut gone = Agent::join(&house, "ada", &["golang"]).await;
    let mut api = gone.api.clone();
    api.deregister(gone.request(gone.instance(1, &[], false))).await.unwrap();
    let id = WorkerId::from_uuid(Uuid::from_u128(99));
    let unknown = Agent::over(house.channel(Peer::Worker(id)), id.to_string());
    for agent in [&unknown, &gone] {
        for (call, refusal) in every_call(agent).await {
            if call == "Deregister" && agent.id == gone.id {
                continue;
            }
            assert_eq!(refusal.code(), Code::Unknown, "{call}: {refusal}");
            assert_eq!(refusal.message(), "worker is not registered", "{call}");
        }
    }
    let refusal = gone.get_work(0, &[], false).await.unwrap_err();
    assert_eq!(refusal.message(), "worker is not registered");
    let silent = futures::stream::empty::<LogChunk>();
    let refusal = gone.api.stream_logs(Request::new(silent)).await.unwrap_err();
    assert_eq!(refusal.message(), "worker is not registered");
}

#[tokio::test]
async fn an_agent_that_is_deregistered_is_told_while_it_is_connected() {
    let house = House::start().await;
    let mut agent = house.agent("ada").await;
    let answer = house.admin.delete(&format!("worker/{}", agent.id)).await.expect(200);
    assert_eq!(answer.text(), "worker has been successfully deregistered");
    let end = agent.next().await.unwrap_err();
    assert_eq!((end.code(), end.message()), (Code::Unknown, "worker is not registered"));
    // A second time as for one that never was, which is what Gaia says.
    for nobody in [agent.id.clone(), Uuid::from_u128(3).to_string(), "ada".to_owned()] {
        let answer = house.admin.delete(&format!("worker/{nobody}")).await.expect(400);
        assert_eq!(answer.text(), "worker is not registered");
    }
}

#[tokio::test]
async fn a_silent_connection_shows_that_it_lives() {
    let config = gateway::Config { keep_alive_seconds: 1, ..gateway::Config::default() };
    let house = House::with(config).await;
    let mut agent = house.agent("ada").await;
    for _ in 0..2 {
        let message = agent.message().await;
        assert_eq!(message.instruction(), proto::worker::Instruction::Nothing);
    }
}

#[tokio::test]
async fn a_repository_is_for_those_who_run_its_pipeline() {
    let house = House::start().await;
    let mut ada = house.agent("ada").await;
    let id = house.pipeline("Once", &mut ada, vec![job(1, "go", &[], vec![])]).await as i64;
    let mut bob = Agent::join(&house, "bob", &[]).await;
    let wanted = |agent: &Agent, id| agent.request(PipelineId { id });

    let request = wanted(&ada, id);
    assert_eq!(ada.api.get_git_repo(request).await.unwrap_err().code(), Code::PermissionDenied);
    house.run(id as u64, json!([])).await;
    ada.order().await;
    let request = wanted(&ada, id);
    let repository = ada.api.get_git_repo(request).await.unwrap().into_inner();
    assert_eq!(repository.url, "https://example.org/it.git");
    let request = wanted(&bob, id);
    assert_eq!(bob.api.get_git_repo(request).await.unwrap_err().code(), Code::PermissionDenied);
    let request = wanted(&ada, 77);
    let refusal = ada.api.get_git_repo(request).await.unwrap_err();
    assert_eq!(
        (refusal.code(), refusal.message()),
        (Code::Unknown, "pipeline for id 77 not found")
    );
}

/// What it says of itself does not count.
#[tokio::test]
async fn who_joined_by_a_token_gets_a_repository_for_a_build_alone() {
    let house = House::start().await;
    let mut ours = Agent::join_by_token(&house, "ours").await;
    ours.connect(2, &["golang"]).await;
    let body = json!({ "name": "Once", "type": "golang", "url": "https://example.org/it.git" });
    let created = house.admin.post("pipeline", body).await.expect(200).json();
    let id = created["id"].as_i64().unwrap();
    let order = ours.order().await;
    let request = ours.request(PipelineId { id });
    let repository = ours.api.get_git_repo(request).await.unwrap().into_inner();
    assert_eq!(repository.url, "https://example.org/it.git");
    ours.build(&order, b"the binary", vec![job(1, "go", &[], vec![])]).await;
    house.built(id as u64).await;

    house.run(id as u64, json!([])).await;
    let order = ours.order().await;
    let request = ours.request(PipelineId { id });
    let refusal = ours.api.get_git_repo(request).await.unwrap_err();
    assert_eq!(refusal.code(), Code::PermissionDenied, "{refusal}");
    let request = ours.request(order);
    ours.api.stream_binary(request).await.unwrap();
}
