//! A small world: schedulers that run the real domain over one modelled log, and everything that can
//! happen to them.
//!
//! Agents and the network are not modelled but assumed to be as bad as can be: any lease that was ever
//! given may be used at any time, in any order and again. Who leads, and how the next one takes over, is
//! as in `eventlog::owner::Standby`: it wins the election, fences every open run that it knows by an event
//! of no meaning, and reads what the old leader still made of streams that did not exist then. The old
//! leader is paused and wakes at any time; its appends expect revisions, and one that fails ends it.

mod fleet;
mod same;
mod wish;

use std::collections::BTreeSet;

use super::super::{judge::Life, *};
use fleet::Fleet;
pub(super) use wish::Wish;

/// Runs that one command assigns at most.
const TOKENS: usize = 2;

/// What the world has, and how much may happen in it.
#[derive(Clone, Debug)]
pub(super) struct Bounds {
    pub(super) runs: Vec<Case>,
    /// Slots of each worker, named `w1`, `w2` and so on; the last has a GPU.
    pub(super) slots: Vec<u32>,
    /// How often a worker may be lost, suspended and so on.
    pub(super) changes: u8,
    pub(super) cancels: u8,
    pub(super) takeovers: u8,
    /// How much may go wrong in all; `None`: as much as there is.
    pub(super) faults: Option<u8>,
    pub(super) limit: Option<Limit>,
    pub(super) max_attempts: u32,
}

/// A run, and what the world's rules say of it.
#[derive(Clone, Debug)]
pub(super) struct Case {
    pub(super) spec: Arc<RunSpec>,
    /// Only the last worker may have it.
    pub(super) gpu: bool,
    /// Submitted when this one has ended.
    pub(super) after: Option<u128>,
}

