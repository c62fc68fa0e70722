//! Does what the state asks of the world: hands queued runs to attached workers, tells workers what to
//! begin and what to stop, and takes runs away from workers that are gone or do not begin.
//!
//! What must be done is read from the state; what was already said on which line is in the [`Ledger`],
//! which is forgotten with the process. So a restart, or a worker that attaches again, is told
//! everything again that is unfinished.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
    time::Duration,
};

use eventlog::{Clock, Origin, Stopped};
use ids::{Attempt, LeaseToken, RunId, WorkerId};
use proto::scheduler::v1::{self as pb, Instruction, instruction};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use crate::{
    Config,
    connections::{Notice, Notices},
    domain::{Command, Connected, Event, Lease, Presence, State},
    service::Owner,
    wire,
};

/// Most assignments that one append makes durable together.
const BATCH: usize = 256;

pub(crate) struct Effects {
    owner: Owner,
    clock: Clock,
    config: Config,
    notices: mpsc::UnboundedReceiver<Notice>,
    connected: watch::Sender<Arc<Connected>>,
    /// Until when those who poll count as being there.
    polled: HashMap<WorkerId, Instant>,
    /// For the next assignments.
    tokens: Vec<LeaseToken>,
    ledger: Ledger,
    wake_at: Option<Instant>,
}

impl Effects {
    pub(crate) fn new(owner: Owner, clock: Clock, config: Config, notices: Notices) -> Self {
        let Notices { notices, connected } = notices;
        let ledger = Ledger { start_timeout: config.start_timeout, ..Ledger::default() };
        Self {
            owner,
            clock,
            config,
            notices,
            connected,
            polled: HashMap::new(),
            tokens: vec![],
            ledger,
            wake_at: None,
        }
    }

    /// Ends when the service stops.
    pub(crate) async fn run(mut self) {
        let mut changes = self.owner.changes();
        loop {
            // Seen before acting, so that what changes meanwhile is not missed.
            changes.borrow_and_update();
            if self.act().await.is_err() {
                return;
            }
            let wake_at = self.wake_at;
            tokio::select! {
                woken = changes.changed() => if woken.is_err() { return },
                notice = self.notices.recv() => match notice {
                    Some(notice) => self.take_notices(notice),
                    None => return,
                },
                () = tokio::time::sleep_until(wake_at.unwrap_or_else(Instant::now)),
                    if wake_at.is_some() => {}
            }
        }
    }

    async fn act(&mut self) -> Result<(), Stopped> {
        let now = Instant::now();
        self.forget_polled(now);
        #[expect(clippy::disallowed_methods, reason = "the edge where leases get their tokens")]
        let token = || LeaseToken::from_uuid(uuid::Uuid::new_v4());
        self.tokens.resize_with(BATCH, token);
        let connected = Arc::clone(&self.connected.borrow());
        let assign =
            Command::AssignRuns { connected, tokens: self.tokens.clone(), at: self.clock.now() };
        let mut ledger = std::mem::take(&mut self.ledger);
        // Both are in the inbox before either is answered: one round, one wait for the disk.
        let (assigned, seen) = futures::join!(
            self.owner.ask(assign, origin()),
            self.owner.read(move |state| {
                let outlook = ledger.look(state, now);
                (ledger, outlook)
            }),
        );
        self.tokens.drain(..assigned?.map_or(0, |events| events.len()));
        let (ledger, outlook) = seen?;
        self.ledger = ledger;
        for (worker, instruction) in outlook.instructions {
            self.send(worker, instruction);
        }
        for gone in outlook.gone {
            self.release(gone).await?;
        }
        for overdue in outlook.overdue {
            self.expire(overdue).await?;
        }
        self.wake_at = outlook.wake_at.into_iter().chain(self.polled.values().copied()).min();
        Ok(())
    }

    async fn release(&mut self, gone: Gone) -> Result<(), Stopped> {
        let max_attempts = self.config.max_infrastructure_attempts;
        let at = self.clock.now();
        let command = Command::ReleaseWorker { worker: gone.worker, max_attempts, at };
        let events = self.owner.ask(command, origin()).await?.unwrap_or_default();
        self.revoke(gone.worker, &gone.leases, &events);
        Ok(())
    }

    async fn expire(&mut self, overdue: Overdue) -> Result<(), Stopped> {
        let Overdue { worker, run, lease } = overdue;
        let max_attempts = self.config.max_infrastructure_attempts;
        let (attempt, at) = (lease.attempt, self.clock.now());
        let command = Command::ExpireStart { run, attempt, max_attempts, at };
        let events = self.owner.ask(command, origin()).await?.unwrap_or_default();
        self.revoke(worker, &[(run, lease)], &events);
        Ok(())
    }

    /// A worker that is attached after all must not go on with what it has lost.
    fn revoke(&mut self, worker: WorkerId, leases: &[(RunId, Lease)], events: &[Event]) {
        for &(run, lease) in leases {
            if events.iter().any(|event| event.run() == run) {
                self.send(worker, cancel(run, lease));
            }
        }
    }

    fn send(&mut self, worker: WorkerId, instruction: Instruction) {
        let Entry::Occupied(line) = self.ledger.lines.entry(worker) else { return };
        if line.get().instructions.try_send(instruction).is_err() {
            tracing::warn!(%worker, "cut the line to a worker that does not take its instructions");
            line.remove();
            self.set_presence(worker, None);
        }
    }

    fn take_notices(&mut self, first: Notice) {
        self.take_notice(first);
        while let Ok(notice) = self.notices.try_recv() {
            self.take_notice(notice);
        }
    }

