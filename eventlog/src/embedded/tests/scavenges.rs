//! A scavenge on a disk that fails at every one of its operations.

use std::path::Path;

use futures::StreamExt;
use ids::Timestamp;

use super::{
    crashes::{chain, check_message},
    history::clock,
    new,
};
use crate::{
    Expected, Log, Options, Recorded,
    disk::{
        self,
        simulated::{Fault, Restart, mount},
    },
    scavenge, verify,
};

/// Small, so that there are many files.
const OPTIONS: Options = Options { segment_bytes: 700 };
const EACH: u64 = 8;

/// Two streams that take turns, of which one is deleted.
async fn log_in(dir: &Path) -> Vec<Recorded> {
    let log = Log::open_with(dir, clock(), OPTIONS).unwrap();
    for number in 0..2 * EACH {
        let stream = if number % 2 == 0 { "kept" } else { "gone" };
        let mut event = new(u128::from(number) + 1);
        event.data = stream.repeat(20).into();
        log.append(stream, Expected::Any, vec![event]).await.unwrap();
    }
    log.delete("gone", Expected::Exists).await.unwrap();
    seen(&log).await
}

async fn seen(log: &Log) -> Vec<Recorded> {
    assert_eq!(log.read_stream("gone", 0, 100).count().await, 0);
    log.read_stream("kept", 0, 100).map(Result::unwrap).collect().await
}

/// Whether the fault struck.
async fn run(fault: Fault, after: u64, how: Restart) -> bool {
    let mounted = mount(after);
    let (disk, dir) = (&mounted.disk, &mounted.root.join("log"));
    let before = log_in(dir).await;
    let whole = verify(dir).unwrap();
    assert_eq!(before.len() as u64, EACH);
    disk.plan(after, fault);
    let done = scavenge(dir, Timestamp(0));
    let struck = disk.struck().is_some();
    if let Err(error) = &done {
        assert!(struck, "{}", chain(error));
        check_message(&chain(error));
    }
    disk.restart(how);
    let log = Log::open_with(dir, clock(), OPTIONS).unwrap();
    assert_eq!(seen(&log).await, before);
    drop(log);
    let found = verify(dir).unwrap();
    assert_eq!((found.head, found.events), (whole.head, whole.events));
    if done.is_ok() {
        assert_eq!(found.removed, EACH, "what was said to be done is not");
    }
    // What was not done is done by the next one.
    assert_eq!(scavenge(dir, Timestamp(0)).unwrap().removed, EACH - found.removed);
    assert_eq!(verify(dir).unwrap().head, whole.head);
    for path in disk::list(dir).unwrap() {
        let bytes = disk.bytes(&path);
        assert!(!bytes.windows(8).any(|bytes| bytes == b"gonegone"), "{}", path.display());
    }
    struck
}

#[tokio::test]
async fn a_scavenge_survives_every_fault_at_every_moment() {
    let mut faults = 0;
    for fault in Fault::ALL {
        for how in [Restart::Process, Restart::Machine] {
            let mut after = 0;
            while run(fault, after, how).await {
                after += 1;
            }
            faults += after;
        }
    }
    assert!(faults > 200, "only {faults} faults");
}
