//! Whatever happened: a copy of the log alone rebuilds what every service says, and holds no secret.

mod answers;

use std::{
    fs,
    hash::{BuildHasher, Hasher, RandomState},
    ops::ControlFlow,
    path::Path,
};

use base64::{
    Engine,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE},
};
use eventlog::{Clock, Fold, Log, OpenError, files};
use http::Method;
use ids::{Attempt, Digest, RunId, Timestamp};
use proto::{
    access::v1::ListSecretsRequest, artifacts::v1::StatArtifactRequest, logs::v1::ReadLogRequest,
    pipelines::v1::ListPipelinesRequest, registry::v1::ListWorkersRequest, worker::PipelineRun,
};
use serde_json::{Value, json};

use crate::{
    agent::{Agent, argument, job},
    house::{House, PASSWORD},
};

/// Numbers that a seed gives again.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn below(&mut self, most: u64) -> u64 {
        // xorshift64
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % most
    }
}

/// What must never be found in the log.
#[derive(Default)]
struct Secrets(Vec<(String, String)>);

impl Secrets {
    /// A fresh value that nothing else looks like.
    fn make(&mut self, what: &str, dice: &mut Dice) -> String {
        let value = format!("hush-{:016x}{:016x}", dice.below(u64::MAX), dice.below(u64::MAX));
        self.keep(what, &value);
        value
    }

    fn keep(&mut self, what: &str, value: &str) {
        self.0.push((what.to_owned(), value.to_owned()));
    }
}

/// A house in which much happened.
async fn lived_in(seed: u64) -> (House, Secrets) {
    let mut dice = Dice(seed | 1);
    let mut secrets = Secrets::default();
    let house = House::on_disk().await;
    secrets.keep("the administrator's password", PASSWORD);
    secrets.keep("the registration secret", &house.secret().await);
    let value = secrets.make("a vault value", &mut dice);
    house.admin.post("secret", json!({ "key": "TOKEN", "value": value })).await.expect(201);
    let mut ada = house.agent("ada").await;
    let jobs = || {
        vec![job(1, "go", &[], vec![argument("vault", "TOKEN", "")]), job(2, "on", &[1], vec![])]
    };
    let mut pipelines = Vec::new();
    for name in ["First", "Second"] {
        pipelines.push(house.pipeline(name, &mut ada, jobs()).await);
    }
    private_pipeline(&house, &mut ada, &mut secrets, &mut dice).await;
    for deed in 0..60 {
        let pipeline = pipelines[dice.below(2) as usize];
        // Each at least once.
        match if deed < 16 { deed } else { dice.below(16) } {
            0..=3 => a_run(&house, &mut ada, pipeline, &mut dice).await,
            4 => {
                let value = secrets.make("a vault value", &mut dice);
                let body = json!({ "key": format!("K{}", dice.below(3)), "value": value });
                house.admin.post("secret", body).await.expect(201);
            }
            5 => drop(house.admin.delete(&format!("secret/K{}", dice.below(3))).await),
            6 => {
                let act = if dice.below(2) == 0 { "suspend" } else { "resume" };
                // A second worker, which has no runs to lose.
                let path = format!("worker/{act}/{}", bob(&house).await);
                house.admin.post(&path, json!({ "note": "new disk" })).await.expect(200);
            }
            deed @ 7..=14 => administer(&house, deed, pipeline, &mut secrets, &mut dice).await,
            _ => {
                let run = house.run(pipeline, json!({ "tags": ["nobody-has-this"] })).await;
                let path = format!("run/{}/stop", run["uniqueid"].as_str().unwrap());
                house.admin.post(&path, json!({})).await;
            }
        }
    }
    let reset = house.admin.post("worker/secret", json!({})).await.expect(200);
    drop(reset);
    secrets.keep("the new registration secret", &house.secret().await);
    (house, secrets)
}

