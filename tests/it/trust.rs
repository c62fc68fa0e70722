//! Nobody gets in who does not belong, and nobody gets further than a lease allows.

use std::ops::ControlFlow;

use anyhow::Result;
use http::Method;
use identity::Credentials;
use prost::Message as _;
use proto::worker::{HeldLease, PipelineRun, WorkerInstance, worker_client::WorkerClient};
use serde_json::{Value, json};
use tests::Cluster;
use tonic::{Code, Request, Status};
use transport::{Channel, Protocols};

use crate::{cluster_of_one, program};

#[tokio::test]
async fn a_wrong_registration_secret_is_refused_and_says_so() -> Result<()> {
    let cluster = Cluster::start(program()).await?;
    let body = json!({ "secret": "guessed", "name": "intruder", "tags": [] });
    let refused = cluster.client.call(Method::POST, "/api/v1/worker/register", Some(&body)).await;
    let refused = refused.expect_err("a wrong secret gets no certificate");
    assert_eq!(refused.status(), Some(http::StatusCode::FORBIDDEN), "{refused}");
    assert!(refused.to_string().contains("secret"), "{refused}");
    let workers: Vec<Value> = cluster.client.get("/api/v1/worker").await?;
    assert_eq!(workers.len(), 0);
    Ok(())
}

#[tokio::test]
async fn a_secret_that_was_reset_no_longer_registers() -> Result<()> {
    let cluster = Cluster::start(program()).await?;
    let old = gaia::command::worker::registration_secret(&cluster.client).await?;
    cluster.client.call(Method::POST, "/api/v1/worker/secret", Some(&json!({}))).await?;
    let new = gaia::command::worker::registration_secret(&cluster.client).await?;
    assert_ne!(old, new);
    for (secret, accepted) in [(old, false), (new, true)] {
        let body = json!({ "secret": secret, "name": "late", "tags": [] });
        let answer =
            cluster.client.call(Method::POST, "/api/v1/worker/register", Some(&body)).await;
        assert_eq!(answer.is_ok(), accepted);
    }
    Ok(())
}

#[tokio::test]
async fn a_token_is_made_listed_and_revoked_by_commands() -> Result<()> {
    let mut cluster = Cluster::start(program()).await?;
    let made =
        cluster.say(&["worker", "token", "create", "--uses", "2", "--output", "json"]).await?;
    let made: Value = serde_json::from_str(&made)?;
    let (id, token) = (made["id"].as_str().unwrap_or_default(), made["token"].as_str());
    cluster.launch_agent_by("one", token.unwrap_or_default(), &[])?;
    cluster.until("one has joined", async || Ok(cluster.worker("one").await?.map(drop))).await?;
    let said = cluster.say(&["worker", "token", "revoke", id, "--note", "it was mailed"]).await?;
    assert!(said.contains("lets nobody in any more"), "{said}");
    let listed = cluster.say(&["worker", "token", "ls"]).await?;
    assert!(
        listed.contains(id) && listed.contains("revoked") && listed.contains("1/2"),
        "{listed}"
    );
    let late = cluster.home("late").display().to_string();
    let words = ["agent", "--server", cluster.url(), "--home", &late];
    let refused =
        cluster.say(&[&words[..], &["--token", token.unwrap_or_default()]].concat()).await;
    let refused = refused.expect_err("the token is revoked").to_string();
    assert!(refused.contains("was revoked"), "{refused}");
    assert!(cluster.worker("one").await?.is_some(), "who joined by it stays");
    Ok(())
}

/// A worker's own connection, with the metadata that Gaia's agents send.
struct Impostor {
    worker: WorkerClient<Channel>,
    uniqueid: String,
}

impl Impostor {
    fn new(
        cluster: &Cluster,
        credentials: &Credentials,
        uniqueid: &str,
        http: Protocols,
    ) -> Result<Self> {
        let tls = identity::client_tls(credentials)?;
        let channel = Channel::remote(cluster.url(), gaia::client::SERVER_NAME, tls, http)?;
        Ok(Self { worker: WorkerClient::new(channel), uniqueid: uniqueid.to_owned() })
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let value = self.uniqueid.parse().expect("an id is ASCII");
        request.metadata_mut().insert("uniqueid", value);
        request
    }

    async fn update(&mut self, run: PipelineRun) -> Result<(), Status> {
        let request = self.request(run);
        self.worker.update_work(request).await.map(drop)
    }
}

/// A second worker, registered by hand.
async fn register(cluster: &Cluster, name: &str) -> Result<(String, Credentials)> {
    use base64::{Engine as _, prelude::BASE64_STANDARD};
    let secret = gaia::command::worker::registration_secret(&cluster.client).await?;
    let body = json!({ "secret": secret, "name": name, "tags": ["cpp"] });
    let answer: Value = cluster.client.post("/api/v1/worker/register", &body).await?;
    let pem = |field: &str| -> Result<String> {
        Ok(String::from_utf8(BASE64_STANDARD.decode(answer[field].as_str().unwrap_or_default())?)?)
    };
    let credentials =
        Credentials { certificate: pem("cert")?, key: pem("key")?, ca: pem("cacert")? };
    Ok((answer["uniqueid"].as_str().unwrap_or_default().to_owned(), credentials))
}

