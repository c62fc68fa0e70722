//! States of the past: the fold of the log up to a position.
//!
//! A look keeps the states at places that it passes, and the next look begins at the nearest one before
//! it. So the log is read from its first event once after a start, by whoever looks first; later looks
//! read at most what lies between two places, about a thirtieth of the log when it is long.

use std::sync::Arc;

use futures::StreamExt;
use tokio::sync::Mutex;

use super::{DecodeError, OwnerError, Rules, known};
use crate::{Fold, Log, Recorded};

/// Places that are kept, and the positions between two of them while they are fewer.
const MOST: usize = 64;
const APART: u64 = 10_000;

/// Looks back, for one caller at a time. Cheap to clone. `S` is cloned for each place, so it should share
/// what it can, and hold no more than what is shown of the past.
#[derive(Clone, Debug)]
pub struct Past<S: Fold> {
    log: Log,
    wanted: Vec<&'static str>,
    decode: fn(&Recorded) -> Result<Option<S::Event>, DecodeError>,
    places: Arc<Mutex<Places<S>>>,
}

impl<S: Fold + Clone> Past<S> {
    /// Folds the events that a service with these rules does; `S` may be less than its state.
    #[must_use]
    pub fn new<T: Fold<Event = S::Event>, C, E, R>(log: Log, rules: &Rules<T, C, E, R>) -> Self {
        let wanted = [rules.owns, rules.follows].concat();
        let places = Places { apart: APART, states: vec![] };
        Self { log, wanted, decode: rules.decode, places: Arc::new(Mutex::new(places)) }
    }

    /// The state as it was when the log ended before this position.
    pub async fn before(&self, end: u64) -> Result<S, OwnerError> {
        let end = end.min(self.log.next_position().await?);
        let mut places = self.places.lock().await;
        let (from, mut state) = places.before(end);
        let mut stored = self.log.read_all(from, &self.wanted);
        while let Some(recorded) = stored.next().await {
            let recorded = recorded?;
            if recorded.position >= end {
                break;
            }
            places.pass(recorded.position, &state);
            if let Some(event) = known(self.decode, &recorded)? {
                state.evolve(&event);
            }
            // Others get their turn, however much there is.
            tokio::task::consume_budget().await;
        }
        places.pass(end, &state);
        Ok(state)
    }

    /// What looks are at.
    #[must_use]
    pub fn log(&self) -> &Log {
        &self.log
    }
}

/// States, each of everything before its position; in order of the positions.
#[derive(Debug)]
struct Places<S> {
    apart: u64,
    states: Vec<(u64, S)>,
}

impl<S: Default + Clone> Places<S> {
    /// The last one that is not behind this position.
    fn before(&self, end: u64) -> (u64, S) {
        let behind = self.states.partition_point(|&(position, _)| position <= end);
        self.states[..behind].last().cloned().unwrap_or_default()
    }

    /// Keeps it if the last one before it is far enough away.
    fn pass(&mut self, position: u64, state: &S) {
        let at = self.states.partition_point(|&(known, _)| known <= position);
        let last = self.states[..at].last().map_or(0, |&(known, _)| known);
        if position - last < self.apart {
            return;
        }
        self.states.insert(at, (position, state.clone()));
        while self.states.len() > MOST {
            self.apart *= 2;
            let mut last = 0;
            self.states.retain(|&(position, _)| {
                let is_far = position - last >= self.apart;
                last = if is_far { position } else { last };
                is_far
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_stay_few_and_evenly_apart() {
        let mut places = Places { apart: 10, states: vec![] };
        for position in 0..100_000_u64 {
            places.pass(position, &position);
            assert!(places.states.len() <= MOST);
        }
        let longest = |places: &Places<u64>| {
            (0..100_000).map(|end| end - places.before(end).0).max().unwrap()
        };
        assert!(longest(&places) <= 100_000 / (MOST as u64 / 2), "{}", longest(&places));
        assert!(places.states.iter().all(|(position, state)| position == state));
        // A look into a stretch that was skipped keeps a place there, in order.
        let mut places = Places { apart: 10, states: vec![(100, 100), (200, 200)] };
        places.pass(150, &150);
        places.pass(155, &155);
        assert_eq!(places.before(199), (150, 150));
        assert_eq!(places.before(9), (0, 0));
    }
}
