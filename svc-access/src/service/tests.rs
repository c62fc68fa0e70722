//! The service as its clients see it, on a log in memory.

use std::{os::unix::fs::PermissionsExt as _, sync::Arc, sync::atomic::AtomicU64, time::Duration};

use authz::throttle::Who;
use eventlog::{Clock, Log, Recorded};
use futures::StreamExt as _;
use identity::Peer;
use ids::Timestamp;
use proto::{
    access::v1::{self as wire, access_client::AccessClient, access_server::Access as _},
    common::v1::Caller,
};
use tempfile::TempDir;
use tonic::Code;
use transport::Channel;

use super::*;

type Client = AccessClient<Channel>;

/// What outlives a service.
struct Machine {
    dir: TempDir,
    log: Log,
    now: Arc<AtomicU64>,
}

impl Machine {
    fn new() -> Self {
        let now = Arc::new(AtomicU64::new(1_700_000_000_000));
        let log = Log::in_memory(clock(&now));
        Self { dir: tempfile::tempdir().unwrap(), log, now }
    }

    fn deps(&self) -> Deps {
        Deps {
            log: self.log.clone(),
            clock: clock(&self.now),
            master_key: MasterKey::open_or_create(&self.dir.path().join("master.key")).unwrap(),
            data: self.dir.path().into(),
        }
    }

    async fn start(&self) -> (Client, Option<SecretString>) {
        let service = start(self.deps(), Config::default()).await.unwrap();
        (client(&service, Peer::Service("gateway".into())), service.first_admin_password)
    }

    /// A service whose admin has the password `correct horse`.
    async fn start_with_admin(&self) -> Client {
        let admin_password = Some("correct horse".into());
        let config = Config { admin_password, ..Config::default() };
        let service = start(self.deps(), config).await.unwrap();
        assert!(service.first_admin_password.is_none());
        client(&service, Peer::Service("gateway".into()))
    }

    fn advance(&self, by: Duration) {
        self.now.fetch_add(by.as_millis() as u64, std::sync::atomic::Ordering::SeqCst);
    }

    async fn stored(&self) -> Vec<Recorded> {
        self.log.read_all(0, &[]).map(Result::unwrap).collect().await
    }
}

fn clock(now: &Arc<AtomicU64>) -> Clock {
    let now = Arc::clone(now);
    Clock::from_fn(move || Timestamp(now.load(std::sync::atomic::Ordering::SeqCst)))
}

fn client(service: &Service, peer: Peer) -> Client {
    AccessClient::new(Channel::local(service.router.clone(), peer))
}

async fn login(
    client: &mut Client,
    username: &str,
    password: &str,
) -> Result<wire::Session, tonic::Status> {
    login_from(client, username, password, "").await
}

async fn login_from(
    client: &mut Client,
    username: &str,
    password: &str,
    address: &str,
) -> Result<wire::Session, tonic::Status> {
    let caller = Some(Caller { address: address.into(), ..Default::default() });
    let (username, password) = (username.into(), password.into());
    let request = wire::LoginRequest { username, password, caller };
    client.login(request).await.map(tonic::Response::into_inner)
}

async fn authenticate(client: &mut Client, token: &str) -> Result<wire::Session, tonic::Status> {
    let request = wire::AuthenticateRequest { token: token.into() };
    client.authenticate(request).await.map(tonic::Response::into_inner)
}

async fn put(client: &mut Client, key: &str, value: &str) -> Result<wire::Secret, tonic::Status> {
    let request =
        wire::PutSecretRequest { key: key.into(), value: value.into(), ..Default::default() };
    client.put_secret(request).await.map(tonic::Response::into_inner)
}

async fn resolve(client: &mut Client, keys: &[&str]) -> Result<Vec<String>, tonic::Status> {
    let keys = keys.iter().map(ToString::to_string).collect();
    let answer = client.resolve_secrets(wire::ResolveSecretsRequest { keys }).await?;
    Ok(answer.into_inner().secrets.into_iter().map(|secret| secret.value).collect())
}

