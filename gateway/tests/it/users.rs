//! Who may do what, as users feel it.

use http::Method;
use serde_json::{Value, json};

use crate::{
    client::{Answer, Client},
    house::{House, PASSWORD},
};

const OTHER: &str = "battery staple";

impl House {
    /// A user who may do this, logged in.
    async fn user(&self, name: &str, roles: Value) -> Client {
        let body = json!({ "username": name, "password": OTHER, "roles": roles });
        self.admin.post("user", body).await.expect(201);
        self.anonymous().login(name, OTHER).await
    }
}

async fn put(client: &Client, path: &str, body: Value) -> Answer {
    client.json(Method::PUT, path, body).await
}

#[tokio::test]
async fn users_are_managed_in_gaias_forms() {
    let house = House::start().await;
    let ann = json!({ "username": "ann", "display_name": "Ann", "password": OTHER });
    let added = house.admin.post("user", ann.clone()).await.expect(201);
    assert_eq!(added.text(), "User has been added");
    house.admin.post("user", ann).await.expect(409);
    let listed = async || house.admin.get("users").await.expect(200).json();
    let users = listed().await;
    let never = "0001-01-01T00:00:00Z";
    let admin_since = &users[0]["lastlogin"];
    assert_ne!(admin_since, never);
    let expected = json!([
        { "username": "admin", "display_name": "Administrator", "lastlogin": admin_since },
        { "username": "ann", "display_name": "Ann", "lastlogin": never },
    ]);
    assert_eq!(users, expected);
    let login = json!({ "username": "ann", "password": OTHER });
    let user = house.anonymous().post("login", login).await.expect(200).json();
    assert_ne!(user["lastlogin"], never);
    assert_eq!(listed().await[1]["lastlogin"], user["lastlogin"]);
    let path = "user/ann/permissions";
    let permissions = house.admin.get(path).await.expect(200).json();
    let expected = json!({ "username": "ann", "roles": [], "groups": ["readonly"] });
    assert_eq!(permissions, expected);
    let wanted = json!({ "username": "ann", "roles": ["PipelineStart"], "groups": ["readonly"] });
    let set = put(&house.admin, path, wanted.clone()).await.expect(200);
    assert_eq!(set.text(), "Permissions have been updated");
    assert_eq!(house.admin.get(path).await.expect(200).json(), wanted);
    let other = json!({ "username": "bob", "roles": [], "groups": [] });
    put(&house.admin, path, other).await.expect(400);
    put(&house.admin, path, json!({ "roles": ["root"] })).await.expect(400);
    house.admin.get("user/bob/permissions").await.expect(404);
    put(&house.admin, "user/bob/permissions", json!({ "roles": [] })).await.expect(404);

    let ann = house.anonymous().login("ann", OTHER).await;
    let new = json!({ "newpassword": "another password" });
    put(&house.admin, "user/ann/password", new).await.expect(200);
    ann.get("pipeline").await.expect(401);
    let ann = house.anonymous().login("ann", "another password").await;
    ann.get("pipeline").await.expect(200);
    let removed = house.admin.delete("user/ann").await.expect(200);
    assert_eq!(removed.text(), "User has been deleted");
    ann.get("pipeline").await.expect(401);
    house.admin.delete("user/ann").await.expect(404);
    let last = house.admin.delete("user/admin").await.expect(409);
    assert!(last.message().contains("last administrator"), "{}", last.message());
    let permissions = house.admin.get("permission").await.expect(200).json();
    assert_eq!(permissions[0]["roles"][5]["name"], "Start");
    let events = house.admin.get("events?stream=user-ann").await.expect(200).json();
    let types: Vec<_> =
        events.as_array().unwrap().iter().map(|event| event["type"].as_str().unwrap()).collect();
    let expected = [
        "UserCreated",
        "UserLoggedIn",
        "UserRolesSet",
        "UserLoggedIn",
        "PasswordChanged",
        "UserLoggedIn",
        "UserRemoved",
    ];
    assert_eq!(types, expected);
    assert!(!events.to_string().contains("argon2"), "{events}");
}

