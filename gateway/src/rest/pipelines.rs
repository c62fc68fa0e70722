//! Pipelines: creating, building and starting them.

use std::time::Duration;

use axum::{Json, extract::State, http::StatusCode};
use ids::{PipelineId, RunId, Timestamp};
use proto::{
    access::v1::ListSecretsRequest,
    common::v1::{ArgumentValue, Build, Caller, JobSpec},
    pipelines::v1::{
        BuildPipelineRequest, BuildState, ChangePipelineRequest, CreatePipelineRequest,
        Credentials, GetPipelineRequest, ListPipelinesRequest, Pipeline, Tags,
    },
    scheduler::v1::{JobState, Run, RunKind, RunSpec, SubmitRunRequest},
};
use serde::Deserialize;
use serde_json::{Value, json};
use tonic::Code;

use super::{
    Params, Payload, Query, User,
    pipeline_json::{PipelineJson, build_state},
    policy,
    run_json::RunJson,
    runs, selectors,
    time::rfc3339,
};
use crate::{
    attachment::missing_key,
    error::ApiError,
    gate::{Gate, is_terminal},
    limits, orders,
};

/// Gaia's request, or its fields laid flat.
#[derive(Debug, Deserialize)]
struct Creation {
    pipeline: Option<Wish>,
    #[serde(flatten)]
    flat: Wish,
}

#[derive(Debug, Default, Deserialize)]
struct Wish {
    #[serde(default)]
    name: String,
    #[serde(default)]
    r#type: String,
    #[serde(default)]
    tags: Vec<String>,
    /// Id or name of the only worker that may run it.
    #[serde(default, alias = "pinned_worker")]
    worker: String,
    /// What it asks of its workers beside type and tags.
    #[serde(default)]
    selector: String,
    /// How its runs are treated.
    policy: Option<policy::Wish>,
    repo: Option<Repo>,
    #[serde(flatten)]
    flat: Repo,
}

#[derive(Debug, Default, Deserialize)]
struct Repo {
    #[serde(default)]
    url: String,
    #[serde(default, alias = "branch")]
    selectedbranch: String,
    #[serde(default, alias = "username")]
    user: String,
    #[serde(default)]
    password: String,
    #[serde(default, alias = "private_key")]
    privatekey: Option<PrivateKey>,
}

/// Gaia's object, or the key alone.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum PrivateKey {
    Text(String),
    Whole {
        #[serde(default)]
        key: String,
        #[serde(default)]
        username: String,
        #[serde(default)]
        password: String,
    },
}

impl Repo {
    /// A key goes before a password, unless it is empty.
    fn credentials(self) -> Credentials {
        match self.privatekey {
            Some(PrivateKey::Text(private_key)) if !private_key.is_empty() => {
                Credentials { username: self.user, password: self.password, private_key }
            }
            Some(PrivateKey::Whole { key, username, password }) if !key.is_empty() => {
                Credentials { username, password, private_key: key }
            }
            _ => Credentials {
                username: self.user,
                password: self.password,
                private_key: String::new(),
            },
        }
    }
}

