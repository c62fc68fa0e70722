//! Finds who leads the schedulers: the log says it.

use std::time::Duration;

use anyhow::{Context, Result};
use eventlog::{DecodeError, Log, Recorded, owner::check_version};
use futures::StreamExt;
use identity::Live;
use prost::Message;
use proto::leadership::events::v1::LeaderElected;
use tokio::time::sleep;
use transport::{Channel, Switch};

use crate::remote;

pub(crate) const SCHEDULER: &str = "svc-scheduler";
/// The stream of the elections of schedulers. The revision of an event is its term.
pub const ELECTIONS: &str = "scheduler-leader";
/// Before the log is asked again, when it could not be followed.
const PAUSE: Duration = Duration::from_secs(1);

/// The way to the scheduler that leads: at first this one, then whom the log names. Must be called within
/// a runtime.
pub fn scheduler(first: Channel, log: Log, live: Live) -> Channel {
    let (channel, switch) = Channel::to_leader(first);
    tokio::spawn(follow(log, live, switch));
    channel
}

/// `None`: the event is of another type.
pub fn elected(recorded: &Recorded) -> Result<Option<LeaderElected>, DecodeError> {
    if &*recorded.event.event_type != "LeaderElected" {
        return Ok(None);
    }
    check_version(recorded)?;
    let elected = LeaderElected::decode(&recorded.event.data[..]);
    elected.map(Some).map_err(|why| DecodeError::new(recorded, why))
}

/// Sends calls to whoever is elected, for ever.
async fn follow(log: Log, live: Live, switch: Switch) {
    // To heed one election twice would end all calls to its leader.
    let mut known = None;
    loop {
        if let Err(error) = try_follow(&log, &live, &switch, &mut known).await {
            tracing::debug!("the log does not say who leads: {error:#}");
        }
        sleep(PAUSE).await;
    }
}

async fn try_follow(
    log: &Log,
    live: &Live,
    switch: &Switch,
    known: &mut Option<u64>,
) -> Result<()> {
    // Read first: what is appended meanwhile is seen twice rather than never.
    let end = log.next_position().await?;
    let last = log.read_stream_backward(ELECTIONS, None, 1);
    let mut elections = last.chain(log.subscribe(end, &[ELECTIONS]));
    while let Some(recorded) = elections.next().await.transpose()? {
        if known.is_none_or(|known| known < recorded.revision) {
            heed(&recorded, live, switch)?;
            *known = Some(recorded.revision);
        }
    }
    anyhow::bail!("the subscription ended")
}

fn heed(recorded: &Recorded, live: &Live, switch: &Switch) -> Result<()> {
    let Some(elected) = elected(recorded)? else { return Ok(()) };
    let channel = remote(&elected.address, SCHEDULER, live).context("reach the leader")?;
    tracing::info!("the scheduler at {} leads in term {}", elected.address, recorded.revision);
    switch.to(channel);
    Ok(())
}
