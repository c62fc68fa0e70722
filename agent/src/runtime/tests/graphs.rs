//! Runs of graphs: order, parallelism, arguments, and how runs end.

use super::*;
use crate::runtime::{GraphError, check};

fn spec(id: u32, title: &str, depends_on: &[u32]) -> JobSpec {
    JobSpec { id, title: title.into(), depends_on: depends_on.into(), ..Default::default() }
}

fn place(updates: &[Told], title: &str, transition: &JobTransition) -> usize {
    let wanted = (title.to_owned(), transition.clone());
    updates
        .iter()
        .position(|told| *told == wanted)
        .unwrap_or_else(|| panic!("{wanted:?} in {updates:?}"))
}

#[tokio::test]
async fn jobs_run_in_order_side_by_side_and_with_their_arguments() {
    let pipeline = Running::new("diamond").await;
    assert_eq!(pipeline.jobs[0].arguments[0].default_value, "hello");
    let arguments = HashMap::from([("TOKEN".to_owned(), "s3cr=et\nline".to_owned())]);
    let (outcome, updates) =
        run(&pipeline.plugin, &pipeline.jobs, &arguments, CancellationToken::new()).await;
    assert_eq!(outcome, GraphOutcome::Succeeded);
    let (started, succeeded) = (JobTransition::Started, JobTransition::Succeeded);
    for side in ["Left", "Right"] {
        assert!(place(&updates, "Top", &succeeded) < place(&updates, side, &started));
        assert!(place(&updates, side, &succeeded) < place(&updates, "Bottom", &started));
    }
    assert_eq!(updates.len(), 8);
    pipeline.plugin.stop(Duration::from_secs(5)).await;
    let printed = pipeline.output.all(Stream::Stdout).await;
    assert!(printed.contains("hello with s3cr=et\nline"), "{printed}");
}

#[tokio::test]
async fn a_job_that_fails_fails_the_run_with_its_message() {
    let pipeline = Running::new("troubled").await;
    let (outcome, updates) = pipeline.run(&["Fails"], CancellationToken::new()).await;
    let (job, message) = (pipeline.id("Fails"), "the disk is full".to_owned());
    assert_eq!(updates[1].1, JobTransition::Failed { message: message.clone() });
    assert_eq!(outcome, GraphOutcome::Failed { job, message });
}

#[tokio::test]
async fn a_panic_is_a_failed_job() {
    let pipeline = Running::new("troubled").await;
    let (outcome, _) = pipeline.run(&["Panics"], CancellationToken::new()).await;
    let message = "the job panicked: the sky falls".to_owned();
    assert_eq!(outcome, GraphOutcome::Failed { job: pipeline.id("Panics"), message });
}

#[tokio::test]
async fn an_early_stop_is_no_failure() {
    let pipeline = Running::new("troubled").await;
    let (outcome, updates) = pipeline.run(&["Exits"], CancellationToken::new()).await;
    let (job, message) = (pipeline.id("Exits"), "nothing to do".to_owned());
    assert_eq!(updates[1].1, JobTransition::StoppedEarly { message: message.clone() });
    assert_eq!(outcome, GraphOutcome::StoppedEarly { job, message });
}

#[tokio::test]
async fn after_a_failure_nothing_new_starts() {
    let pipeline = Running::new("troubled").await;
    let mut jobs = vec![pipeline.jobs[0].clone(), pipeline.jobs[1].clone()];
    jobs[1].depends_on = vec![jobs[0].id];
    let (outcome, updates) =
        run(&pipeline.plugin, &jobs, &HashMap::new(), CancellationToken::new()).await;
    assert!(matches!(outcome, GraphOutcome::Failed { .. }), "{outcome:?}");
    assert_eq!(updates.last(), Some(&("Panics".to_owned(), JobTransition::Skipped)));
    assert_eq!(updates.len(), 3);
}

#[test]
fn a_graph_that_cannot_run_is_refused_with_the_jobs_in_it() {
    assert_eq!(check(&[]), Err(GraphError::Empty));
    assert_eq!(check(&[spec(1, "A", &[]), spec(2, "B", &[1, 1])]), Ok(()));
    let same = check(&[spec(1, "A", &[]), spec(1, "B", &[])]);
    assert_eq!(same, Err(GraphError::SameId("A".into(), "B".into(), 1)));
    let unknown = check(&[spec(1, "A", &[7])]);
    assert_eq!(unknown, Err(GraphError::UnknownDependency { job: "A".into(), dependency: 7 }));
    let cycle =
        check(&[spec(1, "A", &[]), spec(2, "B", &[1, 4]), spec(3, "C", &[2]), spec(4, "D", &[3])]);
    let cycle = cycle.expect_err("a cycle").to_string();
    assert!(cycle.ends_with("B → D → C → B"), "{cycle}");
    let many: Vec<_> = (0..1001).map(|id| spec(id, "A", &[])).collect();
    assert_eq!(check(&many), Err(GraphError::TooMany(1001)));
    let large = check(&[spec(1, &"A".repeat(200_000), &[])]);
    assert!(matches!(large, Err(GraphError::TooLarge(_))), "{large:?}");
}
