//! `gaia fleet` and `gaia worker history`: the workers at any point in time, and what happened to one.

use anyhow::Result;
use clap::Args;
use ids::WorkerId;
use serde::{Deserialize, Serialize};

use super::{find_worker, moment, segment};
use crate::{
    api::Worker,
    client::Client,
    output::{Output, table, time},
};

#[derive(Args, Debug)]
pub struct FleetArgs {
    /// A position in the log, a time (2026-11-24T10:00:00Z, "2026-11-24 10:00"), or how long ago (15m,
    /// 2h, 3d) [default: now]
    #[arg(long, value_name = "WHEN")]
    at: Option<String>,
}

#[derive(Debug, Deserialize, Serialize)]
struct Fleet {
    position: Option<u64>,
    recorded_at: Option<u64>,
    workers: Vec<Worker>,
}

pub async fn fleet(args: FleetArgs, client: &Client, output: Output) -> Result<()> {
    let at = args.at.map(|at| moment::for_server(&at, chrono::Utc::now())).transpose()?;
    let query = at.map(|at| format!("?at={}", segment(&at))).unwrap_or_default();
    let fleet: Fleet = client.get(&format!("/api/v1/fleet{query}")).await?;
    output.show(&fleet, |fleet| {
        let (Some(position), Some(at)) = (fleet.position, fleet.recorded_at) else {
            return "Nothing had happened by then.".to_owned();
        };
        let workers = table(
            ["NAME", "STATE", "SLOTS", "RUNS", "TAGS", "ID"],
            fleet.workers.iter().map(|worker| {
                [
                    worker.name.clone(),
                    worker.state.clone(),
                    format!("{}/{}", worker.runs.len(), worker.slots),
                    worker.runs.join("\n"),
                    worker.tags.join(" "),
                    worker.uniqueid.clone(),
                ]
            }),
        );
        format!("After event {position}, recorded {}:\n\n{workers}", time(at))
    })
}

#[derive(Debug, Deserialize, Serialize)]
struct History {
    uniqueid: String,
    changes: Vec<Change>,
    runs: Vec<Stay>,
}

#[derive(Debug, Deserialize, Serialize)]
struct Change {
    position: u64,
    at: u64,
    #[serde(rename = "type")]
    what: String,
    actor: String,
    note: String,
    worker: Option<Worker>,
}

#[derive(Debug, Deserialize, Serialize)]
struct Stay {
    run: String,
    attempt: u32,
    assigned_at: u64,
    started_at: u64,
    ended_at: u64,
    reason: String,
}

/// Of a worker that was removed too, by its id.
pub(super) async fn history(worker: &str, client: &Client, output: Output) -> Result<()> {
    let id = match worker.parse::<WorkerId>() {
        Ok(id) => id.to_string(),
        Err(_) => find_worker(client, worker).await?.uniqueid,
    };
    let history: History = client.get(&format!("/api/v1/worker/{}/history", segment(&id))).await?;
    output.show(&history, |history| {
        let changes = table(
            ["WHEN", "EVENT", "BY", "NOTE", "NAME", "STATE", "SLOTS", "TAGS", "POSITION"],
            history.changes.iter().map(|change| {
                let worker = change.worker.as_ref();
                let of = |text: fn(&Worker) -> String| worker.map(text).unwrap_or_default();
                [
                    time(change.at),
                    change.what.clone(),
                    change.actor.clone(),
                    change.note.clone(),
                    of(|worker| worker.name.clone()),
                    of(|worker| worker.state.clone()),
                    of(|worker| worker.slots.to_string()),
                    of(|worker| worker.tags.join(" ")),
                    change.position.to_string(),
                ]
            }),
        );
        let when = |at: u64| if at == 0 { "–".to_owned() } else { time(at) };
        let runs = table(
            ["RUN", "ATTEMPT", "ASSIGNED", "STARTED", "ENDED", "REASON"],
            history.runs.iter().map(|stay| {
                [
                    stay.run.clone(),
                    stay.attempt.to_string(),
                    when(stay.assigned_at),
                    when(stay.started_at),
                    when(stay.ended_at),
                    stay.reason.clone(),
                ]
            }),
        );
        format!("{changes}\n\n{runs}")
    })
}
