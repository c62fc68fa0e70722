//! Checks what our services rely on against any log behind the EventStoreDB protocol.
//!
//! The assumptions are those of the crate's README, in its order and with its numbers. In reading order:
//! `probe` (what every check uses), `appends`, `reads`, `streams`. Much is asked through the official
//! client itself, since [`Log`] makes good what a server does wrong.
//!
//! Invariants:
//! - Nothing but streams of a prefix of its own is written to, and each is ended by a tombstone.
//! - A check that waits in vain ends, and fails.

mod appends;
mod probe;
mod reads;
mod streams;

use std::{path::Path, time::Duration};

use futures::{FutureExt, future::BoxFuture};
use tokio::time::timeout;

use crate::log::LogError;
use probe::{Probe, Unmet};

/// How long a check may take.
const LONGEST: Duration = Duration::from_mins(1);

/// What came of an assumption.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Holds,
    Fails,
    /// It cannot be brought about from outside.
    NotChecked,
}

/// An assumption, and what was seen of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Its number in the crate's README.
    pub number: usize,
    pub assumption: &'static str,
    pub outcome: Outcome,
    pub seen: String,
}

/// What was found, and what it left.
#[derive(Clone, Debug)]
pub struct Findings {
    pub server: String,
    pub findings: Vec<Finding>,
    /// Every stream that was written to begins with it.
    pub prefix: String,
    /// Streams that could not be ended, and why: whoever runs the log may delete them.
    pub left: Vec<String>,
}

type Seen<'a> = BoxFuture<'a, Result<String, Unmet>>;
type Check = for<'a> fn(&'a Probe) -> Seen<'a>;

macro_rules! checks {
    ($($module:ident :: $check:ident: $assumption:literal,)*) => {
        /// Each with its sentence; the numbers count from 1.
        const CHECKS: &[(&str, Check)] = &[
            $(($assumption, |probe| $module::$check(probe).boxed()),)*
        ];
    };
}

checks! {
    appends::one_session_keeps_the_order: "appends of one session keep their order",
    appends::a_retry_changes_nothing: "an append that comes again is answered as before, and changes nothing",
    appends::a_refused_append_stops_no_other: "a refused append changes nothing and stops no other",
    appends::large_batches_are_taken_whole: "1,000 events and 1 MiB are taken, as a whole",
    appends::positions_grow: "positions are one number, differ, grow, and are named in the answer",
    appends::revisions_have_no_gaps: "revisions count from 0 without gaps",
    reads::what_was_answered_is_seen: "what was answered is seen by the next read",
    reads::positions_begin_where_they_say: "reads and subscriptions begin where a position says",
    reads::a_subscription_shows_all_once: "a subscription shows what is stored and what comes, once",
    reads::filters_are_exact: "prefix filters are exact, and give checkpoints",
    reads::events_come_back_as_they_went_in: "events come back byte by byte",
    streams::metadata_hide_events: "a stream's metadata hide what it does not keep",
    streams::deletes_hide_and_tombstones_end: "a soft delete hides, a tombstone ends",
    streams::subscriptions_end_with_errors: "a subscription that ends does so with an error",
    appends::expectations_are_kept: "an append needs what it expects, and a conflict says what is",
    appends::of_many_writers_one_wins: "of many writers with one expectation one wins",
    reads::ends_are_found: "a stream that is not there and a read beyond its end are told apart",
    reads::a_slow_reader_stops_nobody: "a subscriber that does not read stops nobody",
    reads::the_clock_is_right: "events are stamped with the time",
}

/// Checks every assumption against the log at this address, which is meant as [`crate::Log::esdb`] means
/// it, and cleans up. An error: it is not to be reached, or lets us do nothing.
pub async fn check(url: &str, identity: Option<&Path>) -> Result<Findings, LogError> {
    let probe = Probe::new(url, identity)?;
    let server = probe.server().await?;
    let mut findings = Vec::new();
    for (number, (assumption, check)) in (1..).zip(CHECKS) {
        let seen = timeout(LONGEST, check(&probe)).await;
        let (outcome, seen) = match seen {
            Ok(Ok(seen)) => (Outcome::Holds, seen),
            Ok(Err(Unmet::NotChecked(why))) => (Outcome::NotChecked, why),
            Ok(Err(Unmet::Fails(seen))) => (Outcome::Fails, seen),
            Err(_) => (Outcome::Fails, format!("nothing for {} s", LONGEST.as_secs())),
        };
        findings.push(Finding { number, assumption, outcome, seen });
    }
    let left = probe.clean().await;
    Ok(Findings { server, findings, prefix: probe.prefix, left })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_readme_names_every_assumption() {
        let readme = include_str!("../README.md");
        let (_, section) = readme.split_once("## A cluster instead").unwrap();
        let (section, _) = section.split_once("\n## ").unwrap();
        let numbers =
            section.lines().filter_map(|line| line.split_once(". ")?.0.parse::<usize>().ok());
        assert!(numbers.eq(1..=CHECKS.len()));
    }
}
