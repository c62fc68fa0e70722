//! Why a run waits, in numbers and in one sentence.

use ids::{RunId, Timestamp, WorkerId};

use super::{
    assign::Seats,
    limit::Gate,
    queue::{Class, Place},
    run::{AttemptRecord, Run, RunState},
    selector::Unmet,
    state::State,
    worker::{Connected, Presence, Requirement, Worker},
};

/// How far a place in the line is counted.
const MAX_POSITION: usize = 10_000;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// One sentence for people.
    pub summary: String,
    /// Workers that are registered.
    pub workers: usize,
    pub matching: usize,
    /// Of those that match: no free slot.
    pub full: usize,
    pub suspended: usize,
    pub draining: usize,
    pub not_connected: usize,
    /// What keeps workers away.
    pub missing: Vec<Missing>,
    /// Runs before it that want the same.
    pub queue_position: usize,
    /// Limits that hold it back.
    pub full_gates: Vec<FullGate>,
    /// When it may be started.
    pub delayed_until: Option<Timestamp>,
    pub priority: i32,
    /// Runs of who started it that are on workers.
    pub owner_running: u32,
    /// Others who want the same and have fewer on workers, so that theirs go first.
    pub owners_before: usize,
}

/// A limit that lets nothing through now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FullGate {
    pub gate: Gate,
    pub running: u32,
    pub limit: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// The term of the selector that is not met, or `taint:name`.
    pub tag: String,
    /// How many it keeps away.
    pub workers: usize,
}

/// `None`: there is no such run.
#[must_use]
pub fn explain(state: &State, id: RunId, connected: &Connected) -> Option<Placement> {
    let run = state.run(id)?;
    let mut placement = placement(state, run, connected);
    placement.priority = run.spec.policy.priority;
    placement.owner_running = state.share(&run.started_by);
    if run.state == RunState::Queued && run.delayed_until.is_none() {
        add_position(state, id, run, &mut placement);
    }
    Some(placement)
}

/// How many go before it, and why.
fn add_position(state: &State, id: RunId, run: &Run, placement: &mut Placement) {
    let (class, place) = (Class::of(run), Place::of(id, run));
    let own_share = placement.owner_running;
    for (owner, line) in state.queue.of_class(&class) {
        let share = state.share(owner);
        if *owner == run.started_by || share == own_share {
            let most = MAX_POSITION.saturating_sub(placement.queue_position);
            placement.queue_position += line.range(..place).take(most).count();
        } else if share < own_share {
            placement.owners_before += 1;
            placement.queue_position += usize::from(placement.queue_position < MAX_POSITION);
        }
    }
    let (before, others) = (placement.queue_position, placement.owners_before);
    if before > 0 {
        placement.summary = format!("{}; {} before it", placement.summary, count(before, "run"));
    }
    if others > 0 {
        placement.summary = format!(
            "{}, since {} has {} on workers and {} fewer",
            placement.summary,
            run.started_by,
            count(own_share as usize, "run"),
            if others == 1 { "another user has".into() } else { format!("{others} others have") },
        );
    }
}

/// Why the run waits, but for its place in the line: the same for all runs that ask for the same.
#[must_use]
pub fn placement(state: &State, run: &Run, connected: &Connected) -> Placement {
    let class = Class::of(run);
    let mut placement = Placement {
        workers: state.workers().count(),
        missing: missing(state, &class.requirement),
        full_gates: full_gates(state, &class),
        delayed_until: run.delayed_until,
        ..Placement::default()
    };
    let matching = |(id, worker): &(WorkerId, &Worker)| {
        let presence = connected.get(*id);
        worker.suits(*id, &class.requirement)
            && presence.is_none_or(|presence| presence.suits(&class.requirement))
    };
    for (id, worker) in state.workers().filter(matching) {
        placement.matching += 1;
        match connected.get(id) {
            _ if worker.suspended => placement.suspended += 1,
            None => placement.not_connected += 1,
            _ if worker.lost => placement.not_connected += 1,
            Some(Presence::Draining) => placement.draining += 1,
            _ if worker.draining => placement.draining += 1,
            Some(presence) if is_full(state, id, worker, presence) => placement.full += 1,
            Some(_) => {}
        }
    }
    placement.summary = summary(state, run, &class, &placement, connected);
    placement
}

