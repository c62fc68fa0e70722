//! Which logs are complete, and which attempts may still print.
//!
//! ```text
//!             end, with size and digest
//!  (growing) ───────────────────────────▶ Sealed (final)
//! ```
//!
//! Invariants:
//! - A log is sealed once, and what it was sealed with never changes.
//! - Of the runs only the open ones are kept.
//! - This module does no IO, reads no clock, and draws no random numbers.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
};

use eventlog::Fold;
use ids::{Attempt, Digest, RunId, Timestamp};

/// A wish. It can be refused.
#[derive(Clone, Debug)]
pub enum Command {
    /// The file was found to be so.
    SealLog { log: LogId, seal: Seal, lack: Lack, at: Timestamp },
}

/// A fact that this service decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    LogSealed { log: LogId, seal: Seal, lack: Lack, at: Timestamp },
}

/// Everything that the state folds: what this service decided, and what became of the runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact {
    Log(Event),
    RunSubmitted(RunId),
    /// The run goes on with another attempt.
    AttemptOver(LogId),
    RunOver(RunId),
}

impl From<Event> for Fact {
    fn from(event: Event) -> Self {
        Self::Log(event)
    }
}

/// The log of one attempt of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogId {
    pub run: RunId,
    pub attempt: Attempt,
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "log of run {}, attempt {}", self.run, self.attempt)
    }
}

/// What proves that a log is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seal {
    /// Bytes.
    pub size: u64,
    pub digest: Digest,
}

/// What a log does not hold although it was printed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lack {
    /// Places where the worker dropped something, and how many bytes in all.
    pub gaps: u64,
    pub dropped: u64,
    /// Why the end is missing; empty: it is not.
    pub incomplete: String,
    /// Bytes that the worker kept and could not bring.
    pub missing: u64,
}

/// Why a command was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    #[error("the {log} was sealed with {} bytes and another sha256; it cannot change any more", .known.size)]
    SealedOtherwise { log: LogId, known: Seal },
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    sealed: HashMap<RunId, BTreeMap<Attempt, (Seal, Lack)>>,
    /// Runs that have not ended, and the newest attempt that is over.
    open: HashMap<RunId, Attempt>,
}

/// The facts that follow from `command`. Empty: it was already so.
pub fn decide(state: &State, command: Command) -> Result<Vec<Event>, Rejection> {
    let Command::SealLog { log, seal, lack, at } = command;
    match state.seal(log) {
        None => Ok(vec![Event::LogSealed { log, seal, lack, at }]),
        Some(known) if known == seal => Ok(vec![]),
        Some(known) => Err(Rejection::SealedOtherwise { log, known }),
    }
}

impl Fold for State {
    type Event = Fact;

    fn evolve(&mut self, fact: &Fact) {
        match fact {
            Fact::Log(Event::LogSealed { log, seal, lack, .. }) => {
                self.insert_sealed(*log, *seal, lack.clone());
            }
            Fact::RunSubmitted(run) => self.insert_open(*run, Attempt(0)),
            Fact::AttemptOver(log) => {
                if let Some(over) = self.open.get_mut(&log.run) {
                    *over = log.attempt.max(*over);
                }
            }
            Fact::RunOver(run) => {
                self.open.remove(run);
            }
        }
    }
}

/// Which of a run's logs will not grow any more. Only ever becomes more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Over {
    /// Every attempt up to this one; the highest there is when the run has ended.
    pub through: Attempt,
    pub sealed: Vec<Attempt>,
}

impl Over {
    #[must_use]
    pub fn contains(&self, attempt: Attempt) -> bool {
        attempt <= self.through || self.sealed.contains(&attempt)
    }

    #[must_use]
    pub fn is_whole_run(&self) -> bool {
        self.through == Attempt(u32::MAX)
    }
}

impl State {
    #[must_use]
    pub fn seal(&self, log: LogId) -> Option<Seal> {
        self.sealed(log).map(|(seal, _)| *seal)
    }

    /// With [`State::all_open`], all there is.
    pub(crate) fn all_sealed(&self) -> impl Iterator<Item = (LogId, &Seal, &Lack)> {
        self.sealed.iter().flat_map(|(&run, logs)| {
            logs.iter().map(move |(&attempt, (seal, lack))| (LogId { run, attempt }, seal, lack))
        })
    }

    /// With the newest attempt that is over.
    pub(crate) fn all_open(&self) -> impl Iterator<Item = (RunId, Attempt)> {
        self.open.iter().map(|(&run, &over)| (run, over))
    }

    pub(crate) fn insert_sealed(&mut self, log: LogId, seal: Seal, lack: Lack) {
        self.sealed.entry(log.run).or_default().insert(log.attempt, (seal, lack));
    }

    pub(crate) fn insert_open(&mut self, run: RunId, over: Attempt) {
        self.open.insert(run, over);
    }

    #[must_use]
    pub fn sealed(&self, log: LogId) -> Option<&(Seal, Lack)> {
        self.sealed.get(&log.run)?.get(&log.attempt)
    }

    /// A run that was submitted and has not ended.
    #[must_use]
    pub fn is_open(&self, run: RunId) -> bool {
        self.open.contains_key(&run)
    }

    /// A run that is not known is over: it has ended, or never was.
    #[must_use]
    pub fn over(&self, run: RunId) -> Over {
        Over {
            through: self.open.get(&run).copied().unwrap_or(Attempt(u32::MAX)),
            sealed: self.sealed.get(&run).into_iter().flat_map(BTreeMap::keys).copied().collect(),
        }
    }
}

#[cfg(test)]
mod tests;
