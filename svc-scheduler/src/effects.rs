//! Does what the state asks of the world: hands queued runs to attached workers, tells workers what to
//! begin and what to stop, and takes runs away from workers that are gone or do not begin.
//!
//! What must be done is read from the state; what was already said on which line is in the [`Ledger`],
//! which is forgotten with the process. So after a restart, or when a worker attaches again,
//! everything that is unfinished is said again.

use std::{collections::HashMap, sync::Arc, time::Duration};

use eventlog::{Clock, Stopped};
use ids::{LeaseToken, RunId, Timestamp, WorkerId};
use proto::scheduler::v1::Instruction;
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use crate::{
    Config,
    connections::{Notice, Notices},
    domain::{Command, Connected, Event, Lease, Presence, State},
    ledger::{Gone, Ledger, Overdue, cancel},
    service::{Owner, origin},
};

/// Most assignments that are made durable together.
const BATCH: usize = 256;
/// For a delayed run.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);

pub(crate) struct Effects {
    owner: Owner,
    clock: Clock,
    config: Config,
    notices: mpsc::UnboundedReceiver<Notice>,
    connected: watch::Sender<Arc<Connected>>,
    /// Until when those who poll count as being there, and how.
    polled: HashMap<WorkerId, (Instant, Presence)>,
    /// For the next assignments.
    tokens: Vec<LeaseToken>,
    ledger: Ledger,
    /// When the next delayed run may start.
    next_due: Option<Timestamp>,
    /// When the last of those that wait to be tried again began to.
    last_pause: Option<Timestamp>,
    /// When the next run will have waited or run for too long.
    next_deadline: Option<Timestamp>,
    wake_at: Option<Instant>,
}

