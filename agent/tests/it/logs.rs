//! Logs on bad days.

use agent::WhenFull;
use proto::worker::PipelineRun;

use crate::{
    FLOOD,
    worker::{Fixture, content, until},
};

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
    let log = spool.join(format!("{}-1", order.unique_id));
    std::fs::create_dir(&log).unwrap();
    std::fs::write(log.join(format!("{:020}.log", 0)), "last words").unwrap();
    let lease = format!("{} 1 {}", order.unique_id, order.lease_token);
    std::fs::write(log.join("lease"), lease).unwrap();
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

/// Of all that is spooled, bytes.
fn spooled(test: &Fixture) -> u64 {
    let attempts =
        std::fs::read_dir(test.config.home.join("spool")).into_iter().flatten().flatten();
    let files =
        attempts.flat_map(|attempt| std::fs::read_dir(attempt.path()).into_iter().flatten());
    files.flatten().filter_map(|file| Some(file.metadata().ok()?.len())).sum()
}

fn flood_in(log: &str) -> Vec<usize> {
    let numbers = log.lines().filter_map(|line| line.strip_suffix("xxx")?.split(' ').next());
    numbers.filter_map(|number| number.parse().ok()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_spool_blocks_the_job_and_nothing_is_missing() {
    let mut test = Fixture::new().await;
    test.config.spool_limit = 8 << 20;
    let agent = test.agent();
    let order = test.order("floods");
    test.peer.seen().refuse_logs = u32::MAX;
    test.peer.order(&order).await;
    until(|| spooled(&test) > 7 << 20).await;
    assert!(test.peer.seen().ended(&order).is_none());
    test.peer.seen().refuse_logs = 0;
    assert_eq!(test.peer.ended(&order).await.status, "success");
    let log = test.peer.seen().log(&order);
    assert_eq!(flood_in(&log), (0..FLOOD).collect::<Vec<_>>());
    assert!(!log.contains("--- gap"));
    agent.drained().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_spool_that_drops_lets_the_job_go_on_and_tells_the_gap() {
    let mut test = Fixture::new().await;
    (test.config.spool_limit, test.config.spool_full) = (8 << 20, WhenFull::Drop);
    let agent = test.agent();
    let order = test.order("floods");
    test.peer.seen().refuse_logs = u32::MAX;
    test.peer.order(&order).await;
    // The job ended; its end is not told before its log has arrived.
    let done = |report: &PipelineRun| report.jobs.iter().any(|job| job.status == "success");
    let reported = |report: &&PipelineRun| done(report);
    test.peer.wait("the job", |seen| seen.last_report(&order).filter(reported).map(|_| ())).await;
    assert!(test.peer.seen().ended(&order).is_none());
    assert!(spooled(&test) < 9 << 20);
    test.peer.seen().refuse_logs = 0;
    assert_eq!(test.peer.ended(&order).await.status, "success");
    let log = test.peer.seen().log(&order);
    let gaps = log.lines().filter_map(|line| line.strip_prefix("--- gap: ")?.split(' ').next());
    let missing: usize = gaps.map(|gap| gap.parse::<usize>().unwrap()).sum();
    let printed = log.lines().filter(|line| line.ends_with('x')).map(|line| line.len() + 1);
    // A line that was cut by a gap ends with a line break that was not printed.
    let there = printed.sum::<usize>() + missing;
    assert!(missing > 0 && there.abs_diff(FLOOD * 1024) < 64, "{missing} and {there}");
    let numbers = flood_in(&log);
    assert!(numbers.is_sorted());
    agent.drained().await;
}
