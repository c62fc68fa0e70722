//! When two worlds are the same.

use std::hash::{Hash, Hasher};

use super::*;

/// Two worlds are the same if the same can happen in them; how they came about does not count.
impl Hash for World {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        (self.now, self.changes_left, self.cancels_left, self.takeovers_left).hash(hasher);
        self.faults_left.hash(hasher);
        (self.was_refused, self.fault.is_some(), &self.fleet, &self.numbers).hash(hasher);
        for life in &self.lives {
            (life.submitted, life.ended.map(RunState::word), life.live, life.attempts).hash(hasher);
        }
        self.elected.hash(hasher);
        // Nobody knows more than the log says.
        if self.schedulers.iter().all(|scheduler| scheduler.role == Role::Down) {
            let state = self.replayed();
            (1..=self.lives.len() as u128).for_each(|n| hash_run(&state, n, hasher));
            state.limits().for_each(|(_, limit, ..)| limit.running.hash(hasher));
        }
        for scheduler in &self.schedulers {
            scheduler.role.hash(hasher);
            if scheduler.role != Role::Down {
                for (at, seen) in scheduler.seen.iter().enumerate() {
                    (*seen == self.lengths[at]).hash(hasher);
                    hash_run(&scheduler.state, at as u128 + 1, hasher);
                }
                scheduler.state.limits().for_each(|(_, limit, ..)| limit.running.hash(hasher));
            }
        }
    }
}

fn hash_run(state: &State, n: u128, hasher: &mut impl Hasher) {
    let Some(known) = state.run(run(n)) else { return n.hash(hasher) };
    (known.state.word(), known.cancel_requested.is_some()).hash(hasher);
    (known.delayed_until, known.held_back_until, known.deadline()).hash(hasher);
    (known.number, known.submitted_at).hash(hasher);
    for attempt in &known.attempts {
        attempt.requeued.map(|cause| cause == Cause::Run).hash(hasher);
        // Where it was matters while it may be placed again.
        if !known.state.is_terminal() {
            (attempt.worker, attempt.started_at.is_some()).hash(hasher);
        }
    }
    for job in &known.jobs {
        std::mem::discriminant(&job.state).hash(hasher);
    }
}
