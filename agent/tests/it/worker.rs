//! An agent under test, with its server and its orders.

use std::{env, path::PathBuf, time::Duration};

use agent::{AgentError, Config};
use proto::worker::{Argument, Job, PipelineRun};
use tempfile::TempDir;
use tokio::{task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    PIPELINE,
    peer::{Peer, SECRET},
};

const DEADLINE: Duration = Duration::from_mins(1);

#[derive(Debug)]
pub(crate) struct Fixture {
    pub(crate) dir: TempDir,
    pub(crate) peer: Peer,
    pub(crate) config: Config,
}

#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) drain: CancellationToken,
    pub(crate) abort: CancellationToken,
    task: JoinHandle<Result<(), AgentError>>,
}

impl Fixture {
    pub(crate) async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let peer = Peer::start(dir.path()).await;
        let config = Config {
            server: peer.url(),
            name: "tester".into(),
            secret: SECRET.into(),
            ca_certificate: peer.ca(),
            home: dir.path().join("home"),
            slots: 4,
            grace_seconds: 5,
            tags: vec!["extra".into()],
            ..Config::default()
        };
        Self { dir, peer, config }
    }

    pub(crate) fn agent(&self) -> Running {
        let (drain, abort) = (CancellationToken::new(), CancellationToken::new());
        let agent = agent::run_until(self.config.clone(), drain.clone(), abort.clone());
        Running { task: tokio::spawn(agent), drain, abort }
    }

    /// Stores a script that starts this pipeline, and makes an order to run it.
    pub(crate) fn order(&self, kind: &str) -> PipelineRun {
        let script = script(kind);
        let digest = self.peer.store(script.as_bytes());
        PipelineRun {
            artifact_size: script.len() as u64,
            sha_sum: digest.as_bytes().to_vec(),
            ..blank()
        }
    }

    /// An order for the pipeline that waits, and the folder that it looks at.
    pub(crate) fn order_to_wait(&self) -> (PipelineRun, PathBuf) {
        let folder = self.dir.path().join(Uuid::from_bytes(identity::random()).to_string());
        std::fs::create_dir(&folder).unwrap();
        let args = vec![argument("textfield", "folder", folder.to_str().unwrap())];
        let order = PipelineRun { jobs: vec![job("Wait", args)], ..self.order("waits") };
        (order, folder)
    }
}

impl Running {
    /// How the agent ended, by itself.
    pub(crate) async fn ended(self) -> Result<(), AgentError> {
        timeout(DEADLINE, self.task).await.expect("the agent should end").unwrap()
    }

    pub(crate) async fn drained(self) {
        self.drain.cancel();
        self.ended().await.unwrap();
    }
}

/// A pipeline of the test binary, as an executable.
pub(crate) fn script(kind: &str) -> String {
    let test = env::current_exe().unwrap();
    format!(
        "#!/bin/sh\n{PIPELINE}={kind} exec '{}' pipeline_process --exact --nocapture\n",
        test.display()
    )
}

pub(crate) fn blank() -> PipelineRun {
    PipelineRun {
        unique_id: Uuid::from_bytes(identity::random()).to_string(),
        id: 1,
        status: "scheduled".into(),
        pipeline_id: 7,
        pipeline_name: "test".into(),
        pipeline_type: "golang".into(),
        attempt: 1,
        lease_token: Uuid::from_bytes(identity::random()).to_string(),
        ..PipelineRun::default()
    }
}

pub(crate) fn job(title: &str, args: Vec<Argument>) -> Job {
    Job { unique_id: fnv(title), title: title.into(), args, ..Job::default() }
}

pub(crate) fn argument(kind: &str, key: &str, value: &str) -> Argument {
    let (key, value) = (key.into(), value.into());
    Argument { r#type: kind.into(), key, value, ..Argument::default() }
}

/// How our SDK makes ids.
fn fnv(title: &str) -> u32 {
    title.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// Waits until the file has something in it.
pub(crate) async fn content(path: PathBuf) -> String {
    let found = async {
        loop {
            match std::fs::read_to_string(&path) {
                Ok(text) if !text.is_empty() => return text,
                _ => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    };
    timeout(DEADLINE, found).await.expect("the file should appear")
}

/// Waits until it is so.
pub(crate) async fn until(is_so: impl Fn() -> bool) {
    let waited = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(DEADLINE, waited).await.expect("it should become so");
}

/// Waits until no process has this id.
pub(crate) async fn gone(pid: &str) {
    let stat = format!("/proc/{}/stat", pid.trim());
    let ended = async {
        while std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z ")) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(DEADLINE, ended).await.expect("the process should end");
}
