//! `gaia worker token` and `gaia cert`: who gets in, and who stays.

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use http::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{find_worker, segment};
use crate::{
    client::Client,
    output::{Output, table, time},
    span::Span,
};

#[derive(Subcommand, Debug)]
pub enum TokenCommand {
    /// Make a token that lets workers join; it is shown this once
    Create(NewToken),
    /// List the tokens
    Ls,
    /// End a token; workers that joined with it stay
    Revoke {
        /// Id, as `gaia worker token ls` shows it
        id: String,
        /// Why, for the history
        #[arg(long, default_value = "")]
        note: String,
    },
}

#[derive(Args, Clone, Debug, Default)]
pub struct NewToken {
    /// How long it is good for, at most 30d [default: 1h]
    #[arg(long, value_name = "TIME")]
    ttl: Option<Span>,
    /// How many workers may join with it
    #[arg(long, default_value = "1", value_name = "N")]
    uses: u32,
    /// Tag that the worker gets beside its own, as from an operator; may be repeated. `--tag=-TAG` denies one
    #[arg(long = "tag", value_name = "TAG", value_delimiter = ',')]
    tags: Vec<String>,
    /// Name of the worker [default: it says its own]
    #[arg(long, default_value = "")]
    name: String,
    /// Network that the worker must come from, like 10.0.0.0/8; may be repeated
    #[arg(long = "from", value_name = "CIDR", value_delimiter = ',')]
    networks: Vec<String>,
}

#[derive(Debug, Deserialize, Serialize)]
pub struct Token {
    pub id: String,
    pub name: String,
    pub tags: Vec<String>,
    pub uses: u32,
    pub used: usize,
    pub from: Vec<String>,
    pub expires_at: u64,
    pub open: bool,
    pub revoked: bool,
    /// In clear, in the answer to its creation.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub token: String,
}

/// Makes a join token.
pub async fn token(client: &Client, new: &NewToken) -> Result<Token> {
    let body = json!({
        "name": new.name,
        "tags": new.tags,
        "uses": new.uses,
        "ttl": new.ttl.map_or(0, Span::as_millis),
        "from": new.networks,
    });
    Ok(client.post("/api/v1/worker/token", &body).await?)
}

pub async fn tokens(command: TokenCommand, client: &Client, output: Output) -> Result<()> {
    match command {
        TokenCommand::Create(new) => {
            let token = token(client, &new).await?;
            output.show(&token, |token| created(client, token))
        }
        TokenCommand::Ls => {
            let tokens: Vec<Token> = client.get("/api/v1/worker/token").await?;
            output.show(&tokens, |tokens| list(tokens))
        }
        TokenCommand::Revoke { id: token, note } => {
            let path = format!("/api/v1/worker/token/{}", segment(&token));
            client.call(Method::DELETE, &path, Some(&json!({ "note": note }))).await?;
            output.show(&json!({ "id": token }), |_| {
                format!("Token {token} lets nobody in any more.")
            })
        }
    }
}

fn created(client: &Client, token: &Token) -> String {
    format!(
        "On the worker's machine, until {}:\n\n    gaia agent --server {} --token {}\n\n\
         The token is shown this once, and lets {} in.",
        time(token.expires_at),
        client.server(),
        token.token,
        if token.uses == 1 { "one worker".to_owned() } else { format!("{} workers", token.uses) },
    )
}

fn list(tokens: &[Token]) -> String {
    if tokens.is_empty() {
        return "No tokens. Make one with `gaia worker token create`.".to_owned();
    }
    table(
        ["ID", "STATE", "USED", "EXPIRES", "NAME", "TAGS", "FROM"],
        tokens.iter().map(|token| {
            let state = match (token.revoked, token.open, token.used >= token.uses as usize) {
                (true, ..) => "revoked",
                (_, true, _) => "open",
                (_, _, true) => "used up",
                _ => "expired",
            };
            [
                token.id.clone(),
                state.to_owned(),
                format!("{}/{}", token.used, token.uses),
                time(token.expires_at),
                token.name.clone(),
                token.tags.join(" "),
                token.from.join(" "),
            ]
        }),
    )
}

