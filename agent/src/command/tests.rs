//! Steps against real programs.

use std::{fs, time::Duration};

use super::*;
use crate::{
    mask::Secrets,
    order::{Language, Lease, Order, RunTask, Task},
    spool::{Bounds, Shelf, Spool},
    stop::{Stopper, Why},
};

struct Fixture {
    dir: tempfile::TempDir,
    spool: Spool,
    site: Site,
}

async fn begin(grace: Duration) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let stopper = Stopper::default();
    let bounds = Bounds::of(&crate::Config::default());
    let shelf = Shelf::new(dir.path().join("log"));
    let (spool, log, _) =
        Spool::start(shelf, Secrets::default(), bounds, stopper.clone()).await.unwrap();
    let lease = Lease { run: "0".repeat(32).parse().unwrap(), attempt: 1, token: "t".into() };
    let task = RunTask {
        digest: ids::Digest::of(b""),
        size: 0,
        jobs: Vec::new(),
        done: Vec::new(),
        arguments: Vec::new(),
    };
    let order = Order {
        lease,
        pipeline: 1,
        language: Language::Cpp,
        environment: vec![("GREETING".into(), "hello".into())],
        secrets: Secrets::default(),
        longest_silence: None,
        task: Task::Run(task),
    };
    let site = Site::new(&order, dir.path().join("work"), log, stopper, grace).unwrap();
    Fixture { dir, spool, site }
}

impl Fixture {
    fn shell(&self, script: &str) -> Step {
        Step::new("build", "sh", self.dir.path()).args(["-c", script])
    }

    async fn log(self) -> String {
        let Self { dir, spool, site } = self;
        spool.finish(site.log).await;
        fs::read_to_string(dir.path().join("log/00000000000000000000.log")).unwrap()
    }
}

#[tokio::test]
async fn a_step_prints_into_the_log() {
    let fixture = begin(Duration::from_secs(5)).await;
    fixture.shell("echo $GREETING; echo oops >&2").run(&fixture.site).await.unwrap();
    let log = fixture.log().await;
    assert!(log.starts_with("build: sh -c echo $GREETING"), "{log}");
    assert!(log.contains("\nhello\n") && log.contains("\noops\n"), "{log}");
}

#[tokio::test]
async fn an_answer_is_not_printed() {
    let fixture = begin(Duration::from_secs(5)).await;
    let answer = fixture.shell("echo 42; echo note >&2").answer(&fixture.site).await;
    assert_eq!(answer, Ok("42".into()));
    assert_eq!(fixture.log().await, "note\n");
}

#[tokio::test]
async fn a_failure_names_the_step_and_ends_with_the_last_lines() {
    let fixture = begin(Duration::from_secs(5)).await;
    let failed = fixture.shell("echo first; echo last words; exit 3").run(&fixture.site).await;
    let Err(Trouble::Pipeline(why)) = failed else { panic!("{failed:?}") };
    assert!(why.starts_with("build failed: `sh -c echo"), "{why}");
    assert!(why.contains("exit status: 3") && why.ends_with("first\nlast words"), "{why}");
}

#[tokio::test]
async fn a_missing_tool_and_a_full_disk_are_the_worker_s() {
    let fixture = begin(Duration::from_secs(5)).await;
    let missing = Step::new("build", "no-such-tool", fixture.dir.path()).run(&fixture.site).await;
    assert!(matches!(&missing, Err(Trouble::Worker(why)) if why.contains("`no-such-tool`")));
    let script = "echo 'cc: No space left on device' >&2; exit 1";
    let full = fixture.shell(script).run(&fixture.site).await;
    assert!(matches!(&full, Err(Trouble::Worker(why)) if why.contains("disk")), "{full:?}");
}

/// Ends the test's step when it has begun.
async fn stop_when_begun(fixture: &Fixture, why: Why) {
    let begun = fixture.dir.path().join("begun");
    while !begun.exists() {
        tokio::task::yield_now().await;
    }
    fixture.site.stopper.stop(why);
}

#[tokio::test]
async fn a_stopped_step_gets_time_to_end() {
    let fixture = begin(Duration::from_mins(1)).await;
    let step =
        fixture.shell("trap 'echo bye; exit 0' TERM; touch begun; while :; do sleep 0.05; done");
    let (done, ()) =
        tokio::join!(step.run(&fixture.site), stop_when_begun(&fixture, Why::Cancelled));
    assert_eq!(done, Err(Trouble::Stopped));
    // The shell may have a word about its own child, before or after.
    let log = fixture.log().await;
    assert!(log.contains("\nbye\n"), "{log}");
}

#[tokio::test]
async fn a_step_that_does_not_end_is_killed_with_all_that_it_started() {
    let fixture = begin(Duration::from_millis(50)).await;
    let script = "trap '' TERM; sleep 300 & echo $! > child; touch begun; while :; do wait; done";
    let step = fixture.shell(script);
    let (done, ()) =
        tokio::join!(step.run(&fixture.site), stop_when_begun(&fixture, Why::Cancelled));
    assert_eq!(done, Err(Trouble::Stopped));
    let child = fs::read_to_string(fixture.dir.path().join("child")).unwrap();
    let state = |pid: &str| fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // A killed orphan may wait for its new parent for a moment.
    while !state(child.trim()).is_empty() && !state(child.trim()).contains(") Z ") {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_daemon_that_a_step_leaves_does_not_hold_it() {
    let fixture = begin(Duration::from_mins(1)).await;
    fixture.shell("sleep 300 & echo done").run(&fixture.site).await.unwrap();
    assert!(fixture.log().await.ends_with("done\n"));
}
