//! What every log does, whichever engine holds it.

use std::collections::HashSet;

use bytestring::ByteString;
use eventlog::{
    AppendError, Appended, Content, Expected, Log, LogError, Metadata, Recorded, StreamMetadata,
};
use futures::{StreamExt, future};

use crate::{
    all,
    backends::{contract, embedded, embedded_in_small_segments, memory, served},
    clock, event, events, fill, first, number, numbers, soon,
};

contract!(
    [memory, embedded, embedded_in_small_segments, served,],
    [
        an_event_comes_back_as_it_went_in,
        json_comes_back_as_json,
        positions_and_revisions_count_from_zero,
        an_append_needs_what_it_expects,
        a_conflict_says_what_is_current,
        a_batch_goes_in_whole_or_not_at_all,
        a_retry_is_answered_as_the_first_append_was,
        an_append_that_only_looks_like_a_retry_is_none,
        appends_take_place_in_order_of_the_calls,
        of_many_appends_to_one_revision_one_wins,
        a_stream_is_read_from_a_revision_to_a_limit,
        all_is_read_from_a_position_to_the_end_of_the_moment,
        prefixes_choose_streams,
        a_subscription_goes_on_with_what_comes,
        a_subscription_misses_and_repeats_nothing,
        a_slow_subscriber_stops_nobody,
        limits_are_kept,
        a_large_batch_comes_back_whole,
        an_event_shown_was_answered_or_will_be,
    ]
);

async fn an_event_comes_back_as_it_went_in(log: &Log) {
    let mut new = event(7);
    new.data = vec![0, 255, 10, 13, 0].into();
    let metadata = Metadata { trace_parent: "00-ab-cd-01".into(), ..Metadata::default() };
    new.metadata = prost::Message::encode_to_vec(&metadata).into();
    log.append("räume-1", Expected::None, vec![new.clone()]).await.unwrap();
    let read = all(log.read_stream("räume-1", 0, 10)).await;
    let stored = Recorded {
        position: 0,
        stream: "räume-1".into(),
        revision: 0,
        recorded_at: clock().now(),
        event: new,
    };
    assert_eq!(read, std::slice::from_ref(&stored));
    assert_eq!(all(log.read_all(0, &[])).await, [stored]);
}

async fn json_comes_back_as_json(log: &Log) {
    let mut json = event(1);
    json.content = Content::Json;
    json.data = "{\"paid\": true}".into();
    log.append("run-1", Expected::None, vec![event(0), json.clone(), event(2)]).await.unwrap();
    let metadata = StreamMetadata { max_count: Some(9), ..StreamMetadata::default() };
    log.set_stream_metadata("run-1", Expected::None, metadata, event(3).id).await.unwrap();
    let read = all(log.read_all(0, &[])).await;
    let contents: Vec<_> = read.iter().map(|recorded| recorded.event.content).collect();
    assert_eq!(contents, [Content::Binary, Content::Json, Content::Binary, Content::Json]);
    assert_eq!(read[1].event, json);
    assert_eq!(all(log.read_stream("run-1", 1, 1)).await, [read[1].clone()]);
}

async fn positions_and_revisions_count_from_zero(log: &Log) {
    for number in 0..60 {
        let stream = format!("run-{}", number % 3);
        let appended = log.append(stream, Expected::Any, events(2 * number..2 * number + 2)).await;
        let revision = number / 3 * 2 + 1;
        assert_eq!(appended.unwrap(), Appended { position: number * 2 + 1, revision });
    }
    let read = all(log.read_all(0, &[])).await;
    assert!(read.iter().map(|event| event.position).eq(0..120));
    for stream in ["run-0", "run-1", "run-2"] {
        let revisions = read.iter().filter(|event| event.stream == stream);
        assert!(revisions.map(|event| event.revision).eq(0..40));
    }
    assert_eq!(log.next_position().await.unwrap(), 120);
}

