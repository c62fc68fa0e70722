//! Our served log meets every assumption that we make of a cluster, and the check tells one that does not.

use eventlog::conformance::{self, Outcome};
use futures::StreamExt;

use crate::{
    open_small,
    serving::{ANY_PORT, Ca, Serving},
    soon,
};

#[tokio::test]
async fn our_own_server_conforms_and_nothing_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let ca = Ca::new();
    let log = eventlog::Log::open(dir.path(), eventlog::Clock::system()).unwrap();
    let serving = Serving::start(log.clone(), &ca, ANY_PORT);
    let user = format!("esdb://ada:adaada@{}?tlsCaFile={}", serving.address, ca.file().display());
    let identity = ca.folder("server");
    for (url, identity) in [(user, None), (serving.url(), Some(identity.as_path()))] {
        let found = conformance::check(&url, identity).await.unwrap();
        for finding in &found.findings {
            let expected = if finding.number == 14 { Outcome::NotChecked } else { Outcome::Holds };
            assert_eq!(finding.outcome, expected, "{finding:?}");
        }
        assert_eq!(found.left, Vec::<String>::new());
        let mut streams: Vec<_> = log.read_all(0, &[found.prefix.as_str()]).collect().await;
        streams.dedup_by_key(|event| event.as_ref().unwrap().stream.clone());
        for event in streams {
            let stream = event.unwrap().stream;
            let read = log.read_stream(stream.to_string(), 0, 1).next().await;
            let is_ended = matches!(read, Some(Err(eventlog::LogError::Deleted { .. })));
            assert!(is_ended, "{stream}: {read:?}");
        }
    }
}

#[tokio::test]
async fn a_log_whose_clock_stands_still_does_not_conform() {
    let dir = tempfile::tempdir().unwrap();
    let ca = Ca::new();
    let serving = Serving::start(open_small(dir.path()), &ca, ANY_PORT);
    let found = conformance::check(&serving.url(), Some(&ca.folder("server"))).await.unwrap();
    let failed = found.findings.iter().filter(|finding| finding.outcome == Outcome::Fails);
    let failed: Vec<usize> = failed.map(|finding| finding.number).collect();
    // Nothing grows old there, nor is stamped with the time.
    assert_eq!(failed, [12, 19]);
}

#[tokio::test]
async fn who_may_do_nothing_hears_why() {
    let dir = tempfile::tempdir().unwrap();
    let ca = Ca::new();
    let serving = Serving::start(open_small(dir.path()), &ca, ANY_PORT);
    let error = soon(conformance::check(&serving.url(), Some(&ca.worker()))).await.unwrap_err();
    assert!(error.to_string().contains("access denied"), "{error}");
    let bob = format!("esdb://bob:bobbob@{}?tlsCaFile={}", serving.address, ca.file().display());
    let found = soon(conformance::check(&bob, None)).await.unwrap();
    let first = &found.findings[0];
    assert!(first.seen.contains("Denied"), "{first:?}");
    assert!(!found.left.is_empty());
}
