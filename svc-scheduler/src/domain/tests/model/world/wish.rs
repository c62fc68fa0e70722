//! What a scheduler may be asked to do next, as commands of the domain.

use super::*;

#[derive(Clone, Debug, PartialEq)]
pub(in super::super) enum Wish {
    Submit(u128),
    Cancel(u128),
    /// These workers are attached; 0 stands for all.
    Assign(u128),
    /// One that polls.
    Poll(u128),
    /// By the lease of the attempt with this index.
    Report(u128, usize, Reported),
    /// The worker has none of its runs, or all of them.
    Reconcile(u128, bool),
    Release(u128),
    ExpireStart(u128, Attempt),
    Expire,
    Due,
    /// Claims numbers for runs that have none.
    Number,
    Limit,
    Enforce,
}

impl Wish {
    pub(super) fn is_fault(&self, state: &State) -> bool {
        match *self {
            Self::Submit(_)
            | Self::Assign(0)
            | Self::Release(_)
            | Self::Due
            | Self::Number
            | Self::Limit
            | Self::Enforce => false,
            // By a lease that is not current, or of a run that is to stop.
            Self::Report(n, index, Reported::Running | Reported::Succeeded) => {
                let known = state.run(run(n));
                known.is_none_or(|run| run.current().is_none() || index + 1 != run.attempts.len())
            }
            Self::Cancel(_)
            | Self::Assign(_)
            | Self::Poll(_)
            | Self::Report(..)
            | Self::Reconcile(..)
            | Self::ExpireStart(..)
            | Self::Expire => true,
        }
    }
}

impl World {
    /// Some wishes come when something is due.
    pub(super) fn time_of(&self, state: &State, wish: &Wish) -> Option<Timestamp> {
        let now = at(self.now);
        Some(match wish {
            Wish::Expire => now.max(state.deadlines().next()?.0),
            Wish::Due => now.max(state.next_due()?),
            _ => now,
        })
    }

    pub(super) fn command(
        &self,
        bounds: &Bounds,
        state: &State,
        wish: &Wish,
        at: Timestamp,
    ) -> Option<Command> {
        let max_attempts = bounds.max_attempts;
        Some(match *wish {
            Wish::Submit(n) => {
                let spec = Arc::clone(&bounds.runs[n as usize - 1].spec);
                let (start_reason, started_by) = (String::new(), format!("user:{}", n % 2));
                Command::SubmitRun { run: run(n), spec, start_reason, started_by, at }
            }
            Wish::Cancel(n) => {
                let (by, note) = ("user:bob".into(), String::new());
                Command::CancelRun { run: run(n), by, note, at }
            }
            Wish::Assign(present) => {
                let pushed = |w| (present == 0 || present == w).then_some(Presence::Pushed);
                self.assign(at, pushed)
            }
            Wish::Poll(asks) => {
                let begun = |life: &&Life| {
                    life.started && life.live.is_some_and(|(holder, _)| holder == worker(asks))
                };
                let busy = self.lives.iter().filter(begun).count() as u32;
                let free = bounds.slots[asks as usize - 1].checked_sub(busy)?;
                self.assign(at, |w| (w == asks).then_some(Presence::Polls { free }))
            }
            Wish::Report(n, index, said) => {
                let attempt = state.run(run(n))?.attempts.get(index)?;
                let (worker, lease) = (attempt.worker, Some(Lease::of(attempt)));
                let first = |state| reported_job(1, state);
                let jobs = match said {
                    Reported::Failed => {
                        vec![first(JobState::Succeeded), reported_job(2, JobState::Failed)]
                    }
                    Reported::Running => vec![first(JobState::Running)],
                    _ => vec![],
                };
                let report = Report { jobs, ..report(said) };
                Command::ReportRun { run: run(n), worker, lease, report, max_attempts, at }
            }
            Wish::Reconcile(w, has_all) => {
                let lease = |id| Some((id, Lease::of(state.run(id)?.current()?)));
                let held = state.held_by(worker(w)).filter(|_| has_all).filter_map(lease).collect();
                Command::ReconcileWorker { worker: worker(w), held, max_attempts, at }
            }
            Wish::Release(w) => Command::ReleaseWorker { worker: worker(w), max_attempts, at },
            Wish::ExpireStart(n, attempt) => {
                Command::ExpireStart { run: run(n), attempt, max_attempts, at }
            }
            Wish::Expire => Command::ExpireTimeouts { max_attempts, at },
            Wish::Due => Command::ReleaseDue { at },
            Wish::Number => Command::NumberRuns { at },
            Wish::Limit => {
                let (gate, limit) = (Gate::Pipeline(ids::PipelineId(1)), bounds.limit);
                Command::SetLimit { gate, limit, by: String::new(), note: String::new(), at }
            }
            Wish::Enforce => Command::EnforceLimits { at },
        })
    }

    fn assign(&self, at: Timestamp, presence: impl Fn(u128) -> Option<Presence>) -> Command {
        let mut connected = Connected::default();
        for w in 1..=self.fleet.len() as u128 {
            if let Some(presence) = presence(w) {
                connected.set(worker(w), presence);
            }
        }
        let tokens = (self.tokens..self.tokens + TOKENS as u128).map(token).collect();
        Command::AssignRuns { connected: Arc::new(connected), tokens, at }
    }

    pub(super) fn wishes(&self, bounds: &Bounds, who: usize, actions: &mut Vec<Action>) {
        let state = &self.schedulers[who].state;
        let mut torn = vec![];
        let mut push = |wish| actions.push(Action::Ask(who, wish));
        for (n, case) in (1..).zip(&bounds.runs) {
            let Some(known) = state.run(run(n)) else {
                let has_ended = |n: u128| self.lives[n as usize - 1].ended.is_some();
                // One after the other: which is first matters less than how far each is.
                let is_next = n == 1 || state.run(run(n - 1)).is_some();
                if is_next && case.after.is_none_or(has_ended) {
                    push(Wish::Submit(n));
                    if self.takeovers_left > 0 {
                        torn.push(Action::Torn(who, Wish::Submit(n)));
                    }
                }
                continue;
            };
            if self.cancels_left > 0 {
                push(Wish::Cancel(n));
            }
            for index in 0..known.attempts.len() {
                for said in
                    [Reported::Running, Reported::Succeeded, Reported::Failed, Reported::GivenBack]
                {
                    push(Wish::Report(n, index, said));
                }
            }
            if let Some(current) = known.current().filter(|_| known.state == RunState::Assigned) {
                push(Wish::ExpireStart(n, current.attempt));
            }
        }
        push(Wish::Assign(0));
        if state.is_number_missing() {
            push(Wish::Number);
        }
        actions.append(&mut torn);
        if self.takeovers_left > 0 {
            actions.push(Action::Torn(who, Wish::Assign(0)));
            let workers = 1..=self.fleet.len() as u128;
            actions.extend(workers.map(|w| Action::Torn(who, Wish::Release(w))));
        }
        let mut push = |wish| actions.push(Action::Ask(who, wish));
        for w in 1..=self.fleet.len() as u128 {
            push(Wish::Assign(w));
            push(Wish::Reconcile(w, false));
            push(Wish::Release(w));
        }
        push(Wish::Poll(1));
        push(Wish::Expire);
        push(Wish::Due);
        if bounds.limit.is_some() {
            push(Wish::Limit);
            push(Wish::Enforce);
        }
    }
}
