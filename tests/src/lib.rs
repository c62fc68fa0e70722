//! The cluster harness: a real server and real agents as processes, over real mTLS, with their data in
//! a temporary folder. The stories that use it are in `it/`. `house` has every service as a process of its
//! own; `line` is a bad network.

mod house;
pub mod line;

use std::{
    collections::HashMap,
    ffi::OsString,
    fs,
    future::Future,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use gaia::{
    api::{Pipeline, Run, Worker},
    client::Client,
    command::trust::NewToken,
    processes::Processes,
};
use http::Method;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{Instant, interval};
use transport::Protocols;

pub use house::Setting;

/// How long a story waits for something before it fails. Generous: the machine may be busy.
const DEADLINE: Duration = Duration::from_secs(90);

/// A secret that is in the vault in every story, and its key.
pub const SECRET_KEY: &str = "STORY_SECRET";
pub const SECRET: &str = "s3cr=et\nwith two lines";

/// The administrator's password in every story.
const PASSWORD: &str = "a password for stories";

/// One server and its agents. Dropping it ends every process.
#[derive(Debug)]
pub struct Cluster {
    processes: Processes,
    pub client: Client,
    url: String,
    folder: TempDir,
    /// Further arguments of the server.
    arguments: Vec<String>,
    /// Services that are processes of their own.
    launches: HashMap<String, house::Launch>,
}

impl Cluster {
    /// Starts a server that leaves all work to its agents, unless it is given `--slots`. `program` is the
    /// `gaia` program.
    pub async fn start(program: &Path) -> Result<Self> {
        Self::start_with(program, &[]).await
    }

    /// The same with further arguments for the server.
    pub async fn start_with(program: &Path, arguments: &[&str]) -> Result<Self> {
        Self::start_at(program, "127.0.0.1:0", arguments).await
    }

    /// The same, where the server listens.
    pub async fn start_at(program: &Path, listen: &str, arguments: &[&str]) -> Result<Self> {
        identity::install_crypto();
        let folder = tempfile::Builder::new().prefix("gaia-story-").tempdir()?;
        let arguments: Vec<_> = arguments.iter().map(ToString::to_string).collect();
        let mut processes = Processes::new(program, &folder.path().join("said"))?;
        let (url, client) = serve(&mut processes, folder.path(), listen, &arguments).await?;
        keep_secret(&client).await?;
        let launches = HashMap::new();
        Ok(Self { processes, client, url, folder, arguments, launches })
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// The number of a process that runs.
    pub fn pid(&self, name: &str) -> Result<u32> {
        self.processes.pid(name).with_context(|| format!("{name} does not run"))
    }

    /// What the program says to these words of the administrator; an error if it refuses.
    pub async fn say(&self, words: &[&str]) -> Result<String> {
        let token = Client::new(&self.url, &self.ca()?, None)?.login("admin", PASSWORD).await?;
        let output = tokio::process::Command::new(self.processes.program())
            .args(words)
            .env("GAIA_SERVER", &self.url)
            .env("GAIA_CA_CERT", ca_file(self.folder.path()))
            .env("GAIA_TOKEN", token)
            .output()
            .await?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "gaia {}: {said}{errors}", words.join(" "));
        Ok(said)
    }

    /// PEM text of the server's CA.
    pub fn ca(&self) -> Result<String> {
        Ok(fs::read_to_string(ca_file(self.folder.path()))?)
    }

    /// The folder of an agent: identity, cache, work.
    pub fn home(&self, agent: &str) -> PathBuf {
        self.folder.path().join(agent)
    }

    /// Starts an agent and waits until the server counts on it.
    pub async fn agent(&mut self, name: &str, arguments: &[&str]) -> Result<()> {
        self.agent_with(name, arguments, &[]).await
    }

    /// Starts an agent with these variables, and waits until it is connected.
    pub async fn agent_with(
        &mut self,
        name: &str,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Result<()> {
        let token = gaia::command::trust::token(&self.client, &NewToken::default()).await?.token;
        let words = self.agent_words(name, &self.url, arguments);
        let environment = [&[("GAIA_JOIN_TOKEN", &*token)], environment].concat();
        self.processes.start(name, &words, &environment)?;
        self.until(&format!("agent {name} is connected"), async || {
            let worker = self.worker(name).await?;
            Ok(worker.filter(|worker| worker.connected && worker.status == "active").map(drop))
        })
        .await
    }

    /// Starts an agent without waiting for it.
    pub async fn launch_agent(&mut self, name: &str, arguments: &[&str]) -> Result<()> {
        let token = gaia::command::trust::token(&self.client, &NewToken::default()).await?.token;
        self.launch_agent_by(name, &token, arguments)
    }

    /// Starts an agent with this join token, without waiting for it.
    pub fn launch_agent_by(&mut self, name: &str, token: &str, arguments: &[&str]) -> Result<()> {
        let words = self.agent_words(name, &self.url, arguments);
        self.processes.start(name, &words, &[("GAIA_JOIN_TOKEN", token)])
    }

    fn agent_words(&self, name: &str, server: &str, arguments: &[&str]) -> Vec<OsString> {
        let mut words: Vec<OsString> = vec![
            "agent".into(),
            "--name".into(),
            name.into(),
            "--server".into(),
            server.into(),
            "--home".into(),
            self.home(name).into(),
        ];
        words.extend(arguments.iter().map(OsString::from));
        words
    }

    /// Starts an agent at the other end of a line, without waiting for it. The server must listen
    /// everywhere.
    pub async fn launch_agent_behind(
        &mut self,
        line: &line::Line,
        program: &Path,
        name: &str,
        arguments: &[&str],
    ) -> Result<()> {
        let token = gaia::command::trust::token(&self.client, &NewToken::default()).await?.token;
        let (_, port) = self.url.rsplit_once(':').context("the server has a port")?;
        let server = format!("https://{}:{port}", line.address());
        let [ip, prefix @ ..] = line.prefix();
        let mut words: Vec<OsString> = prefix.map(OsString::from).into();
        words.push(program.into());
        words.extend(self.agent_words(name, &server, arguments));
        self.processes.start_program(Path::new(ip), name, &words, &[("GAIA_JOIN_TOKEN", &token)])
    }

    /// Waits until a process has written this to standard error.
    pub async fn said(&self, name: &str, text: &str) -> Result<()> {
        self.until(&format!("{name} says `{text}`"), async || {
            Ok(self.processes.said(name).contains(text).then_some(()))
        })
        .await
    }

    /// A client on a connection of its own, which trusts what `client` trusts and is logged in.
    pub async fn fresh_client(&self, ca: &str) -> Result<Client> {
        let mut client = Client::new(&self.url, ca, None)?;
        client.login("admin", PASSWORD).await?;
        Ok(client)
    }

    /// The client gets another connection, over these protocols alone.
    pub async fn reconnect(&mut self, protocols: Protocols) -> Result<()> {
        self.client = Client::over(&self.url, &self.ca()?, None, protocols)?;
        self.client.login("admin", PASSWORD).await?;
        Ok(())
    }

    /// Kills a process as a power cut would.
    pub async fn kill(&mut self, name: &str) -> Result<()> {
        self.processes.kill(name).await
    }

    /// What a process has written to standard error.
    pub fn words_of(&self, name: &str) -> String {
        self.processes.said(name)
    }

    /// Ends a process politely, and waits for it.
    pub async fn stop(&mut self, name: &str) -> Result<std::process::ExitStatus> {
        self.processes.stop(name).await
    }

    /// Starts the server again on the port and the data that it had.
    pub async fn restart_server(&mut self) -> Result<()> {
        let listen = self.url.trim_start_matches("https://").to_owned();
        let (_, client) =
            serve(&mut self.processes, self.folder.path(), &listen, &self.arguments).await?;
        self.client = client;
        Ok(())
    }

    pub async fn worker(&self, name: &str) -> Result<Option<Worker>> {
        let workers: Vec<Worker> = self.client.get("/api/v1/worker").await?;
        Ok(workers.into_iter().find(|worker| worker.name == name))
    }

    /// Creates a pipeline whose "build" puts the given executable in place, and waits for it.
    pub async fn pipeline_of(
        &self,
        name: &str,
        executable: &Path,
        tags: &[&str],
    ) -> Result<Pipeline> {
        let repository = self.folder.path().join(format!("repository-{name}"));
        let makefile = format!("all:\n\tcp {} pipeline.out\n", executable.display());
        repository_with(&repository, &[("Makefile", &makefile)])?;
        self.pipeline(name, "cpp", &repository, tags).await
    }

    /// Creates a pipeline from a repository, and waits until it is built.
    pub async fn pipeline(
        &self,
        name: &str,
        kind: &str,
        repository: &Path,
        tags: &[&str],
    ) -> Result<Pipeline> {
        let pipeline = self.create(name, kind, repository, tags).await?;
        let built = self.ended(&pipeline.buildrunid).await?;
        if built.status != "success" {
            bail!("the build of {name} {}: {}", built.status, built.reason);
        }
        self.until(&format!("pipeline {name} is built"), async || {
            let pipeline: Pipeline =
                self.client.get(&format!("/api/v1/pipeline/{}", pipeline.id)).await?;
            Ok((pipeline.version > 0).then_some(pipeline))
        })
        .await
    }

    /// Creates a pipeline from a repository; its build goes on.
    pub async fn create(
        &self,
        name: &str,
        kind: &str,
        repository: &Path,
        tags: &[&str],
    ) -> Result<Pipeline> {
        let body = json!({ "pipeline": {
            "name": name, "type": kind, "tags": tags, "repo": { "url": repository },
        }});
        Ok(self.client.post("/api/v1/pipeline", &body).await?)
    }

    /// Starts a run. `body` is what `POST pipeline/:id/start` takes.
    pub async fn start_run(&self, pipeline: &Pipeline, body: Value) -> Result<Run> {
        let path = format!("/api/v1/pipeline/{}/start", pipeline.id);
        Ok(self.client.post(&path, &body).await?)
    }

    pub async fn run(&self, id: &str) -> Result<Run> {
        Ok(self.client.get(&format!("/api/v1/run/{id}")).await?)
    }

    /// The run, once `wanted` is true of it.
    pub async fn run_that(
        &self,
        id: &str,
        what: &str,
        wanted: impl Fn(&Run) -> bool,
    ) -> Result<Run> {
        self.until(&format!("run {id} {what}"), async || {
            let run = self.run(id).await?;
            Ok(wanted(&run).then_some(run))
        })
        .await
    }

    /// The run, once it has ended.
    pub async fn ended(&self, id: &str) -> Result<Run> {
        self.run_that(id, "ends", Run::is_over).await
    }

    pub async fn cancel(&self, id: &str) -> Result<()> {
        let path = format!("/api/v1/run/{id}/stop");
        self.client.call(Method::POST, &path, Some(&json!({}))).await?;
        Ok(())
    }

    /// The environment in which the program's commands reach this server as its administrator. Logs in.
    pub async fn environment(&self) -> Result<[(&'static str, std::ffi::OsString); 3]> {
        let mut client = Client::new(&self.url, &self.ca()?, None)?;
        let token = client.login("admin", PASSWORD).await?;
        let ca = ca_file(self.folder.path());
        Ok([
            ("GAIA_SERVER", self.url.clone().into()),
            ("GAIA_CA_CERT", ca.into()),
            ("GAIA_TOKEN", token.into()),
        ])
    }

    pub async fn log(&self, id: &str) -> Result<String> {
        let path = format!("/api/v1/run/{id}/log?raw=1");
        let text = self.client.call(Method::GET, &path, None::<&()>).await?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// Waits for the condition itself, with a deadline; a server that is away for a moment counts as
    /// "not yet".
    pub async fn until<T, F: Future<Output = Result<Option<T>>>>(
        &self,
        what: &str,
        mut condition: impl FnMut() -> F,
    ) -> Result<T> {
        let deadline = Instant::now() + DEADLINE;
        let mut looks = interval(Duration::from_millis(50));
        let mut last = None;
        while Instant::now() < deadline {
            looks.tick().await;
            match condition().await {
                Ok(Some(value)) => return Ok(value),
                Ok(None) => {}
                Err(error) => last = Some(error),
            }
        }
        match last {
            Some(error) => Err(error.context(format!("waited in vain until {what}"))),
            None => bail!("waited in vain until {what}"),
        }
    }
}

async fn keep_secret(client: &Client) -> Result<()> {
    let secret = json!({ "key": SECRET_KEY, "value": SECRET });
    client.call(Method::POST, "/api/v1/secret", Some(&secret)).await?;
    Ok(())
}

async fn serve(
    processes: &mut Processes,
    folder: &Path,
    listen: &str,
    arguments: &[String],
) -> Result<(String, Client)> {
    let mut words: Vec<OsString> = vec![
        "server".into(),
        "--listen".into(),
        listen.into(),
        "--data".into(),
        folder.join("server").into(),
    ];
    // Slots are those of its own agent.
    if !arguments.iter().any(|argument| argument == "--slots") {
        words.push("--prevent-primary-work".into());
    }
    if !arguments.iter().any(|argument| argument == "--worker-grace") {
        // Longer than a QUIC client needs to notice that its server is another process now.
        words.extend(["--worker-grace".into(), "8".into()]);
    }
    words.extend(arguments.iter().map(OsString::from));
    processes.start("server", &words, &[("GAIA_ADMIN_PASSWORD", PASSWORD)])?;
    let url = processes.line("server", "gaia is ready at ").await?;
    let ca = fs::read_to_string(ca_file(folder)).context("read the CA certificate")?;
    let mut client = Client::new(&url, &ca, None)?;
    client.login("admin", PASSWORD).await?;
    Ok((url, client))
}

fn ca_file(folder: &Path) -> PathBuf {
    folder.join("server/ca/ca.pem")
}

/// Makes a git repository with these files and one commit.
pub fn repository_with(folder: &Path, files: &[(&str, &str)]) -> Result<()> {
    for (name, text) in files {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().context("a file has a folder")?)?;
        fs::write(path, text)?;
    }
    commit_all(folder)
}

/// Makes a git repository of what is in the folder.
pub fn commit_all(folder: &Path) -> Result<()> {
    let identity = ["-c", "user.name=Stories", "-c", "user.email=stories@example.org"];
    for words in [&["init", "-q"][..], &["add", "-A"], &["commit", "-q", "-m", "a story"]] {
        let status = std::process::Command::new("git")
            .current_dir(folder)
            .args(identity)
            .args(words)
            .status()
            .context("run git")?;
        if !status.success() {
            bail!("git {words:?} failed in {}", folder.display());
        }
    }
    Ok(())
}
