//! The server's side of the protocol: joining, the Worker API, binaries, logs. Keeps what it gets,
//! and fails when it is told to.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{Path as UrlPath, Query, Request as HttpRequest, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response as HttpResponse},
    routing::{get, post},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use identity::{Authority, Credentials};
use ids::{Digest, WorkerId};
use proto::worker::{
    FileChunk, GitRepo, LogChunk, PipelineId, PipelineRun, WorkerInstance,
    worker_server::{Worker, WorkerServer},
};
use serde_json::json;
use tokio::{sync::mpsc, sync::watch, task::JoinHandle, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use uuid::Uuid;

use crate::chunked::{self, Chunks};

pub(crate) const SECRET: &str = "join-me";
const DEADLINE: Duration = Duration::from_mins(1);
const DAY: Duration = Duration::from_hours(24);

/// One log, as the server has it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log {
    pub(crate) bytes: Vec<u8>,
    pub(crate) ended: bool,
}

/// All that came in, and what to do wrong.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) registered: Vec<WorkerId>,
    /// Workers that are not known any more.
    pub(crate) forgotten: HashSet<String>,
    pub(crate) sessions: Vec<WorkerInstance>,
    pub(crate) reports: Vec<PipelineRun>,
    pub(crate) logs: HashMap<String, Log>,
    pub(crate) artifacts: HashMap<String, Vec<u8>>,
    pub(crate) downloads: usize,
    /// Lease tokens that are not current.
    pub(crate) stale: HashSet<String>,
    /// Lease tokens whose reports are refused, while their logs are still taken.
    pub(crate) lost: HashSet<String>,
    /// Reports of success are taken for malformed.
    pub(crate) doubt_success: bool,
    /// How many of the next requests for a log fail before anything is kept.
    pub(crate) refuse_logs: u32,
    /// How many of the next requests for a log are kept but not answered well.
    pub(crate) lose_log_answers: u32,
    /// How many of the next requests for a binary fail, up or down.
    pub(crate) refuse_artifacts: u32,
    /// How many of the next downloads bring other bytes.
    pub(crate) corrupt_downloads: u32,
    /// How many of the next downloads break off in the middle.
    pub(crate) cut_downloads: u32,
    /// How many of the next downloads never end.
    pub(crate) endless_downloads: u32,
    /// How many of the next downloads go on at another byte than was asked for.
    pub(crate) shifted_downloads: u32,
    /// Where the last download began.
    pub(crate) last_range: usize,
    /// What the requests for logs came over.
    pub(crate) log_protocols: Vec<transport::Protocol>,
    pub(crate) chunks: Chunks,
    orders: Vec<mpsc::Sender<Result<PipelineRun, Status>>>,
}

impl Seen {
    pub(crate) fn last_report(&self, order: &PipelineRun) -> Option<&PipelineRun> {
        self.reports
            .iter()
            .rfind(|report| report.unique_id == order.unique_id && report.attempt == order.attempt)
    }

    pub(crate) fn ended(&self, order: &PipelineRun) -> Option<PipelineRun> {
        let last = self.last_report(order)?;
        (last.status != "running").then(|| last.clone())
    }

    pub(crate) fn log(&self, order: &PipelineRun) -> String {
        let log = self.logs.get(&key(&order.unique_id, order.attempt)).cloned().unwrap_or_default();
        String::from_utf8(log.bytes).unwrap()
    }

    fn refuses_artifact(&mut self) -> bool {
        let refuses = self.refuse_artifacts > 0;
        self.refuse_artifacts = self.refuse_artifacts.saturating_sub(1);
        refuses
    }

    pub(crate) fn log_has_ended(&self, order: &PipelineRun) -> bool {
        self.logs.get(&key(&order.unique_id, order.attempt)).is_some_and(|log| log.ended)
    }
}

fn key(run: &str, attempt: u32) -> String {
    format!("{run}/{attempt}")
}

#[derive(Clone, Debug)]
pub(crate) struct Shared {
    seen: Arc<Mutex<Seen>>,
    changes: watch::Sender<u64>,
    authority: Authority,
}

