//! Pipelines: creating, changing and building them.

use std::time::Duration;

use axum::{Json, extract::State};
use ids::PipelineId;
use proto::{
    common::v1::Caller,
    pipelines::v1::{
        BuildPipelineRequest, BuildState, ChangePipelineRequest, CreatePipelineRequest,
        Credentials, GetPipelineRequest, ListPipelinesRequest, Pipeline, Tags,
    },
};
use serde::Deserialize;
use serde_json::{Value, json};
use tonic::Code;

use super::{
    Params, Payload, Query, User, pipeline_json::PipelineJson, policy, runs, schedules, selectors,
    time::rfc3339,
};
use crate::{error::ApiError, gate::Gate, limits};

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
    #[serde(flatten)]
    schedules: schedules::Wish,
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
            schedules: wish.schedules.apply(None)?,
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

pub(super) async fn pipeline(gate: &Gate, params: &Params) -> Result<Pipeline, ApiError> {
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
    #[serde(flatten)]
    schedules: schedules::Wish,
}

pub(crate) async fn change(
    State(gate): State<Gate>,
    user: User,
    params: Params,
    payload: Payload,
) -> Result<Json<PipelineJson>, ApiError> {
    let Change { name, tags, worker, selector, policy, schedules } = payload.json()?;
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
        schedules: schedules.apply(known.schedules)?,
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
