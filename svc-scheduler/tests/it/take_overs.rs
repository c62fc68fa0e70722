//! A steady load of starts, and a hundred take-overs: the leader is killed and started again, or paused and
//! resumed, in turns. At the end, what was acknowledged has ended once, and was given once.
//!
//! `GAIA_TAKE_OVERS=1000` makes more of them; `GAIA_OPEN_RUNS=100000` leaves more to fence to the other story.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use eventlog::{Fold, Log};
use futures::{StreamExt, stream};
use nix::sys::signal::Signal;
use prost::Message;
use proto::{
    leadership::events::v1::StreamFenced,
    scheduler::v1::{ListRunsRequest, scheduler_client::SchedulerClient},
};
use svc_scheduler::domain::{Event, Fact, State};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};
use transport::Channel;

use crate::{
    house::{House, Scheduler, fresh, run_id, soon, start_of},
    worker::{Told, Worker},
};

const WORKERS: u128 = 4;
const SLOTS: i32 = 4;
const STARTERS: usize = 4;
/// Between two starts of one starter.
const PAUSE: Duration = Duration::from_millis(40);

/// Runs whose start was acknowledged.
type Acknowledged = Arc<Mutex<Vec<String>>>;

/// Starts run after run, for ever; each under its own id until it is acknowledged.
async fn start_runs(mut client: SchedulerClient<Channel>, acknowledged: Acknowledged) {
    loop {
        let id = run_id(fresh().as_u128());
        start(&mut client, &id).await;
        acknowledged.lock().unwrap().push(id);
        sleep(PAUSE).await;
    }
}

async fn start(client: &mut SchedulerClient<Channel>, id: &str) {
    while client.submit_run(start_of(id.to_owned())).await.is_err() {
        sleep(Duration::from_millis(2)).await;
    }
}

#[derive(Default)]
struct Times {
    killed: Vec<Duration>,
    paused: Vec<Duration>,
}