impl Shared {
    pub(crate) fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap()
    }

    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut Seen) -> T) -> T {
        let out = change(&mut self.seen());
        self.changes.send_modify(|count| *count += 1);
        out
    }
}

#[derive(Debug)]
pub(crate) struct Peer {
    shared: Shared,
    credentials: Credentials,
    address: SocketAddr,
    stop: CancellationToken,
    task: Option<JoinHandle<()>>,
}

impl Peer {
    pub(crate) async fn start(dir: &Path) -> Self {
        identity::install_crypto();
        let authority = Authority::open_or_create(&dir.join("ca")).unwrap();
        let issued = authority.issue_service("gateway", &["gaia-pipeline.io".into()], DAY).unwrap();
        let (changes, _) = watch::channel(0);
        let shared = Shared { seen: Arc::default(), changes, authority };
        loop {
            let address = SocketAddr::from(([127, 0, 0, 1], next_port()));
            if let Ok(server) = transport::Server::bind(address, &issued.credentials).await {
                let credentials = issued.credentials;
                let stop = CancellationToken::new();
                let mut peer = Self { shared, credentials, address, stop, task: None };
                peer.serve(server);
                return peer;
            }
        }
    }

    fn serve(&mut self, server: transport::Server) {
        self.stop = CancellationToken::new();
        self.task =
            Some(tokio::spawn(server.serve(router(self.shared.clone()), self.stop.clone())));
    }

    /// Ends the server with all of its connections.
    pub(crate) async fn go_away(&mut self) {
        self.stop.cancel();
        self.shared.change(|seen| seen.orders.clear());
        self.task.take().unwrap().await.unwrap();
    }

    /// Serves again at the same place.
    pub(crate) async fn come_back(&mut self) {
        let server = transport::Server::bind(self.address, &self.credentials).await.unwrap();
        self.serve(server);
    }

    pub(crate) fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn ca(&self) -> String {
        self.shared.authority.ca_pem()
    }

    pub(crate) fn seen(&self) -> MutexGuard<'_, Seen> {
        self.shared.seen()
    }

    /// Stores a binary. Answers with its digest.
    pub(crate) fn store(&self, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        self.seen().artifacts.insert(digest.to_string(), bytes.to_vec());
        digest
    }

    /// Sends an order to the newest session.
    pub(crate) async fn order(&self, order: &PipelineRun) {
        self.wait("a session", |seen| (!seen.orders.is_empty()).then_some(())).await;
        let session = self.seen().orders.last().unwrap().clone();
        session.send(Ok(order.clone())).await.unwrap();
    }

    /// Waits until there is what `find` looks for.
    pub(crate) async fn wait<T>(&self, what: &str, find: impl Fn(&Seen) -> Option<T>) -> T {
        let mut changes = self.shared.changes.subscribe();
        let found = async {
            loop {
                changes.borrow_and_update();
                if let Some(found) = find(&self.seen()) {
                    return found;
                }
                changes.changed().await.unwrap();
            }
        };
        let found = timeout(DEADLINE, found).await.ok();
        found.unwrap_or_else(|| {
            let seen = self.seen();
            let ends = seen.logs.iter().map(|(log, it)| (log, it.bytes.len(), it.ended));
            let ends: Vec<_> = ends.collect();
            panic!("waited in vain for {what}; logs: {ends:?}, reports: {:#?}", seen.reports)
        })
    }

    /// The report that ended the attempt.
    pub(crate) async fn ended(&self, order: &PipelineRun) -> PipelineRun {
        self.wait("the end of a run", |seen| seen.ended(order)).await
    }
}

/// A port that no other test of this process uses, even while its server is away. Outside of the range
/// that the kernel gives to clients, so that a restart finds it free.
fn next_port() -> u16 {
    static COUNT: AtomicU16 = AtomicU16::new(0);
    let first = 20_000 + (std::process::id() % 100) as u16 * 100;
    first + COUNT.fetch_add(1, Ordering::Relaxed)
}

