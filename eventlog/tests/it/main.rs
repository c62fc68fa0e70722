//! The log from outside: one contract suite for every engine, and what only a log in files can show.

#![allow(clippy::unwrap_used, reason = "tests")]

mod backends;
mod conformance;
mod contract;
mod crash;
mod damage;
mod files;
mod fuzz;
mod leading;
mod retention;
mod scavenge;
mod served;
mod serving;
mod streams;
mod unserved;
mod walks;

use std::{future::Future, path::Path, time::Duration};

use bytes::Bytes;
use eventlog::{Clock, Expected, Log, Metadata, NewEvent, Options, Recorded};
use futures::{Stream, StreamExt};
use ids::{EventId, Timestamp};
use uuid::Uuid;

/// An event whose id and data are this number's.
fn event(number: u64) -> NewEvent {
    NewEvent::new(
        EventId::from_uuid(Uuid::from_u128(u128::from(number) + 1)),
        "Counted",
        Bytes::from(number.to_string()),
        &Metadata { version: 1, actor: "user:ada".into(), ..Metadata::default() },
    )
}

fn events(numbers: std::ops::Range<u64>) -> Vec<NewEvent> {
    numbers.map(event).collect()
}

/// What [`event`] was made of.
fn number(recorded: &Recorded) -> u64 {
    std::str::from_utf8(&recorded.event.data).unwrap().parse().unwrap()
}

fn numbers(recorded: &[Recorded]) -> Vec<u64> {
    recorded.iter().map(number).collect()
}

fn clock() -> Clock {
    Clock::from_fn(|| Timestamp(1_700_000_000_000))
}

/// Segments so small that every test crosses from one into the next.
fn open_small(dir: &Path) -> Log {
    Log::open_with(dir, clock(), Options { segment_bytes: 2_048 }).unwrap()
}

async fn all<E: std::fmt::Debug>(events: impl Stream<Item = Result<Recorded, E>>) -> Vec<Recorded> {
    soon(events.map(Result::unwrap).collect()).await
}

/// The first `count`, of a stream that may never end.
async fn first<E: std::fmt::Debug>(
    count: usize,
    events: impl Stream<Item = Result<Recorded, E>>,
) -> Vec<Recorded> {
    all(events.take(count)).await
}

/// A deadline, so that a test which waits in vain fails.
async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_mins(1), future).await.expect("this takes too long")
}

async fn fill(log: &Log, stream: &str, count: u64) {
    for number in 0..count {
        log.append(stream, Expected::Any, vec![event(number)]).await.unwrap();
    }
}
