//! `gaia worker`: who can do the work.

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use http::Method;
use serde::Serialize;
use serde_json::json;

use super::{
    environment::{self, EnvironmentCommand},
    find_worker, fleet,
    moment::typed,
    segment,
    trust::{self, TokenCommand},
};
use crate::{
    api::Worker,
    client::Client,
    output::{Output, table, time},
};

#[derive(Subcommand, Debug)]
pub enum WorkerCommand {
    /// List the workers
    Ls,
    /// What happened to a worker, and which runs it had
    History {
        /// Name or id; of one that was removed the id
        worker: String,
    },
    /// Give a worker another name
    Rename {
        /// Name or id
        worker: String,
        /// The new name
        to: String,
        #[command(flatten)]
        why: Why,
    },
    /// Tags of a worker: add, remove, deny
    #[command(subcommand)]
    Tag(TagCommand),
    /// Give a worker no new runs; it finishes what it has
    Suspend {
        /// Name or id
        worker: String,
        #[command(flatten)]
        why: Why,
        /// When it takes runs again by itself: 30m, 12h, 2d, or a time [default: when it is resumed]
        #[arg(long, value_name = "WHEN")]
        until: Option<String>,
    },
    /// Like suspend, and what it still runs at the deadline is tried elsewhere
    Drain {
        /// Name or id
        worker: String,
        #[command(flatten)]
        why: Why,
        /// 30m, 12h, 2d, or a time [default: none, its runs may take as long as they take]
        #[arg(long, value_name = "WHEN")]
        deadline: Option<String>,
    },
    /// Let a suspended or draining worker take runs again
    Resume {
        /// Name or id
        worker: String,
        #[command(flatten)]
        why: Why,
    },
    /// Remove a worker for ever: it is refused from now on, its runs are tried elsewhere
    Rm {
        /// Name or id
        worker: String,
        #[command(flatten)]
        why: Why,
        /// Cut it off at once, before it is told to stop its runs
        #[arg(long)]
        force: bool,
    },
    /// Join tokens: how a new worker gets in
    #[command(subcommand)]
    Token(TokenCommand),
    /// Variables for the environment of runs: list, set, remove
    #[command(subcommand)]
    Env(EnvironmentCommand),
    /// Show the secret that Gaia's own agents register with
    Secret {
        /// Make a new one first; the old one stops working
        #[arg(long)]
        reset: bool,
    },
}

#[derive(Args, Debug)]
pub struct Why {
    /// Why, for the history
    #[arg(long, default_value = "", hide_default_value = true)]
    pub note: String,
}

#[derive(Subcommand, Debug)]
pub enum TagCommand {
    /// Add tags beside those that the worker says of itself; `-TAG` denies one
    Add(Retag),
    /// Remove tags that were added here
    Rm(Retag),
    /// Keep away the runs that ask for these tags
    Deny(Retag),
}

#[derive(Args, Debug)]
pub struct Retag {
    /// Name or id
    worker: String,
    #[arg(required = true, allow_hyphen_values = true, value_name = "TAG")]
    tags: Vec<String>,
    // Not flattened: behind a list that takes `-x`, clap would take `--note` for a tag.
    /// Why, for the history; before the worker
    #[arg(long, default_value = "", hide_default_value = true)]
    note: String,
}

pub async fn worker(command: WorkerCommand, client: &Client, output: Output) -> Result<()> {
    match command {
        WorkerCommand::Ls => {
            let workers: Vec<Worker> = client.get("/api/v1/worker").await?;
            output.show(&workers, |workers| list(workers))
        }
        WorkerCommand::Rename { worker, to, why } => {
            let body = json!({ "name": to, "note": why.note });
            change(client, output, "rename", &worker, &body, &format!("is now called {to}")).await
        }
        WorkerCommand::History { worker } => fleet::history(&worker, client, output).await,
        WorkerCommand::Tag(command) => tag(client, output, command).await,
        WorkerCommand::Suspend { worker, why, until } => {
            let until = until.map(|when| moment(&when)).transpose()?.unwrap_or_default();
            let body = json!({ "note": why.note, "until": until });
            let what = format!("is suspended{}: it takes no new runs", by(" until", until));
            change(client, output, "suspend", &worker, &body, &what).await
        }
        WorkerCommand::Drain { worker, why, deadline } => {
            let deadline = deadline.map(|when| moment(&when)).transpose()?.unwrap_or_default();
            let body = json!({ "note": why.note, "deadline": deadline });
            let what = match deadline {
                0 => "takes no new runs, and finishes what it has".to_owned(),
                _ => format!(
                    "takes no new runs; what it has{} is tried elsewhere",
                    by(" not finished by", deadline)
                ),
            };
            change(client, output, "drain", &worker, &body, &what).await
        }
        WorkerCommand::Resume { worker, why } => {
            let body = json!({ "note": why.note });
            change(client, output, "resume", &worker, &body, "takes runs again").await
        }
        WorkerCommand::Rm { worker, why, force } => {
            let worker = find_worker(client, &worker).await?;
            let path = format!("/api/v1/worker/{}", segment(&worker.uniqueid));
            let body = json!({ "note": why.note, "force": force });
            client.call(Method::DELETE, &path, Some(&body)).await?;
            done(output, &worker, "is removed")
        }
        WorkerCommand::Token(command) => trust::tokens(command, client, output).await,
        WorkerCommand::Env(command) => environment::environment(command, client, output).await,
        WorkerCommand::Secret { reset } => secret(client, output, reset).await,
    }
}