fn full_gates(state: &State, class: &Class) -> Vec<FullGate> {
    let full = class.gates.iter().filter_map(|gate| {
        let crowd = state.crowd(gate).filter(|crowd| !crowd.has_room_for(1))?;
        let limit = crowd.limit?.running;
        Some(FullGate { gate: gate.clone(), running: crowd.held, limit })
    });
    full.collect()
}

fn is_full(state: &State, id: WorkerId, worker: &Worker, presence: Presence) -> bool {
    match presence {
        Presence::Pushed => state.held_count(id) >= worker.slots,
        Presence::Polls { free } => free == 0,
        Presence::Draining | Presence::Polled => false,
    }
}

/// For each term that is in the way somewhere: how many workers it keeps away.
fn missing(state: &State, requirement: &Requirement) -> Vec<Missing> {
    let mut missing: Vec<Missing> = vec![];
    for (_, worker) in state.workers() {
        for unmet in requirement.selector.unmet(worker.offer()) {
            let tag = unmet.term();
            match missing.iter_mut().find(|known| known.tag == tag) {
                Some(known) => known.workers += 1,
                None => missing.push(Missing { tag, workers: 1 }),
            }
        }
    }
    missing.sort_by(|one, other| one.tag.cmp(&other.tag));
    missing
}

fn summary(
    state: &State,
    run: &Run,
    class: &Class,
    placement: &Placement,
    connected: &Connected,
) -> String {
    if let Some(current) = run.current() {
        let (id, worker) = (current.worker, state.worker_name(current.worker));
        let how = on_worker(run.state);
        return match state.worker(id) {
            Some(worker_state) if worker_state.lost && !run.leaves(worker_state) => {
                format!(
                    "the run is {how} on worker `{worker}`, which is lost; it waits for that to come back"
                )
            }
            _ => format!("the run is {how} on worker `{worker}`: {}", rule(state, run, current)),
        };
    }
    if run.state.is_terminal() {
        let word = run.state.word();
        let last = run.attempts.last().filter(|attempt| attempt.requeued.is_none());
        return last.map_or_else(
            || format!("the run has ended: {word}"),
            |last| {
                let (worker, rule) = (state.worker_name(last.worker), rule(state, run, last));
                format!("the run has ended: {word}, on worker `{worker}`: {rule}")
            },
        );
    }
    if run.delayed_until.is_some() {
        return match run.attempts.last() {
            Some(last) => format!("the run is tried again in a while: {}", last.requeue_reason),
            None => "the run is delayed; its time has not come".into(),
        };
    }
    if placement.matching == 0 {
        return nobody(state, &class.requirement, placement);
    }
    if !placement.full_gates.is_empty() {
        let full = placement.full_gates.iter().map(|full| match full.limit {
            0 => format!("{} is held back: its limit is 0", full.gate),
            limit => format!("{} has {} of at most {limit} running", full.gate, full.running),
        });
        return full.collect::<Vec<_>>().join("; ");
    }
    availability(state, class, placement, connected)
}

/// Why it went where it went: how runs are placed, and what is recorded of this one and its worker,
/// leave no other reason.
fn rule(state: &State, run: &Run, attempt: &AttemptRecord) -> &'static str {
    let is_primary = state.worker(attempt.worker).is_some_and(|worker| worker.primary);
    if !run.requirement.pin.is_empty() {
        "it is pinned to it"
    } else if is_primary {
        "no other worker that took runs suited it"
    } else if run.requirement.selector.prefers() {
        "none that suited it and had room was preferred more"
    } else if attempt.attempt.0 > 1 {
        "of those that did not have it before, if there were any, none had more free slots"
    } else {
        "none that suited it had more free slots"
    }
}

fn on_worker(state: RunState) -> &'static str {
    if state == RunState::Assigned { "assigned" } else { "running" }
}

