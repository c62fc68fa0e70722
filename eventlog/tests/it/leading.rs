//! On a runtime of several threads whoever appends may write, for all that append.

use eventlog::{Expected, Log};
use futures::FutureExt;

use crate::{all, event, first, numbers, open_small, soon};

const WRITERS: u64 = 8;
const EACH: u64 = 150;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_caller_does_not_wait_for_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let log = open_small(dir.path());
    let writers: Vec<_> =
        (0..WRITERS).map(|writer| tokio::spawn(append_and_leave(log.clone(), writer))).collect();
    for writer in writers {
        soon(writer).await.unwrap();
    }
    // Nobody appends any more, and the last append of each was not waited for.
    let count = WRITERS * EACH;
    first(count as usize, log.subscribe(0, &[])).await;
    drop(log.append("alone", Expected::None, vec![event(count)]));
    first(1, log.subscribe(count, &[])).await;
    for writer in 0..WRITERS {
        let read = all(log.read_stream(stream(writer), 0, usize::MAX)).await;
        let ids = writer * EACH..(writer + 1) * EACH;
        assert_eq!(numbers(&read), ids.collect::<Vec<_>>());
    }
}

fn stream(writer: u64) -> String {
    format!("run-{writer}")
}

/// Some appends are waited for, some until it was asked who writes, and some not at all.
async fn append_and_leave(log: Log, writer: u64) {
    for revision in 0..EACH {
        let expected = revision.checked_sub(1).map_or(Expected::None, Expected::Revision);
        let new = event(writer * EACH + revision);
        let append = log.append(stream(writer), expected, vec![new]);
        match revision % 3 {
            0 => soon(append).await.map(drop).unwrap(),
            1 => assert!(append.now_or_never().is_none_or(|answer| answer.is_ok())),
            _ => drop(append),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_closes_while_others_write() {
    for round in 0..50 {
        let dir = tempfile::tempdir().unwrap();
        let log = open_small(dir.path());
        soon(log.append("run", Expected::Any, vec![event(0)])).await.unwrap();
        let appends: Vec<_> = (1..20)
            .map(|number| {
                let append = log.append("run", Expected::Any, vec![event(number)]);
                tokio::spawn(append)
            })
            .collect();
        drop(log);
        for append in appends {
            soon(append).await.unwrap().unwrap();
        }
        let read = all(open_small(dir.path()).read_stream("run", 0, usize::MAX)).await;
        assert_eq!(numbers(&read), (0..20).collect::<Vec<_>>(), "round {round}");
    }
}
