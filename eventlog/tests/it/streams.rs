//! What streams keep, hide and are read like, whichever engine holds them.

use std::time::Duration;

use eventlog::{
    AppendError, Expected, Filter, Log, LogError, Recorded, StreamMetadata, retention::DELETED,
};
use futures::{StreamExt, future};
use ids::EventId;
use uuid::Uuid;

use crate::{
    all,
    backends::{contract, embedded, embedded_in_small_segments, memory, served},
    event, events, fill, first, numbers, soon,
};

// Until the served protocol has these.
contract!(
    [memory, embedded, embedded_in_small_segments, served,],
    [
        a_stream_is_read_backward,
        all_is_read_backward,
        filters_choose_types,
        a_stream_keeps_what_its_metadata_say,
        metadata_are_set_as_expected_and_once,
        what_is_no_metadata_is_refused,
        a_deleted_stream_is_empty_and_goes_on,
        a_delete_needs_what_it_expects,
        a_retry_is_known_after_another_delete,
        setting_metadata_brings_nothing_deleted_back,
        a_tombstone_ends_a_stream,
        names_of_the_logs_own_are_refused,
    ]
);

fn ids(number: u64) -> EventId {
    EventId::from_uuid(Uuid::from_u128(u128::from(number) + 1))
}

async fn set(log: &Log, stream: &str, metadata: StreamMetadata) {
    let id = ids(1_000_000 + log.next_position().await.unwrap());
    log.set_stream_metadata(stream, Expected::Any, metadata, id).await.unwrap();
}

async fn a_stream_is_read_backward(log: &Log) {
    for number in 0..600 {
        let stream = if number % 2 == 0 { "even" } else { "odd" };
        drop(log.append(stream, Expected::Any, vec![event(number)]));
    }
    fill(log, "last", 1).await;
    let odd: Vec<u64> = (0..600).filter(|number| number % 2 == 1).collect();
    let cases = [
        (None, usize::MAX, 0..300),
        (None, 1, 299..300),
        (Some(299), 40, 260..300),
        (Some(1_000), 40, 260..300),
        (Some(u64::MAX), 2, 298..300),
        (Some(120), 100, 21..121),
        (Some(5), 100, 0..6),
        (Some(0), 1, 0..1),
        (Some(5), 0, 0..0),
    ];
    for (from, limit, expected) in cases {
        let read = all(log.read_stream_backward("odd", from, limit)).await;
        let expected: Vec<_> = odd[expected].iter().rev().copied().collect();
        assert_eq!(numbers(&read), expected, "{from:?} {limit}");
    }
    assert_eq!(all(log.read_stream_backward("none", None, 10)).await, []);
}

async fn all_is_read_backward(log: &Log) {
    assert_eq!(all(log.read_all_backward(None, &[])).await, []);
    for number in 0..150 {
        let stream = ["run-1", "worker-1"][number as usize % 2];
        log.append(stream, Expected::Any, vec![event(number)]).await.unwrap();
    }
    for (from, count) in [(None, 150), (Some(0), 1), (Some(99), 100), (Some(u64::MAX), 150)] {
        let mut forward = all(log.read_all(0, &[])).await;
        forward.truncate(count);
        forward.reverse();
        assert_eq!(all(log.read_all_backward(from, &[])).await, forward, "{from:?}");
    }
    let runs = all(log.read_all_backward(Some(100), &["run-"])).await;
    assert_eq!(numbers(&runs), (0..51).rev().map(|half| 2 * half).collect::<Vec<_>>());
    // Of what comes meanwhile it shows nothing.
    let mut reading = log.read_all_backward(None, &[]);
    first(1, &mut reading).await;
    fill(log, "run-1", 3).await;
    assert_eq!(all(reading).await.len(), 149);
}

async fn filters_choose_types(log: &Log) {
    for number in 0..60 {
        let mut new = event(number);
        new.event_type = ["RunSubmitted", "RunStarted", "JobStarted"][number as usize % 3].into();
        let stream = ["run-1", "other-1"][number as usize / 3 % 2];
        log.append(stream, Expected::Any, vec![new]).await.unwrap();
    }
    let cases = [
        (Filter::default(), 60),
        (Filter::event_types(&["Run"]), 40),
        (Filter::event_types(&["RunSubmitted", "Job"]), 40),
        (Filter::event_types(&["Started"]), 0),
        (Filter { event_types: vec!["RunStarted".into()], ..Filter::streams(&["run-"]) }, 10),
    ];
    for (filter, count) in cases {
        let forward = all(log.read_all(0, filter.clone())).await;
        let mut backward = all(log.read_all_backward(None, filter.clone())).await;
        backward.reverse();
        assert_eq!(forward.len(), count, "{filter:?}");
        assert_eq!(backward, forward, "{filter:?}");
        assert_eq!(first(count, log.subscribe(0, filter)).await, forward);
        let is_wanted = |event: &Recorded| !event.event.event_type.is_empty();
        assert!(forward.iter().all(is_wanted));
    }
}

