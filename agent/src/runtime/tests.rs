//! The runtime against real pipelines: processes, sockets, TLS, signals, nothing pretended.
//!
//! The pipelines are this very test binary: started with [`PIPELINE`] set, its one test
//! [`pipeline_process`] becomes a pipeline of our SDK. The test harness prints lines of its own
//! first, so noise before the handshake is part of every test.

mod failures;
mod graphs;
mod python;
mod stopping;
mod strangers;

use std::{collections::HashMap, env, path::Path, process::ExitCode, time::Duration};

use gaia_sdk::{Ctx, Job, JobResult, Stop};
use nix::{errno::Errno, sys::signal::kill, unistd::Pid};
use proto::common::v1::JobSpec;
use tempfile::TempDir;
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    GraphOutcome, JobTransition, JobUpdate, Launch, Output, Plugin, StartError, Stream, run_graph,
};

const PIPELINE: &str = "RUNTIME_TEST_PIPELINE";
const DEADLINE: Duration = Duration::from_secs(30);

/// No test, unless asked to be a pipeline.
#[test]
fn pipeline_process() {
    let Ok(kind) = env::var(PIPELINE) else { return };
    let code = gaia_sdk::serve(match kind.as_str() {
        "diamond" => diamond(),
        "troubled" => troubled(),
        other => panic!("no pipeline {other}"),
    });
    std::process::exit(i32::from(code != ExitCode::SUCCESS));
}

fn diamond() -> Vec<Job> {
    // Left and right wait for each other, so they end only if they run at the same time.
    let left = gaia_sdk::tokio::sync::Semaphore::new(0);
    let meet = std::sync::Arc::new((left, gaia_sdk::tokio::sync::Semaphore::new(0)));
    let meet_again = meet.clone();
    vec![
        Job::new("Top", top).text("greeting", "What to print").default("hello").secret("TOKEN"),
        Job::new("Left", move |_| {
            let meet = meet.clone();
            async move {
                meet.0.add_permits(1);
                meet.1.acquire().await?.forget();
                Ok(())
            }
        })
        .after("top"),
        Job::new("Right", move |_| {
            let meet = meet_again.clone();
            async move {
                meet.1.add_permits(1);
                meet.0.acquire().await?.forget();
                Ok(())
            }
        })
        .after("top"),
        Job::new("Bottom", bottom).after("LEFT").after("right"),
    ]
}

async fn top(ctx: Ctx) -> JobResult {
    println!("{} with {}", ctx.text("greeting")?, ctx.find("TOKEN").unwrap_or("no token"));
    Ok(())
}

async fn bottom(_: Ctx) -> JobResult {
    use std::io::Write as _;
    eprint!("no newline at the end");
    print!("nor here");
    std::io::stdout().flush()?;
    Ok(())
}

/// Every job stands alone.
fn troubled() -> Vec<Job> {
    vec![
        Job::new("Fails", |_| async { Err(std::io::Error::other("the disk is full").into()) }),
        Job::new("Panics", |_| async { panic!("the sky falls") }),
        Job::new("Exits", |_| async { Err(Stop::exit("nothing to do")) }),
        Job::new("Waits", waits),
        Job::new("Spawns", spawns),
        Job::new("Escapes", escapes),
    ]
}

async fn waits(_: Ctx) -> JobResult {
    println!("pid {}", std::process::id());
    std::future::pending().await
}

/// Starts a grandchild that would outlive everybody, and heeds no SIGTERM.
async fn spawns(_: Ctx) -> JobResult {
    let child = std::process::Command::new("sh")
        .args(["-c", "trap '' TERM; while :; do sleep 1000; done"])
        .spawn()?;
    println!("pid {}", child.id());
    std::future::pending().await
}

/// What it starts leaves the process group, and prints for ever.
async fn escapes(_: Ctx) -> JobResult {
    let child = std::process::Command::new("setsid")
        .args(["sh", "-c", "while :; do echo still here; sleep 0.2; done"])
        .spawn()?;
    println!("pid {}", child.id());
    std::future::pending().await
}

/// A started pipeline and all that came out of it.
struct Running {
    plugin: Plugin,
    jobs: Vec<JobSpec>,
    output: Collected,
    scratch: TempDir,
}

impl Running {
    async fn new(kind: &str) -> Self {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        let (sender, output) = Collected::new();
        let launch = itself(kind, scratch.path());
        let started = Plugin::start(launch, sender, &CancellationToken::new()).await;
        let mut plugin = started.expect("the pipeline starts");
        let jobs = plugin.jobs().await.expect("the pipeline lists its jobs");
        Self { plugin, jobs, output, scratch }
    }

