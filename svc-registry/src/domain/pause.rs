//! Suspensions and drains: why and until when a worker gets no new runs.
//!
//! ```text
//!           suspend                    resume, or its end comes
//!   active ─────────▶ suspended ──────────────────────────────▶ active
//!           drain                  deadline                  resume
//!   active ─────────▶ draining ──────────────▶ draining, expired ─────▶ active
//! ```
//!
//! The last wish counts: suspending a draining worker ends the drain.

use std::time::Duration;

use ids::{Timestamp, WorkerId};

use super::{Event, Rejection, State};

/// How far ahead an end may be.
const FURTHEST: Duration = Duration::from_hours(24 * 366);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pause {
    pub kind: PauseKind,
    /// Why.
    pub note: String,
    /// End of the suspension, or deadline of the drain.
    pub until: Option<Timestamp>,
    /// The deadline came, and the runs were taken away.
    pub expired: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PauseKind {
    Suspended,
    Draining,
}

impl Pause {
    /// When something will have to be done about it.
    pub(super) fn due(&self) -> Option<Timestamp> {
        self.until.filter(|_| !self.expired)
    }

    fn event(self, worker: WorkerId, at: Timestamp) -> Event {
        let Self { kind, note, until, .. } = self;
        match kind {
            PauseKind::Suspended => Event::WorkerSuspended { worker, until, note, at },
            PauseKind::Draining => Event::WorkerDrainStarted { worker, deadline: until, note, at },
        }
    }
}

pub(super) fn pause(
    state: &State,
    worker: WorkerId,
    wanted: Pause,
    at: Timestamp,
) -> Result<Vec<Event>, Rejection> {
    let known = super::registered(state, worker)?;
    let is_same = known.pause.as_ref().is_some_and(|pause| {
        (pause.kind, &pause.note, pause.until) == (wanted.kind, &wanted.note, wanted.until)
    });
    if is_same {
        return Ok(vec![]);
    }
    if let Some(until) = wanted.until {
        if until <= at {
            return Err(Rejection::EndIsPast(at.since(until)));
        }
        if until.since(at) > FURTHEST {
            return Err(Rejection::EndIsFar { days: days(until.since(at)), most: days(FURTHEST) });
        }
    }
    Ok(vec![wanted.event(worker, at)])
}

fn days(duration: Duration) -> u64 {
    duration.as_secs() / (24 * 60 * 60)
}

/// What follows for every pause whose time has come.
pub(super) fn end_pauses(state: &State, at: Timestamp) -> Vec<Event> {
    let end = |worker: WorkerId| {
        let pause = state.worker(worker)?.pause.as_ref()?;
        Some(match pause.kind {
            PauseKind::Suspended => {
                let note = "the suspension had an end time, and it came".to_owned();
                Event::WorkerResumed { worker, note, at }
            }
            PauseKind::Draining => Event::WorkerDrainExpired { worker, at },
        })
    };
    state.due(at).filter_map(end).collect()
}
