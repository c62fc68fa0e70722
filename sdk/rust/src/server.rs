//! The pipeline's side of Gaia's plugin protocol.
//!
//! It listens on a Unix socket where it can make one, else on a local TCP port, says so with one
//! line on stdout, and serves whoever shows a certificate of the run's CA. It ends on `Shutdown`,
//! and when the agent's connection does: an agent that died leaves no pipeline behind.

use std::{
    env,
    error::Error,
    fmt, fs, io,
    io::Write as _,
    path::{Path, PathBuf},
    sync::Arc,
    thread::available_parallelism,
    time::Duration,
};

use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    runtime::{Builder, Handle},
    sync::watch,
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        RootCertStore, ServerConfig,
        crypto::CryptoProvider,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
        server::WebPkiClientVerifier,
    },
};
use tonic::{
    Request, Response, Status,
    body::Body,
    codegen::{Service as _, tokio_stream},
};

use crate::{
    execute::{Ending, execute},
    generated::{
        plugin::{
            Empty as PluginEmpty,
            grpc_controller_server::{GrpcController, GrpcControllerServer},
        },
        proto::{
            Argument, Empty, Job, JobResult,
            plugin_server::{Plugin, PluginServer},
        },
    },
    plan::{Plan, Planned},
};

/// The variable by which a pipeline knows that an agent started it.
pub(crate) const CERT: &str = "GAIA_PLUGIN_CERT";
const KEY: &str = "GAIA_PLUGIN_KEY";
const CA: &str = "GAIA_PLUGIN_CA_CERT";
/// go-plugin's name for the folder of sockets.
const SOCKETS: &str = "PLUGIN_UNIX_SOCKET_DIR";
/// What the kernel takes, less a margin.
const MAX_SOCKET_PATH: usize = 100;
const TLS_TIMEOUT: Duration = Duration::from_secs(10);
const GOODBYE: Duration = Duration::from_millis(500);

/// Why the pipeline cannot serve.
#[derive(Debug)]
pub(crate) struct ServeError {
    doing: String,
    source: Box<dyn Error + Send + Sync>,
}

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "could not {}", self.doing)
    }
}

impl Error for ServeError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(self.source.as_ref())
    }
}

fn to<E: Into<Box<dyn Error + Send + Sync>>>(
    doing: impl Into<String>,
) -> impl FnOnce(E) -> ServeError {
    move |source| ServeError { doing: doing.into(), source: source.into() }
}

/// Jobs have threads of their own: one that blocks must not keep the server from answering.
pub(crate) fn run(plan: Plan) -> Result<(), ServeError> {
    let threads = available_parallelism().map_or(2, usize::from).max(plan.jobs.len().min(32));
    let jobs = Builder::new_multi_thread().worker_threads(threads).enable_all().build();
    let jobs = jobs.map_err(to("start the threads for jobs"))?;
    let server = Builder::new_current_thread().enable_all().build();
    let server = server.map_err(to("start the server"))?;
    let result = server.block_on(serve(plan, jobs.handle().clone()));
    // Jobs that still run are not waited for: whoever asked us to end knows of them.
    jobs.shutdown_background();
    result
}

async fn serve(plan: Plan, jobs: Handle) -> Result<(), ServeError> {
    let tls = TlsAcceptor::from(Arc::new(tls_from_environment()?));
    let listener = Listener::bind().await.map_err(to("listen for the agent"))?;
    announce(&listener).map_err(to("tell the agent where the pipeline listens"))?;
    let (stop, stopped) = watch::channel(false);
    let api = Api { plan: Arc::new(plan), jobs, stop: Arc::new(stop) };
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let socket = accepted.map_err(to("accept the agent's connection"))?;
                connections.spawn(converse(socket, tls.clone(), api.clone(), stopped.clone()));
            }
            Some(ended) = connections.join_next() => {
                if matches!(ended, Ok(true)) && connections.is_empty() {
                    return Ok(());
                }
            }
        }
    }
}

/// One connection, from its start to its end. Answers whether it was the agent's.
async fn converse(
    socket: Box<dyn Socket>,
    tls: TlsAcceptor,
    api: Api,
    mut stopped: watch::Receiver<bool>,
) -> bool {
    let Ok(Ok(stream)) = timeout(TLS_TIMEOUT, tls.accept(socket)).await else { return false };
    let service = service_fn(move |request| api.clone().dispatch(request));
    let connection =
        http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let asked = tokio::select! {
        _ = connection.as_mut() => false,
        asked = stopped.wait_for(|stopped| *stopped) => asked.is_ok(),
    };
    if asked {
        connection.as_mut().graceful_shutdown();
        timeout(GOODBYE, connection).await.ok();
    }
    true
}

fn announce(listener: &Listener) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "1|2|{}|grpc", listener.describe()?)?;
    stdout.flush()
}

fn tls_from_environment() -> Result<ServerConfig, ServeError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(CA)? {
        roots.add(certificate).map_err(to(format!("use the certificate that {CA} names")))?;
    }
    let key = PrivateKeyDer::from_pem_file(path(KEY)?)
        .map_err(to(format!("read the file that {KEY} names")))?;
    let provider = Arc::new(provider());
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    let clients = clients.build().map_err(to("check the agent's certificate"))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(to("use TLS"))?
        .with_client_cert_verifier(clients)
        .with_single_cert(certificates(CERT)?, key)
        .map_err(to("use the certificate and key that the agent gave"))?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

fn certificates(variable: &str) -> Result<Vec<CertificateDer<'static>>, ServeError> {
    let doing = format!("read the file that {variable} names");
    let found = CertificateDer::pem_file_iter(path(variable)?).and_then(Iterator::collect);
    found.map_err(to(doing))
}

