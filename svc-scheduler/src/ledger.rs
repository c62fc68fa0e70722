//! What was said to whom, and what is still to be said.
//!
//! A look costs what is new since the last one, not what is outstanding.

use std::{
    collections::{BTreeSet, HashMap, hash_map::Entry},
    time::Duration,
};

use ids::{Attempt, RunId, WorkerId};
use proto::scheduler::v1::{Assignment, Instruction, instruction};
use tokio::{sync::mpsc, time::Instant};

use crate::{
    domain::{AttemptRecord, Lease, Run, RunState, State},
    wire,
};

#[derive(Default)]
pub(crate) struct Ledger {
    start_timeout: Duration,
    lines: HashMap<WorkerId, Line>,
    /// Workers that attached since the last look.
    attached: Vec<WorkerId>,
    /// So many assignments were looked at.
    seen: u64,
    /// Every run that is assigned and not begun, and for a while some that are further.
    starts: HashMap<RunId, Start>,
    /// Those of [`Start`]; one that is not there any more means nothing.
    deadlines: BTreeSet<(Instant, RunId)>,
    /// For every held run that must stop: the attempt, and the line on which that was said.
    cancels: HashMap<RunId, (Attempt, u64)>,
}

/// The way to an attached worker.
pub(crate) struct Line {
    id: u64,
    instructions: mpsc::Sender<Box<Instruction>>,
    pub(crate) draining: bool,
}

#[derive(Clone, Copy)]
struct Start {
    attempt: Attempt,
    /// On which the worker was told.
    line: Option<u64>,
    /// `None`: the worker said that it has the run.
    deadline: Option<Instant>,
}

/// What is to be done now.
#[derive(Default)]
pub(crate) struct Outlook {
    pub(crate) instructions: Vec<(WorkerId, Instruction)>,
    pub(crate) gone: Vec<Gone>,
    pub(crate) overdue: Vec<Overdue>,
    /// When something will be overdue.
    pub(crate) wake_at: Option<Instant>,
}

/// A worker that must lose its runs.
pub(crate) struct Gone {
    pub(crate) worker: WorkerId,
    pub(crate) leases: Vec<(RunId, Lease)>,
}

/// A run that was not begun in time.
pub(crate) struct Overdue {
    pub(crate) worker: WorkerId,
    pub(crate) run: RunId,
    pub(crate) lease: Lease,
}

/// The worker takes no more instructions; its line is cut.
pub(crate) struct Cut;

pub(crate) fn cancel(run: RunId, lease: Lease) -> Instruction {
    let lease = wire::lease(run, lease);
    Instruction { instruction: Some(instruction::Instruction::Cancel(lease)) }
}

impl Ledger {
    pub(crate) fn new(start_timeout: Duration) -> Self {
        Self { start_timeout, ..Self::default() }
    }

    pub(crate) fn line(&self, worker: WorkerId) -> Option<&Line> {
        self.lines.get(&worker)
    }

    /// `held`: what the worker has already. Takes the place of an earlier line.
    pub(crate) fn attach(
        &mut self,
        worker: WorkerId,
        id: u64,
        instructions: mpsc::Sender<Box<Instruction>>,
        draining: bool,
        held: Vec<(RunId, Attempt)>,
    ) {
        self.lines.insert(worker, Line { id, instructions, draining });
        self.attached.push(worker);
        for (run, attempt) in held {
            self.starts.insert(run, Start { attempt, line: Some(id), deadline: None });
        }
    }

    pub(crate) fn detach(&mut self, worker: WorkerId, id: u64) {
        if let Entry::Occupied(line) = self.lines.entry(worker)
            && line.get().id == id
        {
            line.remove();
        }
    }

    /// A worker that polls was told.
    pub(crate) fn note_given(&mut self, run: RunId, attempt: Attempt, now: Instant) {
        self.expect_start(run, attempt, None, now);
    }

    /// Word of an earlier attempt says nothing of this one.
    pub(crate) fn note_received(&mut self, run: RunId, attempt: Attempt) {
        if let Some(start) = self.starts.get_mut(&run).filter(|start| start.attempt == attempt) {
            start.deadline = None;
        }
    }

    /// `Ok` if the worker is not attached: it will be told when it is.
    pub(crate) fn send(&mut self, worker: WorkerId, instruction: Instruction) -> Result<(), Cut> {
        let Entry::Occupied(line) = self.lines.entry(worker) else { return Ok(()) };
        if line.get().instructions.try_send(Box::new(instruction)).is_ok() {
            return Ok(());
        }
        line.remove();
        Err(Cut)
    }

