//! The gateway as a process of its own.

use std::{process::Stdio, time::Duration};

use ::identity::{Authority, anonymous_client_tls};
use http::Method;
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};
use transport::{Channel, Protocols};

use crate::client::{Client, patiently};

/// Nobody listens there: the port is reserved.
const NOBODY: &str = "https://127.0.0.1:1";

/// The process, and where it says that it listens.
async fn start(config: &std::path::Path) -> (Child, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_gateway"))
        .arg("--config")
        .arg(config)
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let address = patiently(async {
        loop {
            let line = lines.next_line().await.unwrap().expect("the process says that it is ready");
            if let Some((_, address)) = line.split_once("is ready at ") {
                return address.trim().to_owned();
            }
        }
    });
    let address = address.await;
    (child, address)
}

#[tokio::test]
async fn the_process_answers_while_its_services_are_away() {
    ::identity::install_crypto();
    let home = tempfile::tempdir().unwrap();
    let path = |name: &str| home.path().join(name);
    let authority = Authority::open_or_create(&path("ca")).unwrap();
    let issued = authority.issue_service("gateway", &[], Duration::from_hours(1)).unwrap();
    issued.credentials.save(&path("identity")).unwrap();
    let services = ["registry", "scheduler", "artifacts", "logs", "pipelines", "access"]
        .map(|name| format!("svc-{name} = '{NOBODY}'"))
        .join("\n");
    let config = format!(
        "listen = '127.0.0.1:0'\ndata = '{}'\nidentity = '{}'\nlog = 'esdb://127.0.0.1:1'\n\
         [services]\n{services}\n[service]\nkeep_alive_seconds = 2\n",
        path("data").display(),
        path("identity").display(),
    );
    std::fs::write(path("gateway.toml"), config).unwrap();
    let (_child, address) = start(&path("gateway.toml")).await;

    let tls = anonymous_client_tls(&authority.ca_pem()).unwrap();
    let channel = Channel::remote(&address, "gaia-pipeline.io", tls, Protocols::Http2).unwrap();
    let client = Client::new(channel);
    client.call(Method::GET, "/healthz", &[], "").await.expect(200);
    let login = json!({ "username": "admin", "password": "x" });
    let away = client.post("login", login).await.expect(503);
    assert!(away.message().contains("try again"), "{}", away.message());
}