#[derive(Debug, Deserialize, Serialize)]
struct Certificate {
    serial: String,
    worker: String,
    name: String,
    issued_at: u64,
    expires_at: u64,
    revoked_at: u64,
    note: String,
}

/// Lists the certificates that have not expired.
pub async fn certificates(client: &Client, output: Output) -> Result<()> {
    let certificates: Vec<Certificate> = client.get("/api/v1/certificate").await?;
    output.show(&certificates, |certificates| listed(certificates))
}

fn listed(certificates: &[Certificate]) -> String {
    if certificates.is_empty() {
        return "No certificates yet: no worker has joined.".to_owned();
    }
    table(
        ["SERIAL", "OF", "ISSUED", "EXPIRES", "STATE"],
        certificates.iter().map(|certificate| {
            let of = match (certificate.worker.is_empty(), certificate.name.as_str()) {
                (true, service) => format!("service {service}"),
                (false, "") => format!("worker {}", certificate.worker),
                (false, name) => format!("worker {name}"),
            };
            let state = match (certificate.revoked_at, certificate.note.as_str()) {
                (0, _) => "valid".to_owned(),
                (at, "") => format!("revoked {}", time(at)),
                (at, note) => format!("revoked {} ({note})", time(at)),
            };
            [
                certificate.serial.clone(),
                of,
                time(certificate.issued_at),
                time(certificate.expires_at),
                state,
            ]
        }),
    )
}

#[derive(Args, Debug)]
pub struct RevokeArgs {
    /// Serial number of one certificate
    serial: Option<String>,
    /// All certificates of this worker, by name or id
    #[arg(long, conflicts_with_all = ["serial", "service"])]
    worker: Option<String>,
    /// All certificates of this service
    #[arg(long, conflicts_with = "serial", value_name = "NAME")]
    service: Option<String>,
    /// Why, for the history
    #[arg(long, default_value = "")]
    note: String,
}

pub async fn revoke(args: RevokeArgs, client: &Client, output: Output) -> Result<()> {
    let mut body = json!({ "note": args.note });
    match (args.serial, args.worker, args.service) {
        (Some(serial), ..) => body["serial"] = serial.into(),
        (_, Some(worker), _) => {
            body["worker"] = find_worker(client, &worker).await?.uniqueid.into();
        }
        (.., Some(service)) => body["service"] = service.into(),
        _ => bail!("name a serial number, --worker or --service; `gaia cert ls` lists them"),
    }
    let revoked: Vec<Certificate> = client.post("/api/v1/certificate/revoke", &body).await?;
    output.show(&revoked, |revoked| match revoked.as_slice() {
        [] => "It was revoked already.".to_owned(),
        [one] => format!("Certificate {} is refused from now on.", one.serial),
        more => format!("{} certificates are refused from now on.", more.len()),
    })
}

#[derive(Args, Debug)]
pub struct RotateArgs {
    /// How long the old CA is still believed, at least as long as the certificates of workers live; who is away for
    /// longer must join again [default: as long as the longest certificate lives]
    #[arg(long, value_name = "TIME")]
    overlap: Option<Span>,
    /// Believe the old CA no more from now on: every worker must join again, every client needs the
    /// new CA certificate
    #[arg(long, conflicts_with = "overlap")]
    at_once: bool,
    /// Why, for the history
    #[arg(long, default_value = "")]
    note: String,
}

pub async fn rotate(args: RotateArgs, client: &Client, output: Output) -> Result<()> {
    let body = json!({
        "overlap": args.overlap.map_or(0, Span::as_millis),
        "at_once": args.at_once,
        "note": args.note,
    });
    let rolled: Value = client.post("/api/v1/ca/rotate", &body).await?;
    output.show(&rolled, |rolled| {
        let fingerprint = rolled["fingerprint"].as_str().unwrap_or_default();
        let until = rolled["overlap_until"].as_u64().unwrap_or_default();
        let old = if args.at_once {
            "The old CA is believed no more.".to_owned()
        } else {
            format!(
                "The old CA is believed until {}. Workers and services renew by themselves;\n\
                 give clients the new ca.pem before then.",
                time(until)
            )
        };
        format!("A new CA signs from now on: {fingerprint}\n{old}")
    })
}
