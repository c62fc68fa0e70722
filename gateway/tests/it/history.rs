//! The fleet as it was, at any point in time: what was said then is what is said of then.

use std::time::Duration;

use futures::FutureExt as _;
use proto::worker::{Instruction, PipelineRun};
use serde_json::{Value, json};

use crate::{
    agent::{Agent, job},
    client::patiently,
    house::House,
    replay::{Dice, seed},
};

/// Without what the log does not know.
fn stored(workers: &Value) -> Vec<Value> {
    let mut workers = workers.as_array().unwrap().clone();
    for worker in &mut workers {
        let worker = worker.as_object_mut().unwrap();
        for unknown in ["connected", "lastcontact", "last_contact_at"] {
            worker.remove(unknown);
        }
    }
    workers
}

/// The list of workers, and where the log ended while it was made.
async fn live(house: &House) -> (u64, Vec<Value>) {
    patiently(async {
        loop {
            let before = house.deps.log.next_position().await.unwrap();
            let workers = house.admin.get("worker").await.expect(200).json();
            if house.deps.log.next_position().await.unwrap() == before {
                return (before, stored(&workers));
            }
        }
    })
    .await
}

/// Agents, and the runs that they know they have.
struct Fleet {
    house: House,
    pipeline: u64,
    agents: Vec<(Agent, Vec<PipelineRun>)>,
    dice: Dice,
}

impl Fleet {
    async fn start(seed: u64) -> Self {
        let house = House::with_grace(300).await;
        let mut first = house.agent("first").await;
        let pipeline = house.pipeline("hello", &mut first, vec![job(1, "a", &[], vec![])]).await;
        Self { house, pipeline, agents: vec![(first, vec![])], dice: Dice(seed | 1) }
    }

    async fn join(&mut self, n: usize) {
        let slots = 1 + self.dice.below(3) as i32;
        let mut agent = Agent::join(&self.house, &format!("agent-{n}"), &["golang"]).await;
        agent.connect(slots, &["golang"]).await;
        self.agents.push((agent, vec![]));
    }

    /// What an operator may do; some of it is refused, which is history too.
    async fn operate(&mut self, at: usize) {
        let id = self.agents[at].0.id.clone();
        let n = self.dice.below(1_000);
        let (what, body) = match self.dice.below(7) {
            0 => ("suspend", json!({ "note": format!("note {n}") })),
            1 => ("drain", json!({ "note": "old" })),
            2 | 3 => ("resume", json!({})),
            4 => ("rename", json!({ "name": format!("name {n}") })),
            5 => ("tags", json!({ "add": [format!("t{}", n % 3), format!("-d{}", n % 2)] })),
            _ => ("tags", json!({ "remove": [format!("t{}", n % 3)] })),
        };
        self.house.admin.post(&format!("worker/{what}/{id}"), body).await;
    }

    /// Reads what came, reports a step of one run.
    async fn work(&mut self, at: usize) {
        let finish = self.dice.below(2) == 0;
        let (agent, runs) = &mut self.agents[at];
        while let Some(Ok(order)) = agent.next().now_or_never() {
            match order.instruction() {
                Instruction::Run => runs.push(order),
                _ => runs.retain(|run| run.unique_id != order.unique_id),
            }
        }
        let Some(order) = runs.pop() else { return };
        // It may have been taken away meanwhile.
        let status = if finish { "success" } else { "running" };
        let taken = agent.try_report(crate::agent::report(&order, status)).await.is_ok();
        if taken && !finish {
            runs.push(order);
        }
    }

    async fn step(&mut self, n: usize) {
        let at = self.dice.below(self.agents.len() as u64) as usize;
        match self.dice.below(12) {
            0 | 1 if self.agents.len() < 4 => self.join(n).await,
            0..=3 => {
                let path = format!("pipeline/{}/start", self.pipeline);
                self.house.admin.post(&path, json!({})).await.expect(201);
            }
            4 if self.agents.len() > 1 => {
                let (agent, _) = self.agents.swap_remove(at);
                let body = json!({ "note": "gone", "force": n.is_multiple_of(2) });
                let path = format!("/api/v1/worker/{}", agent.id);
                let json = [("content-type", "application/json")];
                let removed =
                    self.house.admin.call(http::Method::DELETE, &path, &json, body.to_string());
                removed.await.expect(200);
            }
            5..=7 => self.operate(at).await,
            _ => self.work(at).await,
        }
    }