#[tokio::test]
async fn every_route_refuses_who_has_not_its_role() {
    let house = House::start().await;
    let nobody = house.user("nobody", json!([])).await;
    let reader = house.user("reader", json!(["readonly"])).await;
    let grants = authz::Grants::of_names(["readonly"]);
    for route in authz::Route::ALL {
        let authz::Needs::Role(role) = route.needs() else { continue };
        // With an id that nothing has, so that who is let in does no harm.
        let path = route.path();
        let parts = path.split('/').map(|part| if part.starts_with('{') { "0" } else { part });
        let path = parts.collect::<Vec<_>>().join("/");
        let call = async |client: &Client| client.call(route.method(), &path, &[], "").await;
        let refused = call(&nobody).await.expect(403);
        assert!(refused.message().contains(role.full_name()), "{}", refused.message());
        call(&house.anonymous()).await.expect(401);
        let answer = call(&reader).await;
        assert_eq!(answer.status == 403, !grants.allow(role), "{path} {}", answer.text());
    }
    for path in ["worker/secret", "worker/token"] {
        reader.get(path).await.expect(403);
    }
    reader.call(Method::POST, "/api/v1/worker/secret", &[], "").await.expect(403);
    for client in [&reader, &nobody, &house.admin] {
        client.get("no/such/route").await.expect(404);
    }
}

#[tokio::test]
async fn the_right_to_manage_users_is_not_the_right_to_everything() {
    let house = House::start().await;
    let rights = json!(["UserCreate", "UserDelete", "UserPermissionUpdate", "UserChangePassword"]);
    let manager = house.user("manager", rights).await;
    let admin = json!({ "roles": [], "groups": ["admin"] });
    let refused = put(&manager, "user/manager/permissions", admin).await.expect(403);
    assert!(refused.message().contains("`admin`"), "{}", refused.message());
    let eve = json!({ "username": "eve", "password": OTHER, "groups": ["admin"] });
    manager.post("user", eve).await.expect(403);
    put(&manager, "user/admin/password", json!({ "newpassword": OTHER })).await.expect(403);
    manager.delete("user/admin").await.expect(403);
}

#[tokio::test]
async fn who_guesses_passwords_is_told_when_to_come_again() {
    let house = House::start().await;
    let guess = json!({ "username": "admin", "password": "guess" });
    for _ in 0..5 {
        house.anonymous().post("login", guess.clone()).await.expect(403);
    }
    let right = json!({ "username": "admin", "password": PASSWORD });
    let refused = house.anonymous().post("login", right).await.expect(429);
    assert!(refused.message().starts_with("too many failed logins"), "{}", refused.message());
    assert!(refused.header("retry-after").parse::<u64>().unwrap() >= 1);
    let metrics = house.admin.call(Method::GET, "/metrics", &[], "").await.expect(200).text();
    for reason in ["wrong_password", "too_many_logins"] {
        let line = format!("{{call=\"/api/v1/login\",reason=\"{reason}\"}}");
        assert!(metrics.contains(&line), "{metrics}");
    }
}

#[tokio::test]
async fn what_a_user_follows_ends_when_the_user_may_not_see_it_any_more() {
    let house = House::start().await;
    let mut followed = vec![];
    for name in ["removed", "demoted", "rekeyed", "stays"] {
        let user = house.user(name, json!(["operator", "SystemReadEvents"])).await;
        followed.push((name, user.follow("events?follow=1&type=SecretPut", None).await));
    }
    house.admin.delete("user/removed").await.expect(200);
    put(&house.admin, "user/demoted/permissions", json!({ "roles": ["readonly"] }))
        .await
        .expect(200);
    let new = json!({ "newpassword": "another password" });
    put(&house.admin, "user/rekeyed/password", new).await.expect(200);
    let (_, mut stays) = followed.pop().unwrap();
    for (name, mut events) in followed {
        assert!(events.next().await.is_none(), "{name}");
    }
    let secret = json!({ "key": "KEY", "value": "deep" });
    house.admin.post("secret", secret).await.expect(201);
    assert_eq!(stays.expect("event").await.json()["type"], "SecretPut");
}
