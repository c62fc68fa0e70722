//! Which workers are attached. Known to nobody but this process, and gone with it: not events.
//!
//! The effects task keeps the truth; what happens at the edge reaches it as a [`Notice`], and what it
//! concludes is published as a snapshot.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use futures::Stream;
use ids::{Attempt, RunId, WorkerId};
use proto::scheduler::v1::Instruction;
use tokio::sync::{mpsc, watch};
use tonic::Status;

use crate::domain::Connected;

/// What the edge saw.
#[derive(Debug)]
pub(crate) enum Notice {
    /// Takes the place of an earlier attachment of the same worker.
    Attached {
        worker: WorkerId,
        line: u64,
        instructions: mpsc::Sender<Box<Instruction>>,
        draining: bool,
        /// What the worker has already.
        held: Vec<(RunId, Attempt)>,
    },
    Detached {
        worker: WorkerId,
        line: u64,
    },
    /// Asked for a run, or only said that it is there and takes none.
    Polled {
        worker: WorkerId,
        draining: bool,
    },
    /// A worker that polls was given a run.
    Given {
        run: RunId,
        attempt: Attempt,
    },
    /// The worker has the run and will begin it.
    Received {
        run: RunId,
        attempt: Attempt,
    },
}

/// The edge's side; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Connections {
    notices: mpsc::UnboundedSender<Notice>,
    connected: watch::Receiver<Arc<Connected>>,
    lines: Arc<AtomicU64>,
}

/// The effects task's side.
#[derive(Debug)]
pub(crate) struct Notices {
    pub(crate) notices: mpsc::UnboundedReceiver<Notice>,
    pub(crate) connected: watch::Sender<Arc<Connected>>,
}

/// How many instructions may wait for a slow gateway; then the line is cut, and the worker attaches again.
const WAITING: usize = 1_024;

impl Connections {
    pub(crate) fn new() -> (Self, Notices) {
        let (sender, notices) = mpsc::unbounded_channel();
        let (connected, snapshot) = watch::channel(Arc::default());
        let edge = Self { notices: sender, connected: snapshot, lines: Arc::default() };
        (edge, Notices { notices, connected })
    }

    pub(crate) fn connected(&self) -> Arc<Connected> {
        Arc::clone(&self.connected.borrow())
    }

    pub(crate) fn notify(&self, notice: Notice) {
        // The task is gone only when the service stops; whoever asks next hears of it.
        self.notices.send(notice).ok();
    }

    /// Opens the worker's line; `first` goes over it before anything else.
    pub(crate) fn attach(
        &self,
        worker: WorkerId,
        draining: bool,
        held: Vec<(RunId, Attempt)>,
        first: Vec<Instruction>,
    ) -> Line {
        let (instructions, receiver) = mpsc::channel(WAITING + first.len());
        for instruction in first {
            instructions.try_send(Box::new(instruction)).expect("the channel has room for these");
        }
        let line = self.lines.fetch_add(1, Ordering::Relaxed);
        self.notify(Notice::Attached { worker, line, instructions, draining, held });
        Line { receiver, worker, id: line, connections: self.clone() }
    }
}

/// The instructions for one attached worker. Ends when another attachment replaces it; dropped when the
/// worker goes.
#[derive(Debug)]
pub(crate) struct Line {
    /// In boxes: a channel has room for many from the start, and most lines are idle.
    receiver: mpsc::Receiver<Box<Instruction>>,
    worker: WorkerId,
    id: u64,
    connections: Connections,
}

impl Stream for Line {
    type Item = Result<Instruction, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.receiver
            .poll_recv(context)
            .map(|instruction| instruction.map(|instruction| Ok(*instruction)))
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.connections.notify(Notice::Detached { worker: self.worker, line: self.id });
    }
}
