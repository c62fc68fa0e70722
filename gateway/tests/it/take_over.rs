//! Another scheduler leads, and nobody who waits notices.

use ::identity::Peer;
use gateway::{Config, Deps};
use proto::scheduler::v1::scheduler_client::SchedulerClient;
use serde_json::json;
use transport::{Channel, Switch};

use crate::{
    agent::job,
    client::{Client, Events},
    house::{House, PASSWORD},
};

/// A house whose gateway calls whoever leads; at first the scheduler that it has.
async fn house() -> (House, Switch) {
    let house = House::start().await;
    let (_, scheduler) =
        house.services.iter().find(|(path, _)| *path == "/gaia.scheduler.").unwrap();
    let (channel, switch) = Channel::to_leader(local(scheduler.clone()));
    let deps = Deps { scheduler: SchedulerClient::new(channel), ..house.deps.clone() };
    let router = gateway::router(deps, Config::default());
    let admin = Client::new(Channel::local(router.clone(), Peer::Anonymous));
    let admin = admin.login("admin", PASSWORD).await;
    (House { router, admin, ..house }, switch)
}

fn local(router: axum::Router) -> Channel {
    Channel::local(router, Peer::Service("gateway".into()))
}

/// Another scheduler on the log of the house.
async fn another(house: &House) -> Channel {
    let (log, clock) = (house.deps.log.clone(), house.deps.clock.clone());
    let deps = svc_scheduler::Deps { log, clock };
    local(svc_scheduler::start(deps, svc_scheduler::Config::default()).await.unwrap().router)
}

/// All there is to hear, but for the first event.
async fn rest(mut events: Events) -> Vec<(String, String)> {
    let mut heard = vec![];
    while let Some(event) = events.next().await {
        heard.push((event.name, event.data));
    }
    heard
}

#[tokio::test]
async fn whoever_follows_a_run_hears_its_end_from_the_next_scheduler() {
    let (house, switch) = house().await;
    let mut agent = house.agent("ada").await;
    let id = house.pipeline("Long", &mut agent, vec![job(1, "go", &[], vec![])]).await;
    let run = house.run(id, json!([])).await;
    let order = agent.order().await;
    agent.report(&order, "running").await;
    let path = format!("run/{}", run["uniqueid"].as_str().unwrap());
    let mut states = house.follow(&path).await;
    assert_eq!(states.expect("run").await.json()["status"], "running");
    let mut log = house.follow(&format!("{path}/log?follow=1")).await;
    log.expect("attempt").await;

    switch.to(another(&house).await);
    agent.log(&order, "?offset=0", "said later\n").await.expect(200);
    agent.report(&order, "success").await;
    let states = rest(states).await;
    let (name, last) = states.last().expect("another state");
    let last: serde_json::Value = serde_json::from_str(last).unwrap();
    assert_eq!((name.as_str(), &last["status"]), ("run", &json!("success")));
    let log = rest(log).await;
    let names: Vec<_> = states.iter().chain(&log).map(|(name, _)| name.as_str()).collect();
    assert!(!names.contains(&"error"), "{states:?} {log:?}");
    assert_eq!(log[0], ("log".to_owned(), json!("said later\n").to_string()));
    assert_eq!(log.last().unwrap().0, "end");
}

#[tokio::test]
async fn a_start_that_got_no_answer_is_made_once_by_the_next_scheduler() {
    let (house, switch) = house().await;
    let mut agent = house.agent("ada").await;
    let id = house.pipeline("Short", &mut agent, vec![job(1, "go", &[], vec![])]).await;
    // Paused: whatever it is asked, it does not answer.
    switch.to(local(axum::Router::new().fallback(std::future::pending::<()>)));
    let start = house.run(id, json!([]));
    let next = async {
        tokio::task::yield_now().await;
        switch.to(another(&house).await);
    };
    let (run, ()) = futures::join!(start, next);
    assert_eq!(run["id"], 1);
    let all = house.admin.get("run").await.expect(200).json();
    assert_eq!(all.as_array().unwrap().len(), 1, "{all}");
}
