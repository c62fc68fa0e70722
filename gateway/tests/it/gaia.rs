//! Gaia's own agent, as it was observed: it registers by a form, shows its certificate, names itself in
//! the metadata of every call, asks for work every 3 s and reports every 2 s, each with its deadlines,
//! with Go's zero times, and sends the whole log again each time without waiting for the answer.

use std::{collections::HashMap, time::Duration};

use ::identity::{Credentials, anonymous_client_tls, client_tls};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use futures::stream;
use http::Method;
use ids::Digest;
use proto::worker::{Job, LogChunk, PipelineRun, WorkerInstance, worker_client::WorkerClient};
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::interval};
use tonic::{Code, Request, Status};
use transport::{Channel, Protocols};

use crate::{
    agent::job,
    client::{Client, patiently},
    house::House,
    network::Site,
};

const GET_WORK: Duration = Duration::from_secs(3);
const UPDATE: Duration = Duration::from_secs(2);
/// What Go sends for a time that is not set.
const GO_ZERO: i64 = -62_135_596_800;
const CHUNK: usize = 64 << 10;

/// A run that the agent has, and what it printed up to now.
struct Held {
    run: PipelineRun,
    log: String,
    /// What the next reports say; the last one stays.
    statuses: Vec<&'static str>,
}

struct GoAgent {
    api: WorkerClient<Channel>,
    id: String,
    held: HashMap<String, Held>,
    /// Calls whose answers it does not wait for.
    unawaited: JoinSet<()>,
    /// Statuses that were reported, in order.
    reported: Vec<String>,
    finished: usize,
}

impl GoAgent {
    /// `POST worker/register` with a form, tags repeated, and the three files of the answer.
    async fn register(site: &Site, secret: &str) -> Self {
        let anonymous = anonymous_client_tls(&site.ca).unwrap();
        let client = Client::new(site.channel(anonymous, Protocols::Http2));
        let form = [("content-type", "application/x-www-form-urlencoded")];
        let body = format!("name=my-worker&secret={secret}&tags=golang&tags=linux");
        let path = "/api/v1/worker/register";
        let answer = client.call(Method::POST, path, &form, body).await.expect(200).json();
        let fields: Vec<_> = answer.as_object().unwrap().keys().cloned().collect();
        assert_eq!(fields, ["cacert", "cert", "key", "uniqueid"]);
        let pem = |field: &str| {
            let bytes = BASE64_STANDARD.decode(answer[field].as_str().unwrap()).unwrap();
            String::from_utf8(bytes).unwrap()
        };
        assert!(pem("key").starts_with("-----BEGIN PRIVATE KEY-----"), "PKCS#8");
        let credentials =
            Credentials { certificate: pem("cert"), key: pem("key"), ca: pem("cacert") };
        // grpc-go speaks HTTP/2 and checks the name `gaia-pipeline.io`, which `Site` asks for.
        let channel = site.channel(client_tls(&credentials).unwrap(), Protocols::Http2);
        Self {
            api: WorkerClient::new(channel),
            id: answer["uniqueid"].as_str().unwrap().to_owned(),
            held: HashMap::new(),
            unawaited: JoinSet::new(),
            reported: vec![],
            finished: 0,
        }
    }

    fn request<T>(&self, message: T, deadline: u64) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("uniqueid", self.id.parse().unwrap());
        request.metadata_mut().insert("user-agent", "grpc-go/1.29.1".parse().unwrap());
        request.set_timeout(Duration::from_secs(deadline));
        request
    }

    async fn get_work(&mut self) -> Result<(), Status> {
        let instance = WorkerInstance {
            unique_id: self.id.clone(),
            worker_slots: 2 - self.held.len() as i32,
            tags: vec!["golang".into(), "linux".into()],
            ..WorkerInstance::default()
        };
        let mut orders = self.api.get_work(self.request(instance, 36)).await?.into_inner();
        while let Some(run) = orders.message().await? {
            assert_eq!((run.status.as_str(), run.docker), ("scheduled", false));
            self.download(&run).await?;
            let statuses = vec!["success", "running", "not scheduled", "not scheduled"];
            let held = Held { log: String::new(), statuses, run };
            self.held.insert(held.run.unique_id.clone(), held);
        }
        Ok(())
    }

    /// The whole file within five seconds, or not at all.
    async fn download(&mut self, run: &PipelineRun) -> Result<(), Status> {
        let request = self.request(run.clone(), 5);
        let mut chunks = self.api.stream_binary(request).await?.into_inner();
        let mut binary = vec![];
        while let Some(chunk) = chunks.message().await? {
            binary.extend_from_slice(&chunk.chunk);
        }
        assert_eq!(Digest::of(&binary).as_bytes()[..], run.sha_sum[..]);
        Ok(())
    }

    /// One pass over all runs.
    async fn update(&mut self) {
        let ids: Vec<_> = self.held.keys().cloned().collect();
        for id in ids {
            let held = self.held.get_mut(&id).unwrap();
            let status = held.statuses.pop().unwrap();
            held.log.extend([status, ": ", &"x".repeat(50_000), "\n"]);
            let (log, run) = (held.log.clone(), report(&held.run, status));
            if held.statuses.is_empty() {
                self.held.remove(&id);
                self.finished += 1;
            }
            self.stream_log(&run, &log);
            self.reported.push(status.to_owned());
            let request = self.request(run, 6);
            self.api.update_work(request).await.expect("the report is taken");
        }
    }

    /// From the beginning each time; nobody waits for the answer.
    fn stream_log(&mut self, run: &PipelineRun, log: &str) {
        let (run_id, pipeline_id) = (run.id, run.pipeline_id);
        let chunks = log.as_bytes().chunks(CHUNK);
        let chunk = |chunk: &[u8]| LogChunk { run_id, pipeline_id, chunk: chunk.to_vec().into() };
        let chunks: Vec<_> = chunks.map(chunk).collect();
        let request = self.request(stream::iter(chunks), 6);
        let mut api = self.api.clone();
        self.unawaited.spawn(async move {
            api.stream_logs(request).await.expect("the log is taken");
        });
    }

    /// Its two loops, until `GetWork` says that it is not wanted or this many runs have ended.
    async fn work(&mut self, runs: usize) -> Result<(), Status> {
        let (mut asks, mut updates) = (interval(GET_WORK), interval(UPDATE));
        while self.finished < runs {
            tokio::select! {
                _ = asks.tick() => self.get_work().await?,
                _ = updates.tick() => self.update().await,
            }
        }
        while self.unawaited.join_next().await.transpose().unwrap().is_some() {}
        Ok(())
    }
}

