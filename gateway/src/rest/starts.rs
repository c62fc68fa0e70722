//! Starting pipelines, and repeating runs.

use axum::{Json, extract::State, http::StatusCode};
use ids::{RunId, Timestamp};
use proto::{
    access::v1::ListSecretsRequest,
    common::v1::{ArgumentValue, Build, JobSpec},
    pipelines::v1::{BuildState, GetPipelineRequest, Pipeline},
    scheduler::v1::{JobState, Run, RunKind, RunSpec, SubmitRunRequest},
};
use serde::Deserialize;

use super::{
    Params, Payload, User, pipeline_json::build_state, pipelines::pipeline, policy,
    run_json::RunJson, runs, selectors,
};
use crate::{
    attachment::missing_key,
    error::ApiError,
    gate::{Gate, is_terminal},
    limits, orders,
};
/// Gaia's list of arguments, or all that can be said of a start.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Start {
    Arguments(Vec<Argument>),
    Whole(Options),
}

impl Default for Start {
    fn default() -> Self {
        Self::Arguments(vec![])
    }
}

#[derive(Debug, Default, Deserialize)]
struct Options {
    #[serde(default)]
    args: Vec<Argument>,
    /// Beside the pipeline's own.
    #[serde(default)]
    tags: Vec<String>,
    /// Beside the pipeline's own.
    #[serde(default)]
    selector: String,
    /// Id or name of the only worker that may take it.
    #[serde(default)]
    worker: String,
    /// What of the pipeline's policy is different for this run.
    policy: Option<policy::Wish>,
    /// Seconds to wait before it is started.
    #[serde(default)]
    delay: u64,
    /// The run's unique id: a start that is sent again makes no second run.
    idempotency: Option<String>,
}

/// `type` and `desc` are Gaia's too, and are known from the pipeline.
#[derive(Debug, Deserialize)]
struct Argument {
    key: String,
    #[serde(default)]
    value: String,
}

pub(crate) async fn start(
    State(gate): State<Gate>,
    user: User,
    params: Params,
    payload: Payload,
) -> Result<(StatusCode, Json<RunJson>), ApiError> {
    let options = match payload.json_or_default()? {
        Start::Arguments(args) => Options { args, ..Options::default() },
        Start::Whole(options) => options,
    };
    let run = unique_id(options.idempotency.as_deref())?;
    let pipeline = pipeline(&gate, &params).await?;
    let build = pipeline.build.clone().filter(|_| pipeline.version > 0);
    let build = build.ok_or_else(|| not_built(&pipeline))?;
    check_keys(&gate, &build.jobs).await?;
    selectors::must_be_readable(&gate, &options.selector).await?;
    let request = SubmitRunRequest {
        run_id: run,
        spec: Some(spec(pipeline, build, options, gate.now())?),
        start_reason: "manual".to_owned(),
        caller: Some(user.caller),
    };
    let run = gate.scheduler().submit_run(request).await?.into_inner();
    Ok((StatusCode::CREATED, Json(run.into())))
}

#[derive(Debug, Default, Deserialize)]
struct Again {
    /// Jobs that succeeded are not done again.
    #[serde(default)]
    failed_only: bool,
    idempotency: Option<String>,
}

/// The same binary with the same arguments; secrets are as they are now.
pub(crate) async fn rerun(
    State(gate): State<Gate>,
    user: User,
    params: Params,
    payload: Payload,
) -> Result<(StatusCode, Json<RunJson>), ApiError> {
    let Again { failed_only, idempotency } = payload.json_or_default()?;
    let run = gate.scheduler().get_run(runs::named(&params)?).await?.into_inner();
    let spec = repeated(&run, failed_only)?;
    let request = GetPipelineRequest { id: spec.pipeline_id, name: String::new() };
    gate.pipelines().get_pipeline(request).await?;
    check_keys(&gate, &spec.jobs).await?;
    let request = SubmitRunRequest {
        run_id: unique_id(idempotency.as_deref())?,
        spec: Some(spec),
        start_reason: "rerun".to_owned(),
        caller: Some(user.caller),
    };
    let run = gate.scheduler().submit_run(request).await?.into_inner();
    Ok((StatusCode::CREATED, Json(run.into())))
}

fn repeated(run: &Run, failed_only: bool) -> Result<RunSpec, ApiError> {
    let spec = run.spec.clone().unwrap_or_default();
    let refuse = |why: &str| ApiError::conflict(format!("run {}: {why}", run.run_id));
    if orders::is_build(&spec) {
        return Err(refuse("it is a build; pull the pipeline again instead"));
    }
    if !is_terminal(run) {
        return Err(refuse("it has not ended; wait for its end, or stop it"));
    }
    let mut done_jobs = vec![];
    if failed_only {
        let succeeded = run.jobs.iter().filter(|job| job.state() == JobState::Succeeded);
        done_jobs.extend(succeeded.map(|job| job.id));
        if done_jobs.len() == spec.jobs.len() {
            return Err(refuse("all of its jobs succeeded; repeat the whole run"));
        }
    }
    Ok(RunSpec { done_jobs, rerun_of: run.run_id.clone(), not_before: 0, ..spec })
}

