//! The service as its clients see it, on a log in memory and a paused clock.

use std::{task::Poll, time::Duration};

use eventlog::{Clock, Log, Recorded};
use futures::StreamExt as _;
use identity::{Authority, MasterKey, Peer};
use ids::{Timestamp, WorkerId};
use proto::registry::v1::{self as wire, WorkerState, registry_client::RegistryClient};
use tempfile::TempDir;
use tokio::time::{Instant, advance};
use tonic::{Code, Streaming};
use transport::Channel;

use super::*;

mod trust;

const GRACE: Duration = Duration::from_secs(10);

/// One machine: what outlives a service, and a service.
struct Machine {
    dir: TempDir,
    log: Log,
    clock: Clock,
}

type Client = RegistryClient<Channel>;

impl Machine {
    fn new() -> Self {
        // Real dates, since the CA has one.
        let (begun, start) = (Clock::system().now(), Instant::now());
        let clock = Clock::from_fn(move || begun + start.elapsed());
        Self { dir: tempfile::tempdir().unwrap(), log: Log::in_memory(clock.clone()), clock }
    }

    async fn start(&self) -> (Client, JoinHandle<Result<(), RunError>>) {
        self.start_with(Config::default()).await
    }

    async fn start_with(&self, config: Config) -> (Client, JoinHandle<Result<(), RunError>>) {
        let deps = Deps {
            log: self.log.clone(),
            clock: self.clock.clone(),
            master_key: MasterKey::open_or_create(&self.dir.path().join("master.key")).unwrap(),
            authority: Authority::open_or_create(&self.dir.path().join("ca")).unwrap(),
        };
        let service = start(deps, config).await.unwrap();
        let channel = Channel::local(service.router, Peer::Service("gateway".into()));
        (RegistryClient::new(channel), service.task)
    }

    /// Appends what a process stored that has crashed.
    async fn store(&self, event: Event) {
        let (stream, encoded) = (codec::stream(&event), codec::encode(&event));
        #[expect(clippy::disallowed_methods, reason = "the crashed process gave it")]
        let id = ids::EventId::from_uuid(uuid::Uuid::now_v7());
        let metadata = eventlog::Metadata { version: encoded.version, ..Default::default() };
        let event = eventlog::NewEvent::new(id, encoded.event_type, encoded.data, &metadata);
        self.log.append(stream, eventlog::Expected::Any, vec![event]).await.unwrap();
    }

    async fn stored(&self) -> Vec<Recorded> {
        self.log.read_all(0, &[]).map(Result::unwrap).collect().await
    }

    /// The next time that an event of this type is stored, after the first `skip` ones.
    async fn stored_next(&self, event_type: &str, skip: usize) -> Recorded {
        let events = self.log.subscribe(0, &[]).map(Result::unwrap);
        let wanted = events.filter(|recorded| {
            let is_wanted = recorded.event.event_type == event_type;
            async move { is_wanted }
        });
        let mut wanted = Box::pin(wanted.skip(skip));
        tokio::time::timeout(Duration::from_hours(1), wanted.next()).await.unwrap().unwrap()
    }
}

async fn secret(client: &mut Client) -> String {
    let answer = client.get_registration_secret(wire::GetRegistrationSecretRequest {}).await;
    answer.unwrap().into_inner().secret
}

async fn register(client: &mut Client) -> String {
    let request = wire::RegisterWorkerRequest {
        secret: secret(client).await,
        tags: vec!["Go".into()],
        ..Default::default()
    };
    client.register_worker(request).await.unwrap().into_inner().worker_id
}

fn attachment(worker_id: &str) -> wire::AttachWorkerRequest {
    wire::AttachWorkerRequest {
        worker_id: worker_id.into(),
        slots: 2,
        tags: vec!["Go".into()],
        os: "linux".into(),
        ..Default::default()
    }
}

