//! Periodic schedules, the starts that they cause, and the token with which others may start.
//!
//! A tick is recorded before its run is submitted, under the id that the run will have, so that a crash
//! in between neither loses nor doubles it. While the scheduler does not take it, its schedule waits: what
//! comes meanwhile was missed. What is covered by a tick, started or not, never comes again, even when
//! the clock is put back; unless that is by so much that it was wrong before.

use std::collections::BTreeMap;

use chrono_tz::Tz;
use ids::{Digest, PipelineId, RunId, Timestamp};

use super::{
    Event as Own, Pipeline, Rejection, State,
    cron::Cron,
    spec::{InvalidField, invalid},
};

/// Most schedules of one pipeline.
const MOST: usize = 32;
/// Most starts that are confirmed by one command.
const BATCH: usize = 256;
/// A tick that is later than this was missed. Milliseconds.
const LATEST: u64 = 30_000;
/// Times that are covered until further ahead than this were so by a wrong clock. Milliseconds.
const FURTHEST: u64 = 2 * 3_600_000;

/// When a pipeline is started by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Schedules {
    pub crons: Vec<Cron>,
    pub zone: Zone,
    pub missed: MissedTicks,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Zone(pub Tz);

impl Default for Zone {
    fn default() -> Self {
        Self(Tz::UTC)
    }
}

/// What happens when the time of a start passed while nobody looked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MissedTicks {
    /// It is recorded.
    #[default]
    Skip,
    /// One start makes up for all of them.
    Once,
}

/// As they were asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SchedulesWish {
    pub crons: Vec<String>,
    /// A name of the IANA database; empty: UTC.
    pub time_zone: String,
    pub missed: MissedTicks,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The whole of them; without any there are none any more.
    SchedulesSet { pipeline: PipelineId, schedules: Schedules, by: String, at: Timestamp },
    /// The time `tick` of the schedule came, and started this run.
    ScheduleFired { pipeline: PipelineId, cron: String, tick: Timestamp, run: RunId, at: Timestamp },
    /// From the time `tick` of the schedule on nothing was started.
    TickSkipped {
        pipeline: PipelineId,
        cron: String,
        tick: Timestamp,
        reason: String,
        at: Timestamp,
    },
    /// The schedule was dealt with until `covered` by a clock that was ahead; it goes on from `at`.
    ScheduleRewound { pipeline: PipelineId, cron: String, covered: Timestamp, at: Timestamp },
    /// The scheduler had this run, which is never submitted again, even if it is forgotten there.
    StartConfirmed { pipeline: PipelineId, run: RunId, at: Timestamp },
    /// The scheduler will never take this run.
    StartRefused { pipeline: PipelineId, run: RunId, reason: String, at: Timestamp },
    /// `None`: nobody can start it from outside any more.
    TriggerTokenSet { pipeline: PipelineId, hash: Option<Digest>, by: String, at: Timestamp },
}

impl Event {
    #[must_use]
    pub const fn pipeline(&self) -> PipelineId {
        let (Self::SchedulesSet { pipeline, .. }
        | Self::ScheduleFired { pipeline, .. }
        | Self::TickSkipped { pipeline, .. }
        | Self::ScheduleRewound { pipeline, .. }
        | Self::StartConfirmed { pipeline, .. }
        | Self::StartRefused { pipeline, .. }
        | Self::TriggerTokenSet { pipeline, .. }) = self;
        *pipeline
    }
}

/// What is known of the schedules and starts of a pipeline.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub schedules: Schedules,
    /// For each schedule: until when its times are dealt with.
    covered: Vec<Timestamp>,
    /// Of the trigger token.
    pub trigger: Option<Digest>,
    /// Runs that the scheduler may not know yet, and the schedules that wait for it.
    pub(super) starts: BTreeMap<RunId, String>,
}

impl SchedulesWish {
    /// Each must come at some time after `at`.
    pub fn checked(self, at: Timestamp) -> Result<Schedules, InvalidField> {
        let schedules = self.read()?;
        let never = |cron: &&Cron| cron.next(at, schedules.zone.0).is_none();
        match schedules.crons.iter().find(never) {
            Some(never) => {
                invalid("periodicschedules", format!("`{never}` never comes: there is no such day"))
            }
            None => Ok(schedules),
        }
    }

    /// The time does not matter: what was stored is read again.
    pub(crate) fn read(self) -> Result<Schedules, InvalidField> {
        const FIELD: &str = "periodicschedules";
        if self.crons.len() > MOST {
            return invalid(FIELD, format!("are {}, more than {MOST}", self.crons.len()));
        }
        let mut crons: Vec<Cron> = vec![];
        for text in &self.crons {
            let cron = Cron::parse(text);
            let cron = cron.map_err(|why| InvalidField { field: FIELD, why })?;
            if !crons.contains(&cron) {
                crons.push(cron);
            }
        }
        let zone = read_zone(self.time_zone.trim())?;
        Ok(Schedules { crons, zone, missed: self.missed })
    }
}