fn router(shared: Shared) -> Router {
    let artifact = get(read_artifact).put(write_artifact);
    let plain = Router::new()
        .route("/api/v1/worker/register", post(register))
        .route("/artifacts/sha256/{digest}", artifact)
        .route("/runs/{run}/attempts/{attempt}/log", axum::routing::put(append_log))
        .merge(chunked::routes())
        .with_state(shared.clone());
    tonic::service::Routes::new(WorkerServer::new(Api(shared))).into_axum_router().merge(plain)
}

async fn register(State(shared): State<Shared>, body: String) -> HttpResponse {
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    if body["secret"] != SECRET {
        return (StatusCode::FORBIDDEN, "wrong global worker secret provided").into_response();
    }
    assert!(body["name"].is_string() && body["tags"].is_array(), "{body}");
    let id = WorkerId::from_uuid(Uuid::from_bytes(identity::random()));
    let credentials = shared.authority.issue_worker(id, DAY).unwrap().credentials;
    shared.change(|seen| seen.registered.push(id));
    axum::Json(json!({
        "uniqueid": id.to_string(),
        "cert": STANDARD.encode(credentials.certificate),
        "key": STANDARD.encode(credentials.key),
        "cacert": STANDARD.encode(credentials.ca),
    }))
    .into_response()
}

async fn read_artifact(
    State(shared): State<Shared>,
    UrlPath(digest): UrlPath<String>,
    headers: HeaderMap,
) -> HttpResponse {
    for name in ["x-gaia-run", "x-gaia-attempt", "x-gaia-lease"] {
        assert!(headers.contains_key(name), "no {name}");
    }
    shared.change(|seen| {
        seen.downloads += 1;
        if seen.refuses_artifact() {
            return StatusCode::SERVICE_UNAVAILABLE.into_response();
        }
        let Some(bytes) = seen.artifacts.get(&digest) else {
            return StatusCode::NOT_FOUND.into_response();
        };
        let mut bytes = bytes.clone();
        let range = headers.get("range").map(|range| range.to_str().unwrap());
        let offset = range.map_or(0, |range| {
            range.trim_start_matches("bytes=").trim_end_matches('-').parse().unwrap()
        });
        seen.last_range = offset;
        if seen.corrupt_downloads > 0 {
            seen.corrupt_downloads -= 1;
            bytes[0] ^= 1;
        }
        let status = if range.is_some() { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
        let mut start = offset;
        if range.is_some() && seen.shifted_downloads > 0 {
            seen.shifted_downloads -= 1;
            start -= 1;
        }
        let told = format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len());
        let told = [("content-range", told)];
        let mut rest = bytes.split_off(start);
        if seen.endless_downloads > 0 {
            seen.endless_downloads -= 1;
            let pieces =
                futures::stream::repeat_with(move || Ok::<_, std::io::Error>(rest.clone()));
            return (StatusCode::OK, Body::from_stream(pieces)).into_response();
        }
        if seen.cut_downloads > 0 {
            seen.cut_downloads -= 1;
            rest.truncate(rest.len() / 2);
            let broken = std::io::Error::other("the line broke");
            let pieces = futures::stream::iter([Ok(rest), Err(broken)]);
            return (status, told, Body::from_stream(pieces)).into_response();
        }
        (status, told, rest).into_response()
    })
}

