//! Every history that the scheduler can produce keeps its invariants: random wishes, lost and returned
//! workers, stale tokens and cancels, over three workers and five runs.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::views::Loads;

/// What happens next. What it is about is looked up when it happens, so that most of it makes sense.
#[derive(Clone, Debug)]
enum Step {
    Submit(u128),
    Cancel(u128),
    Assign(Vec<(u128, Presence)>),
    Report { run: u128, by: By, report: Report },
    Reconcile { worker: u128, keep: u8 },
    Release(u128),
    Expire(u128),
    SetLimit(bool, Option<Limit>),
    Enforce,
    ExpireTimeouts,
    ReleaseDue,
    Fact(u128, WorkerChange),
}

/// Whose lease a report carries.
#[derive(Clone, Debug)]
enum By {
    Current,
    Older(usize),
    Unnamed(u128),
    Stranger(u128),
}

#[derive(Default)]
struct World {
    state: State,
    log: Vec<Fact>,
    clock: u64,
    tokens: u128,
}

const RUNS: u128 = 5;
const WORKERS: u128 = 3;

impl World {
    fn take(&mut self, step: Step) {
        self.clock += 1;
        if let Step::Fact(n, change) = step {
            self.fold(fact(n, change));
            return;
        }
        let Some(command) = self.command(&step) else { return };
        let before = self.state.clone();
        let Ok(events) = decide(&self.state, command.clone()) else { return };
        if let Command::ReportRun { run, worker, lease, .. } = &command
            && !events.is_empty()
        {
            assert!(
                before.check_lease(*run, *worker, *lease).is_ok(),
                "a stale lease changed a run"
            );
        }
        assert_writable(&before, &self.log, &events);
        for event in events {
            self.fold(event.into());
        }
        assert_terminal_is_final(&before, &self.state);
        if let Step::Assign(present) = &step {
            assert_room(&before, &self.state, present);
            assert_limits(&before, &self.state);
        }
        let polls = |(_, presence): &(u128, Presence)| matches!(presence, Presence::Polls { .. });
        if !matches!(&step, Step::Assign(present) if present.iter().any(polls)) {
            assert_eq!(decide(&self.state, command), Ok(vec![]), "a retry of {step:?}");
        }
    }

    fn fold(&mut self, fact: Fact) {
        self.state.evolve(&fact);
        self.log.push(fact);
    }

    fn command(&mut self, step: &Step) -> Option<Command> {
        let (at, max_attempts) = (at(self.clock), 3);
        Some(match step {
            Step::Submit(n) => submit(*n, spec_of(*n)),
            Step::Cancel(n) => {
                let (by, note) = ("user:bob".into(), String::new());
                Command::CancelRun { run: run(*n), by, note, at }
            }
            Step::Assign(present) => {
                let mut connected = Connected::default();
                for (n, presence) in present {
                    connected.set(worker(*n), *presence);
                }
                let first = self.tokens;
                self.tokens += 20;
                let tokens = (first..self.tokens).map(token).collect();
                Command::AssignRuns { connected: Arc::new(connected), tokens, at }
            }
            Step::Report { run: n, by, report } => {
                let attempts = &self.state.run(run(*n))?.attempts;
                let (worker, lease) = match by {
                    By::Current => {
                        let last = attempts.last()?;
                        (last.worker, Some(Lease::of(last)))
                    }
                    By::Older(index) => {
                        let older = attempts.get(*index)?;
                        (older.worker, Some(Lease::of(older)))
                    }
                    By::Unnamed(n) => (worker(*n), None),
                    By::Stranger(n) => (worker(*n), attempts.last().map(Lease::of)),
                };
                let report = report.clone();
                Command::ReportRun { run: run(*n), worker, lease, report, max_attempts, at }
            }
            Step::Reconcile { worker: n, keep } => {
                let held = self.state.held_by(worker(*n)).enumerate();
                let kept = held.filter(|(index, _)| keep & (1 << index) != 0);
                let lease = |run| Lease::of(self.state.run(run).unwrap().current().unwrap());
                let held = kept.map(|(_, run)| (run, lease(run))).collect();
                Command::ReconcileWorker { worker: worker(*n), held, max_attempts, at }
            }
            Step::Release(n) => Command::ReleaseWorker { worker: worker(*n), max_attempts, at },
            Step::Expire(n) => {
                let attempt = self.state.run(run(*n))?.current()?.attempt;
                Command::ExpireStart { run: run(*n), attempt, max_attempts, at }
            }
            Step::SetLimit(is_group, limit) => {
                let (gate, limit) = (gate(*is_group), *limit);
                let (by, note) = (String::new(), String::new());
                Command::SetLimit { gate, limit, by, note, at }
            }
            Step::Enforce => Command::EnforceLimits { at },
            Step::ExpireTimeouts => {
                Command::ExpireTimeouts { max_attempts, at: Timestamp(at.0 + 1_000) }
            }
            Step::ReleaseDue => Command::ReleaseDue { at },
            Step::Fact(..) => return None,
        })
    }
}