    /// Runs only the jobs with these titles.
    async fn run(&self, titles: &[&str], cancel: CancellationToken) -> (GraphOutcome, Vec<Told>) {
        let wanted = |job: &&JobSpec| titles.contains(&job.title.as_str());
        let jobs: Vec<_> = self.jobs.iter().filter(wanted).cloned().collect();
        run(&self.plugin, &jobs, &HashMap::new(), cancel).await
    }

    fn id(&self, title: &str) -> u32 {
        self.jobs.iter().find(|job| job.title == title).expect("such a job").id
    }
}

type Told = (String, JobTransition);

async fn run(
    plugin: &Plugin,
    jobs: &[JobSpec],
    arguments: &HashMap<String, String>,
    cancel: CancellationToken,
) -> (GraphOutcome, Vec<Told>) {
    let (sender, mut receiver) = mpsc::channel(1000);
    let outcome = run_graph(plugin, jobs, arguments, sender, cancel);
    let outcome = timeout(DEADLINE, outcome).await.expect("the run ends");
    let mut updates = Vec::new();
    while let Some(JobUpdate { job, transition }) = receiver.recv().await {
        let title = jobs.iter().find(|spec| spec.id == job).expect("a known job").title.clone();
        updates.push((title, transition));
    }
    (outcome, updates)
}

fn itself(kind: &str, scratch: &Path) -> Launch {
    let test = format!("{}::pipeline_process", module_path!().split_once("::").expect("a path").1);
    Launch {
        program: env::current_exe().expect("a path"),
        args: [test.as_str(), "--exact", "--nocapture"].map(Into::into).to_vec(),
        cwd: scratch.to_owned(),
        env: vec![(PIPELINE.into(), kind.into())],
        scratch: scratch.join("plugin"),
    }
}

fn shell(script: &str, scratch: &Path) -> Launch {
    Launch {
        program: "/bin/sh".into(),
        args: vec!["-c".into(), script.into()],
        cwd: scratch.to_owned(),
        env: vec![("PATH".into(), env::var_os("PATH").unwrap_or_default())],
        scratch: scratch.join("plugin"),
    }
}

/// Receives output until the pipeline is gone.
struct Collected {
    so_far: tokio::sync::watch::Receiver<HashMap<Stream, String>>,
    task: JoinHandle<()>,
}

impl Collected {
    fn new() -> (mpsc::Sender<Output>, Self) {
        let (sender, mut receiver) = mpsc::channel::<Output>(1);
        let (tell, so_far) = tokio::sync::watch::channel(HashMap::<Stream, String>::new());
        let task = tokio::spawn(async move {
            while let Some(Output { stream, bytes, .. }) = receiver.recv().await {
                let text = String::from_utf8_lossy(&bytes).into_owned();
                tell.send_modify(|all| {
                    all.entry(stream).or_default().push_str(&text);
                });
            }
        });
        (sender, Self { so_far, task })
    }

    /// Waits for a line with these words on stdout and answers what follows them.
    async fn after(&mut self, words: &str) -> String {
        let follows = |all: &HashMap<Stream, String>| {
            let (_, rest) = all.get(&Stream::Stdout)?.rsplit_once(words)?;
            Some(rest.split_once('\n')?.0.to_owned())
        };
        let found = self.so_far.wait_for(|all| follows(all).is_some());
        let all = timeout(DEADLINE, found).await.expect("output in time").expect("a live pipeline");
        follows(&all).expect("just found")
    }

    async fn all(self, stream: Stream) -> String {
        timeout(DEADLINE, self.task).await.expect("the output ends").expect("no panic");
        self.so_far.borrow().get(&stream).cloned().unwrap_or_default()
    }
}

/// Waits until there is no such process, or only its remains, which somebody else has to collect.
async fn gone(pid: &str) {
    let number = Pid::from_raw(pid.trim().parse().expect("a process id"));
    let is_gone = || {
        let stat = std::fs::read_to_string(format!("/proc/{number}/stat")).unwrap_or_default();
        kill(number, None) == Err(Errno::ESRCH) || stat.contains(") Z ")
    };
    let wait = async {
        while !is_gone() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(DEADLINE, wait).await.expect("the process ends");
}

async fn refusal(launch: Launch) -> StartError {
    let (sender, _output) = Collected::new();
    let cancel = CancellationToken::new();
    timeout(DEADLINE, Plugin::start(launch, sender, &cancel))
        .await
        .expect("an answer")
        .expect_err("no pipeline")
}
