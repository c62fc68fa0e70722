//! Which queued run goes to which worker.
//!
//! The oldest run that can go anywhere goes first, to the suitable worker with the most free slots.
//! The cost depends on the numbers of lines, of attached workers and of assignments, not on how many
//! runs wait.

use std::{cmp::Reverse, collections::BinaryHeap};

use ids::{Attempt, LeaseToken, Timestamp, WorkerId};

use super::{
    Event, RunState,
    queue::Class,
    state::State,
    worker::{Connected, Presence, Worker},
};

/// A worker that may be considered now.
pub(super) struct Seat<'a> {
    pub(super) id: WorkerId,
    worker: &'a Worker,
    presence: Presence,
    pub(super) free: u32,
}

/// Every attached worker that takes runs, whether it has room at this moment or not.
pub(super) fn seats<'a>(state: &'a State, connected: &Connected) -> Vec<Seat<'a>> {
    let seat = |(id, presence)| {
        let worker = state.worker(id).filter(|worker| worker.is_active())?;
        let held = state.held_count(id);
        let free = match presence {
            Presence::Pushed if worker.slots == 0 => return None,
            Presence::Draining => return None,
            Presence::Pushed => worker.slots.saturating_sub(held),
            // What it holds and has not begun may not have reached it yet.
            Presence::Polls { free } => free.saturating_sub(unstarted_on(state, id)).min(1),
            Presence::Polled => 0,
        };
        Some(Seat { id, worker, presence, free })
    };
    connected.iter().filter_map(seat).collect()
}

fn unstarted_on(state: &State, worker: WorkerId) -> u32 {
    let held = state.held_by(worker).filter_map(|run| state.run(run));
    held.filter(|run| run.state == RunState::Assigned).count() as u32
}

/// The seats that a line may use. The worker of the last attempt is avoided if there is any other, and
/// the primary is left out if anyone else suits.
pub(super) fn suitable(seats: &[Seat<'_>], class: &Class) -> Vec<usize> {
    let wanted = &class.requirement;
    let suits = |seat: &Seat<'_>| seat.worker.suits(seat.id, wanted) && seat.presence.suits(wanted);
    let mut found: Vec<_> = (0..seats.len()).filter(|&at| suits(&seats[at])).collect();
    keep_if_any(&mut found, |at| Some(seats[at].id) != class.avoid);
    keep_if_any(&mut found, |at| !seats[at].worker.primary);
    found
}

fn keep_if_any(found: &mut Vec<usize>, is_better: impl Fn(usize) -> bool) {
    if found.iter().any(|&at| is_better(at)) {
        found.retain(|&at| is_better(at));
    }
}

pub(super) fn assign_runs(
    state: &State,
    connected: &Connected,
    tokens: Vec<LeaseToken>,
    at: Timestamp,
) -> Vec<Event> {
    if state.queued() == 0 {
        return vec![];
    }
    let mut seats = seats(state, connected);
    let mut free: u32 = seats.iter().map(|seat| seat.free).sum();
    if free == 0 {
        return vec![];
    }
    let mut lines: Vec<_> =
        state.queue.lines().map(|(class, line)| (class, line.iter(), None)).collect();
    let mut heads: BinaryHeap<_> = lines
        .iter_mut()
        .enumerate()
        .filter_map(|(index, (_, line, _))| Some(Reverse((*line.next()?, index))))
        .collect();
    let mut tokens = tokens.into_iter();
    let mut events = vec![];
    while let Some(Reverse(((_, run), index))) = heads.pop() {
        let (class, line, choice) = &mut lines[index];
        let choice = choice.get_or_insert_with(|| suitable(&seats, class));
        let roomy = choice.iter().copied().filter(|&at| seats[at].free > 0);
        // Of equals, the first.
        let Some(chosen) = roomy.max_by_key(|&at| (seats[at].free, Reverse(at))) else { continue };
        let Some(token) = tokens.next() else { break };
        let attempts = state.run(run).map_or(0, |run| run.attempts.len());
        let attempt = Attempt(attempts as u32 + 1);
        events.push(Event::RunAssigned { run, attempt, worker: seats[chosen].id, token, at });
        seats[chosen].free -= 1;
        free -= 1;
        if free == 0 {
            break;
        }
        heads.extend(line.next().map(|&place| Reverse((place, index))));
    }
    events
}
