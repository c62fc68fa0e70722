//! Examples and properties of what pipelines decide.

mod cron;
mod schedules;

use std::collections::{BTreeMap, HashSet};

use ids::Digest;
use proptest::prelude::*;
use uuid::Uuid;

use super::*;

const AT: Timestamp = Timestamp(1_000);

/// Given what happened, when this is asked for, then this follows.
#[track_caller]
fn check(given: &[Fact], when: Command, then: Result<Vec<Event>, Rejection>) {
    assert_eq!(decide(&State::replay(given), when), then);
}

/// The one field that is wrong with the wish.
#[track_caller]
fn check_field(wish: Wish, field: &str) -> String {
    match decide(&State::default(), create(1, wish, 1)) {
        Err(Rejection::Invalid(invalid)) => {
            assert_eq!(invalid.field, field, "{invalid}");
            invalid.why
        }
        other => panic!("expected {field} to be refused: {other:?}"),
    }
}

#[track_caller]
fn accepted(wish: Wish) -> Spec {
    match &decide(&State::default(), create(1, wish, 1)).unwrap()[..] {
        [Event::PipelineCreated { spec, .. }, Event::BuildRequested { .. }] => spec.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_new_pipeline_is_created_and_its_build_requested() {
    check(&[], create(1, wish("hello"), 7), Ok(vec![created(1, "hello"), requested(1, 7)]));
}

#[test]
fn a_name_is_taken_whatever_its_case_or_spaces() {
    let given = [created(1, "Hello").into()];
    let refused = |name: &str| Rejection::NameTaken { name: name.into(), by: PipelineId(1) };
    check(&given, create(2, wish("hELLO"), 7), Err(refused("hELLO")));
    check(&given, create(2, wish("  Hello "), 7), Err(refused("Hello")));
}

#[test]
fn a_deleted_pipeline_frees_its_name_but_not_its_id() {
    let given = [created(1, "hello").into(), deleted(1).into()];
    let again = vec![created(2, "hello"), requested(2, 8)];
    check(&given, create(2, wish("hello"), 8), Ok(again));
    let next = Rejection::NotNext { asked: PipelineId(1), next: PipelineId(2) };
    check(&given, create(1, wish("hello"), 8), Err(next));
}

#[test]
fn a_build_in_progress_is_not_doubled() {
    let given = [created(1, "hello").into(), requested(1, 7).into()];
    check(&given, rebuild(1, 8), Ok(vec![]));
}

#[test]
fn a_good_build_is_the_next_version() {
    let ended = ended(8, Outcome::Built(build(&[(1, &[])])));
    let mut given = built_once();
    given.extend([requested(1, 8).into(), submitted(8, 1), ended]);
    check(&given, conclude(8), Ok(vec![built(8, 2)]));
}

#[test]
fn a_failed_rebuild_keeps_the_older_version_runnable() {
    let mut given = built_once();
    given.extend([requested(1, 8).into(), ended(8, Outcome::Failed("no gcc".into()))]);
    check(&given, conclude(8), Ok(vec![failed(1, 8, "no gcc")]));

    given.push(failed(1, 8, "no gcc").into());
    let state = State::replay(&given);
    let pipeline = state.pipeline(PipelineId(1)).unwrap();
    assert_eq!(pipeline.build_state, BuildState::Failed("no gcc".into()));
    assert_eq!(pipeline.version, 1);
    assert_eq!(pipeline.built, Some((build(&[(1, &[])]), AT)));
}

#[test]
fn a_build_that_goes_on_has_no_conclusion() {
    let given = [created(1, "hello").into(), requested(1, 7).into(), submitted(7, 1)];
    check(&given, conclude(7), Ok(vec![]));
    check(&given, conclude(99), Ok(vec![]));
}

#[test]
fn jobs_that_cannot_run_fail_the_build_and_are_named() {
    let cases: [(Jobs<'_>, &str); 5] = [
        (&[], "the pipeline declares no jobs: add at least one"),
        (
            &[(1, &[]), (1, &[])],
            "the jobs `job 1` (1) and `job 1` (1) have the same id: give them different titles",
        ),
        (
            &[(1, &[]), (2, &[1, 9])],
            "the job `job 2` (2) depends on job 9, which the pipeline does not declare",
        ),
        (&[(1, &[1])], "the jobs wait for each other in a circle: `job 1` (1) → `job 1` (1)"),
        (
            &[(1, &[3]), (2, &[]), (3, &[2, 4]), (4, &[1])],
            "the jobs wait for each other in a circle: `job 1` (1) → `job 3` (3) → `job 4` (4) → `job 1` (1)",
        ),
    ];
    for (jobs, reason) in cases {
        let built = ended(7, Outcome::Built(build(jobs)));
        let given = [created(1, "hello").into(), requested(1, 7).into(), built];
        check(&given, conclude(7), Ok(vec![failed(1, 7, reason)]));
    }
}

#[test]
fn a_build_that_the_log_cannot_take_fails() {
    let mut build = build(&[(1, &[])]);
    build.jobs[0].description = "x".repeat(250_000);
    let given =
        [created(1, "hello").into(), requested(1, 7).into(), ended(7, Outcome::Built(build))];
    let Ok(events) = decide(&State::replay(&given), conclude(7)) else { panic!() };
    assert!(
        matches!(&events[..], [Event::BuildFailed { reason, .. }] if reason.contains("bytes")),
        "{events:?}"
    );
}

#[test]
fn an_endless_reason_is_cut() {
    let endless = Outcome::Failed("ä".repeat(1 << 20));
    let given = [created(1, "hello").into(), requested(1, 7).into(), ended(7, endless)];
    let expected = format!("{}…", "ä".repeat(LONGEST_REASON));
    check(&given, conclude(7), Ok(vec![failed(1, 7, &expected)]));
}

#[test]
fn a_build_that_the_scheduler_refuses_fails_unless_it_has_it() {
    let refuse = || Command::RefuseBuild { run: run(7), reason: "no".into(), at: AT };
    let mut given = vec![created(1, "hello").into(), requested(1, 7).into()];
    check(&given, refuse(), Ok(vec![failed(1, 7, "no")]));
    given.push(submitted(7, 1));
    check(&given, refuse(), Ok(vec![]));
}

#[test]
fn what_is_unknown_or_deleted_cannot_be_built_and_deletes_once() {
    let unknown = Rejection::UnknownPipeline(PipelineId(1));
    let delete = || Command::DeletePipeline { pipeline: PipelineId(1), by: "me".into(), at: AT };
    check(&[], rebuild(1, 8), Err(unknown.clone()));
    check(&[], delete(), Err(unknown.clone()));
    let given = [created(1, "hello").into(), deleted(1).into()];
    check(&given, rebuild(1, 8), Err(unknown));
    check(&given, delete(), Ok(vec![]));
}

#[test]
fn the_build_of_a_deleted_pipeline_is_cancelled_whenever_the_scheduler_gets_it() {
    let before =
        [created(1, "a").into(), requested(1, 7).into(), submitted(7, 1), deleted(1).into()];
    let after =
        [created(1, "a").into(), requested(1, 7).into(), deleted(1).into(), submitted(7, 1)];
    for mut given in [before.to_vec(), after.to_vec()] {
        let state = State::replay(&given);
        assert_eq!(state.to_submit().count(), 0);
        assert_eq!(state.to_cancel().collect::<Vec<_>>(), [run(7)]);
        given.push(ended(7, Outcome::Failed("cancelled".into())));
        assert_eq!(State::replay(&given).to_cancel().count(), 0);
        check(&given, conclude(7), Ok(vec![]));
    }
}

#[test]
fn a_restart_submits_what_the_scheduler_does_not_have() {
    let mut given: Vec<Fact> = vec![created(1, "hello").into(), requested(1, 7).into()];
    let to_submit =
        |given: &[Fact]| State::replay(given).to_submit().map(|(run, _)| run).collect::<Vec<_>>();
    assert_eq!(to_submit(&given), [run(7)]);
    given.push(submitted(7, 1));
    assert!(to_submit(&given).is_empty());
}

#[test]
fn the_seal_is_gone_with_its_pipeline() {
    let state = State::replay(&[created(1, "hello").into(), deleted(1).into()]);
    assert_eq!(state.even_deleted(PipelineId(1)).unwrap().sealed, Sealed::default());
}

#[test]
fn names_are_of_letters_digits_spaces_and_dashes() {
    for good in ["a", "My first_pipeline-2", &"x".repeat(50)] {
        assert_eq!(accepted(wish(good)).name, good);
    }
    for bad in ["", "   ", "a/b", "a\nb", "naïve", "a.b", &"x".repeat(51)] {
        check_field(wish(bad), "name");
    }
}

#[test]
fn types_are_gaias_and_rust() {
    for kind in PipelineType::ALL {
        assert_eq!(accepted(Wish { kind: kind.to_string(), ..wish("a") }).kind, kind);
    }
    let why = check_field(Wish { kind: "cobol".into(), ..wish("a") }, "type");
    assert!(why.contains("`cobol`") && why.contains("nodejs"), "{why}");
}

#[test]
fn urls_are_of_repositories_and_of_nothing_else() {
    let with = |url: &str| Wish { url: url.into(), ..wish("a") };
    for good in [
        "https://github.com/gaia-pipeline/go-example",
        "https://host:8443/a/b.git",
        "https://[::1]:8443/a",
        "http://10.0.0.7/a.git",
        "ssh://git@host:2222/a.git",
        "ssh://host/a.git",
        "git://host/a.git",
        "git@github.com:gaia-pipeline/go-example.git",
        "file:///srv/a repository",
        "/srv/a",
    ] {
        assert_eq!(accepted(with(good)).url, good);
    }
    for bad in [
        "",
        "-u",
        "--upload-pack=touch /tmp/x",
        "ext::sh -c touch% /tmp/x",
        "user@ext::sh",
        "ftp://host/a",
        "https://",
        "https:///a",
        "https://-oProxyCommand=x/a",
        "ssh://-oProxyCommand=x/a",
        "ssh://git@-oProxyCommand=x/a",
        "ssh://-x@host/a",
        "-oProxyCommand=x@host:a",
        "git@-host:a",
        "git@host:-a",
        "git@host",
        "https://host/a b",
        "https://host:port/a",
        "https://host/a\nb",
        "file://other/a",
        "relative/path",
        &format!("https://host/{}", "x".repeat(2_048)),
    ] {
        check_field(with(bad), "url");
    }
}

#[test]
fn a_password_in_a_url_is_refused_and_not_repeated() {
    for url in ["https://me:hunter2@host/a", "ssh://me:hunter2@host/a", "https://hunter2@host/a"] {
        let why = check_field(Wish { url: url.into(), ..wish("a") }, "url");
        assert!(why.contains("credentials") && !why.contains("hunter2"), "{why}");
    }
}

#[test]
fn branches_are_what_git_allows_in_their_short_form() {
    let with = |branch: &str| Wish { branch: branch.into(), ..wish("a") };
    for (good, kept) in
        [("", ""), ("main", "main"), ("refs/heads/main", "main"), ("fix/a-b_c.d", "fix/a-b_c.d")]
    {
        assert_eq!(accepted(with(good)).branch, kept);
    }
    for bad in [
        "-b",
        "refs/heads/",
        "refs/heads/-b",
        "refs/tags/v1",
        "a b",
        "a..b",
        "a~1",
        "a^",
        "a:b",
        "a?",
        "a*",
        "a[",
        "a\\b",
        "a\x07",
        "/a",
        "a/",
        "a//b",
        ".a",
        "a/.b",
        "a.",
        "a.lock",
        "a.lock/b",
        "@",
        "a@{1}",
        "HEAD",
        &"x".repeat(251),
    ] {
        check_field(with(bad), "branch");
    }
}

#[test]
fn tags_are_few_short_and_different() {
    let with =
        |tags: &[&str]| Wish { tags: tags.iter().map(ToString::to_string).collect(), ..wish("a") };
    assert_eq!(accepted(with(&[" gpu ", "GPU", "eu"])).tags, ["gpu", "eu"]);
    for bad in [&[""][..], &["  "], &["a,b"], &["a\nb"], &[&"x".repeat(65)], &["a"; 65]] {
        check_field(with(bad), "tags");
    }
}

#[test]
fn what_people_may_change_is_checked_like_new() {
    let given = [created(1, "hello"), requested(1, 7), created(2, "other"), requested(2, 8)];
    let some = |text: &str| Some(text.to_owned());
    let policy =
        Policy { priority: 5, groups: vec!["DB".into(), "db".into()], ..Policy::default() };
    let wanted = Change {
        name: some("Hello"),
        selector: some(" ssd "),
        policy: Some(policy),
        ..Change::default()
    };
    let changed = Event::PipelineChanged {
        pipeline: PipelineId(1),
        name: "Hello".into(),
        tags: vec![],
        pinned_worker: String::new(),
        selector: "ssd".into(),
        policy: Policy { priority: 5, groups: vec!["db".into()], ..Policy::default() },
        by: "me".into(),
        at: AT,
    };
    let facts =
        |events: &[Event]| -> Vec<Fact> { events.iter().cloned().map(Fact::from).collect() };
    check(&facts(&given), change(1, wanted.clone()), Ok(vec![changed.clone()]));
    let after = facts(&[given.to_vec(), vec![changed]].concat());
    check(&after, change(1, wanted), Ok(vec![]));
    let taken = Change { name: some("HELLO"), ..Change::default() };
    let refused = Rejection::NameTaken { name: "HELLO".into(), by: PipelineId(1) };
    check(&after, change(2, taken), Err(refused));
    check(&after, change(9, Change::default()), Err(Rejection::UnknownPipeline(PipelineId(9))));
    for (field, policy) in [
        ("priority", Policy { priority: 101, groups: vec![], ..Policy::default() }),
        ("priority", Policy { priority: i32::MIN, groups: vec![], ..Policy::default() }),
        ("groups", Policy { priority: 0, groups: vec!["a b".into()], ..Policy::default() }),
        ("groups", Policy { priority: 0, groups: vec!["a".into(); 9], ..Policy::default() }),
    ] {
        check_field(Wish { policy, ..wish("a") }, field);
    }
    let too_long = Policy { run_timeout: u32::MAX, ..Policy::default() };
    check_field(Wish { policy: too_long, ..wish("a") }, "run_timeout");
    let too_often = Policy { retries: 101, ..Policy::default() };
    check_field(Wish { policy: too_often, ..wish("a") }, "retries");
}

#[test]
fn a_pinned_worker_is_one_line() {
    let pinned = Wish { pinned_worker: " my worker ".into(), ..wish("a") };
    assert_eq!(accepted(pinned).pinned_worker, "my worker");
    check_field(Wish { pinned_worker: "a\nb".into(), ..wish("a") }, "pinned_worker");
    assert_eq!(accepted(Wish { selector: " a !b ".into(), ..wish("a") }).selector, "a !b");
    check_field(Wish { selector: "a\u{7}b".into(), ..wish("a") }, "selector");
    check_field(Wish { selector: "a".repeat(1_001), ..wish("a") }, "selector");
}

proptest! {
    /// Every history that pipelines can have keeps their invariants.
    #[test]
    fn invariants_hold_after_anything(inputs in prop::collection::vec(any_input(), 0..120)) {
        let (mut log, mut state) = (Vec::<Fact>::new(), State::default());
        for (at, input) in inputs.into_iter().enumerate() {
            let before = state.clone();
            let facts: Vec<Fact> = match input.at_step(at, &state) {
                Input::Fact(fact) => vec![fact],
                Input::Command(command) => {
                    let events = decide(&state, command).unwrap_or_default();
                    events.into_iter().map(Fact::from).collect()
                }
            };
            for fact in facts {
                state.evolve(&fact);
                log.push(fact);
            }
            assert_sound(&state);
            assert_grows(&before, &state);
        }
        prop_assert_eq!(&State::replay(&log), &state);
        assert_retries_are_harmless(&log, &state);
    }

    /// A build is refused exactly if no order of its jobs exists.
    #[test]
    fn a_graph_runs_exactly_if_its_jobs_can_be_put_in_order(
        jobs in prop::collection::vec((0..6_u32, prop::collection::vec(0..6_u32, 0..3)), 0..6)
    ) {
        let borrowed: Vec<_> = jobs.iter().map(|(id, on)| (*id, &on[..])).collect();
        let mut left: BTreeMap<u32, &[u32]> = borrowed.iter().copied().collect();
        let mut is_fine = !jobs.is_empty() && left.len() == jobs.len();
        while is_fine && !left.is_empty() {
            let known: HashSet<u32> = jobs.iter().map(|(id, _)| *id).collect();
            let free = left.iter().find(|(_, on)| {
                on.iter().all(|on| known.contains(on) && !left.contains_key(on))
            });
            match free.map(|(&id, _)| id) {
                Some(id) => drop(left.remove(&id)),
                None => is_fine = false,
            }
        }
        prop_assert_eq!(build(&borrowed).check().is_ok(), is_fine);
    }
}

/// What the invariants at the head of the domain say.
fn assert_sound(state: &State) {
    let ids: Vec<_> = state.pipelines.keys().map(|id| id.0).collect();
    assert_eq!(ids, (1..=ids.len() as u64).collect::<Vec<_>>(), "ids have no gaps");
    for pipeline in state.pipelines() {
        assert_eq!(state.named(&pipeline.spec.name).map(|named| named.id), Some(pipeline.id));
        let awaited = state.builds.values().filter(|build| build.pipeline == pipeline.id).count();
        assert_eq!(awaited == 1, pipeline.build_state == BuildState::Building, "{pipeline:?}");
        assert!(awaited <= 1);
        assert_eq!(pipeline.version > 0, pipeline.built.is_some());
        let plan = &pipeline.plan;
        let open: HashSet<_> = plan.starts.values().collect();
        assert_eq!(open.len(), plan.starts.len(), "a schedule has two open starts: {plan:?}");
        assert_eq!(!plan.starts.is_empty(), state.starting.contains(&pipeline.id));
    }
    assert_eq!(state.names.len(), state.pipelines().count(), "names are unique");
    assert!(state.builds.values().all(|build| state.pipeline(build.pipeline).is_some()));
    assert!(state.taken.values().all(|id| state.pipeline(*id).is_some()));
    let dues = state.pipelines().filter_map(|known| Some((known.due()?, known.id)));
    assert_eq!(state.due, dues.collect());
}

fn assert_grows(before: &State, after: &State) {
    for (id, earlier) in &before.pipelines {
        let later = &after.pipelines[id];
        assert!(later.version == earlier.version || later.version == earlier.version + 1);
        assert!(later.deleted || !earlier.deleted, "deleted is final");
        assert!(!earlier.deleted || later == earlier, "deleted is final");
    }
}

fn assert_retries_are_harmless(log: &[Fact], state: &State) {
    for fact in log {
        let retry = match fact {
            Fact::Pipeline(Event::PipelineBuilt { run, .. } | Event::BuildFailed { run, .. }) => {
                Command::ConcludeBuild { run: *run, at: AT }
            }
            Fact::Pipeline(Event::PipelineDeleted { pipeline, by, at }) => {
                Command::DeletePipeline { pipeline: *pipeline, by: by.clone(), at: *at }
            }
            _ => continue,
        };
        assert_eq!(decide(state, retry), Ok(vec![]));
    }
}

#[derive(Clone, Debug)]
enum Input {
    Command(Command),
    Fact(Fact),
}

impl Input {
    /// Runs are fresh, and a pipeline is created under the next id, as `api.rs` does it.
    fn at_step(mut self, step: usize, state: &State) -> Self {
        let fresh = run(1_000 + step as u128);
        match &mut self {
            Self::Command(Command::CreatePipeline { id, run, .. }) => {
                (*id, *run) = (state.next_id(), fresh);
            }
            Self::Command(Command::RequestBuild { run, .. }) => *run = fresh,
            Self::Command(
                Command::ConcludeBuild { run, .. } | Command::RefuseBuild { run, .. },
            )
            | Self::Fact(Fact::RunEnded { run, .. }) => {
                if let Some((&awaited, _)) = state.builds.iter().next() {
                    *run = awaited;
                }
            }
            Self::Fact(Fact::BuildSubmitted { run, pipeline }) => {
                if let Some((&awaited, build)) = state.builds.iter().next_back() {
                    (*run, *pipeline) = (awaited, build.pipeline);
                }
            }
            Self::Command(Command::Tick { runs, .. }) => *runs = vec![fresh],
            Self::Command(Command::RefuseStart { run, .. })
            | Self::Fact(Fact::StartSubmitted { run, .. }) => {
                if let Some((waits, _)) = state.to_start().next() {
                    *run = waits;
                }
            }
            Self::Command(
                Command::ChangePipeline { .. }
                | Command::DeletePipeline { .. }
                | Command::SetSchedules { .. }
                | Command::ConfirmStarts { .. }
                | Command::SetTriggerToken { .. },
            )
            | Self::Fact(Fact::Pipeline(_)) => {}
        }
        self
    }
}

fn any_input() -> impl Strategy<Value = Input> {
    let pipeline = || (1..5_u64).prop_map(PipelineId);
    let outcome = prop_oneof![
        Just(Outcome::Failed("bad".into())),
        Just(Outcome::Built(build(&[(1, &[]), (2, &[1])]))),
        Just(Outcome::Built(build(&[]))),
    ];
    let command = prop_oneof![
        "[aAb]{1,2}".prop_map(|name| create(0, wish(&name), 0)),
        pipeline().prop_map(|pipeline| rebuild(pipeline.0, 0)),
        (pipeline(), "[aAb]{1,2}").prop_map(|(pipeline, name)| {
            change(pipeline.0, Change { name: Some(name), ..Change::default() })
        }),
        pipeline().prop_map(|pipeline| Command::DeletePipeline {
            pipeline,
            by: "me".into(),
            at: AT
        }),
        Just(conclude(0)),
        Just(conclude(0)),
        Just(Command::RefuseBuild { run: run(0), reason: "no".into(), at: AT }),
        (pipeline(), 0..3_usize).prop_map(|(pipeline, count)| {
            let crons = ["@every 1s", "0 * * * * *"].iter().take(count);
            let crons = crons.map(|&cron| cron.to_owned()).collect();
            let schedules = SchedulesWish { crons, ..SchedulesWish::default() };
            Command::SetSchedules { pipeline, schedules, by: "me".into(), at: AT }
        }),
        (pipeline(), 0..200_000_u64).prop_map(|(pipeline, at)| Command::Tick {
            pipeline,
            runs: vec![],
            at: Timestamp(at)
        }),
        Just(Command::RefuseStart { run: run(0), reason: "no".into(), at: AT }),
        Just(Command::ConfirmStarts { at: AT }),
    ];
    let fact = prop_oneof![
        pipeline().prop_map(|pipeline| Fact::BuildSubmitted { run: run(0), pipeline }),
        outcome.prop_map(|outcome| ended(0, outcome)),
        pipeline().prop_map(|pipeline| Fact::StartSubmitted { run: run(0), pipeline }),
    ];
    prop_oneof![3 => command.prop_map(Input::Command), 2 => fact.prop_map(Input::Fact)]
}

fn run(n: u128) -> RunId {
    RunId::from_uuid(Uuid::from_u128(n))
}

fn wish(name: &str) -> Wish {
    Wish {
        name: name.into(),
        kind: "golang".into(),
        url: "https://host/repository".into(),
        ..Wish::default()
    }
}

fn create(id: u64, wish: Wish, run_number: u128) -> Command {
    Command::CreatePipeline {
        id: PipelineId(id),
        wish,
        schedules: SchedulesWish::default(),
        sealed: Sealed(vec![1, 2, 3]),
        run: run(run_number),
        by: "me".into(),
        at: AT,
    }
}

fn change(pipeline: u64, change: Change) -> Command {
    Command::ChangePipeline { pipeline: PipelineId(pipeline), change, by: "me".into(), at: AT }
}

fn rebuild(pipeline: u64, run_number: u128) -> Command {
    Command::RequestBuild { pipeline: PipelineId(pipeline), run: run(run_number), at: AT }
}

fn conclude(run_number: u128) -> Command {
    Command::ConcludeBuild { run: run(run_number), at: AT }
}

fn created(id: u64, name: &str) -> Event {
    let spec = Spec {
        name: name.into(),
        kind: PipelineType::Golang,
        url: "https://host/repository".into(),
        branch: String::new(),
        tags: vec![],
        pinned_worker: String::new(),
        selector: String::new(),
        policy: Policy::default(),
    };
    let sealed = Sealed(vec![1, 2, 3]);
    Event::PipelineCreated { pipeline: PipelineId(id), spec, sealed, by: "me".into(), at: AT }
}

fn requested(pipeline: u64, run_number: u128) -> Event {
    Event::BuildRequested { pipeline: PipelineId(pipeline), run: run(run_number), at: AT }
}

fn failed(pipeline: u64, run_number: u128, reason: &str) -> Event {
    Event::BuildFailed {
        pipeline: PipelineId(pipeline),
        run: run(run_number),
        reason: reason.into(),
        at: AT,
    }
}

fn deleted(pipeline: u64) -> Event {
    Event::PipelineDeleted { pipeline: PipelineId(pipeline), by: "me".into(), at: AT }
}

fn submitted(run_number: u128, pipeline: u64) -> Fact {
    Fact::BuildSubmitted { run: run(run_number), pipeline: PipelineId(pipeline) }
}

fn ended(run_number: u128, outcome: Outcome) -> Fact {
    Fact::RunEnded { run: run(run_number), outcome }
}

/// Version 1 of a pipeline.
fn built_once() -> Vec<Fact> {
    vec![created(1, "hello").into(), requested(1, 7).into(), built(7, 1).into()]
}

fn built(run_number: u128, version: u32) -> Event {
    let build = build(&[(1, &[])]);
    Event::PipelineBuilt { pipeline: PipelineId(1), run: run(run_number), version, build, at: AT }
}

/// Ids, and what each depends on.
type Jobs<'a> = &'a [(u32, &'a [u32])];

fn build(jobs: Jobs<'_>) -> Build {
    let job = |&(id, depends_on): &(u32, &[u32])| JobSpec {
        id,
        title: format!("job {id}"),
        depends_on: depends_on.to_vec(),
        ..JobSpec::default()
    };
    Build {
        digest: Digest::of(b"binary"),
        size: 6,
        commit: "c0ffee".into(),
        jobs: jobs.iter().map(job).collect(),
    }
}
