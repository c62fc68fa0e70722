//! `gaia log serve`, `gaia log user`, `gaia log conformance`: the log behind the EventStoreDB protocol.

use std::{io::Read as _, net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use eventlog::{
    Clock, Log,
    conformance::{self, Outcome},
    server::{self, Access, Users},
};
use host::trust::Renewal;
use identity::{Credentials, Live};
use proto::registry::v1::registry_client::RegistryClient;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use transport::Server;

use crate::output::{Output, table};

/// What was begun takes no longer, unless its client does not read.
const FAREWELL: Duration = Duration::from_secs(1);
/// How often a certificate that nobody renews is looked for.
const LOOK: Duration = Duration::from_mins(1);

#[derive(Args, Clone, Debug)]
pub(crate) struct ServeArgs {
    /// Address and port to listen on
    #[arg(long, default_value = "127.0.0.1:8500", value_name = "ADDR:PORT")]
    listen: SocketAddr,
    /// Folder with the log
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Folder with cert.pem, key.pem and caCert.pem
    #[arg(long, value_name = "DIR")]
    identity: PathBuf,
    /// Address of svc-registry, which renews the certificate and says whom to believe; without it, the
    /// certificate is taken from its folder again whenever it changes there
    #[arg(long, value_name = "URL")]
    registry: Option<String>,
    /// File of those who may use the log without a service's certificate: lines of `gaia log user`
    #[arg(long, value_name = "FILE")]
    users: Option<PathBuf>,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct UserArgs {
    /// Name of the user
    name: String,
    /// What the user may do
    #[arg(long, value_enum, default_value_t)]
    rights: Rights,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct ConformanceArgs {
    /// The log: `esdb://host:port`. It may hold a password, so better set GAIA_LOG_URL
    #[arg(long, env = "GAIA_LOG_URL", hide_env_values = true, value_name = "URL")]
    log: String,
    /// Folder with cert.pem, key.pem and caCert.pem to show, of a service that may write to all streams
    #[arg(long, value_name = "DIR")]
    identity: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Rights {
    #[default]
    Read,
    ReadWrite,
}

/// Serves until it is asked to end.
pub(crate) async fn serve(args: ServeArgs, shutdown: CancellationToken) -> Result<()> {
    let live = Live::new(Credentials::load(&args.identity)?)?;
    let users = args.users.map_or_else(|| Ok(Users::default()), |file| Users::read(&file))?;
    let log = Log::open(&args.data, Clock::system())?;
    let server = Server::bind_live(args.listen, &live)
        .await
        .with_context(|| format!("listen on {}", args.listen))?;
    let mut background = JoinSet::new();
    if let Some(address) = args.registry {
        let channel = host::remote(&address, "svc-registry", &live)?;
        let channels = vec![channel.clone()];
        let registry = RegistryClient::new(channel);
        let renewal = Renewal { registry, live, place: args.identity, channels };
        host::trust::keep(&mut background, renewal, server.watchlist());
    } else {
        background.spawn(follow(live, args.identity, LOOK));
    }
    println!("the log is ready at esdb://{}", server.local_addr());
    let router = server::router(log, Access::new(users), shutdown.clone());
    let late = async {
        shutdown.cancelled().await;
        tokio::time::sleep(FAREWELL).await;
    };
    tokio::select! {
        () = server.acknowledge_at_once().serve(router, shutdown.clone()) => {}
        () = late => {}
    }
    Ok(())
}

/// Takes the certificate from its folder again whenever it has changed there, for ever.
async fn follow(live: Live, place: PathBuf, every: Duration) {
    let mut warned = false;
    loop {
        tokio::time::sleep(every).await;
        let known = live.credentials();
        match Credentials::load(&place) {
            Ok(new) if new.certificate == known.certificate => {}
            Ok(new) => match live.replace(new) {
                Ok(()) => tracing::info!("the log's server shows its new certificate"),
                Err(error) => tracing::error!(%error, "the new certificate cannot be used"),
            },
            Err(error) => tracing::error!(%error, "the certificate cannot be read again"),
        }
        let now = Clock::system().now();
        let validity = live.credentials().validity();
        let is_due = validity.as_ref().is_ok_and(|validity| validity.renew_at(u8::MAX) <= now);
        if let (Ok(validity), true, false) = (validity, is_due, warned) {
            let left = validity.until.since(now).as_secs() / 3_600;
            tracing::warn!(
                "the certificate in {} ends in {left} hours: make another with `gaia cert service`, \
                 it is taken without a restart",
                place.display()
            );
        }
        warned = is_due;
    }
}

/// Prints the line of a new user, whose password is read from the standard input.
pub(crate) fn user(args: UserArgs) -> Result<()> {
    let mut password = String::new();
    std::io::stdin().lock().read_to_string(&mut password).context("read the password")?;
    let password = password.trim_end_matches(['\r', '\n']);
    ensure!(password.len() >= 8, "the password on the standard input has less than 8 bytes");
    let rights = match args.rights {
        Rights::Read => server::Rights::Read,
        Rights::ReadWrite => server::Rights::ReadWrite,
    };
    println!("{}", Users::line(&args.name, rights, password)?);
    Ok(())
}

/// Checks what our services rely on. The answer is the exit code: 1 if something does not hold.
pub(crate) async fn conformance(args: ConformanceArgs, output: Output) -> Result<u8> {
    let found = conformance::check(&args.log, args.identity.as_deref()).await?;
    let failed = found.findings.iter().filter(|finding| finding.outcome == Outcome::Fails).count();
    let list = found.findings.iter().map(|finding| {
        serde_json::json!({
            "number": finding.number,
            "assumption": finding.assumption,
            "result": result(&finding.outcome),
            "seen": finding.seen,
        })
    });
    let (server, prefix) = (&found.server, &found.prefix);
    let answer = serde_json::json!({
        "server": server, "assumptions": list.collect::<Vec<_>>(), "prefix": prefix, "left": found.left,
    });
    output.show(&answer, |_| {
        let rows = found.findings.iter().map(|finding| {
            let assumption = format!("{}. {}", finding.number, finding.assumption);
            [assumption, result(&finding.outcome).to_owned(), finding.seen.clone()]
        });
        let all = table(["ASSUMPTION", "RESULT", "SEEN"], rows);
        let end = match failed {
            0 => "This log will do.".to_owned(),
            1 => "1 assumption does not hold: our services would go wrong here.".to_owned(),
            more => format!("{more} assumptions do not hold: our services would go wrong here."),
        };
        format!("Server: {server}\n{all}\n{end}")
    })?;
    for left in &found.left {
        eprintln!("left behind, since it could not be ended: {left}");
    }
    Ok(u8::from(failed > 0))
}

fn result(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Holds => "holds",
        Outcome::Fails => "fails",
        Outcome::NotChecked => "not checked",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_new_certificate_is_taken_from_its_folder() {
        let dir = tempfile::tempdir().unwrap();
        identity::install_crypto();
        let authority = identity::Authority::open_or_create(&dir.path().join("ca")).unwrap();
        let place = dir.path().join("log");
        let issue =
            || authority.renew_service(&place, "log", &[], Duration::from_hours(1)).unwrap();
        let live = Live::new(issue().credentials).unwrap();
        let new = issue().credentials;
        let every = Duration::from_millis(1);
        let taken = async {
            while live.credentials().certificate != new.certificate {
                tokio::time::sleep(every).await;
            }
        };
        tokio::select! {
            () = taken => {}
            () = follow(live.clone(), place.clone(), every) => unreachable!("it never ends"),
            () = tokio::time::sleep(Duration::from_mins(1)) => panic!("it was not taken"),
        }
    }
}