fn change(old: &str, new: &str) -> wire::ChangePasswordRequest {
    wire::ChangePasswordRequest {
        username: "admin".into(),
        old_password: old.into(),
        new_password: new.into(),
        ..Default::default()
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

#[tokio::test]
async fn the_first_admin_gets_a_password_that_is_told_once() {
    let machine = Machine::new();
    let (mut client, password) = machine.start().await;
    let password = password.unwrap();
    let password = password.expose_secret();
    assert!(password.len() >= 20);
    let session = login(&mut client, "admin", password).await.unwrap();
    assert_eq!(
        (session.username.as_str(), session.display_name.as_str()),
        ("admin", "Administrator")
    );
    let (mut client, again) = machine.start().await;
    assert!(again.is_none());
    login(&mut client, "admin", password).await.unwrap();
    for stored in machine.stored().await {
        assert!(!contains(&stored.event.data, password.as_bytes()));
    }
    let mode = std::fs::metadata(machine.dir.path().join("session.key")).unwrap().permissions();
    assert_eq!(mode.mode() & 0o777, 0o600);
}

#[tokio::test]
async fn a_weak_initial_password_is_refused() {
    let machine = Machine::new();
    let config = Config { admin_password: Some("1234567".into()), ..Config::default() };
    let error = start(machine.deps(), config).await.unwrap_err().to_string();
    assert!(error.contains("password of `admin` has less than 8 characters"), "{error}");
    assert!(!error.contains("1234567"));
    machine.start_with_admin().await;
}

#[tokio::test]
async fn a_session_is_good_for_twelve_hours_and_survives_a_restart() {
    let machine = Machine::new();
    let mut client = machine.start_with_admin().await;
    let session = login(&mut client, "admin", "correct horse").await.unwrap();
    assert_eq!(session.expires_at, 1_700_000_000_000 + 12 * 3_600_000);
    machine.advance(Duration::from_hours(12) - Duration::from_millis(1));
    let (mut client, _) = machine.start().await;
    assert_eq!(authenticate(&mut client, &session.token).await.unwrap(), session);
    machine.advance(Duration::from_millis(1));
    for bad in [session.token.as_str(), "x", ""] {
        let refused = authenticate(&mut client, bad).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated);
    }
}

#[tokio::test]
async fn who_fails_to_log_in_is_not_told_why() {
    let machine = Machine::new();
    let mut client = machine.start_with_admin().await;
    let wrong_password = login(&mut client, "admin", "correct hors").await.unwrap_err();
    let wrong_name = login(&mut client, "nobody", "correct horse").await.unwrap_err();
    assert_eq!(wrong_password.code(), Code::Unauthenticated);
    assert_eq!(
        (wrong_password.code(), wrong_password.message()),
        (wrong_name.code(), wrong_name.message())
    );
}

#[tokio::test]
async fn who_guesses_passwords_has_to_wait() {
    let machine = Machine::new();
    let mut client = machine.start_with_admin().await;
    for name in ["admin", "nobody"] {
        for _ in 0..5 {
            let refused = login(&mut client, name, "wrong").await.unwrap_err();
            assert_eq!(refused.code(), Code::Unauthenticated);
        }
        let refused = login(&mut client, name, "correct horse").await.unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted, "{name}");
    }
}

#[tokio::test]
async fn who_guesses_many_passwords_at_once_learns_no_more() {
    let machine = Machine::new();
    let client = machine.start_with_admin().await;
    let guesses = (0..30).map(|_| {
        let mut client = client.clone();
        async move { login(&mut client, "admin", "wrong").await.unwrap_err().code() }
    });
    let answers = futures::future::join_all(guesses).await;
    let learnt = answers.iter().filter(|code| **code == Code::Unauthenticated).count();
    // Those that are being verified when the last free one fails may come through too.
    assert!((5..=8).contains(&learnt), "{answers:?}");
}

/// The only thread that could hash is busy all the while.
#[test]
fn a_guess_that_waited_for_its_turn_is_refused_without_the_work() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(1)
        .build()
        .unwrap();
    runtime.block_on(async {
        let machine = Machine::new();
        let api = std::sync::Arc::new(open(machine.deps(), &Config::default()).await.unwrap().0);
        let mut turns = vec![];
        for _ in 0..4 {
            turns.push(api.passwords.turn().await);
        }
        let guessing = tokio::spawn({
            let api = std::sync::Arc::clone(&api);
            let request = wire::LoginRequest {
                username: "admin".into(),
                password: "guess".into(),
                ..Default::default()
            };
            async move { api.login(tonic::Request::new(request)).await }
        });
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        for _ in 0..5 {
            api.throttle.failed(Who::of("admin", None));
        }
        let (done, busy) = std::sync::mpsc::channel::<()>();
        tokio::task::spawn_blocking(move || busy.recv());
        drop(turns);
        let refused = tokio::time::timeout(Duration::from_mins(1), guessing).await;
        drop(done);
        let refused = refused.expect("it does not hash").unwrap().unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    });
}

#[tokio::test]
async fn a_new_password_ends_the_old_one_and_its_sessions() {
    let machine = Machine::new();
    let mut client = machine.start_with_admin().await;
    let old = login(&mut client, "admin", "correct horse").await.unwrap();
    let refused = client.change_password(change("wrong", "battery staple")).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    let refused = client.change_password(change("correct horse", "short")).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().starts_with("`new_password` has less than 8"), "{refused}");
    authenticate(&mut client, &old.token).await.unwrap();

    client.change_password(change("correct horse", "battery staple")).await.unwrap();
    login(&mut client, "admin", "correct horse").await.unwrap_err();
    authenticate(&mut client, &old.token).await.unwrap_err();
    let new = login(&mut client, "admin", "battery staple").await.unwrap();
    let (mut client, _) = machine.start().await;
    authenticate(&mut client, &new.token).await.unwrap();
    for stored in machine.stored().await {
        assert!(
            !contains(&stored.event.data, b"battery") && !contains(&stored.event.data, b"horse")
        );
    }
}