    fn take_notice(&mut self, notice: Notice) {
        match notice {
            Notice::Attached { worker, line, instructions, draining, held } => {
                self.ledger.lines.insert(worker, Line { id: line, instructions });
                for (run, attempt) in held {
                    let start = Start { attempt, line: Some(line), deadline: None };
                    self.ledger.starts.insert(run, start);
                }
                let presence = if draining { Presence::Draining } else { Presence::Pushed };
                self.set_presence(worker, Some(presence));
            }
            Notice::Detached { worker, line } => {
                if let Entry::Occupied(known) = self.ledger.lines.entry(worker)
                    && known.get().id == line
                {
                    known.remove();
                    self.set_presence(worker, None);
                }
            }
            Notice::Polled(worker) => {
                self.polled.insert(worker, Instant::now() + self.config.poll_grace);
                if !self.ledger.lines.contains_key(&worker) {
                    self.set_presence(worker, Some(Presence::Polled));
                }
            }
            Notice::Received(run) => {
                if let Some(start) = self.ledger.starts.get_mut(&run) {
                    start.deadline = None;
                }
            }
        }
    }

    fn forget_polled(&mut self, now: Instant) {
        let over: Vec<_> =
            self.polled.iter().filter(|(_, until)| **until <= now).map(|(&id, _)| id).collect();
        for worker in over {
            self.polled.remove(&worker);
            if !self.ledger.lines.contains_key(&worker) {
                self.set_presence(worker, None);
            }
        }
    }

    fn set_presence(&self, worker: WorkerId, presence: Option<Presence>) {
        self.connected.send_modify(|connected| {
            let connected = Arc::make_mut(connected);
            match presence {
                Some(presence) => connected.set(worker, presence),
                None => connected.remove(worker),
            }
        });
    }
}

fn origin() -> Origin {
    Origin::service("svc-scheduler")
}

fn cancel(run: RunId, lease: Lease) -> Instruction {
    let lease = wire::lease(run, lease);
    Instruction { instruction: Some(instruction::Instruction::Cancel(lease)) }
}

/// What was said to whom.
#[derive(Default)]
struct Ledger {
    start_timeout: Duration,
    lines: HashMap<WorkerId, Line>,
    /// For every run that is assigned and not begun.
    starts: HashMap<RunId, Start>,
    /// For every held run that must stop: the attempt, and the line on which that was said.
    cancels: HashMap<RunId, (Attempt, u64)>,
}

struct Line {
    id: u64,
    instructions: mpsc::Sender<Instruction>,
}

struct Start {
    attempt: Attempt,
    /// On which the worker was told.
    line: Option<u64>,
    /// `None`: the worker said that it has the run.
    deadline: Option<Instant>,
}

/// What is to be done now.
#[derive(Default)]
struct Outlook {
    instructions: Vec<(WorkerId, Instruction)>,
    gone: Vec<Gone>,
    overdue: Vec<Overdue>,
    /// When something will be overdue.
    wake_at: Option<Instant>,
}

struct Gone {
    worker: WorkerId,
    leases: Vec<(RunId, Lease)>,
}

struct Overdue {
    worker: WorkerId,
    run: RunId,
    lease: Lease,
}

impl Ledger {
    fn look(&mut self, state: &State, now: Instant) -> Outlook {
        let mut outlook = Outlook::default();
        self.look_for_starts(state, now, &mut outlook);
        self.look_for_cancels(state, &mut outlook);
        for worker in state.gone_holding() {
            let lease = |run| Some((run, Lease::of(state.run(run)?.current()?)));
            let leases = state.held_by(worker).filter_map(lease).collect();
            outlook.gone.push(Gone { worker, leases });
        }
        outlook
    }

    fn look_for_starts(&mut self, state: &State, now: Instant, outlook: &mut Outlook) {
        let mut known = std::mem::take(&mut self.starts);
        for (id, run) in state.unstarted() {
            let Some(current) = run.current() else { continue };
            let (worker, attempt) = (current.worker, current.attempt);
            let fresh = || Start { attempt, line: None, deadline: Some(now + self.start_timeout) };
            let known = known.remove(&id).filter(|start| start.attempt == attempt);
            let mut start = known.unwrap_or_else(fresh);
            if let Some(line) = self.lines.get(&worker)
                && start.line != Some(line.id)
            {
                start = Start { line: Some(line.id), ..fresh() };
                let lease = Some(wire::lease(id, Lease::of(current)));
                let begin = pb::Assignment { lease, run: Some(wire::run(state, id, run)) };
                let begin = instruction::Instruction::Start(begin);
                outlook.instructions.push((worker, Instruction { instruction: Some(begin) }));
            }
            match start.deadline {
                Some(deadline) if deadline <= now => {
                    outlook.overdue.push(Overdue { worker, run: id, lease: Lease::of(current) });
                }
                deadline => outlook.wake_at = outlook.wake_at.into_iter().chain(deadline).min(),
            }
            self.starts.insert(id, start);
        }
    }

    fn look_for_cancels(&mut self, state: &State, outlook: &mut Outlook) {
        let known = std::mem::take(&mut self.cancels);
        for (id, run) in state.cancelling() {
            let Some(current) = run.current() else { continue };
            let Some(line) = self.lines.get(&current.worker) else { continue };
            let said = (current.attempt, line.id);
            if known.get(&id) != Some(&said) {
                let instruction = cancel(id, Lease::of(current));
                outlook.instructions.push((current.worker, instruction));
            }
            self.cancels.insert(id, said);
        }
    }
}
