//! The proof at the end: the log, replayed from its first event, says what the server says.

use anyhow::{Context, Result, ensure};
use eventlog::{Fold, Recorded};

use crate::{
    api::{Run, Worker},
    client::Client,
    command::events::{self, replay::recorded},
};

/// What was compared.
#[derive(Debug)]
pub(super) struct Replayed {
    pub(super) events: usize,
    pub(super) runs: usize,
    pub(super) workers: usize,
}

/// Replays everything that the server's log holds with nothing but the events, and compares.
pub(super) async fn replay(client: &Client) -> Result<Replayed> {
    let stored = events::stored(client, 0, "").await?;
    for pair in stored.windows(2) {
        ensure!(
            pair[0].position < pair[1].position,
            "the log is out of order: event {} stands before event {}",
            pair[0].position,
            pair[1].position
        );
    }
    let recorded: Vec<Recorded> = stored.iter().map(recorded).collect::<Result<_>>()?;
    let runs = compare_runs(client, &recorded).await?;
    let workers = compare_workers(client, &recorded).await?;
    Ok(Replayed { events: recorded.len(), runs, workers })
}

async fn compare_runs(client: &Client, recorded: &[Recorded]) -> Result<usize> {
    let mut state = svc_scheduler::domain::State::default();
    for event in recorded {
        if let Some(fact) = svc_scheduler::decode(event)? {
            state.evolve(&fact);
        }
    }
    let live: Vec<serde_json::Value> = client.get("/api/v1/run?builds=true&limit=0").await?;
    for told in &live {
        let run: Run = serde_json::from_value(told.clone()).context("read a run")?;
        let id = run.uniqueid.parse().with_context(|| format!("read run id {}", run.uniqueid))?;
        let replayed = svc_scheduler::view(&state, id)
            .with_context(|| format!("run {id} is not in the log"))?;
        let replayed = gateway::run_json(&replayed);
        ensure!(
            replayed == *told,
            "run {id} differs.\nfrom the log: {replayed}\nfrom the server: {told}"
        );
    }
    ensure!(
        state.runs().count() == live.len(),
        "the log has {} runs, the server shows {}",
        state.runs().count(),
        live.len()
    );
    Ok(live.len())
}

async fn compare_workers(client: &Client, recorded: &[Recorded]) -> Result<usize> {
    let mut state = svc_registry::domain::State::default();
    // What the registry keeps secret, join tokens for one, is left out of what the server shows.
    for event in recorded.iter().filter(|event| event.stream.starts_with("worker-")) {
        if let Some(fact) = svc_registry::decode(event)? {
            state.evolve(&fact);
        }
    }
    let mut live: Vec<Worker> = client.get("/api/v1/worker").await?;
    let mut replayed = svc_registry::view(state.workers(), |_| None);
    live.sort_by(|a, b| a.uniqueid.cmp(&b.uniqueid));
    replayed.sort_by(|a, b| a.worker_id.cmp(&b.worker_id));
    let told: Vec<_> = live.iter().map(|w| (&w.uniqueid, &w.name, w.slots, &w.tags)).collect();
    let known: Vec<_> =
        replayed.iter().map(|w| (&w.worker_id, &w.name, w.slots, &w.tags)).collect();
    ensure!(
        told == known,
        "the workers differ.\nfrom the log: {known:?}\nfrom the server: {told:?}"
    );
    Ok(live.len())
}