#[tokio::test]
async fn the_vault_gives_back_any_text_and_stores_none_of_it() {
    let machine = Machine::new();
    let mut client = machine.start_with_admin().await;
    let texts = ["s3cr=et", "line 1\nline 2\r\n\0 \"ü\" ${X}", "", &"long value ".repeat(5_957)];
    for (key, text) in ["a", "b.c", "D_e", "f-1"].into_iter().zip(texts) {
        let secret = put(&mut client, key, text).await.unwrap();
        assert_eq!((secret.key.as_str(), secret.value.as_str()), (key, ""));
        assert_eq!(secret.updated_at, 1_700_000_000_000);
    }
    let (mut client, _) = machine.start().await;
    assert_eq!(resolve(&mut client, &["a", "b.c", "D_e", "f-1"]).await.unwrap(), texts);
    let listed = client.list_secrets(wire::ListSecretsRequest {}).await.unwrap().into_inner();
    let keys: Vec<_> = listed.secrets.iter().map(|secret| secret.key.as_str()).collect();
    assert_eq!(keys, ["D_e", "a", "b.c", "f-1"]);
    assert!(listed.secrets.iter().all(|secret| secret.value.is_empty()));
    for stored in machine.stored().await {
        for text in ["s3cr=et", "line 1", "long value"] {
            assert!(!contains(&stored.event.data, text.as_bytes()), "{text}");
            assert!(!format!("{:?}", crate::decode(&stored).unwrap()).contains(text), "{text}");
        }
    }
}

#[tokio::test]
async fn a_secret_is_replaced_removed_and_then_missed_by_name() {
    let machine = Machine::new();
    let mut client = machine.start_with_admin().await;
    put(&mut client, "a", "1").await.unwrap();
    put(&mut client, "a", "2").await.unwrap();
    assert_eq!(resolve(&mut client, &["a", "a"]).await.unwrap(), ["2", "2"]);
    for _ in 0..2 {
        let remove = wire::RemoveSecretRequest { key: "a".into(), ..Default::default() };
        client.remove_secret(remove).await.unwrap();
    }
    put(&mut client, "b", "1").await.unwrap();
    let refused = resolve(&mut client, &["b", "a", "c"]).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    assert!(refused.message().contains("`a`"), "{refused}");
}

#[tokio::test]
async fn a_bad_secret_is_refused_by_field() {
    let machine = Machine::new();
    let mut client = machine.start_with_admin().await;
    let before = machine.stored().await.len();
    for (key, value, field) in
        [("", "v", "`key`"), ("a/b", "v", "`key`"), ("a", &*"x".repeat((64 << 10) + 1), "`value`")]
    {
        let refused = put(&mut client, key, value).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().starts_with(field), "{refused}");
    }
    let refused = resolve(&mut client, &["a"; 257]).await.unwrap_err();
    assert!(refused.message().starts_with("`keys`"), "{refused}");
    assert_eq!(machine.stored().await.len(), before);
}

#[tokio::test]
async fn secrets_are_bound_to_their_key() {
    let machine = Machine::new();
    let mut client = machine.start_with_admin().await;
    put(&mut client, "a", "1").await.unwrap();
    // Somebody who can write to the log moves a sealed value to another key.
    let stored = machine.stored().await.pop().unwrap();
    let mut event: proto::access::events::v1::SecretPut =
        prost::Message::decode(stored.event.data.clone()).unwrap();
    event.key = "b".into();
    let moved = eventlog::NewEvent::new(
        ids::EventId::from_uuid(uuid::Uuid::nil()),
        stored.event.event_type.clone(),
        prost::Message::encode_to_vec(&event),
        &stored.event.metadata(),
    );
    machine.log.append("secret-b", eventlog::Expected::None, vec![moved]).await.unwrap();
    let (mut client, _) = machine.start().await;
    assert_eq!(resolve(&mut client, &["a"]).await.unwrap(), ["1"]);
    let refused = resolve(&mut client, &["b"]).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("`b` cannot be decrypted"), "{refused}");
}

#[tokio::test]
async fn only_services_of_the_house_may_call() {
    let machine = Machine::new();
    let service = start(machine.deps(), Config::default()).await.unwrap();
    for peer in [Peer::Anonymous, Peer::Worker(ids::WorkerId::from_uuid(uuid::Uuid::nil()))] {
        let refused = resolve(&mut client(&service, peer), &[]).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied);
    }
}

mod users;
