//! What the scheduler assigns, as the order that a worker gets: pure but for the secrets, which are
//! looked up before.

use std::collections::{BTreeSet, HashMap};

use proto::{
    common::v1::{ArgumentSpec, JobSpec, Lease},
    pipelines::v1::Credentials,
    registry::v1::Variable,
    scheduler::v1::{Run, RunKind, RunSpec},
    worker::{Argument, BuildOrder, EnvironmentVariable, Instruction, Job, PipelineRun},
};

/// The type of arguments whose value is in the vault.
pub(crate) const VAULT: &str = "vault";

/// Values of the vault by key.
pub(crate) type Secrets = HashMap<String, String>;

/// Nothing to do: shows both ends that the stream is alive.
pub(crate) fn nothing() -> PipelineRun {
    PipelineRun { instruction: Instruction::Nothing.into(), ..PipelineRun::default() }
}

/// Stop this attempt.
pub(crate) fn cancel(lease: Lease) -> PipelineRun {
    PipelineRun {
        instruction: Instruction::Cancel.into(),
        unique_id: lease.run_id,
        attempt: lease.attempt,
        lease_token: lease.token,
        ..PipelineRun::default()
    }
}

/// Run the pipeline.
pub(crate) fn start(lease: Lease, run: &Run, spec: &RunSpec, secrets: &Secrets) -> PipelineRun {
    PipelineRun {
        sha_sum: spec.artifact.to_vec(),
        artifact_size: spec.artifact_size,
        jobs: jobs(spec, secrets),
        ..begin(lease, run, spec)
    }
}

/// Build the pipeline.
pub(crate) fn build(
    lease: Lease,
    run: &Run,
    spec: &RunSpec,
    credentials: Credentials,
) -> PipelineRun {
    let order = BuildOrder {
        url: spec.source_url.clone(),
        branch: spec.source_branch.clone(),
        username: credentials.username,
        password: credentials.password,
        private_key: credentials.private_key,
    };
    PipelineRun { build: Some(order), ..begin(lease, run, spec) }
}

/// A variable for the environment of the run.
pub(crate) fn variable(variable: Variable) -> EnvironmentVariable {
    let Variable { key, value, secret, .. } = variable;
    EnvironmentVariable { key, value, secret }
}

fn begin(lease: Lease, run: &Run, spec: &RunSpec) -> PipelineRun {
    PipelineRun {
        unique_id: run.run_id.clone(),
        id: run.number as i64,
        status: "scheduled".to_owned(),
        schedule_date: (run.submitted_at / 1_000) as i64,
        pipeline_id: spec.pipeline_id as i64,
        pipeline_name: spec.pipeline_name.clone(),
        pipeline_type: spec.pipeline_type.clone(),
        attempt: lease.attempt,
        lease_token: lease.token,
        instruction: Instruction::Run.into(),
        silence_timeout: spec.policy.as_ref().map_or(0, |policy| policy.silence_timeout),
        ..PipelineRun::default()
    }
}

/// Keys of the vault that the run needs, each once.
pub(crate) fn vault_keys(jobs: &[JobSpec]) -> Vec<String> {
    let arguments = jobs.iter().flat_map(|job| &job.arguments);
    let keys: BTreeSet<_> = arguments.filter(|a| is_vault(a)).map(|a| a.key.clone()).collect();
    keys.into_iter().collect()
}

pub(crate) fn is_vault(argument: &ArgumentSpec) -> bool {
    argument.r#type.eq_ignore_ascii_case(VAULT)
}

/// The value that a job gets for an argument which is not a secret: the given one, else the default.
pub(crate) fn plain_value(spec: &RunSpec, argument: &ArgumentSpec) -> String {
    let given = spec.arguments.iter().find(|given| given.key == argument.key);
    given.map_or_else(|| argument.default_value.clone(), |given| given.value.clone())
}

/// Whether any job gets a value.
pub(crate) fn has_values(spec: &RunSpec) -> bool {
    let mut arguments = spec.jobs.iter().flat_map(|job| &job.arguments);
    arguments.any(|argument| is_vault(argument) || !plain_value(spec, argument).is_empty())
}