impl Bounds {
    /// The workers that may have the run.
    pub(super) fn workers_for(&self, case: &Case) -> impl Iterator<Item = u128> {
        let last = self.slots.len() as u128;
        let first = if case.gpu { last } else { 1 };
        first..=last
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct World {
    pub(super) log: Vec<Arc<Fact>>,
    /// Events of each run's stream and, at the end, of the numbers', fences too.
    lengths: Vec<u32>,
    /// Whose number 1, 2 and so on is.
    pub(super) numbers: Vec<RunId>,
    pub(super) lives: Vec<Life>,
    pub(super) fleet: Vec<Fleet>,
    pub(super) schedulers: [Scheduler; 2],
    /// Which of them was elected last.
    pub(super) elected: usize,
    tokens: u128,
    now: u64,
    changes_left: u8,
    cancels_left: u8,
    takeovers_left: u8,
    faults_left: Option<u8>,
    /// The old leader could not append.
    pub(super) was_refused: bool,
    /// The rule that was broken.
    pub(super) fault: Option<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Scheduler {
    pub(super) role: Role,
    pub(super) state: Arc<State>,
    /// Events of each stream that it has seen.
    seen: Vec<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Role {
    Down,
    Leads,
    /// It was elected, and has these streams to fence.
    Fences(BTreeSet<u128>),
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Action {
    /// What a scheduler is asked to do.
    Ask(usize, Wish),
    /// It crashes when only the first of the streams is written.
    Torn(usize, Wish),
    Crash,
    Change(u128, WorkerChange),
    TakeOver,
    Fence(u128),
    /// The new leader reads on in a stream.
    Follow(u128),
}

impl Action {
    /// Without these, runs are started, placed on whoever is there, and succeed.
    fn is_fault(&self, world: &World) -> bool {
        match self {
            Self::Ask(who, wish) => wish.is_fault(&world.schedulers[*who].state),
            Self::Torn(..) | Self::Crash | Self::Change(..) | Self::TakeOver => true,
            Self::Fence(_) | Self::Follow(_) => false,
        }
    }
}

impl World {
    pub(super) fn new(bounds: &Bounds) -> Self {
        let streams = bounds.runs.len() + 1;
        let idle = Scheduler { role: Role::Down, state: Arc::default(), seen: vec![0; streams] };
        let mut world = Self {
            log: vec![],
            lengths: vec![0; streams],
            numbers: vec![],
            lives: vec![Life::default(); bounds.runs.len()],
            fleet: vec![Fleet::default(); bounds.slots.len()],
            schedulers: [Scheduler { role: Role::Leads, ..idle.clone() }, idle],
            elected: 0,
            tokens: 0,
            now: 10,
            changes_left: bounds.changes,
            cancels_left: bounds.cancels,
            takeovers_left: bounds.takeovers,
            faults_left: bounds.faults,
            was_refused: false,
            fault: None,
        };
        for (n, &slots) in (1..).zip(&bounds.slots) {
            let is_last = n as usize == bounds.slots.len();
            let tags: &[&str] = if is_last { &["golang", "gpu"] } else { &["golang"] };
            for fact in joined(n, slots, tags) {
                world.store(fact);
            }
        }
        world
    }

    /// Worker facts come to all schedulers at once.
    fn store(&mut self, fact: Fact) {
        if matches!(fact, Fact::Worker(_)) {
            for scheduler in &mut self.schedulers {
                if scheduler.role != Role::Down {
                    Arc::make_mut(&mut scheduler.state).evolve(&fact);
                }
            }
        }
        self.log.push(Arc::new(fact));
    }

    pub(super) fn after(&self, bounds: &Bounds, action: &Action) -> Option<Self> {
        let mut world = self.next(bounds, action)?;
        if action.is_fault(self) {
            world.faults_left = world.faults_left.map(|left| left.saturating_sub(1));
        }
        Some(world)
    }

    fn next(&self, bounds: &Bounds, action: &Action) -> Option<Self> {
        if self.fault.is_some() {
            return None;
        }
        if let Action::Ask(who, wish) = action {
            return self.asked(bounds, *who, wish, false);
        }
        if let Action::Torn(who, wish) = action {
            return self.asked(bounds, *who, wish, true);
        }
        let mut world = self.clone();
        match action {
            Action::Ask(..) | Action::Torn(..) => {}
            Action::Crash => world.crash(world.elected),
            Action::Change(n, change) => {
                world.changes_left -= 1;
                world.fleet[*n as usize - 1].take(change);
                world.store(fact(*n, change.clone()));
            }
            Action::TakeOver => world.take_over(),
            Action::Fence(n) => world.fence(*n),
            Action::Follow(n) => world.follow(*n),
        }
        Some(world)
    }

    /// `None`: nothing comes of it.
    fn asked(&self, bounds: &Bounds, who: usize, wish: &Wish, is_torn: bool) -> Option<Self> {
        let before = &self.schedulers[who].state;
        let at = self.time_of(before, wish)?;
        let command = self.command(bounds, before, wish, at)?;
        let (events, is_refused) = match decide(before, command.clone()) {
            Ok(events) => (events, false),
            Err(_) => (vec![], matches!(wish, Wish::Submit(_))),
        };
        let first = events.first().and_then(Event::run);
        let is_whole = events.iter().all(|event| event.run() == first);
        if !is_refused && (events.is_empty() || is_torn && is_whole) {
            return None;
        }
        let mut world = self.clone();
        if is_refused {
            world.fail("a start is taken");
            return Some(world);
        }
        (world.now, world.tokens) = (at.0, world.tokens + TOKENS as u128);
        world.cancels_left -= u8::from(matches!(wish, Wish::Cancel(_)));
        let mut after = State::clone(before);
        for event in &events {
            after.evolve(&event.clone().into());
        }
        // Who polls asks for one more each time, and a command assigns so many at most.
        let may_go_on = matches!(wish, Wish::Poll(_))
            || matches!(wish, Wish::Assign(_)) && events.len() == TOKENS;
        if !may_go_on && decide(&after, command) != Ok(vec![]) {
            world.fail("a retry changes nothing");
        }
        if is_torn {
            world.append(who, events.into_iter().filter(|event| event.run() == first).collect());
            world.crash(who);
        } else if world.append(who, events.clone()) {
            if let Err(rule) = self.check(bounds, (before, &after), wish, &events) {
                world.fail(rule);
            }
            world.schedulers[who].state = Arc::new(after);
        } else {
            world.was_refused = true;
            world.crash(who);
        }
        Some(world)
    }

    /// The process ends, and knows nothing the next time.
    fn crash(&mut self, who: usize) {
        self.schedulers[who].role = Role::Down;
        self.schedulers[who].state = Arc::default();
    }

    /// Streams whose revision is not as expected take nothing; the others do.
    fn append(&mut self, who: usize, events: Vec<Event>) -> bool {
        let mut refused = BTreeSet::new();
        for event in events {
            let Some(at) = self.place(&event) else {
                self.store(event.into());
                continue;
            };
            if self.schedulers[who].seen[at] != self.lengths[at] || refused.contains(&at) {
                refused.insert(at);
                continue;
            }
            self.lengths[at] += 1;
            self.schedulers[who].seen[at] += 1;
            let judged = match &event {
                Event::RunNumbered { number, run, .. } => self.judge_number(*number, *run),
                _ => self.lives[at].judge(&event),
            };
            if let Err(rule) = judged {
                self.fail(&format!("{rule}: {event:?}"));
            }
            self.store(event.into());
        }
        refused.is_empty()
    }

    /// Which stream it belongs to, if that may have one more writer.
    fn place(&self, event: &Event) -> Option<usize> {
        match event.subject() {
            Subject::Run(run) => Some(run.as_uuid().as_u128() as usize - 1),
            Subject::Numbers(_) => Some(self.lives.len()),
            Subject::Gate(_) => None,
        }
    }

    fn judge_number(&mut self, number: RunNumber, run: RunId) -> Result<(), &'static str> {
        let is_next = number.0 == self.numbers.len() as u64 + 1;
        let is_first = !self.numbers.contains(&run);
        self.numbers.push(run);
        if is_next && is_first { Ok(()) } else { Err("each run has one number, the next") }
    }

    fn fail(&mut self, rule: &str) {
        self.fault.get_or_insert_with(|| rule.to_owned());
    }

    fn take_over(&mut self) {
        self.takeovers_left -= 1;
        let open = |&n: &u128| {
            let life = &self.lives[n as usize - 1];
            life.submitted && life.ended.is_none()
        };
        let mut open: BTreeSet<_> = (1..=self.lives.len() as u128).filter(open).collect();
        if !self.numbers.is_empty() {
            open.insert(self.lengths.len() as u128);
        }
        let role = if open.is_empty() { Role::Leads } else { Role::Fences(open) };
        let state = Arc::new(self.replayed());
        self.elected = 1 - self.elected;
        self.schedulers[self.elected] = Scheduler { role, state, seen: self.lengths.clone() };
    }

    fn fence(&mut self, n: u128) {
        let at = n as usize - 1;
        let new = &mut self.schedulers[self.elected];
        if new.seen[at] != self.lengths[at] {
            // It conflicts, reads on, and tries again.
            return self.follow(n);
        }
        self.lengths[at] += 1;
        new.seen[at] += 1;
        if let Role::Fences(left) = &mut new.role {
            left.remove(&n);
            if left.is_empty() {
                new.role = Role::Leads;
            }
        }
    }

    fn follow(&mut self, n: u128) {
        let at = n as usize - 1;
        let new = &self.schedulers[self.elected];
        let of_it = |fact: &&Arc<Fact>| matches!(&***fact, Fact::Run(event) if self.place(event) == Some(at));
        let stream: Vec<_> = self.log.iter().filter(of_it).cloned().collect();
        // Fences are not in the log here; all that the new leader has not seen is at its end.
        let unseen = (self.lengths[at] - new.seen[at]) as usize;
        let new = &mut self.schedulers[self.elected];
        for fact in &stream[stream.len() - unseen..] {
            Arc::make_mut(&mut new.state).evolve(fact);
        }
        new.seen[at] = self.lengths[at];
    }

    pub(super) fn replayed(&self) -> State {
        let mut state = State::default();
        for fact in &self.log {
            state.evolve(fact);
        }
        state
    }

    /// Who leads now, if it has seen everything.
    pub(super) fn leader(&self) -> Option<(usize, &State)> {
        let new = &self.schedulers[self.elected];
        let is_current = new.role == Role::Leads && new.seen == self.lengths;
        is_current.then_some((self.elected, &*new.state))
    }

    /// Rules about a decision that was stored, beside those about the stream.
    fn check(
        &self,
        bounds: &Bounds,
        (before, after): (&State, &State),
        wish: &Wish,
        events: &[Event],
    ) -> Result<(), &'static str> {
        if let Wish::Report(n, index, _) = wish {
            let attempts = &before.run(run(*n)).expect("it was reported").attempts;
            let is_last = *index + 1 == attempts.len();
            if !is_last || !attempts[*index].requeue_reason.is_empty() {
                return Err("a stale lease changes nothing");
            }
        }
        for event in events {
            let Event::RunAssigned { run, worker, .. } = event else { continue };
            let (n, w) = (run.as_uuid().as_u128(), worker.as_uuid().as_u128());
            if !bounds.workers_for(&bounds.runs[n as usize - 1]).any(|may| may == w) {
                return Err("a run goes where it may run");
            }
            if !self.fleet[w as usize - 1].is_active() {
                return Err("only an active worker is given runs");
            }
            let polls = matches!(wish, Wish::Poll(_));
            let held = if polls { self.had_by_poller(before, w) } else { held(before, w) };
            if held + given(events, w) > bounds.slots[w as usize - 1] {
                return Err("no worker has more runs than slots");
            }
        }
        let begins = events.iter().any(|event| matches!(event, Event::RunAssigned { .. }));
        if begins && after.limits().any(|(_, limit, running, _)| running > limit.running) {
            return Err("no more runs than the limit says");
        }
        Ok(())
    }

    /// Who polls knows best what it has begun, which this leader may not have read yet. What another
    /// leader gave it and it has not begun has not reached it, and this leader cannot know of it.
    fn had_by_poller(&self, leader: &State, w: u128) -> u32 {
        let is_there = |(n, life): &(u128, &Life)| {
            let is_known = || leader.held_by(worker(w)).any(|id| id == run(*n));
            let is_live = life.live.is_some_and(|(holder, _)| holder == worker(w));
            is_live && (life.started || is_known())
        };
        (1..).zip(&self.lives).filter(is_there).count() as u32
    }

    pub(super) fn actions(&self, bounds: &Bounds, actions: &mut Vec<Action>) {
        for who in [0, 1] {
            if self.schedulers[who].role == Role::Leads {
                self.wishes(bounds, who, actions);
            }
        }
        for (w, fleet) in (1..).zip(&self.fleet) {
            if self.changes_left > 0 {
                actions.extend(fleet.changes().into_iter().map(|change| Action::Change(w, change)));
            }
        }
        let new = &self.schedulers[self.elected];
        if self.takeovers_left > 0 && self.schedulers[1 - self.elected].role == Role::Down {
            actions.push(Action::TakeOver);
            if new.role != Role::Down {
                actions.push(Action::Crash);
            }
        }
        let is_behind = |n: &u128| new.seen[*n as usize - 1] != self.lengths[*n as usize - 1];
        match &new.role {
            Role::Down => {}
            Role::Leads => {
                let streams = 1..=self.lengths.len() as u128;
                actions.extend(streams.filter(is_behind).map(Action::Follow));
            }
            Role::Fences(left) => actions.extend(left.iter().map(|&n| Action::Fence(n))),
        }
        if self.faults_left == Some(0) {
            actions.retain(|action| !action.is_fault(self));
        }
    }

    /// All workers that are registered are there again and take runs.
    pub(super) fn heal(&mut self) {
        for n in 1..=self.fleet.len() as u128 {
            for change in [WorkerChange::Returned, WorkerChange::Resumed] {
                if !self.fleet[n as usize - 1].gone {
                    self.fleet[n as usize - 1].take(&change);
                    self.store(fact(n, change));
                }
            }
        }
    }
}

/// Counted run by run, not by the index.
fn held(state: &State, w: u128) -> u32 {
    let is_there = |run: &Run| run.current().is_some_and(|now| now.worker == worker(w));
    state.runs().filter(|(_, run)| is_there(run)).count() as u32
}

fn given(events: &[Event], w: u128) -> u32 {
    let to =
        |event: &&Event| matches!(event, Event::RunAssigned { worker: to, .. } if *to == worker(w));
    events.iter().filter(to).count() as u32
}