fn spec_of(n: u128) -> RunSpec {
    match n {
        1 => RunSpec { tags: vec!["GPU".into()], ..spec() },
        2 => {
            let timeouts = Timeouts { start: 1, ..Timeouts::default() };
            let policy = Policy { timeouts, ..Policy::default() };
            RunSpec { pinned_worker: "w2".into(), policy, ..spec() }
        }
        3 => build_spec(),
        4 => {
            let timeouts = Timeouts { queue: 1, run: 1, ..Timeouts::default() };
            let groups = vec!["db".parse().unwrap()];
            let (on_worker_lost, retries) = (OnWorkerLost::Fail, 1);
            let policy = Policy {
                priority: 7,
                groups,
                on_worker_lost,
                retries,
                timeouts,
                ..Policy::default()
            };
            RunSpec { policy, ..spec() }
        }
        5 => {
            let policy = Policy { on_worker_lost: OnWorkerLost::Wait, ..Policy::default() };
            RunSpec { not_before: Some(at(60)), policy, ..spec() }
        }
        _ => spec(),
    }
}

/// What a new leader fences is all that the one before could append to, but for what it makes new.
fn assert_writable(before: &State, log: &[Fact], events: &[Event]) {
    for event in events {
        let is_of_it =
            |fact: &Fact| matches!(fact, Fact::Run(own) if own.subject() == event.subject());
        let exists = log.iter().any(is_of_it);
        let fenced = before.writable().any(|subject| subject == event.subject());
        assert!(!exists || fenced, "{event:?} would pass the fence");
    }
}

fn assert_terminal_is_final(before: &State, after: &State) {
    for (id, run) in before.runs().filter(|(_, run)| run.state.is_terminal()) {
        assert_eq!(after.run(id), Some(run));
    }
}

/// Nobody was given more than fits, and only those who take runs were given any.
fn assert_room(before: &State, after: &State, present: &[(u128, Presence)]) {
    for n in 1..=WORKERS {
        let given = after.held_count(worker(n)) - before.held_count(worker(n));
        let known = after.worker(worker(n)).cloned().unwrap_or_default();
        // Of a worker that is named twice the last word counts.
        let presence = present.iter().rev().find(|(other, _)| *other == n);
        match presence.map(|(_, presence)| *presence) {
            _ if given == 0 => {}
            Some(Presence::Pushed) => assert!(after.held_count(worker(n)) <= known.slots),
            Some(Presence::Polls { free }) => assert!(given == 1 && free > 0),
            other => panic!("worker {n} is {other:?} and was given {given}"),
        }
        assert!(given == 0 || known.is_active());
    }
}

/// No assignment goes beyond a limit, though a limit may come after the runs.
fn assert_limits(before: &State, after: &State) {
    for (gate, limit, running, _) in after.limits() {
        let had = before.limits().find(|(known, ..)| *known == gate).map_or(0, |known| known.2);
        assert!(running <= limit.running || running == had, "{gate}: {running}, had {had}");
    }
}