async fn tag(client: &Client, output: Output, command: TagCommand) -> Result<()> {
    let (retag, add) = match command {
        TagCommand::Add(tags) => (tags, true),
        TagCommand::Rm(tags) => (tags, false),
        TagCommand::Deny(tags) => {
            let denied = tags.tags.iter().map(|tag| format!("-{}", tag.trim_start_matches('-')));
            (Retag { tags: denied.collect(), ..tags }, true)
        }
    };
    let Retag { worker, tags, note } = retag;
    let (field, what) = if add { ("add", "has") } else { ("remove", "has no more") };
    let what = format!("{what} {}", tags.join(" "));
    change(client, output, "tags", &worker, &json!({ field: tags, "note": note }), &what).await
}

/// `POST /api/v1/worker/<what>/<id>`.
async fn change(
    client: &Client,
    output: Output,
    how: &str,
    worker: &str,
    body: &impl Serialize,
    what: &str,
) -> Result<()> {
    let worker = find_worker(client, worker).await?;
    let path = format!("/api/v1/worker/{how}/{}", segment(&worker.uniqueid));
    client.call(Method::POST, &path, Some(body)).await?;
    done(output, &worker, what)
}

fn done(output: Output, worker: &Worker, what: &str) -> Result<()> {
    let answer = json!({ "uniqueid": worker.uniqueid, "name": worker.name });
    output.show(&answer, |_| format!("Worker {} {what}.", worker.name))
}

fn by(word: &str, millis: u64) -> String {
    if millis == 0 { String::new() } else { format!("{word} {}", time(millis)) }
}

/// From now (`90s`, `30m`, `12h`, `2d`), or a time; in milliseconds since the epoch.
fn moment(text: &str) -> Result<u64> {
    let now = chrono::Utc::now().timestamp_millis();
    let seconds = match text.char_indices().next_back() {
        Some((end, 's')) => Some((end, 1)),
        Some((end, 'm')) => Some((end, 60)),
        Some((end, 'h')) => Some((end, 60 * 60)),
        Some((end, 'd')) => Some((end, 24 * 60 * 60)),
        _ => None,
    };
    let from_now = seconds.and_then(|(end, unit)| {
        let count: u32 = text[..end].parse().ok()?;
        Some(now.saturating_add(i64::from(count) * unit * 1_000))
    });
    let millis = match from_now {
        Some(millis) => millis,
        None => typed(text)?
            .with_context(|| {
                format!(
                    "`{text}` is no time: write 30m, 12h, 2d, 2026-11-24T10:00:00Z or \"2026-11-24 10:00\""
                )
            })?
            .timestamp_millis(),
    };
    if millis <= now {
        bail!("`{text}` has passed: name a time that is still to come");
    }
    Ok(millis.unsigned_abs())
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
        ["NAME", "STATE", "RUNS", "FINISHED", "TAGS", "PLATFORM", "ID"],
        workers.iter().map(|worker| {
            let note = match worker.note.as_str() {
                "" => String::new(),
                note => format!(" ({note})"),
            };
            let away = worker.connected || worker.state == "lost";
            let away = if away { "" } else { ", not connected" };
            let state = format!("{}{}{note}{away}", worker.state, by(" until", worker.until));
            [
                worker.name.clone(),
                state,
                format!("{}/{}", worker.runs.len(), worker.slots),
                worker.finishedruns.to_string(),
                worker.tags.join(" "),
                format!("{} {}", worker.os, worker.arch).trim().to_owned(),
                worker.uniqueid.clone(),
            ]
        }),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_from_now_or_a_time_to_come() {
        let now = chrono::Utc::now().timestamp_millis().unsigned_abs();
        for (text, seconds) in [("90s", 90), ("30m", 1_800), ("12h", 43_200), ("2d", 172_800)] {
            let ahead = moment(text).unwrap() - now;
            assert!(
                (seconds * 1_000..seconds * 1_000 + 60_000).contains(&ahead),
                "{text}: {ahead}"
            );
        }
        assert_eq!(moment("2999-01-01T00:00:00Z").unwrap(), 32_472_144_000_000);
        let local = chrono::NaiveDate::from_ymd_opt(2999, 1, 1).unwrap().and_hms_opt(12, 30, 0);
        let local = local.unwrap().and_local_timezone(chrono::Local).earliest().unwrap();
        assert_eq!(moment("2999-01-01 12:30").unwrap(), local.timestamp_millis().unsigned_abs());
        for bad in ["", "m", "5", "-5m", "1.5h", "tomorrow", "0s", "2001-01-01T00:00:00Z", "5é"] {
            assert!(moment(bad).is_err(), "{bad}");
        }
    }
}
