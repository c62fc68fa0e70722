//! Reads and subscriptions: where they begin, what they show.

use std::time::Duration;

use ids::EventId;
use kurrentdb::{
    Error, ReadAllOptions, ReadStreamOptions, StreamPosition, StreamState, SubscribeToAllOptions,
    SubscriptionEvent, SubscriptionFilter,
};

use super::probe::{Probe, Unmet, at, holds, id, next, on_streams, sized, small};
use crate::{
    Clock,
    esdb::trouble::code,
    event::{Content, Expected, NewEvent},
};

/// More than a server looks at before it says how far it has come.
const BETWEEN_CHECKPOINTS: usize = 200;
/// How far a server's clock may be off.
const SKEW: Duration = Duration::from_mins(1);

pub(super) async fn what_was_answered_is_seen(probe: &Probe) -> Result<String, Unmet> {
    let stream = probe.stream("seen");
    for round in 0..50 {
        let position = probe.fill(&stream, 1).await?[0];
        let options = ReadStreamOptions::default().backwards().position(StreamPosition::End);
        let last = probe.read(&stream, options.max_count(1)).await?;
        let seen = last.first().is_some_and(|event| event.position.commit == position);
        holds(seen, format!("round {round}: the stream does not show it"))?;
        let options = ReadAllOptions::default().backwards().position(StreamPosition::End);
        let options = options.filter(on_streams(&[&stream])).max_count(1);
        let last = probe.read_all(options).await?;
        let seen = last.first().is_some_and(|event| event.position.commit == position);
        holds(seen, format!("round {round}: the whole log does not show it"))?;
    }
    Ok("50 events, by their stream and by all".into())
}

pub(super) async fn positions_begin_where_they_say(probe: &Probe) -> Result<String, Unmet> {
    let stream = probe.stream("begin");
    let positions = probe.fill(&stream, 10).await?;
    let mine = || on_streams(&[&stream]);
    let forward = ReadAllOptions::default().position(at(positions[3])).filter(mine());
    let read = probe.read_all(forward.max_count(100)).await?;
    let read: Vec<u64> = read.iter().map(|event| event.position.commit).collect();
    holds(read == positions[3..], format!("forward from {}: {read:?}", positions[3]))?;
    let backward = ReadAllOptions::default().backwards().position(at(positions[3]));
    let read = probe.read_all(backward.filter(mine()).max_count(3)).await?;
    let read: Vec<u64> = read.iter().rev().map(|event| event.position.commit).collect();
    holds(read == positions[..3], format!("backward from {}: {read:?}", positions[3]))?;
    let options = SubscribeToAllOptions::default().position(at(positions[3])).filter(mine());
    let lease = probe.lease().await?;
    let mut subscription = lease.client().subscribe_to_all(&options).await;
    let first = next(&mut subscription).await?.position.commit;
    holds(first == positions[4], format!("a subscription from {}: {first}", positions[3]))?;

    // One that is perhaps none.
    let none = positions[3] + 1;
    let after = positions.iter().position(|position| *position >= none).unwrap_or_default();
    let forward = ReadAllOptions::default().position(at(none)).filter(mine()).max_count(100);
    let seen = match probe.read_all(forward).await {
        Err(Error::Grpc { code, .. }) if code as i32 == code::INVALID_ARGUMENT => "refused",
        Err(error) => return Err(error.into()),
        Ok(read) => {
            let first = read.first().map(|event| event.position.commit);
            let right = first == Some(positions[after]);
            holds(right, format!("forward from {none}: {first:?}"))?;
            "taken"
        }
    };
    Ok(format!("a position between two events is {seen}"))
}

pub(super) async fn a_subscription_shows_all_once(probe: &Probe) -> Result<String, Unmet> {
    let stream = probe.stream("follow");
    let before = probe.fill(&stream, 50).await?;
    let from = at(before[0]);
    let lease = [probe.lease().await?, probe.lease().await?];
    let options = SubscribeToAllOptions::default().position(from);
    let filtered = options.clone().filter(on_streams(&[&stream]));
    let mut subscriptions = [
        lease[0].client().subscribe_to_all(&options).await,
        lease[1].client().subscribe_to_all(&filtered).await,
    ];
    let mut positions = before[1..].to_vec();
    let (mut seen, mut live) = ([vec![], vec![]], 0);
    while seen.iter().any(|seen| seen.len() < positions.len()) || live < 100 {
        if live < 100 {
            positions.extend(probe.fill(&stream, 10).await?);
            live += 10;
        }
        for (subscription, seen) in subscriptions.iter_mut().zip(&mut seen) {
            while seen.len() < positions.len() {
                let event = next(subscription).await?;
                // Others may write meanwhile.
                if event.stream_id() == stream {
                    seen.push(event.position.commit);
                }
            }
        }
    }
    let right = seen.iter().all(|seen| *seen == positions);
    holds(right, format!("{seen:?} where {positions:?} belong"))?;
    Ok("49 stored and 100 coming events, with a filter and without".into())
}