async fn write_artifact(
    State(shared): State<Shared>,
    UrlPath(digest): UrlPath<String>,
    request: HttpRequest,
) -> HttpResponse {
    let bytes = axum::body::to_bytes(request.into_body(), 1 << 30).await.unwrap();
    if shared.change(Seen::refuses_artifact) {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    assert_eq!(Digest::of(&bytes).to_string(), digest);
    shared.change(|seen| seen.artifacts.insert(digest, bytes.to_vec()));
    StatusCode::CREATED.into_response()
}

async fn append_log(
    State(shared): State<Shared>,
    UrlPath((run, attempt)): UrlPath<(String, u32)>,
    Query(query): Query<HashMap<String, String>>,
    headers: HeaderMap,
    request: HttpRequest,
) -> HttpResponse {
    let protocol = request.extensions().get::<transport::Connection>().unwrap().protocol;
    let Ok(bytes) = axum::body::to_bytes(request.into_body(), 1 << 20).await else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let token = headers["x-gaia-lease"].to_str().unwrap().to_owned();
    shared.change(|seen| {
        seen.log_protocols.push(protocol);
        if seen.stale.contains(&token) {
            return (StatusCode::FORBIDDEN, "the lease is not yours").into_response();
        }
        if seen.refuse_logs > 0 {
            seen.refuse_logs -= 1;
            // In turns with what a connection says whose certificate ran out.
            let refusals = [StatusCode::SERVICE_UNAVAILABLE, StatusCode::UNAUTHORIZED];
            return refusals[seen.refuse_logs as usize % 2].into_response();
        }
        let log = seen.logs.entry(key(&run, attempt)).or_default();
        let offset: usize = query["offset"].parse().unwrap();
        if offset > log.bytes.len() {
            let answer = json!({"message": "a gap", "offset": log.bytes.len()});
            return (StatusCode::CONFLICT, axum::Json(answer)).into_response();
        }
        let known = (log.bytes.len() - offset).min(bytes.len());
        assert_eq!(log.bytes[offset..offset + known], bytes[..known], "a log was changed");
        log.bytes.extend_from_slice(&bytes[known..]);
        if let Some(size) = query.get("size") {
            assert_eq!(size.parse(), Ok(log.bytes.len()));
            assert_eq!(query["sha256"], Digest::of(&log.bytes).to_string());
            log.ended = true;
        }
        let offset = log.bytes.len();
        if seen.lose_log_answers > 0 {
            seen.lose_log_answers -= 1;
            return StatusCode::BAD_GATEWAY.into_response();
        }
        axum::Json(json!({ "offset": offset })).into_response()
    })
}

#[derive(Debug)]
struct Api(Shared);

impl Api {
    /// Who calls; the certificate and the metadata must agree.
    fn caller<T>(&self, request: &Request<T>) -> Result<String, Status> {
        let connection = request.extensions().get::<transport::Connection>().unwrap();
        let named = request.metadata().get("uniqueid").unwrap().to_str().unwrap().to_owned();
        assert_eq!(connection.peer, identity::Peer::Worker(named.parse().unwrap()));
        if self.0.seen().forgotten.contains(&named) {
            return Err(Status::unknown("worker is not registered"));
        }
        Ok(named)
    }
}

#[tonic::async_trait]
impl Worker for Api {
    type GetWorkStream = ReceiverStream<Result<PipelineRun, Status>>;
    type StreamBinaryStream = ReceiverStream<Result<FileChunk, Status>>;

    async fn get_work(
        &self,
        request: Request<WorkerInstance>,
    ) -> Result<Response<Self::GetWorkStream>, Status> {
        self.caller(&request)?;
        let (orders, receiver) = mpsc::channel(16);
        self.0.change(|seen| {
            seen.sessions.push(request.into_inner());
            seen.orders.push(orders);
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn update_work(&self, request: Request<PipelineRun>) -> Result<Response<()>, Status> {
        self.caller(&request)?;
        let report = request.into_inner();
        self.0.change(|seen| {
            if seen.stale.contains(&report.lease_token) || seen.lost.contains(&report.lease_token) {
                return Err(Status::failed_precondition("the lease is not the run's"));
            }
            if seen.doubt_success && report.status == "success" {
                return Err(Status::invalid_argument("`success` is not to be believed"));
            }
            seen.reports.push(report);
            Ok(Response::new(()))
        })
    }

    async fn stream_binary(
        &self,
        _: Request<PipelineRun>,
    ) -> Result<Response<Self::StreamBinaryStream>, Status> {
        Err(Status::unimplemented("use HTTP"))
    }

    async fn stream_logs(&self, _: Request<Streaming<LogChunk>>) -> Result<Response<()>, Status> {
        Err(Status::unimplemented("use HTTP"))
    }

    async fn deregister(&self, _: Request<WorkerInstance>) -> Result<Response<()>, Status> {
        Err(Status::unimplemented("not needed"))
    }

    async fn get_git_repo(&self, _: Request<PipelineId>) -> Result<Response<GitRepo>, Status> {
        Err(Status::unimplemented("not needed"))
    }
}