async fn a_stream_keeps_what_its_metadata_say(log: &Log) {
    fill(log, "run-1", 100).await;
    assert_eq!(log.stream_metadata("run-1").await.unwrap(), (StreamMetadata::default(), None));
    let cases = [
        (StreamMetadata { max_count: Some(7), ..StreamMetadata::default() }, 93..100),
        (StreamMetadata { truncate_before: Some(60), ..StreamMetadata::default() }, 60..100),
        (StreamMetadata { truncate_before: Some(500), ..StreamMetadata::default() }, 0..0),
        (
            StreamMetadata {
                truncate_before: Some(60),
                max_count: Some(50),
                ..StreamMetadata::default()
            },
            60..100,
        ),
        // The clock stands still here, so nothing is older than now.
        (
            StreamMetadata { max_age: Some(Duration::from_secs(1)), ..StreamMetadata::default() },
            0..100,
        ),
    ];
    for (revision, (metadata, visible)) in (0..).zip(cases) {
        set(log, "run-1", metadata.clone()).await;
        assert_eq!(log.stream_metadata("run-1").await.unwrap(), (metadata, Some(revision)));
        let shown: Vec<u64> = visible.clone().collect();
        assert_eq!(numbers(&all(log.read_stream("run-1", 0, usize::MAX)).await), shown);
        let mut backward = all(log.read_stream_backward("run-1", None, usize::MAX)).await;
        backward.reverse();
        assert_eq!(numbers(&backward), shown);
        let two = all(log.read_stream("run-1", 0, 2)).await;
        assert_eq!(numbers(&two), shown[..shown.len().min(2)]);
        let some = all(log.read_stream_backward("run-1", Some(97), 1)).await;
        assert_eq!(numbers(&some), shown.iter().copied().filter(|n| *n == 97).collect::<Vec<_>>());
    }
    // Where it stands is no other, and the whole log shows everything.
    let appended = log.append("run-1", Expected::Revision(99), vec![event(100)]).await.unwrap();
    assert_eq!(appended.revision, 100);
    assert_eq!(all(log.read_all(0, &["run-"])).await.len(), 101);
}

async fn metadata_are_set_as_expected_and_once(log: &Log) {
    let mut metadata = StreamMetadata {
        max_count: Some(3),
        max_age: Some(Duration::from_mins(1)),
        truncate_before: Some(1),
        ..StreamMetadata::default()
    };
    metadata.custom.insert("owner".into(), "ada".into());
    let set = |expected, metadata: &StreamMetadata, id| {
        log.set_stream_metadata("run-1", expected, metadata.clone(), ids(id))
    };
    let first = set(Expected::None, &metadata, 1).await.unwrap();
    assert_eq!(first.revision, 0);
    assert_eq!(set(Expected::None, &metadata, 1).await.unwrap(), first);
    assert_eq!(log.stream_metadata("run-1").await.unwrap(), (metadata.clone(), Some(0)));
    let stored = &all(log.read_all(0, &[])).await[0];
    assert_eq!((&*stored.stream, &*stored.event.event_type), ("$$run-1", "$metadata"));
    assert_eq!(
        stored.event.data,
        r#"{"$maxAge":60,"$maxCount":3,"$tb":1,"owner":"ada"}"#.as_bytes()
    );
    metadata.max_count = None;
    let error = set(Expected::None, &metadata, 2).await.unwrap_err();
    assert!(
        matches!(&error, AppendError::Conflict { stream, expected: Expected::None, current: Some(0) } if stream == "$$run-1"),
        "{error:?}"
    );
    let second = set(Expected::Revision(0), &metadata, 2).await.unwrap();
    let third = set(Expected::Any, &metadata, 3).await.unwrap();
    assert_eq!((second.revision, third.revision), (1, 2));
    assert_eq!(set(Expected::Any, &metadata, 3).await.unwrap(), third);
    assert_eq!(set(Expected::Revision(0), &metadata, 2).await.unwrap(), second);
    // Of metadata, only the last are to be seen.
    let read = all(log.read_stream("$$run-1", 0, 10)).await;
    assert_eq!(read.iter().map(|event| event.revision).collect::<Vec<_>>(), [2]);
    // Many at once: each finds its place.
    let many = (10..30).map(|id| set(Expected::Any, &metadata, id));
    let mut revisions: Vec<u64> = soon(future::join_all(many))
        .await
        .into_iter()
        .map(|answer| answer.unwrap().revision)
        .collect();
    revisions.sort_unstable();
    assert!(revisions.into_iter().eq(3..23));
}

