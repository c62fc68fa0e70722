//! What must be true at the end, judged by what those outside were told and by the log.

use eventlog::Fold;
use futures::StreamExt;

use super::{agent::is_end, *};
use crate::domain::{Fact, RunState as Known, tests::judge::Life};

/// What happened, so that a run of no faults is not taken for a success.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Summary {
    events: usize,
    ended: BTreeMap<&'static str, u32>,
    attempts: u32,
    faults: BTreeMap<&'static str, u32>,
    /// Streams and types in the order of the log.
    history: Vec<(String, String)>,
}

impl Summary {
    pub(super) fn add(&mut self, other: &Self) {
        self.events += other.events;
        self.attempts += other.attempts;
        for (mine, others) in [(&mut self.ended, &other.ended), (&mut self.faults, &other.faults)] {
            for (what, count) in others {
                *mine.entry(what).or_default() += count;
            }
        }
    }
}

pub(super) async fn check(world: Simulation) -> Result<Summary, String> {
    let mut summary = Summary { faults: world.seen.faults.clone(), ..Summary::default() };
    let (mut state, mut lives) = (State::default(), BTreeMap::<u128, Life>::new());
    let mut events = world.log.read_all(0, &[]);
    while let Some(recorded) = events.next().await {
        let recorded = recorded.unwrap();
        let what = (recorded.stream.to_string(), recorded.event.event_type.to_string());
        summary.history.push(what);
        let Some(fact) = crate::decode(&recorded).unwrap() else { continue };
        if let Fact::Run(event) = &fact
            && let Some(run) = event.run()
        {
            let life = lives.entry(run.as_uuid().as_u128()).or_default();
            life.judge(event).map_err(|rule| format!("{rule}: {event:?}"))?;
        }
        state.evolve(&fact);
    }
    summary.events = summary.history.len();
    let mut client = world.scheduler.as_ref().ok_or("the scheduler is down")?.0.clone();
    for &run in &world.seen.submitted {
        let life = lives.get(&run).ok_or_else(|| format!("run {run} is lost"))?;
        let shown =
            client.get_run(named(run)).await.map_err(|error| error.to_string())?.into_inner();
        let id = RunId::from_uuid(Uuid::from_u128(run));
        let ended = life.ended.ok_or_else(|| format!("run {run} has not ended: {shown:?}"))?;
        if crate::view(&state, id) != Some(shown) {
            return Err(format!("the service and the log differ about run {run}"));
        }
        *summary.ended.entry(ended.word()).or_default() += 1;
        summary.attempts += life.attempts;
    }
    for &run in &world.seen.cancelled {
        if lives.get(&run).is_none_or(|life| life.ended.is_none()) {
            return Err(format!("run {run} was to be cancelled and goes on"));
        }
    }
    for &(run, attempt, said) in &world.seen.reported {
        let life = lives.get(&run).ok_or_else(|| format!("run {run} was reported and is lost"))?;
        let fits = match said {
            ReportedState::Succeeded => {
                matches!(life.ended, Some(Known::Succeeded | Known::Cancelled))
            }
            ReportedState::Failed => matches!(life.ended, Some(Known::Failed | Known::Cancelled)),
            _ => true,
        };
        let is_last = life.attempts == attempt || !is_end(said) || said == ReportedState::GivenBack;
        if !fits || !is_last || attempt > life.attempts {
            let ended = life.ended;
            return Err(format!("attempt {attempt} of run {run} was {said:?} and is {ended:?}"));
        }
    }
    if world.agents.iter().any(|agent| !agent.works.is_empty()) {
        return Err("an agent works on what is over".into());
    }
    Ok(summary)
}