async fn an_append_needs_what_it_expects(log: &Log) {
    fill(log, "old", 3).await;
    let cases = [
        ("new", Expected::Any, true),
        ("new2", Expected::None, true),
        ("new3", Expected::Exists, false),
        ("new3", Expected::Revision(0), false),
        ("old", Expected::None, false),
        ("old", Expected::Revision(1), false),
        ("old", Expected::Revision(3), false),
        ("old", Expected::Revision(u64::MAX), false),
        ("old", Expected::Revision(2), true),
        ("old", Expected::Exists, true),
        ("old", Expected::Any, true),
    ];
    for (number, (stream, expected, fits)) in (100..).zip(cases) {
        let answer = log.append(stream, expected, vec![event(number)]).await;
        assert_eq!(answer.is_ok(), fits, "{stream} {expected:?}: {answer:?}");
    }
    assert_eq!(log.next_position().await.unwrap(), 8);
}

async fn a_conflict_says_what_is_current(log: &Log) {
    fill(log, "run-1", 2).await;
    let error = log.append("run-1", Expected::None, vec![event(9)]).await.unwrap_err();
    assert!(
        matches!(&error, AppendError::Conflict { stream, expected: Expected::None, current: Some(1) } if stream == "run-1"),
        "{error:?}"
    );
    let error = log.append("run-2", Expected::Exists, vec![event(9)]).await.unwrap_err();
    assert!(matches!(&error, AppendError::Conflict { current: None, .. }), "{error:?}");
}

async fn a_batch_goes_in_whole_or_not_at_all(log: &Log) {
    fill(log, "run-1", 1).await;
    log.append("run-1", Expected::None, events(10..20)).await.unwrap_err();
    assert_eq!(all(log.read_all(0, &[])).await.len(), 1);
    log.append("run-1", Expected::Revision(0), events(10..20)).await.unwrap();
    assert_eq!(numbers(&all(log.read_all(1, &[])).await), (10..20).collect::<Vec<_>>());
}

async fn a_retry_is_answered_as_the_first_append_was(log: &Log) {
    fill(log, "other", 5).await;
    for expected in [Expected::None, Expected::Revision(2), Expected::Any, Expected::Exists] {
        let stream = format!("run-{expected:?}");
        let before = match expected {
            Expected::None => 0,
            _ => 3,
        };
        if before > 0 {
            log.append(stream.clone(), Expected::None, events(0..before)).await.unwrap();
        }
        let answer = log.append(stream.clone(), expected, events(10..13)).await.unwrap();
        let again = log.append(stream.clone(), expected, events(10..13)).await.unwrap();
        assert_eq!(answer, again, "{expected:?}");
        log.append(stream.clone(), Expected::Any, events(20..21)).await.unwrap();
        let later = log.append(stream.clone(), expected, events(10..13)).await.unwrap();
        assert_eq!(answer, later, "{expected:?}");
        // Both at once: the first may not be durable yet when the second is looked at.
        let exact = Expected::Revision(before + 3);
        let first = log.append(stream.clone(), exact, events(30..32));
        let second = log.append(stream.clone(), exact, events(30..32));
        assert_eq!(first.await.unwrap(), second.await.unwrap(), "{expected:?}");
        assert_eq!(all(log.read_stream(stream, 0, 100)).await.len() as u64, before + 3 + 1 + 2);
    }
}

async fn an_append_that_only_looks_like_a_retry_is_none(log: &Log) {
    log.append("run-1", Expected::None, events(0..3)).await.unwrap();
    // The ids of another place, of more events than there are, or with one that differs.
    let cases = [
        (Expected::Revision(0), events(0..2)),
        (Expected::None, events(0..4)),
        (Expected::None, vec![event(0), event(9)]),
        (Expected::None, events(1..3)),
    ];
    for (expected, events) in cases {
        let answer = log.append("run-1", expected, events).await;
        assert!(
            matches!(answer, Err(AppendError::Conflict { current: Some(2), .. })),
            "{answer:?}"
        );
    }
    // The same ids in another stream are other events.
    let appended = log.append("run-2", Expected::Any, events(0..3)).await.unwrap();
    assert_eq!(appended, Appended { position: 5, revision: 2 });
}

async fn appends_take_place_in_order_of_the_calls(log: &Log) {
    let mut calls: Vec<_> = (0..200)
        .map(|number| {
            let expected = match number {
                0 => Expected::None,
                _ => Expected::Revision(number - 1),
            };
            log.append("run-1", expected, vec![event(number)])
        })
        .collect();
    calls.reverse();
    for answer in soon(future::join_all(calls)).await {
        answer.unwrap();
    }
    let read = all(log.read_stream("run-1", 0, 1_000)).await;
    assert_eq!(numbers(&read), (0..200).collect::<Vec<_>>());
}