/// What administrators do beside starting runs. What a deed needs may be missing: it is then refused,
/// which changes nothing.
async fn administer(
    house: &House,
    deed: u64,
    pipeline: u64,
    secrets: &mut Secrets,
    dice: &mut Dice,
) {
    let (admin, one_of_two) = (&house.admin, dice.below(2));
    let user = format!("user{one_of_two}");
    match deed {
        7 => {
            let password = secrets.make("a user's password", dice);
            let roles = if one_of_two == 0 { "readonly" } else { "operator" };
            let body = json!({ "username": user, "password": password, "roles": [roles] });
            admin.post("user", body).await;
            let login = json!({ "username": user, "password": password });
            house.anonymous().post("login", login).await;
        }
        8 => {
            let password = secrets.make("a user's password", dice);
            let carol = json!({ "username": "carol", "password": password, "roles": ["operator"] });
            admin.post("user", carol).await;
            let roles = if one_of_two == 0 { json!([]) } else { json!(["PipelineStart"]) };
            let body = json!({ "username": "carol", "roles": roles, "groups": ["readonly"] });
            admin.json(Method::PUT, "user/carol/permissions", body).await.expect(200);
        }
        9 => drop(admin.delete(&format!("user/{user}")).await),
        10 => {
            let value = secrets.make("a secret variable", dice);
            let key = format!("KEY_{one_of_two}");
            let body =
                json!({ "worker": bob(house).await, "key": key, "value": value, "secret": true });
            admin.json(Method::PUT, "environment", body).await.expect(200);
            let body =
                json!({ "tag": "java", "key": "REGION", "value": format!("eu-{one_of_two}") });
            admin.json(Method::PUT, "environment", body).await.expect(200);
            if dice.below(2) == 0 {
                let body = json!({ "tag": "java", "key": "REGION" });
                admin.json(Method::DELETE, "environment", body).await.expect(200);
            }
        }
        11 => {
            let made = admin.post("worker/token", json!({ "uses": 2 })).await.expect(200).json();
            secrets.keep("a join token", made["token"].as_str().unwrap());
        }
        12 => {
            let path = format!("limit/pipeline/{pipeline}");
            if one_of_two == 0 {
                let limit = json!({ "running": 5 + dice.below(3) });
                admin.json(Method::PUT, &path, limit).await.expect(200);
            } else {
                admin.delete(&path).await;
            }
        }
        13 => {
            let crons = if one_of_two == 0 { json!([]) } else { json!(["0 0 0 29 2 *"]) };
            let body = json!({ "periodicschedules": crons, "tags": ["golang"] });
            admin.json(Method::PUT, &format!("pipeline/{pipeline}"), body).await.expect(200);
            let path = format!("pipeline/{pipeline}/reset-trigger-token");
            let made = admin.json(Method::PUT, &path, json!({})).await.expect(200).json();
            secrets.keep("a trigger token", made["trigger_token"].as_str().unwrap());
        }
        _ => drop(admin.delete(&format!("worker/{}", bob(house).await)).await.expect(200)),
    }
}

/// The id of a worker that never works.
async fn bob(house: &House) -> String {
    let workers = house.admin.get("worker").await.expect(200).json();
    let known = workers.as_array().unwrap().iter().find(|worker| worker["name"] == "bob");
    match known {
        Some(worker) => worker["uniqueid"].as_str().unwrap().to_owned(),
        None => Agent::join(house, "bob", &["java"]).await.id,
    }
}

/// A pipeline from a repository that asks who comes.
async fn private_pipeline(house: &House, ada: &mut Agent, secrets: &mut Secrets, dice: &mut Dice) {
    let password = secrets.make("a git password", dice);
    let body = json!({ "pipeline": {
        "name": "Private", "type": "golang",
        "repo": { "url": "https://example.org/private.git", "user": "ann", "password": password },
    }});
    house.admin.post("pipeline", body).await.expect(200);
    let order = ada.order().await;
    ada.report(&order, "failed").await;
}

/// A run that prints, and then succeeds, fails, or is tried once more.
async fn a_run(house: &House, ada: &mut Agent, pipeline: u64, dice: &mut Dice) {
    let run = house.run(pipeline, json!([])).await;
    let mut order = ada.order().await;
    print(ada, &order, dice).await;
    if dice.below(3) == 0 {
        ada.report(&order, "reschedule").await;
        order = ada.order().await;
        print(ada, &order, dice).await;
    }
    ada.report(&order, if dice.below(3) == 0 { "failed" } else { "success" }).await;
    house.ended(&run).await;
}

async fn print(ada: &Agent, order: &PipelineRun, dice: &mut Dice) {
    let text = format!("line {}\n", dice.below(1_000_000));
    let (size, digest) = (text.len(), Digest::of(text.as_bytes()));
    ada.log(order, &format!("?offset=0&size={size}&sha256={digest}"), &text).await.expect(200);
}

