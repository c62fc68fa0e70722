//! A served log, schedulers as processes of their own, and whoever calls them.

use std::{net::SocketAddr, path::Path, pin::pin, process::Stdio, thread, time::Duration};

use eventlog::{
    Clock, Expected, Log, Metadata, NewEvent,
    server::{Access, Users},
};
use futures::StreamExt;
use identity::{Authority, Credentials, Live};
use ids::{EventId, RunId, WorkerId};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use prost::Message;
use proto::{
    common::v1 as common,
    leadership::events::v1::LeaderElected,
    registry::events::v1 as registry,
    scheduler::v1::{
        self as pb, leadership_client::LeadershipClient, scheduler_client::SchedulerClient,
    },
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use tonic::Streaming;
use transport::{Channel, Protocols, Server};
use uuid::Uuid;

const HOUR: Duration = Duration::from_hours(1);

pub(crate) async fn soon<T>(wish: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_mins(1), pin!(wish)).await.expect("it took a minute")
}

pub(crate) struct House {
    folder: tempfile::TempDir,
    /// Its files are this process's.
    pub(crate) log: Log,
    log_address: SocketAddr,
    /// PEM text of the CA.
    ca: String,
    /// As whom the schedulers are called.
    gateway: Live,
    /// As whom they call each other.
    peer: Live,
    lease: Duration,
    stop: CancellationToken,
}

impl House {
    pub(crate) fn start(lease: Duration) -> Self {
        identity::install_crypto();
        let folder = tempfile::tempdir().unwrap();
        let place = |name: &str| folder.path().join(name);
        let authority = Authority::open_or_create(&place("ca")).unwrap();
        let issue = |name| authority.issue_service(name, &[], HOUR).unwrap().credentials;
        for name in ["svc-scheduler", "gateway"] {
            issue(name).save(&place(name)).unwrap();
        }
        let log = Log::open(&place("log"), Clock::system()).unwrap();
        let stop = CancellationToken::new();
        let log_address = serve(log.clone(), issue("log"), stop.clone());
        let [gateway, peer] =
            ["gateway", "svc-scheduler"].map(|name| Live::new(issue(name)).unwrap());
        let ca = authority.ca_pem();
        Self { folder, log, log_address, ca, gateway, peer, lease, stop }
    }

    /// Starts another scheduler.
    pub(crate) async fn scheduler(&self) -> Scheduler {
        let place = |name: &str| self.folder.path().join(name).display().to_string();
        let config = format!(
            "listen = '127.0.0.1:0'\ndata = '{}'\nidentity = '{}'\nlog = 'esdb://{}'\n\
             [service]\nleader_lease_millis = {}\n",
            place("data"),
            place("svc-scheduler"),
            self.log_address,
            self.lease.as_millis(),
        );
        let file = self.folder.path().join("scheduler.toml");
        std::fs::write(&file, config).unwrap();
        Scheduler::start(&file, &self.gateway).await
    }

    /// A client of whoever leads, as the gateway has it.
    pub(crate) fn client(&self) -> SchedulerClient<Channel> {
        let nobody = dial("https://127.0.0.1:1", &self.gateway);
        let identity = self.folder.path().join("gateway");
        let log = Log::esdb(&format!("esdb://{}", self.log_address), Some(&identity)).unwrap();
        SchedulerClient::new(host::leader::scheduler(nobody, log, self.gateway.clone()))
    }

    /// It says again and again that it leads.
    pub(crate) async fn beats(&self, scheduler: &Scheduler) -> Streaming<pb::Standing> {
        let mut client = LeadershipClient::new(dial(&scheduler.address, &self.peer));
        client.watch(pb::WatchLeadershipRequest {}).await.unwrap().into_inner()
    }

    /// The way of somebody without a certificate.
    pub(crate) fn stranger(&self, address: &str) -> Channel {
        let tls = identity::anonymous_client_tls(&self.ca).unwrap();
        Channel::remote(address, "svc-scheduler", tls, Protocols::Http2).unwrap()
    }

    /// The term and the address of the last election.
    pub(crate) async fn leader(&self) -> Option<(u64, String)> {
        let last =
            self.log.read_stream_backward("scheduler-leader", None, 1).next().await?.unwrap();
        let elected = LeaderElected::decode(&last.event.data[..]).unwrap();
        Some((last.revision, elected.address))
    }