/// What is counted is what there is.
fn assert_counts(state: &State) {
    let mut shares = std::collections::BTreeMap::<&str, u32>::new();
    for (_, run) in state.runs().filter(|(_, run)| run.state.is_held()) {
        *shares.entry(&run.started_by).or_default() += 1;
    }
    assert_eq!(state.share("user:alice"), shares.get("user:alice").copied().unwrap_or_default());
    for gate in [gate(true), gate(false)] {
        let through = |run: &&Run| run.gates.contains(&gate);
        let runs = || state.runs().map(|(_, run)| run).filter(through);
        let held = runs().filter(|run| run.state.is_held()).count();
        let is_planned = |run: &Run| run.attempts.is_empty() && run.delayed_until.is_some();
        let stays = |run: &&Run| {
            !run.state.is_terminal() && run.cancel_requested.is_none() && !is_planned(run)
        };
        let (crowd, staying) = (state.crowd(&gate), runs().filter(stays).count());
        assert_eq!(crowd.map_or(0, |crowd| crowd.held as usize), held);
        assert_eq!(crowd.map_or(0, |crowd| crowd.staying.len()), staying);
        let crowded = state.limit(&gate).is_some_and(|limit| {
            limit.when_full != WhenFull::Queue && staying > limit.running as usize
        });
        assert_eq!(state.crowded().any(|(known, _)| *known == gate), crowded);
    }
}

fn assert_sound(state: &State) {
    assert_counts(state);
    let mut waiting = 0;
    let line_of = |id, run: &Run| {
        let place = queue::Place::of(id, run);
        let lines = state.queue.lines().flat_map(|(_, lines)| lines);
        let lines =
            lines.filter(|(owner, line)| line.contains(&place) && **owner == run.started_by);
        let delayed = state.queue.delayed().filter(|(_, delayed)| *delayed == id);
        let found = lines.count() + delayed.count();
        (found == 1, found > 1)
    };
    for (id, run) in state.runs() {
        let (in_line, in_another) = line_of(id, run);
        assert_eq!((in_line, in_another), (run.state == RunState::Queued, false));
        waiting += usize::from(in_line);
        let holders: Vec<_> =
            (1..=WORKERS).filter(|&n| state.held_by(worker(n)).any(|held| held == id)).collect();
        let current: Vec<_> =
            run.current().map(|now| now.worker.as_uuid().as_u128()).into_iter().collect();
        assert_eq!(holders, current);
        for (index, attempt) in run.attempts.iter().enumerate() {
            assert_eq!(attempt.attempt, Attempt(index as u32 + 1));
            let is_live = run.state.is_held() && index + 1 == run.attempts.len();
            assert_eq!(attempt.ended_at.is_none(), is_live);
        }
        let deadlines = state.deadlines().filter(|(_, other)| *other == id);
        assert!(deadlines.map(|(deadline, _)| deadline).eq(run.deadline()));
        let unstarted = state.unstarted(0).any(|(other, _)| other == id);
        assert_eq!(unstarted, run.state == RunState::Assigned);
        let cancelling = state.cancelling().any(|(other, _)| other == id);
        assert_eq!(cancelling, run.state.is_held() && run.cancel_requested.is_some());
        for pipeline in [None, Some(run.spec.pipeline)] {
            let only_open = true;
            let filter = Filter { pipeline, only_open, with_builds: true, ..Filter::default() };
            let is_listed = state.list(filter).any(|(other, _)| other == id);
            assert_eq!(is_listed, !run.state.is_terminal());
        }
    }
    assert_eq!(state.queued(), waiting);
    let leaves = |run, worker: &Worker| state.run(run).unwrap().leaves(worker);
    let gone = (1..=WORKERS).map(worker).filter(|&id| {
        let gone = state.worker(id).filter(|worker| worker.is_gone());
        gone.is_some_and(|worker| state.held_by(id).any(|run| leaves(run, worker)))
    });
    assert_eq!(state.gone_holding().collect::<BTreeSet<_>>(), gone.collect());
    let active = state.workers().filter(|(_, worker)| worker.is_active());
    let free = active.map(|(id, worker)| {
        (std::cmp::Reverse(worker.slots.saturating_sub(state.held_count(id))), id)
    });
    let free: BTreeSet<_> = free.filter(|(free, _)| free.0 > 0).collect();
    assert!(state.room.most_first().eq(&free));
    assert_eq!(state.room.all(), free.iter().map(|(free, _)| u64::from(free.0)).sum::<u64>());
}