pub(super) async fn filters_are_exact(probe: &Probe) -> Result<String, Unmet> {
    let streams: Vec<String> = ["fa-1", "fb-1", "fc-1", "xfa-1"].map(|s| probe.stream(s)).into();
    let mut start = None;
    for (number, stream) in streams.iter().cycle().take(40).enumerate() {
        let event = small(["ProbeBegan", "ProbeEnded", "Reprobe"][number % 3]);
        let answer = probe.append(stream, StreamState::Any, vec![event]).await?;
        start = start.or(Some(answer.position.commit));
    }
    let start = start.unwrap_or_default();
    let prefix = |what: &str| format!("{}{what}", probe.prefix);
    let filters = [
        (on_streams(&[&prefix("fa-"), &prefix("fc-")]), 20),
        // Others may write such types, too, but hardly meanwhile.
        (SubscriptionFilter::on_event_type().add_prefix("ProbeBegan").add_prefix("Repr"), 27),
    ];
    for (filter, belong) in filters {
        let options = ReadAllOptions::default().position(at(start)).filter(filter);
        let read = probe.read_all(options.max_count(1_000)).await?;
        let own = read.iter().filter(|event| event.stream_id().starts_with(&probe.prefix)).count();
        holds(own == belong && own == read.len(), format!("{own} events where {belong} belong"))?;
    }
    let lease = probe.lease().await?;
    let options = SubscribeToAllOptions::default().position(at(start));
    let options = options.filter(on_streams(&[&prefix("nothing")]));
    let mut subscription = lease.client().subscribe_to_all(&options).await;
    probe.fill(&streams[0], BETWEEN_CHECKPOINTS).await?;
    loop {
        match subscription.next_subscription_event().await? {
            SubscriptionEvent::EventAppeared(event) => {
                let stream = event.get_original_stream_id();
                holds(false, format!("an event of {stream} appeared, which was not asked for"))?;
            }
            SubscriptionEvent::Checkpoint(position) if position.commit >= start => break,
            _ => {}
        }
    }
    Ok("two prefixes of streams, two of types; a checkpoint without an event".into())
}

pub(super) async fn events_come_back_as_they_went_in(probe: &Probe) -> Result<String, Unmet> {
    let bytes: Vec<u8> = (0..=255).collect();
    let events = [
        ("Grüße ✓", Content::Binary, bytes.clone(), bytes),
        ("Empty", Content::Binary, vec![], vec![]),
        ("Json", Content::Json, br#"{"a": [1, 2.50],  "b":"\u00e4"}"#.to_vec(), b"{}".to_vec()),
    ];
    let events = events.map(|(event_type, content, data, metadata)| NewEvent {
        id: EventId::from_uuid(id()),
        event_type: event_type.into(),
        content,
        data: data.into(),
        metadata: metadata.into(),
    });
    let name = format!("räume-{}", "x".repeat(200));
    let longest = crate::Log::MAX_STREAM_NAME - probe.prefix.len();
    let stream = probe.stream(&format!("{name:.<width$}", width = longest - 1));
    probe.log.append(stream.as_str(), Expected::None, events.to_vec()).await?;
    let read = probe.read(&stream, ReadStreamOptions::default()).await?;
    holds(read.len() == events.len(), format!("{} events", read.len()))?;
    for (event, read) in events.iter().zip(read) {
        let same = read.id == event.id.as_uuid()
            && event.event_type == read.event_type
            && event.data == read.data
            && event.metadata == read.custom_metadata
            && read.is_json == (event.content == Content::Json)
            && read.stream_id() == stream;
        holds(same, format!("`{}` came back as {read:?}", event.event_type))?;
    }
    Ok(format!("all bytes, no bytes, JSON; a stream's name of {} bytes", stream.len()))
}

pub(super) async fn ends_are_found(probe: &Probe) -> Result<String, Unmet> {
    let (missing, stream) = (probe.stream("missing"), probe.stream("ends"));
    let answer = probe.read(&missing, ReadStreamOptions::default()).await;
    let right = matches!(answer, Err(Error::ResourceNotFound));
    holds(right, format!("a stream that is not there: {answer:?}"))?;
    probe.fill(&stream, 3).await?;
    let from = |revision| ReadStreamOptions::default().position(StreamPosition::Position(revision));
    let read = probe.read(&stream, from(3)).await?;
    holds(read.is_empty(), format!("{} events beyond the end", read.len()))?;
    let read = probe.read(&stream, from(99).backwards()).await?;
    let revisions: Vec<u64> = read.iter().map(|event| event.revision).collect();
    holds(revisions == [2, 1, 0], format!("backward from beyond the end: {revisions:?}"))?;
    Ok("not found; nothing; the last one".into())
}

pub(super) async fn a_slow_reader_stops_nobody(probe: &Probe) -> Result<String, Unmet> {
    const EVENTS: u64 = 20;
    let stream = probe.stream("slow");
    let start = probe.fill(&stream, 1).await?[0];
    let lease = probe.lease().await?;
    let options = SubscribeToAllOptions::default().position(at(start));
    let options = options.filter(on_streams(&[&stream]));
    let mut subscription = lease.client().subscribe_to_all(&options).await;
    for _ in 0..EVENTS {
        probe.append(&stream, StreamState::Any, vec![sized("Probed", 1_000_000)]).await?;
    }
    for revision in 1..=EVENTS {
        let found = next(&mut subscription).await?.revision;
        holds(found == revision, format!("revision {found} instead of {revision}"))?;
    }
    Ok("20 MB were written past a subscriber, which then read them".into())
}

pub(super) async fn the_clock_is_right(probe: &Probe) -> Result<String, Unmet> {
    let stream = probe.stream("clock");
    let before = Clock::system().now();
    probe.fill(&stream, 1).await?;
    let read = probe.read(&stream, ReadStreamOptions::default()).await?;
    let event = read.first().ok_or_else(|| Unmet::Fails("the event is not there".into()))?;
    let ticks = event.metadata.get("created").and_then(|ticks| ticks.parse::<u64>().ok());
    let ticks = ticks.ok_or_else(|| Unmet::Fails("`created` is no number of ticks".into()))?;
    let off = Duration::from_millis((ticks / 10_000).abs_diff(before.as_millis()));
    holds(off <= SKEW, format!("the clocks differ by {} s", off.as_secs()))?;
    Ok(format!("it differs by {} ms from ours", off.as_millis()))
}
