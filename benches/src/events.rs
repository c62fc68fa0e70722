//! Events as the benchmarks of the log append them, and what they do alike.

use anyhow::Result;
use eventlog::{Log, Metadata, NewEvent};
use futures::StreamExt;
use ids::EventId;

use crate::{now, rate};

/// Events of a stream.
pub const STREAM: usize = 20;

/// With so many bytes of data.
#[must_use]
pub fn event(bytes: usize) -> NewEvent {
    #[expect(clippy::disallowed_methods, reason = "the benchmark is the edge where ids are made")]
    let id = EventId::from_uuid(uuid::Uuid::now_v7());
    let mut data = vec![0; bytes];
    data.chunks_exact_mut(16).for_each(|part| part.copy_from_slice(&id.as_uuid().as_bytes()[..]));
    let metadata = Metadata { version: 1, actor: "service:bench".into(), ..Metadata::default() };
    NewEvent::new(id, "Measured", data, &metadata)
}

/// Reads everything, and says how fast that was.
pub async fn replay(log: &Log, state: &str) -> Result<()> {
    let begun = now();
    let (mut events, mut count) = (log.read_all(0, &[]), 0);
    while let Some(event) = events.next().await {
        event?;
        count += 1;
    }
    println!("replay, {state}: {:.0} events/s ({count} events)", rate(count, begun.elapsed()));
    Ok(())
}
