//! A program as a worker: it joins over the public door with mTLS, takes orders and reports, so that
//! what lies between is measured with one clock.

use std::{sync::Arc, time::Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use gaia::api::Pipeline;
use http::{Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use identity::Credentials;
use ids::Digest;
use proto::worker::{
    BuildResult, Instruction, Job, PipelineRun, WorkerInstance, worker_client::WorkerClient,
};
use serde_json::{Value, json};
use tests::Cluster;
use tokio::sync::{Mutex, mpsc};
use tonic::body::Body;
use tower::Service as _;
use transport::{Channel, Protocols};

use crate::now;

/// This program as a worker.
#[derive(Clone, Debug)]
pub struct BenchWorker {
    worker: WorkerClient<Channel>,
    channel: Channel,
    url: String,
    credentials: Credentials,
    http: Protocols,
    id: String,
    orders: Arc<Mutex<mpsc::UnboundedReceiver<(PipelineRun, Instant)>>>,
}

impl BenchWorker {
    /// `name` becomes a tag, too, so that its pipelines come to it.
    pub async fn join(cluster: &Cluster, name: &str, http: Protocols) -> Result<Self> {
        let (id, credentials) = register(cluster, name).await?;
        let channel = reach(cluster.url(), &credentials, http)?;
        let mut worker = WorkerClient::new(channel.clone());
        let instance = WorkerInstance {
            unique_id: id.clone(),
            worker_slots: 10_000,
            tags: vec!["cpp".into(), name.replace('/', "")],
            push: true,
            ..WorkerInstance::default()
        };
        let mut incoming = worker.get_work(with_id(instance, &id)?).await?.into_inner();
        let (sender, orders) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok(Some(order)) = incoming.message().await {
                if order.instruction() == Instruction::Run && sender.send((order, now())).is_err() {
                    break;
                }
            }
        });
        let (url, orders) = (cluster.url().to_owned(), Arc::new(Mutex::new(orders)));
        Ok(Self { worker, channel, url, credentials, http, id, orders })
    }

    /// The same with another connection for what is bulk.
    pub fn apart(&self) -> Result<Self> {
        self.at(&self.url)
    }

    /// The same with another connection for what is bulk, which goes there.
    pub fn at(&self, url: &str) -> Result<Self> {
        let channel = reach(url, &self.credentials, self.http)?;
        Ok(Self { channel, ..self.clone() })
    }

    /// The next order, and when it arrived.
    pub async fn order(&self) -> Result<(PipelineRun, Instant)> {
        self.orders.lock().await.recv().await.context("the server ended the stream of orders")
    }

    /// Reports the run and all its jobs to be so.
    pub async fn report(&self, order: &PipelineRun, status: &str) -> Result<()> {
        let mut report = order.clone();
        report.status = status.to_owned();
        for job in &mut report.jobs {
            status.clone_into(&mut job.status);
        }
        self.worker.clone().update_work(with_id(report, &self.id)?).await?;
        Ok(())
    }

    /// The order to build a new pipeline of this name, and the pipeline.
    pub async fn build(
        &self,
        cluster: &Cluster,
        name: &str,
        tag: &str,
    ) -> Result<(PipelineRun, Pipeline)> {
        let (folder, tag) = (cluster.home("unused"), tag.replace('/', ""));
        let name = format!("bench {}", name.replace('/', ""));
        let pipeline = cluster.create(&name, "cpp", &folder, &[&tag]).await?;
        Ok((self.order().await?.0, pipeline))
    }

    /// Creates a pipeline and answers its build order with this binary.
    pub async fn pipeline(&self, cluster: &Cluster, name: &str, binary: Bytes) -> Result<Pipeline> {
        let (order, pipeline) = self.build(cluster, name, name).await?;
        let (digest, size) = (Digest::of(&binary), binary.len() as u64);
        let path = format!("/artifacts/sha256/{digest}");
        self.bulk(&order, Request::put(path), binary).await?;
        let mut report = order.clone();
        report.status = "success".into();
        report.build_result = Some(BuildResult {
            sha_sum: digest.as_bytes().to_vec(),
            size,
            commit: "0".repeat(40),
            jobs: vec![Job { unique_id: 1, title: "Nothing".into(), ..Job::default() }],
        });
        self.worker.clone().update_work(with_id(report, &self.id)?).await?;
        cluster
            .until("the pipeline is built", async || {
                let pipeline: Pipeline =
                    cluster.client.get(&format!("/api/v1/pipeline/{}", pipeline.id)).await?;
                Ok((pipeline.version > 0).then_some(pipeline))
            })
            .await
    }

    /// Calls a bulk route; the answer's body is read and counted.
    pub async fn bulk(
        &self,
        order: &PipelineRun,
        request: http::request::Builder,
        body: Bytes,
    ) -> Result<usize> {
        let mut body = self.open(order, request, body).await?.into_body();
        let mut bytes = 0;
        while let Some(frame) = body.frame().await {
            bytes += frame?.data_ref().map_or(0, Bytes::len);
        }
        Ok(bytes)
    }

    /// Calls a bulk route whose answer is short.
    pub async fn ask(
        &self,
        order: &PipelineRun,
        request: http::request::Builder,
        body: Bytes,
    ) -> Result<(Bytes, StatusCode)> {
        let answer = self.open(order, request, body).await?;
        let status = answer.status();
        Ok((answer.into_body().collect().await?.to_bytes(), status))
    }

    /// With a body in pieces as agents send them, under the order's lease.
    async fn open(
        &self,
        order: &PipelineRun,
        request: http::request::Builder,
        body: Bytes,
    ) -> Result<Response<Body>> {
        let request = request
            .header("x-gaia-run", &order.unique_id)
            .header("x-gaia-attempt", order.attempt)
            .header("x-gaia-lease", &order.lease_token)
            .body(pieces(body))?;
        let answer: Response<Body> = self.channel.clone().call(request).await?;
        let status = answer.status();
        anyhow::ensure!(status.is_success(), "a bulk route answered {status}");
        Ok(answer)
    }

    /// The server forgets this worker.
    pub async fn leave(self) -> Result<()> {
        let me = WorkerInstance { unique_id: self.id.clone(), ..WorkerInstance::default() };
        self.worker.clone().deregister(with_id(me, &self.id)?).await?;
        Ok(())
    }
}

