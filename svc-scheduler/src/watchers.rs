//! Who wants to hear of which run.
//!
//! One task looks at all watched runs after a change, so that a change of one run costs a comparison
//! for each watcher and nothing more. A slow watcher misses states in between, never the last.

use eventlog::Stopped;
use ids::RunId;
use proto::scheduler::v1 as pb;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};

use crate::{domain::State, service::Owner, wire};

#[derive(Clone, Debug)]
pub(crate) struct Watchers(mpsc::UnboundedSender<Watcher>);

#[derive(Debug)]
struct Watcher {
    run: RunId,
    /// What it has heard of.
    revision: u32,
    told: watch::Sender<pb::Run>,
}

impl Watchers {
    pub(crate) fn start(owner: Owner) -> (Self, JoinHandle<()>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        // That the owner has stopped is the owner's to tell.
        let task = async { watch_all(owner, receiver).await.unwrap_or_default() };
        (Self(sender), tokio::spawn(task))
    }

    /// Tells every state after `now`, which is at `revision`; ends with the terminal one.
    pub(crate) fn watch(
        &self,
        run: RunId,
        revision: u32,
        now: pb::Run,
    ) -> watch::Receiver<pb::Run> {
        let (told, receiver) = watch::channel(now);
        // If the task is gone, the channel closes, and so does the caller's stream.
        self.0.send(Watcher { run, revision, told }).ok();
        receiver
    }
}

async fn watch_all(
    owner: Owner,
    mut joining: mpsc::UnboundedReceiver<Watcher>,
) -> Result<(), Stopped> {
    let mut changes = owner.changes();
    let mut watchers = Vec::new();
    loop {
        tokio::select! {
                // So that a simulation repeats.
                biased;
            woken = changes.changed() => woken.map_err(|_| Stopped)?,
            joined = joining.recv() => match joined {
                // It may have missed a change already.
                Some(watcher) => watchers.push(watcher),
                None => return Ok(()),
            },
        }
        if !watchers.is_empty() {
            watchers = owner.read(move |state| tell(state, watchers)).await?;
        }
    }
}

fn tell(state: &State, mut watchers: Vec<Watcher>) -> Vec<Watcher> {
    watchers.retain_mut(|watcher| {
        let Some(run) = state.run(watcher.run) else { return false };
        if watcher.told.is_closed() {
            return false;
        }
        if run.revision != watcher.revision {
            watcher.revision = run.revision;
            watcher.told.send_replace(wire::run(state, watcher.run, run));
        }
        !run.state.is_terminal()
    });
    watchers
}
