//! A pipeline as a whole: started, asked, stopped.
//!
//! ```text
//! spawn ─► handshake line ─► TLS ─► GetJobs ─► ExecuteJob* ─► Shutdown ─► SIGTERM ─► SIGKILL
//!    └─ any failure, cancel or drop: SIGKILL to the group ──────────────────────────────┘
//! ```

use std::{collections::HashMap, ffi::OsString, io, path::PathBuf, time::Duration};

use nix::sys::signal::Signal;
use proto::{
    common::v1::{ArgumentSpec, JobSpec},
    go_plugin::{self, grpc_controller_client::GrpcControllerClient},
    plugin::{self, plugin_client::PluginClient},
};
use tokio::{process::ChildStdout, sync::mpsc, task::JoinHandle, time::timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{Status, transport::Channel};

use super::{
    Exit, GraphError, Launch, Output, Stream,
    certificates::{self, CertificateError, Files},
    connection, graph,
    handshake::Address,
    output::{LastOutput, MAX_NOISE, NoHandshake, Pump, Tail},
    process::Process,
    running::Roster,
};

const START_TIMEOUT: Duration = Duration::from_mins(1);
const JOBS_TIMEOUT: Duration = Duration::from_mins(1);
const SHUTDOWN_TIMEOUT: Duration = Duration::from_millis(500);
/// A pipeline that understood `Shutdown` ends at once; longer waiting is for SIGTERM.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(2);
/// A broken call and the end of the process reach us by different ways.
const END_PATIENCE: Duration = Duration::from_secs(1);
const MAX_ANSWER: usize = 1024 * 1024;
const MAX_MESSAGE: usize = 4 * 1024;

/// Shared by every Gaia installation; it keeps nobody out, but tells a plugin from a program.
const COOKIE: (&str, &str) =
    ("GAIA_PLUGIN", "FdXjW27mN6XuG2zDBP4LixXUwDAGCEkidxwqBGYpUhxiWHzctATYZvpz4ZJdALmh");

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("prepare the scratch folder {}", .path.display())]
    Scratch { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Certificates(#[from] CertificatesFailed),
    #[error("start {}: {hint}", .program.display())]
    Spawn { program: PathBuf, hint: &'static str, source: io::Error },
    #[error(
        "the program {exit} before it said where it listens, so it is no Gaia pipeline, or one that lacks something here; {output}"
    )]
    Ended { exit: Exit, output: LastOutput },
    #[error(
        "the program did not say within 60 s where it listens, so it seems to be no Gaia pipeline; {output}"
    )]
    Silent { output: LastOutput },
    #[error(
        "the program printed more than {MAX_NOISE} bytes and not where it listens, so it seems to be no Gaia pipeline; {output}"
    )]
    Noise { output: LastOutput },
    #[error("the pipeline cannot be used: {problem}; {output}")]
    Handshake { problem: String, output: LastOutput },
    #[error(
        "the pipeline said that it listens at {address}, but cannot be reached there; {output}"
    )]
    Connect { address: String, source: io::Error, output: LastOutput },
    #[error("cancelled while the pipeline started")]
    Cancelled,
}

/// The pipeline's TLS identity could not be made.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct CertificatesFailed(#[from] CertificateError);

#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    #[error("the pipeline process {exit} while {doing}")]
    Ended { exit: Exit, doing: String },
    #[error("the pipeline did not answer within 60 s while {doing}")]
    Silent { doing: String },
    #[error("the pipeline answered with the error `{}: {}` while {doing}", .status.code(), .status.message())]
    Rpc { doing: String, status: Box<Status> },
    #[error(transparent)]
    Graph(#[from] GraphError),
    #[error("the pipeline has no job with the id {0}")]
    UnknownJob(u32),
}

/// What a job said about itself. A job that failed has failed, whatever it says about the run:
/// Gaia would count `failed` without `exit_pipeline` as a success, but no SDK sends that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobOutcome {
    Succeeded,
    Failed {
        message: String,
    },
    /// The run shall end here, and is no failure.
    StoppedEarly {
        message: String,
    },
}

/// A pipeline process that has been connected to. Dropping it kills the process and all that it
/// started; [`Plugin::stop`] does so in order.
#[derive(Debug)]
pub struct Plugin {
    child: Child,
    channel: Channel,
    titles: HashMap<u32, String>,
    roster: Roster,
}

/// The process and the two tasks that read from it.
#[derive(Debug)]
struct Child {
    process: Process,
    pumps: Vec<JoinHandle<()>>,
    closing: CancellationToken,
    _close: DropGuard,
}

impl Plugin {
    /// Starts the program and connects to it. `output` gets every byte that it writes but the
    /// handshake; somebody must receive from it meanwhile, or the pipeline blocks.
    pub async fn start(
        launch: Launch,
        output: mpsc::Sender<Output>,
        cancel: &CancellationToken,
    ) -> Result<Self, StartError> {
        tokio::select! {
            biased;
            () = cancel.cancelled() => Err(StartError::Cancelled),
            started = start_within(launch, output, START_TIMEOUT) => started,
        }
    }

