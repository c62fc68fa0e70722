//! Joining, short certificates, roll-overs and revocation, on real connections.

use std::time::Duration;

use anyhow::{Context, Result};
use eventlog::Clock;
use gaia::{api::Worker, command::trust::NewToken};
use http::Method;
use identity::{Credentials, Key};
use ids::Timestamp;
use proto::worker::{WorkerInstance, worker_client::WorkerClient};
use serde_json::{Value, json};
use tests::Cluster;
use tokio::time::{Instant, timeout};
use tonic::{Code, Request, Status, Streaming};
use transport::{Channel, Protocols};

use crate::{program, story_pipeline};

const BOTH: [Protocols; 2] = [Protocols::Http2, Protocols::Http3];
/// How long a cut may take.
const CUT: Duration = Duration::from_secs(5);

async fn certificates(cluster: &Cluster) -> Result<Vec<Value>> {
    Ok(cluster.client.get("/api/v1/certificate").await?)
}

/// A worker made by hand: by a token, with a key that stays here.
async fn join(cluster: &Cluster, name: &str) -> Result<(String, Credentials)> {
    let token = gaia::command::trust::token(&cluster.client, &NewToken::default()).await?.token;
    let key = Key::generate()?;
    let body = json!({ "token": token, "request": key.request()?, "name": name });
    let joined: Value = cluster.client.post("/api/v1/worker/join", &body).await?;
    let text = |field: &str| joined[field].as_str().unwrap_or_default().to_owned();
    let credentials = key.certified(text("certificate"), text("ca_certificates"))?;
    Ok((text("uniqueid"), credentials))
}

fn worker(
    cluster: &Cluster,
    credentials: &Credentials,
    http: Protocols,
) -> Result<WorkerClient<Channel>> {
    let tls = identity::client_tls(credentials)?;
    let channel = Channel::remote(cluster.url(), gaia::client::SERVER_NAME, tls, http)?;
    Ok(WorkerClient::new(channel))
}

async fn get_work(
    worker: &mut WorkerClient<Channel>,
    id: &str,
) -> Result<Streaming<proto::worker::PipelineRun>, Status> {
    let ask = WorkerInstance { unique_id: id.into(), push: true, ..WorkerInstance::default() };
    let mut request = Request::new(ask);
    request.metadata_mut().insert("uniqueid", id.parse().expect("an id is ASCII"));
    Ok(worker.get_work(request).await?.into_inner())
}

/// How the open call ended, and how long that took.
async fn cut(
    mut work: Streaming<proto::worker::PipelineRun>,
) -> Result<(Option<Status>, Duration)> {
    let begun = Instant::now();
    let ended = async {
        loop {
            match work.message().await {
                Ok(Some(_)) => {}
                Ok(None) => return None,
                Err(status) => return Some(status),
            }
        }
    };
    let status = timeout(CUT, ended).await.context("the connection still lives after 5 seconds")?;
    Ok((status, begun.elapsed()))
}

#[tokio::test]
async fn a_revoked_worker_is_cut_off_and_stays_out() -> Result<()> {
    let cluster = Cluster::start(program()).await?;
    for (http, name) in BOTH.into_iter().zip(["two", "three"]) {
        let (id, credentials) = join(&cluster, name).await?;
        let mut connected = worker(&cluster, &credentials, http)?;
        let work = get_work(&mut connected, &id).await?;
        let body = json!({ "worker": id, "note": "its laptop was stolen" });
        let revoked: Vec<Value> = cluster.client.post("/api/v1/certificate/revoke", &body).await?;
        assert_eq!(revoked.len(), 1);
        let (_, took) = cut(work).await?;
        println!("figure: revocation to cut over {http:?}: {} ms", took.as_millis());
        let mut again = worker(&cluster, &credentials, http)?;
        let refused = get_work(&mut again, &id).await.expect_err("it is revoked");
        assert_eq!(refused.code(), Code::Unauthenticated, "{http:?}: {refused}");
        assert!(refused.message().contains("CertificateRevoked"), "{http:?}: {refused}");
    }
    let listed = certificates(&cluster).await?;
    let revoked = listed.iter().filter(|one| one["revoked_at"] != 0).count();
    assert_eq!((revoked, listed.len()), (2, 2));
    Ok(())
}

#[tokio::test]
async fn a_deregistered_worker_is_told_and_cut_off() -> Result<()> {
    let cluster = Cluster::start(program()).await?;
    for (http, name) in BOTH.into_iter().zip(["two", "three"]) {
        let (id, credentials) = join(&cluster, name).await?;
        let mut connected = worker(&cluster, &credentials, http)?;
        let work = get_work(&mut connected, &id).await?;
        let path = format!("/api/v1/worker/{id}");
        cluster.client.call(Method::DELETE, &path, None::<&()>).await?;
        let (status, took) = cut(work).await?;
        println!("figure: deregistration to cut over {http:?}: {} ms", took.as_millis());
        let told = status.context("the call ends with the reason")?;
        assert_eq!(told.message(), "worker is not registered", "{http:?}");
        let mut again = worker(&cluster, &credentials, http)?;
        let refused = get_work(&mut again, &id).await.expect_err("it is not registered");
        assert_eq!(refused.message(), "worker is not registered", "{http:?}");
    }
    Ok(())
}

