//! Processes of this program, started apart, watched, and never left behind: for the demonstration
//! and for the system stories.

use std::{
    collections::HashMap,
    ffi::OsString,
    fs::{self, File},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use futures::future::join_all;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    time::timeout,
};

/// How long a process may take to say that it is ready, and to end when asked.
const READY: Duration = Duration::from_secs(30);
const END: Duration = Duration::from_secs(10);
/// How long it may take before it is asked again.
const SOON: Duration = Duration::from_secs(1);

/// Everything that was started. Dropping it kills what is left.
#[derive(Debug)]
pub struct Processes {
    program: PathBuf,
    logs: PathBuf,
    running: HashMap<String, Child>,
    /// What killed processes had started; nobody else looks after it now.
    orphans: Vec<i32>,
}

impl Processes {
    /// `program` is the `gaia` program; `logs` the folder for what processes write to standard error.
    pub fn new(program: &Path, logs: &Path) -> Result<Self> {
        fs::create_dir_all(logs).with_context(|| format!("create {}", logs.display()))?;
        Ok(Self {
            program: program.to_owned(),
            logs: logs.to_owned(),
            running: HashMap::new(),
            orphans: vec![],
        })
    }

    #[must_use]
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Starts the program with these arguments.
    pub fn start(
        &mut self,
        name: &str,
        arguments: &[OsString],
        environment: &[(&str, &str)],
    ) -> Result<()> {
        let program = self.program.clone();
        self.start_program(&program, name, arguments, environment)
    }

    /// Starts another program, which is watched like this one.
    pub fn start_program(
        &mut self,
        program: &Path,
        name: &str,
        arguments: &[OsString],
        environment: &[(&str, &str)],
    ) -> Result<()> {
        let errors = File::options()
            .create(true)
            .append(true)
            .open(self.log_of(name))
            .with_context(|| format!("open the log of {name}"))?;
        let child = Command::new(program)
            .args(arguments)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(errors)
            // Its own group: a Ctrl-C in the terminal is for this process, which ends the others in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("start {name}"))?;
        self.running.insert(name.to_owned(), child);
        Ok(())
    }

    /// Waits for the line of standard output that starts with `start`, and answers with its rest.
    pub async fn line(&mut self, name: &str, start: &str) -> Result<String> {
        let child = self.running.get_mut(name).with_context(|| format!("{name} does not run"))?;
        let output =
            child.stdout.take().with_context(|| format!("{name} was waited for before"))?;
        let mut lines = BufReader::new(output).lines();
        let found = timeout(READY, async {
            while let Some(line) = lines.next_line().await? {
                if let Some(rest) = line.strip_prefix(start) {
                    return Ok(Some(rest.to_owned()));
                }
            }
            std::io::Result::Ok(None)
        });
        let what = match found.await {
            Ok(Ok(Some(rest))) => return Ok(rest),
            Ok(_) => "ended early",
            Err(_) => "is not ready in time",
        };
        bail!("{name} {what}; it said:\n{}", self.last_words(name))
    }

    /// Kills a process as a power cut would: nothing of it gets to clean up.
    pub async fn kill(&mut self, name: &str) -> Result<()> {
        let mut child =
            self.running.remove(name).with_context(|| format!("{name} does not run"))?;
        self.orphans.extend(child.id().into_iter().flat_map(descendants));
        child.kill().await.with_context(|| format!("kill {name}"))
    }

    /// Asks a process to end (SIGTERM), and waits for it.
    pub async fn stop(&mut self, name: &str) -> Result<std::process::ExitStatus> {
        let mut child =
            self.running.remove(name).with_context(|| format!("{name} does not run"))?;
        if let Some(pid) = child.id() {
            signal(pid.cast_signed(), Signal::SIGTERM);
        }
        let ended = timeout(END, child.wait()).await;
        let ended = ended.with_context(|| format!("{name} did not end when asked"))?;
        ended.with_context(|| format!("wait for {name}"))
    }

    /// The number under which the system knows it.
    pub fn pid(&self, name: &str) -> Option<u32> {
        self.running.get(name).and_then(Child::id)
    }

    /// Fails with what a process said, if it ended by itself.
    pub fn check(&mut self) -> Result<()> {
        for (name, child) in &mut self.running {
            if let Some(status) = child.try_wait().with_context(|| format!("look after {name}"))? {
                let name = name.clone();
                bail!("{name} ended by itself ({status}); it said:\n{}", self.last_words(&name));
            }
        }
        Ok(())
    }

    /// Ends everything: asks once, which lets agents finish what they hold, soon asks again, which
    /// makes them end it, and at last does not ask.
    pub async fn end(mut self) {
        for patience in [SOON, END] {
            for pid in self.running.values().filter_map(Child::id) {
                signal(pid.cast_signed(), Signal::SIGTERM);
            }
            let ended = self.running.values_mut().map(Child::wait);
            if timeout(patience, join_all(ended)).await.is_ok() {
                break;
            }
        }
        // What is left goes with the last reference.
    }

    fn log_of(&self, name: &str) -> PathBuf {
        self.logs.join(format!("{name}.log"))
    }

    /// What a process has written to standard error so far.
    pub fn said(&self, name: &str) -> String {
        fs::read_to_string(self.log_of(name)).unwrap_or_default()
    }

    fn last_words(&self, name: &str) -> String {
        let text = self.said(name);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        for child in self.running.values_mut() {
            // One that ended has no id any more.
            self.orphans.extend(child.id().into_iter().flat_map(descendants));
            child.start_kill().ok();
        }
        for orphan in self.orphans.drain(..) {
            signal(orphan, Signal::SIGKILL);
        }
    }
}

/// The processes that a process started, and theirs.
fn descendants(pid: u32) -> Vec<i32> {
    let read = |path: &Path| fs::read_to_string(path.join("children")).unwrap_or_default();
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let mut found = Vec::new();
    for child in tasks.flat_map(|task| {
        let pids = read(&task.path());
        pids.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<u32>>()
    }) {
        found.push(child.cast_signed());
        found.extend(descendants(child));
    }
    found
}

/// The process may be gone already; then there is nothing to signal.
fn signal(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).ok();
}
