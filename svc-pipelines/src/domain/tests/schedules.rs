//! When schedules start something, and when they do not.

use chrono_tz::Europe::Berlin;

use super::*;
use crate::domain::schedule::{Event as Plan, Zone};

/// Ten o'clock of 2026-11-24, UTC.
const TEN: u64 = 1_795_514_400_000;
const MINUTE: u64 = 60_000;

fn at(millis: u64) -> Timestamp {
    Timestamp(TEN + millis)
}

fn wish(crons: &[&str]) -> SchedulesWish {
    let crons = crons.iter().map(|&cron| cron.to_owned()).collect();
    SchedulesWish { crons, ..SchedulesWish::default() }
}

fn set(crons: &[&str], missed: MissedTicks) -> Fact {
    let schedules = SchedulesWish { missed, ..wish(crons) }.checked(at(0)).unwrap();
    let set = Plan::SchedulesSet { pipeline: PipelineId(1), schedules, by: "me".into(), at: at(0) };
    Event::from(set).into()
}

fn fired(cron: &str, tick: u64, run_number: u128, now: u64) -> Event {
    let (pipeline, cron, run) = (PipelineId(1), cron.to_owned(), run(run_number));
    Plan::ScheduleFired { pipeline, cron, tick: at(tick), run, at: at(now) }.into()
}

fn skipped(cron: &str, tick: u64, reason: &str, now: u64) -> Event {
    let (pipeline, cron, reason) = (PipelineId(1), cron.to_owned(), reason.to_owned());
    Plan::TickSkipped { pipeline, cron, tick: at(tick), reason, at: at(now) }.into()
}

/// The scheduler has it.
fn taken(run_number: u128) -> Fact {
    Fact::StartSubmitted { run: run(run_number), pipeline: PipelineId(1) }
}

fn tick(now: u64) -> Command {
    Command::Tick { pipeline: PipelineId(1), runs: vec![run(50), run(51)], at: at(now) }
}

fn built_with(schedules: Fact) -> Vec<Fact> {
    let mut given = built_once();
    given.push(schedules);
    given
}

const EACH_MINUTE: &str = "0 * * * *";
const AWAY: &str = "the service or the scheduler was away, or the clock was put forward";

#[test]
fn a_time_that_comes_starts_one_run_and_never_again() {
    let mut given = built_with(set(&[EACH_MINUTE], MissedTicks::Skip));
    assert_eq!(State::replay(&given).next_tick(at(0)), Some((at(MINUTE), PipelineId(1))));
    check(&given, tick(MINUTE - 1), Ok(vec![]));
    let start = fired(EACH_MINUTE, MINUTE, 50, MINUTE + 20);
    check(&given, tick(MINUTE + 20), Ok(vec![start.clone()]));
    given.push(start.into());
    check(&given, tick(MINUTE + 20), Ok(vec![]));
    // The clock was put back.
    check(&given, tick(0), Ok(vec![]));

    let state = State::replay(&given);
    assert_eq!(state.to_start().map(|(run, _)| run).collect::<Vec<_>>(), [run(50)]);
    given.push(taken(50));
    let state = State::replay(&given);
    assert_eq!(state.next_tick(at(0)), Some((at(2 * MINUTE), PipelineId(1))));
    assert_eq!(state.to_start().count(), 0);
}

#[test]
fn a_schedule_waits_while_the_scheduler_does_not_take_its_start() {
    let hour = 60 * MINUTE;
    for (policy, make_up) in [(MissedTicks::Skip, false), (MissedTicks::Once, true)] {
        let mut given = built_with(set(&["@every 1s", EACH_MINUTE], policy));
        given.push(fired("@every 1s", 1_000, 50, 1_000).into());
        // The other one goes on.
        let state = State::replay(&given);
        assert_eq!(state.next_tick(at(1_000)), Some((at(MINUTE), PipelineId(1))));
        given.push(fired(EACH_MINUTE, MINUTE, 51, MINUTE).into());
        check(&given, tick(hour), Ok(vec![]));
        assert_eq!(State::replay(&given).next_tick(at(hour)), None);
        given.push(taken(50));
        let state = State::replay(&given);
        assert_eq!(state.next_tick(at(hour)), Some((at(2_000), PipelineId(1))));
        let one = fired("@every 1s", hour, 50, hour);
        let missed = skipped("@every 1s", 2_000, AWAY, hour);
        check(&given, tick(hour), Ok(if make_up { vec![one] } else { vec![missed, one] }));
    }
}

