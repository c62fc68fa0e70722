//! `gaia audit`: what happened, and the proof that the log still says so.

use std::{
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use clap::Subcommand;
use eventlog::{Clock, Head, SignedHead, files};
use serde::{Deserialize, Serialize};

use super::{run, segment};
use crate::{
    api::Event,
    log::must_hold_a_log,
    output::{Output, exact_time, table},
    profile::ServerArgs,
};

#[derive(Subcommand, Debug)]
pub enum AuditCommand {
    /// Show all that happened to a run: who did it, when, why, from where, under which certificate
    Run {
        /// Unique id, or PIPELINE/NUMBER
        run: String,
    },
    /// Print the signed head of the log, to be kept elsewhere: it proves later what the log held
    Head {
        /// Folder of the log, instead of asking the server; also name --identity
        #[arg(long, value_name = "DIR", requires = "identity")]
        log: Option<PathBuf>,
        /// Folder with cert.pem, key.pem and caCert.pem of the gateway or the log
        #[arg(long, value_name = "DIR", requires = "log")]
        identity: Option<PathBuf>,
        /// The head as it was after this event [default: the last one]
        #[arg(long)]
        position: Option<u64>,
    },
    /// Prove that nothing in a log was changed, and that it holds the heads that were signed
    Verify {
        /// Folder of the log; without it, the server is asked what its log's head was
        #[arg(long, value_name = "DIR")]
        log: Option<PathBuf>,
        /// File of a signed head that the log must hold; may be repeated
        #[arg(long = "head", value_name = "FILE")]
        heads: Vec<PathBuf>,
        /// File of a signed head to begin after, instead of the first event
        #[arg(long, value_name = "FILE", requires = "log")]
        from: Option<PathBuf>,
    },
}

pub async fn audit(command: AuditCommand, server: &ServerArgs, output: Output) -> Result<()> {
    match command {
        AuditCommand::Run { run } => trail(&run, server, output).await,
        AuditCommand::Head { log, identity, position } => {
            let head = match (log, identity) {
                (Some(log), Some(identity)) => sign(&log, &identity, position)?,
                _ => ask(server, position).await?,
            };
            anstream::println!("{}", serde_json::to_string_pretty(&head)?);
            Ok(())
        }
        AuditCommand::Verify { log: Some(log), heads, from } => {
            let heads = checked(server, &heads)?;
            let from = from.map(|from| checked(server, &[from])).transpose()?;
            let from = from.and_then(|from| from.into_iter().next());
            verify(&log, from, &heads, output)
        }
        AuditCommand::Verify { log: None, heads, .. } => compare(server, &heads, output).await,
    }
}

#[derive(Serialize, Deserialize)]
struct Trail {
    run: String,
    events: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    #[serde(flatten)]
    event: Event,
    about: String,
    /// Absent from the answers of older servers.
    #[serde(default)]
    says: String,
    why: String,
}

async fn trail(run: &str, server: &ServerArgs, output: Output) -> Result<()> {
    let client = server.client()?;
    let id = run::find(&client, run).await?.uniqueid;
    let trail: Trail = client.get(&format!("/api/v1/audit/run/{}", segment(&id))).await?;
    output.show(&trail, |trail| {
        let rows = trail.events.iter().map(|Entry { event, about, says, why }| {
            [
                event.position.to_string(),
                exact_time(event.recorded_at),
                about.clone(),
                event.event_type.clone(),
                says.clone(),
                event.actor.clone(),
                event.address.clone(),
                event.certificate.clone(),
                why.clone(),
            ]
        });
        let head =
            ["EVENT", "WHEN", "ABOUT", "WHAT", "IT SAYS", "WHO", "FROM", "CERTIFICATE", "WHY"];
        format!("Run {}\n{}", trail.run, table(head, rows))
    })
}

fn sign(log: &Path, identity: &Path, position: Option<u64>) -> Result<SignedHead> {
    let head = match position {
        None => files::head(log)?.context("the log is empty: there is nothing to sign yet")?,
        Some(position) => files::head_at(log, position)?
            .with_context(|| format!("the log does not reach to event {position}"))?,
    };
    let credentials = identity::Credentials::load(identity)?;
    Ok(SignedHead::sign(head, Clock::system().now(), &credentials)?)
}

async fn ask(server: &ServerArgs, position: Option<u64>) -> Result<SignedHead> {
    let position = position.map(|position| format!("?position={position}")).unwrap_or_default();
    Ok(server.client()?.get(&format!("/api/v1/audit/head{position}")).await?)
}

/// The heads in these files, if their signatures hold.
fn checked(server: &ServerArgs, files: &[PathBuf]) -> Result<Vec<Head>> {
    files
        .iter()
        .map(|file| read(file)?.check(&server.ca_pem()?).with_context(|| said(file)))
        .collect()
}

fn read(file: &Path) -> Result<SignedHead> {
    let text = fs::read_to_string(file).with_context(|| said(file))?;
    serde_json::from_str(&text).with_context(|| format!("{}: not a signed head", said(file)))
}

fn said(file: &Path) -> String {
    format!("read {}", file.display())
}

#[derive(Serialize)]
struct Proof {
    /// Events that were walked through, and the last one's position.
    events: u64,
    position: Option<u64>,
    chain: String,
    /// Where the signed heads that were found stand.
    heads: Vec<u64>,
}

fn verify(log: &Path, from: Option<Head>, heads: &[Head], output: Output) -> Result<()> {
    must_hold_a_log(log)?;
    // From the first event on, streams and sizes are checked too.
    if from.is_none() {
        eventlog::verify(log)?;
    }
    let start = from.map_or(0, |from| from.position);
    let mut wanted: Vec<Head> = heads.iter().copied().chain(from).collect();
    wanted.retain(|head| head.position >= start);
    let early = heads.iter().find(|head| head.position < start);
    if let Some(early) = early {
        bail!(
            "the head at event {} is before the one to begin after: leave one out",
            early.position
        );
    }
    let mut proof = Proof { events: 0, position: None, chain: String::new(), heads: Vec::new() };
    files::walk(log, start, |entry| {
        let position = entry.recorded.position;
        for head in wanted.extract_if(.., |head| head.position == position) {
            ensure!(
                entry.chain == head.chain,
                "the log was rewritten: up to event {position} its chain is {}, but {} was signed",
                entry.chain,
                head.chain
            );
            proof.heads.push(position);
        }
        proof.events += u64::from(position >= start);
        proof.position = Some(position);
        proof.chain = entry.chain.to_string();
        anyhow::Ok(ControlFlow::Continue(()))
    })?;
    if let Some(missing) = wanted.first() {
        bail!(
            "the log was cut: a head at event {} was signed, and the log ends {}",
            missing.position,
            proof.position.map_or_else(|| "before its first".into(), |last| format!("at {last}"))
        );
    }
    proof.heads.sort_unstable();
    output.show(&proof, |proof| {
        let heads = match proof.heads.as_slice() {
            [] => "No signed head was given: keep one with `gaia audit head`.".to_owned(),
            heads => format!("The log holds the signed heads at {heads:?}."),
        };
        format!("{} events, the chain holds. {heads}", proof.events)
    })
}

/// What a server says of its log, beside what was signed before.
async fn compare(server: &ServerArgs, files: &[PathBuf], output: Output) -> Result<()> {
    if files.is_empty() {
        bail!("name the log's folder with --log, or signed heads to compare with --head");
    }
    let mut found = Vec::new();
    for (file, head) in files.iter().zip(checked(server, files)?) {
        let now = ask(server, Some(head.position)).await?.check(&server.ca_pem()?)?;
        is_still_so(now, head, file)?;
        found.push(head.position);
    }
    output.show(&found, |found| format!("The server's log holds the signed heads at {found:?}."))
}

fn is_still_so(now: Head, then: Head, file: &Path) -> Result<()> {
    ensure!(
        now == then,
        "the server's log was rewritten: up to event {} its chain is {}, but {} was signed ({})",
        then.position,
        now.chain,
        then.chain,
        file.display()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use eventlog::{Expected, Log, Metadata, NewEvent, files::Imported};
    use ids::EventId;
    use uuid::Uuid;

    use super::*;

    const HOUR: Duration = Duration::from_hours(1);

    /// A log of so many events, one an append.
    async fn log_of(dir: &Path, count: u128) {
        let log = Log::open(dir, Clock::system()).unwrap();
        for number in 1..=count {
            let id = EventId::from_uuid(Uuid::from_u128(number));
            let event = NewEvent::new(id, "Paid", format!("{number} €"), &Metadata::default());
            log.append("account-1", Expected::Any, vec![event]).await.unwrap();
        }
    }

    #[test]
    fn a_folder_without_a_log_proves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let error = verify(dir.path(), None, &[], Output::Json).unwrap_err().to_string();
        assert!(error.contains("there is no log in"), "{error}");
    }

    /// A log with these events and a chain of its own, as a forger would make it.
    fn forged(from: &Path, to: &Path, forge: impl Fn(&mut Imported) -> bool) {
        let mut events = Vec::new();
        files::walk(from, 0, |entry| {
            let mut event = Imported::from(entry);
            if forge(&mut event) {
                events.push(anyhow::Ok(event));
            }
            anyhow::Ok(ControlFlow::Continue(()))
        })
        .unwrap();
        files::import(to, events.into_iter()).unwrap();
    }

    #[tokio::test]
    async fn a_rewritten_history_is_caught_by_a_head_that_was_signed_before() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        log_of(&path("log"), 9).await;
        let authority = identity::Authority::open_or_create(&path("ca")).unwrap();
        authority.renew_service(&path("gateway"), "gateway", &[], HOUR).unwrap();
        let heads: Vec<Head> = [Some(4), None]
            .map(|at| sign(&path("log"), &path("gateway"), at).unwrap())
            .iter()
            .map(|head| head.check(&authority.ca_pem()).unwrap())
            .collect();
        let check = |log: &str, from: Option<Head>, heads: &[Head]| {
            verify(&path(log), from, heads, Output::Json).map_err(|error| error.to_string())
        };
        check("log", None, &heads).unwrap();
        check("log", Some(heads[0]), &heads[1..]).unwrap();

        forged(&path("log"), &path("copy"), |_| true);
        check("copy", None, &heads).unwrap();

        forged(&path("log"), &path("changed"), |event| {
            if event.recorded.position == 2 {
                event.recorded.event.data = "2000 €".into();
            }
            true
        });
        // Its own chain holds; only what was kept elsewhere tells.
        check("changed", None, &[]).unwrap();
        for (from, heads) in [(None, &heads[..1]), (None, &heads[1..]), (Some(heads[0]), &[])] {
            let error = check("changed", from, heads).unwrap_err();
            assert!(error.contains("rewritten"), "{error}");
        }

        // What a server says now is compared with what it said then.
        let now = files::head_at(&path("changed"), 8).unwrap().unwrap();
        is_still_so(heads[1], heads[1], Path::new("kept")).unwrap();
        let error = is_still_so(now, heads[1], Path::new("kept")).unwrap_err().to_string();
        assert!(error.contains("rewritten: up to event 8"), "{error}");

        // A chain that holds over what no log can hold.
        forged(&path("log"), &path("odd"), |event| {
            if event.recorded.position == 3 {
                event.recorded.stream = "account-2".into();
            }
            true
        });
        check("odd", None, &[]).unwrap_err();

        forged(&path("log"), &path("cut"), |event| event.recorded.position < 7);
        check("cut", None, &heads[..1]).unwrap();
        let error = check("cut", None, &heads).unwrap_err();
        assert!(error.contains("was cut: a head at event 8"), "{error}");
        let error = sign(&path("cut"), &path("gateway"), Some(8)).unwrap_err().to_string();
        assert!(error.contains("does not reach to event 8"), "{error}");
        let error = check("log", Some(heads[1]), &heads[..1]).unwrap_err();
        assert!(error.contains("before the one to begin after"), "{error}");
    }
}