async fn what_is_no_metadata_is_refused(log: &Log) {
    let mut named = StreamMetadata::default();
    named.custom.insert("$maxCount".into(), 5.into());
    let cases = [
        StreamMetadata { max_count: Some(0), ..StreamMetadata::default() },
        StreamMetadata { max_age: Some(Duration::ZERO), ..StreamMetadata::default() },
        StreamMetadata { max_age: Some(Duration::from_millis(1_500)), ..StreamMetadata::default() },
        StreamMetadata { truncate_before: Some(u64::MAX), ..StreamMetadata::default() },
        named,
    ];
    for metadata in cases {
        let answer =
            log.set_stream_metadata("run-1", Expected::Any, metadata.clone(), ids(1)).await;
        let refused = matches!(answer, Err(AppendError::Log(LogError::Invalid(_))));
        assert!(refused, "{metadata:?}: {answer:?}");
    }
    assert_eq!(log.next_position().await.unwrap(), 0);
}

async fn a_deleted_stream_is_empty_and_goes_on(log: &Log) {
    log.append("run-1", Expected::None, events(0..5)).await.unwrap();
    log.delete("run-1", Expected::Revision(4)).await.unwrap();
    assert_eq!(all(log.read_stream("run-1", 0, 100)).await, []);
    assert_eq!(all(log.read_stream_backward("run-1", None, 100)).await, []);
    // Again: it is so already.
    log.delete("run-1", Expected::Any).await.unwrap();
    let exists = log.append("run-1", Expected::Exists, events(9..10)).await;
    assert!(matches!(exists, Err(AppendError::Conflict { current: Some(4), .. })), "{exists:?}");
    let again = log.append("run-1", Expected::None, events(5..8)).await.unwrap();
    assert_eq!(again.revision, 7);
    assert_eq!(log.append("run-1", Expected::None, events(5..8)).await.unwrap(), again);
    log.append("run-1", Expected::Exists, events(8..9)).await.unwrap();
    assert_eq!(numbers(&all(log.read_stream("run-1", 0, 100)).await), [5, 6, 7, 8]);
    assert_eq!(numbers(&all(log.read_stream("run-1", 0, 2)).await), [5, 6]);
    assert_eq!(numbers(&all(log.read_stream_backward("run-1", None, 100)).await), [8, 7, 6, 5]);
    let none = log.append("run-1", Expected::None, events(9..10)).await;
    assert!(matches!(none, Err(AppendError::Conflict { current: Some(8), .. })), "{none:?}");
    // And once more, from its end.
    log.delete("run-1", Expected::Exists).await.unwrap();
    log.append("run-1", Expected::Revision(8), events(9..10)).await.unwrap();
    assert_eq!(numbers(&all(log.read_stream("run-1", 0, 100)).await), [9]);
}

async fn a_delete_needs_what_it_expects(log: &Log) {
    fill(log, "run-1", 3).await;
    for expected in [Expected::None, Expected::Revision(1), Expected::Revision(3)] {
        for error in [
            log.delete("run-1", expected).await.unwrap_err(),
            log.tombstone("run-1", expected).await.unwrap_err(),
        ] {
            assert!(
                matches!(&error, AppendError::Conflict { stream, current: Some(2), .. } if stream == "run-1"),
                "{error:?}"
            );
        }
    }
    log.delete("none", Expected::Exists).await.unwrap_err();
    assert_eq!(log.next_position().await.unwrap(), 3);
    assert_eq!(all(log.read_stream("run-1", 0, 10)).await.len(), 3);
}