    /// Waits until the scheduler was elected and answers.
    pub(crate) async fn leads(&self, scheduler: &Scheduler) {
        soon(async {
            while self.leader().await.is_none_or(|(_, leader)| leader != scheduler.address)
                || scheduler.client.clone().list_limits(pb::ListLimitsRequest {}).await.is_err()
            {
                sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }

    /// What the registry records when a worker joins.
    pub(crate) async fn register(&self, worker: u128, slots: i32) {
        let (worker_id, name) = (worker_id(worker), format!("w{worker}"));
        let tags = vec!["golang".to_owned()];
        let registered = registry::WorkerRegistered {
            worker_id: worker_id.clone(),
            name,
            tags: tags.clone(),
            ..Default::default()
        };
        let reported = registry::WorkerReported {
            worker_id: worker_id.clone(),
            slots,
            tags,
            ..Default::default()
        };
        let event = |event_type, data: Vec<u8>| {
            let metadata = Metadata { version: 1, ..Metadata::default() };
            NewEvent::new(EventId::from_uuid(fresh()), event_type, data, &metadata)
        };
        let events = vec![
            event("WorkerRegistered", registered.encode_to_vec()),
            event("WorkerReported", reported.encode_to_vec()),
        ];
        self.log.append(format!("worker-{worker_id}"), Expected::None, events).await.unwrap();
    }
}

impl Drop for House {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// On threads of its own, so that nothing here holds it up.
fn serve(log: Log, credentials: Credentials, stop: CancellationToken) -> SocketAddr {
    let (tell, told) = std::sync::mpsc::channel();
    thread::spawn(move || {
        tokio::runtime::Runtime::new().unwrap().block_on(async {
            let any = "127.0.0.1:0".parse().unwrap();
            let server = Server::bind(any, &credentials).await.unwrap();
            tell.send(server.local_addr()).unwrap();
            let router = eventlog::server::router(log, Access::new(Users::default()), stop.clone());
            server.acknowledge_at_once().serve(router, stop).await;
        });
    });
    told.recv().unwrap()
}

/// A scheduler as a process.
pub(crate) struct Scheduler {
    child: Child,
    pub(crate) address: String,
    /// Calls this one, whoever leads.
    pub(crate) client: SchedulerClient<Channel>,
    pub(crate) channel: Channel,
}

impl Scheduler {
    async fn start(config: &Path, gateway: &Live) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_svc-scheduler"))
            .arg("--config")
            .arg(config)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let (tell, told) = tokio::sync::oneshot::channel();
        tokio::spawn(async move {
            let mut tell = Some(tell);
            while let Ok(Some(line)) = lines.next_line().await {
                eprintln!("{line}");
                if let Some((_, address)) = line.split_once("is ready at ")
                    && let Some(tell) = tell.take()
                {
                    tell.send(address.trim().to_owned()).unwrap();
                }
            }
        });
        let address = soon(told).await.expect("it says that it is ready");
        let channel = dial(&address, gateway);
        let client = SchedulerClient::new(channel.clone());
        Self { child, address, client, channel }
    }

    /// Answers when it does nothing any more: a signal takes a moment on a busy machine.
    pub(crate) async fn pause(&self) {
        self.signal(Signal::SIGSTOP);
        let status = format!("/proc/{}/status", self.child.id().expect("it runs"));
        soon(async {
            while !std::fs::read_to_string(&status).unwrap().contains("State:\tT") {
                sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = self.child.id().expect("it runs").cast_signed();
        kill(Pid::from_raw(pid), signal).unwrap();
    }

    pub(crate) async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }

    /// Waits until it knows that another one leads.
    pub(crate) async fn stands_by(&self) {
        soon(async {
            loop {
                let asked = self.client.clone().list_limits(pb::ListLimitsRequest {}).await;
                if asked.is_err_and(|refusal| refusal.message().contains("stands by")) {
                    return;
                }
                sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }
}

fn dial(address: &str, gateway: &Live) -> Channel {
    let tls = identity::live_client_tls(gateway).unwrap();
    Channel::remote(address, "svc-scheduler", tls, Protocols::Http2).unwrap()
}

#[expect(clippy::disallowed_methods, reason = "tests mint as they like")]
pub(crate) fn fresh() -> Uuid {
    Uuid::new_v4()
}

pub(crate) fn worker_id(number: u128) -> String {
    WorkerId::from_uuid(Uuid::from_u128(number)).to_string()
}

pub(crate) fn run_id(number: u128) -> String {
    RunId::from_uuid(Uuid::from_u128(number)).to_string()
}

/// A start of the same pipeline under this id.
pub(crate) fn start_of(run_id: String) -> pb::SubmitRunRequest {
    let spec = pb::RunSpec {
        pipeline_id: 1,
        pipeline_name: "nothing".into(),
        pipeline_type: "golang".into(),
        artifact: vec![7; 32].into(),
        jobs: vec![common::JobSpec { id: 1, title: "nothing".into(), ..Default::default() }],
        ..Default::default()
    };
    let caller = common::Caller { name: "user:alice".into(), ..Default::default() };
    pb::SubmitRunRequest {
        run_id,
        spec: Some(spec),
        start_reason: "manual".into(),
        caller: Some(caller),
    }
}