#[tokio::test]
async fn an_agent_whose_certificate_is_revoked_says_so_and_ends() -> Result<()> {
    let mut cluster = Cluster::start(program()).await?;
    cluster.agent("one", &[]).await?;
    let one = cluster.worker("one").await?.context("it is registered")?;
    let body = json!({ "worker": one.uniqueid });
    cluster.client.call(Method::POST, "/api/v1/certificate/revoke", Some(&body)).await?;
    // It tries its token, which is used up.
    cluster.said("one", "the join token is used up").await
}

#[tokio::test]
async fn a_token_leads_to_its_own_server_only() -> Result<()> {
    let (mut cluster, other) =
        tokio::try_join!(Cluster::start(program()), Cluster::start(program()))?;
    let foreign = gaia::command::trust::token(&other.client, &NewToken::default()).await?.token;
    cluster.launch_agent_by("lost", &foreign, &[])?;
    cluster.said("lost", "not of the CA that the join token names").await?;
    let workers: Vec<Value> = cluster.client.get("/api/v1/worker").await?;
    assert!(workers.is_empty());
    Ok(())
}

#[tokio::test]
async fn an_agents_key_never_leaves_its_machine() -> Result<()> {
    let mut cluster = Cluster::start(program()).await?;
    let begun = Instant::now();
    cluster.agent("one", &[]).await?;
    println!("figure: start of an agent to connected: {} ms", begun.elapsed().as_millis());
    let key = std::fs::read_to_string(cluster.home("one").join("identity/key.pem"))?;
    let secret: String = key.lines().filter(|line| !line.starts_with("-----")).collect();
    assert!(secret.len() > 100);
    let events: Vec<Value> = cluster.client.get("/api/v1/events?limit=1000").await?;
    assert!(!events.is_empty());
    for event in &events {
        assert!(!event.to_string().contains(&secret[40..80]));
    }
    assert!(!cluster.home("one").join("identity/joining-key.pem").exists());
    Ok(())
}

/// Certificates that live for ten seconds, and two roll-overs of the CA, under calls and runs that do not
/// stop: for some renewals of each, or for `GAIA_ROTATION` seconds.
#[tokio::test]
async fn short_certificates_and_two_roll_overs_fail_no_call() -> Result<()> {
    let short = ["--worker-certificate", "10s", "--server-certificate", "10s"];
    let mut cluster = Cluster::start_with(program(), &short).await?;
    for (agent, http) in [("two", "http2"), ("three", "http3")] {
        cluster.agent(agent, &["--protocols", http, "--slots", "4"]).await?;
    }
    let pipeline = cluster.pipeline_of("story", story_pipeline(), &[]).await?;
    let gate = cluster.home("gate");
    // One run lasts for as long as all this.
    let arguments = json!({ "args": [{ "key": "gate", "value": gate }] });
    let long = cluster.start_run(&pipeline, arguments).await?;
    cluster.run_that(&long.uniqueid, "runs", |run| run.status == "running").await?;

    let first_ca = cluster.ca()?;
    let seconds = std::env::var("GAIA_ROTATION").map_or(Ok(0), |seconds| seconds.parse())?;
    let (begun, length) = (Instant::now(), Duration::from_secs(seconds));
    let (mut calls, mut runs, mut rolled) = (0_u32, 0_u32, 0_u32);
    let mut old_ca_until = Timestamp::default();
    let renewals = loop {
        let run = cluster.start_run(&pipeline, json!({})).await?;
        let ended = cluster.ended(&run.uniqueid).await?;
        assert_eq!(
            (ended.status.as_str(), ended.attempts.len()),
            ("success", 1),
            "{}",
            ended.reason
        );
        // A client that comes anew, with the CA that it was given at the beginning, until that is over.
        let ca = if rolled < 2 { first_ca.clone() } else { cluster.ca()? };
        let fresh = cluster.fresh_client(&ca).await?;
        let listed: Vec<Value> = fresh.get("/api/v1/certificate").await?;
        (calls, runs) = (calls + 1, runs + 1);
        let issued = renewals(&fresh).await?;
        // A roll-over after each two renewals of each worker and of the server; the last one as quick as may
        // be.
        let is_time = begun.elapsed() >= length * (rolled + 1) / 3;
        if rolled < 2 && is_time && issued >= 6 * (rolled as usize + 1) {
            let overlap = if rolled == 0 { 0 } else { 12_000 };
            let body = json!({ "overlap": overlap, "note": "a story" });
            let answer: Value = fresh.post("/api/v1/ca/rotate", &body).await?;
            old_ca_until = Timestamp(answer["overlap_until"].as_u64().context("a time")?);
            rolled += 1;
        }
        let is_old_ca_over = rolled == 2 && old_ca_until < Clock::system().now();
        if is_old_ca_over && issued >= 24 && begun.elapsed() >= length {
            assert!(!listed.is_empty());
            break issued;
        }
    };
    let stranger = cluster.fresh_client(&first_ca).await;
    assert!(stranger.is_err(), "the first CA is believed no more");
    println!(
        "figure: {renewals} renewals, {rolled} roll-overs, {calls} new clients, {runs} runs in {} s: \
         none failed",
        begun.elapsed().as_secs()
    );
    cluster.reconnect(Protocols::PreferHttp3).await?;
    std::fs::write(&gate, "")?;
    let long = cluster.ended(&long.uniqueid).await?;
    assert_eq!((long.status.as_str(), long.attempts.len()), ("success", 1), "{}", long.reason);
    let lost: Vec<Value> = cluster.client.get("/api/v1/events?limit=1000&stream=worker-*").await?;
    let lost = lost.iter().filter(|event| event["type"] == "WorkerLost").count();
    assert_eq!(lost, 0, "no worker was ever away");
    Ok(())
}

