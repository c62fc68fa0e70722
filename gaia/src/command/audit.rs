//! `gaia audit`: what happened, and the proof that the log still says so.

use anyhow::Result;
use clap::Subcommand;
use serde::{Deserialize, Serialize};

use super::{run, segment};
use crate::{
    api::Event,
    output::{Output, table, time},
    profile::ServerArgs,
};

#[derive(Subcommand, Debug)]
pub enum AuditCommand {
    /// Show all that happened to a run: who did it, when, why, from where, under which certificate
    Run {
        /// Unique id, or PIPELINE/NUMBER
        run: String,
    },
}

pub async fn audit(command: AuditCommand, server: &ServerArgs, output: Output) -> Result<()> {
    match command {
        AuditCommand::Run { run } => trail(&run, server, output).await,
    }
}

#[derive(Serialize, Deserialize)]
struct Trail {
    run: String,
    events: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    #[serde(flatten)]
    event: Event,
    about: String,
    why: String,
}

async fn trail(run: &str, server: &ServerArgs, output: Output) -> Result<()> {
    let client = server.client()?;
    let id = run::find(&client, run).await?.uniqueid;
    let trail: Trail = client.get(&format!("/api/v1/audit/run/{}", segment(&id))).await?;
    output.show(&trail, |trail| {
        let rows = trail.events.iter().map(|Entry { event, about, why }| {
            [
                event.position.to_string(),
                time(event.recorded_at),
                about.clone(),
                event.event_type.clone(),
                event.actor.clone(),
                event.address.clone(),
                event.certificate.clone(),
                why.clone(),
            ]
        });
        let head = ["EVENT", "WHEN", "ABOUT", "WHAT", "WHO", "FROM", "CERTIFICATE", "WHY"];
        format!("Run {}\n{}", trail.run, table(head, rows))
    })
}
