//! Examples and properties of the registry's decisions.

use std::collections::BTreeMap;

use proptest::prelude::*;
use uuid::Uuid;

use super::*;

mod trust;

const AT: Timestamp = Timestamp(1_000);
const LATER: Timestamp = Timestamp(2_000);

/// Given what happened, when this is asked for, then this follows.
#[track_caller]
fn check(given: &[Event], when: Command, then: Result<Vec<Event>, Rejection>) {
    assert_eq!(decide(&State::replay(given), when), then);
}

fn worker(n: u128) -> WorkerId {
    WorkerId::from_uuid(Uuid::from_u128(n))
}

fn registration(n: u128) -> Registration {
    Registration {
        worker: worker(n),
        name: format!("w{n}"),
        tags: vec!["Go".into()],
        primary: false,
        certificate_serial: "5a".into(),
        certificate_expires_at: Timestamp(9_000),
    }
}

fn registered(n: u128) -> Event {
    Event::WorkerRegistered { registration: registration(n), at: AT }
}

fn lost(n: u128) -> Event {
    Event::WorkerLost { worker: worker(n), last_contact_at: AT, at: AT }
}

fn deregistered(n: u128) -> Event {
    Event::WorkerDeregistered { worker: worker(n), note: String::new(), at: AT }
}

fn suspended(n: u128) -> Event {
    Event::WorkerSuspended { worker: worker(n), note: "why".into(), at: AT }
}

fn attach(n: u128, description: Description) -> Command {
    Command::AttachWorker { worker: worker(n), description, at: LATER }
}

fn described(slots: u32, tags: &[&str]) -> Description {
    let tags = tags.iter().map(ToString::to_string).collect();
    Description { slots, tags, ..Description::default() }
}

fn lose(n: u128) -> Command {
    Command::LoseWorker { worker: worker(n), last_contact_at: AT, at: LATER }
}

fn secret() -> Event {
    Event::RegistrationSecretReset { sealed: vec![1], at: AT }
}

#[test]
fn a_registration_needs_the_newest_secret() {
    let register =
        |secret| Command::RegisterWorker { registration: registration(1), secret, at: AT };
    check(&[secret()], register(Generation(1)), Ok(vec![registered(1)]));
    check(&[secret(), secret()], register(Generation(1)), Err(Rejection::WrongSecret));
    check(&[secret(), secret()], register(Generation(2)), Ok(vec![registered(1)]));
}

#[test]
fn an_id_is_given_once() {
    check(
        &[secret(), registered(1)],
        Command::RegisterWorker { registration: registration(1), secret: Generation(1), at: LATER },
        Err(Rejection::WorkerExists(worker(1))),
    );
}

#[test]
fn the_first_secret_is_made_once_but_a_reset_always_resets() {
    let create = Command::CreateRegistrationSecret { sealed: vec![1], at: AT };
    check(&[], create.clone(), Ok(vec![secret()]));
    check(&[secret()], create, Ok(vec![]));
    let reset = Command::ResetRegistrationSecret { sealed: vec![1], at: AT };
    check(&[secret()], reset, Ok(vec![secret()]));
}

#[test]
fn what_is_known_is_not_stored_again() {
    let said = Description { os: "linux".into(), ..described(4, &["Go", "gpu"]) };
    let reported =
        Event::WorkerReported { worker: worker(1), description: said.clone(), at: LATER };
    check(&[registered(1)], attach(1, said.clone()), Ok(vec![reported.clone()]));
    let given = [registered(1), reported];
    check(&given, attach(1, said), Ok(vec![]));
    check(&given, attach(1, described(0, &["GPU", "go"])), Ok(vec![]));
    let fewer = Description { os: "linux".into(), ..described(4, &["Go"]) };
    let reported = Event::WorkerReported { worker: worker(1), description: fewer, at: LATER };
    check(&given, attach(1, described(0, &["Go"])), Ok(vec![reported]));
}

#[test]
fn a_lost_worker_returns_when_it_attaches() {
    check(
        &[registered(1), lost(1)],
        attach(1, described(0, &["Go"])),
        Ok(vec![Event::WorkerReturned { worker: worker(1), at: LATER }]),
    );
    let returned = Event::WorkerReturned { worker: worker(1), at: AT };
    check(&[registered(1), lost(1), returned], attach(1, described(0, &["Go"])), Ok(vec![]));
}

#[test]
fn a_worker_is_lost_once() {
    let then = Event::WorkerLost { worker: worker(1), last_contact_at: AT, at: LATER };
    check(&[registered(1)], lose(1), Ok(vec![then]));
    check(&[registered(1), lost(1)], lose(1), Ok(vec![]));
    check(&[registered(1), deregistered(1)], lose(1), Ok(vec![]));
    check(&[], lose(1), Ok(vec![]));
}

