//! A binary and a log over lines that are far, slow, lossy, out of order, blocked, or gone for a while.
//!
//! Each line is a network namespace of its own, joined to this one by `tests::line`. Where that cannot be
//! made (it takes root and `/dev/net/tun`), a test says so; the agent's own tests do the same over a relay
//! inside their process.
//!
//! `GAIA_OUTAGE=60` makes the outage last so many seconds.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use futures::{
    FutureExt as _,
    future::{BoxFuture, try_join_all},
};
use gaia::api::{Pipeline, Run};
use http::Method;
use ids::Digest;
use serde_json::{Value, json};
use tests::{
    Cluster,
    line::{FINE, Line, Weather},
};
use tokio::time::{Instant, sleep};

use crate::{program, story_pipeline};

const MIB: usize = 1 << 20;
/// Bytes of a line of a log, with its end.
const LINE: usize = 200;
/// 100 ms there and back.
const FAR: Weather = Weather { delay: Duration::from_millis(50), ..FINE };

/// One agent behind one line, and what it shall do there.
struct Case {
    name: &'static str,
    weather: Weather,
    /// Bytes of the binary, and of the log.
    binary: usize,
    log: usize,
    /// What happens once a part of the binary has come, and once a part of the log has.
    trouble: Trouble,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    None,
    Outage,
    Move,
    NoUdp,
}

