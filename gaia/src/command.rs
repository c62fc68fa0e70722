//! The client commands: each asks the server over the public REST API, and shows the answer.

pub mod artifact;
pub mod audit;
pub mod environment;
pub mod events;
pub mod fleet;
pub mod limit;
pub mod login;
mod moment;
pub mod pipeline;
pub mod run;
pub mod secret;
pub mod selector;
pub mod trust;
pub mod user;
pub mod worker;

use anyhow::{Context, Result, bail};

use crate::{
    api::{Pipeline, Worker},
    client::Client,
};

/// What a path segment must not hold is percent-encoded.
fn segment(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

/// A pipeline by its name (whatever the case) or id.
pub async fn find_pipeline(client: &Client, name: &str) -> Result<Pipeline> {
    let pipelines: Vec<Pipeline> = client.get("/api/v1/pipeline").await?;
    let known: Vec<String> = pipelines.iter().map(|pipeline| pipeline.name.clone()).collect();
    pipelines
        .into_iter()
        .find(|pipeline| {
            pipeline.name.eq_ignore_ascii_case(name) || pipeline.id.to_string() == name
        })
        .with_context(|| match known.as_slice() {
            [] => format!("there is no pipeline `{name}`: create it with `gaia pipeline create`"),
            known => format!("there is no pipeline `{name}`; there are: {}", known.join(", ")),
        })
}

/// A worker by its name or id.
async fn find_worker(client: &Client, name: &str) -> Result<Worker> {
    let workers: Vec<Worker> = client.get("/api/v1/worker").await?;
    let mut found: Vec<Worker> = workers
        .into_iter()
        .filter(|worker| worker.uniqueid == name || worker.name.eq_ignore_ascii_case(name))
        .collect();
    match (found.pop(), found.len()) {
        (Some(worker), 0) => Ok(worker),
        (Some(_), more) => {
            bail!("{} workers are called `{name}`: name one by its id (`gaia worker ls`)", more + 1)
        }
        (None, _) => bail!("there is no worker `{name}`; `gaia worker ls` lists them"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_leave_its_path_segment() {
        assert_eq!(segment("a/../b?c d"), "a%2F..%2Fb%3Fc%20d");
    }
}
