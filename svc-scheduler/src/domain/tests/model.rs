//! The domain, explored: every history of small worlds, and long random ones of a larger.
//!
//! `SCHEDULER_MODEL=whole` explores worlds that take minutes, `SCHEDULER_WALKS=1000` walks so often, and
//! `SCHEDULER_SEED=17` repeats the walk that a failure names.

mod walk;
mod world;

use std::{env, time::Instant};

use stateright::{Checker, Expectation, HasDiscoveries, Model, Property};

use super::*;
use world::{Action, Bounds, Case, Wish, World};

/// A world, explored from its beginning.
#[derive(Clone, Debug)]
struct Exploration(Bounds);

impl Model for Exploration {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(&self.0)]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        world.actions(&self.0, actions);
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        world.after(&self.0, &action)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::<Self>::always("no rule is broken", |_, world| world.fault.is_none()),
            Property::<Self>::always("a replay gives the living state", |_, world| {
                is_replayed(world)
            }),
            Property::<Self>::always("what can be placed is placed", |model, world| {
                is_placed(&model.0, world)
            }),
            Property::<Self>::always("all ends once all is well", |model, world| {
                all_ends(&model.0, world)
            }),
            Property::<Self>::sometimes("a run has a second attempt and succeeds", |_, world| {
                let twice = |life: &judge::Life| {
                    life.attempts == 2 && life.ended == Some(RunState::Succeeded)
                };
                world.lives.iter().any(twice)
            }),
            Property::<Self>::sometimes("all runs succeed", |_, world| {
                world.lives.iter().all(|life| life.ended == Some(RunState::Succeeded))
            }),
        ];
        if self.0.cancels > 0 {
            properties.push(Property::<Self>::sometimes("a run is cancelled", |_, world| {
                world.lives.iter().any(|life| life.ended == Some(RunState::Cancelled))
            }));
        }
        if self.0.takeovers > 0 {
            properties.push(Property::<Self>::sometimes("an old leader is fenced", |_, world| {
                world.was_refused && world.leader().is_some()
            }));
        }
        properties
    }
}

fn is_replayed(world: &World) -> bool {
    world.leader().is_none_or(|(_, state)| *state == world.replayed())
}

/// Nothing holds up a run that some idle worker may have.
fn is_placed(bounds: &Bounds, world: &World) -> bool {
    if bounds.limit.is_some() {
        return true;
    }
    let Some((who, state)) = world.leader() else { return true };
    let waits = |n: u128| {
        let known = state.run(run(n));
        known.is_some_and(|run| run.state == RunState::Queued && run.delayed_until.is_none())
    };
    let is_active = |w: u128| world.fleet[w as usize - 1].is_active();
    let holds = |w: u128, run: &Run| run.current().is_some_and(|now| now.worker == worker(w));
    let is_idle = |w: u128| is_active(w) && !state.runs().any(|(_, run)| holds(w, run));
    // One that is busy may suit it better.
    let could = (1..).zip(&bounds.runs).any(|(n, case)| {
        let idle = bounds.workers_for(case).filter(|&w| is_idle(w)).count();
        let active = bounds.workers_for(case).filter(|&w| is_active(w)).count();
        waits(n) && idle > 0 && idle == active
    });
    !could || world.after(bounds, &Action::Ask(who, Wish::Assign(0))).is_some()
}

/// Once workers are back and do what they are told, every run that was started comes to an end soon.
fn all_ends(bounds: &Bounds, world: &World) -> bool {
    const STEPS: usize = 60;
    let Some((who, _)) = world.leader().filter(|_| world.fault.is_none()) else { return true };
    let mut world = world.clone();
    world.heal();
    let mut take = |action: Action| {
        let next = world.after(bounds, &action);
        next.map(|next| world = next)
    };
    let mut wishes = vec![Wish::Due, Wish::Number, Wish::Assign(0)];
    if bounds.limit.is_some() {
        wishes.insert(0, Wish::Enforce);
    }
    for w in 1..=bounds.slots.len() as u128 {
        wishes.insert(0, Wish::Release(w));
    }
    for n in 1..=bounds.runs.len() as u128 {
        for index in 0..8 {
            wishes.insert(0, Wish::Report(n, index, Reported::Succeeded));
        }
    }
    for _ in 0..STEPS {
        let mut moved = false;
        for wish in &wishes {
            moved |= take(Action::Ask(who, wish.clone())).is_some();
        }
        if !moved {
            break;
        }
    }
    let may_wait = |case: &Case| bounds.workers_for(case).all(|w| world.fleet[w as usize - 1].gone);
    let all = world
        .lives
        .iter()
        .zip(&bounds.runs)
        .all(|(life, case)| !life.submitted || life.ended.is_some() || may_wait(case));
    let is_numbered =
        |(n, life): (u128, &judge::Life)| !life.submitted || world.numbers.contains(&run(n));
    all && (1..).zip(&world.lives).all(is_numbered) && world.fault.is_none()
}

fn any_worker() -> Case {
    Case { spec: spec().into(), gpu: false, after: None }
}

fn on_gpu() -> Case {
    Case { spec: RunSpec { tags: vec!["gpu".into()], ..spec() }.into(), gpu: true, after: None }
}

fn with_policy(policy: Policy) -> Case {
    Case { spec: RunSpec { policy, ..spec() }.into(), ..any_worker() }
}

