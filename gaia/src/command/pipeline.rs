//! `gaia pipeline`: what can be run.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand, ValueEnum};
use http::Method;
use serde_json::json;

use super::{find_pipeline, run, segment};
use crate::{
    api::{Pipeline, Run},
    client::Client,
    output::{Output, table},
};

#[derive(Subcommand, Debug)]
pub enum PipelineCommand {
    /// Create a pipeline from a git repository and build it
    Create(CreateArgs),
    /// List the pipelines
    Ls,
    /// Build the newest commit
    Build {
        /// Name or id
        pipeline: String,
        /// Do not wait for the build
        #[arg(long)]
        no_watch: bool,
    },
    /// Change a pipeline; what is not named stays as it is
    Set(SetArgs),
    /// Start it by itself at certain times; without times: show when it does
    Schedule(ScheduleArgs),
    /// Make a token with which anybody can start it; the old one is void
    TriggerToken {
        /// Name or id
        pipeline: String,
        /// Take the token away instead
        #[arg(long)]
        remove: bool,
    },
    /// Start a run
    Run(StartArgs),
    /// Remove a pipeline; its runs stay in the history
    Rm {
        /// Name or id
        pipeline: String,
    },
}

#[derive(Args, Debug, Default)]
pub struct CreateArgs {
    /// 1 to 50 letters, digits, spaces, '-' or '_'
    pub name: String,
    /// URL of the git repository
    pub url: String,
    /// golang, java, python, cpp, ruby, nodejs or rust
    #[arg(long = "type", value_name = "TYPE")]
    pub kind: String,
    /// Branch [default: the repository's own]
    #[arg(long, default_value = "")]
    pub branch: String,
    /// Tag that a worker must have; may be repeated
    #[arg(long = "tag", value_name = "TAG")]
    pub tags: Vec<String>,
    /// What a worker must and should be, as in 'mem>=16 !slow ssd~10'; see `gaia selector check`
    #[arg(long, value_name = "SELECTOR", default_value = "")]
    pub selector: String,
    /// Name or id of the only worker that may run it
    #[arg(long, value_name = "WORKER", default_value = "")]
    pub worker: String,
    #[command(flatten)]
    pub policy: PolicyArgs,
    /// User for the repository
    #[arg(long, default_value = "")]
    pub git_user: String,
    /// Password or token for the repository
    #[arg(long, env = "GAIA_GIT_PASSWORD", hide_env_values = true, default_value = "")]
    pub git_password: String,
    /// File with the SSH key for the repository
    #[arg(long, value_name = "FILE")]
    pub git_key: Option<std::path::PathBuf>,
    /// Do not wait for the build
    #[arg(long)]
    pub no_watch: bool,
}

#[derive(Args, Debug, Default)]
pub struct SetArgs {
    /// Name or id
    pub pipeline: String,
    /// New name
    #[arg(long)]
    pub name: Option<String>,
    /// Tags that a worker must have, with commas between them, instead of those it has now
    #[arg(long, value_name = "TAGS", value_delimiter = ',')]
    pub tags: Option<Vec<String>>,
    /// What a worker must and should be; empty: nothing
    #[arg(long, value_name = "SELECTOR")]
    pub selector: Option<String>,
    /// Name or id of the only worker that may run it; empty: any
    #[arg(long, value_name = "WORKER")]
    pub worker: Option<String>,
    #[command(flatten)]
    pub policy: PolicyArgs,
}

