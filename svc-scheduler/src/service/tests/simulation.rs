//! The running scheduler under a seeded clock and network, with agents, a registry and users around it.
//!
//! The scheduler is the real service over its own protocol. Agents and the registry are what the
//! scheduler sees of them: an agent holds runs, repeats each report until it is answered, and stops what
//! it is told to; the registry says that a worker is lost when it was away for the grace time. Between
//! them messages are lost, late, doubled and out of order; agents are cut off, pause and crash, the
//! scheduler crashes and starts from the log, and its clock jumps by an hour. Then all is well again, and 60 s
//! later every run must have ended as the log, the service and the agents agree.
//!
//! `SCHEDULER_SIMULATIONS=5000` runs so many seeds, `SCHEDULER_SEED=17` repeats the one that a failure
//! names.

mod agent;
mod check;

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use tokio::{
    sync::mpsc,
    task::{AbortHandle, JoinSet},
    time::{Instant, sleep, sleep_until},
};

use super::*;
use crate::domain::tests::judge::Seeded;

/// Milliseconds: when the faults end, and when everything must be over.
const QUIET: u64 = 60_000;
const END: u64 = QUIET + 60_000;
const GRACE: u64 = 5_000;
const HOUR: i64 = 3_600_000;
const AGENTS: usize = 3;
const RUNS: u128 = 12;

/// What a scheduler's end is heard by.
type Ended = JoinHandle<Result<(), ServiceError>>;

struct Simulation {
    dice: Seeded,
    log: Log,
    /// What the scheduler's clock is ahead of the true one.
    skew: Arc<AtomicI64>,
    born: Instant,
    /// `None`: it has crashed.
    scheduler: Option<(SchedulerClient<Channel>, Ended)>,
    /// Calls that the scheduler has not answered yet.
    calls: JoinSet<()>,
    agents: Vec<Agent>,
    queue: BTreeMap<(u64, u64), Happening>,
    scheduled: u64,
    heard: mpsc::UnboundedReceiver<Happening>,
    tell: mpsc::UnboundedSender<Happening>,
    seen: Seen,
}

/// What those outside were told.
#[derive(Default)]
struct Seen {
    submitted: BTreeSet<u128>,
    /// By run and attempt, what an agent was told is known.
    reported: Vec<(u128, u32, ReportedState)>,
    cancelled: BTreeSet<u128>,
    faults: BTreeMap<&'static str, u32>,
}

#[derive(Default)]
struct Agent {
    up: bool,
    cut: bool,
    /// Until then it does nothing; what comes waits.
    paused_until: u64,
    /// Since when the registry hears nothing of it.
    silent_since: Option<u64>,
    lost: bool,
    /// The line that it listens to, and when what comes next on it arrives.
    line: Option<(u64, AbortHandle)>,
    last_delivery: u64,
    works: BTreeMap<u128, Work>,
}

struct Work {
    lease: Lease,
    state: ReportedState,
    acknowledged: bool,
}

#[derive(Debug)]
enum Happening {
    Submit(u128),
    Submitted(u128),
    Cancel(u128),
    Cancelled(u128),
    Attach(usize),
    Told { agent: usize, line: u64, instruction: Box<instruction::Instruction> },
    LineEnded { agent: usize, line: u64 },
    Work { agent: usize, lease: Lease },
    Report { agent: usize, run: u128 },
    Arrive { agent: usize, lease: Lease, state: ReportedState },
    Answered { agent: usize, lease: Lease, state: ReportedState, answer: Result<bool, Code> },
    Cut(usize),
    CrashAgent(usize),
    Pause(usize),
    Mend(usize),
    Lose { agent: usize, since: u64 },
    Crash,
    Start,
    Jump(i64),
    Tick,
}

fn number(run_id: &str) -> u128 {
    run_id.parse::<RunId>().unwrap().as_uuid().as_u128()
}

impl Simulation {
    async fn new(seed: u64) -> Self {
        let (tell, heard) = mpsc::unbounded_channel();
        let skew = Arc::new(AtomicI64::new(0));
        let mut world = Self {
            dice: Seeded::new(seed),
            log: Log::in_memory(Clock::system()),
            skew,
            born: Instant::now(),
            scheduler: None,
            calls: JoinSet::new(),
            agents: vec![],
            queue: BTreeMap::new(),
            scheduled: 0,
            heard,
            tell,
            seen: Seen::default(),
        };
        world.plan().await;
        world
    }

