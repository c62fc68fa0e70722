//! Takes orders, keeps the table of attempts, and closes in order.
//!
//! One task owns the table. An order for an attempt that is held or was done is a repetition and does
//! nothing; an order for a newer attempt of a run means that the older one is lost.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use ids::RunId;
use proto::worker::{Instruction, PipelineRun, WorkerInstance};
use tokio::{
    sync::{mpsc, watch},
    task::{Id, JoinError, JoinSet},
    time::{Instant, sleep_until, timeout},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{
    attempt::attend,
    languages::Tags,
    leftovers::{self, Leftover},
    order::Lease,
    primary::{Ended, Primary},
    processes, renew,
    report::{Ending, Reporter},
    session::{Wires, receive},
    stop::{Stopper, Why},
    workshop::Workshop,
};

/// Attempts that are remembered after they ended, against repeated orders.
const REMEMBERED: usize = 1000;
/// For attempts that were told to end at once.
const HURRY: Duration = Duration::from_secs(5);
/// For the server to hear that the worker is draining.
const FAREWELL: Duration = Duration::from_secs(2);

/// Why the desk closed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Closed {
    /// It was asked to.
    Drained,
    /// The server believes this identity no more.
    Ended(Ended),
    /// A fault of our own, which says nothing of the identity.
    Failed(String),
}

#[derive(Debug)]
pub(crate) struct Desk {
    workshop: Arc<Workshop>,
    primary: Primary,
    held: HashMap<RunId, Held>,
    attempts: JoinSet<()>,
    leases: watch::Sender<Vec<proto::worker::HeldLease>>,
    done: VecDeque<(RunId, u32)>,
    /// Of a previous life; their logs are ended as they are.
    left_over: HashSet<(RunId, u32)>,
}

#[derive(Debug)]
struct Held {
    lease: Lease,
    stopper: Stopper,
    task: Id,
}

/// How far closing has got.
#[derive(Debug)]
struct Closing {
    /// When what still runs is ended.
    deadline: Instant,
    /// When the farewell has taken long enough.
    farewell: Instant,
}

impl Desk {
    pub(crate) fn new(workshop: Arc<Workshop>, primary: Primary) -> Self {
        let (leases, _) = watch::channel(Vec::new());
        let (held, attempts, done) = (HashMap::new(), JoinSet::new(), VecDeque::new());
        let left_over = HashSet::new();
        Self { workshop, primary, held, attempts, leases, done, left_over }
    }

    /// Works until `drain`, and then until what is held has ended; `abort` ends all at once.
    pub(crate) async fn work(
        mut self,
        tags: Tags,
        drain: &CancellationToken,
        abort: &CancellationToken,
    ) -> Closed {
        let (renewal, renewed) = watch::channel(());
        let shipping = self.ship_leftovers();
        let renewing = renew::keep_fresh(Arc::clone(&self.workshop), self.primary.clone(), renewal);
        let renewing = AbortOnDropHandle::new(tokio::spawn(renewing));
        let works = self.workshop.home.works();
        let closed = self.serve(tags, renewed, drain, abort).await;
        // They hold the agent's home, which whoever comes next must find free.
        for task in [shipping, renewing] {
            task.abort();
            task.await.ok();
        }
        // Of attempts that were dropped.
        processes::end_marked(&works);
        closed
    }

    async fn serve(
        mut self,
        tags: Tags,
        renewed: watch::Receiver<()>,
        drain: &CancellationToken,
        abort: &CancellationToken,
    ) -> Closed {
        let (sender, mut orders) = mpsc::channel(16);
        let (draining, draining_watcher) = watch::channel(false);
        let (drain_known, mut known) = watch::channel(false);
        let wires = Wires {
            orders: sender,
            renewed,
            held: self.leases.subscribe(),
            draining: draining_watcher,
            drain_known,
        };
        let workshop = Arc::clone(&self.workshop);
        let session = receive(workshop, self.primary.clone(), self.instance(tags), wires);
        let mut session = AbortOnDropHandle::new(tokio::spawn(session));
        let mut closing: Option<Closing> = None;
        loop {
            if let Some(closing) = &closing
                && self.held.is_empty()
                && orders.is_empty()
                && (*known.borrow_and_update() || closing.farewell <= Instant::now())
            {
                self.tell_the_rest().await;
                return Closed::Drained;
            }
            let (deadline, farewell) = match &closing {
                Some(closing) => (Some(closing.deadline), Some(closing.farewell)),
                None => (None, None),
            };
            tokio::select! {
                Some((order, taken)) = orders.recv() => {
                    self.take(order);
                    // Refused only when the session is gone.
                    let _gone = taken.send(());
                }
                Some(ended) = self.attempts.join_next_with_id() => {
                    self.forget(ended);
                }
                ended = &mut session => {
                    self.stop_all(&Why::Lost).await;
                    match ended {
                        Ok(ended) => return Closed::Ended(ended),
                        Err(error) => return Closed::Failed(error.to_string()),
                    }
                }
                () = drain.cancelled(), if closing.is_none() => {
                    tracing::info!(held = self.held.len(), "draining");
                    draining.send_replace(true);
                    let now = Instant::now();
                    let deadline = now + self.workshop.config.drain();
                    closing = Some(Closing { deadline, farewell: now + FAREWELL });
                }
                () = at(deadline) => {
                    self.stop_all(&Why::Aborted).await;
                    return Closed::Drained;
                }
                () = abort.cancelled() => {
                    self.stop_all(&Why::Aborted).await;
                    return Closed::Drained;
                }
                () = at(farewell), if self.held.is_empty() => {}
                Ok(()) = known.changed() => {}
            }
        }
    }

