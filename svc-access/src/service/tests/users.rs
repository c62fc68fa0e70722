//! Users, as clients of the service see them.

use super::*;

const PASSWORD: &str = "battery staple";

fn by(name: &str) -> Caller {
    Caller { name: format!("user:{name}"), ..Default::default() }
}

async fn add(
    client: &mut Client,
    caller: &str,
    username: &str,
    roles: &[&str],
) -> Result<wire::User, tonic::Status> {
    let request = wire::CreateUserRequest {
        username: username.into(),
        password: PASSWORD.into(),
        roles: roles.iter().map(ToString::to_string).collect(),
        caller: Some(by(caller)),
        ..Default::default()
    };
    client.create_user(request).await.map(tonic::Response::into_inner)
}

async fn set(
    client: &mut Client,
    caller: &str,
    username: &str,
    roles: &[&str],
) -> Result<wire::User, tonic::Status> {
    let roles = roles.iter().map(ToString::to_string).collect();
    let request =
        wire::SetRolesRequest { username: username.into(), roles, caller: Some(by(caller)) };
    client.set_roles(request).await.map(tonic::Response::into_inner)
}

async fn reset(client: &mut Client, caller: &str, username: &str) -> Result<(), tonic::Status> {
    let (username, new_password) = (username.into(), "another password".into());
    let request = wire::ResetPasswordRequest { username, new_password, caller: Some(by(caller)) };
    client.reset_password(request).await.map(drop)
}

async fn remove(client: &mut Client, caller: &str, username: &str) -> Result<(), tonic::Status> {
    let request = wire::RemoveUserRequest { username: username.into(), caller: Some(by(caller)) };
    client.remove_user(request).await.map(drop)
}

#[tokio::test]
async fn a_user_may_do_what_it_was_given_also_after_a_restart() {
    let machine = Machine::new();
    let mut client = machine.start_with_admin().await;
    let ann = add(&mut client, "admin", "ann", &["readonly", "PipelineStart"]).await.unwrap();
    assert_eq!((ann.display_name.as_str(), ann.roles.len()), ("ann", 2));
    let session = login(&mut client, "ann", PASSWORD).await.unwrap();
    assert_eq!(session.roles, ["PipelineStart", "readonly"]);
    // A change is felt at once, by the session that is there.
    set(&mut client, "admin", "ann", &["operator"]).await.unwrap();
    let (mut client, _) = machine.start().await;
    assert_eq!(authenticate(&mut client, &session.token).await.unwrap().roles, ["operator"]);
    let listed = client.list_users(wire::ListUsersRequest {}).await.unwrap().into_inner();
    let names: Vec<_> = listed.users.iter().map(|user| user.username.as_str()).collect();
    assert_eq!(names, ["admin", "ann"]);

    reset(&mut client, "admin", "ann").await.unwrap();
    authenticate(&mut client, &session.token).await.unwrap_err();
    let session = login(&mut client, "ann", "another password").await.unwrap();
    remove(&mut client, "admin", "ann").await.unwrap();
    authenticate(&mut client, &session.token).await.unwrap_err();
    login(&mut client, "ann", "another password").await.unwrap_err();
    // Nobody inherits a session.
    add(&mut client, "admin", "ann", &[]).await.unwrap();
    authenticate(&mut client, &session.token).await.unwrap_err();
    for stored in machine.stored().await {
        assert!(!contains(&stored.event.data, b"staple"));
    }
}

#[tokio::test]
async fn nobody_gives_or_takes_what_they_have_not() {
    let machine = Machine::new();
    let mut client = machine.start_with_admin().await;
    let rights = ["UserCreate", "UserDelete", "UserPermissionUpdate", "UserChangePassword"];
    add(&mut client, "admin", "manager", &rights).await.unwrap();
    add(&mut client, "admin", "ann", &["readonly"]).await.unwrap();
    add(&mut client, "manager", "bob", &["UserCreate"]).await.unwrap();
    let before = machine.stored().await.len();
    let refusals = [
        add(&mut client, "manager", "eve", &["admin"]).await.unwrap_err(),
        add(&mut client, "manager", "eve", &["SecretDelete"]).await.unwrap_err(),
        set(&mut client, "manager", "manager", &["admin"]).await.unwrap_err(),
        set(&mut client, "manager", "ann", &[]).await.unwrap_err(),
        set(&mut client, "manager", "admin", &[]).await.unwrap_err(),
        reset(&mut client, "manager", "admin").await.unwrap_err(),
        remove(&mut client, "manager", "ann").await.unwrap_err(),
        add(&mut client, "nobody", "eve", &[]).await.unwrap_err(),
    ];
    for refusal in refusals {
        assert_eq!(refusal.code(), Code::PermissionDenied, "{refusal}");
    }
    assert_eq!(machine.stored().await.len(), before);
    remove(&mut client, "manager", "bob").await.unwrap();
}

#[tokio::test]
async fn the_last_administrator_stays_also_when_two_go_at_once() {
    let machine = Machine::new();
    let mut client = machine.start_with_admin().await;
    let refused = remove(&mut client, "admin", "admin").await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    add(&mut client, "admin", "ann", &["admin"]).await.unwrap();
    let mut other = client.clone();
    let both = futures::future::join(
        remove(&mut client, "admin", "ann"),
        remove(&mut other, "ann", "admin"),
    );
    let (one, two) = both.await;
    assert!(one.is_ok() != two.is_ok(), "{one:?} {two:?}");
    let listed = client.list_users(wire::ListUsersRequest {}).await.unwrap().into_inner();
    assert_eq!(listed.users.len(), 1);
}

#[tokio::test]
async fn a_bad_user_is_refused_by_field() {
    let machine = Machine::new();
    let mut client = machine.start_with_admin().await;
    let before = machine.stored().await.len();
    let long = "x".repeat(1_000_000);
    for (username, display_name, password, role, field) in [
        ("a/b", "", PASSWORD, "readonly", "`username`"),
        ("", "", PASSWORD, "readonly", "`username`"),
        (&*"x".repeat(65), "", PASSWORD, "readonly", "`username`"),
        ("ann", "A\nnn", PASSWORD, "readonly", "`display_name`"),
        ("ann", "", "short", "readonly", "`password`"),
        ("ann", "", PASSWORD, "root", "`roles`"),
    ] {
        let request = wire::CreateUserRequest {
            username: username.into(),
            display_name: display_name.into(),
            password: password.into(),
            roles: vec![role.into()],
            caller: Some(by("admin")),
        };
        let refused = client.create_user(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().starts_with(field), "{refused}");
    }
    add(&mut client, "admin", &long, &[]).await.unwrap_err();
    for unknown in ["ann", "a/b"] {
        reset(&mut client, "admin", unknown).await.unwrap_err();
        remove(&mut client, "admin", unknown).await.unwrap_err();
    }
    assert_eq!(machine.stored().await.len(), before);
    let exists = add(&mut client, "admin", "Admin", &[]).await.unwrap_err();
    assert_eq!(exists.code(), Code::AlreadyExists, "{exists}");
}

#[tokio::test]
async fn who_guesses_for_many_users_has_to_wait_where_they_are() {
    let machine = Machine::new();
    let mut client = machine.start_with_admin().await;
    for n in 0..20 {
        let name = format!("user{n}");
        let refused = login_from(&mut client, &name, "guess", "192.0.2.7:1").await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated);
    }
    let refused = login_from(&mut client, "admin", "correct horse", "192.0.2.7:2").await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.metadata().get("retry-after").is_some());
    login_from(&mut client, "admin", "correct horse", "192.0.2.8:1").await.unwrap();
}
