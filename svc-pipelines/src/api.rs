//! The gRPC face: parses, mints run ids, stamps the time, seals credentials, asks the task.
//!
//! Credentials are in clear only here, between the request and their seal, and on their way to the
//! gateway. Nothing here logs a request.

use eventlog::{Clock, Origin, Stopped};
use identity::MasterKey;
use ids::{Digest, PipelineId, RunId};
use prost::Message;
use proto::pipelines::v1 as wire;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use crate::{
    codec::{
        build_to_proto, policy_from_proto, policy_to_proto, schedules_from_proto,
        schedules_to_proto,
    },
    domain::{
        BuildState, Change, Command, Event, Pipeline, Policy, Rejection, SchedulesWish, Sealed,
        State, Wish,
    },
    service::Pipelines,
};

/// In bytes.
const LONGEST_USERNAME: usize = 256;
const LONGEST_PASSWORD: usize = 4 << 10;
const LONGEST_PRIVATE_KEY: usize = 32 << 10;

pub(crate) struct Api {
    owner: Pipelines,
    clock: Clock,
    master_key: MasterKey,
}

impl Api {
    pub(crate) fn new(owner: Pipelines, clock: Clock, master_key: MasterKey) -> Self {
        Self { owner, clock, master_key }
    }

    async fn ask(&self, command: Command, origin: Origin) -> Result<(), Status> {
        let answer: Result<Vec<Event>, _> =
            self.owner.ask(command, origin).await.map_err(stopped)?;
        answer.map(drop).map_err(refused)
    }

    /// Seals for the next id, and again if another pipeline got it in between.
    async fn create(
        &self,
        wish: Wish,
        schedules: SchedulesWish,
        credentials: Option<wire::Credentials>,
        origin: Origin,
    ) -> Result<PipelineId, Status> {
        let run = new_run_id();
        loop {
            let id = self.owner.read(State::next_id).await.map_err(stopped)?;
            let sealed = self.seal(id, credentials.as_ref());
            let command = Command::CreatePipeline {
                id,
                wish: wish.clone(),
                schedules: schedules.clone(),
                sealed,
                run,
                by: origin.actor.clone(),
                at: self.clock.now(),
            };
            match self.owner.ask(command, origin.clone()).await.map_err(stopped)? {
                Ok(_) => return Ok(id),
                Err(Rejection::NotNext { .. }) => {}
                Err(rejection) => return Err(refused(rejection)),
            }
        }
    }

    fn seal(&self, id: PipelineId, credentials: Option<&wire::Credentials>) -> Sealed {
        credentials.map_or_else(Sealed::default, |credentials| {
            Sealed(self.master_key.seal(&context(id), &credentials.encode_to_vec()))
        })
    }

    fn open(&self, id: PipelineId, sealed: &Sealed) -> Result<wire::Credentials, Status> {
        if sealed.0.is_empty() {
            return Ok(wire::Credentials::default());
        }
        let broken = |why: String| {
            Status::failed_precondition(format!(
                "the credentials of pipeline {id} cannot be opened ({why}): \
                 if the master key was replaced, create the pipeline again"
            ))
        };
        let plain = self
            .master_key
            .open(&context(id), &sealed.0)
            .map_err(|error| broken(error.to_string()))?;
        wire::Credentials::decode(&plain[..]).map_err(|error| broken(error.to_string()))
    }

    async fn shown(&self, id: PipelineId) -> Result<Response<wire::Pipeline>, Status> {
        let shown = self.owner.read(move |state| state.even_deleted(id).map(view)).await;
        shown.map_err(stopped)?.map(Response::new).ok_or_else(|| unknown(id))
    }

    /// What `look` sees of the pipeline that the request names.
    async fn find<T: Send + 'static>(
        &self,
        request: wire::GetPipelineRequest,
        look: fn(&Pipeline) -> T,
    ) -> Result<T, Status> {
        let wire::GetPipelineRequest { id, name } = request;
        if id == 0 && name.is_empty() {
            return Err(Status::invalid_argument("id, name: give one of them"));
        }
        let missing = match id {
            0 => refused_name(&name),
            id => unknown(PipelineId(id)),
        };
        let found = self.owner.read(move |state| {
            match id {
                0 => state.named(&name),
                id => state.pipeline(PipelineId(id)),
            }
            .map(look)
        });
        found.await.map_err(stopped)?.ok_or(missing)
    }
}

#[tonic::async_trait]
impl wire::pipelines_server::Pipelines for Api {
    async fn create_pipeline(
        &self,
        request: Request<wire::CreatePipelineRequest>,
    ) -> Result<Response<wire::Pipeline>, Status> {
        let request = request.into_inner();
        let credentials =
            request.credentials.filter(|given| *given != wire::Credentials::default());
        if let Some(given) = &credentials {
            check(given)?;
        }
        let wish = Wish {
            name: request.name,
            kind: request.r#type,
            url: request.url,
            branch: request.branch,
            tags: request.tags,
            pinned_worker: request.pinned_worker,
            selector: request.selector,
            policy: read_policy(request.policy.unwrap_or_default())?,
        };
        let schedules = read_schedules(request.schedules.unwrap_or_default())?;
        let id = self.create(wish, schedules, credentials, Origin::from(request.caller)).await?;
        self.shown(id).await
    }

