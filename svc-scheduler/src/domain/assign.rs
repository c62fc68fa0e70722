//! Which queued run goes to which worker.
//!
//! Of the runs that can go anywhere, one of the owner with the fewest runs on workers goes first, and of
//! those the one with the earliest place. It goes to the suitable worker that its selector prefers most,
//! and of equal ones to that with the most free slots.
//! The cost depends on the numbers of lines, of workers with room and of assignments, not on how many
//! runs wait.

use std::{
    cmp::{Ordering, Reverse},
    collections::{BinaryHeap, HashMap, btree_set},
};

use ids::{Attempt, LeaseToken, RunId, Timestamp, WorkerId};

use super::{
    Event, RunState,
    limit::Gate,
    queue::{Class, Owner, Place},
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
    let mut pass = Pass::of(state, Seats::of(state, connected));
    let mut tokens = tokens.into_iter();
    let mut events = vec![];
    while let Some(token) = tokens.next()
        && let Some((run, worker)) = pass.next()
    {
        let attempts = state.run(run).map_or(0, |run| run.attempts.len());
        let attempt = Attempt(attempts as u32 + 1);
        events.push(Event::RunAssigned { run, attempt, worker, token, at });
    }
    events
}

/// One time through the lines.
struct Pass<'a> {
    state: &'a State,
    seats: Seats<'a>,
    free: u32,
    classes: Vec<WaitingClass<'a>>,
    heads: BinaryHeap<Reverse<Head<'a>>>,
    /// Runs that each owner has, with those given in this pass.
    shares: HashMap<&'a Owner, u32>,
    /// Likewise of each gate.
    passed: HashMap<&'a Gate, u32>,
}

struct WaitingClass<'a> {
    class: &'a Class,
    /// Looked up when the first of its runs comes up.
    choices: Option<Vec<Choice>>,
}

/// The first run of a line. Who has fewer runs on workers goes first; among equals, the earlier place.
struct Head<'a> {
    share: u32,
    place: Place,
    owner: &'a Owner,
    class: usize,
    rest: btree_set::Iter<'a, Place>,
}

impl<'a> Pass<'a> {
    fn of(state: &'a State, seats: Seats<'a>) -> Self {
        let free = seats.with_room.iter().map(|seat| seat.free).sum();
        let mut pass = Self {
            state,
            seats,
            free,
            classes: vec![],
            heads: BinaryHeap::new(),
            shares: HashMap::new(),
            passed: HashMap::new(),
        };
        if free == 0 {
            return pass;
        }
        for (class, lines) in state.queue.lines() {
            if !pass.is_open(class) {
                continue;
            }
            let index = pass.classes.len();
            pass.classes.push(WaitingClass { class, choices: None });
            for (owner, line) in lines {
                let share = *pass.shares.entry(owner).or_insert_with(|| state.share(owner));
                pass.push(share, owner, index, line.iter());
            }
        }
        pass
    }

    fn push(
        &mut self,
        share: u32,
        owner: &'a Owner,
        class: usize,
        mut rest: btree_set::Iter<'a, Place>,
    ) {
        if let Some(&place) = rest.next() {
            self.heads.push(Reverse(Head { share, place, owner, class, rest }));
        }
    }

    /// Whether the limits let one more of these runs through.
    fn is_open(&self, class: &Class) -> bool {
        class.gates.iter().all(|gate| {
            let passed = self.passed.get(gate).copied().unwrap_or_default();
            self.state.crowd(gate).is_none_or(|crowd| crowd.has_room_for(passed + 1))
        })
    }

    /// The next run, and the worker that gets it.
    fn next(&mut self) -> Option<(RunId, WorkerId)> {
        while self.free > 0 {
            let Reverse(mut head) = self.heads.pop()?;
            let share = self.shares[head.owner];
            if head.share != share {
                // The owner was given others meanwhile.
                head.share = share;
                self.heads.push(Reverse(head));
                continue;
            }
            let class = self.classes[head.class].class;
            if !self.is_open(class) {
                continue;
            }
            let Some(seat) = self.choose(head.class) else { continue };
            self.seats.with_room[seat].free -= 1;
            self.free -= 1;
            for gate in class.gates.iter() {
                *self.passed.entry(gate).or_default() += 1;
            }
            self.shares.insert(head.owner, share + 1);
            let run = head.place.run;
            self.push(share + 1, head.owner, head.class, head.rest);
            return Some((run, self.seats.with_room[seat].id));
        }
        None
    }

    fn choose(&mut self, class: usize) -> Option<usize> {
        let Self { seats, classes, .. } = self;
        let WaitingClass { class, choices } = &mut classes[class];
        let choices = choices.get_or_insert_with(|| seats.for_line(class));
        let roomy = choices.iter().filter(|choice| seats.with_room[choice.at].free > 0);
        // Of equals, the first.
        let best = roomy.max_by_key(|choice| {
            (choice.score, seats.with_room[choice.at].free, Reverse(choice.at))
        });
        best.map(|choice| choice.at)
    }
}

impl Head<'_> {
    fn rank(&self) -> (u32, Place) {
        (self.share, self.place)
    }
}

impl PartialEq for Head<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.rank() == other.rank()
    }
}

impl Eq for Head<'_> {}

impl PartialOrd for Head<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Head<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.rank().cmp(&other.rank())
    }
}
