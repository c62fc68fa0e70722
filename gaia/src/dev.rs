//! `gaia dev`: everything in one process with temporary data, for trying things out.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use clap::Args;
use secrecy::ExposeSecret;
use tokio_util::sync::CancellationToken;

use crate::{
    client::Client,
    command::trust::{self, NewToken},
    output::table,
    profile::Profile,
    server::{self, ServerConfig},
    span::Span,
};

#[derive(Args, Clone, Debug)]
pub(crate) struct DevArgs {
    /// Address and port to listen on
    #[arg(long, default_value = "127.0.0.1:8443", value_name = "ADDR:PORT")]
    listen: SocketAddr,
    /// Runs that the embedded agent takes at once
    #[arg(long, default_value = "4", value_name = "N")]
    slots: u16,
}

pub(crate) async fn run(args: DevArgs, shutdown: CancellationToken) -> Result<()> {
    let folder = tempfile::Builder::new()
        .prefix("gaia-dev-")
        .tempdir()
        .context("create a temporary folder")?;
    let config = ServerConfig {
        listen: args.listen,
        data: folder.path().join("data"),
        hostnames: vec![],
        prevent_primary_work: false,
        slots: Some(args.slots),
        log: None,
        worker_grace: 10,
        worker_certificate: Span::hours(24),
        server_certificate: Span::hours(24),
        no_registration_secret: false,
        artifacts: None,
        logs: None,
    };
    let running = server::start(config, shutdown).await?;
    let password = running
        .first_admin_password
        .clone()
        .context("a fresh server did not make an administrator")?;

    let mut client = Client::new(&running.url(), &running.ca, None)?;
    let token = client.login("admin", password.expose_secret()).await?;
    let join = trust::token(&client, &NewToken::default()).await?;
    let profile = folder.path().join("profile.toml");
    Profile { server: running.url(), ca: running.ca.clone(), token }.write(&profile)?;

    let ca = folder.path().join("data/ca/ca.pem");
    let rows = [
        ["Server".into(), format!("{} (HTTP/1.1, HTTP/2, HTTP/3)", running.url())],
        ["REST API".into(), format!("{}/api/v1", running.url())],
        ["Login".into(), format!("admin / {}", password.expose_secret())],
        ["CA certificate".into(), ca.display().to_string()],
        ["Data".into(), format!("{} (gone when this ends)", folder.path().display())],
    ];
    anstream::println!("{}", table(["", ""], rows));
    println!("\nIn another terminal:\n");
    println!("    export GAIA_PROFILE={}", profile.display());
    println!("    gaia worker ls");
    println!("    gaia agent --server {} --token {}\n", running.url(), join.token);
    println!("Ctrl-C ends it.");
    running.finish().await
}
