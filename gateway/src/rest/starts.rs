//! Starting pipelines, and repeating runs.

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode},
};
use ids::{Digest, PipelineId, RunId, Timestamp};
use proto::{
    access::v1::ListSecretsRequest,
    common::v1::{ArgumentValue, Build, Caller, JobSpec},
    pipelines::v1::{BuildState, CheckTriggerTokenRequest, GetPipelineRequest, Pipeline},
    scheduler::v1::{JobState, Run, RunKind, RunSpec, SubmitRunRequest},
};
use serde::Deserialize;

use super::{
    Anyone, Params, Payload, User, pipeline_json::build_state, pipelines::pipeline, policy,
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
    /// As the header `Idempotency-Key`: a start that is sent again makes no second run. A unique id
    /// becomes that of the run.
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
    headers: HeaderMap,
    payload: Payload,
) -> Result<(StatusCode, Json<RunJson>), ApiError> {
    let options = match payload.json_or_default()? {
        Start::Arguments(args) => Options { args, ..Options::default() },
        Start::Whole(options) => options,
    };
    let pipeline = pipeline(&gate, &params).await?;
    let run = submit(&gate, pipeline, options, &headers, "manual", user.caller).await?;
    Ok((StatusCode::CREATED, Json(run.into())))
}

/// Gaia's remote start: who knows the token of the pipeline may start it, and choose its arguments.
pub(crate) async fn trigger(
    State(gate): State<Gate>,
    Anyone(caller): Anyone,
    params: Params,
    headers: HeaderMap,
    payload: Payload,
) -> Result<String, ApiError> {
    let id: PipelineId = params.get("pipelineid")?;
    let token = params.get("pipelinetoken")?;
    let request = CheckTriggerTokenRequest { id: id.0, token };
    let pipeline = gate.pipelines().check_trigger_token(request).await?.into_inner();
    let options = Options { args: payload.json_or_default()?, ..Options::default() };
    let caller = Caller { name: format!("trigger:{id}"), ..caller };
    submit(&gate, pipeline, options, &headers, "remote", caller).await?;
    Ok(format!("Trigger successful for pipeline: {id}"))
}

async fn submit(
    gate: &Gate,
    pipeline: Pipeline,
    options: Options,
    headers: &HeaderMap,
    start_reason: &str,
    caller: Caller,
) -> Result<Run, ApiError> {
    let id = PipelineId(pipeline.id);
    let run = unique_id(id, options.idempotency.as_deref(), headers)?;
    let build = pipeline.build.clone().filter(|_| pipeline.version > 0);
    let build = build.ok_or_else(|| not_built(&pipeline))?;
    check_keys(gate, &build.jobs).await?;
    selectors::must_be_readable(gate, &options.selector).await?;
    let request = SubmitRunRequest {
        run_id: run,
        spec: Some(spec(pipeline, build, options, gate.now())?),
        start_reason: start_reason.to_owned(),
        caller: Some(caller),
    };
    let run = gate.scheduler().submit_run(request).await?.into_inner();
    must_be_of(id, &run)?;
    Ok(run)
}

/// What was there under the same key may be something else.
fn must_be_of(id: PipelineId, run: &Run) -> Result<(), ApiError> {
    match &run.spec {
        Some(spec) if spec.pipeline_id != id.0 => Err(ApiError::conflict(format!(
            "`idempotency`: run {} is one of pipeline {}; use another key",
            run.run_id, spec.pipeline_id
        ))),
        _ => Ok(()),
    }
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
    headers: HeaderMap,
    payload: Payload,
) -> Result<(StatusCode, Json<RunJson>), ApiError> {
    let Again { failed_only, idempotency } = payload.json_or_default()?;
    let run = gate.scheduler().get_run(runs::named(&params)?).await?.into_inner();
    let spec = repeated(&run, failed_only)?;
    let request = GetPipelineRequest { id: spec.pipeline_id, name: String::new() };
    gate.pipelines().get_pipeline(request).await?;
    check_keys(&gate, &spec.jobs).await?;
    let id = PipelineId(spec.pipeline_id);
    let request = SubmitRunRequest {
        run_id: unique_id(id, idempotency.as_deref(), &headers)?,
        spec: Some(spec),
        start_reason: "rerun".to_owned(),
        caller: Some(user.caller),
    };
    let run = gate.scheduler().submit_run(request).await?.into_inner();
    must_be_of(id, &run)?;
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

/// Of the run that this key starts, now and for ever; empty: the scheduler makes one.
fn unique_id(
    pipeline: PipelineId,
    key: Option<&str>,
    headers: &HeaderMap,
) -> Result<String, ApiError> {
    let header = headers.get("idempotency-key").map(|value| {
        let why = "`Idempotency-Key` holds more than letters, digits and signs: use another";
        value.to_str().map_err(|_| ApiError::bad_request(why))
    });
    let Some(key) = key.map(Ok).or(header).transpose()? else {
        // The start may be sent to the scheduler twice.
        #[expect(clippy::disallowed_methods, reason = "the edge where starts get their ids")]
        return Ok(RunId::from_uuid(uuid::Uuid::now_v7()).to_string());
    };
    limits::text("idempotency", key, limits::NAME)?;
    if key.trim().is_empty() {
        return Err(ApiError::bad_request("`idempotency` is empty: leave it out, or give a key"));
    }
    if let Ok(run) = key.parse::<RunId>() {
        return Ok(run.to_string());
    }
    let digest = Digest::of(format!("start of pipeline {pipeline}\n{key}").as_bytes());
    let bytes = std::array::from_fn(|index| digest.as_bytes()[index]);
    Ok(RunId::from_uuid(uuid::Builder::from_custom_bytes(bytes).into_uuid()).to_string())
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