#[test]
fn a_suspended_worker_may_come_and_go_and_is_still_suspended() {
    let returned = Event::WorkerReturned { worker: worker(1), at: AT };
    let state = State::replay(&[registered(1), suspended(1), lost(1), returned]);
    assert_eq!(state.worker(worker(1)).unwrap().suspended.as_deref(), Some("why"));
}

#[test]
fn suspending_and_resuming_twice_is_once() {
    let suspend = Command::SuspendWorker { worker: worker(1), note: "why".into(), at: AT };
    let resume = Command::ResumeWorker { worker: worker(1), at: AT };
    let resumed = Event::WorkerResumed { worker: worker(1), at: AT };
    check(&[registered(1)], suspend.clone(), Ok(vec![suspended(1)]));
    check(&[registered(1), suspended(1)], suspend, Ok(vec![]));
    check(&[registered(1), suspended(1)], resume.clone(), Ok(vec![resumed]));
    check(&[registered(1)], resume, Ok(vec![]));
}

#[test]
fn a_deregistered_worker_is_as_good_as_unknown() {
    let unknown = || Err(Rejection::UnknownWorker(worker(1)));
    for given in [vec![], vec![registered(1), deregistered(1)]] {
        check(&given, attach(1, described(1, &[])), unknown());
        check(&given, Command::ResumeWorker { worker: worker(1), at: AT }, unknown());
        let suspend = Command::SuspendWorker { worker: worker(1), note: String::new(), at: AT };
        check(&given, suspend, unknown());
    }
}

#[test]
fn deregistering_is_harmless_when_repeated_but_not_for_strangers() {
    let deregister = Command::DeregisterWorker { worker: worker(1), note: String::new(), at: AT };
    check(&[registered(1), lost(1)], deregister.clone(), Ok(vec![deregistered(1)]));
    check(&[registered(1), deregistered(1)], deregister.clone(), Ok(vec![]));
    check(&[], deregister, Err(Rejection::UnknownWorker(worker(1))));
}

proptest! {
    /// Every history keeps the invariants, and asking again changes nothing.
    #[test]
    fn invariants_hold_after_any_commands(commands in prop::collection::vec(any_command(), 0..150)) {
        let mut log = vec![];
        let mut state = State::default();
        for command in commands {
            let before = state.clone();
            let events = decide(&state, command.clone()).unwrap_or_default();
            for event in events {
                state.evolve(&event);
                log.push(event);
            }
            for (id, worker) in before.workers.iter().filter(|(_, worker)| worker.deregistered) {
                prop_assert_eq!(&state.workers[id], worker);
            }
            if !matches!(command, Command::ResetRegistrationSecret { .. }) {
                prop_assert_eq!(decide(&state, command).unwrap_or_default(), vec![]);
            }
        }
        assert_presence_alternates(&log);
        prop_assert_eq!(State::replay(&log), state);
    }
}

/// Lost, returned, lost, …
fn assert_presence_alternates(log: &[Event]) {
    let mut lost = BTreeMap::new();
    for event in log {
        match event {
            Event::WorkerLost { worker, .. } => assert_ne!(lost.insert(*worker, true), Some(true)),
            Event::WorkerReturned { worker, .. } => {
                assert_eq!(lost.insert(*worker, false), Some(true));
            }
            _ => {}
        }
    }
}

fn any_command() -> impl Strategy<Value = Command> {
    let n = || 0..4_u128;
    let at = || (0..100_u64).prop_map(Timestamp);
    let note = || prop_oneof![Just(String::new()), Just("why".to_string())];
    let tags = prop::collection::vec(prop_oneof![Just("go"), Just("GO"), Just("gpu")], 0..3);
    prop_oneof![
        (n(), 0..3_u64, at()).prop_map(|(n, secret, at)| Command::RegisterWorker {
            registration: registration(n),
            secret: Generation(secret),
            at,
        }),
        (n(), 0..3_u32, tags, at()).prop_map(|(n, slots, tags, at)| Command::AttachWorker {
            worker: worker(n),
            description: described(slots, &tags),
            at,
        }),
        (n(), at()).prop_map(|(n, at)| Command::LoseWorker {
            worker: worker(n),
            last_contact_at: at,
            at,
        }),
        (n(), note(), at()).prop_map(|(n, note, at)| Command::SuspendWorker {
            worker: worker(n),
            note,
            at
        }),
        (n(), at()).prop_map(|(n, at)| Command::ResumeWorker { worker: worker(n), at }),
        (n(), note(), at()).prop_map(|(n, note, at)| Command::DeregisterWorker {
            worker: worker(n),
            note,
            at
        }),
        at().prop_map(|at| Command::CreateRegistrationSecret { sealed: vec![1], at }),
        at().prop_map(|at| Command::ResetRegistrationSecret { sealed: vec![2], at }),
    ]
}
