//! Gaia's own agent, as it was observed on the wire: it registers by a form, keeps three files, shows its
//! certificate, names itself in the metadata of every call, asks for work every 3 s and reports every
//! 2 s, each with its deadlines, with Go's zero times, and sends the whole log again each time without
//! waiting for the answer.
//!
//! What it does not do is start the pipeline, whose jobs are `a` and `b`: what they print and how they end is
//! made up.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use futures::{StreamExt as _, stream};
use http_body_util::{BodyExt as _, Full};
use identity::{Credentials, anonymous_client_tls, client_tls};
use ids::Digest;
use proto::worker::{Job, LogChunk, PipelineRun, WorkerInstance, worker_client::WorkerClient};
use serde_json::Value;
use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval, timeout},
};
use tonic::{Request, Status, body::Body};
use tower::ServiceExt as _;
use transport::{Channel, Protocols};

const GET_WORK: Duration = Duration::from_secs(3);
const UPDATE: Duration = Duration::from_secs(2);
/// What Go sends for a time that is not set.
const GO_ZERO: i64 = -62_135_596_800;
const CHUNK: usize = 64 << 10;
/// Upon this text it deletes its files and ends; of all calls, only `GetWork` may hear it.
pub(crate) const SENT_AWAY: &str = "worker is not registered";

/// What becomes of the runs that it gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Does {
    Succeed,
    /// It cannot start them.
    GiveBack,
}

impl Does {
    /// The first sighting may be told twice. The last comes first.
    fn statuses(self) -> Vec<&'static str> {
        match self {
            Self::Succeed => vec!["success", "running", "not scheduled", "not scheduled"],
            Self::GiveBack => vec!["reschedule"],
        }
    }
}

/// A run that the agent has, and what it printed up to now.
struct Held {
    run: PipelineRun,
    log: String,
    /// What the next reports say; the last one stays.
    statuses: Vec<&'static str>,
}

/// How it went.
#[derive(Debug, Default)]
pub(crate) struct Work {
    pub(crate) finished: usize,
    pub(crate) sent_away: String,
}

pub(crate) struct GoAgent {
    api: WorkerClient<Channel>,
    id: String,
    home: PathBuf,
    held: HashMap<String, Held>,
    /// Calls whose answers it does not wait for.
    unawaited: JoinSet<()>,
}

impl GoAgent {
    /// With the files in its home, or, when there are none, by registering.
    pub(crate) async fn start(
        url: &str,
        ca: &str,
        home: &Path,
        name: &str,
        secret: &str,
    ) -> Result<Self> {
        let id = home.join("id");
        let (id, credentials) = match (Credentials::load(home), fs::read_to_string(&id)) {
            (Ok(credentials), Ok(id)) => (id, credentials),
            _ => register(url, ca, home, name, secret).await?,
        };
        // grpc-go speaks HTTP/2 and checks the name `gaia-pipeline.io`.
        let tls = client_tls(&credentials)?;
        let channel = Channel::remote(url, gaia::client::SERVER_NAME, tls, Protocols::Http2)?;
        let api = WorkerClient::new(channel);
        let (held, unawaited) = (HashMap::new(), JoinSet::new());
        Ok(Self { api, id, home: home.to_owned(), held, unawaited })
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// Its two loops, until `GetWork` says that it is not wanted.
    pub(crate) async fn work(&mut self, does: Does) -> Result<Work> {
        let mut work = Work::default();
        let (mut asks, mut updates) = (interval(GET_WORK), interval(UPDATE));
        // Go's tickers drop what is missed.
        asks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        updates.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                _ = asks.tick() => match self.get_work(does).await? {
                    Err(status) if status.message() == SENT_AWAY => {
                        status.message().clone_into(&mut work.sent_away);
                        break;
                    }
                    // It writes so to its own log, and asks again at the next tick.
                    Ok(()) | Err(_) => {}
                },
                _ = updates.tick() => self.update(&mut work).await,
            }
        }
        for name in ["cert.pem", "key.pem", "caCert.pem"] {
            fs::remove_file(self.home.join(name))?;
        }
        while self.unawaited.join_next().await.transpose()?.is_some() {}
        Ok(work)
    }

    fn request<T>(&self, message: T, deadline: u64) -> Request<T> {
        let mut request = Request::new(message);
        let metadata = request.metadata_mut();
        metadata.insert("uniqueid", self.id.parse().expect("an id is ASCII"));
        metadata.insert("user-agent", "grpc-go/1.29.1".parse().expect("it is ASCII"));
        request.set_timeout(Duration::from_secs(deadline));
        request
    }

    /// The outer error: the server says what Gaia's own would not.
    async fn get_work(&mut self, does: Does) -> Result<Result<(), Status>> {
        let instance = WorkerInstance {
            unique_id: self.id.clone(),
            worker_slots: 2 - self.held.len() as i32,
            tags: vec!["cpp".into(), "linux".into()],
            ..WorkerInstance::default()
        };
        let request = self.request(instance, 36);
        let mut orders = match self.api.get_work(request).await {
            Ok(orders) => orders.into_inner(),
            Err(status) => return Ok(Err(status)),
        };
        loop {
            let run = match orders.message().await {
                Ok(Some(run)) => run,
                Ok(None) => return Ok(Ok(())),
                Err(status) => return Ok(Err(status)),
            };
            ensure!((run.status.as_str(), run.docker) == ("scheduled", false), "{run:?}");
            if let Err(status) = self.download(&run).await? {
                return Ok(Err(status));
            }
            let held = Held { log: String::new(), statuses: does.statuses(), run };
            self.held.insert(held.run.unique_id.clone(), held);
        }
    }

    /// The whole file within five seconds, or not at all.
    async fn download(&mut self, run: &PipelineRun) -> Result<Result<(), Status>> {
        let request = self.request(run.clone(), 5);
        let mut chunks = match self.api.stream_binary(request).await {
            Ok(chunks) => chunks.into_inner(),
            Err(status) => return Ok(Err(status)),
        };
        let mut binary = vec![];
        loop {
            match chunks.message().await {
                Ok(Some(chunk)) => {
                    ensure!(chunk.chunk.len() <= CHUNK, "a piece has {}", chunk.chunk.len());
                    binary.extend_from_slice(&chunk.chunk);
                }
                Ok(None) => break,
                Err(status) => return Ok(Err(status)),
            }
        }
        ensure!(Digest::of(&binary).as_bytes()[..] == run.sha_sum[..], "another binary");
        Ok(Ok(()))
    }

    /// One pass over all runs.
    async fn update(&mut self, work: &mut Work) {
        let ids: Vec<_> = self.held.keys().cloned().collect();
        for id in ids {
            let Some(held) = self.held.get(&id) else { continue };
            let Some(status) = held.statuses.last().copied() else { continue };
            let last = held.statuses.len() == 1;
            let printed = format!("{}{status}: {}\n", held.log, "x".repeat(50_000));
            // The first time nothing was printed yet.
            let log = if last { printed.clone() } else { held.log.clone() };
            let run = report(&held.run, status);
            if status == "running" {
                self.cut_log(&run, &log).await;
            }
            self.stream_log(&run, &log);
            let request = self.request(run, 6);
            match self.api.update_work(request).await {
                // The same is told at the next tick.
                Err(_) => {}
                Ok(_) if last => {
                    self.held.remove(&id);
                    work.finished += 1;
                }
                Ok(_) => {
                    if let Some(held) = self.held.get_mut(&id) {
                        held.statuses.pop();
                        held.log = printed;
                    }
                }
            }
        }
    }

    /// From the beginning each time; nobody waits for the answer. Without a byte it is a call without a
    /// message.
    fn stream_log(&mut self, run: &PipelineRun, log: &str) {
        let request = self.request(stream::iter(chunks(run, log)), 6);
        let mut api = self.api.clone();
        self.unawaited.spawn(async move {
            // A log that did not get through is sent again with the next report.
            api.stream_logs(request).await.ok();
        });
    }

    /// A call that is cut off before its end, as when its context is cancelled.
    async fn cut_log(&mut self, run: &PipelineRun, log: &str) {
        let first = chunks(run, log).into_iter().take(1);
        let request = self.request(stream::iter(first).chain(stream::pending()), 6);
        let call = self.api.stream_logs(request);
        timeout(Duration::from_millis(200), call).await.ok();
    }
}