/// What can be folded from the log, for every service.
#[derive(Default)]
struct Rebuilt {
    scheduler: svc_scheduler::domain::State,
    registry: svc_registry::State,
    pipelines: svc_pipelines::domain::State,
    access: svc_access::State,
    logs: svc_logs::domain::State,
    artifacts: svc_artifacts::domain::State,
    /// Attempts whose logs are sealed, and what was stored.
    sealed: Vec<svc_logs::domain::LogId>,
    stored: Vec<Digest>,
    /// When the last event was recorded.
    last: Timestamp,
}

fn fold<S: Fold>(state: &mut S, fact: Option<S::Event>) {
    if let Some(fact) = fact {
        state.evolve(&fact);
    }
}

/// With nothing but the files: no service, network or clock.
fn rebuild(log: &Path) -> Rebuilt {
    let mut all = Rebuilt::default();
    files::walk(log, 0, |entry| {
        let event = &entry.recorded;
        all.last = event.recorded_at;
        fold(&mut all.scheduler, svc_scheduler::decode(event).unwrap());
        fold(&mut all.registry, svc_registry::decode(event).unwrap());
        fold(&mut all.pipelines, svc_pipelines::decode(event).unwrap());
        fold(&mut all.access, svc_access::decode(event).unwrap());
        let sealed = svc_logs::decode(event).unwrap();
        if let Some(svc_logs::domain::Fact::Log(svc_logs::domain::Event::LogSealed {
            log, ..
        })) = &sealed
        {
            all.sealed.push(*log);
        }
        fold(&mut all.logs, sealed);
        let stored = svc_artifacts::decode(event).unwrap();
        if let Some(svc_artifacts::domain::Fact::Artifact(
            svc_artifacts::domain::Event::ArtifactStored { digest, .. },
        )) = &stored
        {
            all.stored.push(*digest);
        }
        fold(&mut all.artifacts, stored);
        Ok::<_, OpenError>(ControlFlow::Continue(()))
    })
    .unwrap();
    all
}

async fn compare_views(house: &House, then: &Rebuilt) {
    let live = house.admin.get("run?builds=true&limit=0").await.expect(200).json();
    let live = live.as_array().unwrap();
    assert_eq!(then.scheduler.runs().count(), live.len());
    for run in live {
        let id: RunId = run["uniqueid"].as_str().unwrap().parse().unwrap();
        let view = svc_scheduler::view(&then.scheduler, id).unwrap();
        assert_eq!(&gateway::run_json(&view), run);
    }
    let pipelines = house.deps.pipelines.clone().list_pipelines(ListPipelinesRequest {}).await;
    let mut live = pipelines.unwrap().into_inner().pipelines;
    let mut views: Vec<_> = then.pipelines.pipelines().map(svc_pipelines::view).collect();
    live.sort_by_key(|pipeline| pipeline.id);
    views.sort_by_key(|pipeline| pipeline.id);
    assert_eq!((views.len(), &views), (3, &live));

    let workers = house.deps.registry.clone().list_workers(ListWorkersRequest::default()).await;
    let mut live = workers.unwrap().into_inner().workers;
    // Who is connected now is not in the log.
    for worker in &mut live {
        (worker.connected, worker.last_contact_at) = (false, 0);
    }
    let mut views = svc_registry::view(then.registry.workers(), |_| None);
    for worker in &mut views {
        worker.last_contact_at = 0;
    }
    assert_eq!(views, live);
}

