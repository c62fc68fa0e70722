//! Steps against real programs.

use std::{fs, time::Duration};

use futures::FutureExt as _;

use super::*;
use crate::{
    config::WhenFull,
    mask::Secrets,
    order::{Language, Lease, Order, RunTask, Task},
    spool::{Bounds, Shelf, Shipment, Spool},
    stop::{Stopper, Why},
};

struct Fixture {
    dir: tempfile::TempDir,
    spool: Spool,
    site: Site,
}

async fn begin(grace: Duration) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let shelf = Shelf::new(dir.path().join("log"));
    begin_with(dir, shelf, Bounds::of(&crate::Config::default()), grace).await.0
}

async fn begin_with(
    dir: tempfile::TempDir,
    shelf: Shelf,
    bounds: Bounds,
    grace: Duration,
) -> (Fixture, Shipment) {
    let stopper = Stopper::default();
    let (spool, log, shipment) =
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
    let site =
        Site::new(&order, dir.path().join("work"), log, stopper, CancellationToken::new(), grace)
            .unwrap();
    (Fixture { dir, spool, site }, shipment)
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

#[tokio::test]
async fn the_last_words_of_a_step_wait_for_room_in_the_log() {
    let dir = tempfile::tempdir().unwrap();
    // Two segments are the least that a spool may have.
    let shelf = Shelf::with_segments(dir.path().join("log"), 1000);
    let bounds = Bounds { log: 1 << 20, spool: 2000, when_full: WhenFull::Block };
    let (fixture, mut shipment) =
        begin_with(dir, shelf.clone(), bounds, Duration::from_secs(5)).await;
    fixture.site.log.note("x".repeat(5000)).await;
    shipment.progress.wait_for(|progress| progress.blocked).await.unwrap();
    while fixture.site.log.note("waits for the disk").now_or_never().is_some() {}

    let step = fixture.shell("echo $$ > begun; echo last words >&2");
    let shipping = async {
        let begun = fixture.dir.path().join("begun");
        let pid = async || fs::read_to_string(&begun).unwrap_or_default().trim().to_owned();
        while pid().await.is_empty() || Path::new("/proc").join(pid().await).exists() {
            tokio::task::yield_now().await;
        }
        // It has ended, and the server is away for much longer.
        tokio::time::pause();
        tokio::time::advance(Duration::from_mins(10)).await;
        tokio::time::resume();
        let mut taken = vec![];
        loop {
            let progress = *shipment.progress.borrow_and_update();
            while (taken.len() as u64) < progress.size {
                let rest = progress.size - taken.len() as u64;
                taken.extend(shelf.read(taken.len() as u64, rest).await.unwrap());
            }
            shipment.acknowledged.send_replace(taken.len() as u64);
            if taken.ends_with(b"last words\n") {
                return;
            }
            shipment.progress.changed().await.expect("the last words come before the end");
        }
    };
    let stepping = async {
        assert_eq!(step.answer(&fixture.site).await, Ok(String::new()));
    };
    tokio::join!(stepping, shipping);
}