async fn of_many_appends_to_one_revision_one_wins(log: &Log) {
    for round in 0..20_u64 {
        let expected = round.checked_sub(1).map_or(Expected::None, Expected::Revision);
        let calls =
            (0..8).map(|writer| log.append("leader", expected, vec![event(round * 8 + writer)]));
        let answers = soon(future::join_all(calls)).await;
        assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1);
    }
    assert_eq!(log.next_position().await.unwrap(), 20);
}

async fn a_stream_is_read_from_a_revision_to_a_limit(log: &Log) {
    for number in 0..600 {
        let stream = if number % 2 == 0 { "even" } else { "odd" };
        drop(log.append(stream, Expected::Any, vec![event(number)]));
    }
    fill(log, "last", 1).await;
    let odd: Vec<u64> = (0..600).filter(|number| number % 2 == 1).collect();
    let cases = [(0, 300), (0, 1_000), (0, 1), (299, 5), (300, 5), (7, 270), (5, 0), (u64::MAX, 9)];
    for (from, limit) in cases {
        let read = all(log.read_stream("odd", from, limit)).await;
        let from = usize::try_from(from).unwrap().min(300);
        assert_eq!(numbers(&read), odd[from..from.saturating_add(limit).min(300)]);
    }
    assert_eq!(all(log.read_stream("odd", 0, usize::MAX)).await.len(), 300);
    assert_eq!(all(log.read_stream("none", 0, 10)).await, []);
}

async fn all_is_read_from_a_position_to_the_end_of_the_moment(log: &Log) {
    fill(log, "run-1", 50).await;
    let mut reading = log.read_all(20, &[]);
    assert_eq!(numbers(&first(1, &mut reading).await), [20]);
    fill(log, "run-2", 3).await;
    assert_eq!(numbers(&all(reading).await), (21..50).collect::<Vec<_>>());
    assert_eq!(all(log.read_all(53, &[])).await, []);
    assert_eq!(all(log.read_all(u64::MAX, &[])).await, []);
}

async fn prefixes_choose_streams(log: &Log) {
    for number in 0..90 {
        let stream = ["run-1", "worker-1", "runlog-1"][number as usize % 3];
        log.append(stream, Expected::Any, vec![event(number)]).await.unwrap();
    }
    let chosen = |read: Vec<Recorded>| -> HashSet<ByteString> {
        read.into_iter().map(|event| event.stream).collect()
    };
    let cases: [(&[&str], &[&str]); 5] = [
        (&[], &["run-1", "worker-1", "runlog-1"]),
        (&["run-"], &["run-1"]),
        (&["run"], &["run-1", "runlog-1"]),
        (&["run-", "worker-"], &["run-1", "worker-1"]),
        (&["nothing"], &[]),
    ];
    for (prefixes, expected) in cases {
        let read = all(log.read_all(0, prefixes)).await;
        assert_eq!(read.len(), expected.len() * 30, "{prefixes:?}");
        assert!(read.is_sorted_by_key(|event| event.position));
        assert_eq!(chosen(read), expected.iter().map(|&name| name.into()).collect());
    }
}

async fn a_subscription_goes_on_with_what_comes(log: &Log) {
    fill(log, "run-1", 3).await;
    let mut subscription = log.subscribe(1, &["run-"]);
    assert_eq!(numbers(&first(2, &mut subscription).await), [1, 2]);
    log.append("worker-1", Expected::Any, vec![event(50)]).await.unwrap();
    log.append("run-1", Expected::Any, vec![event(3)]).await.unwrap();
    assert_eq!(numbers(&first(1, &mut subscription).await), [3]);
    // From beyond the end: waits for that very position.
    let mut later = log.subscribe(6, &[]);
    assert!(future::poll_immediate(later.next()).await.is_none());
    log.append("run-1", Expected::Any, events(4..8)).await.unwrap();
    assert_eq!(numbers(&first(3, &mut later).await), [5, 6, 7]);
}