fn reach(url: &str, credentials: &Credentials, http: Protocols) -> Result<Channel> {
    let tls = identity::client_tls(credentials)?;
    Ok(Channel::remote(url, gaia::client::SERVER_NAME, tls, http)?)
}

fn pieces(mut body: Bytes) -> Body {
    let pieces = std::iter::from_fn(move || {
        let piece = body.split_to(body.len().min(128 << 10));
        (!piece.is_empty()).then(|| Ok::<_, std::io::Error>(Frame::data(piece)))
    });
    Body::new(StreamBody::new(futures::stream::iter(pieces)))
}

async fn register(cluster: &Cluster, name: &str) -> Result<(String, Credentials)> {
    use base64::{Engine as _, prelude::BASE64_STANDARD};
    let secret = gaia::command::worker::registration_secret(&cluster.client).await?;
    let body = json!({ "secret": secret, "name": name.replace('/', ""), "tags": ["cpp"] });
    let answer: Value = cluster.client.post("/api/v1/worker/register", &body).await?;
    let pem = |field: &str| -> Result<String> {
        Ok(String::from_utf8(BASE64_STANDARD.decode(answer[field].as_str().unwrap_or_default())?)?)
    };
    let credentials =
        Credentials { certificate: pem("cert")?, key: pem("key")?, ca: pem("cacert")? };
    Ok((answer["uniqueid"].as_str().unwrap_or_default().to_owned(), credentials))
}

fn with_id<T>(message: T, id: &str) -> Result<tonic::Request<T>> {
    let mut request = tonic::Request::new(message);
    request.metadata_mut().insert("uniqueid", id.parse()?);
    Ok(request)
}
