//! The example pipeline in Python, on Gaia's own SDK as PyPI has it.
//!
//! Needs `python3` with its module `venv`, and the network the first time; what it made is kept
//! beside the test binary.

use std::{path::PathBuf, process::Command};

use super::*;

fn call(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {output:?}");
}

/// A virtual environment with the SDK, made once.
fn environment() -> PathBuf {
    let target = env::current_exe().expect("a path").parent().expect("a folder").to_owned();
    let folder = target.join("python-sdk-0.0.17");
    if !folder.join("ready").exists() {
        call(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder));
        let packages = ["gaiasdk==0.0.17", "six", "protobuf<4"];
        call(Command::new(folder.join("bin/pip")).args(["install", "-q"]).args(packages));
        std::fs::write(folder.join("ready"), "").expect("to write");
    }
    folder
}

#[tokio::test]
async fn a_pipeline_of_the_python_sdk_runs_unmodified() {
    let python = tokio::task::spawn_blocking(environment).await.expect("an environment");
    let scratch = tempfile::tempdir().expect("a folder");
    let launch = Launch {
        program: python.join("bin/python"),
        args: vec!["-c".into(), "import pipeline; pipeline.main()".into()],
        cwd: Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/python"),
        env: vec![("PYTHONDONTWRITEBYTECODE".into(), "1".into())],
        scratch: scratch.path().join("plugin"),
    };
    let (sender, output) = Collected::new();
    let mut plugin =
        Plugin::start(launch, sender, &CancellationToken::new()).await.expect("a start");
    let jobs = plugin.jobs().await.expect("jobs");
    let titles: Vec<_> = jobs.iter().map(|job| job.title.as_str()).collect();
    assert_eq!(titles, ["Collect", "Compile", "Digest", "Report", "Publish"]);
    let arguments = [("version", "2.0"), ("PUBLISH_TOKEN", "abc=def")];
    let arguments = arguments.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    let (outcome, updates) = run(&plugin, &jobs, &arguments, CancellationToken::new()).await;
    assert_eq!(outcome, GraphOutcome::Succeeded, "{updates:?}");
    let publish = jobs.iter().find(|job| job.title == "Publish").expect("such a job").clone();
    let alone = [JobSpec { depends_on: vec![], ..publish }];
    let arguments = HashMap::from([("fail".to_owned(), "true".to_owned())]);
    let (outcome, _) = run(&plugin, &alone, &arguments, CancellationToken::new()).await;
    let message = "told to fail by the argument `fail`".to_owned();
    assert_eq!(outcome, GraphOutcome::Failed { job: alone[0].id, message });
    plugin.stop(Duration::from_secs(5)).await;
    let printed = output.all(Stream::Stdout).await;
    assert!(printed.contains("publishing version 2.0"), "{printed}");
    assert!(printed.contains("a token of 7 characters"), "{printed}");
}
