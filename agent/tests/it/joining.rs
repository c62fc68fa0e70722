//! Joining, and staying who one is.

use std::{fs, os::unix::fs::PermissionsExt as _};

use agent::{AgentError, Config};

use crate::worker::Fixture;

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_joins_once_and_keeps_its_identity() {
    let test = Fixture::new().await;
    let agent = test.agent();
    let session = test.peer.wait("a session", |seen| seen.sessions.first().cloned()).await;
    assert_eq!(session.worker_slots, 4);
    assert!(session.push && session.tags.contains(&"extra".to_owned()));
    assert_eq!((session.os.as_str(), session.draining), ("linux", false));
    for file in ["cert.pem", "key.pem", "caCert.pem", "worker-id"] {
        let meta = fs::metadata(test.config.home.join("identity").join(file)).unwrap();
        assert_eq!(meta.permissions().mode() & 0o777, 0o600, "{file}");
    }
    agent.drained().await;

    // The secret is not needed any more.
    let config = Config { secret: String::new(), ..test.config.clone() };
    let again = Fixture { config, ..test };
    let agent = again.agent();
    // Whether the first one still said that it drains, nobody knows.
    let second = again.peer.wait("another session", |seen| {
        seen.sessions.iter().filter(|session| !session.draining).nth(1).cloned()
    });
    let id = second.await.unique_id;
    agent.drained().await;
    let registered = again.peer.seen().registered.clone();
    assert_eq!(registered.iter().map(ToString::to_string).collect::<Vec<_>>(), [id]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_secret_ends_the_agent_with_a_clear_error() {
    let mut test = Fixture::new().await;
    test.config.secret = "guess".into();
    let error = test.agent().ended().await.unwrap_err();
    assert!(matches!(error, AgentError::WrongSecret { .. }), "{error}");
    test.config.secret = String::new();
    let error = test.agent().ended().await.unwrap_err();
    assert!(matches!(error, AgentError::NoToken), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_agents_never_share_a_home() {
    let test = Fixture::new().await;
    let first = test.agent();
    test.peer.wait("a session", |seen| seen.sessions.first().cloned()).await;
    let error = test.agent().ended().await.unwrap_err();
    assert!(matches!(error, AgentError::HomeInUse { .. }), "{error}");
    first.drained().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_was_deregistered_joins_again_if_it_can() {
    let mut test = Fixture::new().await;
    let agent = test.agent();
    let forget = |seen: &crate::peer::Seen| Some(seen.sessions.first()?.unique_id.clone());
    let id = test.peer.wait("a session", forget).await;
    test.peer.seen().forgotten.insert(id.clone());
    test.peer.go_away().await;
    test.peer.come_back().await;
    let other = |seen: &crate::peer::Seen| {
        Some(seen.sessions.iter().find(|session| session.unique_id != id)?.unique_id.clone())
    };
    let second = test.peer.wait("a session of another worker", other).await;
    agent.drained().await;

    // Without the secret it ends.
    test.config.secret = String::new();
    test.peer.seen().forgotten.insert(second);
    let error = test.agent().ended().await.unwrap_err();
    assert!(matches!(error, AgentError::NotRegistered { .. }), "{error}");
}