fn path(variable: &str) -> Result<PathBuf, ServeError> {
    let doing = format!("find the agent's certificates: the variable {variable} is not set");
    env::var_os(variable).map(PathBuf::from).ok_or_else(|| to(doing)("no such variable"))
}

#[cfg(feature = "aws-lc-rs")]
fn provider() -> CryptoProvider {
    tokio_rustls::rustls::crypto::aws_lc_rs::default_provider()
}

#[cfg(all(feature = "ring", not(feature = "aws-lc-rs")))]
fn provider() -> CryptoProvider {
    tokio_rustls::rustls::crypto::ring::default_provider()
}

#[cfg(not(any(feature = "ring", feature = "aws-lc-rs")))]
compile_error!("gaia-sdk needs one of its features `ring` and `aws-lc-rs`");

trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Socket for T {}

/// Where the agent connects to. The socket's file goes with it.
enum Listener {
    Unix(UnixListener, PathBuf),
    Tcp(TcpListener),
}

impl Listener {
    async fn bind() -> io::Result<Self> {
        let folder = env::var_os(SOCKETS).map_or_else(env::temp_dir, PathBuf::from);
        match bind_unix(&folder) {
            Some(listener) => Ok(listener),
            None => TcpListener::bind(("127.0.0.1", 0)).await.map(Self::Tcp),
        }
    }

    async fn accept(&self) -> io::Result<Box<dyn Socket>> {
        match self {
            Self::Unix(listener, _) => Ok(Box::new(listener.accept().await?.0)),
            Self::Tcp(listener) => {
                let socket = listener.accept().await?.0;
                socket.set_nodelay(true)?;
                Ok(Box::new(socket))
            }
        }
    }

    fn describe(&self) -> io::Result<String> {
        match self {
            Self::Unix(_, path) => Ok(format!("unix|{}", path.display())),
            Self::Tcp(listener) => Ok(format!("tcp|{}", listener.local_addr()?)),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Self::Unix(_, path) = self {
            fs::remove_file(path).ok();
        }
    }
}

/// A path that is too long or cannot stand in the handshake is no place for it.
fn bind_unix(folder: &Path) -> Option<Listener> {
    let path = std::path::absolute(folder).ok()?.join(format!("gaia-{}.sock", std::process::id()));
    let text = path.to_str()?;
    if text.len() > MAX_SOCKET_PATH || text.contains(['|', '\n']) {
        return None;
    }
    Some(Listener::Unix(UnixListener::bind(&path).ok()?, path))
}

#[derive(Clone)]
struct Api {
    plan: Arc<Plan>,
    jobs: Handle,
    stop: Arc<watch::Sender<bool>>,
}

impl Api {
    async fn dispatch(
        self,
        request: http::Request<Incoming>,
    ) -> Result<http::Response<Body>, std::convert::Infallible> {
        let path = request.uri().path();
        if path.starts_with("/proto.Plugin/") {
            PluginServer::new(self).call(request).await
        } else if path.starts_with("/plugin.GRPCController/") {
            GrpcControllerServer::new(self).call(request).await
        } else {
            Ok(Status::unimplemented("this pipeline has no such service").into_http())
        }
    }
}

#[tonic::async_trait]
impl Plugin for Api {
    type GetJobsStream = tokio_stream::Iter<std::vec::IntoIter<Result<Job, Status>>>;

    async fn get_jobs(&self, _: Request<Empty>) -> Result<Response<Self::GetJobsStream>, Status> {
        let jobs: Vec<_> = self.plan.jobs.iter().map(|job| Ok(describe(&self.plan, job))).collect();
        Ok(Response::new(tokio_stream::iter(jobs)))
    }

    async fn execute_job(&self, request: Request<Job>) -> Result<Response<JobResult>, Status> {
        let request = request.into_inner();
        let id = request.unique_id;
        let planned = self.plan.by_id(id);
        let planned =
            planned.ok_or_else(|| Status::not_found(format!("no job has the id {id}")))?;
        let given =
            request.args.into_iter().map(|argument| (argument.key, argument.value)).collect();
        Ok(Response::new(answer(id, execute(planned, given, &self.jobs).await)))
    }
}

#[tonic::async_trait]
impl GrpcController for Api {
    async fn shutdown(&self, _: Request<PluginEmpty>) -> Result<Response<PluginEmpty>, Status> {
        self.stop.send_replace(true);
        Ok(Response::new(PluginEmpty {}))
    }
}

fn describe(plan: &Plan, planned: &Planned) -> Job {
    let job = &planned.job;
    let argument = |wanted: &crate::job::Argument| Argument {
        description: wanted.about.clone(),
        r#type: wanted.kind.to_owned(),
        key: wanted.key.clone(),
        value: wanted.default.clone(),
    };
    Job {
        unique_id: planned.id,
        title: job.title.clone(),
        description: job.about.clone(),
        dependson: planned.after.iter().map(|at| plan.jobs[*at].id).collect(),
        args: job.arguments.iter().map(argument).collect(),
        interaction: None,
    }
}

/// As the other SDKs answer: a job that failed also ends the pipeline.
fn answer(unique_id: u32, ending: Ending) -> JobResult {
    let (failed, exit_pipeline, message) = match ending {
        Ending::Succeeded => (false, false, String::new()),
        Ending::StoppedEarly(reason) => (false, true, reason),
        Ending::Failed(message) => (true, true, message),
    };
    JobResult { unique_id, failed, exit_pipeline, message }
}
