//! The right to append, for as long as the log was seen to say so not long ago.
//!
//! Whoever leads stands in the last event of a stream of elections; the revision of that event is the
//! term. A leader looks again and again, and stops on its own when it could not for too long. The
//! clock counts on while the process or the machine sleeps, so whoever wakes up looks before it acts.

use std::time::Duration;

use futures::StreamExt;

use super::OwnerError;
use crate::Log;

/// What a leader of a term has.
#[derive(Debug)]
pub struct Lease {
    log: Log,
    stream: &'static str,
    term: u64,
    valid: Duration,
    until: Moment,
}

/// A time of a clock that nobody sets, and that does not stop with the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(Duration);

impl Moment {
    #[must_use]
    pub fn now() -> Self {
        #[cfg(target_os = "linux")]
        let clock = nix::time::ClockId::CLOCK_BOOTTIME;
        #[cfg(not(target_os = "linux"))]
        let clock = nix::time::ClockId::CLOCK_MONOTONIC;
        let now = nix::time::clock_gettime(clock).expect("every kernel has this clock");
        Self(now.into())
    }
}

impl Lease {
    /// Won by the event of this revision in the stream of elections. `asked`: before the event was
    /// appended. It is good for `valid` after each look.
    #[must_use]
    pub fn new(log: Log, stream: &'static str, term: u64, valid: Duration, asked: Moment) -> Self {
        Self { log, stream, term, valid, until: Moment(asked.0 + valid) }
    }

    #[must_use]
    pub fn term(&self) -> u64 {
        self.term
    }

    /// Of elections.
    pub(super) fn stream(&self) -> &'static str {
        self.stream
    }

    pub(super) fn is_of(&self, stream: &str) -> bool {
        self.stream == stream
    }

    /// How often to look, so that it is seldom found to be over.
    pub(super) fn pace(&self) -> Duration {
        self.valid / 4
    }

    /// Answers while the lease is good; looks first if it is not.
    pub(super) async fn hold(&mut self) -> Result<(), OwnerError> {
        while self.until <= Moment::now() {
            self.confirm().await?;
        }
        Ok(())
    }

    /// Looks at the log, and is good for a while if nobody else was elected.
    pub(super) async fn confirm(&mut self) -> Result<(), OwnerError> {
        let asked = Moment::now();
        let last = self.log.read_stream_backward(self.stream, None, 1).next().await.transpose()?;
        self.check(last.map_or(0, |last| last.revision))?;
        self.until = Moment(asked.0 + self.valid);
        Ok(())
    }

    /// `seen`: the term of the last election that is known.
    pub(super) fn check(&self, seen: u64) -> Result<(), OwnerError> {
        if seen == self.term {
            return Ok(());
        }
        Err(OwnerError::Deposed { term: self.term, by: seen })
    }
}
