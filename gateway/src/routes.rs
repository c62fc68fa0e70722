//! Which handler answers which route. Who may call it says the table, `authz::Route`.

use authz::Route;
use axum::{
    Router,
    middleware::from_fn_with_state,
    routing::{MethodFilter, MethodRouter, on},
};

use crate::{
    bulk::{artifacts, chunks, logs},
    door,
    gate::Gate,
    rest::{
        self, audit, concurrency, environment, events, garbage, history, operator, pipelines,
        placement, run_log, runs, schedules, selectors, session, starts, trust, users, vault,
        workers,
    },
};

/// Every route of the table, behind its door.
pub(crate) fn routes(gate: &Gate) -> Router<Gate> {
    Route::ALL.iter().fold(Router::new(), |router, route| {
        let door = from_fn_with_state((gate.clone(), *route), door::admit);
        router.route(route.path(), handler(*route).route_layer(door))
    })
}

#[allow(clippy::too_many_lines, reason = "a table: one line for each route")]
fn handler(route: Route) -> MethodRouter<Gate> {
    let method = MethodFilter::try_from(route.method()).expect("routes have usual methods");
    match route {
        Route::Login => on(method, session::login),
        Route::Health => on(method, rest::healthz),
        Route::Metrics => on(method, rest::metrics),
        Route::Events => on(method, events::list),
        Route::EventShow => on(method, events::show),
        Route::AuditHead => on(method, audit::head),
        Route::AuditRun => on(method, audit::run),

        Route::OwnPassword => on(method, session::change_password),
        Route::UserList => on(method, users::list),
        Route::UserCreate => on(method, users::create),
        Route::UserRemove => on(method, users::remove),
        Route::UserPassword => on(method, users::reset_password),
        Route::UserPermissionShow => on(method, users::permissions),
        Route::UserPermissionSet => on(method, users::set_permissions),
        Route::PermissionList => on(method, users::all_permissions),

        Route::SecretList => on(method, vault::list),
        Route::SecretCreate => on(method, vault::create),
        Route::SecretUpdate => on(method, vault::update),
        Route::SecretRemove => on(method, vault::remove),

        Route::PipelineList => on(method, pipelines::list),
        Route::PipelineCreate => on(method, pipelines::create),
        Route::PipelineCreated => on(method, pipelines::list_created),
        Route::PipelineLatest => on(method, pipelines::list_with_latest_run),
        Route::PipelineName => on(method, pipelines::check_name),
        Route::PipelineShow => on(method, pipelines::show),
        Route::PipelineChange => on(method, pipelines::change),
        Route::PipelineRemove => on(method, pipelines::remove),
        Route::PipelineSchedules => on(method, schedules::check),
        Route::PipelineStart => on(method, starts::start),
        Route::PipelineTrigger => on(method, starts::trigger),
        Route::TriggerTokenReset => on(method, schedules::reset_trigger_token),
        Route::TriggerTokenRemove => on(method, schedules::remove_trigger_token),
        Route::PipelinePull => on(method, pipelines::pull),

        Route::PipelineRuns => on(method, runs::list_of_pipeline),
        Route::PipelineLatestRun => on(method, runs::latest_of_pipeline),
        Route::PipelineRunShow | Route::RunShow => on(method, runs::show),
        Route::PipelineRunLog | Route::RunLog => on(method, run_log::show),
        Route::PipelineRunStop => on(method, runs::stop_by_number),
        Route::PipelineRunPlacement | Route::RunPlacement => on(method, placement::show),
        Route::PipelineRunRerun | Route::RunRerun => on(method, starts::rerun),
        Route::SelectorCheck => on(method, selectors::check),
        Route::LimitList => on(method, concurrency::list),
        Route::PipelineLimitSet | Route::GroupLimitSet => on(method, concurrency::set),
        Route::PipelineLimitRemove | Route::GroupLimitRemove => on(method, concurrency::remove),
        Route::RunList => on(method, runs::list),
        Route::RunStop => on(method, runs::stop),

        Route::WorkerRegister => on(method, workers::register),
        Route::WorkerSecret => on(method, workers::show_secret),
        Route::WorkerSecretReset => on(method, workers::reset_secret),
        Route::WorkerStatus => on(method, workers::overview),
        Route::WorkerList => on(method, workers::list),
        Route::WorkerHistory => on(method, history::of_worker),
        Route::Fleet => on(method, history::fleet),
        Route::WorkerDeregister => on(method, operator::deregister),
        Route::WorkerRename => on(method, operator::rename),
        Route::WorkerTag => on(method, operator::tag),
        Route::WorkerDrain => on(method, operator::drain),
        Route::WorkerSuspend => on(method, operator::suspend),
        Route::WorkerResume => on(method, operator::resume),
        Route::VariableList => on(method, environment::list),
        Route::VariableSet => on(method, environment::set),
        Route::VariableRemove => on(method, environment::remove),
        Route::WorkerJoin => on(method, trust::join),
        Route::WorkerRenew => on(method, trust::renew),
        Route::WorkerRenewExpired => on(method, trust::renew_expired),
        Route::TokenList => on(method, trust::list_tokens),
        Route::TokenCreate => on(method, trust::create_token),
        Route::TokenRevoke => on(method, trust::revoke_token),
        Route::CertificateList => on(method, trust::list_certificates),
        Route::CertificateRevoke => on(method, trust::revoke_certificates),
        Route::CaRotate => on(method, trust::roll_over_ca),

        Route::ArtifactRead => on(method, artifacts::read),
        Route::ArtifactStat => on(method, artifacts::stat),
        Route::ArtifactWrite => on(method, artifacts::write),
        Route::ManifestRead => on(method, chunks::read_manifest),
        Route::ManifestWrite => on(method, chunks::write_manifest),
        Route::ChunksRead => on(method, chunks::read),
        Route::ChunksWrite => on(method, chunks::write),
        Route::GarbageCollect => on(method, garbage::collect),
        Route::LogAppend => on(method, logs::append),
    }
}
