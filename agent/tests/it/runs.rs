//! Orders to run pipelines.

use proto::worker::{EnvironmentVariable, Instruction, PipelineRun};

use crate::worker::{Fixture, argument, blank, job};

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_done_and_reported_with_its_whole_log() {
    let test = Fixture::new().await;
    let agent = test.agent();
    let variable =
        EnvironmentVariable { key: "VARIABLE".into(), value: "blue".into(), secret: false };
    let args =
        vec![argument("textfield", "greeting", "hello"), argument("vault", "TOKEN", "s3cr=et")];
    let order = PipelineRun {
        jobs: vec![job("Greet", args), job("Part", vec![])],
        environment: vec![variable],
        ..test.order("greets")
    };
    test.peer.order(&order).await;
    let end = test.peer.ended(&order).await;
    assert_eq!(end.status, "success", "{}", end.reason);
    for job in &end.jobs {
        assert_eq!(job.status, "success");
        assert!(job.started_at > 0 && job.finished_at >= job.started_at && job.args.is_empty());
    }
    {
        let seen = test.peer.seen();
        let log = seen.log(&order);
        assert!(log.contains("hello with ***\n") && log.contains("variable blue\n"), "{log}");
        assert!(log.contains("goodbye\n") && !log.contains("s3cr=et"), "{log}");
        // The log's end came before the last report, and nothing after that.
        assert!(seen.log_has_ended(&order));
        let statuses: Vec<&str> = seen.reports.iter().map(|run| run.status.as_str()).collect();
        assert_eq!(statuses.iter().filter(|status| **status == "success").count(), 1);
        assert_eq!(statuses.first(), Some(&"running"));
    }
    agent.drained().await;
    let left = |name: &str| std::fs::read_dir(test.config.home.join(name)).unwrap().count();
    // In the cache the binary, and the list of its chunks.
    assert_eq!((left("work"), left("spool"), left("cache")), (0, 0, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_the_server_does_not_take_is_reported_as_a_failure() {
    let test = Fixture::new().await;
    test.peer.seen().doubt_success = true;
    let agent = test.agent();
    let order = PipelineRun { jobs: vec![], ..test.order("greets") };
    test.peer.order(&order).await;
    let end = test.peer.ended(&order).await;
    assert_eq!(end.status, "failed");
    assert!(end.reason.contains("is not to be believed"), "{}", end.reason);
    agent.drained().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_job_fails_the_run_with_its_message() {
    let test = Fixture::new().await;
    let agent = test.agent();
    let secret = EnvironmentVariable { key: "S".into(), value: "s3cr=et".into(), secret: true };
    let order = PipelineRun { environment: vec![secret], ..test.order("fails") };
    test.peer.order(&order).await;
    let end = test.peer.ended(&order).await;
    assert_eq!(
        (end.status.as_str(), end.reason.as_str()),
        ("failed", "job 'Fail' failed: no *** here")
    );
    let jobs: Vec<_> = end.jobs.iter().map(|job| (&*job.title, &*job.status)).collect();
    assert_eq!(jobs, [("Fail", "failed"), ("Never", "skipped")]);
    assert!(end.jobs[0].fail_pipeline && end.jobs[0].message == "no *** here");
    assert!(test.peer.seen().log(&order).contains("Job 'Fail' failed: no *** here\n"));
    agent.drained().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_stopped_early_succeeds_and_says_so() {
    let test = Fixture::new().await;
    let agent = test.agent();
    let order = test.order("stops");
    test.peer.order(&order).await;
    let end = test.peer.ended(&order).await;
    assert!(end.stopped_early && end.status == "success", "{end:?}");
    assert!(end.reason.contains("nothing is new"), "{}", end.reason);
    let jobs: Vec<_> = end.jobs.iter().map(|job| (&*job.title, &*job.status)).collect();
    assert_eq!(jobs, [("Check", "success"), ("Never", "skipped")]);
    agent.drained().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_order_does_nothing_and_parallel_runs_share_a_download() {
    let test = Fixture::new().await;
    let agent = test.agent();
    let first = test.order("greets");
    let second = PipelineRun {
        lease_token: blank().lease_token,
        unique_id: blank().unique_id,
        ..first.clone()
    };
    let nothing =
        PipelineRun { instruction: Instruction::Nothing.into(), ..PipelineRun::default() };
    for order in [&first, &nothing, &first, &second] {
        test.peer.order(order).await;
    }
    assert_eq!(test.peer.ended(&first).await.status, "success");
    assert_eq!(test.peer.ended(&second).await.status, "success");
    // Once while the agent may still be busy with its end, and once when it is long over.
    for _ in 0..2 {
        test.peer.order(&first).await;
        // When this one has ended, the repetition before it was taken too.
        let other = PipelineRun { unique_id: blank().unique_id, ..first.clone() };
        test.peer.order(&other).await;
        assert_eq!(test.peer.ended(&other).await.status, "success");
    }
    agent.drained().await;
    let seen = test.peer.seen();
    let ends = seen.reports.iter().filter(|report| report.status == "success").count();
    assert_eq!((ends, seen.downloads), (4, 1));
    assert_eq!(seen.log(&first).matches("goodbye").count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_is_checked_and_goes_on_where_it_broke_off() {
    let test = Fixture::new().await;
    let agent = test.agent();
    let order = test.order("greets");
    test.peer.seen().corrupt_downloads = 1;
    test.peer.seen().cut_downloads = 2;
    test.peer.order(&order).await;
    assert_eq!(test.peer.ended(&order).await.status, "success");

    let bad = test.order("fails");
    test.peer.seen().corrupt_downloads = 1000;
    test.peer.order(&bad).await;
    let end = test.peer.ended(&bad).await;
    assert_eq!(end.status, "reschedule");
    assert!(end.reason.contains("has the digest"), "{}", end.reason);
    assert_eq!(test.peer.seen().log(&bad), format!("{}\n", end.reason));
    agent.drained().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_sends_too_much_or_another_part_is_asked_again() {
    let test = Fixture::new().await;
    let agent = test.agent();
    test.peer.wait("a session", |seen| seen.sessions.first().cloned()).await;
    let shifted = test.order("greets");
    let digest = ids::Digest::try_from(&shifted.sha_sum[..]).unwrap();
    let half = test.peer.seen().artifacts[&digest.to_string()].clone();
    let part = test.config.home.join("cache").join(format!("{digest}.part"));
    std::fs::write(part, &half[..half.len() / 2]).unwrap();
    test.peer.seen().shifted_downloads = 1;
    test.peer.order(&shifted).await;
    assert_eq!(test.peer.ended(&shifted).await.status, "success");
    assert_eq!(test.peer.seen().downloads, 2);

    let endless = test.order("fails");
    test.peer.seen().endless_downloads = 1;
    test.peer.order(&endless).await;
    assert_eq!(test.peer.ended(&endless).await.status, "failed");
    assert_eq!(test.peer.seen().downloads, 4);
    agent.drained().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_larger_than_the_cache_is_not_downloaded() {
    let mut test = Fixture::new().await;
    test.config.cache_limit = 1 << 20;
    let agent = test.agent();
    // The server does not say how long it is, and does not end.
    let unknown = PipelineRun { artifact_size: 0, ..test.order("murmurs") };
    test.peer.seen().endless_downloads = 1000;
    test.peer.order(&unknown).await;
    let end = test.peer.ended(&unknown).await;
    assert_eq!(end.status, "reschedule");
    assert!(end.reason.contains("more than the 1048576 bytes came"), "{}", end.reason);
    let large = PipelineRun { artifact_size: 2 << 20, ..test.order("waits") };
    test.peer.order(&large).await;
    let end = test.peer.ended(&large).await;
    assert!(end.reason.contains("raise its --cache-limit"), "{}", end.reason);
    agent.drained().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_full_is_told_and_the_run_can_go_elsewhere() {
    let test = Fixture::new().await;
    let agent = test.agent();
    test.peer.wait("a session", |seen| seen.sessions.first().cloned()).await;
    let order = test.order("greets");
    let digest = ids::Digest::try_from(&order.sha_sum[..]).unwrap();
    let part = test.config.home.join("cache").join(format!("{digest}.part"));
    std::os::unix::fs::symlink("/dev/full", &part).unwrap();
    test.peer.order(&order).await;
    let end = test.peer.ended(&order).await;
    assert_eq!(end.status, "reschedule");
    assert!(end.reason.contains("writing the binary"), "{}", end.reason);
    assert!(!part.is_symlink(), "what is half there takes no room");
    let again = test.order("greets");
    test.peer.order(&again).await;
    assert_eq!(test.peer.ended(&again).await.status, "success");
    agent.drained().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_agent_had_downloaded_is_not_fetched_twice_or_believed() {
    let test = Fixture::new().await;
    let agent = test.agent();
    test.peer.wait("a session", |seen| seen.sessions.first().cloned()).await;
    let (half, spoilt, harmed) = (test.order("greets"), test.order("fails"), test.order("waits"));
    let cache = test.config.home.join("cache");
    let stored = |order: &PipelineRun| {
        let digest = ids::Digest::try_from(&order.sha_sum[..]).unwrap().to_string();
        let bytes = test.peer.seen().artifacts[&digest].clone();
        (cache.join(&digest), cache.join(format!("{digest}.part")), bytes)
    };
    // As kill -9 leaves it: a beginning, a beginning that the disk lost, and a harmed binary.
    let (_, part, bytes) = stored(&half);
    std::fs::write(part, &bytes[..bytes.len() / 2]).unwrap();
    let (_, part, bytes) = stored(&spoilt);
    std::fs::write(part, vec![0; bytes.len() / 2]).unwrap();
    let (path, _, bytes) = stored(&harmed);
    std::fs::write(path, vec![0; bytes.len()]).unwrap();
    for (order, status, downloads) in
        [(&half, "success", 1), (&spoilt, "failed", 3), (&harmed, "failed", 4)]
    {
        test.peer.order(order).await;
        let end = test.peer.ended(order).await;
        assert_eq!((&end.status[..], test.peer.seen().downloads), (status, downloads), "{end:?}");
    }
    agent.drained().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_work_is_refused_with_a_reason() {
    let test = Fixture::new().await;
    let agent = test.agent();
    let other = PipelineRun { jobs: vec![job("Other", vec![])], ..test.order("greets") };
    let missing = PipelineRun { sha_sum: vec![9; 32], ..blank() };
    let strange = PipelineRun { pipeline_type: "cobol".into(), ..test.order("greets") };
    let script = "#!/bin/sh\necho cannot find libfoo >&2; exit 1\n";
    let digest = test.peer.store(script.as_bytes()).as_bytes().to_vec();
    let broken = PipelineRun { sha_sum: digest, ..blank() };
    for (order, reason) in [
        (other, "declares the jobs `Greet`, `Part`, but the pipeline has `Other`"),
        (missing, "refused to send the pipeline"),
        (strange, "`cobol` is not a pipeline type"),
        (broken, "cannot find libfoo"),
    ] {
        test.peer.order(&order).await;
        let end = test.peer.ended(&order).await;
        assert_eq!(end.status, "failed", "{}", end.reason);
        assert!(end.reason.contains(reason), "{}", end.reason);
    }
    agent.drained().await;
}