fn jobs(spec: &RunSpec, secrets: &Secrets) -> Vec<Job> {
    let by_id: HashMap<u32, &JobSpec> = spec.jobs.iter().map(|job| (job.id, job)).collect();
    let job = |job: &JobSpec| Job {
        depends_on: job.depends_on.iter().map(|id| named(*id, by_id.get(id).copied())).collect(),
        status: if spec.done_jobs.contains(&job.id) { "success" } else { "waiting for execution" }
            .to_owned(),
        args: job.arguments.iter().map(|a| filled(spec, a, secrets)).collect(),
        ..named(job.id, Some(job))
    };
    spec.jobs.iter().map(job).collect()
}

/// A job by its name alone: how dependencies are sent. Only the id is read.
fn named(id: u32, job: Option<&JobSpec>) -> Job {
    Job {
        unique_id: id,
        title: job.map(|job| job.title.clone()).unwrap_or_default(),
        description: job.map(|job| job.description.clone()).unwrap_or_default(),
        ..Job::default()
    }
}

fn filled(spec: &RunSpec, argument: &ArgumentSpec, secrets: &Secrets) -> Argument {
    let value = if is_vault(argument) {
        secrets.get(&argument.key).cloned().unwrap_or_default()
    } else {
        plain_value(spec, argument)
    };
    Argument {
        description: argument.description.clone(),
        r#type: argument.r#type.clone(),
        key: argument.key.clone(),
        value,
    }
}

pub(crate) fn is_build(spec: &RunSpec) -> bool {
    spec.kind() == RunKind::Build
}

#[cfg(test)]
mod tests {
    use proto::common::v1::ArgumentValue;

    use super::*;

    fn argument(kind: &str, key: &str, default: &str) -> ArgumentSpec {
        ArgumentSpec {
            description: String::new(),
            r#type: kind.into(),
            key: key.into(),
            default_value: default.into(),
        }
    }

    fn spec() -> RunSpec {
        let compile = JobSpec { id: 7, title: "compile".into(), ..JobSpec::default() };
        let deploy = JobSpec {
            id: 9,
            title: "deploy".into(),
            depends_on: vec![7],
            arguments: vec![
                argument("textfield", "stage", "test"),
                argument("textfield", "region", "eu"),
                argument("Vault", "TOKEN", ""),
            ],
            ..JobSpec::default()
        };
        let stage = ArgumentValue { key: "stage".into(), value: "live".into() };
        RunSpec { jobs: vec![compile, deploy], arguments: vec![stage], ..RunSpec::default() }
    }

    #[test]
    fn arguments_get_the_given_value_or_the_default_or_the_secret() {
        let secrets = Secrets::from([("TOKEN".to_owned(), "s3cr=et\n".to_owned())]);
        let order = start(Lease::default(), &Run::default(), &spec(), &secrets);
        let values: Vec<_> = order.jobs[1].args.iter().map(|a| a.value.as_str()).collect();
        assert_eq!(values, ["live", "eu", "s3cr=et\n"]);
    }

    #[test]
    fn a_job_that_is_done_is_not_ordered_again() {
        let spec = RunSpec { done_jobs: vec![7], ..spec() };
        let order = start(Lease::default(), &Run::default(), &spec, &Secrets::new());
        let states: Vec<_> = order.jobs.iter().map(|job| job.status.as_str()).collect();
        assert_eq!(states, ["success", "waiting for execution"]);
    }

    #[test]
    fn dependencies_are_nested_jobs() {
        let order = start(Lease::default(), &Run::default(), &spec(), &Secrets::new());
        assert_eq!(order.jobs[1].depends_on[0].unique_id, 7);
        assert_eq!(order.jobs[1].depends_on[0].title, "compile");
    }

    #[test]
    fn a_secret_needed_twice_is_looked_up_once() {
        let mut jobs = spec().jobs;
        jobs.push(jobs[1].clone());
        assert_eq!(vault_keys(&jobs), ["TOKEN"]);
    }
}