impl Effects {
    pub(crate) fn new(owner: Owner, clock: Clock, config: Config, notices: Notices) -> Self {
        let Notices { notices, connected } = notices;
        let ledger = Ledger::new(config.start_timeout);
        Self {
            owner,
            clock,
            config,
            notices,
            connected,
            polled: HashMap::new(),
            tokens: vec![],
            ledger,
            next_due: None,
            last_pause: None,
            next_deadline: None,
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
                // So that a simulation repeats.
                biased;
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
        let at = self.clock.now();
        let assign = Command::AssignRuns { connected, tokens: self.tokens.clone(), at };
        let was_put_back = self.last_pause.is_some_and(|since| since > at);
        if was_put_back || self.next_due.is_some_and(|due| due <= at) {
            self.ask(Command::ReleaseDue { at }).await?;
        }
        if self.next_deadline.is_some_and(|deadline| deadline <= at) {
            self.expire_timeouts(at).await?;
        }
        let mut ledger = std::mem::take(&mut self.ledger);
        // Both are in the inbox before either is answered: one round, one wait for the disk.
        let (assigned, seen) = futures::join!(
            self.owner.ask(assign, origin()),
            self.owner.read(move |state| {
                let outlook = ledger.look(state, now);
                let deadline = state.deadlines().next().map(|(deadline, _)| deadline);
                let waits = (state.next_due(), state.last_pause(), deadline);
                (ledger, outlook, state.is_crowded(), state.is_number_missing(), waits)
            }),
        );
        self.tokens.drain(..assigned?.map_or(0, |events| events.len()));
        let (ledger, outlook, is_crowded, is_number_missing, waits) = seen?;
        self.ledger = ledger;
        (self.next_due, self.last_pause, self.next_deadline) = waits;
        let (next_due, _, next_deadline) = waits;
        if is_crowded {
            self.ask(Command::EnforceLimits { at }).await?;
        }
        if is_number_missing {
            self.ask(Command::NumberRuns { at }).await?;
        }
        for (worker, instruction) in outlook.instructions {
            self.send(worker, instruction);
        }
        for gone in outlook.gone {
            self.release(gone).await?;
        }
        for overdue in outlook.overdue {
            self.expire(overdue).await?;
        }
        // A delay is a time of the clock on the wall, which may jump: look again after a while at most.
        let until_due = |due: Timestamp| {
            now + Duration::from_millis(due.0.saturating_sub(at.0)).min(LONGEST_SLEEP)
        };
        let due = next_due.into_iter().chain(next_deadline).min().map(until_due);
        let polled = self.polled.values().map(|(until, _)| *until);
        self.wake_at = outlook.wake_at.into_iter().chain(polled).chain(due).min();
        Ok(())
    }

    /// Its events wake this task again.
    async fn ask(&self, command: Command) -> Result<Vec<Event>, Stopped> {
        Ok(self.owner.ask(command, origin()).await?.unwrap_or_default())
    }

    /// A worker whose run took too long is told to stop it.
    async fn expire_timeouts(&mut self, at: Timestamp) -> Result<(), Stopped> {
        let max_attempts = self.config.max_infrastructure_attempts;
        let events = self.ask(Command::ExpireTimeouts { max_attempts, at }).await?;
        // Read after it was decided, so that it is of just these runs.
        let look = move |state: &State| -> Vec<_> {
            let ended = |event: &Event| {
                let run = event.run()?;
                let attempts = &state.run(run)?.attempts;
                let over = attempts.iter().rev().find(|attempt| attempt.ended_at == Some(at))?;
                Some((over.worker, run, Lease::of(over)))
            };
            events.iter().filter_map(ended).collect()
        };
        for (worker, run, lease) in self.owner.read(look).await? {
            self.send(worker, cancel(run, lease));
        }
        Ok(())
    }

    async fn release(&mut self, gone: Gone) -> Result<(), Stopped> {
        let max_attempts = self.config.max_infrastructure_attempts;
        let at = self.clock.now();
        let command = Command::ReleaseWorker { worker: gone.worker, max_attempts, at };
        let events = self.ask(command).await?;
        self.revoke(gone.worker, &gone.leases, &events);
        Ok(())
    }

    async fn expire(&mut self, overdue: Overdue) -> Result<(), Stopped> {
        let Overdue { worker, run, lease } = overdue;
        let max_attempts = self.config.max_infrastructure_attempts;
        let (attempt, at) = (lease.attempt, self.clock.now());
        let command = Command::ExpireStart { run, attempt, max_attempts, at };
        let events = self.ask(command).await?;
        self.revoke(worker, &[(run, lease)], &events);
        Ok(())
    }

    /// A worker that is attached after all must not go on with what it has lost.
    fn revoke(&mut self, worker: WorkerId, leases: &[(RunId, Lease)], events: &[Event]) {
        for &(run, lease) in leases {
            if events.iter().any(|event| event.run() == Some(run)) {
                self.send(worker, cancel(run, lease));
            }
        }
    }

    fn send(&mut self, worker: WorkerId, instruction: Instruction) {
        if self.ledger.send(worker, instruction).is_err() {
            tracing::warn!(%worker, "cut the line to a worker that does not take its instructions");
            self.update_presence(worker);
        }
    }

    fn take_notices(&mut self, first: Notice) {
        self.take_notice(first);
        while let Ok(notice) = self.notices.try_recv() {
            self.take_notice(notice);
        }
    }

    fn take_notice(&mut self, notice: Notice) {
        let now = Instant::now();
        match notice {
            Notice::Attached { worker, line, instructions, draining, held } => {
                self.ledger.attach(worker, line, instructions, draining, held);
                self.update_presence(worker);
            }
            Notice::Detached { worker, line } => {
                self.ledger.detach(worker, line);
                self.update_presence(worker);
            }
            Notice::Polled { worker, draining } => {
                let presence = if draining { Presence::Draining } else { Presence::Polled };
                self.polled.insert(worker, (now + self.config.poll_grace, presence));
                self.update_presence(worker);
            }
            Notice::Given { run, attempt } => self.ledger.note_given(run, attempt, now),
            Notice::Received { run, attempt } => self.ledger.note_received(run, attempt),
        }
    }

    fn forget_polled(&mut self, now: Instant) {
        let over: Vec<_> = self.polled.extract_if(|_, (until, _)| *until <= now).collect();
        for (worker, _) in over {
            self.update_presence(worker);
        }
    }

    fn update_presence(&self, worker: WorkerId) {
        let presence = match self.ledger.line(worker) {
            Some(line) if line.draining => Some(Presence::Draining),
            Some(_) => Some(Presence::Pushed),
            None => self.polled.get(&worker).map(|(_, presence)| *presence),
        };
        if self.connected.borrow().get(worker) == presence {
            return;
        }
        self.connected.send_modify(|connected| {
            let connected = Arc::make_mut(connected);
            match presence {
                Some(presence) => connected.set(worker, presence),
                None => connected.remove(worker),
            }
        });
    }
}
