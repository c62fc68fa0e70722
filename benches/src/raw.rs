//! What the log by itself does here, now: the baseline beside figures of services.

use std::time::Duration;

use anyhow::Result;
use eventlog::{Clock, Expected, Log, Metadata, NewEvent};
use futures::{StreamExt, TryStreamExt, stream};
use ids::EventId;

use crate::{now, rate};

/// An event of a run, about.
const EVENT: usize = 200;
const SECONDS: u64 = 2;

/// Durable appends a second of one small event to a stream each, so many at once, in this process.
pub async fn raw_appends(at_once: usize) -> Result<f64> {
    let folder = tempfile::tempdir()?;
    let log = Log::open(&folder.path().join("log"), Clock::system())?;
    let begun = now();
    let log = &log;
    let count = stream::iter(0u64..)
        .take_while(|_| std::future::ready(begun.elapsed() < Duration::from_secs(SECONDS)))
        .map(async |nth| log.append(format!("raw-{nth}"), Expected::None, vec![event()]).await)
        .buffer_unordered(at_once)
        .try_fold(0, async |count, _| Ok(count + 1))
        .await?;
    Ok(rate(count, begun.elapsed()))
}

fn event() -> NewEvent {
    #[expect(clippy::disallowed_methods, reason = "the benchmark is the edge where ids are made")]
    let id = EventId::from_uuid(uuid::Uuid::now_v7());
    let metadata = Metadata { version: 1, actor: "service:bench".into(), ..Metadata::default() };
    NewEvent::new(id, "Measured", vec![7; EVENT], &metadata)
}
