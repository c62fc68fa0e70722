//! Runs one program of a preparation or a build, with its output in the log.
//!
//! The program gets a process group of its own, and nothing of the group outlives the step.

use std::{
    collections::VecDeque,
    ffi::{OsStr, OsString},
    io,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use bytes::BytesMut;
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    process::{Child, Command},
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::{
    processes,
    runtime::{Jobs, Output, Stream},
    site::Site,
    stop::Trouble,
};

/// Lines of output that a failure ends with.
const LAST_LINES: usize = 12;
const LONGEST_TAIL: usize = 2000;
/// How long we wait in all for what is still in the pipes when the process has ended.
const LAST_WORDS: Duration = Duration::from_secs(2);
const PIECE: usize = 16 * 1024;
/// The most that the two pipes hold then.
const MOST_LEFT: usize = 2 << 20;

/// What to run. `name` is what people call the step: "clone", "build", "prepare".
#[derive(Debug)]
pub(crate) struct Step {
    name: &'static str,
    program: PathBuf,
    args: Vec<OsString>,
    dir: PathBuf,
    env: Vec<(OsString, OsString)>,
    /// Standard output is the answer, and not for the log.
    quiet: bool,
}

impl Step {
    pub(crate) fn new(name: &'static str, program: impl Into<PathBuf>, dir: &Path) -> Self {
        let (program, dir) = (program.into(), dir.to_path_buf());
        Self { name, program, args: Vec::new(), dir, env: Vec::new(), quiet: false }
    }

    pub(crate) fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    pub(crate) fn env(mut self, key: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((key.into(), value.into()));
        self
    }

    /// Runs it to its end; anything but exit status 0 is the pipeline's trouble.
    pub(crate) async fn run(self, site: &Site) -> Result<(), Trouble> {
        site.log.note(format!("{}: {}", self.name, self.shown())).await;
        self.conduct(site).await.map(drop)
    }

    /// Runs it for its standard output.
    pub(crate) async fn answer(mut self, site: &Site) -> Result<String, Trouble> {
        self.quiet = true;
        let output = self.conduct(site).await?;
        Ok(String::from_utf8_lossy(&output).trim().to_owned())
    }

    fn shown(&self) -> String {
        let program = self.program.file_name().unwrap_or(self.program.as_os_str());
        let words = std::iter::once(program).chain(self.args.iter().map(OsString::as_os_str));
        words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
    }

    async fn conduct(self, site: &Site) -> Result<Vec<u8>, Trouble> {
        let mut child = self.spawn(site)?;
        let group = Group::of(&child);
        processes::record(&site.work, group.0.as_raw().unsigned_abs());
        let stdout = child.stdout.take().expect("stdout is piped");
        let stderr = child.stderr.take().expect("stderr is piped");
        let mut tail = Tail::default();
        let mut answer = Vec::new();
        let status = {
            let (name, quiet) = (self.name, self.quiet);
            let ended = CancellationToken::new();
            let reading = read(stdout, stderr, quiet, &mut answer, &mut tail, site, &ended);
            tokio::pin!(reading);
            let mut stopped = false;
            let status = loop {
                tokio::select! {
                    () = &mut reading => break group.end(&mut child, site, stopped).await,
                    status = child.wait() => {
                        group.signal(Signal::SIGKILL);
                        ended.cancel();
                        reading.await;
                        break status;
                    }
                    () = site.stopper.token().cancelled(), if !stopped => {
                        stopped = true;
                        group.signal(Signal::SIGTERM);
                    }
                    () = tokio::time::sleep(site.grace()), if stopped => {
                        group.signal(Signal::SIGKILL);
                    }
                }
            };
            status.map_err(|error| Trouble::io(format!("waiting for {name}"), error))?
        };
        if site.stopper.why().is_some() {
            return Err(Trouble::Stopped);
        }
        if status.success() { Ok(answer) } else { Err(self.failed(status, &tail)) }
    }

    fn spawn(&self, site: &Site) -> Result<Child, Trouble> {
        let spawned = Command::new(&self.program)
            .args(&self.args)
            .current_dir(&self.dir)
            .env_clear()
            .envs(site.environment())
            .envs(self.env.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn();
        spawned.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound if self.dir.is_dir() => Trouble::Worker(format!(
                "{} needs `{}`, which this worker does not have",
                self.name,
                self.program.display()
            )),
            _ => Trouble::io(format!("starting `{}`", self.program.display()), error),
        })
    }

    fn failed(&self, status: ExitStatus, tail: &Tail) -> Trouble {
        let text = tail.text();
        if text.contains("No space left on device") {
            return Trouble::Worker(format!(
                "the disk of this worker is full: {} failed: {text}",
                self.name
            ));
        }
        let program = self.shown();
        let program = program.split(' ').take(3).collect::<Vec<_>>().join(" ");
        let says = if text.is_empty() { "it printed nothing".into() } else { text };
        Trouble::Pipeline(format!("{} failed: `{program}` ended with {status}:\n{says}", self.name))
    }
}