    pub(crate) fn look(&mut self, state: &State, now: Instant) -> Outlook {
        let mut outlook = Outlook::default();
        for (id, run) in state.unstarted(self.seen) {
            self.look_at_start(state, id, run, now, &mut outlook);
        }
        self.seen = state.assigned();
        for worker in std::mem::take(&mut self.attached) {
            for id in state.held_by(worker) {
                if let Some(run) = state.run(id).filter(|run| run.state == RunState::Assigned) {
                    self.look_at_start(state, id, run, now, &mut outlook);
                }
            }
        }
        self.look_for_overdue(state, now, &mut outlook);
        self.look_for_cancels(state, &mut outlook);
        for worker in state.gone_holding() {
            let lease = |run| Some((run, Lease::of(state.run(run)?.current()?)));
            let leases = state.held_by(worker).filter_map(lease).collect();
            outlook.gone.push(Gone { worker, leases });
        }
        self.forget_begun(state);
        outlook
    }

    fn look_at_start(
        &mut self,
        state: &State,
        id: RunId,
        run: &Run,
        now: Instant,
        outlook: &mut Outlook,
    ) {
        let Some(current) = run.current() else { return };
        let attempt = current.attempt;
        let known = self.starts.get(&id).filter(|start| start.attempt == attempt);
        let line = self.lines.get(&current.worker).map(|line| line.id);
        if line.is_some() && known.is_none_or(|known| known.line != line) {
            outlook.instructions.push((current.worker, start(state, id, run, current)));
            self.expect_start(id, attempt, line, now);
        } else if known.is_none() {
            self.expect_start(id, attempt, None, now);
        }
    }

    fn expect_start(&mut self, run: RunId, attempt: Attempt, line: Option<u64>, now: Instant) {
        let deadline = now + self.start_timeout;
        self.starts.insert(run, Start { attempt, line, deadline: Some(deadline) });
        self.deadlines.insert((deadline, run));
    }

    fn look_for_overdue(&mut self, state: &State, now: Instant, outlook: &mut Outlook) {
        while let Some(&(deadline, id)) = self.deadlines.first() {
            let start = self.starts.get(&id).filter(|start| start.deadline == Some(deadline));
            let run = state.run(id).filter(|run| run.state == RunState::Assigned);
            let waiting = start.zip(run.and_then(Run::current));
            match waiting.filter(|(start, current)| start.attempt == current.attempt) {
                Some(_) if deadline > now => break,
                Some((_, current)) => {
                    let (worker, lease) = (current.worker, Lease::of(current));
                    outlook.overdue.push(Overdue { worker, run: id, lease });
                }
                None => {}
            }
            self.deadlines.pop_first();
        }
        outlook.wake_at = self.deadlines.first().map(|(deadline, _)| *deadline);
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

    /// Now and then, so that each costs next to nothing.
    fn forget_begun(&mut self, state: &State) {
        if self.starts.len() > 1_024 + 2 * state.unstarted_count() {
            let is_unstarted = |run: &Run| run.state == RunState::Assigned;
            self.starts.retain(|id, _| state.run(*id).is_some_and(is_unstarted));
        }
    }
}

fn start(state: &State, id: RunId, run: &Run, current: &AttemptRecord) -> Instruction {
    let lease = Some(wire::lease(id, Lease::of(current)));
    let assignment = Assignment { lease, run: Some(wire::run(state, id, run)) };
    Instruction { instruction: Some(instruction::Instruction::Start(assignment)) }
}

#[cfg(test)]
mod tests {
    use eventlog::Fold;

    use super::*;
    use crate::domain::tests::{assigned, own, requeued, run, submitted};

    #[test]
    fn late_word_of_an_earlier_attempt_does_not_count_for_the_next() {
        let (timeout, now) = (Duration::from_mins(1), Instant::now());
        let moved =
            own([submitted(1), assigned(1, 1, 1), requeued(1, 1, "lost"), assigned(1, 2, 2)]);
        let state = State::replay(&moved);
        let overdue = |of: u32| {
            let mut ledger = Ledger::new(timeout);
            ledger.look(&state, now);
            ledger.note_received(run(1), Attempt(of));
            ledger.look(&state, now + timeout).overdue.len()
        };
        assert_eq!((overdue(1), overdue(2)), (1, 0));
    }
}
