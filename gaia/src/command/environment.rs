//! `gaia worker env`: variables for the environment of runs, of one worker or of all with a tag.

use anyhow::Result;
use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Value, json};

use super::{find_worker, secret, segment};
use crate::{
    api::{Variable, Worker},
    client::Client,
    output::{Output, table, time},
};

#[derive(Subcommand, Debug)]
pub enum EnvironmentCommand {
    /// List the variables; secret ones without their values
    Ls {
        #[command(flatten)]
        whose: Whose,
    },
    /// Set a variable: KEY=VALUE, or KEY and the value from standard input
    Set {
        #[command(flatten)]
        whose: Whose,
        /// KEY=VALUE, or KEY
        variable: String,
        /// Store it encrypted, never show it, and mask it in logs
        #[arg(long)]
        secret: bool,
        /// Why, for the history
        #[arg(long, default_value = "", hide_default_value = true)]
        note: String,
    },
    /// Remove a variable
    Rm {
        #[command(flatten)]
        whose: Whose,
        key: String,
        /// Why, for the history
        #[arg(long, default_value = "", hide_default_value = true)]
        note: String,
    },
}

#[derive(Args, Debug)]
pub struct Whose {
    /// Name or id of one worker
    #[arg(long, conflicts_with = "tag")]
    worker: Option<String>,
    /// All workers with this tag
    #[arg(long)]
    tag: Option<String>,
}

impl Whose {
    async fn find(self, client: &Client) -> Result<(Value, String)> {
        Ok(match (self.worker, self.tag) {
            (Some(worker), _) => {
                let worker = find_worker(client, &worker).await?;
                (json!({ "worker": worker.uniqueid }), format!("worker {}", worker.name))
            }
            (None, Some(tag)) => (json!({ "tag": tag }), format!("workers with the tag {tag}")),
            (None, None) => (json!({}), "every scope".to_owned()),
        })
    }
}

const PATH: &str = "/api/v1/environment";

pub async fn environment(
    command: EnvironmentCommand,
    client: &Client,
    output: Output,
) -> Result<()> {
    match command {
        EnvironmentCommand::Ls { whose } => {
            let (scope, _) = whose.find(client).await?;
            let part = |name: &str| segment(scope[name].as_str().unwrap_or_default());
            let path = format!("{PATH}?worker={}&tag={}", part("worker"), part("tag"));
            let variables: Vec<Variable> = client.get(&path).await?;
            let workers: Vec<Worker> = client.get("/api/v1/worker").await?;
            output.show(&variables, |variables| list(variables, &workers))
        }
        EnvironmentCommand::Set { whose, variable, secret, note } => {
            let (mut body, whom) = whose.find(client).await?;
            let (key, value) = match variable.split_once('=') {
                Some((key, value)) => (key.to_owned(), value.to_owned()),
                None => (variable, secret::value(None)?),
            };
            body["key"] = json!(key);
            body["value"] = json!(value);
            body["secret"] = json!(secret);
            body["note"] = json!(note);
            client.call(Method::PUT, PATH, Some(&body)).await?;
            output.show(&json!({ "key": key }), |_| format!("{key} is set for {whom}."))
        }
        EnvironmentCommand::Rm { whose, key, note } => {
            let (mut body, whom) = whose.find(client).await?;
            body["key"] = json!(key);
            body["note"] = json!(note);
            client.call(Method::DELETE, PATH, Some(&body)).await?;
            output.show(&json!({ "key": key }), |_| format!("{key} is removed for {whom}."))
        }
    }
}

fn list(variables: &[Variable], workers: &[Worker]) -> String {
    if variables.is_empty() {
        return "No variables. Set one with `gaia worker env set`.".to_owned();
    }
    let name = |id: &str| {
        let known = workers.iter().find(|worker| worker.uniqueid == id);
        known.map_or_else(|| id.to_owned(), |worker| worker.name.clone())
    };
    table(
        ["FOR", "KEY", "VALUE", "SET"],
        variables.iter().map(|variable| {
            let whose = match variable.tag.as_str() {
                "" => format!("worker {}", name(&variable.worker)),
                tag => format!("tag {tag}"),
            };
            [whose, variable.key.clone(), variable.value.clone(), time(variable.updated_at)]
        }),
    )
}
