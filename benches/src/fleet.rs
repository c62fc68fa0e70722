//! Many workers in one load process, each with its own key, certificate and connection.

use std::{collections::HashMap, time::Duration, time::Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use gaia::api::Pipeline;
use http::{Method, Request, header};
use http_body_util::{BodyExt, Full};
use identity::{Credentials, JoinToken, Key};
use ids::Digest;
use proto::worker::{
    BuildResult, Instruction, Job, PipelineRun, WorkerInstance, worker_client::WorkerClient,
};
use serde::Deserialize;
use serde_json::{Value, json};
use tests::Cluster;
use tokio::sync::{Semaphore, mpsc};
use tonic::{Streaming, body::Body};
use tower::Service as _;
use transport::{Channel, Protocols};

use crate::now;

/// Workers that join or attach at the same time.
const AT_ONCE: usize = 16;

/// One worker: its identity and its connection.
#[derive(Clone, Debug)]
pub struct Member {
    pub id: String,
    key: String,
    certificate: String,
    ca: String,
    channel: Channel,
    worker: WorkerClient<Channel>,
}

/// How long a worker took to get in.
#[derive(Clone, Copy, Debug)]
pub struct Joined {
    /// From nothing to a certificate: key, connection, request, answer.
    pub certified: Duration,
    /// From nothing to an open stream of orders, which is when runs can come.
    pub ready: Duration,
}

/// What a worker hears.
#[derive(Debug)]
enum Heard {
    Build {
        worker: usize,
        order: Box<PipelineRun>,
    },
    /// A run came and was reported to run and to have succeeded.
    Life {
        run: String,
        arrived: Instant,
        ended: Instant,
    },
    Failed(anyhow::Error),
    /// Its stream ended.
    End {
        worker: usize,
        at: Instant,
    },
}

/// The workers that this process is.
#[derive(Debug)]
pub struct Fleet {
    url: String,
    http: Protocols,
    slots: i32,
    pub members: Vec<Member>,
    heard: mpsc::UnboundedReceiver<Heard>,
    tell: mpsc::UnboundedSender<Heard>,
    streams: Vec<tokio::task::AbortHandle>,
}

/// What came of runs under load.
#[derive(Debug)]
pub struct Outcome {
    pub took: Duration,
    /// From the start call to the order's arrival, of runs that began in this time.
    pub pick_ups: Vec<Duration>,
}

#[derive(Deserialize)]
struct Certified {
    uniqueid: String,
    certificate: String,
    ca_certificates: String,
}

impl Fleet {
    pub fn new(cluster: &Cluster, http: Protocols, slots: i32) -> Self {
        let (tell, heard) = mpsc::unbounded_channel();
        let (members, streams) = (Vec::new(), Vec::new());
        Self { url: cluster.url().to_owned(), http, slots, members, heard, tell, streams }
    }

    /// `count` more workers join by token and attach.
    pub async fn join(&mut self, cluster: &Cluster, count: usize) -> Result<Vec<Joined>> {
        let body = json!({ "uses": count, "ttl": 3_600_000 });
        let token: Value = cluster.client.post("/api/v1/worker/token", &body).await?;
        let token: JoinToken = token["token"].as_str().context("the token is shown")?.parse()?;
        let first = self.members.len();
        let (url, http, slots) = (&self.url, self.http, self.slots);
        let joined: Vec<_> = stream::iter(first..first + count)
            .map(async |at| {
                let begun = now();
                let member = Member::join(url, http, &token, at).await?;
                let certified = begun.elapsed();
                let orders = member.attach(slots).await?;
                anyhow::Ok((member, orders, Joined { certified, ready: begun.elapsed() }))
            })
            .buffered(AT_ONCE)
            .try_collect()
            .await?;
        let mut times = Vec::new();
        for (member, orders, joined) in joined {
            self.members.push(member);
            self.listen(self.members.len() - 1, orders);
            times.push(joined);
        }
        Ok(times)
    }

    /// All attach again, over new connections, to a server that was started again.
    pub async fn attach(&mut self) -> Result<()> {
        let (url, http, slots) = (&self.url, self.http, self.slots);
        let attached: Vec<_> = stream::iter(&self.members)
            .map(async |member| {
                let member = member.renewed(url, http)?;
                let orders = member.attach(slots).await?;
                anyhow::Ok((member, orders))
            })
            .buffered(AT_ONCE)
            .try_collect()
            .await?;
        for (at, (member, orders)) in attached.into_iter().enumerate() {
            self.members[at] = member;
            self.listen(at, orders);
        }
        Ok(())
    }

    /// Ends every stream and connection, as if the machines were gone.
    pub fn cut(&mut self) -> Result<()> {
        for stream in self.streams.drain(..) {
            stream.abort();
        }
        for at in 0..self.members.len() {
            self.members[at] = self.members[at].renewed(&self.url, self.http)?;
        }
        let (tell, heard) = mpsc::unbounded_channel();
        (self.tell, self.heard) = (tell, heard);
        Ok(())
    }

    fn listen(&mut self, worker: usize, orders: Streaming<PipelineRun>) {
        let member = self.members[worker].clone();
        let task = tokio::spawn(listen(member, worker, orders, self.tell.clone()));
        self.streams.push(task.abort_handle());
    }

    /// Creates a pipeline; whichever worker gets its build answers with a few bytes.
    pub async fn pipeline(&mut self, cluster: &Cluster, name: &str) -> Result<Pipeline> {
        let folder = cluster.home("unused");
        let pipeline = cluster.create(name, "cpp", &folder, &[]).await?;
        let (worker, order) = loop {
            match self.heard.recv().await.context("the workers are gone")? {
                Heard::Build { worker, order } => break (worker, order),
                Heard::Failed(error) => return Err(error),
                Heard::Life { .. } | Heard::End { .. } => {}
            }
        };
        self.members[worker].build(*order).await?;
        cluster
            .until("the pipeline is built", async || {
                let path = format!("/api/v1/pipeline/{}", pipeline.id);
                let pipeline: Pipeline = cluster.client.get(&path).await?;
                Ok((pipeline.version > 0).then_some(pipeline))
            })
            .await
    }

    /// When a worker's stream ended.
    pub async fn end(&mut self) -> Result<(usize, Instant)> {
        loop {
            if let Heard::End { worker, at } =
                self.heard.recv().await.context("no worker is left")?
            {
                return Ok((worker, at));
            }
        }
    }

    /// Whole lives of runs, at most `at_once` of them between start and end. With `pause`, a start each
    /// so long, whatever the server does.
    pub async fn lives(
        &mut self,
        cluster: &Cluster,
        pipeline: &Pipeline,
        count: usize,
        at_once: usize,
        pause: Option<Duration>,
    ) -> Result<Outcome> {
        let room = Semaphore::new(at_once);
        let begun = now();
        let starts = stream::iter(0..count).map(async |nth| {
            if let Some(pause) = pause {
                let due = begun + pause * u32::try_from(nth)?;
                tokio::time::sleep_until(due.into()).await;
            }
            room.acquire().await?.forget();
            let asked = now();
            let run = cluster.start_run(pipeline, json!({})).await?;
            anyhow::Ok((run.uniqueid, asked))
        });
        let starts = starts.buffer_unordered(at_once).try_collect::<Vec<_>>();
        let heard = &mut self.heard;
        let lives = async {
            let mut lives = HashMap::new();
            while lives.len() < count {
                match heard.recv().await.context("the workers are gone")? {
                    // Of what waited before: it went through while the workers attached.
                    Heard::Life { ended, .. } if ended < begun => {}
                    Heard::Life { run, arrived, ended } => {
                        lives.insert(run, (arrived, ended));
                        room.add_permits(1);
                    }
                    Heard::Failed(error) => return Err(error),
                    Heard::Build { .. } => {}
                    Heard::End { worker, .. } => anyhow::bail!("worker {worker} was cut"),
                }
            }
            anyhow::Ok(lives)
        };
        let (starts, lives) = tokio::try_join!(starts, lives)?;
        let last = lives.values().map(|(_, ended)| *ended).max().context("there are runs")?;
        let pick_up = |(run, asked): (String, Instant)| {
            lives.get(&run).map(|(arrived, _)| arrived.duration_since(asked))
        };
        let pick_ups = starts.into_iter().filter_map(pick_up).collect();
        Ok(Outcome { took: last.duration_since(begun), pick_ups })
    }
}

async fn listen(
    member: Member,
    worker: usize,
    mut orders: Streaming<PipelineRun>,
    tell: mpsc::UnboundedSender<Heard>,
) {
    while let Ok(Some(order)) = orders.message().await {
        let arrived = now();
        if order.instruction() != Instruction::Run {
            continue;
        }
        if order.build.is_some() {
            tell.send(Heard::Build { worker, order: Box::new(order) }).ok();
            continue;
        }
        let (member, tell) = (member.clone(), tell.clone());
        tokio::spawn(async move {
            let heard = match member.live(&order).await {
                Ok(()) => Heard::Life { run: order.unique_id, arrived, ended: now() },
                Err(error) => Heard::Failed(error),
            };
            tell.send(heard).ok();
        });
    }
    // Nobody may listen any more.
    tell.send(Heard::End { worker, at: now() }).ok();
}

impl Member {
    async fn join(url: &str, http: Protocols, token: &JoinToken, at: usize) -> Result<Self> {
        let door = identity::pinned_client_tls(token.ca)?;
        let door = Channel::remote(url, gaia::client::SERVER_NAME, door, http)?;
        let key = Key::generate()?;
        let body = json!({
            "token": token.to_text(),
            "request": key.request()?,
            "name": format!("load-{at}"),
            "tags": ["cpp"],
        });
        let certified = certify(door, "/api/v1/worker/join", &body).await?;
        let Credentials { certificate, key, ca } =
            key.certified(certified.certificate, certified.ca_certificates)?;
        Self::new(url, http, certified.uniqueid, key, certificate, ca)
    }

    fn new(
        url: &str,
        http: Protocols,
        id: String,
        key: String,
        certificate: String,
        ca: String,
    ) -> Result<Self> {
        let credentials =
            Credentials { certificate: certificate.clone(), key: key.clone(), ca: ca.clone() };
        let tls = identity::client_tls(&credentials)?;
        let channel = Channel::remote(url, gaia::client::SERVER_NAME, tls, http)?;
        let worker = WorkerClient::new(channel.clone());
        Ok(Self { id, key, certificate, ca, channel, worker })
    }

    /// The same on a connection that is not made yet.
    fn renewed(&self, url: &str, http: Protocols) -> Result<Self> {
        let Self { id, key, certificate, ca, .. } = self.clone();
        Self::new(url, http, id, key, certificate, ca)
    }

    /// Opens the stream of orders; answered when the registry and the scheduler have the worker.
    async fn attach(&self, slots: i32) -> Result<Streaming<PipelineRun>> {
        let instance = WorkerInstance {
            unique_id: self.id.clone(),
            worker_slots: slots,
            tags: vec!["cpp".into()],
            push: true,
            ..WorkerInstance::default()
        };
        Ok(self.worker.clone().get_work(instance).await?.into_inner())
    }

    /// Asks for the next certificate, for another key, and leaves it at that.
    pub async fn renew(&self) -> Result<()> {
        let body = json!({ "request": Key::generate()?.request()? });
        certify(self.channel.clone(), "/api/v1/worker/certificate", &body).await.map(drop)
    }

    async fn live(&self, order: &PipelineRun) -> Result<()> {
        self.report(order, "running").await?;
        self.report(order, "success").await
    }

    async fn report(&self, order: &PipelineRun, status: &str) -> Result<()> {
        let mut report = order.clone();
        status.clone_into(&mut report.status);
        for job in &mut report.jobs {
            status.clone_into(&mut job.status);
        }
        self.worker.clone().update_work(report).await?;
        Ok(())
    }

    async fn build(&self, order: PipelineRun) -> Result<()> {
        let binary = Bytes::from_static(b"a few bytes");
        let digest = Digest::of(&binary);
        let request = Request::put(format!("/artifacts/sha256/{digest}"))
            .header("x-gaia-run", &order.unique_id)
            .header("x-gaia-attempt", order.attempt)
            .header("x-gaia-lease", &order.lease_token)
            .body(Body::new(Full::new(binary.clone())))?;
        let answer = self.channel.clone().call(request).await?;
        anyhow::ensure!(
            answer.status().is_success(),
            "the upload was answered {}",
            answer.status()
        );
        let build = BuildResult {
            sha_sum: digest.as_bytes().to_vec(),
            size: binary.len() as u64,
            commit: "0".repeat(40),
            jobs: vec![Job { unique_id: 1, title: "Nothing".into(), ..Job::default() }],
        };
        let report = PipelineRun { status: "success".into(), build_result: Some(build), ..order };
        self.worker.clone().update_work(report).await?;
        Ok(())
    }
}

async fn certify(mut channel: Channel, path: &str, body: &Value) -> Result<Certified> {
    let request = Request::builder()
        .method(Method::POST)
        .uri(path)
        .header(header::CONTENT_TYPE, "application/json")
        .body(Body::new(Full::new(Bytes::from(body.to_string()))))?;
    let answer = channel.call(request).await?;
    let status = answer.status();
    let bytes = answer.into_body().collect().await?.to_bytes();
    anyhow::ensure!(status.is_success(), "{path}: {status} {}", String::from_utf8_lossy(&bytes));
    Ok(serde_json::from_slice(&bytes)?)
}
