//! `gaia events`: the log itself, as it stands, as it grows, and as it was.

pub(crate) mod replay;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use futures::StreamExt;
use serde_json::Value;

use super::{moment, segment};
use crate::{
    api::Event,
    client::Client,
    output::{Output, exact_time, time},
};

#[derive(Subcommand, Debug)]
pub enum EventsCommand {
    /// Show events, oldest first, and go on with new ones
    Tail(TailArgs),
    /// Show one event with everything that it says; secrets are left out
    Show {
        /// Position or id
        event: String,
    },
    /// Rebuild what the runs and workers were at a moment, from the events up to it
    Replay {
        /// Position, time (2026-01-31T12:00:00Z, "2026-01-31 12:00") or how long ago (15m, 2h, 3d)
        /// [default: now]
        #[arg(long, value_name = "MOMENT")]
        at: Option<String>,
        /// Only runs that were not over then
        #[arg(long)]
        open: bool,
    },
}

#[derive(Args, Debug)]
pub struct TailArgs {
    /// First position to show
    #[arg(long, default_value_t = 0, conflicts_with = "since")]
    from: u64,
    /// First moment to show: a time (2026-01-31T12:00:00Z, "2026-01-31 12:00") or how long ago (15m, 2h, 3d)
    #[arg(long, value_name = "MOMENT")]
    since: Option<String>,
    /// Only this stream, or the streams that begin so: `run-*`, `worker-*`; several with commas
    #[arg(long, default_value = "")]
    stream: String,
    /// Only events of this type, or whose types begin so: `RunFinished`, `Worker*`; several with commas
    #[arg(long = "type", default_value = "", value_name = "TYPE")]
    event_type: String,
    /// What the event says, too
    #[arg(long, short)]
    verbose: bool,
    /// End after what is stored now
    #[arg(long)]
    no_follow: bool,
}

pub async fn events(command: EventsCommand, client: &Client, output: Output) -> Result<()> {
    match command {
        EventsCommand::Tail(args) => tail(args, client, output).await,
        EventsCommand::Show { event } => {
            let event: Event = client.get(&format!("/api/v1/events/{}", segment(&event))).await?;
            output.show(&event, details)
        }
        EventsCommand::Replay { at, open } => {
            replay::replay(at.as_deref(), open, client, output).await
        }
    }
}

async fn tail(args: TailArgs, client: &Client, output: Output) -> Result<()> {
    let from = match &args.since {
        Some(since) => moment::for_server(since, now())?,
        None => args.from.to_string(),
    };
    let wanted =
        Wanted { from: &from, to: None, stream: &args.stream, event_type: &args.event_type };
    let show = |event: &Event| {
        output.line(event, |event| {
            let line = line(event);
            if args.verbose { format!("{line}\n{}", fields(event)) } else { line }
        })
    };
    if args.no_follow {
        return each(client, wanted, |event| show(&event)).await;
    }
    let mut events = client.follow(&wanted.path()).await?;
    while let Some(event) = events.next().await {
        let event = event?;
        if event.name == "error" {
            bail!("the server cannot go on: {}", event.data);
        }
        let event: Event = serde_json::from_str(&event.data)
            .with_context(|| format!("read event {}", event.id))?;
        show(&event)?;
    }
    Ok(())
}

pub(super) fn now() -> chrono::DateTime<chrono::Utc> {
    #[expect(clippy::disallowed_methods, reason = "people say how long ago something was")]
    let now = std::time::SystemTime::now();
    now.into()
}

/// Events in one answer.
const PAGE: usize = 1_000;

/// Which events to ask for; names as the server takes them.
#[derive(Clone, Copy, Debug)]
struct Wanted<'a> {
    from: &'a str,
    to: Option<&'a str>,
    stream: &'a str,
    event_type: &'a str,
}

impl Wanted<'_> {
    fn path(&self) -> String {
        let Self { from, to, stream, event_type } = self;
        let (from, stream, event_type) = (segment(from), segment(stream), segment(event_type));
        let to = to.map(|to| format!("&to={}", segment(to))).unwrap_or_default();
        format!("/api/v1/events?from={from}{to}&stream={stream}&type={event_type}")
    }
}

/// Shows everything that is stored now to `look`, page by page.
async fn each(
    client: &Client,
    wanted: Wanted<'_>,
    mut look: impl FnMut(Event) -> Result<()>,
) -> Result<()> {
    let mut from = wanted.from.to_owned();
    loop {
        let path = format!("{}&limit={PAGE}", Wanted { from: &from, ..wanted }.path());
        let page: Vec<Event> = client.get(&path).await?;
        let Some(last) = page.last() else { return Ok(()) };
        let is_last = page.len() < PAGE;
        from = (last.position + 1).to_string();
        page.into_iter().try_for_each(&mut look)?;
        if is_last {
            return Ok(());
        }
    }
}

/// Everything from a position to the present end.
pub async fn stored(client: &Client, from: u64, stream: &str) -> Result<Vec<Event>> {
    let mut all = Vec::new();
    let from = from.to_string();
    let wanted = Wanted { from: &from, to: None, stream, event_type: "" };
    each(client, wanted, |event| {
        all.push(event);
        Ok(())
    })
    .await?;
    Ok(all)
}

pub(super) fn line(event: &Event) -> String {
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

fn details(event: &Event) -> String {
    let mut lines = vec![
        format!("Event {} ({})", event.position, event.id),
        format!("  what         {}, version {}", event.event_type, event.version),
        format!("  where        {}, revision {}", event.stream, event.revision),
        format!("  when         {}", exact_time(event.recorded_at)),
    ];
    let more = [
        ("who", &event.actor),
        ("from", &event.address),
        ("certificate", &event.certificate),
        ("because of", &event.causation),
        ("story", &event.correlation),
    ];
    let more = more.iter().filter(|(_, value)| !value.is_empty());
    lines.extend(more.map(|(name, value)| format!("  {name:<12} {value}")));
    lines.push(fields(event));
    lines.join("\n")
}

/// What the event says, a line for each field; of an unknown type its bytes.
fn fields(event: &Event) -> String {
    let Some(Value::Object(fields)) = &event.payload else {
        return match event.data.as_str() {
            "" => "    (withheld: this type is unknown, and secrets are kept in its stream)".into(),
            data => format!("    (unknown type, Base64) {data}"),
        };
    };
    let width = fields.keys().map(String::len).max().unwrap_or_default();
    let line = |(name, value): (&String, &Value)| {
        let is_time = name == "at" || name.ends_with("_at");
        let value = match (value, value.as_u64()) {
            (_, Some(millis)) if is_time => time(millis),
            (Value::String(text), _) => text.escape_debug().to_string(),
            (value, _) => value.to_string(),
        };
        format!("    {name:<width$}  {value}")
    };
    fields.iter().map(line).collect::<Vec<_>>().join("\n")
}