/// `POST worker/register` with a form, tags repeated, and the three files of the answer.
async fn register(
    url: &str,
    ca: &str,
    home: &Path,
    name: &str,
    secret: &str,
) -> Result<(String, Credentials)> {
    let tls = anonymous_client_tls(ca)?;
    let channel = Channel::remote(url, gaia::client::SERVER_NAME, tls, Protocols::Http2)?;
    let form = format!("name={name}&secret={secret}&tags=cpp&tags=linux");
    let request = http::Request::post("/api/v1/worker/register")
        .header("content-type", "application/x-www-form-urlencoded")
        .body(Body::new(Full::from(form)))?;
    let answer = channel.oneshot(request).await?;
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await?.to_bytes();
    if status != 200 {
        bail!("{status} {}", String::from_utf8_lossy(&body));
    }
    let answer: Value = serde_json::from_slice(&body)?;
    let fields: Vec<_> = answer.as_object().context("an object")?.keys().cloned().collect();
    ensure!(fields == ["cacert", "cert", "key", "uniqueid"], "{fields:?}");
    let text = |field: &str| answer[field].as_str().context("a text");
    let pem = |field: &str| -> Result<String> {
        Ok(String::from_utf8(BASE64_STANDARD.decode(text(field)?)?)?)
    };
    let credentials =
        Credentials { certificate: pem("cert")?, key: pem("key")?, ca: pem("cacert")? };
    ensure!(credentials.key.starts_with("-----BEGIN PRIVATE KEY-----"), "PKCS#8");
    credentials.save(home)?;
    let id = text("uniqueid")?.to_owned();
    fs::write(home.join("id"), &id)?;
    Ok((id, credentials))
}

fn chunks(run: &PipelineRun, log: &str) -> Vec<LogChunk> {
    let (run_id, pipeline_id) = (run.id, run.pipeline_id);
    let chunk = |chunk: &[u8]| LogChunk { run_id, pipeline_id, chunk: chunk.to_vec().into() };
    log.as_bytes().chunks(CHUNK).map(chunk).collect()
}

/// Neither attempt nor token, no name, type or digest; jobs with whole jobs that they depend on.
fn report(run: &PipelineRun, status: &str) -> PipelineRun {
    let told = if status == "reschedule" { "" } else { "running" };
    let job = |title: &str, depends_on| Job {
        unique_id: id_of(title),
        title: title.into(),
        status: told.into(),
        depends_on,
        ..Job::default()
    };
    let first = job("a", vec![]);
    let second = job("b", vec![first.clone()]);
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

/// A job's id as the SDKs make it: FNV-1a of its title.
fn id_of(title: &str) -> u32 {
    title
        .bytes()
        .fold(2_166_136_261, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(16_777_619))
}