#[test]
fn a_start_that_the_scheduler_has_is_noted_once_and_outlives_its_run() {
    let mut given = built_with(set(&[EACH_MINUTE], MissedTicks::Skip));
    let confirm = Command::ConfirmStarts { at: at(MINUTE) };
    given.push(fired(EACH_MINUTE, MINUTE, 50, MINUTE).into());
    check(&given, confirm.clone(), Ok(vec![]));
    given.push(taken(50));
    assert!(State::replay(&given).is_start_to_confirm());
    let (pipeline, run) = (PipelineId(1), run(50));
    let confirmed = Event::from(Plan::StartConfirmed { pipeline, run, at: at(MINUTE) });
    check(&given, confirm.clone(), Ok(vec![confirmed.clone()]));
    given.push(confirmed.into());
    check(&given, confirm, Ok(vec![]));
    // The events of its run may be deleted one day.
    given.retain(|fact| *fact != taken(50));
    let state = State::replay(&given);
    assert_eq!((state.to_start().count(), state.is_start_to_confirm()), (0, false));
    assert_eq!(state.next_tick(at(0)), Some((at(2 * MINUTE), PipelineId(1))));
}

#[test]
fn a_run_that_the_scheduler_gets_after_its_pipeline_was_deleted_is_cancelled() {
    let mut given = built_with(set(&[EACH_MINUTE], MissedTicks::Skip));
    given.push(fired(EACH_MINUTE, MINUTE, 50, MINUTE).into());
    let mut before = given.clone();
    before.extend([taken(50), deleted(1).into()]);
    let state = State::replay(&before);
    assert_eq!((state.to_cancel().count(), state.is_start_to_confirm()), (0, false));
    given.extend([deleted(1).into(), taken(50)]);
    assert_eq!(State::replay(&given).to_cancel().collect::<Vec<_>>(), [run(50)]);
    given.push(ended(50, Outcome::Failed("cancelled".into())));
    assert_eq!(State::replay(&given).to_cancel().count(), 0);
}

#[test]
fn a_clock_that_was_far_ahead_for_a_moment_silences_nothing() {
    let (year, hour) = (365 * 24 * 60 * MINUTE, 60 * MINUTE);
    let mut given = built_with(set(&[EACH_MINUTE, "@every 1h"], MissedTicks::Skip));
    for event in decide(&State::replay(&given), tick(year)).unwrap() {
        given.push(event.into());
    }
    given.extend([taken(50), taken(51)]);
    let state = State::replay(&given);
    let covered = state.next_tick(at(year)).unwrap().0;
    assert!(covered > at(year), "{covered:?}");
    assert_eq!(state.next_tick(at(MINUTE)), Some((at(MINUTE), PipelineId(1))));
    let rewound = decide(&state, tick(MINUTE)).unwrap();
    assert!(
        matches!(&rewound[..], [
            Event::Plan(Plan::ScheduleRewound { covered: first, .. }),
            Event::Plan(Plan::ScheduleRewound { covered: second, .. }),
        ] if *first > at(year - hour) && *second > at(year - hour)),
        "{rewound:?}"
    );
    given.extend(rewound.into_iter().map(Fact::from));
    check(&given, tick(MINUTE), Ok(vec![]));
    let state = State::replay(&given);
    assert_eq!(state.next_tick(at(MINUTE)), Some((at(2 * MINUTE), PipelineId(1))));
    // By less it stays silent, so that nothing comes twice.
    let mut given = built_with(set(&[EACH_MINUTE], MissedTicks::Skip));
    given.extend([fired(EACH_MINUTE, hour, 50, hour).into(), taken(50)]);
    check(&given, tick(MINUTE), Ok(vec![]));
}

#[test]
fn schedules_of_one_pipeline_come_each_by_itself() {
    let given = built_with(set(&[EACH_MINUTE, "@every 30s"], MissedTicks::Skip));
    let both = vec![
        fired(EACH_MINUTE, MINUTE, 50, MINUTE + 1),
        skipped("@every 30s", 30_000, AWAY, MINUTE + 1),
        fired("@every 30s", MINUTE, 51, MINUTE + 1),
    ];
    check(&given, tick(MINUTE + 1), Ok(both));
}

