//! A served log through public clients in other languages, over TLS with names and passwords.

use std::{
    fs,
    io::{BufRead, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use anyhow::{Context, Result, ensure};

use crate::program;

const PYTHON_CLIENT: &str = "kurrentdbclient==1.3.5";
const NODE_CLIENT: &str = "@eventstore/db-client@6.2.1";

/// `gaia log serve` with a writer and a reader.
struct ServedLog {
    folder: tempfile::TempDir,
    process: Child,
    address: String,
}

impl ServedLog {
    fn start() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let path = |name: &str| folder.path().join(name);
        let mut certificate = Command::new(program());
        certificate.args(["cert", "service", "log", "--ca"]).arg(path("ca"));
        done(certificate.arg("--out").arg(path("identity")))?;
        let reader = user("bob", "read", "bob-reads")?;
        fs::write(path("users"), user("ada", "read-write", "ada-writes")? + &reader)?;
        let mut serve = Command::new(program());
        serve.args(["log", "serve", "--listen", "127.0.0.1:0", "--data"]).arg(path("data"));
        serve.arg("--identity").arg(path("identity")).arg("--users").arg(path("users"));
        let mut process = serve.stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        let said = process.stdout.take().context("its output")?;
        BufReader::new(said).read_line(&mut line)?;
        let (_, address) = line.trim().split_once("esdb://").context("it names no address")?;
        let address = address.to_owned();
        Ok(Self { folder, process, address })
    }

    fn url(&self, credentials: &str) -> String {
        let ca = self.path("ca/ca.pem");
        format!("esdb://{credentials}@{}?tlsCaFile={}", self.address, ca.display())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

impl Drop for ServedLog {
    fn drop(&mut self) {
        // It may have ended by itself.
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// A line of the file of users.
fn user(name: &str, rights: &str, password: &str) -> Result<String> {
    let mut command = Command::new(program());
    command.args(["log", "user", name, "--rights", rights]);
    let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    process.stdin.take().context("its input")?.write_all(password.as_bytes())?;
    Ok(String::from_utf8(process.wait_with_output()?.stdout)?)
}

/// Runs it to its end, and fails as it does.
fn done(command: &mut Command) -> Result<Output> {
    let output = command.output().with_context(|| {
        let program = command.get_program().to_string_lossy();
        format!("start {program}: `.ci/run` installs what the tests need")
    })?;
    let (said, errors) = (&output.stdout, String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8_lossy(said);
    ensure!(output.status.success(), "{command:?}: {}\n{said}\n{errors}", output.status);
    Ok(output)
}

/// Lets a client tell its story.
fn told(story: &mut Command) -> Result<()> {
    let said = done(story)?;
    let said = String::from_utf8_lossy(&said.stdout);
    ensure!(said.contains("the story is told"), "it was not told: {said}");
    Ok(())
}

fn story(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients").join(name)
}

#[test]
fn the_python_client_is_a_client_of_ours() -> Result<()> {
    let log = ServedLog::start()?;
    let environment = log.path("python");
    done(Command::new("python3").args(["-m", "venv"]).arg(&environment))?;
    let python = environment.join("bin/python");
    done(Command::new(&python).args(["-m", "pip", "install", "--quiet", PYTHON_CLIENT]))?;
    let (writer, reader) = (log.url("ada:ada-writes"), log.url("bob:bob-reads"));
    told(Command::new(&python).arg(story("story.py")).args([writer, reader]))
}

#[test]
fn the_node_client_is_a_client_of_ours() -> Result<()> {
    let log = ServedLog::start()?;
    let folder = log.path("node");
    fs::create_dir(&folder)?;
    let mut install = Command::new("npm");
    install.args(["install", "--no-audit", "--no-fund", "--prefix"]).arg(&folder);
    done(install.arg(NODE_CLIENT))?;
    let (writer, reader) = (log.url("ada:ada-writes"), log.url("bob:bob-reads"));
    told(Command::new("node").arg(story("story.mjs")).args([writer, reader]).arg(&folder))
}
