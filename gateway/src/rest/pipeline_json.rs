//! A pipeline as JSON: Gaia's fields, and what is ours.

use base64::{Engine, prelude::BASE64_STANDARD};
use ids::Digest;
use proto::{
    common::v1::{ArgumentSpec, Build, JobSpec},
    pipelines::v1::{BuildState, Pipeline},
};
use serde::Serialize;

use super::{
    policy::PolicyJson,
    schedules::{Missed, missed},
    time::rfc3339,
};

#[derive(Debug, Serialize)]
pub(crate) struct PipelineJson {
    id: u64,
    name: String,
    repo: RepoJson,
    r#type: String,
    /// Base64, as Gaia writes it.
    #[serde(skip_serializing_if = "String::is_empty")]
    sha256sum: String,
    jobs: Vec<JobJson>,
    created: String,
    tags: Vec<String>,
    docker: bool,
    notvalid: bool,
    created_at: u64,
    created_by: String,
    /// The only worker that may run it; empty: any.
    worker: String,
    /// What it asks of its workers beside type and tags.
    selector: String,
    policy: PolicyJson,
    /// Gaia's.
    periodicschedules: Vec<String>,
    time_zone: String,
    missed_ticks: Missed,
    /// When it starts by itself, in milliseconds since the epoch; 0: never.
    next_start_at: u64,
    /// The token itself is shown to whom it is made for, and never again.
    has_trigger_token: bool,
    /// Of the newest build: "building", "built" or "failed".
    buildstate: &'static str,
    buildrunid: String,
    builderror: String,
    /// Count of the builds that succeeded; 0: there is nothing to run yet.
    version: u32,
    /// What the newest build that succeeded produced.
    build: Option<ResultJson>,
    built_at: u64,
}

/// Never with what gives access to it.
#[derive(Debug, Serialize)]
struct RepoJson {
    url: String,
    selectedbranch: String,
}

/// What a build produced.
#[derive(Debug, Serialize)]
pub(crate) struct ResultJson {
    /// Hex.
    sha256: String,
    size: u64,
    commit: String,
}

/// Gaia's job.
#[derive(Debug, Serialize)]
pub(crate) struct JobJson {
    pub(super) id: u32,
    pub(super) title: String,
    pub(super) desc: String,
    pub(super) dependson: Vec<NamedJob>,
    pub(super) args: Vec<ArgumentJson>,
}

/// A job that another one waits for.
#[derive(Debug, Serialize)]
pub(crate) struct NamedJob {
    id: u32,
    title: String,
}

#[derive(Debug, Serialize)]
pub(crate) struct ArgumentJson {
    desc: String,
    r#type: String,
    key: String,
    value: String,
}

impl From<Build> for ResultJson {
    fn from(build: Build) -> Self {
        let sha256 = Digest::try_from(&build.digest[..]).map(|digest| digest.to_string());
        Self { sha256: sha256.unwrap_or_default(), size: build.size, commit: build.commit }
    }
}

impl From<Pipeline> for PipelineJson {
    fn from(pipeline: Pipeline) -> Self {
        let build = pipeline.build.as_ref();
        let schedules = pipeline.schedules.unwrap_or_default();
        let jobs = build.map(|build| jobs(&build.jobs, |argument| argument.default_value.clone()));
        Self {
            sha256sum: build.map(|b| BASE64_STANDARD.encode(&b.digest)).unwrap_or_default(),
            jobs: jobs.unwrap_or_default(),
            docker: false,
            notvalid: pipeline.version == 0,
            created: rfc3339(pipeline.created_at),
            repo: RepoJson { url: pipeline.url, selectedbranch: pipeline.branch },
            buildstate: state(pipeline.build_state),
            buildrunid: pipeline.build_run_id,
            builderror: pipeline.build_error,
            version: pipeline.version,
            build: pipeline.build.map(ResultJson::from),
            built_at: pipeline.built_at,
            id: pipeline.id,
            name: pipeline.name,
            r#type: pipeline.r#type,
            tags: pipeline.tags,
            created_at: pipeline.created_at,
            created_by: pipeline.created_by,
            worker: pipeline.pinned_worker,
            selector: pipeline.selector,
            policy: pipeline.policy.into(),
            missed_ticks: missed(&schedules),
            periodicschedules: schedules.crons,
            time_zone: schedules.time_zone,
            next_start_at: pipeline.next_start_at,
            has_trigger_token: pipeline.has_trigger_token,
        }
    }
}

fn state(state: i32) -> &'static str {
    match BuildState::try_from(state) {
        Ok(BuildState::Built) => "built",
        Ok(BuildState::Failed) => "failed",
        _ => "building",
    }
}

pub(super) fn build_state(pipeline: &Pipeline) -> &'static str {
    state(pipeline.build_state)
}

/// The jobs with the values that `value` says.
pub(super) fn jobs(jobs: &[JobSpec], value: impl Fn(&ArgumentSpec) -> String) -> Vec<JobJson> {
    let title = |id: u32| jobs.iter().find(|job| job.id == id).map(|job| job.title.clone());
    let named = |id: &u32| NamedJob { id: *id, title: title(*id).unwrap_or_default() };
    let argument = |argument: &ArgumentSpec| ArgumentJson {
        desc: argument.description.clone(),
        r#type: argument.r#type.clone(),
        key: argument.key.clone(),
        value: value(argument),
    };
    let job = |job: &JobSpec| JobJson {
        id: job.id,
        title: job.title.clone(),
        desc: job.description.clone(),
        dependson: job.depends_on.iter().map(named).collect(),
        args: job.arguments.iter().map(argument).collect(),
    };
    jobs.iter().map(job).collect()
}
