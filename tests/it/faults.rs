//! Everything that a log passes through is killed, one after another every two seconds, under a load of
//! logs. In the end every log is whole, or says what it lacks.
//!
//! `GAIA_FAULTS=200x10` takes 200 runs of 10 MB each instead of what CI takes.

use std::{collections::HashSet, ops::ControlFlow, path::PathBuf, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use gaia::api::{Pipeline, Run};
use http::Method;
use ids::Digest;
use prost::Message as _;
use proto::{logs::events::v1::LogSealed, scheduler::events::v1::RunFinished};
use serde_json::{Value, json};
use tests::{Cluster, Setting};
use tokio::time::{Instant, interval, timeout};

use crate::{program, story_pipeline};

const EVERY: Duration = Duration::from_secs(2);
/// In this order, again and again.
const VICTIMS: [&str; 5] = ["svc-logs", "gateway", "one", "svc-artifacts", "two"];
const AGENTS: [&str; 2] = ["one", "two"];
/// Bytes of a line, with its end.
const LINE: usize = 200;
/// How long a run prints, in seconds.
const SECONDS: usize = 4;
/// Each has a binary of its own, which each agent must fetch.
const PIPELINES: usize = 4;
/// A run of the whole story may take so long.
const LONGEST: Duration = Duration::from_hours(2);

struct Load {
    runs: usize,
    lines: usize,
}

impl Load {
    fn wanted() -> Result<Self> {
        let text = std::env::var("GAIA_FAULTS").unwrap_or_else(|_| "30x1".into());
        let parts = text.split_once('x').and_then(|(runs, megabytes)| {
            Some((runs.parse().ok()?, megabytes.parse::<usize>().ok()?))
        });
        let (runs, megabytes) = parts.context("GAIA_FAULTS: write <runs>x<megabytes>")?;
        Ok(Self { runs, lines: megabytes * 1_000_000 / LINE })
    }

    fn line(&self, number: usize) -> String {
        let text = format!("line {number} of {}", self.lines);
        format!("{text:.<width$}", width = LINE - 1)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_whole_or_say_what_they_lack_while_everything_is_killed() -> Result<()> {
    let load = Load::wanted()?;
    let settings = [
        Setting {
            service: "svc-scheduler",
            lines: "max_infrastructure_attempts = 1000\n",
            environment: &[],
        },
        Setting { service: "svc-registry", lines: "grace_ms = 8000\n", environment: &[] },
    ];
    let mut cluster = Cluster::start_apart(program(), &settings, |_| Ok(())).await?;
    for agent in AGENTS {
        cluster.agent(agent, &["--slots", "3"]).await?;
    }
    let pipelines = pipelines(&cluster).await?;
    let mut runs = vec![];
    for number in 0..load.runs {
        let arguments = json!([
            { "key": "lines", "value": load.lines.to_string() },
            { "key": "width", "value": (LINE - 1).to_string() },
            { "key": "seconds", "value": SECONDS.to_string() },
        ]);
        let pipeline = &pipelines[number % PIPELINES];
        let run = cluster.start_run(pipeline, json!({ "args": arguments })).await?;
        runs.push(run.uniqueid);
    }
    let begun = Instant::now();
    let kills = kill_until_over(&mut cluster, &runs).await?;
    let took = begun.elapsed();
    ensure!(
        kills >= 2 * VICTIMS.len(),
        "only {kills} kills: the load is too small to tell anything"
    );
    // What killed agents left is shipped by their next lives.
    cluster
        .until("every spool is empty", async || {
            let left = AGENTS.iter().flat_map(|agent| spooled(&cluster, agent)).next();
            Ok(left.is_none().then_some(()))
        })
        .await?;
    let mut tally = Tally::default();
    for run in &runs {
        check(&cluster, &load, run, &mut tally).await.with_context(|| format!("run {run}"))?;
    }
    sealed_before_the_end(&cluster, &runs)?;
    println!("{} runs, {kills} kills in {took:.1?}: {tally:?}", runs.len());
    Ok(())
}

async fn pipelines(cluster: &Cluster) -> Result<Vec<Pipeline>> {
    let mut made = vec![];
    for number in 0..PIPELINES {
        // The loader does not look at what lies behind the program.
        let own = cluster.home(&format!("program-{number}"));
        let mut bytes = std::fs::read(story_pipeline())?;
        bytes.extend(number.to_le_bytes());
        std::fs::write(&own, bytes)?;
        std::fs::set_permissions(&own, std::fs::metadata(story_pipeline())?.permissions())?;
        made.push(cluster.pipeline_of(&format!("story-{number}"), &own, &[]).await?);
    }
    Ok(made)
}

fn spooled(cluster: &Cluster, agent: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(cluster.home(agent).join("spool")).into_iter().flatten();
    entries.flatten().map(|entry| entry.path()).collect()
}

/// Answers how many were killed until the last run was over.
async fn kill_until_over(cluster: &mut Cluster, runs: &[String]) -> Result<usize> {
    let (mut open, mut kills) = (runs.to_vec(), 0);
    let mut beats = interval(EVERY);
    beats.tick().await;
    let deadline = Instant::now() + LONGEST;
    for victim in VICTIMS.iter().cycle() {
        beats.tick().await;
        cluster.kill(victim).await?;
        kills += 1;
        if cluster.is_service(victim) {
            cluster.restart(victim)?;
        } else {
            cluster.launch_agent_by(victim, "", &["--slots", "3"])?;
        }
        // A gateway that was just killed may not answer yet.
        let look = timeout(EVERY / 2, forget_ended(cluster, &mut open));
        if let Ok(Ok(())) = look.await
            && open.is_empty()
        {
            break;
        }
        ensure!(Instant::now() < deadline, "{} runs did not end: {open:?}", open.len());
    }
    Ok(kills)
}

async fn forget_ended(cluster: &Cluster, open: &mut Vec<String>) -> Result<()> {
    while let Some(last) = open.last() {
        if !cluster.run(last).await?.is_over() {
            // The next look begins with another one.
            open.rotate_right(1);
            break;
        }
        open.pop();
    }
    Ok(())
}

#[derive(Debug, Default)]
struct Tally {
    attempts: usize,
    /// Attempts that were cut short, and whose logs say so.
    cut_short: usize,
    without_log: usize,
    bytes: usize,
}

/// Every attempt's log is what was sealed; the last one's has every line, and what an earlier one lacks
/// at its end is told.
async fn check(cluster: &Cluster, load: &Load, id: &str, tally: &mut Tally) -> Result<()> {
    let run = cluster.ended(id).await?;
    ensure!(run.status == "success", "{}: {}", run.status, run.reason);
    for attempt in &run.attempts {
        tally.attempts += 1;
        let is_last = attempt.attempt == run.attempts.len() as u32;
        // A service that was killed last may not answer yet.
        let look = async || log_of(cluster, &run, attempt.attempt).await.map(Some);
        let log = cluster.until("the log can be read", look).await?;
        let Some((sealed, bytes)) = log else {
            ensure!(!is_last, "the last attempt has no log");
            tally.without_log += 1;
            continue;
        };
        tally.bytes += bytes.len();
        ensure!(sealed["size"] == bytes.len() && sealed["gaps"] == 0, "{sealed}");
        ensure!(sealed["sha256"] == Digest::of(&bytes).to_string(), "{sealed}");
        let text = String::from_utf8(bytes)?;
        let printed = printed(load, &text, is_last)?;
        let is_told = sealed["incomplete"] != "" || text.contains("this attempt was taken away");
        if printed < load.lines || !text.contains("\nend\n") {
            ensure!(
                !is_last && is_told,
                "{printed} lines in attempt {}: {sealed}",
                attempt.attempt
            );
            tally.cut_short += 1;
        }
    }
    Ok(())
}

/// What the attempt's log was sealed with, and its bytes.
async fn log_of(cluster: &Cluster, run: &Run, attempt: u32) -> Result<Option<(Value, Vec<u8>)>> {
    let path = format!("/api/v1/run/{}/log?attempt={attempt}", run.uniqueid);
    let about: Value = cluster.client.get(&format!("{path}&about=1")).await?;
    if about["attempt"] == 0 {
        return Ok(None);
    }
    ensure!(!about["sealed"].is_null(), "attempt {attempt} is not sealed: {about}");
    let bytes = cluster.client.call(Method::GET, &format!("{path}&raw=1"), None::<&()>).await?;
    Ok(Some((about["sealed"].clone(), bytes.to_vec())))
}

/// How many of the lines are there, none of them missing in between.
fn printed(load: &Load, text: &str, is_whole: bool) -> Result<usize> {
    let mut lines = text.lines().filter(|line| line.starts_with("line ")).enumerate().peekable();
    let mut count = 0;
    while let Some((number, line)) = lines.next() {
        // The last one of an attempt that was cut short may be cut too.
        let is_cut = !is_whole && lines.peek().is_none() && load.line(number).starts_with(line);
        match line == load.line(number) {
            true => count += 1,
            false if is_cut => {}
            false => bail!("`{line}` is there in place of line {number}"),
        }
    }
    Ok(count)
}

/// In the event log, the end of a log comes before the end of its run.
fn sealed_before_the_end(cluster: &Cluster, runs: &[String]) -> Result<()> {
    let (mut sealed, mut ended) = (HashSet::new(), 0);
    eventlog::files::walk(&cluster.home("server").join("log"), 0, |entry| {
        let event = &entry.recorded.event;
        match &*event.event_type {
            "LogSealed" => {
                let event = LogSealed::decode(&event.data[..])?;
                sealed.insert((event.run_id, event.attempt));
            }
            "RunFinished" => {
                let event = RunFinished::decode(&event.data[..])?;
                ensure!(
                    sealed.contains(&(event.run_id.clone(), event.attempt)),
                    "run {} ended before its log did",
                    event.run_id
                );
                ended += usize::from(runs.contains(&event.run_id));
            }
            _ => {}
        }
        Ok(ControlFlow::Continue(()))
    })?;
    ensure!(ended == runs.len(), "{ended} of {} runs ended, each once", runs.len());
    Ok(())
}
