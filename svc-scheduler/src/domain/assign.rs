//! Which queued run goes to which worker.
//!
//! Of the runs that can go anywhere, one of the owner with the fewest runs on workers goes first, and of
//! those the one with the earliest place. It goes to the suitable worker that its selector prefers most,
//! and of equal ones to that with the most free slots.
//! The cost depends on the numbers of lines and of assignments, not on how many runs wait. Workers are
//! looked at from the one with the most free slots on, until one suits; all of them only for runs that
//! prefer some, were tried before, or that no worker with room suits.

use std::{
    cmp::{Ordering, Reverse},
    collections::{BinaryHeap, HashMap, btree_set},
    iter::Peekable,
};

use ids::{Attempt, LeaseToken, RunId, Timestamp, WorkerId};

use super::{
    Event, RunState,
    limit::Gate,
    queue::{Class, Owner, Place},
    room::MostFirst,
    state::State,
    worker::{Connected, Presence, Worker},
};

/// Who could take a run now.
pub(super) struct Seats<'a> {
    state: &'a State,
    connected: &'a Connected,
    /// Who asks just now, with room for one.
    polling: Vec<WorkerId>,
    /// What each was given already.
    taken: HashMap<WorkerId, u32>,
}

/// The seats that a line may use.
pub(super) struct Choices<'a> {
    /// Best first. What was taken since may be missing in their numbers of free slots.
    best: BinaryHeap<Choice>,
    /// Those that were not looked at, as far as they need not be.
    rest: Option<Peekable<MostFirst<'a>>>,
}

/// In the order in which they count; of equals, the one with the smallest id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Choice {
    /// How much the line prefers it.
    score: i32,
    free: u32,
    id: Reverse<WorkerId>,
}

impl<'a> Seats<'a> {
    pub(super) fn of(state: &'a State, connected: &'a Connected) -> Self {
        let polling = connected.polling().filter(|&(id, free)| {
            let is_active = state.worker(id).is_some_and(Worker::is_active);
            // What it holds and has not begun may not have reached it yet.
            is_active && free > unstarted_on(state, id)
        });
        let polling = polling.map(|(id, _)| id).collect();
        Self { state, connected, polling, taken: HashMap::new() }
    }

    /// Whether a line has a seat.
    pub(super) fn has_for(mut self, class: &Class) -> bool {
        let mut choices = self.for_line(class);
        self.take(&mut choices, class).is_some()
    }

    /// More than this cannot be placed.
    fn room(&self) -> u64 {
        self.state.room.all() + self.polling.len() as u64
    }

    fn free(&self, id: WorkerId) -> u32 {
        let room = match self.connected.get(id) {
            Some(Presence::Pushed) => self.state.room.on(id),
            Some(Presence::Polls { .. }) => u32::from(self.polling.contains(&id)),
            Some(Presence::Polled | Presence::Draining) | None => 0,
        };
        room.saturating_sub(self.taken.get(&id).copied().unwrap_or_default())
    }

    /// `None`: it has no room, or does not suit.
    fn rank(&self, id: WorkerId, class: &Class) -> Option<Rank> {
        let wanted = &class.requirement;
        let is_there = self.connected.get(id).is_some_and(|presence| presence.suits(wanted));
        let worker = self.state.worker(id).filter(|_| is_there && self.free(id) > 0)?;
        worker.suits(id, wanted).then(|| rank(id, worker, class))
    }

    /// The seats that a line may use: the best of all attached workers that suit it, if those have
    /// room. A run rather waits for them than goes to a worse one.
    fn for_line(&self, class: &Class) -> Choices<'a> {
        let selector = &class.requirement.selector;
        let rest = self.state.room.most_first();
        if class.tried.is_empty() && !selector.prefers() {
            let mut choices =
                Choices { best: BinaryHeap::new(), rest: Some(rest.clone().peekable()) };
            for &id in &self.polling {
                self.look_at(id, &mut choices, class);
            }
            self.look(&mut choices, class);
            if !choices.best.is_empty() {
                return choices;
            }
        }
        let all = rest.map(|(_, id)| id).chain(&self.polling).copied();
        let found: HashMap<_, _> = all.filter_map(|id| Some((id, self.rank(id, class)?))).collect();
        let best = found.values().min().copied();
        let best =
            best.filter(|best| *best == Rank::default() || !self.is_any_better(*best, class));
        let found = found.into_iter().filter(|(_, rank)| Some(*rank) == best);
        let choice = |(id, _)| {
            let score = self.state.worker(id).map_or(0, |worker| selector.score(worker.offer()));
            Choice { score, free: self.free(id), id: Reverse(id) }
        };
        Choices { best: found.map(choice).collect(), rest: None }
    }

    /// Goes on until nobody who was not looked at has more room than the best.
    fn look(&self, choices: &mut Choices<'a>, class: &Class) {
        loop {
            let best = choices.best.peek().map_or(0, |best| best.free);
            let rest = choices.rest.as_mut();
            let Some((_, id)) = rest.and_then(|rest| rest.next_if(|(free, _)| free.0 > best))
            else {
                return;
            };
            self.look_at(*id, choices, class);
        }
    }

    fn look_at(&self, id: WorkerId, choices: &mut Choices<'a>, class: &Class) {
        if self.rank(id, class) == Some(Rank::default()) {
            choices.best.push(Choice { score: 0, free: self.free(id), id: Reverse(id) });
        }
    }

    /// Takes the best seat.
    fn take(&mut self, choices: &mut Choices<'a>, class: &Class) -> Option<WorkerId> {
        loop {
            self.look(choices, class);
            let best = choices.best.pop()?;
            let (Reverse(id), free) = (best.id, self.free(best.id.0));
            let left = free.saturating_sub(u32::from(free == best.free));
            if left > 0 {
                choices.best.push(Choice { free: left, ..best });
            }
            // Lines share seats.
            if free == best.free {
                *self.taken.entry(id).or_default() += 1;
                return Some(id);
            }
        }
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
    free: u64,
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
    choices: Option<Choices<'a>>,
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
        let free = seats.room();
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
            let Some(worker) = self.choose(head.class) else { continue };
            self.free -= 1;
            for gate in class.gates.iter() {
                *self.passed.entry(gate).or_default() += 1;
            }
            self.shares.insert(head.owner, share + 1);
            let run = head.place.run;
            self.push(share + 1, head.owner, head.class, head.rest);
            return Some((run, worker));
        }
        None
    }

    fn choose(&mut self, class: usize) -> Option<WorkerId> {
        let Self { seats, classes, .. } = self;
        let WaitingClass { class, choices } = &mut classes[class];
        let choices = choices.get_or_insert_with(|| seats.for_line(class));
        seats.take(choices, class)
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
