//! What streams hide, and how they end.

use std::{
    future::{Ready, ready},
    time::Duration,
};

use ids::EventId;
use kurrentdb::{Error, ReadStreamOptions, StreamPosition, StreamState};
use tokio::time::{Instant, sleep};

use super::probe::{Probe, Unmet, holds, id, small};
use crate::{
    event::Expected,
    log::AppendError,
    retention::{METADATA_TYPE, StreamMetadata, metadata_stream},
};

/// Long after a second.
const AGED: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(100);

async fn revisions(probe: &Probe, stream: &str) -> Result<Vec<u64>, Unmet> {
    match probe.read(stream, ReadStreamOptions::default()).await {
        Ok(read) => Ok(read.iter().map(|event| event.revision).collect()),
        Err(Error::ResourceNotFound) => Ok(vec![]),
        Err(error) => Err(error.into()),
    }
}

pub(super) async fn metadata_hide_events(probe: &Probe) -> Result<String, Unmet> {
    let stream = probe.stream("metadata");
    probe.fill(&stream, 10).await?;
    let kept = StreamMetadata::default();
    let cases = [
        (StreamMetadata { max_count: Some(3), ..kept.clone() }, vec![7, 8, 9]),
        (StreamMetadata { truncate_before: Some(8), ..kept.clone() }, vec![8, 9]),
    ];
    for (metadata, belong) in cases {
        let event = EventId::from_uuid(id());
        probe
            .log
            .set_stream_metadata(stream.as_str(), Expected::Any, metadata.clone(), event)
            .await?;
        let shown = revisions(probe, &stream).await?;
        holds(shown == belong, format!("{metadata:?} shows {shown:?}"))?;
        let last = ReadStreamOptions::default().backwards().position(StreamPosition::End);
        let read = probe.read(&metadata_stream(&stream), last.max_count(1)).await?;
        let is_it = read.first().is_some_and(|read| {
            read.event_type == METADATA_TYPE
                && StreamMetadata::from_json(&read.data).is_ok_and(|read| read == metadata)
        });
        holds(is_it, format!("the last event of its metadata is {:?}", read.first()))?;
    }
    let young = StreamMetadata { max_age: Some(Duration::from_secs(1)), ..kept };
    let event = EventId::from_uuid(id());
    probe.log.set_stream_metadata(stream.as_str(), Expected::Any, young, event).await?;
    let deadline = Instant::now() + AGED;
    while !revisions(probe, &stream).await?.is_empty() {
        let seconds = AGED.as_secs();
        holds(Instant::now() < deadline, format!("events of {seconds} s are shown, 1 is kept"))?;
        sleep(PAUSE).await;
    }
    Ok("a count, a first revision, an age".into())
}

pub(super) async fn deletes_hide_and_tombstones_end(probe: &Probe) -> Result<String, Unmet> {
    let stream = probe.stream("deleted");
    probe.fill(&stream, 3).await?;
    let wrong = probe.log.delete(stream.as_str(), Expected::Revision(1)).await;
    let right = matches!(wrong, Err(AppendError::Conflict { .. }));
    holds(right, format!("a delete with a wrong expectation: {wrong:?}"))?;
    probe.log.delete(stream.as_str(), Expected::Revision(2)).await?;
    let shown = revisions(probe, &stream).await?;
    holds(shown.is_empty(), format!("a deleted stream shows {shown:?}"))?;
    let answer = probe.append(&stream, StreamState::NoStream, vec![small("Probed")]).await?;
    let revision = answer.next_expected_version;
    holds(revision == 3, format!("it goes on with revision {revision}"))?;
    let shown = revisions(probe, &stream).await?;
    holds(shown == [3], format!("it then shows {shown:?}"))?;

    probe.log.tombstone(stream.as_str(), Expected::Revision(3)).await?;
    let read = probe.read(&stream, ReadStreamOptions::default()).await;
    let right = matches!(read, Err(Error::ResourceDeleted));
    holds(right, format!("a read after the tombstone: {:?}", read.err()))?;
    let call = probe.append(&stream, StreamState::Any, vec![small("Probed")]).await;
    let right = matches!(call, Err(Error::ResourceDeleted));
    holds(right, format!("an append after the tombstone: {call:?}"))?;
    let batch = vec![super::probe::new("Probed")];
    let session = probe.log.append(stream.as_str(), Expected::Any, batch).await;
    let right = matches!(session, Err(AppendError::Deleted { .. }));
    holds(right, format!("a session's append after the tombstone: {session:?}"))?;
    Ok("hidden; went on with revision 3; refused".into())
}

/// Nobody can bring a server to end a subscription to all.
pub(super) fn subscriptions_end_with_errors(_: &Probe) -> Ready<Result<String, Unmet>> {
    ready(Err(Unmet::NotChecked("it would need the server's end".into())))
}