    /// What will happen whatever comes of it.
    async fn plan(&mut self) {
        self.start().await;
        for agent in 0..AGENTS {
            let house = self.house();
            house.register(agent as u128 + 1, 1 + self.dice.below(2) as i32, &["golang"]).await;
            self.agents.push(Agent { up: true, ..Agent::default() });
            self.at(0, Happening::Attach(agent));
        }
        for run in 1..=RUNS {
            let at = self.dice.below(QUIET * 3 / 4);
            self.at(at, Happening::Submit(run));
            if self.dice.percent(15) {
                let later = at + self.dice.below(8_000);
                self.at(later, Happening::Cancel(run));
            }
        }
        for _ in 0..4 + self.dice.below(8) {
            let at = self.dice.below(QUIET);
            let agent = self.dice.below(AGENTS as u64) as usize;
            let fault = match self.dice.below(6) {
                0 | 1 => Happening::Cut(agent),
                2 => Happening::CrashAgent(agent),
                3 => Happening::Pause(agent),
                4 => Happening::Crash,
                _ => Happening::Jump(if self.dice.percent(50) { HOUR } else { -HOUR }),
            };
            self.at(at, fault);
        }
        (0..END / 200).for_each(|tick| self.at(tick * 200, Happening::Tick));
    }

    fn house(&self) -> House {
        let client = self.scheduler.as_ref().expect("it is up").0.clone();
        House { log: self.log.clone(), client, task: tokio::spawn(async { Ok(()) }) }
    }

    async fn start(&mut self) {
        let (born, skew) = (self.born, Arc::clone(&self.skew));
        let clock = Clock::from_fn(move || {
            let true_time = 1_800_000_000_000 + born.elapsed().as_millis() as i64;
            ids::Timestamp((true_time + skew.load(Ordering::Relaxed)) as u64)
        });
        let config = Config { start_timeout: Duration::from_secs(4), ..Config::default() };
        let deps = Deps { log: self.log.clone(), clock };
        let Service { router, task } = start(deps, config).await.unwrap();
        let channel = Channel::local(router, Peer::Service("gateway".into()));
        self.scheduler = Some((SchedulerClient::new(channel), task));
    }

    fn now(&self) -> u64 {
        self.born.elapsed().as_millis() as u64
    }

    fn at(&mut self, at: u64, what: Happening) {
        self.scheduled += 1;
        self.queue.insert((at, self.scheduled), what);
    }

    fn after(&mut self, delay: u64, what: Happening) {
        self.at(self.now() + delay, what);
    }

    /// How long a message travels; `None`: it is lost.
    fn hop(&mut self, agent: usize) -> Option<u64> {
        let is_quiet = self.now() >= QUIET;
        if self.agents[agent].cut || !is_quiet && self.dice.percent(5) {
            return None;
        }
        let slow = !is_quiet && self.dice.percent(5);
        Some(1 + self.dice.below(if slow { 3_000 } else { 40 }))
    }

    async fn run(mut self) -> Self {
        while let Some(((at, _), what)) = self.queue.pop_first() {
            if at > END {
                break;
            }
            sleep_until(self.born + Duration::from_millis(at)).await;
            self.happen(what).await;
            // The clock stands still while anything can go on.
            sleep(Duration::from_millis(1)).await;
            while let Ok(heard) = self.heard.try_recv() {
                self.hear(heard);
            }
            while self.calls.try_join_next().is_some() {}
        }
        self
    }

    /// What comes from the scheduler takes its time, or does not come.
    fn hear(&mut self, heard: Happening) {
        match &heard {
            Happening::Told { agent, .. } => {
                // A line keeps the order.
                let delay = 1 + self.dice.below(60);
                let last = &mut self.agents[*agent].last_delivery;
                *last = (self.born.elapsed().as_millis() as u64 + delay).max(*last);
                let at = *last;
                self.at(at, heard);
            }
            Happening::Answered { agent, .. } => {
                if let Some(delay) = self.hop(*agent) {
                    self.after(delay, heard);
                }
            }
            _ => self.after(0, heard),
        }
    }

    /// When an agent that is paused goes on with what happens to it.
    fn held_up(&self, what: &Happening) -> Option<u64> {
        let (Happening::Attach(agent)
        | Happening::Told { agent, .. }
        | Happening::LineEnded { agent, .. }
        | Happening::Work { agent, .. }
        | Happening::Report { agent, .. }
        | Happening::Answered { agent, .. }) = what
        else {
            return None;
        };
        Some(self.agents[*agent].paused_until).filter(|until| *until > self.now())
    }

