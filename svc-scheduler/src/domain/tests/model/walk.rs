//! Long random histories of a world that is too large to be explored.

use super::{super::judge::Seeded, *};

const STEPS: usize = 300;

fn large() -> Bounds {
    let [retries, fails, waits] = policies();
    let runs = vec![any_worker(), on_gpu(), retries, rerun(), fails, waits, any_worker(), on_gpu()];
    Bounds {
        changes: 30,
        cancels: 3,
        takeovers: 10,
        max_attempts: 4,
        ..bounds(runs, &[2, 1, 3, 1])
    }
}

/// The world after so many steps that came to something.
fn walk(bounds: &Bounds, seed: u64) -> Result<World, String> {
    let mut dice = Seeded::new(seed);
    let mut world = World::new(bounds);
    for step in 0..STEPS {
        let mut actions = vec![];
        world.actions(bounds, &mut actions);
        let next = loop {
            if actions.is_empty() {
                return Ok(world);
            }
            let action = actions.swap_remove(dice.below(actions.len() as u64) as usize);
            let is_rare = !matches!(action, Action::Ask(..) | Action::Fence(_) | Action::Follow(_));
            if is_rare && !actions.is_empty() && !dice.percent(10) {
                continue;
            }
            if let Some(next) = world.after(bounds, &action) {
                break (action, next);
            }
        };
        world = next.1;
        let wrong = |what: &str| Err(format!("{what}, step {step}, after {:?}", next.0));
        if let Some(fault) = &world.fault {
            return wrong(fault);
        }
        if !is_placed(bounds, &world) {
            return wrong("what can be placed is not placed");
        }
        if step % 10 == 0 && !is_replayed(&world) {
            return wrong("a replay gives another state");
        }
        if step % 50 == 0 && !all_ends(bounds, &world) {
            return wrong("something never ends");
        }
    }
    Ok(world)
}

#[test]
fn no_walk_breaks_a_rule() {
    let number = |name| env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let seeds = match number("SCHEDULER_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SCHEDULER_WALKS").unwrap_or(1_000),
    };
    let bounds = large();
    let (mut ended, mut refused) = (0, 0);
    for seed in seeds.clone() {
        let world = walk(&bounds, seed)
            .unwrap_or_else(|wrong| panic!("{wrong}; repeat it with SCHEDULER_SEED={seed}"));
        ended += world.lives.iter().filter(|life| life.ended.is_some()).count();
        refused += usize::from(world.was_refused);
    }
    println!(
        "walks of seeds {seeds:?}: {ended} runs ended, in {refused} an old leader was refused"
    );
    assert!(seeds.end - seeds.start < 10 || (ended > 0 && refused > 0), "nothing happened");
}

#[test]
fn a_seed_gives_the_same_walk() {
    let bounds = large();
    let log = |seed| walk(&bounds, seed).expect("it breaks no rule").log;
    assert_eq!(log(1), log(1));
    assert_ne!(log(1), log(2));
}
