//! What a log in files keeps from one start to the next.

use std::fs;

use eventlog::{Expected, Log, OpenError, verify};

use crate::{all, clock, event, events, fill, first, numbers, open_small};

#[tokio::test]
async fn a_reopened_log_holds_everything() {
    let dir = tempfile::tempdir().unwrap();
    let log = open_small(dir.path());
    fill(&log, "run-1", 30).await;
    log.append("run-2", Expected::None, events(30..50)).await.unwrap();
    let before = all(log.read_all(0, &[])).await;
    drop(log);
    let log = open_small(dir.path());
    assert_eq!(all(log.read_all(0, &[])).await, before);
    assert_eq!(all(log.read_stream("run-2", 5, 3)).await, before[35..38]);
    log.append("run-1", Expected::Revision(29), vec![event(50)]).await.unwrap();
    drop(log);
    let log = open_small(dir.path());
    assert_eq!(numbers(&all(log.read_all(0, &[])).await), (0..51).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_retry_is_recognised_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let log = open_small(dir.path());
    fill(&log, "run-1", 5).await;
    let exact = log.append("run-1", Expected::Revision(4), events(5..9)).await.unwrap();
    let any = log.append("run-2", Expected::Any, events(9..12)).await.unwrap();
    drop(log);
    let log = open_small(dir.path());
    assert_eq!(log.append("run-1", Expected::Revision(4), events(5..9)).await.unwrap(), exact);
    assert_eq!(log.append("run-2", Expected::Any, events(9..12)).await.unwrap(), any);
    assert_eq!(log.next_position().await.unwrap(), 12);
}

#[tokio::test]
async fn a_second_opener_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), clock()).unwrap();
    let error = Log::open(dir.path(), clock()).unwrap_err();
    assert!(matches!(error, OpenError::InUse { .. }));
    assert!(error.to_string().starts_with("another process uses this folder: /"), "{error}");
    drop(log);
    Log::open(dir.path(), clock()).unwrap();
}

#[tokio::test]
async fn a_newer_format_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(Log::open(dir.path(), clock()).unwrap());
    let file = dir.path().join("00000000000000000000.segment");
    let mut bytes = fs::read(&file).unwrap();
    bytes[8] = 3;
    fs::write(&file, &bytes).unwrap();
    let error = Log::open(dir.path(), clock()).unwrap_err();
    assert!(matches!(error, OpenError::NewerFormat { found: 3, known: 2, .. }), "{error}");
    assert!(error.to_string().contains("start the newer version"), "{error}");
    assert_eq!(fs::read(&file).unwrap(), bytes);
}

#[tokio::test]
async fn a_folder_that_cannot_be_used_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let error = Log::open(&file, clock()).unwrap_err();
    assert!(error.to_string().contains("/file`"), "{error}");
}

#[tokio::test]
async fn a_subscription_outlives_its_log_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let log = open_small(dir.path());
    fill(&log, "run-1", 3).await;
    let mut subscription = log.subscribe(0, &[]);
    first(1, &mut subscription).await;
    drop(log);
    assert_eq!(numbers(&first(2, &mut subscription).await), [1, 2]);
    let end = futures::StreamExt::next(&mut subscription).await.unwrap();
    assert_eq!(end.unwrap_err().to_string(), "the log has stopped: it was closed");
}

#[tokio::test]
async fn verify_counts_what_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let log = open_small(dir.path());
    fill(&log, "run-1", 40).await;
    let live = verify(dir.path()).unwrap();
    drop(log);
    let closed = verify(dir.path()).unwrap();
    assert_eq!(live, closed);
    assert_eq!((closed.events, closed.unfinished), (40, 0));
    assert_eq!(closed.segments, 3, "{closed:?}");
}
