//! What comes in from outside: registrations, logins, and bad requests.

use base64::{Engine, prelude::BASE64_STANDARD};
use http::Method;
use serde_json::{Value, json};

use crate::{
    agent::Agent,
    house::{House, PASSWORD},
};

const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");

#[tokio::test]
async fn workers_join_by_json_or_form() {
    let house = House::start().await;
    let secret = house.secret().await;
    let path = "/api/v1/worker/register";
    let json = json!({ "Secret": secret, "NAME": "by json", "tags": ["golang", "gpu"] });
    let by_json = house.anonymous().post("worker/register", json).await.expect(200).json();
    let form = format!("name=by+form&secret={secret}&tags=golang&tags=linux");
    let by_form =
        house.anonymous().call(Method::POST, path, &[FORM], form).await.expect(200).json();
    for registered in [&by_json, &by_form] {
        for (field, start) in
            [("cert", "CERTIFICATE"), ("key", "PRIVATE KEY"), ("cacert", "CERTIFICATE")]
        {
            let pem = BASE64_STANDARD.decode(registered[field].as_str().unwrap()).unwrap();
            let pem = String::from_utf8(pem).unwrap();
            assert!(pem.starts_with(&format!("-----BEGIN {start}-----")), "{field}: {pem}");
        }
    }
    let workers = house.admin.get("worker").await.expect(200).json();
    let shown: Vec<_> =
        workers.as_array().unwrap().iter().map(|w| (&w["name"], &w["tags"])).collect();
    assert!(shown.contains(&(&json!("by json"), &json!(["golang", "gpu"]))), "{shown:?}");
    assert!(shown.contains(&(&json!("by form"), &json!(["golang", "linux"]))), "{shown:?}");
}

#[tokio::test]
async fn a_registration_is_refused_in_gaias_words() {
    let house = House::start().await;
    let wrong = json!({ "secret": "guess", "name": "x" });
    let refused = house.anonymous().post("worker/register", wrong).await.expect(403);
    assert_eq!(refused.text(), "wrong global worker secret provided");
    let path = "/api/v1/worker/register";
    house.anonymous().call(Method::POST, path, &[FORM], "secret=guess").await.expect(403);
    house.anonymous().call(Method::POST, path, &[], "{").await.expect(400);
    let name = json!({ "secret": house.secret().await, "name": "n".repeat(1_000) });
    let refused = house.anonymous().post("worker/register", name).await.expect(400);
    assert!(refused.text().contains("`name`"), "{}", refused.text());

    let old = house.secret().await;
    let reset = house.admin.post("worker/secret", Value::Null).await.expect(200);
    assert_eq!(reset.text(), "global worker registration secret has been successfully reset");
    let late = json!({ "secret": old, "name": "late" });
    house.anonymous().post("worker/register", late).await.expect(403);
}

#[tokio::test]
async fn bad_names_and_tags_let_nobody_in() {
    let house = House::start().await;
    let secret = house.secret().await;
    let (long, many) = ("x".repeat(100_000), vec!["x"; 10_000]);
    let token = house.admin.post("worker/token", json!({})).await.expect(200).json();
    let key = ::identity::Key::generate().unwrap();
    for (fields, field) in [
        (json!({ "name": "a/b" }), "name"),
        (json!({ "name": "..\\x" }), "name"),
        (json!({ "name": "a\u{1b}[2J" }), "name"),
        (json!({ "name": "00000000-0000-0000-0000-000000000001" }), "name"),
        (json!({ "name": long }), "name"),
        (json!({ "tags": [long] }), "tags"),
        (json!({ "tags": many }), "tags"),
        (json!({ "tags": ["a\u{0}b"] }), "tags"),
        (json!({ "tags": ["-"] }), "tags"),
    ] {
        let with = |more: Value| {
            let mut body = fields.clone();
            body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            body
        };
        let join = with(json!({ "token": token["token"], "request": key.request().unwrap() }));
        let register = with(json!({ "secret": secret }));
        for (path, body) in [("worker/join", join), ("worker/register", register)] {
            let refused = house.anonymous().post(path, body).await.expect(400).text();
            assert!(refused.contains(&format!("`{field}`")), "{path}: {refused}");
            assert!(refused.len() < 400, "{path}: {refused}");
        }
        let refused = house.admin.post("worker/token", with(json!({ "uses": 1 }))).await;
        assert!(refused.expect(400).message().contains(&format!("`{field}`")));
    }
    let requests = [
        "",
        "x",
        &long,
        "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n",
    ];
    for request in requests {
        let body = json!({ "token": token["token"], "request": request });
        let refused = house.anonymous().post("worker/join", body).await;
        assert!(refused.clone().expect(400).text().len() < 400, "{refused:?}");
    }
    let huge =
        json!({ "secret": secret, "token": token["token"], "tags": ["x".repeat(1_000_000)] });
    for path in ["worker/join", "worker/register"] {
        house.anonymous().post(path, huge.clone()).await.expect(413);
    }
    assert_eq!(house.admin.get("worker").await.expect(200).json(), Value::Null);
    let tokens = house.admin.get("worker/token").await.expect(200).json();
    assert_eq!((tokens.as_array().unwrap().len(), &tokens[0]["used"]), (1, &json!(0)));
}

