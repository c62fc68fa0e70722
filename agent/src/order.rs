//! An order of the server, read and checked: run this pipeline, or build it.

use std::time::Duration;

use ids::{Digest, RunId};
use proto::{
    common::v1::{ArgumentSpec, ArgumentValue, JobSpec},
    worker::{BuildOrder, EnvironmentVariable, HeldLease, Job, PipelineRun},
};

use crate::mask::Secrets;

/// The attempt that an order is for, and the proof that it was given to this worker.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Lease {
    pub(crate) run: RunId,
    /// From 1.
    pub(crate) attempt: u32,
    pub(crate) token: String,
}

/// Without the token.
impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "attempt {} of run {}", self.attempt, self.run)
    }
}

impl Lease {
    pub(crate) fn of(message: &PipelineRun) -> Result<Self, String> {
        let run = message.unique_id.parse().map_err(|error| format!("{error}"))?;
        Ok(Self { run, attempt: message.attempt, token: message.lease_token.clone() })
    }

    /// Names the attempt's files.
    pub(crate) fn file_name(&self) -> String {
        format!("{}-{}", self.run, self.attempt)
    }

    /// Names the attempt and nothing else.
    pub(crate) fn message(&self) -> PipelineRun {
        PipelineRun {
            unique_id: self.run.to_string(),
            attempt: self.attempt,
            lease_token: self.token.clone(),
            ..PipelineRun::default()
        }
    }

    pub(crate) fn held(&self) -> HeldLease {
        HeldLease {
            run_id: self.run.to_string(),
            attempt: self.attempt,
            lease_token: self.token.clone(),
        }
    }
}

/// The language of a pipeline, which decides how it is built, prepared and started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Language {
    Cpp,
    Golang,
    Java,
    Nodejs,
    Python,
    Ruby,
    Rust,
}

impl Language {
    pub(crate) const ALL: [Self; 7] =
        [Self::Cpp, Self::Golang, Self::Java, Self::Nodejs, Self::Python, Self::Ruby, Self::Rust];

    /// Gaia's name of the type, which is also a worker's tag.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Cpp => "cpp",
            Self::Golang => "golang",
            Self::Java => "java",
            Self::Nodejs => "nodejs",
            Self::Python => "python",
            Self::Ruby => "ruby",
            Self::Rust => "rust",
        }
    }

    fn parse(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|language| language.name().eq_ignore_ascii_case(text))
            .ok_or_else(|| {
                let known: Vec<&str> = Self::ALL.iter().map(|language| language.name()).collect();
                format!("`{text}` is not a pipeline type; known are {}", known.join(", "))
            })
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Order {
    pub(crate) lease: Lease,
    pub(crate) pipeline: i64,
    pub(crate) language: Language,
    /// For the pipeline's processes.
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) secrets: Secrets,
    /// An attempt that prints nothing for so long is ended.
    pub(crate) longest_silence: Option<Duration>,
    pub(crate) task: Task,
}

#[derive(Clone, Debug)]
pub(crate) enum Task {
    Run(RunTask),
    Build(BuildTask),
}

#[derive(Clone, Debug)]
pub(crate) struct RunTask {
    pub(crate) digest: Digest,
    /// Bytes; 0: unknown.
    pub(crate) size: u64,
    pub(crate) jobs: Vec<JobSpec>,
    /// Of these jobs, those that are not run again.
    pub(crate) done: Vec<u32>,
    pub(crate) arguments: Vec<ArgumentValue>,
}

/// Debug would show credentials.
#[derive(Clone)]
pub(crate) struct BuildTask(pub(crate) BuildOrder);

impl std::fmt::Debug for BuildTask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BuildTask").field("branch", &self.0.branch).finish_non_exhaustive()
    }
}

impl TryFrom<&PipelineRun> for Order {
    /// What is wrong with it, for people.
    type Error = String;

    fn try_from(message: &PipelineRun) -> Result<Self, String> {
        let task = match &message.build {
            Some(build) => Task::Build(BuildTask(build.clone())),
            None => Task::Run(RunTask::read(message)?),
        };
        let environment = message.environment.iter();
        Ok(Self {
            lease: Lease::of(message)?,
            pipeline: message.pipeline_id,
            language: Language::parse(&message.pipeline_type)?,
            environment: environment.map(|it| (it.key.clone(), it.value.clone())).collect(),
            secrets: secrets(message),
            longest_silence: match message.silence_timeout {
                0 => None,
                seconds => Some(Duration::from_secs(seconds.into())),
            },
            task,
        })
    }
}

impl RunTask {
    fn read(message: &PipelineRun) -> Result<Self, String> {
        let digest = Digest::try_from(message.sha_sum.as_slice())
            .map_err(|error| format!("the order names no binary: {error}"))?;
        let mut arguments: Vec<ArgumentValue> = Vec::new();
        for argument in message.jobs.iter().flat_map(|job| &job.args) {
            if arguments.iter().all(|known| known.key != argument.key) {
                let (key, value) = (argument.key.clone(), argument.value.clone());
                arguments.push(ArgumentValue { key, value });
            }
        }
        let jobs = message.jobs.iter().map(job_spec).collect();
        let done = message.jobs.iter().filter(|job| job.status == "success");
        let done = done.map(|job| job.unique_id).collect();
        Ok(Self { digest, size: message.artifact_size, jobs, done, arguments })
    }
}

