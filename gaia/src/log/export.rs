//! A log as lines of JSON, and back.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, BufWriter, Write},
    ops::ControlFlow,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use eventlog::{
    Filter, Log, Recorded,
    files::{self, ImportError},
};
use futures::StreamExt as _;

use super::{line, must_hold_a_log};
use crate::output::Output;

/// Longest line of an export: the largest event in base64, and what is around it.
const LONGEST_LINE: u64 = 4 << 20;

#[derive(Args, Clone, Debug)]
pub(crate) struct ExportArgs {
    /// Folder with the log, which a server may use meanwhile, or `esdb://host:port` of a served one. That
    /// may hold a password, so better set GAIA_LOG_URL
    #[arg(env = "GAIA_LOG_URL", hide_env_values = true)]
    log: String,
    /// Folder with cert.pem, key.pem and caCert.pem to show to a served log
    #[arg(long, value_name = "DIR")]
    identity: Option<PathBuf>,
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// Everything as it is stored, for `gaia log import`; it holds sealed secrets, hashes and lease tokens
    #[arg(long)]
    raw: bool,
    /// First position
    #[arg(long, default_value_t = 0, value_name = "POSITION")]
    from: u64,
    /// New file to write to, for its owner only [default: the standard output]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    /// An event a line
    #[default]
    JsonLines,
    /// A CloudEvent 1.0 a line
    CloudEvents,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct ImportArgs {
    /// New or empty folder for the log
    data: PathBuf,
    /// Export to read [default: the standard input]
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
}

pub(crate) async fn export(args: &ExportArgs) -> Result<()> {
    anyhow::ensure!(
        !(args.raw && args.format == Format::CloudEvents),
        "a raw export has the format json-lines: CloudEvents have no place for what an import needs"
    );
    let failed = |path: &Path| format!("write {}", path.display());
    let Some(path) = &args.out else {
        let mut out = BufWriter::new(io::stdout());
        return match write(args, &mut out).await {
            // Whoever reads has seen enough.
            Err(error) if is_closed(&error) => Ok(()),
            done => done,
        };
    };
    let file = File::options().write(true).create_new(true).mode(0o600).open(path);
    let mut out = BufWriter::new(file.with_context(|| failed(path))?);
    write(args, &mut out).await?;
    out.get_ref().sync_all().with_context(|| failed(path))
}

fn is_closed(error: &anyhow::Error) -> bool {
    let cause = error.downcast_ref::<io::Error>();
    cause.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

async fn write(args: &ExportArgs, out: &mut impl Write) -> Result<()> {
    let shown = |recorded: &Recorded| match args.format {
        Format::JsonLines => line::shown(recorded),
        Format::CloudEvents => line::cloud_event(recorded),
    };
    if args.log.contains("://") {
        anyhow::ensure!(
            !args.raw,
            "a raw export needs the folder of the log: a server does not tell what was appended together"
        );
        let log = Log::esdb(&args.log, args.identity.as_deref())?;
        let mut events = log.read_all(args.from, Filter::default());
        while let Some(recorded) = events.next().await {
            writeln!(out, "{}", shown(&recorded?)?)?;
        }
        return Ok(out.flush()?);
    }
    must_hold_a_log(Path::new(&args.log))?;
    files::walk(Path::new(&args.log), args.from, |entry| {
        if entry.recorded.position < args.from {
            return Ok(ControlFlow::Continue(()));
        }
        let line = if args.raw { line::raw(&entry)? } else { shown(&entry.recorded)? };
        writeln!(out, "{line}")?;
        anyhow::Ok(ControlFlow::Continue(()))
    })?;
    Ok(out.flush()?)
}

pub(crate) fn import(args: &ImportArgs, output: Output) -> Result<()> {
    let head = match &args.from {
        None => read(&args.data, io::stdin().lock())?,
        Some(path) => {
            let file = File::open(path).with_context(|| format!("read {}", path.display()))?;
            read(&args.data, BufReader::new(file))?
        }
    };
    let events = head.map_or(0, |head| head.position + 1);
    let chain = head.map(|head| head.chain.to_string()).unwrap_or_default();
    output.show(&serde_json::json!({ "events": events, "head": chain }), |_| {
        format!("{events} events are in {}; its chain ends with {chain}.", args.data.display())
    })
}

fn read(dir: &Path, mut from: impl BufRead) -> Result<Option<eventlog::Head>> {
    let mut number = 0_u64;
    let lines = std::iter::from_fn(|| {
        number += 1;
        let line = next(&mut from).with_context(|| format!("line {number} of the export"));
        line.and_then(|line| {
            let event = line.map(|line| line::imported(&line));
            event.transpose().with_context(|| format!("line {number} of the export"))
        })
        .transpose()
    });
    let imported = files::import(dir, lines).map_err(|error| match error {
        ImportError::Source(error) => error,
        ImportError::Open(error) => error.into(),
        error => anyhow::anyhow!("{error}"),
    })?;
    // Streams and sizes, too.
    eventlog::verify(dir).context("the export holds what no log can hold")?;
    Ok(imported)
}

/// The next line that is not empty.
fn next(from: &mut impl BufRead) -> Result<Option<String>> {
    loop {
        let mut line = String::new();
        let read = io::Read::take(&mut *from, LONGEST_LINE).read_line(&mut line)?;
        anyhow::ensure!((read as u64) < LONGEST_LINE, "it is longer than {LONGEST_LINE} bytes");
        if read == 0 {
            return Ok(None);
        }
        if !line.trim().is_empty() {
            return Ok(Some(line));
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::{net::SocketAddr, time::Duration};

    use bytes::Bytes;
    use eventlog::{
        Clock, Content, Expected, Metadata, NewEvent,
        server::{self, Access, Users},
    };
    use ids::EventId;
    use prost::Message as _;
    use proto::access::events::v1::SecretPut;
    use tokio_util::sync::CancellationToken;
    use uuid::Uuid;

    use super::*;

    /// Eight events in four streams: batches, JSON, a sealed secret, a deleted stream's metadata.
    pub(crate) async fn sample(dir: &Path) {
        let log = Log::open(dir, Clock::system()).unwrap();
        let mut number = 0_u128;
        let mut event = |event_type: &'static str, data: Bytes| {
            number += 1;
            let metadata = Metadata {
                version: 1,
                actor: "user:ada".into(),
                address: format!("192.0.2.7:{number}"),
                certificate: format!("{number:032x}"),
                correlation_id: "run-1".into(),
                ..Metadata::default()
            };
            NewEvent::new(EventId::from_uuid(Uuid::from_u128(number)), event_type, data, &metadata)
        };
        let batch = vec![event("Began", "a".into()), event("Went", "b".into())];
        log.append("run-1", Expected::None, batch).await.unwrap();
        let mut json = event("Said", r#"{"a": 1}"#.into());
        json.content = Content::Json;
        log.append("run-2", Expected::None, vec![json]).await.unwrap();
        let secret =
            SecretPut { key: "TOKEN".into(), sealed: b"kept from all".to_vec().into(), at: 1 };
        let secret = event("SecretPut", secret.encode_to_vec().into());
        log.append("secret-TOKEN", Expected::None, vec![secret]).await.unwrap();
        log.append("run-1", Expected::Exists, vec![event("Ended", "c".into())]).await.unwrap();
        log.delete("run-1", Expected::Any).await.unwrap();
        let batch = vec![event("Began", Bytes::new()), event("Went", vec![0, 255].into())];
        log.append("run-1", Expected::Any, batch).await.unwrap();
    }

    fn args(data: &Path, raw: bool, format: Format) -> ExportArgs {
        let log = data.to_str().unwrap().to_owned();
        ExportArgs { log, identity: None, format, raw, from: 0, out: None }
    }

    async fn exported(args: &ExportArgs) -> String {
        let mut out = Vec::new();
        write(args, &mut out).await.unwrap();
        String::from_utf8(out).unwrap()
    }

    #[tokio::test]
    async fn a_raw_export_makes_the_same_log_again() {
        let dir = tempfile::tempdir().unwrap();
        let (log, copy) = (dir.path().join("log"), dir.path().join("copy"));
        sample(&log).await;
        let text = exported(&args(&log, true, Format::JsonLines)).await;
        let head = read(&copy, text.as_bytes()).unwrap();
        assert_eq!(head, files::head(&log).unwrap());
        assert_eq!(exported(&args(&copy, true, Format::JsonLines)).await, text);
        let error = read(&copy, text.as_bytes()).unwrap_err().to_string();
        assert!(error.contains("not empty"), "{error}");
    }

    #[test]
    fn nothing_is_made_of_an_export_without_events() {
        let dir = tempfile::tempdir().unwrap();
        let copy = dir.path().join("copy");
        for empty in ["", "\n\n"] {
            let error = read(&copy, empty.as_bytes()).unwrap_err().to_string();
            assert!(error.contains("the export holds no event"), "{error}");
            assert!(!copy.exists());
        }
    }

    #[tokio::test]
    async fn a_served_log_is_exported_as_its_folder_is() {
        let dir = tempfile::tempdir().unwrap();
        let (log, identity) = (dir.path().join("log"), dir.path().join("gateway"));
        sample(&log).await;
        identity::install_crypto();
        let ca = identity::Authority::open_or_create(&dir.path().join("ca")).unwrap();
        let issue =
            |name| ca.issue_service(name, &[], Duration::from_hours(1)).unwrap().credentials;
        issue("gateway").save(&identity).unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let server = transport::Server::bind(address, &issue("log")).await.unwrap();
        let url = format!("esdb://{}", server.local_addr());
        let stop = CancellationToken::new();
        let router = server::router(
            Log::open(&log, Clock::system()).unwrap(),
            Access::new(Users::default()),
            stop.clone(),
        );
        let serving = tokio::spawn(server.serve(router, stop.clone()));
        for format in [Format::JsonLines, Format::CloudEvents] {
            let mut remote = args(Path::new(&url), false, format);
            (remote.identity, remote.from) = (Some(identity.clone()), 2);
            let local = ExportArgs { from: 2, ..args(&log, false, format) };
            assert_eq!(exported(&remote).await, exported(&local).await);
            remote.raw = true;
            let refused = write(&remote, &mut Vec::new()).await.unwrap_err().to_string();
            assert!(refused.contains("needs the folder"), "{refused}");
        }
        stop.cancel();
        serving.await.unwrap();
    }

    #[tokio::test]
    async fn an_export_that_is_not_whole_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        sample(&log).await;
        let text = exported(&args(&log, true, Format::JsonLines)).await;
        let lines: Vec<&str> = text.lines().collect();
        let shown = exported(&args(&log, false, Format::JsonLines)).await;
        let cases = [
            (lines[1..].join("\n"), "the export is not whole"),
            (lines[..1].join("\n"), "in the middle of an append"),
            (format!("{}\n{{", lines[..2].join("\n")), "line 3"),
            (shown, "only what `gaia log export --raw` writes"),
            (text.replacen("run-2", "run-1", 1), "no log can hold"),
        ];
        for (number, (text, why)) in cases.into_iter().enumerate() {
            let error = read(&dir.path().join(number.to_string()), text.as_bytes()).unwrap_err();
            let error = format!("{error:#}");
            assert!(error.contains(why), "{number}: {error}");
        }
    }

    #[tokio::test]
    async fn what_people_see_holds_no_secret() {
        let dir = tempfile::tempdir().unwrap();
        sample(dir.path()).await;
        for format in [Format::JsonLines, Format::CloudEvents] {
            let text = exported(&args(dir.path(), false, format)).await;
            assert!(!text.contains("kept from all"), "{text}");
            assert!(!text.contains(&base64::Engine::encode(
                &base64::prelude::BASE64_STANDARD,
                "kept from all"
            )));
            assert_eq!(text.lines().count(), 8);
            let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
            let lines: Vec<serde_json::Value> = lines.collect();
            assert_eq!(lines[3]["redacted"], true, "{text}");
            assert_eq!(lines[3]["data"]["key"], "TOKEN");
            assert_eq!(lines[2]["data"]["a"], 1);
            assert_eq!(lines[0]["actor"], "user:ada");
        }
    }

    /// A line, or `null` for what it does not say.
    fn said(line: &str) -> serde_json::Value {
        serde_json::from_str(line).unwrap()
    }

    #[tokio::test]
    async fn a_line_says_who_when_from_where_and_under_which_certificate() {
        let dir = tempfile::tempdir().unwrap();
        sample(dir.path()).await;
        let mut stored = Vec::new();
        files::walk(dir.path(), 0, |entry| {
            stored.push(entry.recorded);
            anyhow::Ok(ControlFlow::Continue(()))
        })
        .unwrap();
        let shown = exported(&args(dir.path(), false, Format::JsonLines)).await;
        let cloud = exported(&args(dir.path(), false, Format::CloudEvents)).await;
        assert_eq!((shown.lines().count(), cloud.lines().count()), (stored.len(), stored.len()));
        for (event, (shown, cloud)) in stored.iter().zip(shown.lines().zip(cloud.lines())) {
            let (shown, cloud) = (said(shown), said(cloud));
            let Recorded { position, stream, revision, recorded_at, event } = event;
            let metadata = event.metadata();
            for line in [&shown, &cloud] {
                assert_eq!(line["id"], event.id.to_string());
                assert_eq!(line["type"], *event.event_type);
                let given = [
                    ("actor", metadata.actor.clone()),
                    ("address", metadata.address.clone()),
                    ("certificate", metadata.certificate.clone()),
                    ("correlation", metadata.correlation_id.clone()),
                ];
                for (name, value) in given {
                    assert_eq!(line[name].as_str().unwrap_or_default(), value, "{name}: {line}");
                }
            }
            for time in [&shown["recorded_at"], &cloud["time"]] {
                let time = chrono::DateTime::parse_from_rfc3339(time.as_str().unwrap()).unwrap();
                assert_eq!(time.timestamp_millis().cast_unsigned(), recorded_at.as_millis());
            }
            assert_eq!(
                (&shown["stream"], &shown["position"]),
                (&stream[..].into(), &(*position).into())
            );
            assert_eq!(shown["revision"], *revision);
            assert_eq!(
                (&cloud["subject"], &cloud["revision"]),
                (&stream[..].into(), &revision.to_string().into())
            );
            assert_eq!(cloud["sequence"], format!("{position:020}"));
            let content_type = cloud.get("data").map(|_| "application/json");
            assert_eq!(cloud["datacontenttype"].as_str(), content_type, "{cloud}");
        }
    }

    #[tokio::test]
    async fn a_cloud_event_has_what_the_specification_asks() {
        let dir = tempfile::tempdir().unwrap();
        sample(dir.path()).await;
        let text = exported(&args(dir.path(), false, Format::CloudEvents)).await;
        for line in text.lines() {
            let event: serde_json::Map<String, serde_json::Value> =
                serde_json::from_str(line).unwrap();
            assert_eq!(event["specversion"], "1.0");
            for name in ["id", "source", "type", "subject", "time"] {
                assert!(event[name].as_str().is_some_and(|text| !text.is_empty()), "{line}");
            }
            chrono::DateTime::parse_from_rfc3339(event["time"].as_str().unwrap()).unwrap();
            assert!(!(event.contains_key("data") && event.contains_key("data_base64")));
            let names = event.keys().filter(|name| *name != "data_base64");
            for name in names {
                let plain = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
                assert!(plain, "{name}");
            }
        }
    }
}