    /// The id of its process group.
    pub fn group(&self) -> u32 {
        self.child.process.group()
    }

    /// The jobs, checked by [`super::check`].
    pub async fn jobs(&mut self) -> Result<Vec<JobSpec>, PluginError> {
        let doing = || "it listed its jobs".to_owned();
        let listing = timeout(JOBS_TIMEOUT, self.call(list(self.client()), doing));
        let jobs = listing.await.map_err(|_| PluginError::Silent { doing: doing() })??;
        graph::check(&jobs)?;
        self.titles = jobs.iter().map(|job| (job.id, job.title.clone())).collect();
        Ok(jobs)
    }

    /// Runs a job to its end, however long that takes. Dropping the future tells the pipeline that
    /// nobody waits any more, which most SDKs ignore.
    pub async fn execute(
        &self,
        job: u32,
        args: &[(String, String)],
    ) -> Result<JobOutcome, PluginError> {
        let title = self.titles.get(&job).ok_or(PluginError::UnknownJob(job))?;
        let argument = |(key, value): &(String, String)| plugin::Argument {
            key: key.clone(),
            value: value.clone(),
            ..Default::default()
        };
        let args = args.iter().map(argument).collect();
        let request = plugin::Job { unique_id: job, args, ..Default::default() };
        let mut client = self.client();
        let call = async move { client.execute_job(request).await };
        self.roster.begin(job).await;
        let answer = self.call(call, || format!("job `{title}` ran")).await;
        self.roster.end(job);
        let result = answer?.into_inner();
        let message = shorten(result.message);
        Ok(match (result.failed, result.exit_pipeline) {
            (true, _) => JobOutcome::Failed { message },
            (false, true) => JobOutcome::StoppedEarly { message },
            (false, false) => JobOutcome::Succeeded,
        })
    }

    /// Asks the pipeline to end, then tells it (SIGTERM to its group), then, after `grace`, kills
    /// it. Answers when all of it has ended and all of its output has been passed on.
    pub async fn stop(self, grace: Duration) -> Exit {
        let process = &self.child.process;
        if process.exit().is_none() && self.ask_to_end().await {
            timeout(SHUTDOWN_PATIENCE.min(grace), process.ended()).await.ok();
        }
        if process.exit().is_none() {
            process.signal(Signal::SIGTERM);
            timeout(grace, process.ended()).await.ok();
        }
        self.child.end().await
    }

    async fn ask_to_end(&self) -> bool {
        let mut controller = GrpcControllerClient::new(self.channel.clone());
        let answer = timeout(SHUTDOWN_TIMEOUT, controller.shutdown(go_plugin::Empty {})).await;
        matches!(answer, Ok(Ok(_)))
    }

    fn client(&self) -> PluginClient<Channel> {
        PluginClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER)
    }

    /// Waits for the answer or for the end of the process, which is the better explanation.
    async fn call<T>(
        &self,
        call: impl Future<Output = Result<T, Status>>,
        doing: impl Fn() -> String,
    ) -> Result<T, PluginError> {
        let process = &self.child.process;
        let ended = |exit| PluginError::Ended { exit, doing: doing() };
        let status = tokio::select! {
            biased;
            answer = call => match answer {
                Ok(answer) => return Ok(answer),
                Err(status) => status,
            },
            exit = process.ended() => return Err(ended(exit)),
        };
        match timeout(END_PATIENCE, process.ended()).await {
            Ok(exit) => Err(ended(exit)),
            Err(_) => Err(PluginError::Rpc { doing: doing(), status: Box::new(status) }),
        }
    }
}

impl Child {
    /// Kills what is still there and waits for the rest of the output.
    async fn end(self) -> Exit {
        self.process.signal(Signal::SIGKILL);
        let exit = self.process.ended().await;
        self.closing.cancel();
        for pump in self.pumps {
            pump.await.ok();
        }
        exit
    }
}

pub(super) async fn start_within(
    mut launch: Launch,
    output: mpsc::Sender<Output>,
    patience: Duration,
) -> Result<Plugin, StartError> {
    make_scratch(&launch)?;
    let (files, tls) = certificates::issue(&launch.scratch).map_err(CertificatesFailed)?;
    add_protocol(&mut launch, &files);
    let tail = Tail::default();
    let (process, stdout, stderr) =
        Process::spawn(&launch).await.map_err(|source| explain_spawn(&launch, source))?;
    let mut roster = Roster::default();
    let (out, err) = (roster.pipe(), roster.pipe());
    let mut stdout = Pump::new(stdout, Stream::Stdout, out, output.clone(), tail.clone());
    let stderr = Pump::new(stderr, Stream::Stderr, err, output, tail.clone());
    let closing = CancellationToken::new();
    let close = closing.clone().drop_guard();
    let stderr = tokio::spawn(stderr.run(closing.clone()));
    let found = find_address(&process, &mut stdout, patience).await;
    let stdout = tokio::spawn(stdout.run(closing.clone()));
    let child = Child { process, pumps: vec![stdout, stderr], closing, _close: close };
    let connected = match found {
        Ok(address) => connection::connect(&address, tls)
            .await
            .map_err(|source| Unusable::Unreachable(address.to_string(), source)),
        Err(unusable) => Err(unusable),
    };
    match connected {
        Ok(channel) => Ok(Plugin { child, channel, titles: HashMap::new(), roster }),
        Err(unusable) => {
            child.end().await;
            Err(unusable.with_output(tail.text()))
        }
    }
}

