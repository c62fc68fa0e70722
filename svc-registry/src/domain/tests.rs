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
    Event::WorkerDeregistered { worker: worker(n), forced: false, note: String::new(), at: AT }
}

fn suspended(n: u128) -> Event {
    suspended_until(n, None)
}

fn suspended_until(n: u128, until: Option<Timestamp>) -> Event {
    Event::WorkerSuspended { worker: worker(n), until, note: "why".into(), at: AT }
}

fn suspend_until(n: u128, until: Option<Timestamp>) -> Command {
    Command::SuspendWorker { worker: worker(n), until, note: "why".into(), at: AT }
}

fn drain_until(n: u128, deadline: Option<Timestamp>) -> Command {
    Command::DrainWorker { worker: worker(n), deadline, note: "why".into(), at: AT }
}

fn drained_until(n: u128, deadline: Option<Timestamp>) -> Event {
    Event::WorkerDrainStarted { worker: worker(n), deadline, note: "why".into(), at: AT }
}

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(ToString::to_string).collect()
}

fn tag(n: u128, add: &[&str], remove: &[&str]) -> Command {
    let (worker, add, remove) = (worker(n), texts(add), texts(remove));
    Command::TagWorker { worker, add, remove, note: String::new(), at: AT }
}

fn tagged(n: u128, added: &[&str], removed: &[&str]) -> Event {
    let (worker, added, removed) = (worker(n), texts(added), texts(removed));
    Event::WorkerTagsChanged { worker, added, removed, note: String::new(), at: AT }
}

fn of_worker(n: u128) -> Scope {
    Scope::Worker(worker(n))
}

fn of_tag(tag: &str) -> Scope {
    Scope::Tag(tag.into())
}

fn set(scope: Scope, key: &str, value: &str) -> Command {
    let value = Value::Plain(value.into());
    Command::SetVariable { scope, key: key.into(), value, note: String::new(), at: AT }
}

fn variable(scope: Scope, key: &str, value: &str) -> Event {
    let value = Value::Plain(value.into());
    Event::VariableSet { scope, key: key.into(), value, note: String::new(), at: AT }
}

fn resume(n: u128) -> Command {
    Command::ResumeWorker { worker: worker(n), note: String::new(), at: AT }
}

fn resumed(n: u128) -> Event {
    Event::WorkerResumed { worker: worker(n), note: String::new(), at: AT }
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
    let pause = state.worker(worker(1)).unwrap().pause.as_ref().unwrap();
    assert_eq!((pause.kind, pause.note.as_str()), (PauseKind::Suspended, "why"));
}

#[test]
fn suspending_and_resuming_twice_is_once() {
    check(&[registered(1)], suspend_until(1, None), Ok(vec![suspended(1)]));
    check(&[registered(1), suspended(1)], suspend_until(1, None), Ok(vec![]));
    check(&[registered(1), suspended(1)], resume(1), Ok(vec![resumed(1)]));
    check(&[registered(1)], resume(1), Ok(vec![]));
    check(&[registered(1), drained_until(1, None)], resume(1), Ok(vec![resumed(1)]));
}

#[test]
fn the_last_wish_about_a_pause_counts() {
    let (end, later) = (Some(Timestamp(5_000)), Some(Timestamp(6_000)));
    let given = [registered(1), suspended_until(1, end)];
    check(&given, suspend_until(1, later), Ok(vec![suspended_until(1, later)]));
    check(&given, drain_until(1, end), Ok(vec![drained_until(1, end)]));
    let state = State::replay(&[registered(1), suspended_until(1, end), drained_until(1, later)]);
    assert_eq!(state.next_due(), later);
    let state = State::replay(&[registered(1), suspended_until(1, end), resumed(1)]);
    assert_eq!(state.next_due(), None);
    let state = State::replay(&[registered(1), suspended_until(1, end), deregistered(1)]);
    assert_eq!(state.next_due(), None);
}

#[test]
fn an_end_is_neither_past_nor_absurd() {
    for past in [AT, Timestamp(1)] {
        let (suspend, drain) = (suspend_until(1, Some(past)), drain_until(1, Some(past)));
        check(&[registered(1)], suspend, Err(Rejection::EndIsPast(AT.since(past))));
        check(&[registered(1)], drain, Err(Rejection::EndIsPast(AT.since(past))));
    }
    let far = Err(Rejection::EndIsFar { days: 213_503_982_334, most: 366 });
    check(&[registered(1)], drain_until(1, Some(Timestamp(u64::MAX))), far);
}

