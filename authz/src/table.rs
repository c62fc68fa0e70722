//! The table: for every RPC and every route, who may call it, and which lease the call needs.

use http::Method;
use proto::Rpc;

use crate::Role;

/// Whom a call is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Whoever asks. What is sent proves itself, or the answer is no secret.
    Anyone,
    /// A user with a session, whatever the roles.
    User,
    /// A user with a session and this role.
    Role(Role),
    /// A worker, by the certificate of its connection, with this lease.
    Worker(Lease),
    /// These services of the house, by the certificates of their connections.
    Services(&'static [&'static str]),
    /// Every service of the house. What it may do there depends on what it asks for.
    AnyService,
    /// Nobody: no server of the house serves it.
    Nobody,
}

/// What a worker must hold besides its certificate. The scheduler decides whether it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lease {
    /// Nothing: the call is about the worker itself, and nothing of a run is answered without one.
    None,
    /// The present lease of the run that the call names. It ends with the attempt.
    Present,
    /// An attempt of the run that was given to this worker. It may have ended: a log that was spooled
    /// while the line was dead still arrives, for as long as the gateway's `late_log_hours` say.
    OwnAttempt,
}

const GATEWAY: Needs = Needs::Services(&["gateway"]);

/// Who may call the RPC.
#[allow(clippy::match_same_arms, clippy::too_many_lines, reason = "a table, by service")]
pub const fn of_rpc(rpc: Rpc) -> Needs {
    match rpc {
        // The Worker API, at the gateway.
        Rpc::WorkerGetWork | Rpc::WorkerDeregister => Needs::Worker(Lease::None),
        Rpc::WorkerUpdateWork | Rpc::WorkerStreamBinary | Rpc::WorkerGetGitRepo => {
            Needs::Worker(Lease::Present)
        }
        Rpc::WorkerStreamLogs => Needs::Worker(Lease::OwnAttempt),

        // svc-registry
        Rpc::RegistryRegisterWorker
        | Rpc::RegistryAttachWorker
        | Rpc::RegistryDetachWorker
        | Rpc::RegistryListWorkers
        | Rpc::RegistryListChanges
        | Rpc::RegistryRenameWorker
        | Rpc::RegistryTagWorker
        | Rpc::RegistrySuspendWorker
        | Rpc::RegistryDrainWorker
        | Rpc::RegistryResumeWorker
        | Rpc::RegistryDeregisterWorker
        | Rpc::RegistrySetVariable
        | Rpc::RegistryRemoveVariable
        | Rpc::RegistryListVariables
        | Rpc::RegistryResolveEnvironment
        | Rpc::RegistryGetRegistrationSecret
        | Rpc::RegistryResetRegistrationSecret
        | Rpc::RegistryCreateJoinToken
        | Rpc::RegistryListJoinTokens
        | Rpc::RegistryRevokeJoinToken
        | Rpc::RegistryJoinWorker
        | Rpc::RegistryRenewWorkerCertificate
        | Rpc::RegistryListCertificates
        | Rpc::RegistryRevokeCertificates
        | Rpc::RegistryRollOverCa => GATEWAY,
        // Each for itself: the certificate of the call names the service.
        Rpc::RegistryRenewCertificate | Rpc::RegistryWatchTrust => Needs::AnyService,

        // svc-scheduler: builds are runs, which svc-pipelines submits and cancels.
        Rpc::SchedulerSubmitRun | Rpc::SchedulerCancelRun => {
            Needs::Services(&["gateway", "svc-pipelines"])
        }
        Rpc::SchedulerGetRun
        | Rpc::SchedulerListRuns
        | Rpc::SchedulerWatchRun
        | Rpc::SchedulerExplainRun
        | Rpc::SchedulerAttachWorker
        | Rpc::SchedulerReportRun
        | Rpc::SchedulerCheckLease
        | Rpc::SchedulerCheckSelector
        | Rpc::SchedulerSetLimit
        | Rpc::SchedulerListLimits
        | Rpc::SchedulerListLoads => GATEWAY,
        // One scheduler listens to the other.
        Rpc::LeadershipWatch => Needs::Services(&["svc-scheduler"]),

        // svc-artifacts
        Rpc::ArtifactsPutArtifact
        | Rpc::ArtifactsStatArtifact
        | Rpc::ArtifactsGetArtifact
        | Rpc::ArtifactsPutManifest
        | Rpc::ArtifactsPutChunks
        | Rpc::ArtifactsGetManifest
        | Rpc::ArtifactsGetChunks
        | Rpc::ArtifactsCollectGarbage => GATEWAY,

        // svc-logs
        Rpc::LogsAppendLog | Rpc::LogsReplaceLog | Rpc::LogsReadLog | Rpc::LogsGetLog => GATEWAY,

        // svc-pipelines
        Rpc::PipelinesCreatePipeline
        | Rpc::PipelinesBuildPipeline
        | Rpc::PipelinesChangePipeline
        | Rpc::PipelinesGetPipeline
        | Rpc::PipelinesListPipelines
        | Rpc::PipelinesDeletePipeline
        | Rpc::PipelinesGetCredentials
        | Rpc::PipelinesCheckSchedules
        | Rpc::PipelinesResetTriggerToken
        | Rpc::PipelinesCheckTriggerToken => GATEWAY,

        // svc-access
        Rpc::AccessLogin
        | Rpc::AccessAuthenticate
        | Rpc::AccessChangePassword
        | Rpc::AccessListUsers
        | Rpc::AccessCreateUser
        | Rpc::AccessSetRoles
        | Rpc::AccessResetPassword
        | Rpc::AccessRemoveUser
        | Rpc::AccessPutSecret
        | Rpc::AccessRemoveSecret
        | Rpc::AccessListSecrets
        | Rpc::AccessResolveSecrets => GATEWAY,

        // The log's server: every service reads; who appends to which stream is `may_append`'s. It has
        // users of its own beside the services, so `eventlog::server::access` admits.
        Rpc::StreamsRead
        | Rpc::StreamsAppend
        | Rpc::StreamsBatchAppend
        | Rpc::StreamsDelete
        | Rpc::StreamsTombstone
        | Rpc::GossipRead => Needs::AnyService,
        // Clients ask for it before they show who they are.
        Rpc::ServerFeaturesGetSupportedMethods => Needs::Anyone,

        // Between an agent and the pipelines that it starts, under a CA of the agent's own.
        Rpc::PluginGetJobs | Rpc::PluginExecuteJob | Rpc::GRPCControllerShutdown => Needs::Nobody,
    }
}

