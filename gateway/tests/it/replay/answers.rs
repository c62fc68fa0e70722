//! Services that are started over a copy of the log and have nothing else answer as those that lived.

use eventlog::{Clock, Log};
use gateway::Deps;
use ids::Timestamp;
use proto::{
    access::v1::{ListSecretsRequest, ListUsersRequest},
    pipelines::v1::ListPipelinesRequest,
    registry::v1::{
        GetRegistrationSecretRequest, ListCertificatesRequest, ListChangesRequest,
        ListJoinTokensRequest, ListVariablesRequest, ListWorkersRequest,
    },
    scheduler::v1::{ListLimitsRequest, ListLoadsRequest, ListRunsRequest},
};

use crate::house::{House, services};

/// One for each kind of what is told, by its name.
pub(super) type Answers = Vec<(&'static str, String)>;

macro_rules! answers {
    ($($client:expr => $($call:ident($request:expr)),+;)*) => {
        vec![$($((stringify!($call), {
            let answer = $client.clone().$call($request).await.unwrap().into_inner();
            format!("{answer:#?}")
        })),+),*]
    };
}

/// Of all services, of everything that they list. Who is connected now is not in the log.
pub(super) async fn answers(deps: &Deps) -> Answers {
    let mut workers = deps
        .registry
        .clone()
        .list_workers(ListWorkersRequest::default())
        .await
        .unwrap()
        .into_inner()
        .workers;
    let mut all: Answers = vec![];
    for worker in &mut workers {
        (worker.connected, worker.last_contact_at) = (false, 0);
        let worker_id = worker.worker_id.clone();
        let changes = deps.registry.clone().list_changes(ListChangesRequest { worker_id }).await;
        all.push(("list_changes", format!("{:#?}", changes.unwrap().into_inner())));
    }
    all.push(("list_workers", format!("{workers:#?}")));
    let loads = deps.scheduler.clone().list_loads(ListLoadsRequest::default()).await;
    let mut loads = loads.unwrap().into_inner();
    for load in &mut loads.loads {
        load.connected = false;
    }
    // One that holds nothing and has done nothing is there only while it is connected.
    loads.loads.retain(|load| load.finished_runs > 0 || !load.run_ids.is_empty());
    all.push(("list_loads", format!("{loads:#?}")));
    let runs = ListRunsRequest { with_builds: true, ..ListRunsRequest::default() };
    all.extend(answers! {
        deps.registry => list_variables(ListVariablesRequest::default()),
            list_join_tokens(ListJoinTokensRequest {}),
            list_certificates(ListCertificatesRequest {}),
            get_registration_secret(GetRegistrationSecretRequest {});
        deps.scheduler => list_runs(runs), list_limits(ListLimitsRequest {});
        deps.pipelines => list_pipelines(ListPipelinesRequest {});
        deps.access => list_users(ListUsersRequest {}), list_secrets(ListSecretsRequest {});
    });
    all
}

/// The same over a log that is a copy, with the house's keys and a clock that stands still.
pub(super) async fn rebuilt(house: &House, log: Log, at: Timestamp) -> Answers {
    let data = tempfile::tempdir().unwrap();
    let key = "master.key";
    std::fs::copy(house.data.path().join(key), data.path().join(key)).unwrap();
    let registry = svc_registry::Config::default();
    let clock = Clock::from_fn(move || at);
    let (deps, _) = services(log, &data, &house.authority, registry, clock).await;
    answers(&deps).await
}
