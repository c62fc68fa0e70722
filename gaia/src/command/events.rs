//! `gaia events`: the log itself, as it stands and as it grows.

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use futures::StreamExt;

use crate::{
    api::Event,
    client::Client,
    output::{Output, time},
};

#[derive(Subcommand, Debug)]
pub enum EventsCommand {
    /// Show events, oldest first, and go on with new ones
    Tail {
        /// First position to show
        #[arg(long, default_value_t = 0)]
        from: u64,
        /// Only this stream, or the streams that begin so: `run-*`, `worker-*`
        #[arg(long, default_value = "")]
        stream: String,
        /// End after what is stored now
        #[arg(long)]
        no_follow: bool,
    },
}

pub async fn events(command: EventsCommand, client: &Client, output: Output) -> Result<()> {
    let EventsCommand::Tail { from, stream, no_follow } = command;
    if no_follow {
        for event in stored(client, from, &stream).await? {
            output.line(&event, line)?;
        }
        return Ok(());
    }
    let path = format!("/api/v1/events?from={from}&stream={}", super::segment(&stream));
    let mut events = client.follow(&path).await?;
    while let Some(event) = events.next().await {
        let event = event?;
        if event.name == "error" {
            bail!("the server cannot go on: {}", event.data);
        }
        let event: Event = serde_json::from_str(&event.data)
            .with_context(|| format!("read event {}", event.id))?;
        output.line(&event, line)?;
    }
    Ok(())
}

/// Events in one answer.
const PAGE: usize = 1_000;

/// Everything from a position to the present end.
pub async fn stored(client: &Client, from: u64, stream: &str) -> Result<Vec<Event>> {
    let mut all: Vec<Event> = Vec::new();
    loop {
        let next = all.last().map_or(from, |event| event.position + 1);
        let stream = super::segment(stream);
        let path = format!("/api/v1/events?from={next}&limit={PAGE}&stream={stream}");
        let page: Vec<Event> = client.get(&path).await?;
        if page.is_empty() {
            return Ok(all);
        }
        all.extend(page);
    }
}

fn line(event: &Event) -> String {
    format!(
        "{:>6}  {}  {:<24} {}@{}  {}",
        event.position,
        time(event.recorded_at),
        event.event_type,
        event.stream,
        event.revision,
        event.actor
    )
}