#[tokio::test]
async fn a_worker_cannot_speak_for_another() -> Result<()> {
    let (cluster, _) = cluster_of_one().await?;
    let one = cluster.worker("one").await?.expect("the worker is registered");
    let (_, credentials) = register(&cluster, "two").await?;
    for http in [Protocols::Http2, Protocols::Http3] {
        let mut impostor = Impostor::new(&cluster, &credentials, &one.uniqueid, http)?;
        let ask =
            WorkerInstance { unique_id: one.uniqueid.clone(), push: true, ..Default::default() };
        let request = impostor.request(ask);
        let refused = impostor.worker.get_work(request).await.expect_err("it is not `one`");
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");

        let ask = WorkerInstance { unique_id: one.uniqueid.clone(), ..Default::default() };
        let request = impostor.request(ask);
        let refused = impostor.worker.deregister(request).await.expect_err("it is not `one`");
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    }
    assert!(cluster.worker("one").await?.is_some(), "`one` is still registered");
    Ok(())
}

#[tokio::test]
async fn without_a_certificate_of_ours_nothing_is_answered() -> Result<()> {
    let (cluster, _) = cluster_of_one().await?;
    let one = cluster.worker("one").await?.expect("the worker is registered");
    let strange = tempfile::tempdir()?;
    let foreign = identity::Authority::open_or_create(strange.path())?;
    let foreign = foreign
        .issue_worker(one.uniqueid.parse()?, std::time::Duration::from_hours(1))?
        .credentials;
    let foreign = Credentials { ca: cluster.ca()?, ..foreign };
    for http in [Protocols::Http2, Protocols::Http3] {
        let ask = || WorkerInstance { unique_id: one.uniqueid.clone(), ..Default::default() };
        let mut forged = Impostor::new(&cluster, &foreign, &one.uniqueid, http)?;
        let request = forged.request(ask());
        forged.worker.get_work(request).await.expect_err("the CA is not ours");

        let tls = identity::anonymous_client_tls(&cluster.ca()?)?;
        let channel = Channel::remote(cluster.url(), gaia::client::SERVER_NAME, tls, http)?;
        let mut nobody =
            Impostor { worker: WorkerClient::new(channel), uniqueid: one.uniqueid.clone() };
        let request = nobody.request(ask());
        let refused = nobody.worker.get_work(request).await.expect_err("no certificate was shown");
        assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
    }
    Ok(())
}

#[tokio::test]
async fn a_stale_lease_changes_nothing() -> Result<()> {
    let (mut cluster, pipeline) = cluster_of_one().await?;
    let gate = cluster.home("gate");
    let run =
        cluster.start_run(&pipeline, json!({ "args": [{ "key": "gate", "value": gate }] })).await?;
    cluster.run_that(&run.uniqueid, "runs", |run| run.status == "running").await?;
    let one = cluster.worker("one").await?.expect("the worker is registered");
    let lease = lease_of(&cluster, &run.uniqueid).await?;

    // The agent vanishes; whoever has its key and its lease tries to end the run later.
    let credentials = Credentials::load(&cluster.home("one").join("identity"))?;
    cluster.kill("one").await?;
    cluster.agent("two", &[]).await?;
    cluster.run_that(&run.uniqueid, "runs again", |run| run.attempts.len() == 2).await?;
    let report = PipelineRun {
        unique_id: run.uniqueid.clone(),
        id: run.id.cast_signed(),
        pipeline_id: run.pipelineid.cast_signed(),
        status: "success".into(),
        attempt: lease.attempt,
        lease_token: lease.lease_token,
        ..Default::default()
    };
    for http in [Protocols::Http2, Protocols::Http3] {
        let mut late = Impostor::new(&cluster, &credentials, &one.uniqueid, http)?;
        let refused = late.update(report.clone()).await.expect_err("the lease is over");
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    }
    std::fs::write(&gate, "")?;
    let run = cluster.ended(&run.uniqueid).await?;
    assert_eq!((run.status.as_str(), run.worker().as_str()), ("success", "two"));
    Ok(())
}

/// The lease of the first attempt, as the log's own files have it: the server never shows the token.
async fn lease_of(cluster: &Cluster, run: &str) -> Result<HeldLease> {
    let path = format!("/api/v1/events?stream=run-{run}&type=RunAssigned&limit=1");
    let shown: Value = cluster.client.get(&path).await?;
    assert_eq!(shown[0]["payload"]["lease_token"], "[redacted]");
    let mut assigned = None;
    let stream = format!("run-{run}");
    eventlog::files::walk(&cluster.home("server").join("log"), 0, |entry| {
        let event = entry.recorded;
        if event.stream != stream || event.event.event_type != "RunAssigned" {
            return Ok(ControlFlow::Continue(()));
        }
        assigned = Some(proto::scheduler::events::v1::RunAssigned::decode(event.event.data)?);
        anyhow::Ok(ControlFlow::Break(()))
    })?;
    let assigned = assigned.expect("the run was assigned");
    Ok(HeldLease {
        run_id: assigned.run_id,
        attempt: assigned.attempt,
        lease_token: assigned.lease_token,
    })
}