/// Reads both streams to their ends; once the process has `ended`, no longer than what it left there
/// takes, for a daemon may hold them. A log that is full costs no patience: only waiting for bytes does.
async fn read(
    mut stdout: impl AsyncRead + Unpin,
    mut stderr: impl AsyncRead + Unpin,
    quiet: bool,
    answer: &mut Vec<u8>,
    tail: &mut Tail,
    site: &Site,
    ended: &CancellationToken,
) {
    let (mut out_open, mut err_open) = (true, true);
    let (mut out, mut err) = (BytesMut::with_capacity(PIECE), BytesMut::with_capacity(PIECE));
    let (mut patience, mut left) = (LAST_WORDS, MOST_LEFT);
    while (out_open || err_open) && left > 0 {
        let begun = Instant::now();
        let late = async {
            ended.cancelled().await;
            sleep(patience).await;
        };
        let (stream, buffer) = tokio::select! {
            count = stdout.read_buf(&mut out), if out_open => {
                out_open = matches!(count, Ok(1..));
                (Stream::Stdout, &mut out)
            }
            count = stderr.read_buf(&mut err), if err_open => {
                err_open = matches!(count, Ok(1..));
                (Stream::Stderr, &mut err)
            }
            () = late => return,
        };
        let bytes = buffer.split().freeze();
        if ended.is_cancelled() {
            patience = patience.saturating_sub(begun.elapsed());
            left = left.saturating_sub(bytes.len());
        }
        buffer.reserve(PIECE);
        if bytes.is_empty() {
            continue;
        }
        if quiet && stream == Stream::Stdout {
            answer.extend_from_slice(&bytes);
            continue;
        }
        tail.push(&bytes);
        site.log.output(Output::now(stream, Jobs::from([]), bytes)).await;
    }
}

/// A process group; dropping it kills what is left of it.
#[derive(Debug)]
struct Group(Pid);

impl Group {
    fn of(child: &Child) -> Self {
        let id = child.id().expect("nobody has waited for the child yet");
        Self(Pid::from_raw(i32::try_from(id).expect("the kernel's pids fit")))
    }

    fn signal(&self, signal: Signal) {
        // The group may be gone.
        killpg(self.0, signal).ok();
    }

    /// Both pipes are closed: the process ends, or somebody ends it.
    async fn end(&self, child: &mut Child, site: &Site, stopped: bool) -> io::Result<ExitStatus> {
        let ended = async {
            if stopped {
                tokio::time::sleep(site.grace()).await;
            } else {
                site.stopper.token().cancelled().await;
            }
        };
        tokio::select! {
            status = child.wait() => status,
            () = ended => {
                self.signal(Signal::SIGKILL);
                child.wait().await
            }
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
    }
}

/// The last lines of output.
#[derive(Debug, Default)]
struct Tail(VecDeque<u8>);

impl Tail {
    fn push(&mut self, bytes: &[u8]) {
        self.0.extend(&bytes[bytes.len().saturating_sub(LONGEST_TAIL)..]);
        let surplus = self.0.len().saturating_sub(LONGEST_TAIL);
        self.0.drain(..surplus);
    }

    fn text(&self) -> String {
        let bytes: Vec<u8> = self.0.iter().copied().collect();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text.trim().lines().collect();
        lines[lines.len().saturating_sub(LAST_LINES)..].join("\n")
    }
}

#[cfg(test)]
mod tests;