#[test]
fn what_was_missed_is_recorded_or_made_up_for_once() {
    let now = 10 * MINUTE + 40_000;
    let skip = built_with(set(&[EACH_MINUTE], MissedTicks::Skip));
    let missed = skipped(EACH_MINUTE, MINUTE, AWAY, now);
    check(&skip, tick(now), Ok(vec![missed.clone()]));
    let once = built_with(set(&[EACH_MINUTE], MissedTicks::Once));
    let late = fired(EACH_MINUTE, MINUTE, 50, now);
    check(&once, tick(now), Ok(vec![late.clone()]));
    for (mut given, event) in [(skip.clone(), missed), (once.clone(), late)] {
        given.extend([event.into(), taken(50)]);
        check(&given, tick(now), Ok(vec![]));
        assert_eq!(State::replay(&given).next_tick(at(0)), Some((at(11 * MINUTE), PipelineId(1))));
    }
    // A time that is just over counts for those before it.
    let now = 10 * MINUTE + 5_000;
    let just = fired(EACH_MINUTE, 10 * MINUTE, 50, now);
    check(&once, tick(now), Ok(vec![just.clone()]));
    check(&skip, tick(now), Ok(vec![skipped(EACH_MINUTE, MINUTE, AWAY, now), just]));
}

#[test]
fn nothing_is_started_of_what_is_not_built_or_is_deleted() {
    let mut given = vec![created(1, "hello").into(), requested(1, 7).into()];
    given.push(set(&[EACH_MINUTE], MissedTicks::Skip));
    let why = "the pipeline has no build that succeeded";
    check(&given, tick(MINUTE), Ok(vec![skipped(EACH_MINUTE, MINUTE, why, MINUTE)]));
    let mut given = built_with(set(&[EACH_MINUTE], MissedTicks::Skip));
    given.extend([fired(EACH_MINUTE, MINUTE, 50, MINUTE).into(), deleted(1).into()]);
    check(&given, tick(2 * MINUTE), Ok(vec![]));
    let state = State::replay(&given);
    assert_eq!((state.next_tick(at(0)), state.to_start().count()), (None, 0));
}

#[test]
fn a_start_that_the_scheduler_refuses_is_not_tried_again() {
    let mut given = built_with(set(&[EACH_MINUTE], MissedTicks::Skip));
    given.push(fired(EACH_MINUTE, MINUTE, 50, MINUTE).into());
    let refuse = Command::RefuseStart { run: run(50), reason: "no".into(), at: AT };
    let refused = Event::from(Plan::StartRefused {
        pipeline: PipelineId(1),
        run: run(50),
        reason: "no".into(),
        at: AT,
    });
    check(&given, refuse.clone(), Ok(vec![refused.clone()]));
    given.push(refused.into());
    check(&given, refuse, Ok(vec![]));
    assert_eq!(State::replay(&given).to_start().count(), 0);
}

#[test]
fn schedules_are_checked_and_set_as_a_whole() {
    let ask = |schedules| {
        let (pipeline, by) = (PipelineId(1), "me".into());
        Command::SetSchedules { pipeline, schedules, by, at: at(0) }
    };
    let refused = |schedules| match decide(&State::replay(&built_once()), ask(schedules)) {
        Err(Rejection::Invalid(invalid)) => invalid.to_string(),
        other => panic!("{other:?}"),
    };
    for (cron, why) in [
        ("0 0 0 30 2 *", "periodicschedules: `0 0 0 30 2 *` never comes: there is no such day"),
        ("0 0 0 * * 7", "periodicschedules: day of week: `7` is out of range: use 0 to 6"),
    ] {
        assert_eq!(refused(wish(&["@daily", cron])), why);
    }
    let zone = |time_zone: &str| SchedulesWish { time_zone: time_zone.into(), ..wish(&["@daily"]) };
    let why = "time_zone: `Mars` is no time zone: write a name like Europe/Berlin, or UTC";
    assert_eq!(refused(zone("Mars")), why);
    let many: Vec<_> = (1..=33).map(|n| format!("@every {n}s")).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    assert_eq!(refused(wish(&many)), "periodicschedules: are 33, more than 32");

    let schedules = zone("Europe/Berlin").checked(at(0)).unwrap();
    assert_eq!(schedules.zone, Zone(Berlin));
    let midnight = Timestamp(TEN + 13 * 3_600_000);
    assert_eq!(schedules.times(at(0), 1), [midnight]);
    let (pipeline, by) = (PipelineId(1), "me".to_owned());
    let set = Event::from(Plan::SchedulesSet { pipeline, schedules, by, at: at(0) });
    check(&built_once(), ask(zone("Europe/Berlin")), Ok(vec![set.clone()]));
    let mut given = built_with(set.into());
    check(&given, ask(zone("Europe/Berlin")), Ok(vec![]));
    let none = decide(&State::replay(&given), ask(SchedulesWish::default())).unwrap();
    given.extend(none.into_iter().map(Fact::from));
    assert_eq!(State::replay(&given).next_tick(at(0)), None);
}
