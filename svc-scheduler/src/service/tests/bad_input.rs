//! Bad input is refused with a reason and counted, and changes nothing.

use super::*;

/// What was counted under this reason.
fn counted(reason: &str) -> u64 {
    let start =
        format!("gaia_rejected_requests_total{{service=\"svc-scheduler\",reason=\"{reason}\"}} ");
    let metrics = authz::metrics();
    let count = metrics.lines().find_map(|line| line.strip_prefix(&start));
    count.map_or(0, |count| count.parse().unwrap())
}

/// Counting is for the whole process, and other tests count, too.
async fn is_refused<T: std::fmt::Debug>(
    call: impl Future<Output = Result<T, Status>>,
    code: Code,
    reason: &str,
    says: &str,
) {
    let before = counted(reason);
    let refused = call.await.expect_err(reason);
    assert_eq!(refused.code(), code, "{refused}");
    assert!(refused.message().contains(says), "{reason}: {refused}");
    assert!(counted(reason) > before, "{reason} was not counted");
}

impl House {
    async fn try_submit(&mut self, run: u128, spec: pb::RunSpec) -> Result<pb::Run, Status> {
        let request =
            pb::SubmitRunRequest { run_id: run_id(run), spec: Some(spec), ..Default::default() };
        Ok(self.client.submit_run(request).await?.into_inner())
    }

    async fn try_report(&mut self, lease: &Lease, report: pb::RunReport) -> Result<(), Status> {
        let (worker_id, lease) = (worker_id(1), Some(lease.clone()));
        let report = Some(report);
        let request = pb::ReportRunRequest { worker_id, lease, report, caller: None };
        self.client.report_run(request).await.map(drop)
    }

    async fn length(&self) -> u64 {
        self.log.next_position().await.unwrap()
    }
}

fn said(state: ReportedState) -> pb::RunReport {
    pb::RunReport { state: state.into(), ..Default::default() }
}

#[tokio::test]
async fn a_start_that_makes_no_sense_is_refused_and_counted() {
    let mut house = House::start().await;
    house.register(1, 1, &["golang"]).await;
    house.register(2, 1, &["golang"]).await;
    house.wait_for_load(2).await;
    let gone = registry::WorkerDeregistered { worker_id: worker_id(2), ..Default::default() };
    house.record(2, "WorkerDeregistered", gone).await;
    let loads = |house: &House| {
        let mut client = house.client.clone();
        async move { client.list_loads(pb::ListLoadsRequest::default()).await.unwrap().into_inner() }
    };
    within(async {
        while loads(&house).await.loads.len() > 1 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let before = house.length().await;
    let priority = |priority| {
        let policy = common::RunPolicy { priority, ..Default::default() };
        pb::RunSpec { policy: Some(policy), ..spec(&[]) }
    };
    let selector = |text: &str| pb::RunSpec { selector: text.into(), ..spec(&[]) };
    let pin = |name: String| pb::RunSpec { pinned_worker: name, ..spec(&[]) };
    let lost = common::RunPolicy { on_worker_lost: 77, ..Default::default() };
    let cases = [
        (selector("mem>>=1"), Code::InvalidArgument, "invalid_selector", "selector: "),
        (selector("gpu !gpu"), Code::InvalidArgument, "invalid_spec", "could never be placed"),
        (priority(101), Code::InvalidArgument, "invalid_policy", "priority: 101 is out of range"),
        (priority(i32::MIN), Code::InvalidArgument, "invalid_policy", "out of range"),
        (pin("nobody".into()), Code::FailedPrecondition, "unknown_pin", "`nobody`"),
        (pin("w2".into()), Code::FailedPrecondition, "unknown_pin", "not registered"),
        (pin(worker_id(2)), Code::FailedPrecondition, "unknown_pin", "not registered"),
        (
            pb::RunSpec { policy: Some(lost), ..spec(&[]) },
            Code::InvalidArgument,
            "unknown_value",
            "on_worker_lost has the unknown value 77",
        ),
        (
            pb::RunSpec { not_before: u64::MAX, ..spec(&[]) },
            Code::InvalidArgument,
            "too_late",
            "not_before",
        ),
    ];
    for (spec, code, reason, says) in cases {
        is_refused(house.try_submit(9, spec), code, reason, says).await;
    }
    assert_eq!(house.length().await, before);
}

#[tokio::test]
async fn an_update_that_makes_no_sense_is_refused_and_counted() {
    let mut house = House::start().await;
    house.register(1, 2, &["golang"]).await;
    let mut line = house.attach(1, &[]).await;
    house.submit(1, &[]).await;
    let (first, _) = line.start().await;
    house.submit(2, &[]).await;
    let (second, _) = line.start().await;
    house.report(1, &second, ReportedState::Running).await.unwrap();
    let job = |id, state: i32| pb::RunReport {
        jobs: vec![pb::JobStatus { id, state, ..Default::default() }],
        ..said(ReportedState::Running)
    };
    let of_another = Lease { run_id: first.run_id.clone(), ..second.clone() };
    let of_none = Lease { run_id: run_id(77), ..first.clone() };
    let unknown_state = pb::RunReport { state: 99, ..Default::default() };
    let before = house.length().await;
    let (bad, refused) = (Code::InvalidArgument, Code::FailedPrecondition);
    let cases = [
        (&of_none, said(ReportedState::Running), Code::NotFound, "unknown_run", "there is no run"),
        (&first, job(9, pb::JobState::Running.into()), bad, "unknown_job", "has no job 9"),
        (&first, job(1, 44), bad, "unknown_value", "job state has the unknown value 44"),
        (&first, unknown_state, bad, "unknown_value", "report.state has the unknown value 99"),
        (&of_another, said(ReportedState::Succeeded), refused, "stale_lease", "does not hold"),
    ];
    for (lease, report, code, reason, says) in cases {
        is_refused(house.try_report(lease, report), code, reason, says).await;
    }
    assert_eq!(house.length().await, before);
    // From the future: believed as far as it can be true.
    let mut early = job(1, pb::JobState::Running.into());
    early.jobs[0].started_at = u64::MAX;
    house.try_report(&first, early).await.unwrap();
    assert!(house.get(1).await.jobs[0].started_at <= Clock::system().now().0);
    // A terminal state twice is harmless, and another one is not taken.
    house.report(1, &first, ReportedState::Succeeded).await.unwrap();
    let before = house.length().await;
    house.report(1, &first, ReportedState::Succeeded).await.unwrap();
    let failed = house.try_report(&first, said(ReportedState::Failed));
    is_refused(failed, refused, "run_ended", "has already succeeded").await;
    assert_eq!(house.length().await, before);
}
