//! Logs on bad days.

use proto::worker::PipelineRun;

use crate::worker::{Fixture, content};

#[tokio::test(flavor = "multi_thread")]
async fn a_log_is_resumed_after_refusals_and_lost_answers() {
    let test = Fixture::new().await;
    let agent = test.agent();
    let (order, folder) = test.order_to_wait();
    test.peer.seen().refuse_logs = 3;
    test.peer.order(&order).await;
    // Live, although the run has not ended.
    test.peer.wait("the first lines", |seen| seen.log(&order).contains("tick").then_some(())).await;
    test.peer.seen().lose_log_answers = 3;
    // The server lost what it had.
    let part = test.peer.seen().log(&order).len() / 2;
    test.peer.seen().logs.values_mut().for_each(|log| log.bytes.truncate(part));
    content(folder.join("pid")).await;
    std::fs::write(folder.join("go"), "").unwrap();
    assert_eq!(test.peer.ended(&order).await.status, "success");
    assert!(test.peer.seen().log_has_ended(&order));
    let log = test.peer.seen().log(&order);
    assert!(log.starts_with("waiting\n") || log.contains("\nwaiting\n"), "{log}");
    assert!(log.ends_with("went\n") && log.matches("tick 0\n").count() == 1, "{log}");
    agent.drained().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_the_server_in_the_middle_of_a_run_loses_nothing() {
    let mut test = Fixture::new().await;
    let agent = test.agent();
    let (order, folder) = test.order_to_wait();
    test.peer.order(&order).await;
    content(folder.join("pid")).await;
    test.peer.go_away().await;
    std::fs::write(folder.join("go"), "").unwrap();
    test.peer.come_back().await;
    assert_eq!(test.peer.ended(&order).await.status, "success");
    let log = test.peer.seen().log(&order);
    assert!(log.contains("waiting\n") && log.ends_with("went\n"), "{log}");
    let again = test.peer.wait("a second session", |seen| seen.sessions.get(1).cloned()).await;
    // The attempt was held when it came back, unless it had ended by then.
    let tokens: Vec<_> = again.held.iter().map(|held| held.lease_token.clone()).collect();
    assert!(tokens.is_empty() || tokens == [order.lease_token]);
    agent.drained().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_agent_left_is_shipped_by_its_next_life() {
    let test = Fixture::new().await;
    let agent = test.agent();
    test.peer.wait("a session", |seen| seen.sessions.first().cloned()).await;
    agent.drained().await;
    let order = test.order("greets");
    leave_log(&test, &order);
    let agent = test.agent();
    test.peer.wait("its log", |seen| seen.log_has_ended(&order).then_some(())).await;
    let log = test.peer.seen().log(&order);
    assert!(log.starts_with("last words\nThe agent ended here"), "{log}");
    agent.drained().await;
}

/// As a killed agent does.
fn leave_log(test: &Fixture, order: &PipelineRun) {
    let spool = test.config.home.join("spool");
    let name = format!("{}-1", order.unique_id);
    std::fs::write(spool.join(format!("{name}.log")), "last words").unwrap();
    let lease = format!("{} 1 {}", order.unique_id, order.lease_token);
    std::fs::write(spool.join(format!("{name}.lease")), lease).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_a_killed_agent_had_begun_does_not_begin_again() {
    let test = Fixture::new().await;
    let agent = test.agent();
    test.peer.wait("a session", |seen| seen.sessions.first().cloned()).await;
    agent.drained().await;
    let order = test.order("greets");
    leave_log(&test, &order);
    let known = test.peer.seen().sessions.len();
    let agent = test.agent();
    test.peer.wait("the next life", |seen| (seen.sessions.len() > known).then_some(())).await;
    // The server had not heard that it began, so it orders it again.
    test.peer.order(&order).await;
    assert_eq!(test.peer.ended(&order).await.status, "reschedule");
    test.peer.wait("its log", |seen| seen.log_has_ended(&order).then_some(())).await;
    agent.drained().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_log_goes_in_pieces() {
    let test = Fixture::new().await;
    let agent = test.agent();
    let order = test.order("chatters");
    test.peer.order(&order).await;
    assert_eq!(test.peer.ended(&order).await.status, "success");
    let log = test.peer.seen().log(&order);
    let lines: Vec<_> = log.lines().filter(|line| line.starts_with("line ")).collect();
    assert_eq!(lines.len(), 40_000);
    assert!(lines.iter().enumerate().all(|(number, line)| line.contains(&format!(" {number} "))));
    agent.drained().await;
}