/// Repeats the first run, without the job that was done.
fn rerun() -> Case {
    let spec = RunSpec { rerun_of: Some(run(1)), done_jobs: vec![JobId(1)], ..spec() };
    Case { spec: spec.into(), after: Some(1), ..any_worker() }
}

fn bounds(runs: Vec<Case>, slots: &[u32]) -> Bounds {
    let (slots, limit) = (slots.to_vec(), None);
    let (changes, cancels, takeovers, faults) = (0, 0, 0, None);
    Bounds { runs, slots, changes, cancels, takeovers, faults, limit, max_attempts: 2 }
}

fn is_whole() -> bool {
    env::var("SCHEDULER_MODEL").is_ok_and(|value| value == "whole")
}

/// One more in a world that may take minutes.
fn more(than: u8) -> u8 {
    than + u8::from(is_whole())
}

/// No world here is that deep.
const END: usize = 1_000;

/// Explores a world to its end, or to a depth, and panics with the way to what is wrong.
#[expect(clippy::disallowed_methods, reason = "how long it took is for people")]
fn explore(name: &str, bounds: Bounds, depth: usize) {
    let (exploration, begun) = (Exploration(bounds), Instant::now());
    let properties = exploration.properties();
    let checker = exploration
        .checker()
        .threads(2)
        .target_max_depth(depth)
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_bfs()
        .join();
    println!(
        "{name}: {} states, {} of them different, {} steps deep, in {:.1?}",
        checker.state_count(),
        checker.unique_state_count(),
        checker.max_depth(),
        begun.elapsed()
    );
    for property in properties {
        let found = checker.discovery(property.name);
        match (property.expectation, found) {
            (Expectation::Always, Some(path)) => {
                let fault = path.last_state().fault.clone().unwrap_or_default();
                let (what, actions) = (property.name, path.into_actions());
                panic!("{name}: not always {what}: {fault}, after {actions:#?}");
            }
            (Expectation::Sometimes, None) if depth == END => {
                panic!("{name}: never {}", property.name)
            }
            _ => {}
        }
    }
}

/// Timeouts of its own, and what else a policy may say.
fn policies() -> [Case; 3] {
    let timeouts = |queue, start, run| Timeouts { queue, start, run, silence: 0 };
    let retries = Policy { retries: 1, retry_delay: 1, ..Policy::default() };
    let fails = Policy {
        on_worker_lost: OnWorkerLost::Fail,
        timeouts: timeouts(60, 0, 20),
        ..Policy::default()
    };
    let waits = Policy {
        on_worker_lost: OnWorkerLost::Wait,
        timeouts: timeouts(0, 10, 0),
        priority: 5,
        ..Policy::default()
    };
    [retries, fails, waits].map(with_policy)
}

#[test]
fn workers_may_be_lost_and_paused_at_any_time() {
    let runs = vec![any_worker(), on_gpu()];
    explore("workers", Bounds { changes: more(1), ..bounds(runs, &[1, 1]) }, END);
}

#[test]
fn a_policy_holds_whatever_happens() {
    for (n, policy) in (1..).zip(policies()) {
        let (changes, cancels) = (1, more(0));
        let bounds = Bounds { changes, cancels, ..bounds(vec![policy], &[1, 1]) };
        explore(&format!("policy {n}"), bounds, END);
    }
}

#[test]
fn a_limit_holds_whatever_happens() {
    for when_full in [WhenFull::Queue, WhenFull::CancelOlder, WhenFull::CancelNewer] {
        let limit = Some(Limit { running: 1, when_full });
        let runs = vec![any_worker(), any_worker()];
        let bounds = Bounds { limit, ..bounds(runs, &[2]) };
        explore(&format!("limit {when_full:?}"), bounds, END);
    }
}

#[test]
fn an_old_leader_writes_nothing_that_counts() {
    let one = Bounds { takeovers: 1, changes: more(0), ..bounds(vec![any_worker()], &[1]) };
    explore("take-over of one", one, END);
    let two = Bounds { takeovers: 1, ..bounds(vec![any_worker(), rerun()], &[1, 1]) };
    explore("take-over of two", two, if is_whole() { END } else { 7 });
}

/// All that there is in small worlds, where only so much may go wrong, to the end of every history.
#[test]
fn a_few_faults_break_nothing() {
    let [retries, ..] = policies();
    let two = vec![any_worker(), any_worker()];
    let four = vec![any_worker(), on_gpu(), retries, rerun()];
    let mut worlds = vec![(two, vec![1], 2), (four[..3].to_vec(), vec![1, 1], 1)];
    if is_whole() {
        worlds.push((four, vec![1, 1, 1], 1));
    }
    for (runs, slots, faults) in worlds {
        let name = format!("{} runs, {} workers, {faults} faults", runs.len(), slots.len());
        let all = Bounds { takeovers: 1, changes: 1, cancels: 1, ..bounds(runs, &slots) };
        explore(&name, Bounds { faults: Some(faults), ..all }, END);
    }
}

/// All of it at once: two schedulers, three workers, four runs.
#[test]
fn everything_may_happen_to_four_runs() {
    let [retries, ..] = policies();
    let runs = vec![any_worker(), on_gpu(), retries, rerun()];
    let bounds = Bounds { takeovers: 1, changes: 1, cancels: 1, ..bounds(runs, &[1, 1, 1]) };
    explore("everything", bounds, if is_whole() { END } else { 6 });
}
