//! The processes of the demonstration, and its client.

use std::{ffi::OsString, fs, path::Path, time::Duration};

use anyhow::{Context, Result, bail};
use futures::StreamExt;
use tempfile::TempDir;
use tokio::time::{interval, timeout};

use super::repository::Repository;
use crate::{
    api::{Pipeline, Run, Worker},
    client::Client,
    command::{
        pipeline::{self, CreateArgs},
        run,
        trust::{self, NewToken},
    },
    output::spinner,
    processes::Processes,
    profile::ServerArgs,
};

/// Agents, and the tag that only each of them has.
const AGENTS: [&str; 2] = ["blue", "green"];

/// Longest wait for one thing.
const PATIENCE: Duration = Duration::from_secs(150);

pub(super) struct House {
    folder: TempDir,
    processes: Processes,
    client: Option<Client>,
}

impl House {
    pub(super) fn new(keep: bool) -> Result<Self> {
        let mut folder = tempfile::Builder::new()
            .prefix("gaia-demo-")
            .tempdir()
            .context("create a temporary folder")?;
        folder.disable_cleanup(keep);
        let program = std::env::current_exe().context("find this program's own file")?;
        let processes = Processes::new(&program, &folder.path().join("logs"))?;
        if keep {
            anstream::println!("Everything is kept in {}", folder.path().display());
        }
        Ok(Self { folder, processes, client: None })
    }

    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(super) fn client(&self) -> &Client {
        self.client.as_ref().expect("the story opens the house first")
    }

    /// A server of its own, or the one that the command line names; and two agents.
    pub(super) async fn open(&mut self, server: &ServerArgs) -> Result<()> {
        if server.server.is_some() {
            super::heading("Two agents for the given server");
            self.client = Some(server.client()?);
        } else {
            super::heading("A server and two agents, each a process of its own");
            self.start_server().await?;
        }
        for agent in AGENTS {
            self.start_agent(agent).await?;
        }
        anstream::println!(
            "{} with agents {}, over {:?}",
            self.client().server(),
            AGENTS.join(" and "),
            self.client().protocol().context("the server was called")?
        );
        Ok(())
    }

    async fn start_server(&mut self) -> Result<()> {
        let data = self.folder.path().join("server");
        let password = uuid_text();
        let words: Vec<OsString> = vec![
            "server".into(),
            "--listen".into(),
            "127.0.0.1:0".into(),
            "--data".into(),
            data.clone().into(),
            "--prevent-primary-work".into(),
            "--worker-grace".into(),
            "3".into(),
        ];
        self.processes.start("server", &words, &[("GAIA_ADMIN_PASSWORD", &password)])?;
        let url = self.processes.line("server", "gaia is ready at ").await?;
        let ca = fs::read_to_string(data.join("ca/ca.pem")).context("read the CA certificate")?;
        let mut client = Client::new(&url, &ca, None)?;
        client.login("admin", &password).await?;
        self.client = Some(client);
        Ok(())
    }

    pub(super) async fn start_agent(&mut self, name: &str) -> Result<()> {
        let token = trust::token(self.client(), &NewToken::default()).await?.token;
        let words: Vec<OsString> = vec![
            "agent".into(),
            "--server".into(),
            self.client().server().into(),
            "--name".into(),
            name.into(),
            "--tag".into(),
            name.into(),
            "--slots".into(),
            "4".into(),
            "--home".into(),
            self.folder.path().join(name).into(),
        ];
        self.processes.start(name, &words, &[("GAIA_JOIN_TOKEN", &token)])?;
        self.wait(&format!("agent {name} connects"), async |client| {
            let workers: Vec<Worker> = client.get("/api/v1/worker").await?;
            Ok(workers.iter().any(|worker| worker.name == name && worker.connected).then_some(()))
        })
        .await
    }

    pub(super) async fn kill_agent(&mut self, name: &str) -> Result<()> {
        self.processes.kill(name).await
    }

    pub(super) async fn create(&self, repository: &Repository) -> Result<Pipeline> {
        let args = CreateArgs {
            name: repository.name.to_owned(),
            url: repository.folder.display().to_string(),
            kind: repository.kind.to_owned(),
            ..CreateArgs::default()
        };
        pipeline::create(self.client(), &args).await
    }

    /// The pipeline, once it can be run.
    pub(super) async fn built(&self, pipeline: &Pipeline) -> Result<Pipeline> {
        let path = format!("/api/v1/pipeline/{}", pipeline.id);
        let what = format!("the build of {}", pipeline.name);
        self.wait(&what, async |client| {
            let pipeline: Pipeline = client.get(&path).await?;
            match pipeline.buildstate.as_str() {
                "built" => Ok(Some(pipeline)),
                "failed" => bail!("{} was not built: {}", pipeline.name, pipeline.builderror),
                _ => Ok(None),
            }
        })
        .await
    }

    /// The run, once some of its jobs are done and others at work.
    pub(super) async fn in_the_middle(&self, run: &str) -> Result<Run> {
        self.until(run, "it is in the middle", |run| {
            let has = |status| run.jobs.iter().any(|job| job.status == status);
            has("success") && has("running")
        })
        .await
    }

    pub(super) async fn ended(&self, run: &str) -> Result<Run> {
        self.until(run, "it ends", Run::is_over).await
    }

    /// The run, as soon as `wanted` is true of it: the server tells every change.
    pub(super) async fn until(
        &self,
        run: &str,
        what: &str,
        wanted: impl Fn(&Run) -> bool,
    ) -> Result<Run> {
        let path = format!("/api/v1/run/{run}");
        let changes = async {
            let mut states = self.client().follow(&path).await?;
            let mut last = None;
            while let Some(event) = states.next().await {
                let run: Run = run::heard(&event?)?;
                if wanted(&run) {
                    return Ok(run);
                }
                last = Some(run);
            }
            let last = last.context("the server said nothing of the run")?;
            bail!("run {run} ended ({}) before {what}: {}", last.status, last.reason)
        };
        timeout(PATIENCE, changes)
            .await
            .with_context(|| format!("waited in vain for run {run} until {what}"))?
    }

    /// Asks again and again; for things that the server has no stream of.
    async fn wait<T>(
        &self,
        what: &str,
        ask: impl AsyncFn(&Client) -> Result<Option<T>>,
    ) -> Result<T> {
        let waiting = spinner(what);
        let asked = async {
            let mut looks = interval(Duration::from_millis(100));
            loop {
                looks.tick().await;
                if let Some(found) = ask(self.client()).await? {
                    return anyhow::Ok(found);
                }
            }
        };
        let found = timeout(PATIENCE, asked).await;
        waiting.finish_and_clear();
        found.with_context(|| format!("waited in vain: {what}"))?
    }

    pub(super) async fn end(self) {
        self.processes.end().await;
    }
}

fn uuid_text() -> String {
    #[expect(clippy::disallowed_methods, reason = "a password for one demonstration")]
    uuid::Uuid::new_v4().to_string()
}
