//! Orders to build pipelines.

use std::{fs, path::Path, process::Command};

use proto::worker::{BuildOrder, PipelineRun};

use crate::worker::{Fixture, blank, script};

const MAKEFILE: &str =
    "all:\n\t@echo compiling\n\tcp script pipeline.out\n\tchmod 755 pipeline.out\n";

/// A repository with one commit that holds these files.
pub(crate) fn repository(dir: &Path, files: &[(&str, &str)]) -> String {
    let git = |args: &[&str]| {
        let done = Command::new("git").args(args).current_dir(dir).output().unwrap();
        assert!(done.status.success(), "{done:?}");
        String::from_utf8(done.stdout).unwrap()
    };
    fs::create_dir_all(dir).unwrap();
    git(&["init", "--quiet", "--initial-branch=main"]);
    for (name, text) in files {
        fs::write(dir.join(name), text).unwrap();
    }
    git(&["add", "."]);
    git(&[
        "-c",
        "user.name=t",
        "-c",
        "user.email=t@localhost",
        "-c",
        "commit.gpgsign=false",
        "commit",
        "--quiet",
        "-m",
        "one",
    ]);
    git(&["rev-parse", "HEAD"]).trim().to_owned()
}

pub(crate) fn build_of(dir: &Path, branch: &str) -> PipelineRun {
    let build = BuildOrder {
        url: format!("file://{}", dir.display()),
        branch: branch.into(),
        username: "me".into(),
        password: "hunter22".into(),
        ..BuildOrder::default()
    };
    PipelineRun { pipeline_type: "cpp".into(), build: Some(build), ..blank() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_is_built_checked_and_uploaded() {
    let test = Fixture::new().await;
    let agent = test.agent();
    let dir = test.dir.path().join("repository");
    let commit = repository(&dir, &[("Makefile", MAKEFILE), ("script", &script("greets"))]);
    let order = build_of(&dir, "refs/heads/main");
    test.peer.order(&order).await;
    let end = test.peer.ended(&order).await;
    assert_eq!(end.status, "success", "{}", end.reason);
    let result = end.build_result.unwrap();
    assert_eq!(result.commit, commit);
    let titles: Vec<_> = result.jobs.iter().map(|job| job.title.as_str()).collect();
    assert_eq!(titles, ["Greet", "Part"]);
    assert_eq!(result.jobs[1].depends_on[0].unique_id, result.jobs[0].unique_id);
    let digest = ids::Digest::try_from(result.sha_sum.as_slice()).unwrap();
    {
        let seen = test.peer.seen();
        assert_eq!(seen.artifacts[&digest.to_string()], script("greets").as_bytes());
        let log = seen.log(&order);
        for line in ["clone: git ", "build: make", "\ncompiling\n", "upload: "] {
            assert!(log.contains(line), "no `{line}` in {log}");
        }
        assert!(!log.contains("hunter22"), "{log}");
    }

    // What was built here can be run here without a download.
    let run = PipelineRun {
        sha_sum: result.sha_sum,
        artifact_size: result.size,
        jobs: result.jobs,
        pipeline_type: "cpp".into(),
        ..blank()
    };
    test.peer.order(&run).await;
    assert_eq!(test.peer.ended(&run).await.status, "success");
    assert_eq!(test.peer.seen().downloads, 0);
    agent.drained().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_fails_says_at_which_step_and_how() {
    let test = Fixture::new().await;
    let agent = test.agent();
    let dir = test.dir.path().join("repository");
    repository(&dir, &[("Makefile", "all:\n\t@echo missing brace; exit 1\n")]);
    let nothing = test.dir.path().join("nothing");
    repository(&nothing, &[("Makefile", "all:\n\ttrue\n")]);
    let no_pipeline = test.dir.path().join("no-pipeline");
    let makefile = "all:\n\tprintf '#!/bin/sh\\necho hm\\n' > pipeline.out\n";
    repository(&no_pipeline, &[("Makefile", makefile)]);
    for (order, reason) in [
        (build_of(&dir, ""), ["build failed: `make`", "missing brace"]),
        (build_of(&dir, "nowhere"), ["clone failed: `git", "nowhere"]),
        (build_of(&nothing, ""), ["build failed", "made no `pipeline.out`"]),
        (build_of(&no_pipeline, ""), ["did not start", "hm"]),
    ] {
        test.peer.order(&order).await;
        let end = test.peer.ended(&order).await;
        assert_eq!(end.status, "failed", "{}", end.reason);
        assert!(reason.iter().all(|part| end.reason.contains(part)), "{}", end.reason);
        assert!(test.peer.seen().log(&order).contains(reason[1]));
    }
    agent.drained().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finished_build_waits_for_the_server_longer_than_it_may_take() {
    let mut test = Fixture::new().await;
    test.config.build_seconds = 10;
    let agent = test.agent();
    let dir = test.dir.path().join("repository");
    repository(&dir, &[("Makefile", MAKEFILE), ("script", &script("greets"))]);
    // About 15 seconds of pauses.
    test.peer.seen().refuse_artifacts = 9;
    let order = build_of(&dir, "");
    test.peer.order(&order).await;
    let end = test.peer.ended(&order).await;
    assert_eq!(end.status, "success", "{}", end.reason);
    assert_eq!(test.peer.seen().refuse_artifacts, 0);
    assert!(test.peer.seen().log(&order).contains("; trying again"));
    agent.drained().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_built_makes_room_in_the_cache() {
    let mut test = Fixture::new().await;
    test.config.cache_limit = 1;
    let agent = test.agent();
    for kind in ["greets", "waits"] {
        let dir = test.dir.path().join(kind);
        repository(&dir, &[("Makefile", MAKEFILE), ("script", &script(kind))]);
        let order = build_of(&dir, "");
        test.peer.order(&order).await;
        assert_eq!(test.peer.ended(&order).await.status, "success");
        let digest = ids::Digest::of(script(kind).as_bytes()).to_string();
        let kept = fs::read_dir(test.config.home.join("cache")).unwrap();
        let mut kept: Vec<_> =
            kept.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        kept.sort_unstable();
        assert_eq!(kept, [digest.clone(), format!("{digest}.chunks")]);
    }
    agent.drained().await;
}
