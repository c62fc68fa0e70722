//! An agent that does nothing of itself: tests speak the Worker API through it.

use ::identity::Peer;
use bytes::Bytes;
use http::Method;
use ids::Digest;
use proto::worker::{
    Argument, BuildResult, Instruction, Job, PipelineRun, WorkerInstance,
    worker_client::WorkerClient,
};
use serde_json::json;
use tonic::{Code, Request, Status, Streaming};
use transport::Channel;

use crate::{
    client::{Answer, Client, patiently},
    house::House,
};

#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) id: String,
    pub(crate) api: WorkerClient<Channel>,
    pub(crate) client: Client,
    orders: Option<Streaming<PipelineRun>>,
}

impl Agent {
    /// Registers, and is whoever the registration made it.
    pub(crate) async fn join(house: &House, name: &str, tags: &[&str]) -> Self {
        let body = json!({ "secret": house.secret().await, "name": name, "tags": tags });
        let registered = house.anonymous().post("worker/register", body).await.expect(200).json();
        let id = registered["uniqueid"].as_str().unwrap().to_owned();
        let channel = house.channel(Peer::Worker(id.parse().unwrap()));
        Self::over(channel, id)
    }

    /// The same by a join token, as our agents do.
    pub(crate) async fn join_by_token(house: &House, name: &str) -> Self {
        let token = house.admin.post("worker/token", json!({})).await.expect(200).json();
        let request = ::identity::Key::generate().unwrap().request().unwrap();
        let body = json!({ "token": token["token"], "request": request, "name": name });
        let joined = house.anonymous().post("worker/join", body).await.expect(200).json();
        let id = joined["uniqueid"].as_str().unwrap().to_owned();
        Self::over(house.channel(Peer::Worker(id.parse().unwrap())), id)
    }

    pub(crate) fn over(channel: Channel, id: String) -> Self {
        let api = WorkerClient::new(channel.clone());
        Self { id, api, client: Client::new(channel), orders: None }
    }

    pub(crate) fn instance(&self, slots: i32, tags: &[&str], push: bool) -> WorkerInstance {
        WorkerInstance {
            unique_id: self.id.clone(),
            worker_slots: slots,
            tags: tags.iter().map(ToString::to_string).collect(),
            push,
            os: "linux".into(),
            arch: "x86_64".into(),
            version: "test".into(),
            ..WorkerInstance::default()
        }
    }

    pub(crate) async fn connect(&mut self, slots: i32, tags: &[&str]) {
        let orders = self.get_work(slots, tags, true).await.expect("the agent is admitted");
        self.orders = Some(orders);
    }

    pub(crate) fn disconnect(&mut self) {
        self.orders = None;
    }

    pub(crate) async fn get_work(
        &mut self,
        slots: i32,
        tags: &[&str],
        push: bool,
    ) -> Result<Streaming<PipelineRun>, Status> {
        let request = self.request(self.instance(slots, tags, push));
        patiently(self.api.get_work(request)).await.map(tonic::Response::into_inner)
    }

    /// A call as agents make it.
    pub(crate) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("uniqueid", self.id.parse().unwrap());
        request
    }

    /// The next order but signs of life; an error if the stream ended with one.
    pub(crate) async fn next(&mut self) -> Result<PipelineRun, Status> {
        let orders = self.orders.as_mut().expect("the agent is connected");
        loop {
            let order = patiently(orders.message()).await?;
            let order = order.ok_or_else(|| Status::new(Code::Ok, "the stream ended"))?;
            if order.instruction() != Instruction::Nothing {
                return Ok(order);
            }
        }
    }

    pub(crate) async fn order(&mut self) -> PipelineRun {
        let order = self.next().await.expect("an order");
        assert_eq!(order.instruction(), Instruction::Run);
        order
    }

    /// The next message of any kind.
    pub(crate) async fn message(&mut self) -> PipelineRun {
        let orders = self.orders.as_mut().expect("the agent is connected");
        patiently(orders.message()).await.unwrap().expect("a message")
    }

    pub(crate) async fn try_report(&mut self, report: PipelineRun) -> Result<(), Status> {
        let request = self.request(report);
        patiently(self.api.update_work(request)).await.map(drop)
    }

    pub(crate) async fn report(&mut self, order: &PipelineRun, status: &str) {
        self.try_report(report(order, status)).await.expect("the report is taken");
    }

    /// Builds what was ordered: uploads `binary`, and says that it has these jobs.
    pub(crate) async fn build(&mut self, order: &PipelineRun, binary: &[u8], jobs: Vec<Job>) {
        assert!(order.build.is_some(), "this is a build");
        self.report(order, "running").await;
        let digest = Digest::of(binary);
        let path = format!("/artifacts/sha256/{digest}");
        self.bulk(Method::PUT, &path, order, &[], binary.to_vec()).await.expect(201);
        let result = BuildResult {
            sha_sum: digest.as_bytes().to_vec(),
            size: binary.len() as u64,
            commit: "c0ffee".into(),
            jobs,
        };
        let report = PipelineRun { build_result: Some(result), ..report(order, "success") };
        self.try_report(report).await.expect("the build is taken");
    }

    /// A bulk request under the order's lease.
    pub(crate) async fn bulk(
        &self,
        method: Method,
        path: &str,
        order: &PipelineRun,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Answer {
        let attempt = order.attempt.to_string();
        let mut all = vec![
            ("x-gaia-run", order.unique_id.as_str()),
            ("x-gaia-attempt", attempt.as_str()),
            ("x-gaia-lease", order.lease_token.as_str()),
        ];
        all.extend(headers);
        self.client.call(method, path, &all, body).await
    }

    pub(crate) async fn log(&self, order: &PipelineRun, query: &str, text: &str) -> Answer {
        let path = format!("/runs/{}/attempts/{}/log{query}", order.unique_id, order.attempt);
        self.bulk(Method::PUT, &path, order, &[], text.to_owned()).await
    }

    pub(crate) async fn binary(&self, order: &PipelineRun) -> Answer {
        let digest = Digest::try_from(&order.sha_sum[..]).unwrap();
        self.bulk(Method::GET, &format!("/artifacts/sha256/{digest}"), order, &[], "").await
    }
}

pub(crate) fn report(order: &PipelineRun, status: &str) -> PipelineRun {
    PipelineRun {
        unique_id: order.unique_id.clone(),
        id: order.id,
        pipeline_id: order.pipeline_id,
        attempt: order.attempt,
        lease_token: order.lease_token.clone(),
        status: status.into(),
        ..PipelineRun::default()
    }
}

pub(crate) fn job(id: u32, title: &str, after: &[u32], args: Vec<Argument>) -> Job {
    let before = |id: &u32| Job { unique_id: *id, ..Job::default() };
    Job {
        unique_id: id,
        title: title.into(),
        description: format!("does {title}"),
        depends_on: after.iter().map(before).collect(),
        args,
        ..Job::default()
    }
}

pub(crate) fn argument(kind: &str, key: &str, default: &str) -> Argument {
    Argument {
        description: format!("the {key}"),
        r#type: kind.into(),
        key: key.into(),
        value: default.into(),
    }
}