/// In which order facts of different streams are folded does not matter.
fn assert_streams_commute(log: &[Fact], state: &State) {
    let stream = |fact: &Fact| match fact {
        Fact::Run(event) => match event.subject() {
            Subject::Run(run) => (0, run.as_uuid().to_string()),
            Subject::Gate(gate) => (2, gate.to_string()),
            Subject::Numbers(pipeline) => (3, pipeline.to_string()),
        },
        Fact::Worker(fact) => (1, fact.worker.to_string()),
    };
    let mut by_stream = log.to_vec();
    by_stream.sort_by_key(stream);
    assert_eq!(&State::replay(&by_stream), state);
    by_stream.sort_by_key(|fact| std::cmp::Reverse(stream(fact)));
    assert_eq!(&State::replay(&by_stream), state);
}

/// The view of the past says what the state does.
fn assert_loads(log: &[Fact], state: &State) {
    let shown = Loads::replay(log).shown();
    assert_eq!(shown.queued, state.queued() as u64);
    let shown =
        shown.loads.into_iter().map(|load| (load.worker_id, load.run_ids, load.finished_runs));
    let said = state.workers().map(|(id, _)| {
        let runs: Vec<_> = state.held_by(id).map(|run| run.to_string()).collect();
        (id.to_string(), runs, state.finished_by(id))
    });
    assert_eq!(shown.collect::<Vec<_>>(), said.collect::<Vec<_>>());
}

fn any_run() -> impl Strategy<Value = u128> {
    1..=RUNS
}

fn any_worker() -> impl Strategy<Value = u128> {
    1..=WORKERS
}

fn any_presence() -> impl Strategy<Value = Presence> {
    prop_oneof![
        6 => Just(Presence::Pushed),
        1 => (0..3_u32).prop_map(|free| Presence::Polls { free }),
        1 => Just(Presence::Polled),
        1 => Just(Presence::Draining),
    ]
}

fn any_report() -> impl Strategy<Value = Report> {
    let state = prop_oneof![
        1 => Just(Reported::Received),
        3 => Just(Reported::Running),
        1 => Just(Reported::Succeeded),
        1 => Just(Reported::Failed),
        1 => Just(Reported::Cancelled),
        2 => Just(Reported::GivenBack),
    ];
    let job = prop_oneof![
        Just(JobState::Waiting),
        Just(JobState::Running),
        Just(JobState::Succeeded),
        Just(JobState::Failed),
    ];
    let jobs = prop::collection::vec((1..3_u32, job), 0..3);
    (state, jobs, any::<bool>(), any::<bool>()).prop_map(|(state, jobs, stopped_early, built)| {
        let jobs = jobs.into_iter().map(|(id, state)| reported_job(id, state)).collect();
        Report { jobs, stopped_early, build: built.then(build), ..report(state) }
    })
}

fn any_by() -> impl Strategy<Value = By> {
    prop_oneof![
        6 => Just(By::Current),
        2 => (0..3_usize).prop_map(By::Older),
        1 => any_worker().prop_map(By::Unnamed),
        1 => any_worker().prop_map(By::Stranger),
    ]
}

