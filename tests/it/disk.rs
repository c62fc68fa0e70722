//! svc-logs on disks that are full, fail or are slow: nothing that is acknowledged is missing, and no run
//! ends before its log is stored.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use gaia::api::{Pipeline, Run};
use http::Method;
use ids::Digest;
use serde_json::{Value, json};
use tests::{Cluster, Setting};

use crate::{program, story_pipeline};

const LINES: usize = 20_000;
const LINE: usize = 200;

/// Where the disk of svc-logs is told what to do.
struct Disk {
    /// `disk/faulty.c`, built.
    library: PathBuf,
    wish: PathBuf,
    _folder: tempfile::TempDir,
}

impl Disk {
    fn new() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let library = folder.path().join("faulty.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("it/disk/faulty.c");
        run(Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source))?;
        Ok(Self { library, wish: folder.path().join("wish"), _folder: folder })
    }

    fn shall(&self, wish: &str) -> Result<()> {
        // As a whole, or not at all.
        let aside = self.wish.with_extension("new");
        fs::write(&aside, wish)?;
        Ok(fs::rename(aside, &self.wish)?)
    }
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("run {command:?}"))?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}

/// A file system that is smaller than one log. Gone when this is dropped.
struct Small(PathBuf);

impl Small {
    fn mount(at: PathBuf) -> Result<Self> {
        fs::create_dir_all(&at)?;
        run(Command::new("mount").args(["-t", "tmpfs", "-o", "size=2m", "tmpfs"]).arg(&at))?;
        Ok(Self(at))
    }

    fn grow(&self) -> Result<()> {
        run(Command::new("mount").args(["-o", "remount,size=64m"]).arg(&self.0))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // Lazily: the service that uses it may still run.
        run(Command::new("umount").arg("-l").arg(&self.0)).ok();
    }
}

async fn start(cluster: &Cluster, pipeline: &Pipeline) -> Result<Run> {
    let arguments = json!([
        { "key": "lines", "value": LINES.to_string() },
        { "key": "width", "value": (LINE - 1).to_string() },
    ]);
    cluster.start_run(pipeline, json!({ "args": arguments })).await
}

/// Waits until svc-logs has met the fault, once more than before.
async fn met(cluster: &Cluster, what: &str, run: &Run) -> Result<()> {
    let what = format!("the log of run {}, attempt 1 is closed: {what}", run.uniqueid);
    cluster.said("svc-logs", &what).await?;
    ensure!(!cluster.run(&run.uniqueid).await?.is_over(), "it ended without its log");
    Ok(())
}

async fn is_whole(cluster: &Cluster, run: &Run) -> Result<()> {
    let run = cluster.ended(&run.uniqueid).await?;
    ensure!(run.attempts.len() == 1, "{} attempts: {}", run.attempts.len(), run.reason);
    ends_whole(cluster, &run).await
}

async fn ends_whole(cluster: &Cluster, run: &Run) -> Result<()> {
    let run = cluster.ended(&run.uniqueid).await?;
    ensure!(run.status == "success", "{}: {}", run.status, run.reason);
    let path = format!("/api/v1/run/{}/log", run.uniqueid);
    let about: Value = cluster.client.get(&format!("{path}?about=1")).await?;
    let bytes = cluster.client.call(Method::GET, &format!("{path}?raw=1"), None::<&()>).await?;
    let sealed = &about["sealed"];
    ensure!(sealed["sha256"] == Digest::of(&bytes).to_string(), "{about}");
    ensure!(sealed["gaps"] == 0 && sealed["incomplete"] == "", "{about}");
    let text = String::from_utf8(bytes.to_vec())?;
    let lines = text.lines().filter(|line| line.starts_with("line "));
    for (number, line) in (0..LINES).zip(lines.clone()) {
        ensure!(line.trim_end_matches('.') == format!("line {number} of {LINES}"), "{line}");
    }
    ensure!(lines.count() == LINES);
    Ok(())
}

#[tokio::test]
async fn a_disk_that_fails_loses_no_line_and_ends_no_run_early() -> Result<()> {
    let disk = Disk::new()?;
    let below = tempfile::tempdir()?;
    let below = below.path().canonicalize()?;
    let setting = Setting {
        service: "svc-logs",
        lines: &format!("data = '{}'\n", below.display()),
        environment: &[
            ("LD_PRELOAD", &disk.library.display().to_string()),
            ("FAULTY_DISK", &disk.wish.display().to_string()),
            ("FAULTY_BELOW", &below.display().to_string()),
        ],
    };
    let mut cluster = Cluster::start_apart(program(), &[setting], |_| Ok(())).await?;
    cluster.agent("one", &[]).await?;
    let pipeline = cluster.pipeline_of("story", story_pipeline(), &[]).await?;
    let faults = [
        ("write 5", "write the log of run"),
        ("sync 5", "write the log of run"),
        ("write 28", "no space is left"),
    ];
    for (fault, told) in faults {
        disk.shall(fault)?;
        let run = start(&cluster, &pipeline).await?;
        met(&cluster, told, &run).await?;
        disk.shall("")?;
        is_whole(&cluster, &run).await.context(fault)?;
    }
    disk.shall("slow 200")?;
    let run = start(&cluster, &pipeline).await?;
    is_whole(&cluster, &run).await.context("slow")
}

#[tokio::test]
async fn an_agent_whose_disk_is_slow_or_fails_loses_no_line() -> Result<()> {
    let disk = Disk::new()?;
    let mut cluster = Cluster::start(program()).await?;
    let environment: [(&str, &str); 3] = [
        ("LD_PRELOAD", &disk.library.display().to_string()),
        ("FAULTY_DISK", &disk.wish.display().to_string()),
        ("FAULTY_BELOW", &cluster.home("one").join("spool").display().to_string()),
    ];
    cluster.agent_with("one", &[], &environment).await?;
    let pipeline = cluster.pipeline_of("story", story_pipeline(), &[]).await?;
    disk.shall("slow 100")?;
    let run = start(&cluster, &pipeline).await?;
    is_whole(&cluster, &run).await.context("slow")?;

    for fault in ["write 5", "write 28"] {
        disk.shall(fault)?;
        let run = start(&cluster, &pipeline).await?;
        let is_given_back = |run: &Run| {
            let first = run.attempts.first();
            first.is_some_and(|first| first.reason.contains("cannot keep the log"))
        };
        cluster.run_that(&run.uniqueid, "is given back", is_given_back).await?;
        disk.shall("")?;
        ends_whole(&cluster, &run).await.context(fault)?;
    }
    Ok(())
}

/// A real one. Where this user may not mount one, the test above has to do: it is told so.
#[tokio::test]
async fn a_full_disk_holds_a_run_until_there_is_room() -> Result<()> {
    let mut small = None;
    let prepare = |folder: &Path| {
        small = Some(Small::mount(folder.join("svc-logs/logs")));
        Ok(())
    };
    let mut cluster = Cluster::start_apart(program(), &[], prepare).await?;
    let small = match small.context("the folder is prepared")? {
        Ok(small) => small,
        Err(error) => {
            eprintln!("NOT TRIED: no small file system can be mounted here: {error:#}");
            return Ok(());
        }
    };
    cluster.agent("one", &[]).await?;
    let pipeline = cluster.pipeline_of("story", story_pipeline(), &[]).await?;
    let run = start(&cluster, &pipeline).await?;
    met(&cluster, "no space is left", &run).await?;
    small.grow()?;
    is_whole(&cluster, &run).await
}
