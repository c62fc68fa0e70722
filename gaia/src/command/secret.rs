//! `gaia secret`: the vault. Values go in; only jobs get them out.

use std::io::Read;

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use http::Method;
use serde_json::{Value, json};

use super::segment;
use crate::{
    client::Client,
    output::{Output, table},
};

#[derive(Subcommand, Debug)]
pub enum SecretCommand {
    /// Store a secret, or replace it; the value comes from standard input
    Set {
        /// Letters, digits, '.', '-' and '_'
        key: String,
        /// Take the value from this environment variable instead of standard input
        #[arg(long, value_name = "VARIABLE")]
        from_env: Option<String>,
    },
    /// List the keys
    Ls,
    /// Remove a secret
    Rm { key: String },
}

pub async fn secret(command: SecretCommand, client: &Client, output: Output) -> Result<()> {
    match command {
        SecretCommand::Set { key, from_env } => {
            let value = value(from_env.as_deref())?;
            put(client, &key, &value).await?;
            output.show(&json!({ "key": key }), |_| format!("Secret {key} is stored."))
        }
        SecretCommand::Ls => {
            let secrets: Vec<Value> = client.get("/api/v1/secrets").await?;
            output.show(&secrets, |secrets| {
                let key = |secret: &Value| secret["key"].as_str().unwrap_or_default().to_owned();
                table(["KEY"], secrets.iter().map(|secret| [key(secret)]))
            })
        }
        SecretCommand::Rm { key } => {
            let path = format!("/api/v1/secret/{}", segment(&key));
            client.call(Method::DELETE, &path, None::<&()>).await?;
            output.show(&json!({ "key": key }), |_| format!("Secret {key} is removed."))
        }
    }
}

pub async fn put(client: &Client, key: &str, value: &str) -> Result<()> {
    let body = json!({ "key": key, "value": value });
    client.call(Method::POST, "/api/v1/secret", Some(&body)).await?;
    Ok(())
}

/// One line end at the very end belongs to the shell, not to the secret.
pub(super) fn value(from_env: Option<&str>) -> Result<String> {
    if let Some(variable) = from_env {
        return std::env::var(variable)
            .with_context(|| format!("read the environment variable {variable}"));
    }
    let mut text = String::new();
    std::io::stdin().lock().read_to_string(&mut text).context("read the secret's value")?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    if text.is_empty() {
        bail!("the value is empty: give it on standard input, or name a variable with --from-env");
    }
    Ok(text.to_owned())
}