fn any_change() -> impl Strategy<Value = WorkerChange> {
    let tags = || {
        prop::sample::subsequence(vec!["golang", "gpu", "-gpu"], 0..=3)
            .prop_map(|tags| tags.into_iter().map(Into::into).collect::<Vec<String>>())
    };
    prop_oneof![
        4 => (0..4_u32, tags()).prop_map(|(slots, tags)| WorkerChange::Reported { slots, tags }),
        2 => (tags(), tags())
            .prop_map(|(added, removed)| WorkerChange::TagsChanged { added, removed }),
        1 => Just(WorkerChange::Renamed { name: "w2".into() }),
        1 => Just(WorkerChange::Suspended),
        1 => Just(WorkerChange::DrainStarted),
        1 => Just(WorkerChange::DrainExpired),
        2 => Just(WorkerChange::Resumed),
        2 => Just(WorkerChange::Lost),
        2 => Just(WorkerChange::Returned),
        1 => Just(WorkerChange::Deregistered),
    ]
}

fn gate(is_group: bool) -> Gate {
    if is_group { Gate::Group("db".parse().unwrap()) } else { Gate::Pipeline(ids::PipelineId(1)) }
}

fn any_limit() -> impl Strategy<Value = Option<Limit>> {
    let when_full = prop_oneof![
        2 => Just(WhenFull::Queue),
        1 => Just(WhenFull::CancelOlder),
        1 => Just(WhenFull::CancelNewer),
    ];
    let limit = (0..4_u32, when_full).prop_map(|(running, when_full)| Limit { running, when_full });
    prop_oneof![1 => Just(None), 3 => limit.prop_map(Some)]
}

fn any_step() -> impl Strategy<Value = Step> {
    let present = prop::collection::vec((any_worker(), any_presence()), 0..4);
    prop_oneof![
        4 => any_run().prop_map(Step::Submit),
        1 => any_run().prop_map(Step::Cancel),
        6 => present.prop_map(Step::Assign),
        8 => (any_run(), any_by(), any_report())
            .prop_map(|(run, by, report)| Step::Report { run, by, report }),
        1 => (any_worker(), any::<u8>()).prop_map(|(worker, keep)| Step::Reconcile { worker, keep }),
        2 => any_worker().prop_map(Step::Release),
        1 => any_run().prop_map(Step::Expire),
        3 => (any_worker(), any_change()).prop_map(|(n, change)| Step::Fact(n, change)),
        1 => (any::<bool>(), any_limit()).prop_map(|(group, limit)| Step::SetLimit(group, limit)),
        1 => Just(Step::Enforce),
        1 => Just(Step::ExpireTimeouts),
        1 => Just(Step::ReleaseDue),
    ]
}

proptest! {
    #[test]
    fn invariants_hold_whatever_happens(
        primary in any::<bool>(),
        steps in prop::collection::vec(any_step(), 0..150),
    ) {
        let mut world = World::default();
        for n in 1..=WORKERS {
            for fact in joined(n, 1, &["golang", "gpu"]) {
                world.fold(fact);
            }
        }
        let registered = WorkerChange::Registered { name: "w3".into(), tags: vec![], primary };
        world.fold(fact(3, registered));
        for step in steps {
            world.take(step);
            assert_sound(&world.state);
            assert_loads(&world.log, &world.state);
        }
        prop_assert_eq!(&State::replay(&world.log), &world.state);
        assert_streams_commute(&world.log, &world.state);
    }
}

/// The random histories are of no use if nothing happens in them.
#[test]
fn random_histories_reach_every_state() {
    use proptest::{strategy::ValueTree, test_runner::TestRunner};

    let mut runner = TestRunner::deterministic();
    let mut seen = BTreeSet::new();
    let mut attempts = 0;
    for _ in 0..100 {
        let steps = prop::collection::vec(any_step(), 150).new_tree(&mut runner).unwrap().current();
        let mut world = World::default();
        for n in 1..=WORKERS {
            for fact in joined(n, 1, &["golang", "gpu"]) {
                world.fold(fact);
            }
        }
        for step in steps {
            world.take(step);
        }
        for (_, run) in world.state.runs() {
            seen.insert(run.state.word());
            attempts = attempts.max(run.attempts.len());
        }
    }
    let all = ["assigned", "cancelled", "failed", "queued", "running", "succeeded"];
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), all);
    assert_eq!(attempts, 3);
}