fn read_zone(name: &str) -> Result<Zone, InvalidField> {
    if name.is_empty() {
        return Ok(Zone::default());
    }
    name.parse().map(Zone).or_else(|_| {
        let name: String = name.chars().take(60).collect();
        let name = name.escape_debug();
        let why = format!("`{name}` is no time zone: write a name like Europe/Berlin, or UTC");
        invalid("time_zone", why)
    })
}

impl Schedules {
    /// The next `count` times of all of them together.
    #[must_use]
    pub fn times(&self, after: Timestamp, count: usize) -> Vec<Timestamp> {
        let next = |after: &Timestamp| {
            self.crons.iter().filter_map(|cron| cron.next(*after, self.zone.0)).min()
        };
        std::iter::successors(next(&after), next).take(count).collect()
    }
}

impl Plan {
    /// The first time that is not dealt with.
    pub(super) fn due(&self) -> Option<Timestamp> {
        self.times().map(|(_, due)| due).min()
    }

    /// Until when at most its times are dealt with.
    fn horizon(&self) -> Option<Timestamp> {
        self.covered.iter().max().copied()
    }

    /// Of those that do not wait for the scheduler.
    fn times(&self) -> impl Iterator<Item = (usize, Timestamp)> {
        let each = self.schedules.crons.iter().zip(&self.covered).enumerate();
        let waits = |cron: &Cron| {
            !self.starts.is_empty() && self.starts.values().any(|of| *of == cron.to_string())
        };
        each.filter(move |(_, (cron, _))| !waits(cron)).filter_map(|(index, (cron, &covered))| {
            Some((index, cron.next(covered, self.schedules.zone.0)?))
        })
    }

    fn covered_mut(&mut self, cron: &str) -> Option<&mut Timestamp> {
        let index = self.schedules.crons.iter().position(|known| known.to_string() == cron)?;
        self.covered.get_mut(index)
    }

    fn cover(&mut self, cron: &str, tick: Timestamp, at: Timestamp) {
        if let Some(covered) = self.covered_mut(cron) {
            *covered = tick.max(earliest(at)).max(*covered);
        }
    }
}

/// What is covered beyond it is so by a clock that was wrong.
const fn furthest(at: Timestamp) -> Timestamp {
    Timestamp(at.0.saturating_add(FURTHEST))
}

/// What is before it is missed.
const fn earliest(at: Timestamp) -> Timestamp {
    Timestamp(at.0.saturating_sub(LATEST))
}

impl State {
    pub(super) fn set_schedules(
        &self,
        pipeline: PipelineId,
        wish: SchedulesWish,
        by: String,
        at: Timestamp,
    ) -> Result<Vec<Own>, Rejection> {
        let known = self.known(pipeline)?;
        let schedules = wish.checked(at)?;
        if schedules == known.plan.schedules {
            return Ok(vec![]);
        }
        Ok(vec![Event::SchedulesSet { pipeline, schedules, by, at }.into()])
    }

    pub(super) fn set_trigger(
        &self,
        pipeline: PipelineId,
        hash: Option<Digest>,
        by: String,
        at: Timestamp,
    ) -> Result<Vec<Own>, Rejection> {
        if self.known(pipeline)?.plan.trigger == hash {
            return Ok(vec![]);
        }
        Ok(vec![Event::TriggerTokenSet { pipeline, hash, by, at }.into()])
    }

    /// What the schedules of this pipeline ask for by now. `runs` has an id for each of them.
    pub(super) fn tick(&self, pipeline: PipelineId, runs: &[RunId], at: Timestamp) -> Vec<Own> {
        let Some(known) = self.pipeline(pipeline) else { return vec![] };
        if known.plan.horizon() > Some(furthest(at)) {
            return rewind(known, at);
        }
        let due = known.plan.times().filter(|(_, due)| *due <= at).zip(runs);
        due.flat_map(|((index, due), run)| fire(known, index, due, *run, at)).collect()
    }

    /// Says of the first of those that the scheduler has that it has them.
    pub(super) fn confirm_starts(&self, at: Timestamp) -> Vec<Own> {
        let confirmed = |(&run, &pipeline): (&RunId, &PipelineId)| {
            Event::StartConfirmed { pipeline, run, at }.into()
        };
        self.taken.iter().take(BATCH).map(confirmed).collect()
    }

    pub(super) fn refuse_start(&self, run: RunId, reason: String, at: Timestamp) -> Vec<Own> {
        let waits = |pipeline: &&Pipeline| pipeline.plan.starts.contains_key(&run);
        let known = self.pipelines().find(waits).map(|pipeline| pipeline.id);
        let refused = |pipeline| Event::StartRefused { pipeline, run, reason, at }.into();
        known.map(refused).into_iter().collect()
    }

