//! What was written once is read for ever.

use schema::golden::Golden;

use super::*;

/// What each line of `golden.txt` stands for.
fn events() -> Vec<Event> {
    let (username, at) = (|| "ann".to_string(), Timestamp(300));
    let password_hash = || PasswordHash("$h".into());
    let created = |roles: &[&str]| Event::UserCreated {
        username: username(),
        display_name: "Ann".into(),
        password_hash: password_hash(),
        roles: roles.iter().map(ToString::to_string).collect(),
        at,
    };
    vec![
        // The first version knew no roles.
        created(&["admin"]),
        Event::PasswordChanged { username: username(), password_hash: password_hash(), at },
        Event::SecretPut { key: "k".into(), sealed: vec![1, 2, 255], at },
        Event::SecretRemoved { key: "k".into(), at },
        created(&["readonly", "PipelineStart"]),
        created(&[]),
        Event::UserRolesSet { username: username(), roles: vec!["operator".into()], at },
        Event::UserRemoved { username: username(), at },
        Event::UserLoggedIn { username: username(), at },
    ]
}

#[test]
fn events_are_stored_as_they_always_were() {
    let bytes = include_str!("golden.txt");
    Golden { bytes, events: events(), stream, encode, decode }.check("gaia.access.events.v1");
}
