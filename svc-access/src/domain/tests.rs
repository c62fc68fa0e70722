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

fn roles(names: &[&str]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

fn user(name: &str, n: u8, names: &[&str]) -> Event {
    let (username, display_name) = (name.into(), name.to_uppercase());
    let (password_hash, roles) = (hash(n), roles(names));
    Event::UserCreated { username, display_name, password_hash, roles, at: AT }
}

fn create(name: &str, n: u8, names: &[&str]) -> Command {
    let (username, display_name) = (name.into(), name.to_uppercase());
    let (password_hash, roles) = (hash(n), roles(names));
    Command::CreateUser { username, display_name, password_hash, roles, at: AT }
}

fn created() -> Event {
    user("admin", 1, &["admin"])
}

fn set_roles(name: &str, seen: &[&str], names: &[&str]) -> Command {
    let (username, seen, roles) = (name.into(), roles(seen), roles(names));
    Command::SetRoles { username, seen, roles, at: AT }
}

fn roles_set(name: &str, names: &[&str]) -> Event {
    Event::UserRolesSet { username: name.into(), roles: roles(names), at: AT }
}

fn remove(name: &str, seen: &[&str]) -> Command {
    Command::RemoveUser { username: name.into(), seen: roles(seen), at: AT }
}

fn removed(name: &str) -> Event {
    Event::UserRemoved { username: name.into(), at: AT }
}

#[test]
fn a_login_is_kept_of_who_proved_the_present_password() {
    let log_in = |proved: u64| Command::LogIn {
        username: "admin".into(),
        proved: Generation(proved),
        at: AT,
    };
    let logged_in = Event::UserLoggedIn { username: "admin".into(), at: AT };
    check(&[created()], log_in(1), Ok(vec![logged_in.clone()]));
    check(&[created(), changed(2)], log_in(1), Err(Rejection::WrongPassword));
    check(&[], log_in(1), Err(Rejection::WrongPassword));
    let last = |given: &[Event]| State::replay(given).user("admin").unwrap().last_login_at;
    assert_eq!(last(&[created()]), None);
    assert_eq!(last(&[created(), logged_in]), Some(AT));
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
    check(&[], create("admin", 1, &["admin"]), Ok(vec![created()]));
    check(&[created()], create("admin", 1, &["admin"]), Ok(vec![]));
    for name in ["admin", "ADMIN"] {
        let exists = Rejection::UserExists("admin".into());
        check(&[created()], create(name, 2, &[]), Err(exists));
    }
}

#[test]
fn roles_are_changed_by_who_knows_the_present_ones() {
    let given = [created(), user("ann", 2, &["readonly"])];
    let set = |seen: &[&str], names: &[&str]| set_roles("ann", seen, names);
    check(&given, set(&["readonly"], &["operator"]), Ok(vec![roles_set("ann", &["operator"])]));
    check(&given, set(&["readonly"], &["readonly"]), Ok(vec![]));
    check(&given, set(&[], &["operator"]), Err(Rejection::RolesChanged("ann".into())));
    check(&given, set_roles("bob", &[], &["admin"]), Err(Rejection::UnknownUser("bob".into())));
}

#[test]
fn the_last_administrator_stays() {
    let last = || Err(Rejection::LastAdministrator("admin".into()));
    let one = [created(), user("ann", 2, &["operator"])];
    check(&one, remove("admin", &["admin"]), last());
    check(&one, set_roles("admin", &["admin"], &["operator"]), last());
    let more = roles_set("admin", &["admin", "operator"]);
    check(&one, set_roles("admin", &["admin"], &["admin", "operator"]), Ok(vec![more]));
    check(&one, remove("ann", &["operator"]), Ok(vec![removed("ann")]));
    let two = [&one[..], &[roles_set("ann", &["admin"])]].concat();
    check(&two, remove("admin", &["admin"]), Ok(vec![removed("admin")]));
    let again = [&two[..], &[removed("admin")]].concat();
    check(&again, remove("ann", &["admin"]), Err(Rejection::LastAdministrator("ann".into())));
}

#[test]
fn a_password_is_set_anew_by_who_knows_what_the_user_may_do() {
    let given = [created(), user("ann", 2, &["readonly"])];
    let reset = |seen: &[&str]| Command::ResetPassword {
        username: "ann".into(),
        seen: roles(seen),
        password_hash: hash(3),
        at: AT,
    };
    let changed = Event::PasswordChanged { username: "ann".into(), password_hash: hash(3), at: AT };
    check(&given, reset(&["readonly"]), Ok(vec![changed]));
    check(&given, reset(&[]), Err(Rejection::RolesChanged("ann".into())));
}

#[test]
fn who_is_created_again_is_somebody_else() {
    let once = [created(), user("ann", 2, &[])];
    let again = [&once[..], &[removed("ann"), user("ann", 3, &[])]].concat();
    let generation = |log: &[Event]| State::replay(log).user("ann").unwrap().generation;
    assert!(generation(&again) > generation(&once));
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
            for (name, user) in &before.users {
                let now = state.users.get(name).map(|user| user.generation);
                let now = now.or_else(|| state.removed.get(name).copied());
                prop_assert!(now >= Some(user.generation));
            }
            let has_administrator =
                |state: &State| state.users.values().any(|user| is_administrator(&user.roles));
            prop_assert!(has_administrator(&state) || !has_administrator(&before));
        }
        prop_assert_eq!(State::replay(&log), state);
    }
}

fn some_roles() -> impl Strategy<Value = Vec<String>> {
    prop_oneof![Just(roles(&["admin"])), Just(roles(&["readonly"]))]
}

fn any_command() -> impl Strategy<Value = Command> {
    let key = || prop_oneof![Just("a".to_string()), Just("b".to_string())];
    let at = || (0..100_u64).prop_map(Timestamp);
    prop_oneof![
        (key(), 0..9_u8, some_roles(), at()).prop_map(|(username, n, roles, at)| {
            let (display_name, password_hash) = (username.clone(), hash(n));
            Command::CreateUser { username, display_name, password_hash, roles, at }
        }),
        (key(), some_roles(), some_roles(), at()).prop_map(|(username, seen, roles, at)| {
            Command::SetRoles { username, seen, roles, at }
        }),
        (key(), some_roles(), 0..9_u8, at()).prop_map(|(username, seen, n, at)| {
            Command::ResetPassword { username, seen, password_hash: hash(n), at }
        }),
        (key(), some_roles(), at()).prop_map(|(username, seen, at)| Command::RemoveUser {
            username,
            seen,
            at
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
