//! Ending runs before they end.

use proto::worker::{Instruction, PipelineRun};

use crate::worker::{Fixture, blank, content, gone, job};

fn cancel(order: &PipelineRun) -> PipelineRun {
    PipelineRun {
        instruction: Instruction::Cancel.into(),
        unique_id: order.unique_id.clone(),
        attempt: order.attempt,
        lease_token: order.lease_token.clone(),
        ..PipelineRun::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_stops_exactly_its_attempt() {
    let test = Fixture::new().await;
    let agent = test.agent();
    let ((order, folder), (other, other_folder)) = (test.order_to_wait(), test.order_to_wait());
    test.peer.order(&order).await;
    test.peer.order(&other).await;
    let pid = content(folder.join("pid")).await;
    content(other_folder.join("pid")).await;
    let late = PipelineRun { attempt: 9, ..cancel(&order) };
    test.peer.order(&late).await;
    // What is not here is reported as such, and nothing that is here suffers.
    assert_eq!(test.peer.ended(&late).await.status, "cancelled");
    test.peer.order(&cancel(&order)).await;
    let end = test.peer.ended(&order).await;
    assert_eq!((end.status.as_str(), end.jobs[0].status.as_str()), ("cancelled", "failed"));
    gone(&pid).await;
    std::fs::write(other_folder.join("go"), "").unwrap();
    assert_eq!(test.peer.ended(&other).await.status, "success");
    agent.drained().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_prints_nothing_for_too_long_fails_and_is_killed() {
    let test = Fixture::new().await;
    let agent = test.agent();
    let (order, folder) = test.order_to_wait();
    let jobs = vec![job("Sleep", order.jobs[0].args.clone())];
    let order = PipelineRun { silence_timeout: 1, jobs, ..test.order("sleeps") };
    test.peer.order(&order).await;
    let pid = content(folder.join("pid")).await;
    let end = test.peer.ended(&order).await;
    assert_eq!(
        (end.status.as_str(), end.reason.as_str()),
        ("failed", "timed out: nothing was printed for 1 s")
    );
    gone(&pid).await;
    assert!(test.peer.seen().log(&order).contains("good night\n"));
    agent.drained().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_binary_comes_slowly_is_not_silent() {
    let test = Fixture::new().await;
    let agent = test.agent();
    let order = PipelineRun { silence_timeout: 1, ..test.order("greets") };
    // About three seconds of pauses.
    test.peer.seen().refuse_artifacts = 5;
    test.peer.order(&order).await;
    let end = test.peer.ended(&order).await;
    assert_eq!(end.status, "success", "{}", end.reason);
    agent.drained().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_lease_kills_the_attempt_and_nothing_more_is_said() {
    let test = Fixture::new().await;
    let agent = test.agent();
    let (order, folder) = test.order_to_wait();
    test.peer.order(&order).await;
    let pid = content(folder.join("pid")).await;
    test.peer.wait("the first lines", |seen| seen.log(&order).contains("tick").then_some(())).await;
    test.peer.seen().stale.insert(order.lease_token.clone());
    gone(&pid).await;
    let reports = test.peer.seen().reports.len();
    agent.drained().await;
    assert_eq!(test.peer.seen().reports.len(), reports);
    assert!(!test.peer.seen().log_has_ended(&order));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_printed_before_the_lease_was_lost_still_arrives() {
    let test = Fixture::new().await;
    let agent = test.agent();
    let (order, folder) = test.order_to_wait();
    test.peer.order(&order).await;
    let pid = content(folder.join("pid")).await;
    {
        let mut seen = test.peer.seen();
        seen.lost.insert(order.lease_token.clone());
        // So that the refusal of the next report comes before the end of the log is taken.
        seen.refuse_logs = 3;
    }
    std::fs::write(folder.join("go"), "").unwrap();
    gone(&pid).await;
    test.peer.wait("all of its log", |seen| seen.log_has_ended(&order).then_some(())).await;
    agent.drained().await;
    assert_eq!(test.peer.seen().ended(&order), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_attempt_replaces_an_older_one() {
    let test = Fixture::new().await;
    let agent = test.agent();
    let (order, folder) = test.order_to_wait();
    test.peer.order(&order).await;
    let pid = content(folder.join("pid")).await;
    let newer = PipelineRun { attempt: 2, lease_token: blank().lease_token, ..order.clone() };
    test.peer.order(&newer).await;
    gone(&pid).await;
    std::fs::write(folder.join("go"), "").unwrap();
    assert_eq!(test.peer.ended(&newer).await.status, "success");
    assert_eq!(test.peer.seen().ended(&order), None);
    agent.drained().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_drains_finishes_what_it_holds() {
    let test = Fixture::new().await;
    let agent = test.agent();
    let (order, folder) = test.order_to_wait();
    test.peer.order(&order).await;
    content(folder.join("pid")).await;
    agent.drain.cancel();
    let draining = |seen: &crate::peer::Seen| seen.sessions.iter().find(|it| it.draining).cloned();
    let session = test.peer.wait("a draining session", draining).await;
    assert_eq!(session.held[0].run_id, order.unique_id);
    std::fs::write(folder.join("go"), "").unwrap();
    agent.ended().await.unwrap();
    assert_eq!(test.peer.ended(&order).await.status, "success");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_must_end_gives_its_runs_back() {
    let test = Fixture::new().await;
    let agent = test.agent();
    let (order, folder) = test.order_to_wait();
    test.peer.order(&order).await;
    let pid = content(folder.join("pid")).await;
    agent.abort.cancel();
    agent.ended().await.unwrap();
    gone(&pid).await;
    assert_eq!(test.peer.ended(&order).await.status, "reschedule");
}