async fn compare_stores(house: &House, then: &Rebuilt) {
    let secrets = house.deps.access.clone().list_secrets(ListSecretsRequest {}).await;
    let secrets = secrets.unwrap().into_inner().secrets;
    let live: Vec<_> = secrets.iter().map(|secret| (&*secret.key, secret.updated_at)).collect();
    let known: Vec<_> =
        then.access.secrets().map(|(key, secret)| (key, secret.updated_at.as_millis())).collect();
    assert_eq!(known, live);
    assert!(then.access.user("admin").is_some());

    assert!(!then.sealed.is_empty());
    for log in &then.sealed {
        let seal = then.logs.seal(*log).unwrap();
        let Attempt(attempt) = log.attempt;
        let request =
            ReadLogRequest { run_id: log.run.to_string(), attempt, ..ReadLogRequest::default() };
        let mut pieces = house.deps.logs.clone().read_log(request).await.unwrap().into_inner();
        let mut text = Vec::new();
        while let Some(piece) = pieces.message().await.unwrap() {
            text.extend_from_slice(&piece.data);
        }
        assert_eq!((seal.size, seal.digest), (text.len() as u64, Digest::of(&text)));
    }
    assert!(!then.stored.is_empty());
    for digest in &then.stored {
        let request = StatArtifactRequest { digest: digest.as_bytes().to_vec().into() };
        let live = house.deps.artifacts.clone().stat_artifact(request).await.unwrap().into_inner();
        let known = then.artifacts.artifact(*digest).unwrap();
        assert_eq!((known.size, known.stored_at.as_millis()), (live.size, live.stored_at));
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

pub(crate) fn seed() -> u64 {
    let seed = RandomState::new().build_hasher().finish();
    eprintln!("seed {seed}");
    seed
}

#[tokio::test]
async fn a_copy_of_the_log_alone_says_what_every_service_says() {
    let (house, _) = lived_in(seed()).await;
    let copied = house.data.path().join("copy");
    copy(&house.data.path().join("log"), &copied);
    let then = rebuild(&copied);
    compare_views(&house, &then).await;
    compare_stores(&house, &then).await;
    let log = Log::open(&copied, Clock::system()).unwrap();
    let live = answers::answers(&house.deps).await;
    let again = answers::rebuilt(&house, log, then.last).await;
    assert_eq!(live.len(), again.len());
    for (live, again) in live.iter().zip(&again) {
        assert_eq!(live, again);
    }
}

/// A value as it might have leaked: as it is, in Base64 at any offset, in hex.
fn forms(value: &str) -> Vec<Vec<u8>> {
    let bytes = value.as_bytes();
    let mut forms = vec![bytes.to_vec()];
    for shift in 0..3 {
        let padded = [&vec![0; shift], bytes].concat();
        // Only whole groups of the value itself: its neighbours are unknown.
        let (skip, whole) = (shift.div_ceil(3) * 4, (padded.len() / 3) * 4);
        forms.push(BASE64_STANDARD.encode(&padded)[skip..whole].into());
        forms.push(BASE64_URL_SAFE.encode(&padded)[skip..whole].into());
    }
    let hex = |upper: bool| {
        let digits = bytes
            .iter()
            .map(|byte| if upper { format!("{byte:02X}") } else { format!("{byte:02x}") });
        digits.collect::<String>().into_bytes()
    };
    forms.extend([hex(false), hex(true)]);
    forms
}

fn holds(bytes: &[u8], form: &[u8]) -> bool {
    let first = form[0];
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|byte| *byte == first) {
        rest = &rest[at..];
        if rest.starts_with(form) {
            return true;
        }
        rest = &rest[1..];
    }
    false
}

#[tokio::test]
async fn no_secret_is_in_the_log_in_any_form() {
    let (house, secrets) = lived_in(seed()).await;
    let token = house.admin.token().to_owned();
    let secrets = [secrets.0, vec![("a login's token".to_owned(), token)]].concat();
    assert!(secrets.len() >= 6, "{} secrets", secrets.len());
    let shown = house.admin.get("events?limit=1000").await.expect(200).text().into_bytes();
    let mut places = vec![("the REST view".to_owned(), shown)];
    for entry in fs::read_dir(house.data.path().join("log")).unwrap() {
        let path = entry.unwrap().path();
        places.push((path.display().to_string(), fs::read(&path).unwrap()));
    }
    assert!(places.iter().any(|(_, bytes)| holds(bytes, b"RunSubmitted")), "the log was searched");
    for (what, value) in &secrets {
        for form in forms(value) {
            for (place, bytes) in &places {
                let form = String::from_utf8_lossy(&form);
                assert!(!holds(bytes, form.as_bytes()), "{what} is in {place} as {form}");
            }
        }
    }
}

#[test]
fn a_leak_would_be_found() {
    let value = "hush-0123456789abcdef";
    let text = Value::from(format!("before {value} after")).to_string();
    let leaks = ["", "x", "xy"].map(|shift| BASE64_STANDARD.encode(format!("{shift}{text}")));
    for leak in [text.clone(), leaks[0].clone(), leaks[1].clone(), leaks[2].clone()] {
        assert!(forms(value).iter().any(|form| holds(leak.as_bytes(), form)), "{leak}");
    }
    assert!(!forms(value).iter().any(|form| holds(b"nothing of the kind", form)));
}
