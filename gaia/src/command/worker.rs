//! `gaia worker`: who can do the work.

use anyhow::Result;
use clap::Subcommand;
use http::Method;
use serde_json::json;

use super::{
    find_worker, segment,
    trust::{self, TokenCommand},
};
use crate::{
    api::Worker,
    client::Client,
    output::{Output, table},
};

#[derive(Subcommand, Debug)]
pub enum WorkerCommand {
    /// List the workers
    Ls,
    /// Give a worker no new runs
    Suspend {
        /// Name or id
        worker: String,
        /// Why, for the history
        #[arg(long, default_value = "")]
        note: String,
    },
    /// Let a suspended worker take runs again
    Resume {
        /// Name or id
        worker: String,
    },
    /// Remove a worker: its certificate is refused from now on, its runs are tried elsewhere
    Rm {
        /// Name or id
        worker: String,
    },
    /// Join tokens: how a new worker gets in
    #[command(subcommand)]
    Token(TokenCommand),
    /// Show the secret that Gaia's own agents register with
    Secret {
        /// Make a new one first; the old one stops working
        #[arg(long)]
        reset: bool,
    },
}

pub async fn worker(command: WorkerCommand, client: &Client, output: Output) -> Result<()> {
    match command {
        WorkerCommand::Ls => {
            let workers: Vec<Worker> = client.get("/api/v1/worker").await?;
            output.show(&workers, |workers| list(workers))
        }
        WorkerCommand::Suspend { worker, note } => {
            let worker = find_worker(client, &worker).await?;
            let path = format!("/api/v1/worker/suspend/{}", segment(&worker.uniqueid));
            client.call(Method::POST, &path, Some(&json!({ "note": note }))).await?;
            done(output, &worker, "is suspended: it takes no new runs")
        }
        WorkerCommand::Resume { worker } => {
            let worker = find_worker(client, &worker).await?;
            let path = format!("/api/v1/worker/resume/{}", segment(&worker.uniqueid));
            client.call(Method::POST, &path, Some(&json!({}))).await?;
            done(output, &worker, "takes runs again")
        }
        WorkerCommand::Rm { worker } => {
            let worker = find_worker(client, &worker).await?;
            let path = format!("/api/v1/worker/{}", segment(&worker.uniqueid));
            client.call(Method::DELETE, &path, None::<&()>).await?;
            done(output, &worker, "is removed")
        }
        WorkerCommand::Token(command) => trust::tokens(command, client, output).await,
        WorkerCommand::Secret { reset } => secret(client, output, reset).await,
    }
}

fn done(output: Output, worker: &Worker, what: &str) -> Result<()> {
    let answer = json!({ "uniqueid": worker.uniqueid, "name": worker.name });
    output.show(&answer, |_| format!("Worker {} {what}.", worker.name))
}

async fn secret(client: &Client, output: Output, reset: bool) -> Result<()> {
    if reset {
        client.call(Method::POST, "/api/v1/worker/secret", Some(&json!({}))).await?;
    }
    let secret = registration_secret(client).await?;
    output.show(&json!({ "secret": secret }), |_| secret.clone())
}

/// Gaia answers with the bare text; a JSON string is understood too.
pub async fn registration_secret(client: &Client) -> Result<String> {
    let answer = client.call(Method::GET, "/api/v1/worker/secret", None::<&()>).await?;
    let text = String::from_utf8_lossy(&answer).trim().to_owned();
    Ok(serde_json::from_str::<String>(&text).unwrap_or(text))
}

fn list(workers: &[Worker]) -> String {
    if workers.is_empty() {
        return "No workers yet. `gaia worker token create` says how to add one.".to_owned();
    }
    table(
        ["NAME", "STATUS", "RUNS", "FINISHED", "TAGS", "ID"],
        workers.iter().map(|worker| {
            let status = match (worker.connected, worker.note.is_empty()) {
                (true, true) => worker.status.clone(),
                (true, false) => format!("{} ({})", worker.status, worker.note),
                (false, _) => format!("{}, not connected", worker.status),
            };
            [
                worker.name.clone(),
                status,
                format!("{}/{}", worker.runs.len(), worker.slots),
                worker.finishedruns.to_string(),
                worker.tags.join(" "),
                worker.uniqueid.clone(),
            ]
        }),
    )
}
