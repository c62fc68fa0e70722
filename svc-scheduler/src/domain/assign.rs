//! Which queued run goes to which worker.
//!
//! The oldest run that can go anywhere goes first, to the suitable worker that its selector prefers most,
//! and of equal ones to that with the most free slots.
//! The cost depends on the numbers of lines, of workers with room and of assignments, not on how many
//! runs wait.

use std::{cmp::Reverse, collections::BinaryHeap};

use ids::{Attempt, LeaseToken, Timestamp, WorkerId};

use super::{
    Event, RunState,
    queue::Class,
    state::State,
    worker::{Connected, Presence, Worker},
};

/// Who could take a run now.
pub(super) struct Seats<'a> {
    state: &'a State,
    connected: &'a Connected,
    with_room: Vec<Seat<'a>>,
}

/// A seat that a line may use.
#[derive(Clone, Copy)]
pub(super) struct Choice {
    at: usize,
    /// How much the line prefers it.
    score: i32,
}

struct Seat<'a> {
    id: WorkerId,
    worker: &'a Worker,
    free: u32,
}

impl<'a> Seats<'a> {
    pub(super) fn of(state: &'a State, connected: &'a Connected) -> Self {
        let pushed = state.roomy().filter(|(id, _)| connected.get(*id) == Some(Presence::Pushed));
        let pushed = pushed.map(|(id, worker)| {
            let free = worker.slots.saturating_sub(state.held_count(id));
            Seat { id, worker, free }
        });
        let polling = connected.polling().filter_map(|(id, free)| {
            let worker = state.worker(id).filter(|worker| worker.is_active())?;
            // What it holds and has not begun may not have reached it yet.
            let free = free.saturating_sub(unstarted_on(state, id)).min(1);
            Some(Seat { id, worker, free })
        });
        let with_room = pushed.chain(polling.filter(|seat| seat.free > 0)).collect();
        Self { state, connected, with_room }
    }

    /// The seats that a line may use: the best of all attached workers that suit it, if those have
    /// room. A run rather waits for them than goes to a worse one.
    pub(super) fn for_line(&self, class: &Class) -> Vec<Choice> {
        let wanted = &class.requirement;
        let is_there = |id| self.connected.get(id).is_some_and(|presence| presence.suits(wanted));
        let suits = |seat: &Seat<'_>| seat.worker.suits(seat.id, wanted) && is_there(seat.id);
        let mut found: Vec<_> =
            (0..self.with_room.len()).filter(|&at| suits(&self.with_room[at])).collect();
        let rank_of = |&at: &usize| rank(self.with_room[at].id, self.with_room[at].worker, class);
        let choice = |at: usize| Choice {
            at,
            score: wanted.selector.score(self.with_room[at].worker.offer()),
        };
        let Some(best) = found.iter().map(rank_of).min() else { return vec![] };
        if best > Rank::default() && self.is_any_better(best, class) {
            return vec![];
        }
        found.retain(|at| rank_of(at) == best);
        found.into_iter().map(choice).collect()
    }

    /// Whether somebody who takes runs, but has no room at this moment, suits better.
    fn is_any_better(&self, than: Rank, class: &Class) -> bool {
        let takes_runs = |(id, presence)| {
            let worker = self.state.worker(id).filter(|worker| worker.is_active())?;
            let takes = match presence {
                Presence::Pushed => worker.slots > 0,
                Presence::Polls { .. } | Presence::Polled => true,
                Presence::Draining => false,
            };
            let takes = takes && presence.suits(&class.requirement);
            takes.then_some((id, worker))
        };
        self.connected.iter().filter_map(takes_runs).any(|(id, worker)| {
            rank(id, worker, class) < than && worker.suits(id, &class.requirement)
        })
    }
}

/// Less is better: first those that have not tried the run, last the one that had it last; among equals
/// the primary comes last.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    tried: u8,
    primary: bool,
}

fn rank(id: WorkerId, worker: &Worker, class: &Class) -> Rank {
    let tried = match class.tried.iter().position(|&tried| tried == id) {
        None => 0,
        Some(0) => 2,
        Some(_) => 1,
    };
    Rank { tried, primary: worker.primary }
}

fn unstarted_on(state: &State, worker: WorkerId) -> u32 {
    let held = state.held_by(worker).filter_map(|run| state.run(run));
    held.filter(|run| run.state == RunState::Assigned).count() as u32
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
    // Whoever looks for what was assigned since then must find all of it, whatever the clock did and
    // in whatever order commands arrive.
    let at = at.max(state.last_assigned());
    let mut seats = Seats::of(state, connected);
    let mut free: u32 = seats.with_room.iter().map(|seat| seat.free).sum();
    let mut lines: Vec<_> =
        state.queue.lines().map(|(class, line)| (class, line.iter(), None)).collect();
    let mut heads: BinaryHeap<_> = lines
        .iter_mut()
        .enumerate()
        .filter_map(|(index, (_, line, _))| Some(Reverse((*line.next()?, index))))
        .collect();
    let mut tokens = tokens.into_iter();
    let mut events = vec![];
    while free > 0
        && let Some(Reverse(((_, run), index))) = heads.pop()
    {
        let (class, line, choice) = &mut lines[index];
        let choice = choice.get_or_insert_with(|| seats.for_line(class));
        let roomy = choice.iter().filter(|choice| seats.with_room[choice.at].free > 0);
        // Of equals, the first.
        let best = roomy.max_by_key(|choice| {
            (choice.score, seats.with_room[choice.at].free, Reverse(choice.at))
        });
        let Some(&Choice { at: chosen, .. }) = best else { continue };
        let Some(token) = tokens.next() else { break };
        let seat = &mut seats.with_room[chosen];
        seat.free -= 1;
        free -= 1;
        let attempts = state.run(run).map_or(0, |run| run.attempts.len());
        let attempt = Attempt(attempts as u32 + 1);
        events.push(Event::RunAssigned { run, attempt, worker: seat.id, token, at });
        heads.extend(line.next().map(|&place| Reverse((place, index))));
    }
    events
}