async fn a_subscription_misses_and_repeats_nothing(log: &Log) {
    const WRITERS: u64 = 4;
    const EACH: u64 = 150;
    fill(log, "before", 40).await;
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let log = log.clone();
            tokio::spawn(async move {
                for number in 0..EACH {
                    let new = vec![event(1_000 * (writer + 1) + number)];
                    log.append(format!("run-{writer}"), Expected::Any, new).await.unwrap();
                }
            })
        })
        .collect();
    // Subscribers come while the writers are at work, some of them behind, some ahead.
    let total = (WRITERS * EACH + 40) as usize;
    let mut subscribers = Vec::new();
    for from in [0, 10, 40, 60, 200] {
        let subscription = log.subscribe(from as u64, &[]);
        subscribers.push(tokio::spawn(async move {
            let read = first(total - from, subscription).await;
            assert!(read.iter().map(|event| event.position).eq(from as u64..total as u64));
        }));
        soon(first(from + 1, log.subscribe(0, &[]))).await;
    }
    for task in writers.into_iter().chain(subscribers) {
        soon(task).await.unwrap();
    }
}

async fn a_slow_subscriber_stops_nobody(log: &Log) {
    let mut slow = log.subscribe(0, &[]);
    let mut big = event(0);
    big.data = vec![7; 100_000].into();
    for number in 0..100 {
        big.id = event(number).id;
        soon(log.append("run-1", Expected::Any, vec![big.clone()])).await.unwrap();
        if number == 0 {
            first(1, &mut slow).await;
        }
    }
    let rest = first(99, &mut slow).await;
    assert!(rest.iter().map(|event| event.position).eq(1..100));
}

async fn limits_are_kept(log: &Log) {
    let with = |change: &dyn Fn(&mut eventlog::NewEvent)| {
        let mut new = event(1);
        change(&mut new);
        vec![new]
    };
    let too_long = "x".repeat(Log::MAX_STREAM_NAME + 1);
    let refused = [
        (String::new(), vec![event(1)]),
        (too_long, vec![event(1)]),
        ("run-1".into(), vec![]),
        ("run-1".into(), events(0..Log::MAX_BATCH_EVENTS as u64 + 1)),
        ("run-1".into(), with(&|new| new.data = vec![0; Log::MAX_BATCH_BYTES + 1].into())),
        ("run-1".into(), with(&|new| new.event_type = "".into())),
        ("run-1".into(), with(&|new| new.event_type = "x".repeat(257).into())),
        ("run-1".into(), with(&|new| new.metadata = vec![0; Log::MAX_BATCH_BYTES].into())),
    ];
    for (stream, new) in refused {
        let answer = log.append(stream, Expected::Any, new).await;
        assert!(matches!(answer, Err(AppendError::Log(LogError::Invalid(_)))), "{answer:?}");
    }
    assert_eq!(log.next_position().await.unwrap(), 0);
    let most = "x".repeat(Log::MAX_STREAM_NAME);
    let full = with(&|new| {
        let left = Log::MAX_BATCH_BYTES + new.data.len() - new.size();
        new.data = vec![0; left].into();
        assert_eq!(new.size(), Log::MAX_BATCH_BYTES);
    });
    log.append(most, Expected::Any, full).await.unwrap();
    let many = events(10..10 + Log::MAX_BATCH_EVENTS as u64);
    log.append("run-1", Expected::Any, many).await.unwrap();
}

async fn a_large_batch_comes_back_whole(log: &Log) {
    let mut big = events(0..Log::MAX_BATCH_EVENTS as u64);
    for (number, new) in big.iter_mut().enumerate() {
        new.data = vec![number as u8; 1_000].into();
    }
    log.append("run-1", Expected::None, big.clone()).await.unwrap();
    let read = all(log.read_stream("run-1", 0, usize::MAX)).await;
    assert!(read.into_iter().map(|recorded| recorded.event).eq(big));
}

/// Nothing is shown that a stopped machine would have forgotten: what a subscriber has seen, the
/// next position covers.
async fn an_event_shown_was_answered_or_will_be(log: &Log) {
    let mut subscription = log.subscribe(0, &[]);
    for number in 0..50 {
        let append = log.append("run-1", Expected::Any, vec![event(number)]);
        let seen = soon(subscription.next()).await.unwrap().unwrap();
        assert_eq!(number, self::number(&seen));
        assert!(log.next_position().await.unwrap() > number);
        assert_eq!(soon(append).await.unwrap().position, number);
    }
}