fn how_many(name: &str, usually: usize) -> usize {
    std::env::var(name).map_or(usually, |count| count.parse().expect("a number"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_take_overs_lose_and_double_nothing() {
    let house = House::start(Duration::from_millis(250));
    for worker in 1..=WORKERS {
        house.register(worker, SLOTS).await;
    }
    let mut leader = house.scheduler().await;
    house.leads(&leader).await;
    let mut standby = house.scheduler().await;
    standby.stands_by().await;
    let (acknowledged, told) = (Acknowledged::default(), Told::default());
    let (mut workers, mut starters) = (JoinSet::new(), JoinSet::new());
    let client = house.client();
    for number in 1..=WORKERS {
        let worker = Worker { number, client: client.clone(), told: Arc::clone(&told) };
        workers.spawn(worker.work());
    }
    for _ in 0..STARTERS {
        starters.spawn(start_runs(client.clone(), Arc::clone(&acknowledged)));
    }
    let mut times = Times::default();
    for turn in 0..how_many("GAIA_TAKE_OVERS", 100) {
        let before = house.leader().await.unwrap();
        (leader, standby) = if before.1 == leader.address {
            take_over(&house, turn, leader, standby, &client, &mut times, &acknowledged).await
        } else {
            // A machine that is busy enough looks dead.
            take_over(&house, turn, standby, leader, &client, &mut times, &acknowledged).await
        };
        while let Some(ended) = workers.try_join_next() {
            ended.expect("a worker saw what must not be");
        }
    }
    starters.abort_all();
    while starters.join_next().await.is_some() {}
    let acknowledged = std::mem::take(&mut *acknowledged.lock().unwrap());
    soon(all_have_ended(client.clone())).await;
    workers.abort_all();
    drop((leader, standby));
    let told = told.lock().unwrap().clone();
    check(&house.log, &acknowledged, &told).await;
    for (what, mut took) in [("kill -9", times.killed), ("a pause", times.paused)] {
        took.sort_unstable();
        let at = |share: usize| took.get(took.len() * share / 100).or(took.last()).copied();
        eprintln!(
            "take-over after {what}: {} times, p50 {:?}, most {:?}, until a start was acknowledged",
            took.len(),
            at(50).unwrap_or_default(),
            took.last().copied().unwrap_or_default()
        );
    }
    eprintln!("{} runs, in {} terms", acknowledged.len(), house.leader().await.unwrap().0 + 1);
}

/// Answers with the new leader and the new standby.
async fn take_over(
    house: &House,
    turn: usize,
    leader: Scheduler,
    standby: Scheduler,
    client: &SchedulerClient<Channel>,
    times: &mut Times,
    acknowledged: &Acknowledged,
) -> (Scheduler, Scheduler) {
    let began = Instant::now();
    let id = run_id(fresh().as_u128());
    let (left, took) = if turn.is_multiple_of(2) {
        leader.kill().await;
        soon(start(&mut client.clone(), &id)).await;
        (house.scheduler().await, &mut times.killed)
    } else {
        leader.pause().await;
        soon(start(&mut client.clone(), &id)).await;
        leader.signal(Signal::SIGCONT);
        (leader, &mut times.paused)
    };
    took.push(began.elapsed());
    acknowledged.lock().unwrap().push(id);
    soon(async {
        // Whichever of the two it is by now.
        loop {
            let (_, address) = house.leader().await.unwrap();
            let other = if address == left.address { &standby } else { &left };
            if tokio::time::timeout(Duration::from_secs(2), other.stands_by()).await.is_ok() {
                return;
            }
        }
    })
    .await;
    (standby, left)
}

async fn all_have_ended(mut client: SchedulerClient<Channel>) {
    let request = ListRunsRequest { only_open: true, limit: 1, ..ListRunsRequest::default() };
    loop {
        match client.list_runs(request.clone()).await {
            Ok(open) if open.get_ref().runs.is_empty() => return,
            _ => sleep(Duration::from_millis(20)).await,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_open_run_is_fenced_at_each_take_over() {
    let open = how_many("GAIA_OPEN_RUNS", 200);
    let house = House::start(Duration::from_secs(2));
    let leader = house.scheduler().await;
    house.leads(&leader).await;
    let client = house.client();
    let waiting = stream::iter(0..open).for_each_concurrent(256, |_| {
        let mut client = client.clone();
        async move { start(&mut client, &run_id(fresh().as_u128())).await }
    });
    waiting.await;
    let standby = house.scheduler().await;
    standby.stands_by().await;
    let (mut times, acknowledged) = (Times::default(), Acknowledged::default());
    let (leader, standby) =
        take_over(&house, 0, leader, standby, &client, &mut times, &acknowledged).await;
    let pair = take_over(&house, 1, leader, standby, &client, &mut times, &acknowledged).await;
    eprintln!(
        "with {open} open runs: {:?} after kill -9, {:?} after a pause",
        times.killed[0], times.paused[0]
    );
    drop(pair);
    let (mut runs, mut fenced) = (HashSet::new(), HashSet::new());
    let mut all = house.log.read_all(0, &["run-", "scheduler-leader"]);
    let mut before = vec![];
    while let Some(event) = all.next().await.transpose().unwrap() {
        match &*event.event.event_type {
            "LeaderElected" => before.push(runs.clone()),
            "StreamFenced" => {
                let fence = StreamFenced::decode(&event.event.data[..]).unwrap();
                assert!(fenced.insert((fence.term, event.stream.clone())), "fenced twice");
            }
            _ => drop(runs.insert(event.stream.clone())),
        }
    }
    assert!(before[1].len() >= open && before[2].len() > open);
    for (term, runs) in (0..).zip(before) {
        let missed = runs.iter().find(|run| !fenced.contains(&(term, (*run).clone())));
        assert_eq!(missed, None, "not fenced in term {term}");
    }
}

/// Goes through the log as it was written, and looks at each event with what was true before it.
async fn check(log: &Log, acknowledged: &[String], told: &HashMap<(String, u32), (u128, String)>) {
    let mut state = State::default();
    let (mut ends, mut tokens) = (BTreeMap::<String, u32>::new(), HashSet::new());
    let mut numbers = HashSet::new();
    let mut recorded = log.read_all(0, &["run-", "numbers-", "limit-", "worker-"]);
    while let Some(event) = recorded.next().await {
        let Some(fact) = svc_scheduler::decode(&event.unwrap()).unwrap() else { continue };
        if let Fact::Run(event) = &fact {
            let run = event.run().and_then(|id| state.run(id));
            match event {
                Event::RunNumbered { number, .. } => {
                    assert!(numbers.insert(*number), "two runs have number {number}");
                }
                Event::RunSubmitted { .. } => {
                    assert!(run.is_none(), "submitted twice: {event:?}");
                }
                Event::RunAssigned { run: id, attempt, worker, token, .. } => {
                    let run = run.expect("it was submitted");
                    assert!(run.current().is_none() && !run.state.is_terminal(), "{event:?}");
                    assert_eq!(attempt.0 as usize, run.attempts.len() + 1, "{event:?}");
                    assert!(state.held_count(*worker) < SLOTS as u32, "too many: {event:?}");
                    assert!(tokens.insert(*token), "a token was given twice");
                    let heard = told.get(&(id.to_string(), attempt.0));
                    let (_, heard) = heard.expect("whatever was assigned was heard of");
                    assert_eq!(*heard, token.to_string(), "{event:?}");
                }
                Event::RunRequeued { .. } => panic!("an attempt was lost: {event:?}"),
                Event::RunFinished { run: id, attempt, .. } => {
                    let current = run.and_then(|run| run.current()).expect("somebody had it");
                    assert_eq!(current.attempt, *attempt, "{event:?}");
                    *ends.entry(id.to_string()).or_default() += 1;
                }
                _ => {}
            }
        }
        state.evolve(&fact);
    }
    assert!(!state.is_number_missing(), "a run has no number");
    for run in acknowledged {
        assert_eq!(ends.get(run), Some(&1), "run {run} did not end once");
    }
    assert_eq!(tokens.len(), told.len(), "an attempt began that the log does not know");
}
