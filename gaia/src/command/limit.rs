//! `gaia limit`: how many runs may run at once.

use anyhow::Result;
use clap::{Args, Subcommand, ValueEnum};
use http::Method;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{find_pipeline, segment};
use crate::{
    client::Client,
    output::{Output, table},
};

#[derive(Subcommand, Debug)]
pub enum LimitCommand {
    /// List the limits, and what runs
    Ls,
    /// Limit the runs of a pipeline or group; applies to those that wait already, too
    Set {
        #[command(flatten)]
        of: Of,
        /// Runs that may be on workers at once; 0 holds all of them back
        #[arg(long, value_name = "N")]
        running: u32,
        /// What happens to runs that are too many
        #[arg(long, value_enum, default_value_t)]
        when_full: WhenFull,
        /// Why, for the history
        #[arg(long, default_value = "")]
        note: String,
    },
    /// Remove a limit
    Rm {
        #[command(flatten)]
        of: Of,
    },
}

#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
pub struct Of {
    /// Name or id of the pipeline
    #[arg(long)]
    pipeline: Option<String>,
    /// Name of the group, which pipelines and starts name with `--group`
    #[arg(long)]
    group: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub enum WhenFull {
    /// They wait
    #[default]
    Queue,
    /// Those that were submitted earlier are cancelled
    CancelOlder,
    /// They are cancelled
    CancelNewer,
}

#[derive(Serialize, Deserialize)]
struct Limit {
    pipelineid: Option<u64>,
    group: Option<String>,
    /// None: there is no limit.
    running: Option<u32>,
    when_full: Option<String>,
    running_now: u32,
    open: u32,
}

pub async fn limit(command: LimitCommand, client: &Client, output: Output) -> Result<()> {
    match command {
        LimitCommand::Ls => {
            let limits: Vec<Limit> = client.get("/api/v1/limit").await?;
            output.show(&limits, |limits| list(limits))
        }
        LimitCommand::Set { of, running, when_full, note } => {
            let when_full = when_full.to_possible_value().map(|value| value.get_name().to_owned());
            let body = json!({ "running": running, "when_full": when_full, "note": note });
            let path = path(client, &of).await?;
            let limit: Limit =
                serde_json::from_slice(&client.call(Method::PUT, &path, Some(&body)).await?)?;
            output.show(&limit, |limit| {
                format!("{} of at most {running} are running.", limit.running_now)
            })
        }
        LimitCommand::Rm { of } => {
            let path = path(client, &of).await?;
            client.call(Method::DELETE, &path, None::<&()>).await?;
            output.show(&json!({ "removed": true }), |_| "The limit is removed.".to_owned())
        }
    }
}

async fn path(client: &Client, of: &Of) -> Result<String> {
    Ok(match (&of.pipeline, &of.group) {
        (Some(pipeline), _) => {
            format!("/api/v1/limit/pipeline/{}", find_pipeline(client, pipeline).await?.id)
        }
        (None, group) => {
            format!("/api/v1/limit/group/{}", segment(group.as_deref().unwrap_or_default()))
        }
    })
}

fn list(limits: &[Limit]) -> String {
    if limits.is_empty() {
        return "There are no limits. Set one with `gaia limit set`.".to_owned();
    }
    table(
        ["OF", "RUNNING", "AT MOST", "OPEN", "WHEN FULL"],
        limits.iter().map(|limit| {
            let of = match (&limit.group, limit.pipelineid) {
                (Some(group), _) => format!("group {group}"),
                (None, id) => format!("pipeline {}", id.unwrap_or_default()),
            };
            [
                of,
                limit.running_now.to_string(),
                limit.running.unwrap_or_default().to_string(),
                limit.open.to_string(),
                limit.when_full.clone().unwrap_or_default(),
            ]
        }),
    )
}