#[tokio::test]
async fn who_is_not_logged_in_is_told_how() {
    let house = House::start().await;
    let login = json!({ "username": "admin", "password": "guess" });
    let refused = house.anonymous().post("login", login).await.expect(403);
    assert!(refused.message().contains("invalid username and/or password"));
    let login = json!({ "username": "admin", "password": PASSWORD });
    let user = house.anonymous().post("login", login).await.expect(200).json();
    assert_eq!(
        (&user["username"], &user["display_name"]),
        (&json!("admin"), &json!("Administrator"))
    );
    assert!(user["jwtexpiry"].as_u64().unwrap() > 1_700_000_000);
    assert!(user["jwtexpiry"].as_u64().unwrap() < 100_000_000_000, "seconds");

    for client in [house.anonymous(), house.anonymous().with_token("forged")] {
        for path in ["pipeline", "run", "worker", "worker/secret", "secrets", "events"] {
            let refused = client.get(path).await.expect(401);
            assert!(refused.message().contains("log in"), "{path}: {}", refused.message());
            assert_eq!(refused.header("www-authenticate"), "Bearer");
        }
    }
    let ada = Agent::join(&house, "ada", &[]).await;
    assert_eq!(ada.client.get("pipeline").await.status, 401, "a worker is no user");
}

#[tokio::test]
async fn a_password_is_changed_by_who_knows_it() {
    let house = House::start().await;
    let change = |old: &str, new: &str, confirmed: &str, user: &str| json!({ "username": user, "oldpassword": old, "newpassword": new, "newpasswordconf": confirmed });
    let new = "another long password";
    let post = |body| house.admin.post("user/password", body);
    post(change("guess", new, new, "admin")).await.expect(412);
    post(change(PASSWORD, new, "other", "admin")).await.expect(400);
    post(change(PASSWORD, new, new, "somebody")).await.expect(403);
    post(change(PASSWORD, new, new, "admin")).await.expect(200);
    house.anonymous().login("admin", new).await.get("pipeline").await.expect(200);
}

#[tokio::test]
async fn what_is_not_there_is_said_in_json() {
    let house = House::start().await;
    let unknown = house.admin.get("nothing/here").await.expect(404);
    assert!(unknown.message().contains("/api/v1/nothing/here"), "{}", unknown.message());
    house.anonymous().call(Method::GET, "/else", &[], "").await.expect(404).message();
    let method = house.admin.delete("login").await.expect(405);
    assert!(method.message().contains("DELETE"), "{}", method.message());
    for path in ["pipeline/x", "pipelinerun/1/x", "pipelinerun/x", "run/x", "run/x/log"] {
        let refused = house.admin.get(path).await.expect(400);
        assert!(refused.message().contains("`x`"), "{path}: {}", refused.message());
    }
    for path in ["pipeline/7", "pipelinerun/7/7", "run/01890a5d-ac96-774b-bcce-b302099a8057"] {
        house.admin.get(path).await.expect(404).message();
    }
    let grpc = [("content-type", "application/grpc")];
    let path = "/protobuf.Worker/Nothing";
    let unknown = house.anonymous().call(Method::POST, path, &grpc, "").await.expect(200);
    assert_eq!(unknown.header("grpc-status"), "12");
    let alive = house.anonymous().call(Method::GET, "/healthz", &[], "").await.expect(200);
    assert_eq!(alive.json(), json!({ "status": "ok" }));
}

#[tokio::test]
async fn bodies_that_are_too_big_or_no_json_are_refused() {
    let house = House::with(gateway::Config { max_body_bytes: 1_000, ..Default::default() }).await;
    let body = json!({ "key": "BIG", "value": "x".repeat(2_000) });
    let refused = house.admin.post("secret", body).await.expect(413);
    assert!(refused.message().contains("1000 bytes"), "{}", refused.message());
    let path = "/api/v1/secret";
    let refused = house.admin.call(Method::POST, path, &[], "key=value").await.expect(400);
    assert!(refused.message().contains("JSON"), "{}", refused.message());
    house.admin.call(Method::POST, path, &[], r#"{"key":"A"}"#).await.expect(400);
}

#[tokio::test]
async fn names_are_checked_and_taken_once() {
    let house = House::start().await;
    let body = json!({ "name": "Once", "type": "golang", "url": "https://example.org/it.git" });
    house.admin.post("pipeline", body.clone()).await.expect(200);
    house.admin.post("pipeline", body).await.expect(409);
    house.admin.get("pipeline/name?name=Twice").await.expect(200);
    assert!(
        house.admin.get("pipeline/name?name=once").await.expect(400).message().contains("once")
    );
    house.admin.get("pipeline/name?name=a%2Fb").await.expect(400);
    house.admin.get("pipeline/name").await.expect(400);
    let bad = json!({ "name": "Bad", "type": "cobol", "url": "https://example.org/it.git" });
    assert!(house.admin.post("pipeline", bad).await.expect(400).message().contains("cobol"));
    let created = house.admin.get("pipeline/created").await.expect(200).json();
    assert_eq!(created[0]["statustype"], "running");
    assert_eq!(created[0]["pipeline"]["name"], "Once");
    house.admin.get("pipeline/latest").await.expect(200);
    house.admin.delete("pipeline/1").await.expect(200);
    house.admin.get("pipeline/1").await.expect(404);
}
