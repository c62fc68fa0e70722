//! Every call of a worker that needs a lease, for every lease that must not open it, over both
//! protocols: refused, counted, and nothing has changed.

use ::identity::client_tls;
use authz::{Lease, Needs, Route};
use http::Method;
use ids::Digest;
use proto::{
    Rpc,
    worker::{LogChunk, PipelineId, PipelineRun},
};
use serde_json::json;
use tonic::Status;
use transport::Protocols;

use crate::{
    agent::{Agent, job, report},
    client::patiently,
    house::House,
    matrix::{BOTH, DAY, Port, counted},
};

/// The agent over a real connection with a certificate of its own.
fn over(house: &House, port: &Port, id: &str, protocols: Protocols) -> Agent {
    ::identity::install_crypto();
    let issued = house.authority.issue_worker(id.parse().unwrap(), DAY).unwrap();
    let tls = client_tls(&issued.credentials).unwrap();
    Agent::over(port.channel(&tls, protocols), id.to_owned())
}

/// The answer of an RPC, which must need a lease.
async fn call(agent: &Agent, rpc: Rpc, order: &PipelineRun) -> Result<(), Status> {
    let mut api = agent.api.clone();
    // To say again what is so already is no refusal.
    let run = || agent.request(report(order, "failed"));
    patiently(async {
        match rpc {
            Rpc::WorkerUpdateWork => api.update_work(run()).await.map(drop),
            Rpc::WorkerStreamBinary => api.stream_binary(run()).await.map(drop),
            Rpc::WorkerGetGitRepo => {
                let id = PipelineId { id: order.pipeline_id };
                api.get_git_repo(agent.request(id)).await.map(drop)
            }
            Rpc::WorkerStreamLogs => {
                let (run_id, pipeline_id) = (order.id, order.pipeline_id);
                let chunk = LogChunk { run_id, pipeline_id, chunk: "x".into() };
                let chunks = futures::stream::iter([chunk]);
                api.stream_logs(agent.request(chunks)).await.map(drop)
            }
            other => panic!("say here how {other:?} is called"),
        }
    })
    .await
}

/// The status of a bulk route under the order's lease.
async fn transfer(agent: &Agent, route: Route, order: &PipelineRun) -> u16 {
    let digest = Digest::of(b"another binary").to_string();
    let path = route.path().replace("{digest}", &digest);
    let path = path.replace("{run}", &order.unique_id);
    let path = path.replace("{attempt}", &order.attempt.to_string());
    let query = if route == Route::LogAppend { "?offset=0" } else { "" };
    let body = if route.method() == Method::PUT { "another binary" } else { "" };
    let path = format!("{path}{query}");
    agent.bulk(route.method(), &path, order, &[], body).await.status.as_u16()
}

/// Nothing that needs a lease is done. `late_logs`: an attempt of its own that ended may still send its
/// log.
async fn all_refused(agent: &Agent, what: &str, order: &PipelineRun, late_logs: bool) {
    for (rpc, path) in Rpc::ALL {
        let Needs::Worker(lease @ (Lease::Present | Lease::OwnAttempt)) =
            authz::table::of_rpc(*rpc)
        else {
            continue;
        };
        if late_logs && lease == Lease::OwnAttempt {
            continue;
        }
        let counter = format!("refused_calls_total{{call=\"{path}\"");
        let before = counted(&counter);
        let answer = call(agent, *rpc, order).await;
        assert!(answer.is_err(), "{what}: {path} was answered");
        assert!(counted(&counter) > before, "{what}: {path}: {answer:?} was not counted");
    }
    for route in Route::ALL {
        let Needs::Worker(lease @ (Lease::Present | Lease::OwnAttempt)) = route.needs() else {
            continue;
        };
        if late_logs && lease == Lease::OwnAttempt {
            continue;
        }
        let counter = format!("refused_calls_total{{call=\"{}\"", route.path());
        let before = counted(&counter);
        let status = transfer(agent, *route, order).await;
        assert_eq!(status, 403, "{what}: {} {}", route.method(), route.path());
        assert!(counted(&counter) > before, "{what}: {} was not counted", route.path());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_opens_nothing_for_another_and_nothing_once_it_is_over() {
    let house = House::start().await;
    let port = Port::open(&house).await;
    let mut ada = house.agent("ada").await;
    let id = house.pipeline("hello", &mut ada, vec![job(1, "go", &[], vec![])]).await;
    house.run(id, json!([])).await;
    let ended = ada.order().await;
    ada.report(&ended, "running").await;
    ada.report(&ended, "success").await;
    // The last attempt of this one is bob's.
    let mut bob = Agent::join(&house, "bob", &["golang"]).await;
    house.run(id, json!([])).await;
    let earlier = ada.order().await;
    let suspend = format!("worker/suspend/{}", ada.id);
    house.admin.post(&suspend, json!({})).await.expect(200);
    bob.connect(1, &["golang"]).await;
    ada.report(&earlier, "reschedule").await;
    let current = bob.order().await;
    assert_eq!(current.unique_id, earlier.unique_id);
    assert!(current.attempt > earlier.attempt);
    let eve = Agent::join(&house, "eve", &[]).await;
    let gone = Agent::join(&house, "gone", &[]).await;
    house.admin.delete(&format!("worker/{}", gone.id)).await.expect(200);

    let none = PipelineRun {
        unique_id: uuid::Uuid::from_u128(7).to_string(),
        id: 77,
        attempt: 1,
        lease_token: uuid::Uuid::from_u128(8).to_string(),
        ..current.clone()
    };
    let guessed = PipelineRun { lease_token: none.lease_token.clone(), ..current.clone() };
    let before = house.deps.log.next_position().await.unwrap();
    for protocols in BOTH {
        let [ada, eve, gone] =
            [&ada.id, &eve.id, &gone.id].map(|id| over(&house, &port, id, protocols));
        for (what, agent, order, late_logs) in [
            ("no lease", &eve, &none, false),
            ("another's", &eve, &current, false),
            ("another's with a guessed token", &eve, &guessed, false),
            ("an ended one", &ada, &ended, true),
            ("that of an earlier attempt", &ada, &earlier, true),
            ("of one who is gone", &gone, &current, false),
        ] {
            all_refused(agent, &format!("{what}, {protocols:?}"), order, late_logs).await;
        }
    }
    assert_eq!(house.deps.log.next_position().await.unwrap(), before);
    bob.report(&current, "success").await;
    port.shutdown.cancel();
}

/// Otherwise the refusals would prove nothing.
#[tokio::test(flavor = "multi_thread")]
async fn the_lease_itself_opens_what_it_is_for() {
    let house = House::start().await;
    let port = Port::open(&house).await;
    let mut ada = house.agent("ada").await;
    let id = house.pipeline("hello", &mut ada, vec![job(1, "go", &[], vec![])]).await;
    house.run(id, json!([])).await;
    let order = ada.order().await;
    for protocols in BOTH {
        let ada = over(&house, &port, &ada.id, protocols);
        for rpc in [Rpc::WorkerStreamBinary, Rpc::WorkerGetGitRepo, Rpc::WorkerStreamLogs] {
            call(&ada, rpc, &order).await.unwrap();
        }
        ada.binary(&order).await.expect(200);
    }
    call(&ada, Rpc::WorkerUpdateWork, &order).await.unwrap();
    port.shutdown.cancel();
}
