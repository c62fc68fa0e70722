//! Specs that make no sense are refused, and the message names what is wrong.

use super::*;

#[track_caller]
fn refused(spec: RunSpec, message: &str) {
    let refusal = decide(&State::default(), submit(1, spec)).unwrap_err();
    assert_eq!(refusal.to_string(), message);
}

fn with_jobs(jobs: Vec<JobSpec>) -> RunSpec {
    RunSpec { jobs, ..spec() }
}

fn argument(kind: &str, key: &str, default_value: &str) -> ArgumentSpec {
    ArgumentSpec {
        description: String::new(),
        kind: kind.into(),
        key: key.into(),
        default_value: default_value.into(),
    }
}

fn with_arguments(declared: Vec<ArgumentSpec>, given: &[(&str, &str)]) -> RunSpec {
    let jobs = vec![JobSpec { arguments: declared, ..job(1, &[]) }];
    let given = given
        .iter()
        .map(|(key, value)| ArgumentValue { key: (*key).into(), value: (*value).into() });
    RunSpec { jobs, arguments: given.collect(), ..spec() }
}

#[test]
fn job_ids_are_unique() {
    let twin = JobSpec { title: "twin".into(), ..job(1, &[]) };
    refused(
        with_jobs(vec![job(1, &[]), twin]),
        "job `twin` has the id 1 of job `job 1`; ids are unique in a pipeline",
    );
}

#[test]
fn a_dependency_must_exist() {
    refused(
        with_jobs(vec![job(1, &[7])]),
        "job `job 1` depends on job 7, which the pipeline does not have",
    );
}

#[test]
fn a_circle_of_jobs_is_shown() {
    refused(
        with_jobs(vec![job(4, &[1]), job(1, &[3]), job(2, &[1]), job(3, &[2])]),
        "jobs wait for each other: job 1 → job 3 → job 2 → job 1",
    );
}

#[test]
fn a_long_chain_is_fine_in_any_order() {
    let chain = |id| job(id, if id == 1 { vec![] } else { vec![id - 1] }.as_slice());
    let forwards: Vec<_> = (1..=1_000).map(chain).collect();
    let backwards = forwards.iter().rev().cloned().collect();
    assert!(decide(&State::default(), submit(1, with_jobs(forwards))).is_ok());
    assert!(decide(&State::default(), submit(1, with_jobs(backwards))).is_ok());
}

#[test]
fn sizes_are_bounded() {
    refused(
        with_jobs((1..=1_001).map(|id| job(id, &[])).collect()),
        "1001 jobs are too many; a pipeline has at most 1000",
    );
    let long = JobSpec { description: "x".repeat(MAX_SPEC_BYTES), ..job(1, &[]) };
    let refusal = decide(&State::default(), submit(1, with_jobs(vec![long]))).unwrap_err();
    assert!(refusal.to_string().contains("at most 204800 are allowed"), "{refusal}");
    let tags = vec!["a".into(); MAX_TAGS + 1];
    refused(RunSpec { tags, ..spec() }, "257 tags are too many; at most 256 are taken");
}

#[test]
fn arguments_fit_what_the_jobs_declare() {
    let text = || vec![argument("textfield", "version", "")];
    let ok = |spec| assert!(decide(&State::default(), submit(1, spec)).is_ok());
    ok(with_arguments(text(), &[("version", "")]));
    ok(with_arguments(vec![argument("textarea", "notes", "none")], &[]));
    ok(with_arguments(vec![argument("vault", "token", "")], &[]));
    ok(with_arguments(vec![argument("Vault", "token", "")], &[]));
    ok(with_arguments(vec![argument("boolean", "dry", "")], &[("dry", "false")]));
    refused(
        with_arguments(text(), &[]),
        "argument `version` of job `job 1` has no default and no value was given",
    );
    refused(
        with_arguments(text(), &[("version", "1"), ("color", "red")]),
        "argument `color` is given, but no job declares it",
    );
    refused(
        with_arguments(text(), &[("version", "1"), ("version", "2")]),
        "argument `version` is given twice",
    );
    refused(
        with_arguments(vec![argument("boolean", "dry", "")], &[("dry", "yes")]),
        "argument `dry` must be `true` or `false`",
    );
    refused(
        with_arguments(vec![argument("Vault", "token", "")], &[("token", "s3cret")]),
        "argument `token` comes from the vault and takes no value; store it there",
    );
}

#[test]
fn a_run_names_its_pipeline_its_binary_and_real_tags() {
    refused(
        RunSpec { pipeline: ids::PipelineId(0), ..spec() },
        "pipeline_id is missing; a pipeline run names its pipeline",
    );
    refused(
        RunSpec { artifact: None, ..spec() },
        "artifact is missing; a pipeline run names the sha256 of its binary",
    );
    refused(RunSpec { tags: vec![" ".into()], ..spec() }, "a tag is empty");
}