    /// Nobody is held any more, but what became of one may still be on its way.
    async fn tell_the_rest(&mut self) {
        let told = async { while self.attempts.join_next().await.is_some() {} };
        if timeout(FAREWELL, told).await.is_err() {
            tracing::warn!("the server did not hear what became of a run");
        }
    }

    /// Ships the logs of a previous life, beside everything else.
    fn ship_leftovers(&mut self) -> AbortOnDropHandle<()> {
        let (workshop, primary) = (Arc::clone(&self.workshop), self.primary.clone());
        // No attempt has begun yet, so all that is there is left over.
        let found = leftovers::find(&workshop.home);
        self.left_over = found.iter().map(Leftover::attempt).collect();
        let task = async move { leftovers::deliver(found, &primary, &workshop.home).await };
        AbortOnDropHandle::new(tokio::spawn(task))
    }

    fn instance(&self, tags: Tags) -> WorkerInstance {
        WorkerInstance {
            unique_id: self.primary.worker().to_owned(),
            worker_slots: self.workshop.config.slots(),
            tags: tags.all,
            detected_tags: tags.detected,
            push: true,
            os: std::env::consts::OS.into(),
            arch: std::env::consts::ARCH.into(),
            version: env!("CARGO_PKG_VERSION").into(),
            ..WorkerInstance::default()
        }
    }

    fn take(&mut self, order: PipelineRun) {
        let instruction = order.instruction();
        if instruction == Instruction::Nothing {
            return;
        }
        match (Lease::of(&order), instruction) {
            (Err(why), _) => {
                tracing::error!(why, "an order has no usable run id");
            }
            (Ok(lease), Instruction::Cancel) => self.cancel(&lease, &order),
            (Ok(lease), _) => self.begin(lease, order),
        }
    }

    fn begin(&mut self, lease: Lease, order: PipelineRun) {
        if self.done.contains(&(lease.run, lease.attempt)) {
            return;
        }
        if self.left_over.contains(&(lease.run, lease.attempt)) {
            let why = "the agent restarted before the server knew that the run had begun";
            return self.say(&order, Ending::GivenBack(why.into()));
        }
        if let Some(held) = self.held.get(&lease.run) {
            if held.lease.attempt >= lease.attempt {
                return;
            }
            tracing::warn!(run = %lease.run, "a newer attempt of a run that is held");
            held.stopper.stop(Why::Lost);
        }
        tracing::info!(run = %lease.run, attempt = lease.attempt, "taking a run");
        let stopper = Stopper::default();
        let (workshop, primary) = (Arc::clone(&self.workshop), self.primary.clone());
        let attempt = attend(workshop, primary, lease.clone(), order, stopper.clone());
        let task = self.attempts.spawn(attempt).id();
        self.held.insert(lease.run, Held { lease, stopper, task });
        self.publish();
    }

    /// Stops exactly this attempt. One that is not here was lost by the agent: the server is told
    /// that nothing of it runs.
    fn cancel(&mut self, lease: &Lease, order: &PipelineRun) {
        match self.held.get(&lease.run) {
            Some(held) if held.lease == *lease => held.stopper.stop(Why::Cancelled),
            _ if self.done.contains(&(lease.run, lease.attempt)) => {}
            _ => {
                self.say(order, Ending::Cancelled("cancelled before it began".into()));
            }
        }
    }

    /// Reports the end of an attempt that nobody attends to.
    fn say(&mut self, order: &PipelineRun, ending: Ending) {
        let reporter = Reporter::start(self.primary.clone(), order, Stopper::default());
        self.attempts.spawn(async move {
            reporter.finish(ending).await;
        });
    }

    fn forget(&mut self, ended: Result<(Id, ()), JoinError>) {
        let task = ended.as_ref().map_or_else(JoinError::id, |(id, ())| *id);
        let found = self.held.iter().find(|(_, held)| held.task == task).map(|(run, _)| *run);
        let Some(held) = found.and_then(|run| self.held.remove(&run)) else { return };
        if let Err(error) = ended {
            tracing::error!(run = %held.lease.run, %error, "the agent failed in an attempt");
            self.say(
                &held.lease.message(),
                Ending::GivenBack(format!("the agent failed: {error}")),
            );
        }
        self.done.push_back((held.lease.run, held.lease.attempt));
        if self.done.len() > REMEMBERED {
            self.done.pop_front();
        }
        self.publish();
    }

    fn publish(&self) {
        let held = self.held.values().map(|held| held.lease.held());
        self.leases.send_replace(held.collect());
    }

    /// Ends everything; what does not end in time is dropped, which kills its processes.
    async fn stop_all(&mut self, why: &Why) {
        for held in self.held.values() {
            held.stopper.stop(why.clone());
        }
        let ended = async { while self.attempts.join_next().await.is_some() {} };
        if timeout(HURRY, ended).await.is_err() {
            self.attempts.shutdown().await;
        }
    }
}

async fn at(when: Option<Instant>) {
    match when {
        Some(when) => sleep_until(when).await,
        None => std::future::pending().await,
    }
}