    async fn change_pipeline(
        &self,
        request: Request<wire::ChangePipelineRequest>,
    ) -> Result<Response<wire::Pipeline>, Status> {
        let request = request.into_inner();
        let pipeline = PipelineId(request.id);
        let change = Change {
            name: request.name,
            tags: request.tags.map(|tags| tags.tags),
            pinned_worker: request.pinned_worker,
            selector: request.selector,
            policy: request.policy.map(read_policy).transpose()?,
        };
        let schedules = request.schedules.map(read_schedules).transpose()?;
        let origin = Origin::from(request.caller);
        let (by, at) = (origin.actor.clone(), self.clock.now());
        if let Some(wish) = &schedules {
            wish.clone().checked(at).map_err(|error| refused(error.into()))?;
        }
        let change = Command::ChangePipeline { pipeline, change, by: by.clone(), at };
        self.ask(change, origin.clone()).await?;
        if let Some(schedules) = schedules {
            self.ask(Command::SetSchedules { pipeline, schedules, by, at }, origin).await?;
        }
        self.shown(pipeline).await
    }

    async fn build_pipeline(
        &self,
        request: Request<wire::BuildPipelineRequest>,
    ) -> Result<Response<wire::Pipeline>, Status> {
        let request = request.into_inner();
        let pipeline = PipelineId(request.id);
        let (run, at) = (new_run_id(), self.clock.now());
        self.ask(Command::RequestBuild { pipeline, run, at }, Origin::from(request.caller)).await?;
        self.shown(pipeline).await
    }

    async fn get_pipeline(
        &self,
        request: Request<wire::GetPipelineRequest>,
    ) -> Result<Response<wire::Pipeline>, Status> {
        self.find(request.into_inner(), view).await.map(Response::new)
    }

    async fn list_pipelines(
        &self,
        _: Request<wire::ListPipelinesRequest>,
    ) -> Result<Response<wire::ListPipelinesResponse>, Status> {
        let pipelines = self.owner.read(|state| state.pipelines().map(view).collect());
        let pipelines = pipelines.await.map_err(stopped)?;
        Ok(Response::new(wire::ListPipelinesResponse { pipelines }))
    }

    async fn delete_pipeline(
        &self,
        request: Request<wire::BuildPipelineRequest>,
    ) -> Result<Response<wire::Pipeline>, Status> {
        let request = request.into_inner();
        let pipeline = PipelineId(request.id);
        let origin = Origin::from(request.caller);
        let (by, at) = (origin.actor.clone(), self.clock.now());
        self.ask(Command::DeletePipeline { pipeline, by, at }, origin).await?;
        self.shown(pipeline).await
    }

    async fn get_credentials(
        &self,
        request: Request<wire::GetPipelineRequest>,
    ) -> Result<Response<wire::Credentials>, Status> {
        let look = |pipeline: &Pipeline| (pipeline.id, pipeline.sealed.clone());
        let (id, sealed) = self.find(request.into_inner(), look).await?;
        self.open(id, &sealed).map(Response::new)
    }

    async fn check_schedules(
        &self,
        request: Request<wire::Schedules>,
    ) -> Result<Response<wire::CheckSchedulesResponse>, Status> {
        let now = self.clock.now();
        let schedules = read_schedules(request.into_inner())?.checked(now);
        let schedules = schedules.map_err(|error| refused(error.into()))?;
        let next = schedules.times(now, 5).into_iter().map(|time| time.0).collect();
        Ok(Response::new(wire::CheckSchedulesResponse { next }))
    }

    async fn reset_trigger_token(
        &self,
        request: Request<wire::ResetTriggerTokenRequest>,
    ) -> Result<Response<wire::TriggerToken>, Status> {
        let request = request.into_inner();
        let token = if request.remove { String::new() } else { new_trigger_token() };
        let hash = (!request.remove).then(|| Digest::of(token.as_bytes()));
        let pipeline = PipelineId(request.id);
        let origin = Origin::from(request.caller);
        let (by, at) = (origin.actor.clone(), self.clock.now());
        self.ask(Command::SetTriggerToken { pipeline, hash, by, at }, origin).await?;
        Ok(Response::new(wire::TriggerToken { token }))
    }