#[derive(Args, Debug, Default)]
pub struct ScheduleArgs {
    /// Name or id
    pub pipeline: String,
    /// Instead of the times it has now: '0 30 3 * * mon-fri' (second, minute, hour, day of month, month, day of week), '@daily', '@every 90m'; may be repeated
    #[arg(value_name = "TIMES")]
    pub schedules: Vec<String>,
    /// Time zone, as in Europe/Berlin [default: UTC]
    #[arg(long, value_name = "ZONE")]
    pub time_zone: Option<String>,
    /// What happens when the time came while the server was away
    #[arg(long, value_enum, value_name = "WHAT")]
    pub missed: Option<MissedTicks>,
    /// It does not start by itself any more
    #[arg(long, conflicts_with_all = ["schedules", "time_zone", "missed"])]
    pub none: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum MissedTicks {
    /// That is recorded, and nothing else
    Skip,
    /// It is started once, however often it should have been
    Once,
}

/// How runs are treated.
#[derive(Args, Debug, Default)]
pub struct PolicyArgs {
    /// -100 to 100; higher is sooner, and a point is worth a minute of waiting
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub priority: Option<i32>,
    /// Named groups that have limits in common, with commas between them; see `gaia limit`
    #[arg(long = "group", value_name = "GROUPS", value_delimiter = ',')]
    pub groups: Option<Vec<String>>,
    /// What happens to a run whose worker is lost
    #[arg(long, value_enum, value_name = "WHAT")]
    pub on_worker_lost: Option<OnWorkerLost>,
    /// How often a run that failed by itself is tried again
    #[arg(long, value_name = "N")]
    pub retries: Option<u32>,
    /// Seconds before the first retry; each further one waits twice as long
    #[arg(long, value_name = "SECONDS")]
    pub retry_delay: Option<u32>,
    /// How often a run is tried again when its worker could not do it [default: as the server is set]
    #[arg(long, value_name = "N")]
    pub infrastructure_retries: Option<u32>,
    /// Seconds to wait for a worker; 0: for ever
    #[arg(long, value_name = "SECONDS")]
    pub queue_timeout: Option<u32>,
    /// Seconds that a worker which has the run may take to begin it; 0: for ever
    #[arg(long, value_name = "SECONDS")]
    pub start_timeout: Option<u32>,
    /// Seconds that an attempt may run; 0: for ever
    #[arg(long, value_name = "SECONDS")]
    pub run_timeout: Option<u32>,
    /// Seconds that an attempt may print nothing; 0: for ever
    #[arg(long, value_name = "SECONDS")]
    pub silence_timeout: Option<u32>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum OnWorkerLost {
    /// It is tried again
    Requeue,
    /// It has failed
    Fail,
    /// It stays there until the worker comes back
    Wait,
}

impl PolicyArgs {
    fn json(&self) -> serde_json::Value {
        let mut policy = serde_json::Map::new();
        if let Some(priority) = self.priority {
            policy.insert("priority".into(), priority.into());
        }
        if let Some(groups) = &self.groups {
            policy.insert("groups".into(), without_empty(groups).into());
        }
        if let Some(value) = self.on_worker_lost.and_then(|lost| lost.to_possible_value()) {
            policy.insert("on_worker_lost".into(), value.get_name().into());
        }
        let numbers = [
            ("retries", self.retries),
            ("retry_delay", self.retry_delay),
            ("infrastructure_retries", self.infrastructure_retries),
            ("queue_timeout", self.queue_timeout),
            ("start_timeout", self.start_timeout),
            ("run_timeout", self.run_timeout),
            ("silence_timeout", self.silence_timeout),
        ];
        let given = numbers.into_iter().filter_map(|(key, value)| Some((key, value?)));
        policy.extend(given.map(|(key, value)| (key.to_owned(), value.into())));
        policy.into()
    }
}

/// `--tags ''` means none.
fn without_empty(names: &[String]) -> Vec<String> {
    names.iter().filter(|name| !name.trim().is_empty()).cloned().collect()
}

#[derive(Args, Debug, Default)]
pub struct StartArgs {
    /// Name or id
    pub pipeline: String,
    /// Value of an argument; may be repeated
    #[arg(long = "arg", value_name = "KEY=VALUE", value_parser = key_value)]
    pub arguments: Vec<(String, String)>,
    /// Tag that the worker must have for this run; may be repeated
    #[arg(long = "tag", value_name = "TAG")]
    pub tags: Vec<String>,
    /// What the worker of this run must and should be, beside what the pipeline asks for
    #[arg(long, value_name = "SELECTOR", default_value = "")]
    pub selector: String,
    /// Name or id of the only worker that may take it
    #[arg(long, value_name = "WORKER")]
    pub worker: Option<String>,
    #[command(flatten)]
    pub policy: PolicyArgs,
    /// Seconds to wait before it is started
    #[arg(long, value_name = "SECONDS", default_value_t)]
    pub delay: u64,
    /// A start with a key that was used before starts nothing, and shows the run of then
    #[arg(long, value_name = "KEY")]
    pub idempotency_key: Option<String>,
    /// Follow the run to its end; the exit code is 0 for success, 1 for failed, 3 for cancelled
    #[arg(long, short)]
    pub watch: bool,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write it as KEY=VALUE")?;
    if key.is_empty() {
        return Err("the key before `=` is empty".to_owned());
    }
    Ok((key.to_owned(), value.to_owned()))
}

/// The answer is the exit code.
pub async fn pipeline(command: PipelineCommand, client: &Client, output: Output) -> Result<u8> {
    match command {
        PipelineCommand::Create(args) => {
            let no_watch = args.no_watch;
            let pipeline = create(client, &args).await?;
            watch_build(client, &pipeline, output, no_watch).await
        }
        PipelineCommand::Ls => {
            let pipelines: Vec<Pipeline> = client.get("/api/v1/pipeline").await?;
            output.show(&pipelines, |pipelines| list(pipelines))?;
            Ok(0)
        }
        PipelineCommand::Build { pipeline, no_watch } => {
            let pipeline = find_pipeline(client, &pipeline).await?;
            let path = format!("/api/v1/pipeline/{}/pull", pipeline.id);
            client.call(Method::POST, &path, Some(&json!({}))).await?;
            let pipeline: Pipeline =
                client.get(&format!("/api/v1/pipeline/{}", pipeline.id)).await?;
            watch_build(client, &pipeline, output, no_watch).await
        }
        PipelineCommand::Set(args) => {
            let pipeline = set(client, &args).await?;
            output.show(&pipeline, |pipeline| format!("Pipeline {} is changed.", pipeline.name))?;
            Ok(0)
        }
        PipelineCommand::Schedule(args) => {
            let pipeline = schedule(client, &args).await?;
            output.show(&pipeline, show_schedules)?;
            Ok(0)
        }
        PipelineCommand::TriggerToken { pipeline, remove } => {
            let pipeline = find_pipeline(client, &pipeline).await?;
            trigger_token(client, &pipeline, remove, output).await?;
            Ok(0)
        }
        PipelineCommand::Run(args) => {
            let watch = args.watch;
            let pipeline = find_pipeline(client, &args.pipeline).await?;
            let run = start(client, &pipeline, &args).await?;
            if watch {
                return run::watch(client, &run, output).await;
            }
            output.show(&run, |run| {
                format!(
                    "Run {} of {} is on its way. Follow it with `gaia run logs -f {}`.",
                    run.id, run.pipelinename, run.uniqueid
                )
            })?;
            Ok(0)
        }
        PipelineCommand::Rm { pipeline } => {
            let pipeline = find_pipeline(client, &pipeline).await?;
            let path = format!("/api/v1/pipeline/{}", segment(&pipeline.id.to_string()));
            client.call(Method::DELETE, &path, None::<&()>).await?;
            output.show(&json!({ "id": pipeline.id }), |_| {
                format!("Pipeline {} is removed.", pipeline.name)
            })?;
            Ok(0)
        }
    }
}

pub async fn create(client: &Client, args: &CreateArgs) -> Result<Pipeline> {
    let key = match &args.git_key {
        Some(path) => std::fs::read_to_string(path)
            .with_context(|| format!("read the SSH key {}", path.display()))?,
        None => String::new(),
    };
    let body = json!({ "pipeline": {
        "name": args.name,
        "type": args.kind,
        "tags": args.tags,
        "selector": args.selector,
        "worker": args.worker,
        "policy": args.policy.json(),
        "repo": {
            "url": args.url,
            "selectedbranch": args.branch,
            "user": args.git_user,
            "password": args.git_password,
            "privatekey": { "key": key },
        },
    }});
    let created: Pipeline = client.post("/api/v1/pipeline", &body).await?;
    Ok(created)
}

async fn set(client: &Client, args: &SetArgs) -> Result<Pipeline> {
    let pipeline = find_pipeline(client, &args.pipeline).await?;
    let mut body = json!({ "policy": args.policy.json() });
    for (key, value) in
        [("name", &args.name), ("selector", &args.selector), ("worker", &args.worker)]
    {
        if let Some(value) = value {
            body[key] = value.as_str().into();
        }
    }
    if let Some(tags) = &args.tags {
        body["tags"] = without_empty(tags).into();
    }
    let path = format!("/api/v1/pipeline/{}", pipeline.id);
    let changed = client.call(Method::PUT, &path, Some(&body)).await?;
    serde_json::from_slice(&changed).context("read the pipeline")
}

async fn trigger_token(
    client: &Client,
    pipeline: &Pipeline,
    remove: bool,
    output: Output,
) -> Result<()> {
    let path = format!("/api/v1/pipeline/{}", pipeline.id);
    if remove {
        let path = format!("{path}/trigger-token");
        client.call(Method::DELETE, &path, None::<&()>).await?;
        output.show(&json!({ "id": pipeline.id }), |_| {
            format!("Pipeline {} cannot be started from outside any more.", pipeline.name)
        })?;
        return Ok(());
    }
    let path = format!("{path}/reset-trigger-token");
    let token = client.call(Method::PUT, &path, Some(&json!({}))).await?;
    let token: serde_json::Value = serde_json::from_slice(&token)?;
    output.show(&token, |token| {
        let token = token["trigger_token"].as_str().unwrap_or_default();
        let url = format!("{}/api/v1/pipeline/{}/{token}/trigger", client.server(), pipeline.id);
        format!(
            "{token}\nIt is not shown again. Whoever knows it can start {}, with the server's CA \
             certificate (ca/ca.pem in its data folder):\n\n    curl --cacert ca.pem -X POST {url}",
            pipeline.name
        )
    })?;
    Ok(())
}

async fn schedule(client: &Client, args: &ScheduleArgs) -> Result<Pipeline> {
    let pipeline = find_pipeline(client, &args.pipeline).await?;
    let mut body = json!({});
    if args.none || !args.schedules.is_empty() {
        body["periodicschedules"] = args.schedules.clone().into();
    }
    if let Some(zone) = &args.time_zone {
        body["time_zone"] = zone.as_str().into();
    }
    if let Some(missed) = args.missed.and_then(|missed| missed.to_possible_value()) {
        body["missed_ticks"] = missed.get_name().into();
    }
    if body == json!({}) {
        return Ok(pipeline);
    }
    let path = format!("/api/v1/pipeline/{}", pipeline.id);
    let changed = client.call(Method::PUT, &path, Some(&body)).await?;
    serde_json::from_slice(&changed).context("read the pipeline")
}

fn show_schedules(pipeline: &Pipeline) -> String {
    let name = &pipeline.name;
    let Ok(next) = i64::try_from(pipeline.next_start_at) else { return String::new() };
    match chrono::DateTime::from_timestamp_millis(next) {
        Some(next) if pipeline.next_start_at > 0 => format!(
            "Pipeline {name} starts by itself ({}, {}), next at {}.",
            pipeline.periodicschedules.join("; "),
            pipeline.time_zone,
            next.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
        ),
        _ => format!("Pipeline {name} does not start by itself."),
    }
}

pub async fn start(client: &Client, pipeline: &Pipeline, args: &StartArgs) -> Result<Run> {
    let mut values = BTreeMap::new();
    for (key, value) in &args.arguments {
        if values.insert(key, value).is_some() {
            bail!("the argument `{key}` is given twice");
        }
    }
    let arguments: Vec<_> =
        values.iter().map(|(key, value)| json!({ "key": key, "value": value })).collect();
    let mut body = json!({
        "args": arguments,
        "tags": args.tags,
        "selector": args.selector,
        "worker": args.worker.as_deref().unwrap_or_default(),
        "policy": args.policy.json(),
        "delay": args.delay,
    });
    if let Some(key) = &args.idempotency_key {
        body["idempotency"] = key.as_str().into();
    }
    let path = format!("/api/v1/pipeline/{}/start", pipeline.id);
    Ok(client.post(&path, &body).await?)
}

/// A build is a run: it is followed like one.
async fn watch_build(
    client: &Client,
    pipeline: &Pipeline,
    output: Output,
    no_watch: bool,
) -> Result<u8> {
    if no_watch {
        output.show(pipeline, |pipeline| {
            format!(
                "Pipeline {} is being built. Follow it with `gaia run logs -f {}`.",
                pipeline.name, pipeline.buildrunid
            )
        })?;
        return Ok(0);
    }
    let run: Run = client.get(&format!("/api/v1/run/{}", segment(&pipeline.buildrunid))).await?;
    run::watch(client, &run, output).await
}

fn list(pipelines: &[Pipeline]) -> String {
    if pipelines.is_empty() {
        return "No pipelines yet. Create one with `gaia pipeline create`.".to_owned();
    }
    table(
        ["ID", "NAME", "TYPE", "BUILD", "VERSION", "TAGS", "REPOSITORY"],
        pipelines.iter().map(|pipeline| {
            let build = match pipeline.builderror.lines().next() {
                Some(error) => format!("{}: {error}", pipeline.buildstate),
                None => pipeline.buildstate.clone(),
            };
            [
                pipeline.id.to_string(),
                pipeline.name.clone(),
                pipeline.kind.clone(),
                build,
                pipeline.version.to_string(),
                pipeline.tags.join(" "),
                pipeline.repo.as_ref().map(|repo| repo.url.clone()).unwrap_or_default(),
            ]
        }),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_may_hold_equals_signs() {
        assert_eq!(key_value("token=a=b"), Ok(("token".into(), "a=b".into())));
        assert!(key_value("token").is_err());
        assert!(key_value("=x").is_err());
    }
}
