//! Bad input: each is answered with the thing, what is wrong with it, and what to do.

use std::{process::Command, time::Duration};

use anyhow::Result;
use gaia::{
    api::{Pipeline, Run},
    client::ClientError,
};
use serde_json::{Value, json};
use tests::{Cluster, repository_with};

use crate::{cluster_of_one, program};

#[tokio::test]
async fn a_build_that_fails_keeps_its_output_and_says_why() -> Result<()> {
    let (cluster, _) = cluster_of_one().await?;
    let folder = cluster.home("broken");
    repository_with(
        &folder,
        &[("Makefile", "all:\n\t@echo compiling; echo no such thing >&2; exit 7\n")],
    )?;
    let (pipeline, build) = failed_build(&cluster, "broken", &folder.display().to_string()).await?;
    assert!(cluster.log(&build.uniqueid).await?.contains("no such thing"));
    let refused = cluster.start_run(&pipeline, json!({})).await.expect_err("nothing to run");
    assert!(refused.to_string().contains("broken"), "{refused}");
    Ok(())
}

#[tokio::test]
async fn a_repository_that_does_not_clone_fails_the_build() -> Result<()> {
    let (cluster, _) = cluster_of_one().await?;
    let nowhere = cluster.home("nowhere").display().to_string();
    let (_, build) = failed_build(&cluster, "nowhere", &nowhere).await?;
    assert!(build.reason.contains("clone"), "{}", build.reason);
    Ok(())
}

#[tokio::test]
async fn a_binary_that_is_no_pipeline_fails_the_build() -> Result<()> {
    let (cluster, _) = cluster_of_one().await?;
    let folder = cluster.home("hello");
    let script = "#!/bin/sh\necho hello\n";
    let makefile = "all:\n\tcp hello.sh pipeline.out\n\tchmod +x pipeline.out\n";
    repository_with(&folder, &[("Makefile", makefile), ("hello.sh", script)])?;
    let (_, build) = failed_build(&cluster, "hello", &folder.display().to_string()).await?;
    assert!(build.reason.contains("pipeline"), "{}", build.reason);
    Ok(())
}

async fn failed_build(cluster: &Cluster, name: &str, url: &str) -> Result<(Pipeline, Run)> {
    let body = json!({ "pipeline": { "name": name, "type": "cpp", "repo": { "url": url } } });
    let pipeline: Pipeline = cluster.client.post("/api/v1/pipeline", &body).await?;
    let build = cluster.ended(&pipeline.buildrunid).await?;
    assert_eq!(build.status, "failed");
    assert!(!build.reason.is_empty());
    Ok((pipeline, build))
}

#[tokio::test]
async fn a_start_with_bad_arguments_is_refused_by_name() -> Result<()> {
    let (cluster, pipeline) = cluster_of_one().await?;
    for (key, value, named) in
        [("no-such-argument", "x", "no-such-argument"), ("fail", "perhaps", "fail")]
    {
        let body = json!({ "args": [{ "key": key, "value": value }] });
        let refused = cluster.start_run(&pipeline, body).await.expect_err("a bad argument");
        assert!(refused.to_string().contains(named), "{refused}");
    }
    let runs: Vec<Value> = cluster.client.get("/api/v1/run?limit=0").await?;
    assert_eq!(runs.len(), 0, "a refused start leaves no run");
    Ok(())
}

#[tokio::test]
async fn unknown_things_are_not_found_and_named() -> Result<()> {
    let cluster = Cluster::start(program()).await?;
    let unknown = "00000000-0000-4000-8000-000000000000";
    for path in [
        format!("/api/v1/run/{unknown}"),
        format!("/api/v1/run/{unknown}/log"),
        "/api/v1/pipeline/77".to_owned(),
        "/api/v1/pipelinerun/77/1".to_owned(),
    ] {
        let error = cluster.client.get::<Value>(&path).await.expect_err("it does not exist");
        assert_eq!(error.status(), Some(http::StatusCode::NOT_FOUND), "{path}: {error}");
        assert!(error.to_string().contains("77") || error.to_string().contains(unknown), "{error}");
    }
    let error = cluster.client.get::<Value>("/api/v1/run/seven").await.expect_err("not an id");
    assert_eq!(error.status(), Some(http::StatusCode::BAD_REQUEST), "{error}");
    assert!(matches!(&error, ClientError::Refused { message, .. } if message.contains("seven")));
    Ok(())
}

#[tokio::test]
async fn a_second_server_on_the_same_data_or_port_says_so() -> Result<()> {
    let cluster = Cluster::start(program()).await?;
    let data = cluster.home("server").display().to_string();
    let port = cluster.url().trim_start_matches("https://").to_owned();
    let elsewhere = cluster.home("elsewhere").display().to_string();
    let again = refusal(&["server", "--listen", "127.0.0.1:0", "--data", &data]);
    assert!(again.contains("another process") && again.contains(&data), "{again}");
    let occupied = refusal(&["server", "--listen", &port, "--data", &elsewhere]);
    assert!(occupied.contains(&port) && occupied.contains("in use"), "{occupied}");
    Ok(())
}

#[test]
fn a_command_without_a_server_says_how_to_name_one() {
    let folder = tempfile::tempdir().unwrap();
    let profile = folder.path().join("none.toml").display().to_string();
    let said = refusal(&["--profile", &profile, "worker", "ls"]);
    assert!(said.contains("gaia login"), "{said}");
}

/// What the program says when it refuses; it must end by itself, and not with success.
fn refusal(arguments: &[&str]) -> String {
    let mut child = Command::new(program())
        .args(arguments)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("start the program");
    let (done, ended) = std::sync::mpsc::channel();
    let id = nix::unistd::Pid::from_raw(child.id().cast_signed());
    std::thread::spawn(move || {
        if ended.recv_timeout(Duration::from_secs(30)).is_err() {
            nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGKILL).ok();
        }
    });
    let mut said = String::new();
    let mut errors = child.stderr.take().expect("it is piped");
    std::io::Read::read_to_string(&mut errors, &mut said).expect("read what it said");
    let status = child.wait().expect("wait for the program");
    done.send(()).ok();
    assert!(!status.success(), "it should have refused: {said}");
    said
}