    async fn check_trigger_token(
        &self,
        request: Request<wire::CheckTriggerTokenRequest>,
    ) -> Result<Response<wire::Pipeline>, Status> {
        let wire::CheckTriggerTokenRequest { id, token } = request.into_inner();
        // Of hashes, so that how long it takes says nothing of the token.
        let hash = Digest::of(token.as_bytes());
        let look = move |state: &State| {
            let known = state.pipeline(PipelineId(id));
            known.filter(|known| known.plan.trigger == Some(hash)).map(view)
        };
        let shown = self.owner.read(look).await.map_err(stopped)?;
        // Whether there is such a pipeline is not for everybody to know.
        let denied = || Status::permission_denied("this is not the trigger token of the pipeline");
        shown.map(Response::new).ok_or_else(denied)
    }
}

/// A pipeline as clients see it.
#[must_use]
pub fn view(pipeline: &Pipeline) -> wire::Pipeline {
    let spec = pipeline.spec.clone();
    let (build_state, build_error) = match &pipeline.build_state {
        BuildState::Building => (wire::BuildState::Building, ""),
        BuildState::Built => (wire::BuildState::Built, ""),
        BuildState::Failed(reason) => (wire::BuildState::Failed, reason.as_str()),
    };
    let built = pipeline.built.clone();
    wire::Pipeline {
        id: pipeline.id.0,
        name: spec.name,
        r#type: spec.kind.to_string(),
        url: spec.url,
        branch: spec.branch,
        tags: spec.tags,
        pinned_worker: spec.pinned_worker,
        created_at: pipeline.created_at.0,
        created_by: pipeline.created_by.clone(),
        build_state: build_state.into(),
        build_run_id: pipeline.build_run.map(|run| run.to_string()).unwrap_or_default(),
        build_error: build_error.into(),
        version: pipeline.version,
        built_at: built.as_ref().map_or(0, |(_, at)| at.0),
        build: built.map(|(build, _)| build_to_proto(build)),
        selector: spec.selector,
        policy: Some(policy_to_proto(spec.policy)),
        schedules: Some(schedules_to_proto(&pipeline.plan.schedules)),
        next_start_at: pipeline.due().map_or(0, |at| at.0),
        has_trigger_token: pipeline.plan.trigger.is_some(),
    }
}

/// No message here repeats what it is about.
fn check(credentials: &wire::Credentials) -> Result<(), Status> {
    let wire::Credentials { username, password, private_key } = credentials;
    let lengths = [
        ("credentials.username", username.len(), LONGEST_USERNAME),
        ("credentials.password", password.len(), LONGEST_PASSWORD),
        ("credentials.private_key", private_key.len(), LONGEST_PRIVATE_KEY),
    ];
    for (field, length, most) in lengths {
        if length > most {
            return Err(Status::invalid_argument(format!(
                "{field}: has {length} bytes, more than {most}"
            )));
        }
    }
    if username.chars().any(char::is_control) {
        return Err(Status::invalid_argument("credentials.username: holds control characters"));
    }
    if !private_key.is_empty() && !private_key.trim_start().starts_with("-----BEGIN ") {
        return Err(Status::invalid_argument(
            "credentials.private_key: is no PEM text: paste the whole file, from `-----BEGIN` on",
        ));
    }
    Ok(())
}

fn read_schedules(schedules: wire::Schedules) -> Result<SchedulesWish, Status> {
    schedules_from_proto(schedules).map_err(Status::invalid_argument)
}

fn read_policy(policy: proto::common::v1::RunPolicy) -> Result<Policy, Status> {
    policy_from_proto(policy).map_err(Status::invalid_argument)
}

/// What the seal of a pipeline's credentials is bound to.
fn context(id: PipelineId) -> String {
    format!("pipeline/{id}")
}

#[expect(clippy::disallowed_methods, reason = "the edge where runs get their ids")]
pub(crate) fn new_run_id() -> RunId {
    RunId::from_uuid(Uuid::now_v7())
}

/// 32 random bytes in hex.
#[expect(clippy::disallowed_methods, reason = "the edge where trigger tokens are made")]
fn new_trigger_token() -> String {
    format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple())
}

fn refused(rejection: Rejection) -> Status {
    authz::count_rejection("svc-pipelines", rejection.reason());
    let message = rejection.to_string();
    match rejection {
        Rejection::Invalid(_) => Status::invalid_argument(message),
        Rejection::NameTaken { .. } => Status::already_exists(message),
        Rejection::NotNext { .. } => Status::aborted(message),
        Rejection::UnknownPipeline(_) => Status::not_found(message),
    }
}

fn unknown(id: PipelineId) -> Status {
    refused(Rejection::UnknownPipeline(id))
}

fn refused_name(name: &str) -> Status {
    let name: String = name.chars().take(60).collect();
    Status::not_found(format!(
        "there is no pipeline `{}`: list the pipelines to see which there are",
        name.escape_debug()
    ))
}

fn stopped(stopped: Stopped) -> Status {
    Status::unavailable(format!("svc-pipelines: {stopped}"))
}