fn cases() -> [Case; 10] {
    let case = |name, weather, binary, log, trouble| Case { name, weather, binary, log, trouble };
    [
        case("100 ms", FAR, 8 * MIB, 2 * MIB, Trouble::None),
        case("1 % lost", Weather { lost: 10, ..FAR }, MIB, MIB / 2, Trouble::None),
        case("5 % lost", Weather { lost: 50, ..FAR }, MIB / 2, MIB / 4, Trouble::None),
        case(
            "2 % lost in bursts of 8",
            Weather { lost: 20, burst: 8, ..FAR },
            MIB,
            MIB / 2,
            Trouble::None,
        ),
        case("5 % overtaken", Weather { overtaken: 50, ..FAR }, MIB, MIB / 2, Trouble::None),
        case("1 Mbit/s", Weather { rate: Some(1_000_000), ..FAR }, MIB / 2, MIB / 4, Trouble::None),
        case("UDP blocked", Weather { udp: false, ..FAR }, 8 * MIB, 2 * MIB, Trouble::None),
        case("UDP blocked in the middle", FAR, 8 * MIB, 2 * MIB, Trouble::NoUdp),
        case("outage", FAR, 8 * MIB, 2 * MIB, Trouble::Outage),
        case(
            "new addresses",
            Weather { delay: Duration::from_millis(5), ..FINE },
            100 * MIB,
            2 * MIB,
            Trouble::Move,
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_binary_and_a_log_arrive_whole_over_any_line() -> Result<()> {
    let (mut lines, cases) = (vec![], cases());
    for case in &cases {
        match Line::new(case.weather) {
            Ok(line) => lines.push(line),
            Err(error) => {
                eprintln!("NOT TRIED: no network can be made here: {error:#}");
                return Ok(());
            }
        }
    }
    // A run is kept through the longest outage.
    let mut cluster = Cluster::start_at(program(), "0.0.0.0:0", &["--worker-grace", "120"]).await?;
    cluster.agent("home", &[]).await?;
    let built = cases.iter().enumerate().map(|(number, case)| build(&cluster, number, case));
    let pipelines = try_join_all(built).await?;
    for (number, line) in lines.iter().enumerate() {
        let name = format!("far-{number}");
        cluster.launch_agent_behind(line, program(), &name, &["--tag", &name]).await?;
    }
    let tried = cases.iter().zip(&lines).zip(&pipelines).enumerate();
    let tried = tried.map(|(number, ((case, line), pipeline))| Try {
        cluster: &cluster,
        agent: format!("far-{number}"),
        case,
        line,
        pipeline,
    });
    let tried: Vec<_> = tried.collect();
    try_join_all(tried.iter().map(Try::arrives)).await?;
    Ok(())
}

/// A binary of its own that starts the story pipeline: nobody has it yet.
async fn build(cluster: &Cluster, number: usize, case: &Case) -> Result<Pipeline> {
    let program = cluster.home(&format!("program-{number}"));
    let mut script =
        format!("#!/bin/sh\n# {}\nexec '{}' \"$@\"\n", case.name, story_pipeline().display())
            .into_bytes();
    // What does not shrink under way. The shell reads no further than its `exec`.
    let mut dice = number as u64 + 1;
    script.resize_with(case.binary, || {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (dice >> 56) as u8
    });
    fs::write(&program, script)?;
    fs::set_permissions(&program, fs::metadata(story_pipeline())?.permissions())?;
    cluster.pipeline_of(&format!("story-{number}"), &program, &[]).await
}

struct Try<'a> {
    cluster: &'a Cluster,
    agent: String,
    case: &'a Case,
    line: &'a Line,
    pipeline: &'a Pipeline,
}

impl Try<'_> {
    fn arrives(&self) -> BoxFuture<'_, Result<()>> {
        async { self.try_it().await.with_context(|| self.case.name.to_owned()) }.boxed()
    }

    async fn try_it(&self) -> Result<()> {
        let lines = self.case.log / LINE;
        let arguments = json!([
            { "key": "lines", "value": lines.to_string() },
            { "key": "width", "value": (LINE - 1).to_string() },
            { "key": "seconds", "value": "3" },
        ]);
        let body = json!({ "tags": [self.agent], "args": arguments });
        let run = self.cluster.start_run(self.pipeline, body).await?.uniqueid;
        let cache = self.cluster.home(&self.agent).join("cache");
        let some = (self.case.binary / 8) as u64;
        self.cluster
            .until("a part of the binary has come", async || {
                Ok((size_of(&cache) > some).then_some(()))
            })
            .await?;
        let begun = Instant::now();
        self.trouble().await?;
        let log = format!("/api/v1/run/{run}/log");
        self.cluster
            .until("a part of the log has come", async || {
                let about: Value = self.cluster.client.get(&format!("{log}?about=1")).await?;
                Ok((about["size"].as_u64() > Some(self.case.log as u64 / 8)).then_some(()))
            })
            .await?;
        let fetched = begun.elapsed();
        self.trouble().await?;
        let run = self.cluster.ended(&run).await?;
        let took = begun.elapsed();
        self.is_whole(&run, lines, &log).await?;
        self.tell(fetched, took)
    }

    async fn trouble(&self) -> Result<()> {
        match self.case.trouble {
            Trouble::None => {}
            Trouble::Move => self.line.move_other()?,
            Trouble::NoUdp => self.line.change(|weather| weather.udp = false),
            Trouble::Outage => {
                self.line.change(|weather| weather.up = false);
                sleep(outage()?).await;
                self.line.change(|weather| weather.up = true);
            }
        }
        Ok(())
    }

    /// The agent has checked the binary's digest, or it would not have started it.
    async fn is_whole(&self, run: &Run, lines: usize, log: &str) -> Result<()> {
        ensure!(run.status == "success", "{}: {}", run.status, run.reason);
        ensure!(run.attempts.len() == 1, "{} attempts", run.attempts.len());
        let about: Value = self.cluster.client.get(&format!("{log}?about=1")).await?;
        let bytes =
            self.cluster.client.call(Method::GET, &format!("{log}?raw=1"), None::<&()>).await?;
        let sealed = &about["sealed"];
        ensure!(sealed["sha256"] == Digest::of(&bytes).to_string(), "{about}");
        ensure!(sealed["gaps"] == 0 && sealed["incomplete"] == "", "{about}");
        let text = String::from_utf8(bytes.to_vec())?;
        let printed = text.lines().filter_map(|line| line.strip_prefix("line ")?.split(' ').next());
        ensure!(printed.map(str::parse).eq((0..lines).map(Ok)), "lines are missing");
        Ok(())
    }

    fn tell(&self, fetched: Duration, took: Duration) -> Result<()> {
        let (down, up) = (self.line.down.bytes(), self.line.up.bytes());
        let lost = [&self.line.down, &self.line.up]
            .map(|way| way.lost.load(std::sync::atomic::Ordering::Relaxed));
        println!(
            "{}: {:.1} MiB of binary and {:.2} MiB of log; the log began after {fetched:.1?}, the end came \
             after {took:.1?}; down {:.1} MiB by UDP and {:.1} by TCP, up {:.1} and {:.1}; {lost:?} packets lost",
            self.case.name,
            mib(self.case.binary as u64),
            mib(self.case.log as u64),
            mib(down.0),
            mib(down.1),
            mib(up.0),
            mib(up.1),
        );
        let binary = self.case.binary as u64;
        match self.case.trouble {
            _ if !self.case.weather.udp => ensure!(down.0 == 0 && down.1 > binary, "not by TCP"),
            // Nothing was fetched again, and the connections outlived their addresses.
            Trouble::Move => ensure!(down.0 < binary * 5 / 4, "{} bytes came", down.0),
            _ => {}
        }
        Ok(())
    }
}

fn outage() -> Result<Duration> {
    let text = std::env::var("GAIA_OUTAGE").unwrap_or_else(|_| "5".into());
    Ok(Duration::from_secs(text.parse().context("GAIA_OUTAGE: write seconds")?))
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn mib(bytes: u64) -> f64 {
    bytes as f64 / MIB as f64
}

/// Bytes of all files in a folder.
fn size_of(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let sizes = entries.map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => size_of(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    });
    sizes.sum()
}