    /// One agent goes away for good, and is noticed.
    async fn lose(&mut self) {
        let (mut agent, _) = self.agents.remove(0);
        agent.disconnect();
        let mut tick = tokio::time::interval(Duration::from_millis(20));
        patiently(async {
            loop {
                tick.tick().await;
                let workers = self.house.admin.get("worker").await.expect(200).json();
                let mut workers = workers.as_array().unwrap().iter();
                if workers.any(|worker| worker["state"] == "lost") {
                    return;
                }
            }
        })
        .await;
    }
}

#[tokio::test]
async fn the_view_of_a_moment_is_what_was_said_then() {
    for _ in 0..3 {
        let mut fleet = Fleet::start(seed()).await;
        let mut said = vec![live(&fleet.house).await];
        for n in 0..60 {
            fleet.step(n).await;
            if n == 40 {
                fleet.lose().await;
                fleet.join(100).await;
            }
            said.push(live(&fleet.house).await);
        }
        let held = |said: &[(u64, Vec<Value>)]| {
            let mut workers = said.iter().flat_map(|(_, workers)| workers);
            workers.any(|worker| worker["runs"] != json!([]))
        };
        assert!(held(&said), "some worker had a run");
        for (end, workers) in said {
            let path = format!("fleet?at={}", end - 1);
            let then = fleet.house.admin.get(&path).await.expect(200).json();
            assert_eq!(then["position"], json!(end - 1));
            assert_eq!(stored(&then["workers"]), workers, "{path}");
        }
    }
}

#[tokio::test]
async fn what_happened_to_a_worker_is_told_also_when_it_is_gone() {
    let house = House::start().await;
    let mut ada = house.agent("ada").await;
    let pipeline = house.pipeline("hello", &mut ada, vec![job(1, "a", &[], vec![])]).await;
    house.run(pipeline, json!({})).await;
    let order = ada.order().await;
    let path = format!("worker/{}/history", ada.id);
    let suspend = format!("worker/suspend/{}", ada.id);
    house.admin.post(&suspend, json!({ "note": "new disk" })).await.expect(200);
    let before = house.deps.log.next_position().await.unwrap() - 1;
    house.admin.delete(&format!("worker/{}", ada.id)).await.expect(200);
    let history = house.admin.get(&path).await.expect(200).json();
    let changes = history["changes"].as_array().unwrap();
    let kinds: Vec<_> = changes.iter().map(|change| change["type"].as_str().unwrap()).collect();
    let expected = ["WorkerRegistered", "WorkerReported", "WorkerSuspended", "WorkerDeregistered"];
    assert_eq!(kinds, expected);
    let suspended = &changes[2];
    assert_eq!(
        (&suspended["note"], &suspended["actor"], &suspended["worker"]["state"]),
        (&json!("new disk"), &json!("user:admin"), &json!("suspended"))
    );
    let stays = history["runs"].as_array().unwrap();
    // The build, and the run.
    assert_eq!(stays.len(), 2);
    assert_eq!(stays[1]["run"], json!(order.unique_id));

    // Nobody is there now; then there was one, with a run in one of its two slots.
    let now = house.admin.get("fleet").await.expect(200).json();
    assert_eq!(now["workers"], json!([]));
    let then = house.admin.get(&format!("fleet?at={before}")).await.expect(200).json();
    let worker = &then["workers"][0];
    assert_eq!((&worker["state"], &worker["slots"]), (&json!("suspended"), &json!(2)));
    assert_eq!(worker["runs"], json!([order.unique_id]));
    let at = then["recorded_at"].as_u64().unwrap();
    let at = chrono::DateTime::from_timestamp_millis(at.cast_signed()).unwrap().to_rfc3339();
    let at = at.replace('+', "%2B");
    house.admin.get(&format!("fleet?at={at}")).await.expect(200);
    let first = house.admin.get("fleet?at=2001-01-01T00:00:00Z").await.expect(200).json();
    assert_eq!((&first["position"], &first["workers"]), (&Value::Null, &json!([])));
    house.admin.get("fleet?at=yesterday").await.expect(400);
    house.admin.get("worker/00000000-0000-0000-0000-000000000001/history").await.expect(404);
    house.admin.get("worker/x/history").await.expect(400);
}
