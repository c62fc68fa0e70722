//! Keeps `GetWork` open: orders come in, and the server sees that the worker is there.
//!
//! ```text
//! open (slots, tags, held leases) ─► orders… ─► broken ─► short pause ─► open again
//!                                                └─ "worker is not registered" ─► end
//! ```

use std::time::Duration;

use proto::worker::{HeldLease, PipelineRun, WorkerInstance};
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};
use tonic::{Status, Streaming};

use crate::{
    primary::{Primary, is_not_registered},
    retry::Pauses,
};

/// For the server's answer that the call is open.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the session shares with the desk.
#[derive(Debug)]
pub(crate) struct Wires {
    pub(crate) orders: mpsc::Sender<PipelineRun>,
    /// What the agent works on.
    pub(crate) held: watch::Receiver<Vec<HeldLease>>,
    pub(crate) draining: watch::Receiver<bool>,
    /// Set when the server knows that the worker is draining.
    pub(crate) drain_known: watch::Sender<bool>,
}

/// The server does not know this worker.
#[derive(Debug)]
pub(crate) struct NotRegistered;

/// Receives orders until the server says that the worker is not registered.
pub(crate) async fn receive(
    primary: Primary,
    instance: WorkerInstance,
    mut wires: Wires,
) -> NotRegistered {
    let mut pauses = Pauses::new();
    loop {
        let draining = *wires.draining.borrow_and_update();
        let held = wires.held.borrow().clone();
        let instance = WorkerInstance { draining, held, ..instance.clone() };
        let broken = match timeout(PATIENCE, primary.get_work(instance)).await {
            Ok(Ok(stream)) => {
                tracing::info!(worker = primary.worker(), draining, "connected");
                wires.drain_known.send_replace(draining);
                match listen(stream, &mut wires, &mut pauses).await {
                    Listened::Draining => continue,
                    Listened::Broken(status) => status,
                }
            }
            Ok(Err(status)) => status,
            Err(_) => Status::deadline_exceeded("the server did not answer"),
        };
        if is_not_registered(&broken) {
            return NotRegistered;
        }
        let (code, why) = (broken.code(), broken.message());
        tracing::warn!(?code, why, "the connection is broken; trying again");
        pauses.pause().await;
    }
}

enum Listened {
    Broken(Status),
    /// The server must be told.
    Draining,
}

async fn listen(
    mut stream: Streaming<PipelineRun>,
    wires: &mut Wires,
    pauses: &mut Pauses,
) -> Listened {
    loop {
        tokio::select! {
            message = stream.message() => match message {
                Ok(Some(order)) => {
                    pauses.reset();
                    // Refused only when the desk is gone, and this task with it.
                    let _gone = wires.orders.send(order).await;
                }
                Ok(None) => return Listened::Broken(Status::unavailable("the server ended it")),
                Err(status) => return Listened::Broken(status),
            },
            Ok(()) = wires.draining.changed() => return Listened::Draining,
        }
    }
}