/// Neither attempt nor token, no name, type or digest; jobs with whole jobs that they depend on.
fn report(run: &PipelineRun, status: &str) -> PipelineRun {
    let first = Job { unique_id: 1, title: "a".into(), status: "running".into(), ..Job::default() };
    let depends_on = vec![first.clone()];
    let second = Job { unique_id: 2, title: "b".into(), depends_on, ..first.clone() };
    PipelineRun {
        unique_id: run.unique_id.clone(),
        id: run.id,
        pipeline_id: run.pipeline_id,
        status: status.into(),
        schedule_date: run.schedule_date,
        start_date: GO_ZERO,
        finish_date: GO_ZERO,
        jobs: vec![first, second],
        ..PipelineRun::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn gaias_agent_joins_works_and_is_sent_away() {
    let house = House::start().await;
    let site = Site::open(&house).await;
    let mut ada = house.agent("ada").await;
    let jobs = vec![job(1, "a", &[], vec![]), job(2, "b", &[1], vec![])];
    let pipeline = house.pipeline("Gaia", &mut ada, jobs).await;
    ada.disconnect();
    house.admin.delete(&format!("worker/{}", ada.id)).await.expect(200);

    let mut go = GoAgent::register(&site, &house.secret().await).await;
    let first = house.run(pipeline, json!({})).await;
    let second = house.run(pipeline, json!({})).await;
    tokio::time::timeout(Duration::from_mins(1), go.work(2)).await.unwrap().unwrap();
    for run in [&first, &second] {
        let ended = house.ended(run).await;
        assert_eq!(
            (&ended["status"], &ended["attempts"][0]["workername"]),
            (&json!("success"), &json!("my-worker"))
        );
        let path = format!("run/{}/log?raw=1", run["uniqueid"].as_str().unwrap());
        let log = house.admin.get(&path).await.expect(200).text();
        let lines: Vec<_> = log.lines().map(|line| line.split(':').next().unwrap()).collect();
        assert_eq!(lines, ["not scheduled", "not scheduled", "running", "success"]);
    }
    assert_eq!(go.reported.len(), 8);
    let worker = &house.admin.get("worker").await.expect(200).json()[0];
    assert_eq!(
        (&worker["name"], &worker["status"], &worker["finishedruns"], &worker["tags"]),
        (&json!("my-worker"), &json!("active"), &json!(2), &json!(["golang", "linux"]))
    );

    let path = format!("worker/{}", go.id);
    house.admin.delete(&path).await.expect(200);
    // Upon this text it deletes its certificate and ends.
    let sent_away = patiently(go.work(3)).await.unwrap_err();
    assert_eq!(
        (sent_away.code(), sent_away.message()),
        (Code::Unknown, "worker is not registered")
    );
    site.shutdown.cancel();
}

#[tokio::test]
async fn the_workers_endpoints_answer_as_gaias_do() {
    let house = House::start().await;
    // A Go slice that nothing was added to.
    assert_eq!(house.admin.get("worker").await.expect(200).text(), "null");
    let overview = house.admin.get("worker/status").await.expect(200).json();
    for (field, value) in [
        ("activeworker", 0),
        ("suspendedworker", 0),
        ("inactiveworker", 0),
        ("finishedruns", 0),
        ("queuesize", 0),
    ] {
        assert_eq!(overview[field], json!(value), "{overview}");
    }
    let secret = house.admin.get("worker/secret").await.expect(200);
    assert!(secret.header("content-type").starts_with("text/plain"));
    for unknown in ["00000000-0000-0000-0000-000000000001", "my-worker", "1"] {
        let refused = house.admin.delete(&format!("worker/{unknown}")).await.expect(400);
        assert_eq!(refused.text(), "worker is not registered");
        assert!(refused.header("content-type").starts_with("text/plain"));
    }
    let reset = house.admin.post("worker/secret", Value::Null).await.expect(200);
    assert_eq!(reset.text(), "global worker registration secret has been successfully reset");

    let agent = house.agent("ada").await;
    let workers = house.admin.get("worker").await.expect(200).json();
    let worker = workers[0].as_object().unwrap();
    assert_eq!(worker["uniqueid"], json!(agent.id));
    let gaias = [
        "uniqueid",
        "name",
        "status",
        "slots",
        "registerdate",
        "lastcontact",
        "finishedruns",
        "tags",
    ];
    assert!(gaias.iter().all(|field| worker.contains_key(*field)), "{workers}");
    for date in ["registerdate", "lastcontact"] {
        chrono::DateTime::parse_from_rfc3339(worker[date].as_str().unwrap()).unwrap();
    }
    let overview = house.admin.get("worker/status").await.expect(200).json();
    assert_eq!(overview["activeworker"], 1);
    let removed = house.admin.delete(&format!("worker/{}", agent.id)).await.expect(200);
    assert_eq!(removed.text(), "worker has been successfully deregistered");
}