#[test]
fn a_pause_ends_when_its_time_comes_and_not_before() {
    let end = Timestamp(5_000);
    let given = [
        registered(1),
        registered(2),
        registered(3),
        suspended_until(1, Some(end)),
        drained_until(2, Some(end)),
        suspended(3),
    ];
    check(&given, Command::EndPauses { at: Timestamp(4_999) }, Ok(vec![]));
    let note = "the suspension had an end time, and it came".to_owned();
    let ended = [
        Event::WorkerResumed { worker: worker(1), note, at: end },
        Event::WorkerDrainExpired { worker: worker(2), at: end },
    ];
    check(&given, Command::EndPauses { at: end }, Ok(ended.to_vec()));
    let given = [&given[..], &ended].concat();
    check(&given, Command::EndPauses { at: Timestamp(9_000) }, Ok(vec![]));
    let state = State::replay(&given);
    let pause = state.worker(worker(2)).unwrap().pause.as_ref().unwrap();
    assert!(pause.expired && pause.kind == PauseKind::Draining);
}

#[test]
fn a_name_is_given_to_one_worker() {
    let rename = |n: u128, name: &str| Command::RenameWorker {
        worker: worker(n),
        name: name.into(),
        note: String::new(),
        at: AT,
    };
    let renamed = |n: u128, name: &str| Event::WorkerRenamed {
        worker: worker(n),
        name: name.into(),
        note: String::new(),
        at: AT,
    };
    let given = [registered(1), registered(2), deregistered(2), registered(3)];
    check(&given, rename(1, "w3"), Err(Rejection::NameTaken("w3".into())));
    check(&given, rename(1, "w2"), Ok(vec![renamed(1, "w2")]));
    check(&given, rename(1, "w1"), Ok(vec![]));
}

#[test]
fn nobody_joins_under_the_name_of_another() {
    let named = |n: u128, name: &str| Registration { name: name.into(), ..registration(n) };
    let joins =
        |n: u128, name: &str| Event::WorkerRegistered { registration: named(n, name), at: AT };
    let register = Command::RegisterWorker {
        registration: named(2, "w1"),
        secret: State::replay(&[registered(1)]).secret().1,
        at: AT,
    };
    check(&[registered(1)], register.clone(), Ok(vec![joins(2, "w1-00000002")]));
    check(&[registered(1), deregistered(1)], register, Ok(vec![joins(2, "w1")]));
}