fn job_spec(job: &Job) -> JobSpec {
    let arguments = job.args.iter().map(|argument| ArgumentSpec {
        description: argument.description.clone(),
        r#type: argument.r#type.clone(),
        key: argument.key.clone(),
        default_value: String::new(),
    });
    JobSpec {
        id: job.unique_id,
        title: job.title.clone(),
        description: job.description.clone(),
        depends_on: job.depends_on.iter().map(|job| job.unique_id).collect(),
        arguments: arguments.collect(),
    }
}

/// A pipeline's jobs, as the Worker API writes them.
pub(crate) fn job_message(spec: &JobSpec) -> Job {
    let args = spec.arguments.iter().map(|argument| proto::worker::Argument {
        description: argument.description.clone(),
        r#type: argument.r#type.clone(),
        key: argument.key.clone(),
        value: argument.default_value.clone(),
    });
    let only_id = |id: &u32| Job { unique_id: *id, ..Job::default() };
    Job {
        unique_id: spec.id,
        title: spec.title.clone(),
        description: spec.description.clone(),
        depends_on: spec.depends_on.iter().map(only_id).collect(),
        args: args.collect(),
        ..Job::default()
    }
}

fn secrets(message: &PipelineRun) -> Secrets {
    let vault = message.jobs.iter().flat_map(|job| &job.args);
    let vault = vault.filter(|argument| argument.r#type.eq_ignore_ascii_case("vault"));
    let variables = message.environment.iter().filter(|it: &&EnvironmentVariable| it.secret);
    let build = message.build.iter();
    Secrets::new(
        vault
            .map(|argument| argument.value.as_str())
            .chain(variables.map(|variable| variable.value.as_str()))
            .chain(build.flat_map(credentials))
            .chain([message.lease_token.as_str()]),
    )
}

fn credentials(build: &BuildOrder) -> impl Iterator<Item = &str> {
    let in_url = password_in(&build.url);
    [build.password.as_str(), build.private_key.as_str()].into_iter().chain(in_url)
}

/// What stands before the `@` of a URL, without the user name when there is a password.
fn password_in(url: &str) -> Option<&str> {
    let (_, rest) = url.split_once("://")?;
    let (user, _) = rest.split('/').next()?.rsplit_once('@')?;
    if url.starts_with("ssh://") {
        return user.split_once(':').map(|(_, password)| password);
    }
    Some(user.split_once(':').map_or(user, |(_, password)| password))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> PipelineRun {
        PipelineRun {
            unique_id: "00000000-0000-0000-0000-000000000007".into(),
            attempt: 2,
            pipeline_type: "GoLang".into(),
            sha_sum: vec![7; 32],
            ..PipelineRun::default()
        }
    }

    fn job(id: u32, key: &str, kind: &str, value: &str) -> Job {
        let argument = proto::worker::Argument {
            r#type: kind.into(),
            key: key.into(),
            value: value.into(),
            ..Default::default()
        };
        Job { unique_id: id, args: vec![argument], ..Job::default() }
    }

    #[test]
    fn an_order_is_read() {
        let mut message = message();
        message.jobs = vec![job(1, "a", "textfield", "x"), job(2, "b", "vault", "s3cret")];
        message.jobs[1].depends_on = vec![Job { unique_id: 1, ..Job::default() }];
        let order = Order::try_from(&message).unwrap();
        assert_eq!(order.language, Language::Golang);
        let Task::Run(run) = order.task else { panic!("a build") };
        assert_eq!(run.jobs[1].depends_on, [1]);
        assert_eq!(run.arguments.len(), 2);
        assert_eq!(order.secrets.mask("x s3cret"), "x ***");
    }

    #[test]
    fn what_is_wrong_with_an_order_is_said() {
        let unknown = PipelineRun { pipeline_type: "cobol".into(), ..message() };
        assert!(Order::try_from(&unknown).unwrap_err().contains("`cobol` is not a pipeline type"));
        let nameless = PipelineRun { sha_sum: vec![], ..message() };
        assert!(Order::try_from(&nameless).unwrap_err().contains("names no binary"));
    }

    #[test]
    fn credentials_of_a_build_are_secrets_wherever_they_stand() {
        let build = BuildOrder {
            url: "https://me:hunter22@host/repo.git".into(),
            password: "correct horse".into(),
            ..BuildOrder::default()
        };
        let order = Order::try_from(&PipelineRun { build: Some(build), ..message() }).unwrap();
        let masked = order.secrets.mask("https://me:hunter22@host/repo.git correct horse");
        assert_eq!(masked, "https://me:***@host/repo.git ***");
        assert_eq!(password_in("https://token@host/x"), Some("token"));
        assert_eq!(password_in("ssh://git@host/x"), None);
    }
}