/// Why no registered worker can ever take it.
fn nobody(state: &State, requirement: &Requirement, placement: &Placement) -> String {
    if placement.workers == 0 {
        return "no worker is registered; the run waits until one joins".into();
    }
    let suits = |(id, worker): (WorkerId, &Worker)| worker.suits(id, requirement);
    if state.workers().any(suits) {
        return "the workers that match are Gaia's own agents, which build nothing and take no \
                arguments"
            .into();
    }
    let pin = &requirement.pin;
    if !pin.is_empty() {
        let pinned = state.workers().find(|(id, worker)| worker.is_pinned_by(*id, requirement));
        let Some((id, worker)) = pinned else {
            return format!("the run is pinned to worker `{pin}`, which is not registered");
        };
        let why = reasons(requirement, worker);
        return format!("the run is pinned to worker `{}`, which {why}", state.worker_name(id));
    }
    let everywhere: Vec<_> =
        placement.missing.iter().filter(|missing| missing.workers == placement.workers).collect();
    let why = if everywhere.is_empty() {
        let lacks =
            |(_, worker): &(WorkerId, &Worker)| requirement.selector.unmet(worker.offer()).count();
        let nearest = state.workers().min_by_key(lacks).map(|(id, worker)| {
            let why = reasons(requirement, worker);
            format!("; the nearest is `{}`, which {why}", state.worker_name(id))
        });
        let all = &requirement.selector;
        format!("no registered worker suits all of `{all}`{}", nearest.unwrap_or_default())
    } else {
        let terms = everywhere.iter().map(|missing| nowhere(state, requirement, missing));
        terms.collect::<Vec<_>>().join("; ")
    };
    format!("{why}; the run waits until one joins")
}

fn reasons(requirement: &Requirement, worker: &Worker) -> String {
    let unmet = requirement.selector.unmet(worker.offer()).map(|unmet| unmet.to_string());
    unmet.collect::<Vec<_>>().join(" and ")
}

/// Why a term keeps all workers away.
fn nowhere(state: &State, requirement: &Requirement, missing: &Missing) -> String {
    let mut refusing = 0;
    for (_, worker) in state.workers() {
        let mut unmet = requirement.selector.unmet(worker.offer());
        match unmet.find(|unmet| unmet.term() == missing.tag) {
            Some(Unmet::Lacks(condition)) => {
                refusing += usize::from(worker.offer().refuses(condition));
            }
            Some(unmet) => return format!("every registered worker {unmet}"),
            None => {}
        }
    }
    let lacking = missing.workers - refusing;
    let mut parts = vec![];
    if lacking > 0 {
        let lack = if lacking == 1 { "lacks" } else { "lack" };
        parts.push(format!("{} {lack} it", count(lacking, "worker")));
    }
    if refusing > 0 {
        let refuse = if refusing == 1 { "refuses" } else { "refuse" };
        parts.push(format!("{} {refuse} it", count(refusing, "worker")));
    }
    format!("no registered worker has `{}` ({})", missing.tag, parts.join(", "))
}

/// What the matching workers are doing.
fn availability(
    state: &State,
    class: &Class,
    placement: &Placement,
    connected: &Connected,
) -> String {
    if Seats::of(state, connected).has_for(class) {
        return "a matching worker is free and gets the run next".into();
    }
    let states = [
        (placement.full, "busy"),
        (placement.suspended, "suspended"),
        (placement.draining, "draining"),
        (placement.not_connected, "not connected"),
    ];
    let counted: usize = states.iter().map(|(workers, _)| workers).sum();
    let mut parts: Vec<_> = states
        .into_iter()
        .filter(|(workers, _)| *workers > 0)
        .map(|(workers, what)| {
            format!("{workers} {} {what}", if workers == 1 { "is" } else { "are" })
        })
        .collect();
    if placement.matching > counted {
        let others = placement.matching - counted;
        parts.push(format!("{others} {} kept back", if others == 1 { "is" } else { "are" }));
    }
    let matching = match placement.matching {
        1 => "1 worker matches".into(),
        workers => format!("{workers} workers match"),
    };
    format!("{matching}: {}", parts.join(", "))
}

fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}