async fn attach(client: &mut Client, worker_id: &str) -> (wire::Worker, Streaming<wire::Worker>) {
    let mut workers = client.attach_worker(attachment(worker_id)).await.unwrap().into_inner();
    (workers.message().await.unwrap().unwrap(), workers)
}

async fn list(client: &mut Client) -> Vec<wire::Worker> {
    client.list_workers(wire::ListWorkersRequest::default()).await.unwrap().into_inner().workers
}

fn change(worker_id: &str) -> wire::ChangeWorkerRequest {
    wire::ChangeWorkerRequest {
        worker_id: worker_id.into(),
        note: "why".into(),
        caller: Some(proto::common::v1::Caller { name: "user:ann".into(), ..Default::default() }),
        ..Default::default()
    }
}

#[tokio::test(start_paused = true)]
async fn a_worker_joins_with_the_secret_and_gets_its_identity() {
    let machine = Machine::new();
    let (mut client, _task) = machine.start().await;
    let request = wire::RegisterWorkerRequest {
        secret: secret(&mut client).await,
        name: " builder ".into(),
        tags: vec!["Go".into(), "go".into()],
        primary: true,
        ..Default::default()
    };
    let joined = client.register_worker(request).await.unwrap().into_inner();
    let credentials = identity::Credentials {
        certificate: joined.certificate,
        key: joined.key,
        ca: joined.ca_certificate,
    };
    let id: WorkerId = joined.worker_id.parse().unwrap();
    assert_eq!(credentials.peer().unwrap(), Peer::Worker(id));
    identity::client_tls(&credentials).unwrap();

    let [worker] = &list(&mut client).await[..] else { panic!("one worker") };
    assert_eq!((worker.name.as_str(), worker.primary), ("builder", true));
    assert_eq!(worker.tags, ["Go"]);
    assert_eq!(worker.state(), WorkerState::Active);
    assert!(!worker.connected);
    let stored = machine.stored().await;
    let registered = stored.last().unwrap();
    assert_eq!(registered.stream, format!("worker-{id}"));
    assert!(stored.iter().all(|event| !contains(&event.event.data, b"PRIVATE KEY")));
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

#[tokio::test(start_paused = true)]
async fn the_secret_survives_a_restart_in_no_readable_form_and_a_reset_ends_it() {
    let machine = Machine::new();
    let (mut client, _task) = machine.start().await;
    let old = secret(&mut client).await;
    assert!(old.len() >= 32, "{old}");
    let (mut client, _task) = machine.start().await;
    assert_eq!(secret(&mut client).await, old);
    let reset = client.reset_registration_secret(wire::ResetRegistrationSecretRequest::default());
    let new = reset.await.unwrap().into_inner().secret;
    assert_eq!(secret(&mut client).await, new);
    for stored in machine.stored().await {
        assert!(!contains(&stored.event.data, old.as_bytes()));
        assert!(!contains(&stored.event.data, new.as_bytes()));
    }
    for wrong in [&old, "", &new[1..], &format!("{new}0")] {
        let request =
            wire::RegisterWorkerRequest { secret: wrong.to_string(), ..Default::default() };
        let refused = client.register_worker(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied);
    }
    assert!(list(&mut client).await.is_empty());
    register(&mut client).await;
}

#[tokio::test(start_paused = true)]
async fn a_bad_field_is_named() {
    let machine = Machine::new();
    let (mut client, _task) = machine.start().await;
    let secret = secret(&mut client).await;
    let good = || wire::RegisterWorkerRequest { secret: secret.clone(), ..Default::default() };
    for (request, field) in [
        (wire::RegisterWorkerRequest { name: "x".repeat(101), ..good() }, "`name`"),
        (wire::RegisterWorkerRequest { name: "../x".into(), ..good() }, "`name`"),
        (wire::RegisterWorkerRequest { name: "a\u{7f}b".into(), ..good() }, "`name`"),
        (wire::RegisterWorkerRequest { tags: vec![String::new()], ..good() }, "`tags`"),
    ] {
        let refused = client.register_worker(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().starts_with(field), "{refused}");
    }
    let id = register(&mut client).await;
    for (request, field) in [
        (wire::AttachWorkerRequest { slots: -1, ..attachment(&id) }, "`slots`"),
        (wire::AttachWorkerRequest { os: "a\tb".into(), ..attachment(&id) }, "`os`"),
        (attachment("w"), "`worker_id`"),
    ] {
        let refused = client.attach_worker(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().starts_with(field), "{refused}");
    }
    let refused = client.suspend_worker(change("w")).await.unwrap_err();
    assert!(refused.message().starts_with("`worker_id` is wrong: `w`"), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn only_services_of_the_house_may_call() {
    let machine = Machine::new();
    let deps = Deps {
        log: machine.log.clone(),
        clock: machine.clock.clone(),
        master_key: MasterKey::open_or_create(&machine.dir.path().join("master.key")).unwrap(),
        authority: Authority::open_or_create(machine.dir.path()).unwrap(),
    };
    let service = start(deps, Config::default()).await.unwrap();
    for peer in [Peer::Anonymous, Peer::Worker(WorkerId::from_uuid(uuid::Uuid::nil()))] {
        let mut client = RegistryClient::new(Channel::local(service.router.clone(), peer));
        let refused = client.get_registration_secret(wire::GetRegistrationSecretRequest {}).await;
        assert_eq!(refused.unwrap_err().code(), Code::PermissionDenied);
    }
}

#[tokio::test(start_paused = true)]
async fn an_open_stream_is_the_sign_of_life_and_writes_nothing() {
    let machine = Machine::new();
    let (mut client, _task) = machine.start().await;
    let id = register(&mut client).await;
    let (worker, _stream) = attach(&mut client, &id).await;
    assert_eq!((worker.slots, worker.os.as_str(), worker.connected), (2, "linux", true));
    let written = machine.stored().await.len();
    advance(Duration::from_hours(24)).await;
    let (_, _second) = attach(&mut client, &id).await;
    let [worker] = &list(&mut client).await[..] else { panic!("one worker") };
    assert_eq!(worker.state(), WorkerState::Active);
    assert_eq!(worker.last_contact_at, machine.clock.now().0);
    assert_eq!(machine.stored().await.len(), written);
}

#[tokio::test(start_paused = true)]
async fn a_worker_is_lost_when_its_last_stream_is_gone_for_the_grace_time() {
    let machine = Machine::new();
    let (mut client, _task) = machine.start().await;
    let id = register(&mut client).await;
    let (_, first) = attach(&mut client, &id).await;
    let (_, second) = attach(&mut client, &id).await;
    drop(first);
    advance(Duration::from_mins(1)).await;
    let gone_at = machine.clock.now();
    drop(second);
    let lost = machine.stored_next("WorkerLost", 0).await;
    assert_eq!(lost.recorded_at, gone_at + GRACE);
    let [worker] = &list(&mut client).await[..] else { panic!("one worker") };
    assert_eq!((worker.state(), worker.connected), (WorkerState::Lost, false));
    assert_eq!(worker.last_contact_at, gone_at.0);

    let (worker, _stream) = attach(&mut client, &id).await;
    assert_eq!(worker.state(), WorkerState::Active);
    machine.stored_next("WorkerReturned", 0).await;
}

#[tokio::test(start_paused = true)]
async fn who_fell_silent_is_lost_the_grace_time_after_it_was_heard_last() {
    let machine = Machine::new();
    let (mut client, _task) = machine.start().await;
    let id = register(&mut client).await;
    let silent = |silent_ms| wire::DetachWorkerRequest { worker_id: id.clone(), silent_ms };
    let (_, first) = attach(&mut client, &id).await;
    // Of the older of two attachments nothing need be heard.
    let (_, second) = attach(&mut client, &id).await;
    client.detach_worker(silent(9_000)).await.unwrap();
    drop(first);
    advance(Duration::from_mins(1)).await;
    let gone_at = machine.clock.now();
    client.detach_worker(silent(4_000)).await.unwrap();
    drop(second);
    let lost = machine.stored_next("WorkerLost", 0).await;
    let heard_at = Timestamp(gone_at.0 - 4_000);
    assert_eq!(lost.recorded_at, heard_at + GRACE);
    let [worker] = &list(&mut client).await[..] else { panic!("one worker") };
    assert_eq!(worker.last_contact_at, heard_at.0);

    // Who came back, and closed its connection, has the whole time.
    let (_, third) = attach(&mut client, &id).await;
    client.detach_worker(silent(20_000)).await.unwrap();
    let (_, fourth) = attach(&mut client, &id).await;
    client.detach_worker(silent(20_000)).await.unwrap();
    drop((third, fourth));
    let gone_at = machine.clock.now();
    let lost = machine.stored_next("WorkerLost", 1).await;
    assert_eq!(lost.recorded_at, gone_at + GRACE);
    // Who was silent for longer is lost at once.
    let (_, fifth) = attach(&mut client, &id).await;
    client.detach_worker(silent(20_000)).await.unwrap();
    drop(fifth);
    let gone_at = machine.clock.now();
    assert_eq!(machine.stored_next("WorkerLost", 2).await.recorded_at, gone_at);
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_comes_back_in_time_was_never_lost() {
    let machine = Machine::new();
    let (mut client, _task) = machine.start().await;
    let id = register(&mut client).await;
    for away in [1, 9_998] {
        let (_, stream) = attach(&mut client, &id).await;
        drop(stream);
        advance(Duration::from_millis(away)).await;
    }
    let (_, _stream) = attach(&mut client, &id).await;
    advance(Duration::from_mins(5)).await;
    list(&mut client).await;
    assert!(machine.stored().await.iter().all(|event| event.event.event_type != "WorkerLost"));
}

#[tokio::test(start_paused = true)]
async fn a_loss_that_crosses_with_a_return_never_wins() {
    let machine = Machine::new();
    // Whoever goes away is lost at once.
    let (mut client, _task) = machine.start_with(Config { grace_ms: 0, ..Config::default() }).await;
    let id = register(&mut client).await;
    for steps in 0..60 {
        let (_, first) = attach(&mut client, &id).await;
        let returning = tokio::spawn({
            let (mut client, id) = (client.clone(), id.clone());
            async move { attach(&mut client, &id).await }
        });
        for _ in 0..steps {
            one_step().await;
        }
        drop(first);
        let (_, _second) = returning.await.unwrap();
        let [worker] = &list(&mut client).await[..] else { panic!("one worker") };
        assert_eq!((worker.state(), worker.connected), (WorkerState::Active, true), "{steps}");
    }
}

/// Lets the other tasks that are ready do one step each; `yield_now` lets them do all they can.
async fn one_step() {
    let mut waited = false;
    std::future::poll_fn(|context| {
        if std::mem::replace(&mut waited, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_never_attaches_is_lost() {
    let machine = Machine::new();
    let (mut client, _task) = machine.start().await;
    register(&mut client).await;
    let registered_at = machine.clock.now();
    let lost = machine.stored_next("WorkerLost", 0).await;
    assert_eq!(lost.recorded_at, registered_at + GRACE);
}

#[tokio::test(start_paused = true)]
async fn after_a_restart_everyone_has_the_grace_time_to_come_back() {
    let machine = Machine::new();
    let (mut client, task) = machine.start().await;
    let stays = register(&mut client).await;
    let leaves = register(&mut client).await;
    let lost_before = register(&mut client).await;
    let (_, first) = attach(&mut client, &stays).await;
    let (_, second) = attach(&mut client, &leaves).await;
    machine.stored_next("WorkerLost", 0).await;
    drop((first, second, client));
    task.await.unwrap().unwrap();

    advance(Duration::from_hours(1)).await;
    let restarted_at = machine.clock.now();
    let (mut client, _task) = machine.start().await;
    let (worker, _stream) = attach(&mut client, &stays).await;
    assert_eq!(worker.state(), WorkerState::Active);
    let lost = machine.stored_next("WorkerLost", 1).await;
    assert_eq!(lost.stream, format!("worker-{leaves}"));
    assert_eq!(lost.recorded_at, restarted_at + GRACE);
    advance(Duration::from_hours(1)).await;
    let states: Vec<_> = list(&mut client).await.iter().map(wire::Worker::state).collect();
    assert_eq!(states, [WorkerState::Active, WorkerState::Lost, WorkerState::Lost]);
    assert!(list(&mut client).await[2].worker_id == lost_before);
    let losses = machine.stored().await;
    let losses = losses.iter().filter(|event| event.event.event_type == "WorkerLost").count();
    assert_eq!(losses, 2);
}

#[tokio::test(start_paused = true)]
async fn an_attached_worker_hears_of_every_change_until_it_is_deregistered() {
    let machine = Machine::new();
    let (mut client, _task) = machine.start().await;
    let id = register(&mut client).await;
    let other = register(&mut client).await;
    let (_, mut stream) = attach(&mut client, &id).await;
    client.suspend_worker(change(&other)).await.unwrap();
    for _ in 0..2 {
        let worker = client.suspend_worker(change(&id)).await.unwrap().into_inner();
        assert_eq!((worker.state(), worker.note.as_str()), (WorkerState::Suspended, "why"));
        assert!(worker.connected);
    }
    let told = stream.message().await.unwrap().unwrap();
    assert_eq!((told.worker_id.as_str(), told.state()), (id.as_str(), WorkerState::Suspended));
    client.resume_worker(change(&id)).await.unwrap();
    client.resume_worker(change(&id)).await.unwrap();
    assert_eq!(stream.message().await.unwrap().unwrap().state(), WorkerState::Active);
    for _ in 0..2 {
        let worker = client.deregister_worker(change(&id)).await.unwrap().into_inner();
        assert_eq!(worker.state(), WorkerState::Deregistered);
    }
    assert_eq!(stream.message().await.unwrap().unwrap().state(), WorkerState::Deregistered);
    let ended = stream.message().await.unwrap_err();
    assert_eq!((ended.code(), ended.message()), (Code::NotFound, "worker is not registered"));
    let refused = client.attach_worker(attachment(&id)).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::NotFound, "worker is not registered"));
    let refused = client.suspend_worker(change(&id)).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    assert!(refused.message().contains(&id), "{refused}");
    let left: Vec<_> = list(&mut client).await.into_iter().map(|left| left.worker_id).collect();
    assert_eq!(left, [other]);
    let stored = machine.stored().await;
    let types = stored.iter().filter(|event| event.stream.ends_with(&id));
    let types: Vec<_> = types.map(|event| &*event.event.event_type).collect();
    assert_eq!(
        types,
        [
            "WorkerRegistered",
            "WorkerReported",
            "WorkerSuspended",
            "WorkerResumed",
            "WorkerDeregistered"
        ]
    );
    assert_eq!(stored.last().unwrap().event.metadata().actor, "user:ann");
    let registered = stored.iter().find(|event| event.stream.ends_with(&id)).unwrap();
    assert_eq!(registered.event.metadata().actor, "secret:registration");
}

#[tokio::test(start_paused = true)]
async fn a_log_can_be_looked_at_without_a_service() {
    let machine = Machine::new();
    let (mut client, _task) = machine.start().await;
    let id = register(&mut client).await;
    client.suspend_worker(change(&id)).await.unwrap();
    let mut state = State::default();
    for recorded in machine.stored().await {
        if let Some(event) = crate::decode(&recorded).unwrap() {
            eventlog::Fold::evolve(&mut state, &event);
        }
    }
    let [worker] = &crate::view(state.workers(), |_| None)[..] else { panic!("one worker") };
    assert_eq!((worker.worker_id.as_str(), worker.state()), (id.as_str(), WorkerState::Suspended));
}
