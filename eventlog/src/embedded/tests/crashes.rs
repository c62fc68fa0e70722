//! Seeded crash schedules: a client works, the disk fails somewhere, the log starts again, and so on.
//!
//! `EVENTLOG_SCHEDULES=100000` runs so many; `EVENTLOG_SEED=17` runs that one.

use std::{
    env, error, iter,
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use tokio::runtime::Builder;

use super::history::{Broke, History, clock};
use crate::{
    Log, OpenError, Options,
    disk::simulated::{Fault, Mounted, Random, Restart, mount},
    verify,
};

/// Small, so that every schedule rolls over.
pub(super) const OPTIONS: Options = Options { segment_bytes: 3_000 };

fn number(name: &str) -> Option<u64> {
    let text = env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

/// Says which seed it was.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("to repeat: EVENTLOG_SEED={}", self.0);
        }
    }
}

#[test]
fn nothing_acknowledged_is_lost() {
    let (first, count) = match number("EVENTLOG_SEED") {
        Some(seed) => (seed, 1),
        None => (0, number("EVENTLOG_SCHEDULES").unwrap_or(3_000)),
    };
    let (next, planned, struck) = (AtomicU64::new(first), AtomicU64::new(0), AtomicU64::new(0));
    let work = || {
        // On a runtime of several threads whoever appends may write.
        let runtimes = [Builder::new_current_thread(), Builder::new_multi_thread()]
            .map(|mut builder| builder.worker_threads(1).build().unwrap());
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + count {
                break;
            }
            let _seed = Seed(seed);
            let runtime = &runtimes[(seed % 2) as usize];
            let (of, happened) = runtime.block_on(schedule(seed));
            planned.fetch_add(of, Ordering::Relaxed);
            struck.fetch_add(happened, Ordering::Relaxed);
        }
    };
    let threads = thread::available_parallelism().map_or(2, usize::from);
    thread::scope(|scope| iter::repeat_n(work, threads).for_each(|work| drop(scope.spawn(work))));
    let (planned, struck) = (planned.into_inner(), struck.into_inner());
    println!("{count} schedules: {struck} of {planned} faults happened");
    assert!(count < 100 || struck * 100 >= planned * 95, "{struck} of {planned} faults happened");
}

/// Returns how many faults were planned, and how many happened.
async fn schedule(seed: u64) -> (u64, u64) {
    let mounted = mount(seed);
    let mut random = Random::new(!seed);
    let mut history = History::new(seed);
    let rounds = 1 + random.below(5);
    let mut happened = 0;
    for _ in 0..rounds {
        let fault = Fault::ALL[random.below(Fault::ALL.len() as u64) as usize];
        // Early: the start itself is hit.
        let after = if random.chance(1, 3) { random.below(20) } else { random.below(60) };
        mounted.disk.plan(after, fault);
        round(&mounted, &mut history, &mut random).await;
        happened += u64::from(mounted.disk.struck().is_some());
        let how = if random.chance(1, 2) { Restart::Process } else { Restart::Machine };
        mounted.disk.restart(how);
    }
    settle(&mounted, &mut history).await;
    (rounds, happened)
}

/// From a start until something breaks, or for a while.
async fn round(mounted: &Mounted, history: &mut History, random: &mut Random) {
    let log = match Log::open_with(&mounted.root.join("log"), clock(), OPTIONS) {
        Ok(log) => log,
        Err(error) => return check_refusal(mounted, &error),
    };
    let mut outcome = history.look(&log).await;
    if outcome.is_ok() {
        // What an earlier round asked for is there, or will never be.
        history.forget_own();
        for _ in 0..40 {
            outcome = history.step(&log, &mounted.disk).await;
            if outcome.is_err() || (mounted.disk.struck().is_some() && random.chance(1, 8)) {
                break;
            }
        }
    }
    if let Err(Broke(why)) = outcome {
        check_stop(mounted, history, &log, &why).await;
    }
}

/// Only a fault of the disk keeps a log from starting, and the message says what and where.
pub(super) fn check_refusal(mounted: &Mounted, error: &OpenError) {
    assert!(mounted.disk.struck().is_some(), "a failed recovery: {error}");
    assert!(matches!(error, OpenError::Io { .. }), "a failed recovery: {error}");
    check_message(&chain(error));
}

/// A message with its causes.
pub(super) fn chain(error: &dyn error::Error) -> String {
    let causes = iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// It names what it is about, and the cause.
pub(super) fn check_message(message: &str) {
    let names_file = message.contains("`/simulated/");
    let names_cause = ["os error 5)", "os error 28)", "the power is off"]
        .iter()
        .any(|cause| message.contains(cause));
    assert!(names_file && names_cause, "not clear: {message}");
}

pub(super) async fn check_stop(mounted: &Mounted, history: &mut History, log: &Log, why: &str) {
    let struck = mounted.disk.struck().unwrap_or_else(|| panic!("nothing was wrong: {why}"));
    check_message(why);
    if why.starts_with("the log has stopped") {
        let works = !struck.starts_with("PowerCut") && !struck.starts_with("Broken");
        check_message(&history.is_stopped(log, works).await);
    }
}

/// Without faults the log starts, holds what it must, and goes on.
pub(super) async fn settle(mounted: &Mounted, history: &mut History) {
    let dir = mounted.root.join("log");
    for _ in 0..2 {
        let log = Log::open_with(&dir, clock(), OPTIONS)
            .unwrap_or_else(|error| panic!("a failed recovery: {}", chain(&error)));
        history.look(&log).await.unwrap();
        history.forget_own();
        for _ in 0..3 {
            history.step(&log, &mounted.disk).await.unwrap();
        }
        drop(log);
        assert_eq!(verify(&dir).unwrap().events, history.count());
        mounted.disk.restart(Restart::Machine);
    }
}
