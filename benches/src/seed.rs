//! Fills a log with copies of a run, so that a million of them need no million calls.

use std::path::Path;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use eventlog::{Clock, Expected, Log, Metadata, NewEvent};
use futures::{StreamExt, TryStreamExt, stream};
use ids::EventId;
use prost::Message;
use proto::scheduler::events::v1::{RunNumbered, RunSubmitted};
use uuid::Uuid;

/// Appends on their way at the same time, and events of one append.
const IN_FLIGHT: usize = 1_000;

/// How far the copies have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Queued,
    Finished,
}

/// Copies the run `model` of the server whose data are in this folder, and which does not run, `count`
/// times, with numbers after `number`. Answers with the number of events.
pub async fn seed(
    data: &Path,
    model: &str,
    kind: Kind,
    number: u64,
    count: usize,
) -> Result<usize> {
    let log = Log::open(&data.join("log"), Clock::system())?;
    let stored = log.read_stream(format!("run-{model}"), 0, usize::MAX);
    let stored: Vec<_> = stored.try_collect().await?;
    let mut events: Vec<NewEvent> = stored.into_iter().map(|recorded| recorded.event).collect();
    if events.len() < 2 {
        bail!("run {model} is not in the log, or has not ended");
    }
    if kind == Kind::Queued {
        events.truncate(1);
    }
    let submitted = RunSubmitted::decode(events[0].data.clone())?;
    let pipeline = submitted.spec.context("a submission has a spec")?.pipeline_id;
    let (log, events) = (&log, &events);
    let runs: Vec<String> = (0..count).map(|_| id().to_string()).collect();
    for (nth, runs) in runs.chunks(IN_FLIGHT).enumerate() {
        let number = number + (nth * IN_FLIGHT) as u64;
        log.append(format!("numbers-{pipeline}"), Expected::Any, claims(pipeline, number, runs))
            .await?;
        stream::iter(runs)
            .map(async |run| {
                let copies = copies(events, model, run)?;
                log.append(format!("run-{run}"), Expected::None, copies).await?;
                anyhow::Ok(())
            })
            .buffer_unordered(IN_FLIGHT)
            .try_collect::<()>()
            .await?;
    }
    Ok(count * (events.len() + 1))
}

/// As the scheduler claims a number for each run before it.
fn claims(pipeline_id: u64, first: u64, runs: &[String]) -> Vec<NewEvent> {
    let claim = |(run_id, number): (&String, u64)| {
        let claim = RunNumbered { pipeline_id, number, run_id: run_id.clone(), at: 0 };
        let metadata = Metadata { version: 1, ..Metadata::default() };
        NewEvent::new(EventId::from_uuid(id()), "RunNumbered", claim.encode_to_vec(), &metadata)
    };
    runs.iter().zip(first..).map(claim).collect()
}

fn id() -> Uuid {
    #[expect(clippy::disallowed_methods, reason = "the benchmark is the edge where ids are made")]
    Uuid::now_v7()
}

fn copies(events: &[NewEvent], model: &str, run: &str) -> Result<Vec<NewEvent>> {
    let copy = |event: &NewEvent| {
        let data = if event.event_type == "RunSubmitted" {
            let submitted = RunSubmitted::decode(event.data.clone())?;
            RunSubmitted { run_id: run.to_owned(), number: 0, ..submitted }.encode_to_vec()
        } else {
            renamed(&event.data, model, run)?
        };
        Ok(NewEvent { id: EventId::from_uuid(id()), data: Bytes::from(data), ..event.clone() })
    };
    events.iter().map(copy).collect()
}

/// Both names have the same length, and no event names its run twice.
fn renamed(data: &[u8], model: &str, run: &str) -> Result<Vec<u8>> {
    let at = data.windows(model.len()).position(|bytes| bytes == model.as_bytes());
    let at = at.context("an event of a run names it")?;
    let mut data = data.to_vec();
    data[at..at + run.len()].copy_from_slice(run.as_bytes());
    Ok(data)
}
