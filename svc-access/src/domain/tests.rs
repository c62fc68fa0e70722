//! Examples and properties of what is decided about users and secrets.

use proptest::prelude::*;

use super::*;

const AT: Timestamp = Timestamp(1_000);

/// Given what happened, when this is asked for, then this follows.
#[track_caller]
fn check(given: &[Event], when: Command, then: Result<Vec<Event>, Rejection>) {
    assert_eq!(decide(&State::replay(given), when), then);
}

fn hash(n: u8) -> PasswordHash {
    PasswordHash(format!("$argon2id${n}"))
}

fn created() -> Event {
    let (username, display_name) = ("admin".into(), "Administrator".into());
    Event::UserCreated { username, display_name, password_hash: hash(1), at: AT }
}

fn changed(n: u8) -> Event {
    Event::PasswordChanged { username: "admin".into(), password_hash: hash(n), at: AT }
}

fn change(proved: u64, n: u8) -> Command {
    let (username, proved) = ("admin".into(), Generation(proved));
    Command::ChangePassword { username, proved, password_hash: hash(n), at: AT }
}

fn put(key: &str, n: u8) -> Command {
    Command::PutSecret { key: key.into(), sealed: vec![n], at: AT }
}

fn was_put(key: &str, n: u8) -> Event {
    Event::SecretPut { key: key.into(), sealed: vec![n], at: AT }
}

#[test]
fn a_user_is_created_once() {
    let create = |n| Command::CreateUser {
        username: "admin".into(),
        display_name: "Administrator".into(),
        password_hash: hash(n),
        at: AT,
    };
    check(&[], create(1), Ok(vec![created()]));
    check(&[created()], create(2), Ok(vec![]));
}

#[test]
fn only_who_knows_the_present_password_changes_it() {
    check(&[], change(1, 2), Err(Rejection::WrongPassword));
    check(&[created()], change(0, 2), Err(Rejection::WrongPassword));
    check(&[created()], change(1, 2), Ok(vec![changed(2)]));
    check(&[created(), changed(2)], change(1, 3), Err(Rejection::WrongPassword));
    check(&[created(), changed(2)], change(2, 3), Ok(vec![changed(3)]));
    check(&[created(), changed(2)], change(1, 2), Ok(vec![]));
}

#[test]
fn a_secret_is_replaced_and_removed() {
    check(&[], put("a", 1), Ok(vec![was_put("a", 1)]));
    check(&[was_put("a", 1)], put("a", 2), Ok(vec![was_put("a", 2)]));
    let remove = Command::RemoveSecret { key: "a".into(), at: AT };
    let removed = Event::SecretRemoved { key: "a".into(), at: AT };
    check(&[was_put("a", 1)], remove.clone(), Ok(vec![removed.clone()]));
    check(&[was_put("a", 1), removed], remove, Ok(vec![]));
}

#[test]
fn debug_does_not_show_a_hash() {
    assert!(!format!("{:?}", State::replay(&[created()])).contains("argon2"));
}

proptest! {
    /// Replaying what was decided gives the same state, and asking again changes nothing.
    #[test]
    fn a_retry_changes_nothing(commands in prop::collection::vec(any_command(), 0..100)) {
        let mut log = vec![];
        let mut state = State::default();
        for command in commands {
            let before = state.clone();
            for event in decide(&state, command.clone()).unwrap_or_default() {
                state.evolve(&event);
                log.push(event);
            }
            prop_assert_eq!(decide(&state, command).unwrap_or_default(), vec![]);
            for (name, user) in before.users {
                prop_assert!(state.users[&name].generation >= user.generation);
            }
        }
        prop_assert_eq!(State::replay(&log), state);
    }
}

fn any_command() -> impl Strategy<Value = Command> {
    let key = || prop_oneof![Just("a".to_string()), Just("b".to_string())];
    let at = || (0..100_u64).prop_map(Timestamp);
    prop_oneof![
        (key(), 0..9_u8, at()).prop_map(|(username, n, at)| Command::CreateUser {
            display_name: username.clone(),
            username,
            password_hash: hash(n),
            at,
        }),
        (key(), 0..4_u64, 0..9_u8, at()).prop_map(|(username, proved, n, at)| {
            let (proved, password_hash) = (Generation(proved), hash(n));
            Command::ChangePassword { username, proved, password_hash, at }
        }),
        (key(), any::<u8>(), at()).prop_map(|(key, n, at)| Command::PutSecret {
            key,
            sealed: vec![n],
            at,
        }),
        (key(), at()).prop_map(|(key, at)| Command::RemoveSecret { key, at }),
    ]
}