/// Beginnings of the names of the streams that each service writes. Nobody else does.
const STREAMS: &[(&str, &[&str])] = &[
    (
        "svc-registry",
        &["worker-", "environment-", "registration", "jointoken-", "certificate-", "authority"],
    ),
    ("svc-scheduler", &["run-", "limit-", "numbers-", "scheduler-"]),
    ("svc-artifacts", &["artifact-"]),
    ("svc-logs", &["runlog-"]),
    ("svc-pipelines", &["pipeline-"]),
    ("svc-access", &["user-", "secret-"]),
    // All services in one process: `gaia server --log`.
    ("server", &[""]),
];

/// Whether this service may append to the stream of this name.
pub fn may_append(service: &str, stream: &str) -> bool {
    STREAMS
        .iter()
        .filter(|(writer, _)| *writer == service)
        .flat_map(|(_, prefixes)| *prefixes)
        .any(|prefix| stream.starts_with(prefix))
}

macro_rules! routes {
    ($($(#[$about:meta])* $route:ident $method:ident $path:literal $needs:expr;)*) => {
        /// Every route of the gateway but the RPCs.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Route {
            $($(#[$about])* $route,)*
        }

        impl Route {
            pub const ALL: &'static [Self] = &[$(Self::$route),*];

            pub fn method(self) -> Method {
                match self { $(Self::$route => Method::$method,)* }
            }

            /// With the names of its variable parts in braces.
            pub fn path(self) -> &'static str {
                match self { $(Self::$route => $path,)* }
            }

            /// Who may call it.
            pub fn needs(self) -> Needs {
                use Lease::*;
                use Needs::*;
                use crate::Role as R;
                match self { $(Self::$route => $needs,)* }
            }
        }
    };
}

#[rustfmt::skip]
routes! {
    Login                 POST   "/api/v1/login"                                       Anyone;
    Health                GET    "/healthz"                                            Anyone;
    Metrics               GET    "/metrics"                                            Role(R::SystemReadMetrics);
    Events                GET    "/api/v1/events"                                      Role(R::SystemReadEvents);
    EventShow             GET    "/api/v1/events/{event}"                              Role(R::SystemReadEvents);
    AuditRun              GET    "/api/v1/audit/run/{uniqueid}"                        Role(R::SystemReadEvents);
    AuditHead             GET    "/api/v1/audit/head"                                  Role(R::SystemReadEvents);

    OwnPassword           POST   "/api/v1/user/password"                               User;
    UserList              GET    "/api/v1/users"                                       Role(R::UserList);
    UserCreate            POST   "/api/v1/user"                                        Role(R::UserCreate);
    UserRemove            DELETE "/api/v1/user/{username}"                             Role(R::UserDelete);
    UserPassword          PUT    "/api/v1/user/{username}/password"                    Role(R::UserChangePassword);
    UserPermissionShow    GET    "/api/v1/user/{username}/permissions"                 Role(R::UserPermissionGet);
    UserPermissionSet     PUT    "/api/v1/user/{username}/permissions"                 Role(R::UserPermissionUpdate);
    PermissionList        GET    "/api/v1/permission"                                  User;

    SecretList            GET    "/api/v1/secrets"                                     Role(R::SecretList);
    SecretCreate          POST   "/api/v1/secret"                                      Role(R::SecretCreate);
    SecretUpdate          PUT    "/api/v1/secret/update"                               Role(R::SecretUpdate);
    SecretRemove          DELETE "/api/v1/secret/{key}"                                Role(R::SecretDelete);

    PipelineList          GET    "/api/v1/pipeline"                                    Role(R::PipelineList);
    PipelineCreate        POST   "/api/v1/pipeline"                                    Role(R::PipelineCreate);
    PipelineCreated       GET    "/api/v1/pipeline/created"                            Role(R::PipelineList);
    PipelineLatest        GET    "/api/v1/pipeline/latest"                             Role(R::PipelineList);
    PipelineName          GET    "/api/v1/pipeline/name"                               Role(R::PipelineCreate);
    PipelineShow          GET    "/api/v1/pipeline/{pipelineid}"                       Role(R::PipelineGet);
    PipelineChange        PUT    "/api/v1/pipeline/{pipelineid}"                       Role(R::PipelineUpdate);
    PipelineRemove        DELETE "/api/v1/pipeline/{pipelineid}"                       Role(R::PipelineDelete);
    PipelineSchedules     POST   "/api/v1/pipeline/periodicschedules"                  Role(R::PipelineList);
    PipelineStart         POST   "/api/v1/pipeline/{pipelineid}/start"                 Role(R::PipelineStart);
    PipelineTrigger       POST   "/api/v1/pipeline/{pipelineid}/{pipelinetoken}/trigger" Anyone;
    TriggerTokenReset     PUT    "/api/v1/pipeline/{pipelineid}/reset-trigger-token"   Role(R::PipelineUpdate);
    TriggerTokenRemove    DELETE "/api/v1/pipeline/{pipelineid}/trigger-token"         Role(R::PipelineUpdate);
    PipelinePull          POST   "/api/v1/pipeline/{pipelineid}/pull"                  Role(R::PipelineUpdate);

    PipelineRuns          GET    "/api/v1/pipelinerun/{pipelineid}"                    Role(R::PipelineRunList);
    PipelineLatestRun     GET    "/api/v1/pipelinerun/{pipelineid}/latest"             Role(R::PipelineRunGet);
    PipelineRunShow       GET    "/api/v1/pipelinerun/{pipelineid}/{runid}"            Role(R::PipelineRunGet);
    PipelineRunLog        GET    "/api/v1/pipelinerun/{pipelineid}/{runid}/log"        Role(R::PipelineRunLogs);
    PipelineRunStop       POST   "/api/v1/pipelinerun/{pipelineid}/{runid}/stop"       Role(R::PipelineRunStop);
    PipelineRunPlacement  GET    "/api/v1/pipelinerun/{pipelineid}/{runid}/placement"  Role(R::PipelineRunGet);
    PipelineRunRerun      POST   "/api/v1/pipelinerun/{pipelineid}/{runid}/rerun"      Role(R::PipelineStart);
    SelectorCheck         POST   "/api/v1/selector/check"                              Role(R::PipelineList);
    LimitList             GET    "/api/v1/limit"                                       Role(R::PipelineList);
    PipelineLimitSet      PUT    "/api/v1/limit/pipeline/{pipelineid}"                 Role(R::PipelineUpdate);
    PipelineLimitRemove   DELETE "/api/v1/limit/pipeline/{pipelineid}"                 Role(R::PipelineUpdate);
    GroupLimitSet         PUT    "/api/v1/limit/group/{group}"                         Role(R::PipelineUpdate);
    GroupLimitRemove      DELETE "/api/v1/limit/group/{group}"                         Role(R::PipelineUpdate);
    RunList               GET    "/api/v1/run"                                         Role(R::PipelineRunList);
    RunShow               GET    "/api/v1/run/{uniqueid}"                              Role(R::PipelineRunGet);
    RunLog                GET    "/api/v1/run/{uniqueid}/log"                          Role(R::PipelineRunLogs);
    RunStop               POST   "/api/v1/run/{uniqueid}/stop"                         Role(R::PipelineRunStop);
    RunPlacement          GET    "/api/v1/run/{uniqueid}/placement"                    Role(R::PipelineRunGet);
    RunRerun              POST   "/api/v1/run/{uniqueid}/rerun"                        Role(R::PipelineStart);

    /// The registration secret in the body is the proof.
    WorkerRegister        POST   "/api/v1/worker/register"                             Anyone;
    WorkerSecret          GET    "/api/v1/worker/secret"                               Role(R::WorkerGetRegistrationSecret);
    WorkerSecretReset     POST   "/api/v1/worker/secret"                               Role(R::WorkerResetWorkerRegisterSecret);
    WorkerStatus          GET    "/api/v1/worker/status"                               Role(R::WorkerGetOverview);
    WorkerList            GET    "/api/v1/worker"                                      Role(R::WorkerGetWorker);
    WorkerHistory         GET    "/api/v1/worker/{workerid}/history"                   Role(R::WorkerGetWorker);
    Fleet                 GET    "/api/v1/fleet"                                       Role(R::WorkerGetWorker);
    WorkerDeregister      DELETE "/api/v1/worker/{workerid}"                           Role(R::WorkerDeregisterWorker);
    WorkerRename          POST   "/api/v1/worker/rename/{workerid}"                    Role(R::WorkerManage);
    WorkerTag             POST   "/api/v1/worker/tags/{workerid}"                      Role(R::WorkerManage);
    WorkerDrain           POST   "/api/v1/worker/drain/{workerid}"                     Role(R::WorkerManage);
    WorkerSuspend         POST   "/api/v1/worker/suspend/{workerid}"                   Role(R::WorkerManage);
    WorkerResume          POST   "/api/v1/worker/resume/{workerid}"                    Role(R::WorkerManage);
    VariableList          GET    "/api/v1/environment"                                 Role(R::WorkerManage);
    VariableSet           PUT    "/api/v1/environment"                                 Role(R::WorkerEnvironment);
    VariableRemove        DELETE "/api/v1/environment"                                 Role(R::WorkerEnvironment);
    /// The join token in the body is the proof, and the signature of the request that of the key.
    WorkerJoin            POST   "/api/v1/worker/join"                                 Anyone;
    WorkerRenew           POST   "/api/v1/worker/certificate"                          Worker(None);
    WorkerRenewExpired    POST   "/api/v1/worker/certificate/expired"                  Anyone;
    TokenList             GET    "/api/v1/worker/token"                                Role(R::WorkerJoinTokens);
    TokenCreate           POST   "/api/v1/worker/token"                                Role(R::WorkerJoinTokens);
    TokenRevoke           DELETE "/api/v1/worker/token/{tokenid}"                      Role(R::WorkerJoinTokens);

    CertificateList       GET    "/api/v1/certificate"                                 Role(R::SystemCertificates);
    CertificateRevoke     POST   "/api/v1/certificate/revoke"                          Role(R::SystemCertificates);
    CaRotate              POST   "/api/v1/ca/rotate"                                   Role(R::SystemCertificates);

    ArtifactRead          GET    "/artifacts/sha256/{digest}"                          Worker(Present);
    ArtifactStat          HEAD   "/artifacts/sha256/{digest}"                          Worker(Present);
    ArtifactWrite         PUT    "/artifacts/sha256/{digest}"                          Worker(Present);
    ManifestRead          GET    "/artifacts/sha256/{digest}/manifest"                 Worker(Present);
    ManifestWrite         PUT    "/artifacts/sha256/{digest}/manifest"                 Worker(Present);
    ChunksRead            GET    "/artifacts/sha256/{digest}/chunks"                   Worker(Present);
    ChunksWrite           PUT    "/artifacts/sha256/{digest}/chunks"                   Worker(Present);
    /// `?dry_run`: only says what would go.
    GarbageCollect        POST   "/api/v1/artifact/gc"                                 Role(R::SystemArtifacts);
    LogAppend             PUT    "/runs/{run}/attempts/{attempt}/log"                  Worker(OwnAttempt);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rpc_is_found_by_its_path() {
        for (rpc, path) in Rpc::ALL {
            assert_eq!(Rpc::of_path(path), Some(*rpc));
            assert_eq!(rpc.path(), *path);
        }
        assert_eq!(Rpc::of_path("/gaia.registry.v1.Registry/Listworkers"), None);
    }

    #[test]
    fn only_what_proves_itself_is_open_to_anyone() {
        let open: Vec<_> =
            Route::ALL.iter().filter(|route| route.needs() == Needs::Anyone).collect();
        assert_eq!(
            open,
            [
                &Route::Login,
                &Route::Health,
                &Route::PipelineTrigger,
                &Route::WorkerRegister,
                &Route::WorkerJoin,
                &Route::WorkerRenewExpired
            ]
        );
        let open: Vec<_> =
            Rpc::ALL.iter().filter(|(rpc, _)| of_rpc(*rpc) == Needs::Anyone).collect();
        assert_eq!(
            open,
            [&(
                Rpc::ServerFeaturesGetSupportedMethods,
                Rpc::ServerFeaturesGetSupportedMethods.path()
            )]
        );
    }

    #[test]
    fn a_service_appends_to_its_own_streams_alone() {
        assert!(may_append("svc-scheduler", "run-1"));
        assert!(may_append("svc-scheduler", "limit-pipeline-1"));
        assert!(may_append("svc-scheduler", "numbers-1"));
        for (service, stream) in [
            ("svc-scheduler", "runlog-1"),
            ("svc-logs", "run-1"),
            ("gateway", "run-1"),
            ("svc-registry", "user-admin"),
            ("svc-access", "xuser-admin"),
            ("", ""),
        ] {
            assert!(!may_append(service, stream), "{service} {stream}");
        }
    }
}
