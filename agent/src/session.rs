//! Keeps `GetWork` open: orders come in, and the server sees that the worker is there.
//!
//! ```text
//! open (slots, tags, held leases) ─► orders… ─► broken ─► short pause ─► open again
//!                                                ├─ certificate expired ─► renew it ─► open again
//!                                                └─ "worker is not registered", another CA ─► end
//! ```
//!
//! With a renewed certificate, the next call is open before the last is ended.

use std::{sync::Arc, time::Duration};

use proto::worker::{HeldLease, PipelineRun, WorkerInstance};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::timeout,
};
use tonic::{Status, Streaming};

use crate::{
    join,
    primary::{Ended, Primary, ended},
    renew,
    retry::Pauses,
    workshop::Workshop,
};

/// For the server's answer that the call is open.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the session shares with the desk.
#[derive(Debug)]
pub(crate) struct Wires {
    /// Each is answered when it is among those that are held.
    pub(crate) orders: mpsc::Sender<(PipelineRun, oneshot::Sender<()>)>,
    /// What the agent works on.
    pub(crate) held: watch::Receiver<Vec<HeldLease>>,
    pub(crate) draining: watch::Receiver<bool>,
    /// Set when the server knows that the worker is draining.
    pub(crate) drain_known: watch::Sender<bool>,
    /// Changes when the agent shows another certificate.
    pub(crate) renewed: watch::Receiver<()>,
}

/// Receives orders until the server says that the worker's identity is of no use any more.
pub(crate) async fn receive(
    workshop: Arc<Workshop>,
    primary: Primary,
    instance: WorkerInstance,
    mut wires: Wires,
) -> Ended {
    let mut pauses = Pauses::new();
    let mut before = None;
    loop {
        wires.renewed.mark_unchanged();
        let draining = *wires.draining.borrow_and_update();
        let held = wires.held.borrow().clone();
        let instance = WorkerInstance { draining, held, ..instance.clone() };
        let broken = match timeout(PATIENCE, primary.get_work(instance)).await {
            Ok(Ok(stream)) => {
                tracing::info!(worker = primary.worker(), draining, "connected");
                wires.drain_known.send_replace(draining);
                before = None;
                match listen(stream, &mut wires, &mut pauses).await {
                    Listened::Draining => continue,
                    Listened::Renewed(stream) => {
                        before = Some(stream);
                        continue;
                    }
                    Listened::Broken(status) => status,
                }
            }
            Ok(Err(status)) => status,
            Err(_) => Status::deadline_exceeded("the server did not answer"),
        };
        drop(before.take());
        match ended(&broken) {
            Some(Ended::Expired) => match renew::revive(&workshop, &primary).await {
                Ok(true) => {
                    tracing::info!(worker = primary.worker(), "the expired certificate is renewed");
                    continue;
                }
                Ok(false) => return Ended::Expired,
                Err(why) => tracing::warn!(why, "cannot renew the expired certificate yet"),
            },
            Some(Ended::UnknownCa)
                if !join::may_change_ca(&workshop.config, &primary.credentials()) => {}
            Some(ended) => return ended,
            None => {}
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
    /// Here is what it listened to, by the old certificate.
    Renewed(Box<Streaming<PipelineRun>>),
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
                    // Until it is among those that are held: else the next session, which says what
                    // is, would let the server believe that it was lost. It fails only when the desk
                    // is gone, and this task with it.
                    let (taken, known) = oneshot::channel();
                    let _gone = wires.orders.send((order, taken)).await;
                    let _gone = known.await;
                }
                Ok(None) => return Listened::Broken(Status::unavailable("the server ended it")),
                Err(status) => return Listened::Broken(status),
            },
            Ok(()) = wires.draining.changed() => return Listened::Draining,
            Ok(()) = wires.renewed.changed() => return Listened::Renewed(Box::new(stream)),
        }
    }
}