#[test]
fn what_a_worker_says_of_itself_opens_no_secret() {
    let secret = Event::VariableSet {
        scope: of_tag("gpu"),
        key: "KEY".into(),
        value: Value::Sealed(vec![1]),
        note: String::new(),
        at: AT,
    };
    let description = described(1, &["gpu"]);
    let says = Event::WorkerReported { worker: worker(1), description, at: AT };
    let given = [registered(1), secret, variable(of_tag("gpu"), "PLAIN", "x"), says];
    let keys = |given: &[Event]| {
        State::replay(given)
            .environment(worker(1))
            .into_keys()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(keys(&given), ["PLAIN"]);
    assert_eq!(keys(&[&given[..], &[tagged(1, &["GPU"], &[])]].concat()), ["KEY", "PLAIN"]);
    assert!(keys(&[&given[..], &[tagged(1, &["-gpu"], &[])]].concat()).is_empty());
}

#[test]
fn a_tag_takes_the_place_of_its_opposite() {
    check(
        &[registered(1)],
        tag(1, &["gpu", "-go"], &[]),
        Ok(vec![tagged(1, &["gpu", "-go"], &[])]),
    );
    let given = [registered(1), tagged(1, &["GPU", "-go"], &[])];
    check(&given, tag(1, &["gpu"], &[]), Ok(vec![]));
    check(&given, tag(1, &["-gpu"], &[]), Ok(vec![tagged(1, &["-gpu"], &["GPU"])]));
    check(&given, tag(1, &["go"], &["gpu"]), Ok(vec![tagged(1, &["go"], &["GPU", "-go"])]));
    check(&given, tag(1, &[], &["tpu"]), Ok(vec![]));
    check(&given, tag(1, &["a", "-A"], &[]), Err(Rejection::Contradiction("a".into())));
    check(&given, tag(1, &["a"], &["A"]), Err(Rejection::Contradiction("a".into())));
    let many: Vec<_> = (0..63).map(|n| format!("t{n}")).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    check(&given, tag(1, &many, &[]), Err(Rejection::TooManyTags(65)));
    assert!(decide(&State::replay(&given), tag(1, &many, &["gpu"])).is_ok());
}

#[test]
fn what_a_worker_says_of_itself_can_be_denied_but_not_removed() {
    let description = Description { detected: texts(&["Go"]), ..described(1, &["go", "fast"]) };
    let reported = Event::WorkerReported { worker: worker(1), description, at: AT };
    let given = [registered(1), reported];
    let refused = |tag: &str, by_whom, opposite: &str| {
        Err(Rejection::OwnTag { tag: tag.into(), by_whom, opposite: opposite.into() })
    };
    let (detected, configured) =
        ("was detected by the worker itself", "is in the settings of the worker's agent");
    check(&given, tag(1, &[], &["GO"]), refused("go", detected, "-go"));
    check(&given, tag(1, &[], &["fast"]), refused("fast", configured, "-fast"));
    let state = State::replay(&[&given[..], &[tagged(1, &["-GO", "Fast"], &[])]].concat());
    let known = state.worker(worker(1)).unwrap();
    assert!(!known.offers("go") && known.offers("FAST") && !known.offers("gpu"));
    let labels = [("go", Source::Detected), ("-GO", Source::Operator), ("Fast", Source::Operator)];
    assert_eq!(known.labels(), labels);
}

#[test]
fn the_nearest_variable_wins() {
    let given = [
        registered(1),
        registered(2),
        variable(of_tag("go"), "A", "of go"),
        variable(of_tag("cpp"), "A", "of cpp"),
        variable(of_tag("go"), "B", "of go"),
        variable(of_tag("java"), "C", "of java"),
        variable(of_worker(1), "B", "of w1"),
        tagged(1, &["cpp"], &[]),
        tagged(2, &["-go"], &[]),
    ];
    let state = State::replay(&given);
    let environment = |n: u128| {
        let found = state.environment(worker(n)).into_iter();
        let plain = found.map(|(key, (_, variable))| match &variable.value {
            Value::Plain(text) => format!("{key}={text}"),
            Value::Sealed(_) => panic!("it is not secret"),
        });
        plain.collect::<Vec<_>>()
    };
    assert_eq!(environment(1), ["A=of cpp", "B=of w1"]);
    assert_eq!(environment(2), [""; 0]);
}

#[test]
fn variables_are_set_once_and_go_with_their_worker() {
    let scope = || of_worker(1);
    check(&[registered(1)], set(scope(), "A", "x"), Ok(vec![variable(scope(), "A", "x")]));
    let given = [registered(1), variable(scope(), "A", "x")];
    check(&given, set(scope(), "A", "x"), Ok(vec![]));
    check(&given, set(of_worker(2), "A", "x"), Err(Rejection::UnknownWorker(worker(2))));
    let remove = |key: &str| Command::RemoveVariable {
        scope: scope(),
        key: key.into(),
        note: String::new(),
        at: AT,
    };
    let removed =
        Event::VariableRemoved { scope: scope(), key: "A".into(), note: String::new(), at: AT };
    check(&given, remove("A"), Ok(vec![removed.clone()]));
    check(&given, remove("B"), Ok(vec![]));
    for end in [removed, deregistered(1)] {
        let state = State::replay(&[&given[..], &[end]].concat());
        assert_eq!(state.variables().count(), 0);
    }
    let many = (0..64).map(|n| variable(of_tag("go"), &format!("V{n}"), ""));
    let given: Vec<_> = many.collect();
    check(&given, set(of_tag("go"), "A", ""), Err(Rejection::TooManyVariables(64)));
    assert!(decide(&State::replay(&given), set(of_tag("go"), "V1", "y")).is_ok());
}

#[test]
fn no_worker_is_given_more_variables_than_an_order_has_room_for() {
    let third = "x".repeat(MOST_BYTES / 3);
    let given = [
        registered(1),
        registered(2),
        tagged(1, &["cpp", "go"], &[]),
        tagged(2, &["cpp"], &[]),
        variable(of_tag("go"), "A", &third),
        variable(of_worker(1), "B", &third),
        variable(of_tag("java"), "C", &third),
    ];
    // Without what is of other tags, and without what is replaced.
    check(&given, set(of_tag("go"), "A", "y"), Ok(vec![variable(of_tag("go"), "A", "y")]));
    check(&given, set(of_worker(2), "D", &third), Ok(vec![variable(of_worker(2), "D", &third)]));
    let refused = decide(&State::replay(&given), set(of_tag("cpp"), "D", &third)).unwrap_err();
    let bytes = 3 * third.len() + 3;
    assert_eq!(refused, Rejection::EnvironmentTooLarge { worker: worker(1), bytes });
    assert!(refused.to_string().contains("remove some"), "{refused}");
    // What became too much by a tag that was given since may still be made less.
    let more = [variable(of_tag("cpp"), "D", &third), variable(of_tag("cpp"), "E", &third)];
    let given = [&given[..], &more].concat();
    let less = third[1..].to_owned();
    check(&given, set(of_tag("cpp"), "E", &less), Ok(vec![variable(of_tag("cpp"), "E", &less)]));
}

#[test]
fn a_deregistered_worker_is_as_good_as_unknown() {
    let unknown = || Err(Rejection::UnknownWorker(worker(1)));
    for given in [vec![], vec![registered(1), deregistered(1)]] {
        check(&given, attach(1, described(1, &[])), unknown());
        check(&given, resume(1), unknown());
        check(&given, suspend_until(1, None), unknown());
        check(&given, drain_until(1, None), unknown());
        check(&given, tag(1, &["a"], &[]), unknown());
        check(&given, set(of_worker(1), "A", "x"), unknown());
    }
}

#[test]
fn deregistering_is_harmless_when_repeated_but_not_for_strangers() {
    let deregister =
        Command::DeregisterWorker { worker: worker(1), forced: false, note: String::new(), at: AT };
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
            for (id, worker) in before.workers.iter() {
                prop_assert!(worker.deregistered.is_none() || state.worker(id) == Some(worker));
            }
            let due = state.workers.iter().filter_map(|(id, worker)| Some((worker.due()?, id)));
            prop_assert_eq!(&due.collect::<BTreeSet<_>>(), &state.due);
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
        any_action(),
        at().prop_map(|at| Command::CreateRegistrationSecret { sealed: vec![1], at }),
        at().prop_map(|at| Command::ResetRegistrationSecret { sealed: vec![2], at }),
    ]
}