impl Creation {
    fn request(self, caller: Caller) -> Result<CreatePipelineRequest, ApiError> {
        let wish = self.pipeline.unwrap_or(self.flat);
        let mut repo = wish.repo.unwrap_or(wish.flat);
        let (url, branch) =
            (std::mem::take(&mut repo.url), std::mem::take(&mut repo.selectedbranch));
        let credentials = repo.credentials();
        limits::text("name", &wish.name, limits::NAME)?;
        limits::text("type", &wish.r#type, limits::NAME)?;
        limits::text("worker", &wish.worker, limits::NAME)?;
        limits::text("url", &url, limits::URL)?;
        limits::text("selectedbranch", &branch, limits::NAME)?;
        limits::text("user", &credentials.username, limits::NAME)?;
        limits::text("password", &credentials.password, limits::PASSWORD)?;
        limits::text("privatekey", &credentials.private_key, limits::PRIVATE_KEY)?;
        limits::tags(&wish.tags)?;
        Ok(CreatePipelineRequest {
            name: wish.name,
            r#type: wish.r#type,
            url,
            branch,
            tags: wish.tags,
            credentials: Some(credentials),
            caller: Some(caller),
            pinned_worker: wish.worker,
            selector: wish.selector,
            policy: Some(wish.policy.unwrap_or_default().apply(None)?),
        })
    }
}

pub(crate) async fn create(
    State(gate): State<Gate>,
    user: User,
    payload: Payload,
) -> Result<Json<PipelineJson>, ApiError> {
    let creation: Creation = payload.json()?;
    let request = creation.request(user.caller)?;
    selectors::must_be_readable(&gate, &request.selector).await?;
    let pipeline = gate.pipelines().create_pipeline(request).await?.into_inner();
    wait_for_build(&gate, &pipeline).await;
    Ok(Json(pipeline.into()))
}

/// The build becomes a run a moment after its pipeline is durable. Who is answered with its id should
/// find it; if the scheduler is away, the answer does not wait for it.
async fn wait_for_build(gate: &Gate, pipeline: &Pipeline) {
    const PAUSE: Duration = Duration::from_millis(10);
    let Ok(run) = pipeline.build_run_id.parse() else { return };
    for _ in 0..100 {
        match gate.run(run).await {
            Err(refusal) if refusal.code() == Code::NotFound => tokio::time::sleep(PAUSE).await,
            _ => return,
        }
    }
}

async fn all(gate: &Gate) -> Result<Vec<Pipeline>, ApiError> {
    Ok(gate.pipelines().list_pipelines(ListPipelinesRequest {}).await?.into_inner().pipelines)
}

pub(crate) async fn list(State(gate): State<Gate>) -> Result<Json<Vec<PipelineJson>>, ApiError> {
    Ok(Json(all(&gate).await?.into_iter().map(PipelineJson::from).collect()))
}

/// How the creation of each pipeline goes, as Gaia shows it.
pub(crate) async fn list_created(State(gate): State<Gate>) -> Result<Json<Value>, ApiError> {
    let shown = all(&gate).await?.into_iter().map(|pipeline| {
        let (status, statustype) = match pipeline.build_state() {
            BuildState::Built => (100, "success"),
            BuildState::Failed => (100, "failed"),
            _ => (50, "running"),
        };
        json!({
            "id": pipeline.build_run_id,
            "status": status,
            "statustype": statustype,
            "output": pipeline.build_error,
            "created": rfc3339(pipeline.created_at),
            "pipeline": PipelineJson::from(pipeline),
        })
    });
    Ok(Json(shown.collect()))
}

pub(crate) async fn list_with_latest_run(
    State(gate): State<Gate>,
) -> Result<Json<Value>, ApiError> {
    let mut shown = vec![];
    for pipeline in all(&gate).await? {
        let run = runs::latest(&gate, pipeline.id).await?;
        shown.push(json!({ "p": PipelineJson::from(pipeline), "r": run }));
    }
    Ok(Json(shown.into()))
}

#[derive(Debug, Deserialize)]
pub(crate) struct Name {
    #[serde(default)]
    name: String,
}

/// Whether a pipeline could have this name.
pub(crate) async fn check_name(
    State(gate): State<Gate>,
    Query(Name { name }): Query<Name>,
) -> Result<Json<Value>, ApiError> {
    let fits = |letter: char| letter.is_alphanumeric() || matches!(letter, ' ' | '-' | '_');
    if !(1..=50).contains(&name.chars().count()) || !name.chars().all(fits) {
        return Err(ApiError::bad_request(
            "a pipeline's name has 1 to 50 letters, digits, spaces, `-` or `_`: choose another",
        ));
    }
    match gate.pipelines().get_pipeline(GetPipelineRequest { id: 0, name: name.clone() }).await {
        Ok(_) => Err(ApiError::bad_request(format!(
            "a pipeline with the name `{name}` exists: choose another"
        ))),
        Err(refusal) if refusal.code() == Code::NotFound => Ok(Json(Value::Null)),
        Err(fault) => Err(fault.into()),
    }
}

async fn pipeline(gate: &Gate, params: &Params) -> Result<Pipeline, ApiError> {
    let id: PipelineId = params.get("pipelineid")?;
    let request = GetPipelineRequest { id: id.0, name: String::new() };
    Ok(gate.pipelines().get_pipeline(request).await?.into_inner())
}

pub(crate) async fn show(
    State(gate): State<Gate>,
    params: Params,
) -> Result<Json<PipelineJson>, ApiError> {
    Ok(Json(pipeline(&gate, &params).await?.into()))
}

/// What is not named stays as it is. Gaia sends the whole pipeline, of which this is a part.
#[derive(Debug, Deserialize)]
struct Change {
    name: Option<String>,
    tags: Option<Vec<String>>,
    #[serde(alias = "pinned_worker")]
    worker: Option<String>,
    selector: Option<String>,
    policy: Option<policy::Wish>,
}

pub(crate) async fn change(
    State(gate): State<Gate>,
    user: User,
    params: Params,
    payload: Payload,
) -> Result<Json<PipelineJson>, ApiError> {
    let Change { name, tags, worker, selector, policy } = payload.json()?;
    let known = pipeline(&gate, &params).await?;
    for (field, text) in [("name", &name), ("worker", &worker)] {
        limits::text(field, text.as_deref().unwrap_or_default(), limits::NAME)?;
    }
    limits::tags(tags.as_deref().unwrap_or_default())?;
    selectors::must_be_readable(&gate, selector.as_deref().unwrap_or_default()).await?;
    let request = ChangePipelineRequest {
        id: known.id,
        caller: Some(user.caller),
        name,
        tags: tags.map(|tags| Tags { tags }),
        pinned_worker: worker,
        selector,
        policy: policy.map(|policy| policy.apply(known.policy)).transpose()?,
    };
    Ok(Json(gate.pipelines().change_pipeline(request).await?.into_inner().into()))
}

fn named(user: User, params: &Params) -> Result<BuildPipelineRequest, ApiError> {
    let id: PipelineId = params.get("pipelineid")?;
    Ok(BuildPipelineRequest { id: id.0, caller: Some(user.caller) })
}

pub(crate) async fn remove(
    State(gate): State<Gate>,
    user: User,
    params: Params,
) -> Result<&'static str, ApiError> {
    gate.pipelines().delete_pipeline(named(user, &params)?).await?;
    Ok("Pipeline has been deleted")
}

pub(crate) async fn pull(
    State(gate): State<Gate>,
    user: User,
    params: Params,
) -> Result<Json<PipelineJson>, ApiError> {
    let pipeline = gate.pipelines().build_pipeline(named(user, &params)?).await?.into_inner();
    wait_for_build(&gate, &pipeline).await;
    Ok(Json(pipeline.into()))
}

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