/// Empty: the scheduler makes one.
fn unique_id(idempotency: Option<&str>) -> Result<String, ApiError> {
    let Some(id) = idempotency else { return Ok(String::new()) };
    let run = id.parse::<RunId>();
    let run = run.map_err(|error| ApiError::bad_request(format!("`idempotency`: {error}")))?;
    Ok(run.to_string())
}

fn spec(
    pipeline: Pipeline,
    build: Build,
    options: Options,
    now: Timestamp,
) -> Result<RunSpec, ApiError> {
    let arguments = arguments(&build.jobs, options.args)?;
    let mut tags = pipeline.tags;
    for tag in options.tags {
        if !tags.iter().any(|known| known.eq_ignore_ascii_case(&tag)) {
            tags.push(tag);
        }
    }
    limits::tags(&tags)?;
    limits::text("worker", &options.worker, limits::NAME)?;
    let pinned = [options.worker, pipeline.pinned_worker];
    let selector = format!("{} {}", pipeline.selector, options.selector);
    Ok(RunSpec {
        kind: RunKind::Pipeline.into(),
        pipeline_id: pipeline.id,
        pipeline_name: pipeline.name,
        pipeline_type: pipeline.r#type,
        tags,
        pinned_worker: pinned.into_iter().find(|worker| !worker.is_empty()).unwrap_or_default(),
        artifact: build.digest,
        artifact_size: build.size,
        jobs: build.jobs,
        arguments,
        selector: selector.trim().to_owned(),
        policy: Some(options.policy.unwrap_or_default().apply(pipeline.policy)?),
        not_before: match options.delay {
            0 => 0,
            delay => now.0.saturating_add(delay.saturating_mul(1_000)),
        },
        ..RunSpec::default()
    })
}

fn not_built(pipeline: &Pipeline) -> ApiError {
    let message = match pipeline.build_state() {
        BuildState::Failed => format!(
            "pipeline `{}` has no build that succeeded: {}; correct it, then pull it again",
            pipeline.name, pipeline.build_error
        ),
        _ => format!(
            "pipeline `{}` is being built: start it when run {} has ended",
            pipeline.name, pipeline.build_run_id
        ),
    };
    ApiError::conflict(message)
        .with("buildstate", build_state(pipeline))
        .with("buildrunid", pipeline.build_run_id.clone())
}

/// Values for the arguments that the pipeline declares. Secrets come from the vault, whatever is sent.
fn arguments(jobs: &[JobSpec], sent: Vec<Argument>) -> Result<Vec<ArgumentValue>, ApiError> {
    let mut values: Vec<ArgumentValue> = vec![];
    for Argument { key, value } in sent {
        limits::text(
            &format!("args, `{}`", limits::cut(key.clone(), 60)),
            &value,
            limits::ARGUMENT,
        )?;
        let mut declared = jobs.iter().flat_map(|job| &job.arguments);
        match declared.find(|declared| declared.key == key) {
            Some(declared) if orders::is_vault(declared) => {}
            Some(_) => {
                values.retain(|earlier| earlier.key != key);
                values.push(ArgumentValue { key, value });
            }
            // Gaia's clients always send it; it is no argument of the pipeline.
            None if key == "docker" => {}
            None => return Err(unknown_argument(jobs, key)),
        }
    }
    let bytes: usize = values.iter().map(|value| value.value.len()).sum();
    if bytes > limits::ARGUMENTS {
        return Err(ApiError::bad_request(format!(
            "the arguments have {bytes} bytes, at most {} are taken: shorten them",
            limits::ARGUMENTS
        )));
    }
    Ok(values)
}

fn unknown_argument(jobs: &[JobSpec], key: String) -> ApiError {
    let declared = jobs.iter().flat_map(|job| &job.arguments).filter(|a| !orders::is_vault(a));
    let mut keys: Vec<_> = declared.map(|argument| format!("`{}`", argument.key)).collect();
    keys.sort();
    keys.dedup();
    let known = if keys.is_empty() {
        "it takes none".to_owned()
    } else {
        format!("it takes {}", keys.join(", "))
    };
    let key = limits::cut(key, 60);
    ApiError::bad_request(format!("the pipeline has no argument `{key}`: {known}"))
}

/// A run whose secrets are missing is better not begun.
async fn check_keys(gate: &Gate, jobs: &[JobSpec]) -> Result<(), ApiError> {
    let wanted = orders::vault_keys(jobs);
    if wanted.is_empty() {
        return Ok(());
    }
    let known = gate.access().list_secrets(ListSecretsRequest {}).await?.into_inner().secrets;
    let missing = wanted.iter().find(|key| known.iter().all(|known| known.key != **key));
    missing
        .map_or(Ok(()), |key| Err(ApiError::bad_request(missing_key(key)).with("key", key.clone())))
}
