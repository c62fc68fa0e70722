//! What the log by itself does here, now: the baseline beside figures of services.

use std::time::Duration;

use anyhow::Result;
use eventlog::{Clock, Expected, Log};
use futures::{StreamExt, TryStreamExt, stream};

use crate::{events::event, now, rate};

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
        .map(async |nth| log.append(format!("raw-{nth}"), Expected::None, vec![event(EVENT)]).await)
        .buffer_unordered(at_once)
        .try_fold(0, async |count, _| Ok(count + 1))
        .await?;
    Ok(rate(count, begun.elapsed()))
}