/// Why a program that was started is no plugin; its last output is not known yet.
enum Unusable {
    Ended(Exit),
    Silent,
    Line(NoHandshake),
    Unreachable(String, io::Error),
}

impl Unusable {
    fn with_output(self, output: LastOutput) -> StartError {
        match self {
            Self::Ended(exit) => StartError::Ended { exit, output },
            Self::Silent => StartError::Silent { output },
            Self::Line(NoHandshake::TooMuchNoise) => StartError::Noise { output },
            Self::Line(NoHandshake::Refused(problem)) => StartError::Handshake { problem, output },
            Self::Unreachable(address, source) => StartError::Connect { address, source, output },
        }
    }
}

async fn find_address(
    process: &Process,
    stdout: &mut Pump<ChildStdout>,
    patience: Duration,
) -> Result<Address, Unusable> {
    tokio::select! {
        biased;
        address = stdout.handshake() => address.map_err(Unusable::Line),
        exit = process.ended() => Err(Unusable::Ended(exit)),
        () = tokio::time::sleep(patience) => Err(Unusable::Silent),
    }
}

fn make_scratch(launch: &Launch) -> Result<(), StartError> {
    use std::os::unix::fs::DirBuilderExt as _;
    let path = launch.scratch.clone();
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&path);
    made.map_err(|source| StartError::Scratch { path, source })
}

/// The variables that Gaia gives to a pipeline, and two that help: Python shows its output at
/// once, and go-plugin's sockets come into our folder. Later ones win over earlier ones.
fn add_protocol(launch: &mut Launch, files: &Files) {
    let mut add = |key: &str, value: OsString| launch.env.push((key.into(), value));
    add("GAIA_PLUGIN_CERT", files.cert.clone().into());
    add("GAIA_PLUGIN_KEY", files.key.clone().into());
    add("GAIA_PLUGIN_CA_CERT", files.ca.clone().into());
    add(COOKIE.0, COOKIE.1.into());
    add("PLUGIN_MIN_PORT", "10000".into());
    add("PLUGIN_MAX_PORT", "25000".into());
    add("PLUGIN_PROTOCOL_VERSIONS", "2".into());
    add("PYTHONUNBUFFERED", "1".into());
    add("PLUGIN_UNIX_SOCKET_DIR", launch.scratch.clone().into());
}

fn explain_spawn(launch: &Launch, source: io::Error) -> StartError {
    let hint = match source.kind() {
        _ if !launch.cwd.is_dir() => "its working folder is missing",
        io::ErrorKind::NotFound => {
            "there is no such program (or the interpreter in its first line is missing)"
        }
        io::ErrorKind::PermissionDenied => "it is not executable",
        _ if source.raw_os_error() == Some(nix::errno::Errno::ENOEXEC as i32) => {
            "it is no program of this machine's kind; was it built for another system?"
        }
        _ => "the operating system refused",
    };
    StartError::Spawn { program: launch.program.clone(), hint, source }
}

async fn list(mut client: PluginClient<Channel>) -> Result<Vec<JobSpec>, Status> {
    let mut answers = client.get_jobs(plugin::Empty {}).await?.into_inner();
    let mut jobs = Vec::new();
    while let Some(job) = answers.message().await? {
        jobs.push(specify(job));
        if graph::too_many(jobs.len()) {
            break;
        }
    }
    Ok(jobs)
}

/// `interaction` is left out: no version of Gaia uses it, and the C++ SDK sends garbage in it.
fn specify(job: plugin::Job) -> JobSpec {
    let argument = |argument: plugin::Argument| ArgumentSpec {
        default_value: if argument.r#type == "vault" { String::new() } else { argument.value },
        description: argument.description,
        r#type: argument.r#type,
        key: argument.key,
    };
    JobSpec {
        id: job.unique_id,
        title: job.title,
        description: job.description,
        depends_on: job.dependson,
        arguments: job.args.into_iter().map(argument).collect(),
    }
}

fn shorten(mut message: String) -> String {
    if message.len() > MAX_MESSAGE {
        message.truncate(message.floor_char_boundary(MAX_MESSAGE));
        message.push('…');
    }
    message
}