    async fn happen(&mut self, what: Happening) {
        if let Some(until) = self.held_up(&what) {
            return self.at(until, what);
        }
        match what {
            Happening::Submit(run) => self.submit(run),
            Happening::Cancel(run) => self.cancel(run),
            Happening::Submitted(run) => drop(self.seen.submitted.insert(run)),
            Happening::Cancelled(run) => drop(self.seen.cancelled.insert(run)),
            Happening::Attach(agent) => self.attach(agent),
            Happening::Told { agent, line, instruction } => self.obey(agent, line, *instruction),
            Happening::LineEnded { agent, line } => {
                if self.agents[agent].line.as_ref().is_some_and(|(current, _)| *current == line) {
                    self.agents[agent].line = None;
                    self.after(300, Happening::Attach(agent));
                }
            }
            Happening::Work { agent, lease } => self.work(agent, lease),
            Happening::Report { agent, run } => self.report(agent, run),
            Happening::Arrive { agent, lease, state } => self.arrive(agent, lease, state),
            Happening::Answered { agent, lease, state, answer } => {
                self.answered(agent, lease, state, answer);
            }
            Happening::Cut(agent) => self.cut(agent, false),
            Happening::CrashAgent(agent) => self.cut(agent, true),
            Happening::Pause(agent) => self.pause(agent),
            Happening::Mend(agent) => self.mend(agent).await,
            Happening::Lose { agent, since } => self.lose(agent, since).await,
            Happening::Crash => self.crash().await,
            Happening::Start => self.start().await,
            Happening::Jump(by) => {
                self.count("clock jumps");
                self.skew.fetch_add(by, Ordering::Relaxed);
            }
            Happening::Tick => {}
        }
    }

    fn count(&mut self, fault: &'static str) {
        *self.seen.faults.entry(fault).or_default() += 1;
    }

    fn call<F: Future<Output = Happening> + Send + 'static>(
        &mut self,
        call: impl FnOnce(SchedulerClient<Channel>) -> F,
    ) -> bool {
        let Some((client, _)) = &self.scheduler else { return false };
        let (call, tell) = (call(client.clone()), self.tell.clone());
        self.calls.spawn(async move {
            tell.send(call.await).ok();
        });
        true
    }

    /// Again and again, until it is known to have come.
    fn submit(&mut self, run: u128) {
        if self.seen.submitted.contains(&run) {
            return;
        }
        self.after(1_000, Happening::Submit(run));
        let mut spec = spec(&[]);
        if run.is_multiple_of(4) {
            let policy = common::RunPolicy {
                on_worker_lost: common::OnWorkerLost::Fail.into(),
                ..Default::default()
            };
            spec.policy = Some(policy);
        }
        let run_id = run_id(run);
        let request = pb::SubmitRunRequest { run_id, spec: Some(spec), ..Default::default() };
        self.call(|mut client| async move {
            match client.submit_run(request).await {
                Ok(_) => Happening::Submitted(run),
                Err(_) => Happening::Tick,
            }
        });
    }

    fn cancel(&mut self, run: u128) {
        let request = pb::CancelRunRequest { run: Some(named(run)), ..Default::default() };
        self.call(|mut client| async move {
            match client.cancel_run(request).await {
                Ok(_) => Happening::Cancelled(run),
                Err(_) => Happening::Tick,
            }
        });
    }

    async fn crash(&mut self) {
        let Some((client, task)) = self.scheduler.take() else { return };
        self.count("crashes of the scheduler");
        // In the middle of what it does.
        for _ in 0..self.dice.below(12) {
            tokio::task::yield_now().await;
        }
        task.abort();
        drop(client);
        self.calls.abort_all();
        for agent in 0..AGENTS {
            if let Some((_, reader)) = self.agents[agent].line.take() {
                reader.abort();
            }
            self.after(400, Happening::Attach(agent));
        }
        let down = 500 + self.dice.below(4_000);
        self.after(down, Happening::Start);
    }
}

/// Runs a world of this seed to its end, and says what was wrong in it.
fn simulate(seed: u64) -> Result<check::Summary, String> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async { check::check(Simulation::new(seed).await.run().await).await })
}

#[test]
fn no_run_is_lost_or_doubled_whatever_happens() {
    let number = |name| env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let seeds = match number("SCHEDULER_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SCHEDULER_SIMULATIONS").unwrap_or(200),
    };
    let mut total = check::Summary::default();
    for seed in seeds.clone() {
        match simulate(seed) {
            Ok(summary) => total.add(&summary),
            Err(wrong) => panic!("{wrong}; repeat it with SCHEDULER_SEED={seed}"),
        }
    }
    println!("simulations of seeds {seeds:?}: {total:?}");
}

#[test]
fn a_seed_gives_the_same_simulation() {
    assert_eq!(simulate(3), simulate(3));
    assert_ne!(simulate(3), simulate(4));
}