/// The embedded agent joins again by itself, others by a token that the new CA made.
#[tokio::test]
async fn a_ca_that_is_dropped_at_once_cuts_workers_off_and_a_new_token_lets_them_in() -> Result<()>
{
    let mut cluster = Cluster::start_with(program(), &["--slots", "1"]).await?;
    let agents = [("two", "http2"), ("three", "http3")];
    for (name, http) in agents {
        cluster.agent(name, &["--protocols", http]).await?;
    }
    let primary = cluster
        .until("the primary is there", async || {
            Ok(cluster.worker("primary").await?.filter(|worker| worker.connected))
        })
        .await?
        .uniqueid;
    let before = cluster.worker("two").await?.context("it is registered")?.uniqueid;

    let body = json!({ "at_once": true, "note": "its key was on a stick" });
    let _: Value = cluster.client.post("/api/v1/ca/rotate", &body).await?;
    let client = cluster
        .until("clients with the new CA certificate are served", async || {
            Ok(cluster.fresh_client(&cluster.ca()?).await.ok())
        })
        .await?;
    cluster.client = client;
    for (name, _) in agents {
        let is_cut =
            async || Ok(cluster.worker(name).await?.filter(|one| !one.connected).map(drop));
        cluster.until(&format!("{name} is cut off"), is_cut).await?;
    }
    cluster
        .until("the primary has joined again", async || {
            let workers: Vec<Worker> = cluster.client.get("/api/v1/worker").await?;
            let is_back = |one: &Worker| one.name.starts_with("primary") && one.uniqueid != primary;
            Ok(workers.into_iter().find(|one| is_back(one) && one.connected))
        })
        .await?;
    for (name, http) in agents {
        cluster.kill(name).await?;
        cluster.launch_agent(name, &["--protocols", http]).await?;
        cluster
            .until("it has joined again, with its old home", async || {
                let workers: Vec<Worker> = cluster.client.get("/api/v1/worker").await?;
                let is_back = |one: &Worker| one.name.starts_with(name) && one.uniqueid != before;
                Ok(workers.into_iter().find(|one| is_back(one) && one.connected))
            })
            .await?;
    }
    Ok(())
}

/// An agent that was away for longer than its certificate lives is the same worker when it comes back, and
/// has its token no more.
#[tokio::test]
async fn an_agent_that_was_away_until_its_certificate_expired_is_the_same_worker() -> Result<()> {
    let mut cluster = Cluster::start_with(program(), &["--worker-certificate", "3s"]).await?;
    for (name, http) in [("two", "http2"), ("three", "http3")] {
        cluster.agent(name, &["--protocols", http]).await?;
        let before = cluster.worker(name).await?.context("it is registered")?.uniqueid;
        cluster.kill(name).await?;
        let home = cluster.home(name).join("identity");
        cluster
            .until("the certificate has expired", async || {
                let validity = Credentials::load(&home)?.validity()?;
                Ok((validity.until < Clock::system().now()).then_some(()))
            })
            .await?;
        cluster.launch_agent_by(name, "", &["--protocols", http])?;
        cluster.said(name, "the expired certificate is renewed").await?;
        let pipeline = cluster.pipeline_of(&format!("story-{name}"), story_pipeline(), &[]).await?;
        let run = cluster.start_run(&pipeline, json!({})).await?;
        let ended = cluster.ended(&run.uniqueid).await?;
        assert_eq!(ended.status, "success", "{}", ended.reason);
        let after = cluster.worker(name).await?.context("it is registered")?.uniqueid;
        assert_eq!(before, after);
        cluster.kill(name).await?;
    }

    // One that was removed meanwhile stays out.
    let gone = cluster.worker("two").await?.context("it is registered")?.uniqueid;
    cluster.client.call(Method::DELETE, &format!("/api/v1/worker/{gone}"), None::<&()>).await?;
    cluster.launch_agent_by("two", "", &[])?;
    cluster.said("two", "give the agent a join token to join again").await
}

async fn renewals(client: &gaia::client::Client) -> Result<usize> {
    let events: Vec<Value> = client.get("/api/v1/events?limit=1000&stream=certificate-*").await?;
    Ok(events.iter().filter(|event| event["type"] == "CertificateIssued").count())
}
