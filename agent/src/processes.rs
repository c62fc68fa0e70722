//! The processes of attempts, and their certain end.
//!
//! Whatever an attempt starts has its work folder in the environment, from its first moment on and wherever it
//! goes: out of its process group, into a session of its own, under another parent. So nothing outlives its
//! attempt, nor an agent that was killed. A program may write over its environment to show a title; therefore
//! the process groups are noted too, and ended by their leaders.

use std::{
    ffi::{OsStr, OsString},
    fs,
    os::unix::ffi::OsStrExt as _,
    path::Path,
};

use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};

const MARK: &str = "GAIA_WORK";
/// A process may start another one while we look.
const LOOKS: usize = 20;

/// For the environment of all that is started in this work folder.
pub(crate) fn mark(work: &Path) -> (OsString, OsString) {
    (MARK.into(), work.into())
}

/// Kills what has the mark of this folder or of one in it.
pub(crate) fn end_marked(folder: &Path) {
    for _ in 0..LOOKS {
        let found = marked(folder);
        if found.is_empty() {
            return;
        }
        for pid in found {
            tracing::warn!(%pid, "killing what an attempt left running");
            // It may have ended.
            kill(pid, Signal::SIGKILL).ok();
        }
    }
}

fn marked(folder: &Path) -> Vec<Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let is_marked = |pid: &i32| {
        // Empty for what has ended, and closed where it is somebody else's.
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| {
            let value = variable.strip_prefix(MARK.as_bytes());
            let value = value.and_then(|value| value.strip_prefix(b"="));
            value.is_some_and(|value| Path::new(OsStr::from_bytes(value)).starts_with(folder))
        })
    };
    pids.filter(is_marked).map(Pid::from_raw).collect()
}

/// Kills the process groups that are noted here.
pub(crate) fn end_recorded(work: &Path) {
    for process in Process::recorded(work) {
        process.kill_if_it_still_lives();
    }
}

/// A process group that an attempt started, told from strangers by its leader's start time.
#[derive(Debug, PartialEq, Eq)]
struct Process {
    group: i32,
    started: u64,
}

/// Notes in an attempt's work folder that this process group is its own.
pub(crate) fn record(work: &Path, group: u32) {
    let Some(started) = start_time(group) else { return };
    let path = work.join(format!("pid-{group}"));
    if let Err(error) = fs::write(&path, format!("{group} {started}\n")) {
        tracing::warn!(path = %path.display(), %error, "cannot note a process");
    }
}

impl Process {
    fn recorded(work: &Path) -> Vec<Self> {
        let entries = fs::read_dir(work).into_iter().flatten().flatten();
        entries
            .filter(|entry| entry.file_name().to_string_lossy().starts_with("pid-"))
            .filter_map(|entry| Self::parse(&fs::read_to_string(entry.path()).ok()?))
            .collect()
    }

    fn parse(text: &str) -> Option<Self> {
        let (group, started) = text.trim().split_once(' ')?;
        let group = group.parse().ok().filter(|group| *group > 1)?;
        Some(Self { group, started: started.parse().ok()? })
    }

    fn kill_if_it_still_lives(&self) {
        if start_time(self.group.unsigned_abs()) == Some(self.started) {
            tracing::warn!(group = self.group, "killing what a previous life of the agent left");
            if let Err(error) = killpg(Pid::from_raw(self.group), Signal::SIGKILL) {
                tracing::warn!(%error, "cannot kill it");
            }
        }
    }
}

/// Clock ticks between the machine's start and the process's (field 22 of /proc/<pid>/stat).
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::{os::unix::process::CommandExt as _, process::Command};

    use super::*;
    use crate::home::{Home, make_dir};

    #[test]
    fn what_a_previous_life_started_is_killed_and_strangers_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let sleep = || std::process::Command::new("sleep").arg("60").process_group(0).spawn();
        let (mut ours, mut stranger) = (sleep().unwrap(), sleep().unwrap());
        let work = {
            let home = Home::open(dir.path()).unwrap();
            let work = home.work("run-1");
            make_dir(&work).unwrap();
            work
        };
        record(&work, ours.id());
        fs::write(work.join(format!("pid-{}", stranger.id())), format!("{} 1", stranger.id()))
            .unwrap();

        let home = Home::open(dir.path()).unwrap();
        assert!(!home.work("run-1").exists());
        assert!(!ours.wait().unwrap().success());
        assert_eq!(stranger.try_wait().unwrap(), None);
        stranger.kill().unwrap();
        stranger.wait().unwrap();
    }

    #[test]
    fn what_left_its_group_is_found_by_its_mark_and_strangers_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let (work, other) = (dir.path().join("work/run-1"), dir.path().join("work/run-11"));
        let sleep = |work: &Path| {
            let (key, value) = mark(work);
            // Its leader ends at once, and it has a session of its own.
            let script = "setsid sleep 60 >/dev/null 2>&1 & echo $!";
            let mut leader = Command::new("sh");
            leader.args(["-c", script]).env(key, value).process_group(0);
            let printed = leader.output().unwrap().stdout;
            String::from_utf8(printed).unwrap().trim().parse::<i32>().unwrap()
        };
        let (ours, others) = (sleep(&work), sleep(&other));
        end_marked(&work);
        assert!(!marked(dir.path()).contains(&Pid::from_raw(ours)));
        assert!(marked(dir.path()).contains(&Pid::from_raw(others)), "of another attempt");
        end_marked(&dir.path().join("work"));
        assert_eq!(marked(dir.path()), []);
    }
}
