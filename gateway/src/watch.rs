//! Watches a run to its end, whichever scheduler leads.

use std::time::Duration;

use futures::{Stream, stream};
use proto::scheduler::v1::{GetRunRequest, Run, scheduler_client::SchedulerClient};
use tokio::time::sleep;
use tonic::{Code, Status, Streaming};
use transport::Channel;

use crate::gate::{Gate, is_terminal};

/// Between two tries to watch again; several schedulers need some seconds at most to agree who leads.
const PAUSE: Duration = Duration::from_millis(200);
const TRIES: u32 = 150;

/// The states of a run, from now on to its end. A watch that breaks is taken up where it was.
pub(crate) struct Watch {
    scheduler: SchedulerClient<Channel>,
    wanted: GetRunRequest,
    changes: Streaming<Run>,
    /// What was told last.
    last: Option<Run>,
}

impl Watch {
    pub(crate) async fn start(gate: &Gate, wanted: GetRunRequest) -> Result<Self, Status> {
        let mut scheduler = gate.scheduler();
        let changes = scheduler.watch_run(wanted.clone()).await?.into_inner();
        Ok(Self { scheduler, wanted, changes, last: None })
    }

    /// `None` after the terminal state.
    pub(crate) async fn next(&mut self) -> Result<Option<Run>, Status> {
        if self.last.as_ref().is_some_and(is_terminal) {
            return Ok(None);
        }
        loop {
            match self.changes.message().await {
                // Whoever is asked again says first what may be known.
                Ok(Some(run)) if self.last.as_ref() == Some(&run) => {}
                Ok(Some(run)) => {
                    self.last = Some(run.clone());
                    return Ok(Some(run));
                }
                Ok(None) => self.again("it ended").await?,
                Err(fault) => self.again(fault.message()).await?,
            }
        }
    }

    /// Ends with the terminal state, or with the error after which there is no more to hear.
    pub(crate) fn into_stream(self) -> impl Stream<Item = Result<Run, Status>> {
        stream::unfold(Some(self), |watch| async {
            let mut watch = watch?;
            match watch.next().await {
                Ok(run) => Some((Ok(run?), Some(watch))),
                Err(fault) => Some((Err(fault), None)),
            }
        })
    }

    async fn again(&mut self, why: &str) -> Result<(), Status> {
        tracing::debug!(why, "watching a run again");
        let mut tries = 0;
        self.changes = loop {
            sleep(PAUSE).await;
            tries += 1;
            match self.scheduler.watch_run(self.wanted.clone()).await {
                Ok(changes) => break changes.into_inner(),
                Err(fault) if fault.code() == Code::Unavailable && tries < TRIES => {}
                Err(fault) => return Err(fault),
            }
        };
        Ok(())
    }
}
