//! A child process in a group of its own, its output, and its certain end.
//!
//! One task waits for the child. When the child ends, or when its [`Process`] is dropped, the whole
//! group is killed, so that nothing that a job started stays behind. A process that left the group
//! by itself (`setsid`) is not found here; its pipes are closed soon after, so that it holds no attempt,
//! at whose end it is killed by its mark (`processes`).

use std::{
    fmt, io,
    os::unix::process::ExitStatusExt as _,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::{
    process::{Child, ChildStderr, ChildStdout, Command},
    sync::watch,
    time::sleep,
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::Launch;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Code(i32),
    Signal(i32),
    /// The operating system would not say.
    Unknown,
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "ended with exit status {code}"),
            Self::Signal(signal) => write!(f, "ended with signal {signal}"),
            Self::Unknown => write!(f, "ended, but nobody knows how"),
        }
    }
}

impl From<ExitStatus> for Exit {
    fn from(status: ExitStatus) -> Self {
        match (status.code(), status.signal()) {
            (Some(code), _) => Self::Code(code),
            (None, Some(signal)) => Self::Signal(signal),
            (None, None) => Self::Unknown,
        }
    }
}

/// A running child. Dropping it kills its group.
#[derive(Debug)]
pub(super) struct Process {
    group: Pid,
    exit: watch::Receiver<Option<Exit>>,
    _kill: DropGuard,
}

/// Another thread that forks at the wrong moment holds a just written program open for a moment.
const BUSY_RETRIES: u32 = 40;
const BUSY_PAUSE: Duration = Duration::from_millis(25);

impl Process {
    pub(super) async fn spawn(launch: &Launch) -> io::Result<(Self, ChildStdout, ChildStderr)> {
        let mut child = spawn_when_free(launch).await?;
        let stdout = child.stdout.take().expect("stdout is piped");
        let stderr = child.stderr.take().expect("stderr is piped");
        let id = child.id().expect("nobody has waited for the child yet");
        let group = Pid::from_raw(i32::try_from(id).expect("the kernel's pids fit"));
        let (report, exit) = watch::channel(None);
        let kill = CancellationToken::new();
        tokio::spawn(attend(child, group, kill.clone(), report));
        Ok((Self { group, exit, _kill: kill.drop_guard() }, stdout, stderr))
    }

    /// Answers at once when the child has ended already.
    pub(super) async fn ended(&self) -> Exit {
        let mut exit = self.exit.clone();
        // The sender always reports before it goes.
        exit.wait_for(Option::is_some).await.ok().and_then(|exit| *exit).unwrap_or(Exit::Unknown)
    }

    /// The id of the process group.
    pub(super) fn group(&self) -> u32 {
        self.group.as_raw().unsigned_abs()
    }

    pub(super) fn exit(&self) -> Option<Exit> {
        *self.exit.borrow()
    }

    /// Signals every process of the group; harmless when all of them have ended.
    pub(super) fn signal(&self, signal: Signal) {
        if self.exit().is_none() {
            send(self.group, signal);
        }
    }
}

async fn spawn_when_free(launch: &Launch) -> io::Result<Child> {
    let mut command = Command::new(&launch.program);
    command
        .args(&launch.args)
        .current_dir(&launch.cwd)
        .env_clear()
        .envs(launch.env.iter().map(|(key, value)| (key, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    for _ in 0..BUSY_RETRIES {
        match command.spawn() {
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => {
                sleep(BUSY_PAUSE).await;
            }
            done => return done,
        }
    }
    command.spawn()
}

async fn attend(
    mut child: Child,
    group: Pid,
    kill: CancellationToken,
    report: watch::Sender<Option<Exit>>,
) {
    let status = tokio::select! {
        status = child.wait() => status,
        () = kill.cancelled() => {
            send(group, Signal::SIGKILL);
            child.wait().await
        }
    };
    // What the child started and left behind. The number cannot have gone to a new group yet: the
    // kernel hands out all others first.
    send(group, Signal::SIGKILL);
    report.send_replace(Some(status.map_or(Exit::Unknown, Exit::from)));
}

fn send(group: Pid, signal: Signal) {
    match killpg(group, signal) {
        Ok(()) | Err(Errno::ESRCH) => {}
        Err(error) => tracing::warn!(%group, %signal, %error, "could not signal a process group"),
    }
}
