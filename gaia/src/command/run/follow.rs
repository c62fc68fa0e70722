//! Follows what a run prints, through restarts of the server and changes of the network.
//!
//! Each piece of the log names its place; after a break the next request says which was the last
//! that arrived, so that nothing is missing and nothing comes twice.

use std::time::Duration;

use anyhow::{Context, Error, Result, anyhow};
use futures::StreamExt;
use serde::Deserialize;
use tokio::time::{Instant, sleep};

use super::segment;
use crate::{client::Client, sse::Event};

/// How long a log that was followed is waited for.
const AWAY: Duration = Duration::from_mins(2);
/// A connection that lived so long was a good one, although the run said nothing.
const STEADY: Duration = Duration::from_secs(15);
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(3);

/// Calls `show` for every piece of the log until the run is over; `view` is what to ask for besides.
pub async fn follow_log(
    client: &Client,
    run: &str,
    view: &str,
    show: impl FnMut(&str) -> Result<()>,
) -> Result<()> {
    let path = format!("/api/v1/run/{}/log?follow=1{view}", segment(run));
    let mut follower = Follower { show, place: String::new(), attempt: String::new() };
    // When the log was last seen to go on.
    let (mut heard, mut pause) = (None, SHORTEST_PAUSE);
    loop {
        let broken = match client.follow_from(&path, &follower.place).await {
            Ok(mut events) => {
                let (begun, place) = (Instant::now(), follower.place.clone());
                let broken = loop {
                    match events.next().await {
                        Some(Ok(event)) if event.name == "error" => break fault(&event.data)?,
                        Some(Ok(event)) => {
                            if follower.take(event)? {
                                return Ok(());
                            }
                        }
                        Some(Err(error)) => break error.into(),
                        None => {
                            break anyhow!("the server ended the stream before the run was over");
                        }
                    }
                };
                if heard.is_none() || follower.place != place || begun.elapsed() > STEADY {
                    (heard, pause) = (Some(Instant::now()), SHORTEST_PAUSE);
                }
                broken
            }
            Err(error) => {
                let refused = error.status().is_some_and(|status| status.is_client_error());
                if refused || heard.is_none() {
                    return Err(error.into());
                }
                error.into()
            }
        };
        if heard.is_some_and(|heard| heard.elapsed() > AWAY) {
            return Err(broken.context("the log cannot be followed any more: try again later"));
        }
        tracing::debug!(why = %broken, place = follower.place, "following the log again");
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// What the server says of why it cannot go on. `Err`: it never will.
fn fault(data: &str) -> Result<Error> {
    #[derive(Deserialize)]
    struct Fault {
        message: String,
        #[serde(default)]
        lasting: bool,
    }
    let fault: Fault = serde_json::from_str(data).context("read why the log broke off")?;
    let why = anyhow!("the server cannot go on with the log: {}", fault.message);
    if fault.lasting { Err(why) } else { Ok(why) }
}

struct Follower<S> {
    show: S,
    /// The id of the last event.
    place: String,
    /// The last attempt that was announced.
    attempt: String,
}

impl<S: FnMut(&str) -> Result<()>> Follower<S> {
    /// Whether the run is over.
    fn take(&mut self, event: Event) -> Result<bool> {
        match event.name.as_str() {
            "log" => {
                let text: String =
                    serde_json::from_str(&event.data).context("read a piece of the log")?;
                (self.show)(&text)?;
            }
            "attempt" if self.attempt != event.data => {
                if event.data != "1" {
                    (self.show)(&format!("--- attempt {} ---\n", event.data))?;
                }
                self.attempt = event.data;
            }
            "end" => return Ok(true),
            _ => {}
        }
        // Only now is it shown.
        if !event.id.is_empty() {
            self.place = event.id;
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_fault_that_lasts_ends_the_following() {
        let passing = super::fault(r#"{"message": "away"}"#).unwrap();
        assert!(passing.to_string().contains("away"));
        let lasting = super::fault(r#"{"message": "bytes are lost", "lasting": true}"#);
        assert!(lasting.unwrap_err().to_string().contains("bytes are lost"));
    }

    use std::sync::{Arc, Mutex};

    use axum::{Router, body::Body, extract::State, http::HeaderMap, routing::get};
    use identity::Authority;
    use tokio_util::sync::CancellationToken;

    use super::*;

    /// Two attempts. Each answer ends after two events, in the middle of a third.
    async fn log(State(asked): State<Arc<Mutex<Vec<String>>>>, headers: HeaderMap) -> Body {
        let events = [
            ("1:0", "attempt", "1"),
            ("1:4", "log", "\"one\\n\""),
            ("1:8", "log", "\"two\\n\""),
            ("2:0", "attempt", "2"),
            ("2:6", "log", "\"three\\n\""),
            ("2:6", "end", "{}"),
        ];
        let after = headers.get("last-event-id").map_or("", |id| id.to_str().unwrap());
        let first = events.iter().position(|(id, ..)| *id == after).map_or(0, |at| at + 1);
        asked.lock().unwrap().push(after.to_owned());
        let texts: Vec<String> = events[first..]
            .iter()
            .take(2)
            .map(|(id, name, data)| format!("id: {id}\nevent: {name}\ndata: {data}\n\n"))
            .collect();
        Body::from(texts.concat() + "event: log\ndata: \"hal")
    }

    #[tokio::test]
    async fn a_broken_stream_is_taken_up_where_it_broke() {
        identity::install_crypto();
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::open_or_create(dir.path()).unwrap();
        let names = ["gaia-pipeline.io".to_owned()];
        let issued = authority.issue_service("gateway", &names, Duration::from_hours(1)).unwrap();
        let address = "127.0.0.1:0".parse().unwrap();
        let server = transport::Server::bind(address, &issued.credentials).await.unwrap();
        let (url, stop) = (format!("https://{}", server.local_addr()), CancellationToken::new());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let routes = Router::new().route("/api/v1/run/{run}/log", get(log));
        tokio::spawn(server.serve(routes.with_state(Arc::clone(&asked)), stop.clone()));

        let client = Client::new(&url, &authority.ca_pem(), None).unwrap();
        let mut shown = String::new();
        let show = |text: &str| {
            shown += text;
            Ok(())
        };
        follow_log(&client, "r", "", show).await.unwrap();
        assert_eq!(shown, "one\ntwo\n--- attempt 2 ---\nthree\n");
        assert_eq!(*asked.lock().unwrap(), ["", "1:4", "2:0"]);
        stop.cancel();
    }
}