fn any_action() -> impl Strategy<Value = Command> {
    let n = || (0..4_u128).prop_map(worker);
    let at = || (0..100_u64).prop_map(Timestamp);
    let end = || prop::option::of((0..120_u64).prop_map(Timestamp));
    let note = || prop_oneof![Just(String::new()), Just("why".to_string())];
    let tag = || prop_oneof![Just("go"), Just("-GO"), Just("gpu"), Just("-gpu")];
    let tags = || prop::collection::vec(tag().prop_map(str::to_owned), 0..3);
    let scope = || prop_oneof![n().prop_map(Scope::Worker), Just(of_tag("go"))];
    let key = || prop_oneof![Just("A".to_owned()), Just("B".to_owned())];
    let name = prop_oneof![Just("w1".to_owned()), Just("other".to_owned())];
    prop_oneof![
        (n(), name, note(), at()).prop_map(|(worker, name, note, at)| Command::RenameWorker {
            worker,
            name,
            note,
            at
        }),
        (n(), tags(), tags(), at()).prop_map(|(worker, add, remove, at)| {
            Command::TagWorker { worker, add, remove, note: String::new(), at }
        }),
        (n(), end(), note(), at()).prop_map(|(worker, until, note, at)| {
            Command::SuspendWorker { worker, until, note, at }
        }),
        (n(), end(), note(), at()).prop_map(|(worker, deadline, note, at)| {
            Command::DrainWorker { worker, deadline, note, at }
        }),
        (n(), note(), at()).prop_map(|(worker, note, at)| Command::ResumeWorker {
            worker,
            note,
            at
        }),
        at().prop_map(|at| Command::EndPauses { at }),
        (n(), any::<bool>(), note(), at()).prop_map(|(worker, forced, note, at)| {
            Command::DeregisterWorker { worker, forced, note, at }
        }),
        (scope(), key(), 0..2_u8, at()).prop_map(|(scope, key, value, at)| {
            let value = Value::Plain(value.to_string());
            Command::SetVariable { scope, key, value, note: String::new(), at }
        }),
        (scope(), key(), note(), at()).prop_map(|(scope, key, note, at)| {
            Command::RemoveVariable { scope, key, note, at }
        }),
    ]
}
