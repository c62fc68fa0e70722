//! Listens to whoever leads, to notice when it is gone.

use std::{fmt, io, time::Duration};

use futures::{Stream, StreamExt, stream};
use host::Dial;
use proto::scheduler::v1::{Standing, WatchLeadershipRequest, leadership_client::LeadershipClient};
use tokio::{
    net::TcpStream,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::Streaming;
use transport::Channel;

use crate::leadership::Leader;

/// The leader says four times in each lease that it leads.
pub(crate) const BEATS: u32 = 4;
/// Between two tries to reach a leader that is there but does not answer well.
const PAUSE: Duration = Duration::from_millis(50);
/// To learn that nobody listens takes a round trip.
const PROBE: Duration = Duration::from_secs(1);

/// The place of this process among the schedulers of one log.
#[derive(Clone)]
pub struct Seat {
    /// Where the others reach this process: `https://host:port`.
    pub address: String,
    /// Whether this process listens at just this address, so that no other one can.
    pub is_bound: bool,
    /// The way to another one. Over TCP: whether a process is dead shows there at once.
    pub dial: Dial,
    /// Fires when this process shall lead no more, and end: the next one need not wait for it.
    pub stop: CancellationToken,
}

impl fmt::Debug for Seat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seat").field("address", &self.address).finish_non_exhaustive()
    }
}

/// How a leader went away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gone {
    /// No process listens there: it can do nothing any more.
    Dead,
    /// It may be paused or cut off, and does not know that somebody else will lead.
    Silent,
}

/// Answers when the leader is gone.
pub(crate) async fn until_gone(seat: &Seat, leader: &Leader) -> Gone {
    let pace = leader.lease / BEATS;
    let mut beats = std::pin::pin!(beats(seat, leader));
    let mut missed = 0;
    // Counted, not measured: should this process have slept, the leader gets its time again.
    while missed < BEATS {
        match timeout(pace, beats.next()).await {
            Ok(Some(Beat::Leads)) => missed = 0,
            Ok(Some(Beat::Dead) | None) => return Gone::Dead,
            Err(_) => missed += 1,
        }
    }
    Gone::Silent
}

enum Beat {
    Leads,
    Dead,
}

/// Ends never; what is not heard is no beat.
fn beats(seat: &Seat, leader: &Leader) -> impl Stream<Item = Beat> {
    let client = (seat.dial)(&leader.address).map(LeadershipClient::new);
    if let Err(error) = &client {
        tracing::error!("the leader cannot be reached: {error}");
    }
    let state = (client.ok(), None, leader.address.clone());
    stream::unfold(state, |(mut client, mut line, address)| async move {
        loop {
            if let Some(beat) = listen(client.as_mut(), &mut line).await {
                return Some((beat, (client, line, address)));
            }
            if is_dead(&address).await {
                return Some((Beat::Dead, (client, line, address)));
            }
            sleep(PAUSE).await;
        }
    })
}

/// `None`: it was not to be heard.
async fn listen(
    client: Option<&mut LeadershipClient<Channel>>,
    line: &mut Option<Streaming<Standing>>,
) -> Option<Beat> {
    if line.is_none() {
        let opened = client?.watch(WatchLeadershipRequest {}).await;
        *line = Some(opened.ok()?.into_inner());
    }
    while let Ok(Some(standing)) = line.as_mut()?.message().await {
        // One that was just elected may not know it yet.
        if standing.leads {
            return Some(Beat::Leads);
        }
    }
    *line = None;
    None
}

/// Whether nobody listens at any of its addresses.
async fn is_dead(address: &str) -> bool {
    let place = address.trim_start_matches("https://").trim_end_matches('/');
    let Ok(found) = tokio::net::lookup_host(place).await else { return false };
    let mut refused = false;
    for address in found {
        match timeout(PROBE, TcpStream::connect(address)).await {
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => refused = true,
            _ => return false,
        }
    }
    refused
}