async fn a_retry_is_known_after_another_delete(log: &Log) {
    fill(log, "run-1", 3).await;
    log.delete("run-1", Expected::Any).await.unwrap();
    let first = log.append("run-1", Expected::None, events(10..12)).await.unwrap();
    log.delete("run-1", Expected::Any).await.unwrap();
    let again = log.append("run-1", Expected::None, events(10..12)).await.unwrap();
    assert_eq!(again, first);
    let fresh = log.append("run-1", Expected::None, events(12..13)).await.unwrap();
    assert_eq!(fresh.revision, first.revision + 1);
    let again = log.append("run-1", Expected::None, events(10..12)).await.unwrap();
    assert_eq!(again, first);
}

async fn setting_metadata_brings_nothing_deleted_back(log: &Log) {
    let custom = |name: &str| {
        let mut metadata = StreamMetadata::default();
        metadata.custom.insert(name.into(), true.into());
        metadata
    };
    fill(log, "run-1", 5).await;
    set(log, "run-1", custom("kept")).await;
    log.delete("run-1", Expected::Any).await.unwrap();
    let (metadata, _) = log.stream_metadata("run-1").await.unwrap();
    assert_eq!(metadata, StreamMetadata { truncate_before: Some(DELETED), ..custom("kept") });
    log.append("run-1", Expected::None, events(5..6)).await.unwrap();
    set(log, "run-1", custom("new")).await;
    let (metadata, _) = log.stream_metadata("run-1").await.unwrap();
    assert_eq!(metadata, StreamMetadata { truncate_before: Some(5), ..custom("new") });
    assert_eq!(numbers(&all(log.read_stream("run-1", 0, 10)).await), [5]);
    // The first append after the delete is still recognised.
    log.append("run-1", Expected::None, events(5..6)).await.unwrap();
    assert_eq!(all(log.read_all(0, &["run-"])).await.len(), 6);
}

async fn a_tombstone_ends_a_stream(log: &Log) {
    fill(log, "run-1", 3).await;
    fill(log, "run-2", 3).await;
    log.tombstone("run-1", Expected::Revision(2)).await.unwrap();
    let deleted =
        |error: LogError| matches!(error, LogError::Deleted { stream } if stream == "run-1");
    for read in [
        log.read_stream("run-1", 0, 10).next().await,
        log.read_stream("run-1", 50, 0).next().await,
        log.read_stream_backward("run-1", None, 10).next().await,
    ] {
        assert!(deleted(read.unwrap().unwrap_err()));
    }
    assert!(deleted(log.stream_metadata("run-1").await.unwrap_err()));
    for expected in [Expected::Any, Expected::None, Expected::Exists, Expected::Revision(3)] {
        for answer in [
            log.append("run-1", expected, events(9..10)).await.map(drop),
            log.delete("run-1", expected).await,
            log.tombstone("run-1", expected).await,
            log.set_stream_metadata("run-1", expected, StreamMetadata::default(), ids(90))
                .await
                .map(drop),
        ] {
            assert!(
                matches!(&answer, Err(AppendError::Deleted { .. })),
                "{expected:?}: {answer:?}"
            );
        }
    }
    assert_eq!(all(log.read_stream("run-2", 0, 10)).await.len(), 3);
    let whole = all(log.read_all(0, &["run-1"])).await;
    assert_eq!(whole.len(), 4);
    assert_eq!(whole[3].event.event_type, "$streamDeleted");
    // What was never there can be ended as well.
    log.tombstone("run-3", Expected::None).await.unwrap();
    log.append("run-3", Expected::Any, events(9..10)).await.unwrap_err();
}

async fn names_of_the_logs_own_are_refused(log: &Log) {
    let mut end = event(1);
    end.event_type = "$streamDeleted".into();
    let refused = [
        log.append("$$run-1", Expected::Any, events(0..1)).await.map(drop),
        log.append("run-1", Expected::Any, vec![end]).await.map(drop),
        log.delete("$$run-1", Expected::Any).await,
        log.tombstone("$$run-1", Expected::Any).await,
        log.set_stream_metadata("$$run-1", Expected::Any, StreamMetadata::default(), ids(1))
            .await
            .map(drop),
    ];
    for answer in refused {
        assert!(matches!(answer, Err(AppendError::Log(LogError::Invalid(_)))), "{answer:?}");
    }
    assert_eq!(log.next_position().await.unwrap(), 0);
    log.append("$settings", Expected::None, events(0..1)).await.unwrap();
}
