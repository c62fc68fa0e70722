//! Slows down who guesses passwords: after a few failures in a row a user has to wait, each time
//! twice as long. In memory; a restart forgets it.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Failures without a wait.
const FREE: u32 = 5;
const LONGEST: Duration = Duration::from_secs(30);
/// Without a failure for so long, all is forgotten.
const FORGET: Duration = Duration::from_mins(10);
/// Names remembered at most; names that do not exist count too.
const MOST: usize = 10_000;

#[derive(Debug, Default)]
pub(crate) struct Throttle(Mutex<HashMap<String, Failures>>);

#[derive(Debug)]
struct Failures {
    count: u32,
    last: Instant,
}

impl Throttle {
    /// How long the user still has to wait.
    pub(crate) fn wait(&self, username: &str) -> Option<Duration> {
        let failures = self.failures();
        let failures = failures.get(username)?;
        let beyond = failures.count.checked_sub(FREE)?;
        let wait = Duration::from_secs(1 << beyond.min(6)).min(LONGEST);
        wait.checked_sub(failures.last.elapsed()).filter(|left| !left.is_zero())
    }

    pub(crate) fn failed(&self, username: &str) {
        let mut failures = self.failures();
        if failures.len() >= MOST {
            failures.retain(|_, failures| failures.last.elapsed() < LONGEST);
        }
        let now = Instant::now();
        let entry =
            failures.entry(username.into()).or_insert_with(|| Failures { count: 0, last: now });
        if entry.last.elapsed() >= FORGET {
            entry.count = 0;
        }
        entry.count += 1;
        entry.last = now;
    }

    pub(crate) fn succeeded(&self, username: &str) {
        self.failures().remove(username);
    }

    fn failures(&self) -> MutexGuard<'_, HashMap<String, Failures>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn waits_grow_with_failures_and_end_with_a_success() {
        let throttle = Throttle::default();
        let seconds = |throttle: &Throttle| throttle.wait("ann").map(|wait| wait.as_secs());
        for _ in 0..4 {
            throttle.failed("ann");
            assert_eq!(seconds(&throttle), None);
        }
        for expected in [1, 2, 4, 8, 16, 30, 30] {
            throttle.failed("ann");
            assert_eq!(seconds(&throttle), Some(expected));
        }
        assert_eq!(throttle.wait("bob"), None);
        advance(Duration::from_secs(29)).await;
        assert_eq!(seconds(&throttle), Some(1));
        advance(Duration::from_secs(1)).await;
        assert_eq!(seconds(&throttle), None);
        throttle.succeeded("ann");
        throttle.failed("ann");
        assert_eq!(seconds(&throttle), None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_long_ago_is_forgotten() {
        let throttle = Throttle::default();
        for _ in 0..9 {
            throttle.failed("ann");
        }
        advance(FORGET).await;
        throttle.failed("ann");
        assert_eq!(throttle.wait("ann"), None);
    }
}