    pub(super) fn evolve_plan(&mut self, event: &Event) {
        let pipeline = event.pipeline();
        let Some(known) = self.pipelines.get_mut(&pipeline) else { return };
        let (before, plan) = (known.appointment(), &mut known.plan);
        match event {
            Event::SchedulesSet { schedules, at, .. } => {
                plan.covered = vec![*at; schedules.crons.len()];
                plan.schedules.clone_from(schedules);
            }
            Event::ScheduleFired { cron, tick, run, at, .. } => {
                plan.cover(cron, *tick, *at);
                plan.starts.insert(*run, cron.clone());
                self.starting.insert(pipeline);
            }
            Event::TickSkipped { cron, tick, at, .. } => plan.cover(cron, *tick, *at),
            Event::ScheduleRewound { cron, at, .. } => {
                if let Some(covered) = plan.covered_mut(cron) {
                    *covered = *at;
                }
            }
            Event::StartConfirmed { run, .. } | Event::StartRefused { run, .. } => {
                plan.starts.remove(run);
                self.taken.remove(run);
                if plan.starts.is_empty() {
                    self.starting.remove(&pipeline);
                }
            }
            Event::TriggerTokenSet { hash, .. } => plan.trigger = *hash,
        }
        let after = known.appointment();
        self.move_due(pipeline, before, after);
    }

    pub(super) fn move_due(
        &mut self,
        pipeline: PipelineId,
        before: Appointment,
        after: Appointment,
    ) {
        if before != after {
            before.due.map(|due| self.due.remove(&(due, pipeline)));
            self.due.extend(after.due.map(|due| (due, pipeline)));
            before.horizon.map(|horizon| self.horizons.remove(&(horizon, pipeline)));
            self.horizons.extend(after.horizon.map(|horizon| (horizon, pipeline)));
        }
    }

    /// The scheduler has this run. It may have got it while the pipeline was deleted.
    pub(super) fn note_started(&mut self, run: RunId, pipeline: PipelineId) {
        let Some(known) = self.pipelines.get_mut(&pipeline) else { return };
        if known.deleted {
            self.unwanted.insert(run);
            return;
        }
        let before = known.appointment();
        if known.plan.starts.remove(&run).is_none() {
            return;
        }
        let (is_last, after) = (known.plan.starts.is_empty(), known.appointment());
        self.taken.insert(run, pipeline);
        if is_last {
            self.starting.remove(&pipeline);
        }
        self.move_due(pipeline, before, after);
    }

    /// Whose schedules want something by now or next, and when.
    #[must_use]
    pub fn next_tick(&self, now: Timestamp) -> Option<(Timestamp, PipelineId)> {
        let ahead = self.horizons.last().filter(|(horizon, _)| *horizon > furthest(now));
        ahead.map(|&(_, pipeline)| (now, pipeline)).or(self.due.first().copied())
    }
}

/// The clock was put back by so much that it must have been wrong before.
fn rewind(known: &Pipeline, at: Timestamp) -> Vec<Own> {
    let each = known.plan.schedules.crons.iter().zip(&known.plan.covered);
    let ahead = each.filter(|(_, covered)| **covered > furthest(at));
    let rewound = |(cron, &covered): (&Cron, &Timestamp)| {
        let (pipeline, cron) = (known.id, cron.to_string());
        Event::ScheduleRewound { pipeline, cron, covered, at }.into()
    };
    ahead.map(rewound).collect()
}

fn fire(known: &Pipeline, index: usize, due: Timestamp, run: RunId, at: Timestamp) -> Vec<Own> {
    let (pipeline, schedules) = (known.id, &known.plan.schedules);
    let cron = &schedules.crons[index];
    let next = |after: &Timestamp| cron.next(*after, schedules.zone.0).filter(|time| *time <= at);
    // The latest of those that are not missed; there are few.
    let first = if due > earliest(at) { Some(due) } else { next(&earliest(at)) };
    let latest = std::iter::successors(first, next).last();
    let skipped = |tick, reason: &str| {
        let (cron, reason) = (cron.to_string(), reason.to_owned());
        Event::TickSkipped { pipeline, cron, tick, reason, at }.into()
    };
    let start = match (latest, schedules.missed) {
        (Some(latest), _) => latest,
        (None, MissedTicks::Once) => due,
        (None, MissedTicks::Skip) => return vec![skipped(due, MISSED)],
    };
    if known.built.is_none() {
        return vec![skipped(start, "the pipeline has no build that succeeded")];
    }
    let mut events = vec![];
    if due < start && schedules.missed == MissedTicks::Skip {
        events.push(skipped(due, MISSED));
    }
    events.push(
        Event::ScheduleFired { pipeline, cron: cron.to_string(), tick: start, run, at }.into(),
    );
    events
}

const MISSED: &str = "the service or the scheduler was away, or the clock was put forward";

/// When the clock matters to the schedules of a pipeline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Appointment {
    due: Option<Timestamp>,
    horizon: Option<Timestamp>,
}

impl Pipeline {
    pub(super) fn appointment(&self) -> Appointment {
        let horizon = if self.deleted { None } else { self.plan.horizon() };
        Appointment { due: self.due(), horizon }
    }

    /// When its schedules want something next.
    #[must_use]
    pub fn due(&self) -> Option<Timestamp> {
        if self.deleted { None } else { self.plan.due() }
    }
}

impl From<Event> for Own {
    fn from(event: Event) -> Self {
        Self::Plan(event)
    }
}
