//! Slows down who guesses passwords: after a few failures in a row a user, or an address, has to wait,
//! each time twice as long. In memory; a restart forgets it.
//!
//! A success is a user's proof, and ends that user's wait. It does not end that of the address: whoever
//! has one password could try others from there for ever.
//!
//! The address is the connection's. Behind a proxy that ends connections all users share that of the
//! proxy, and wait for each other. `X-Forwarded-For` is not believed from anybody: the gateway knows workers
//! by the certificates of their connections, so what ends connections cannot stand before it anyway; a
//! proxy there passes TCP and UDP through, and leaves the client's address (as a transparent one, or by
//! routing).

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Longest name that a user may have, in bytes.
const NAME: usize = 256;
/// Failures of a user without a wait.
const OF_USER: u32 = 5;
/// Failures from an address without a wait: many users may share one.
const OF_ADDRESS: u32 = 20;
const LONGEST: Duration = Duration::from_secs(30);
/// Without a failure for so long, all is forgotten.
const FORGET: Duration = Duration::from_mins(10);
/// Names and addresses remembered at most; names that do not exist count too.
const MOST: usize = 10_000;

/// Who has to wait.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Who {
    User(String),
    Address(IpAddr),
}

impl Who {
    /// All that are responsible for an attempt.
    #[must_use]
    pub fn of(username: &str, address: Option<IpAddr>) -> Vec<Self> {
        // All names that cannot exist share one entry.
        let username = if username.len() <= NAME { username } else { "" };
        let user = Self::User(username.to_owned());
        [user].into_iter().chain(address.map(|address| Self::Address(network(address)))).collect()
    }

    fn free(&self) -> u32 {
        match self {
            Self::User(_) => OF_USER,
            Self::Address(_) => OF_ADDRESS,
        }
    }
}

/// One IPv6 customer has a whole /64.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) & !u128::from(u64::MAX)).into()),
    }
}

#[derive(Debug, Default)]
pub struct Throttle(Mutex<HashMap<Who, Failures>>);

#[derive(Debug)]
struct Failures {
    count: u32,
    last: Instant,
}

impl Throttle {
    /// How long the longest of these waits still is.
    #[must_use]
    pub fn wait(&self, whose: &[Who]) -> Option<Duration> {
        whose.iter().filter_map(|who| self.wait_of(who)).max()
    }

    fn wait_of(&self, who: &Who) -> Option<Duration> {
        let failures = self.failures();
        let failures = failures.get(who)?;
        let beyond = failures.count.checked_sub(who.free())?;
        let wait = Duration::from_secs(1 << beyond.min(6)).min(LONGEST);
        wait.checked_sub(failures.last.elapsed()).filter(|left| !left.is_zero())
    }

    /// They have tried in vain.
    pub fn failed(&self, whose: Vec<Who>) {
        for who in whose {
            self.one_failed(who);
        }
    }

    fn one_failed(&self, who: Who) {
        let mut failures = self.failures();
        if failures.len() >= MOST {
            failures.retain(|_, failures| failures.last.elapsed() < LONGEST);
        }
        let now = Instant::now();
        let entry = failures.entry(who).or_insert_with(|| Failures { count: 0, last: now });
        if entry.last.elapsed() >= FORGET {
            entry.count = 0;
        }
        entry.count += 1;
        entry.last = now;
    }

    /// A right password came from them.
    pub fn succeeded(&self, whose: &[Who]) {
        for who in whose.iter().filter(|who| matches!(who, Who::User(_))) {
            self.failures().remove(who);
        }
    }

    fn failures(&self) -> MutexGuard<'_, HashMap<Who, Failures>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn ann() -> Vec<Who> {
        Who::of("ann", None)
    }

    fn seconds(throttle: &Throttle, whose: &[Who]) -> Option<u64> {
        throttle.wait(whose).map(|wait| wait.as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn waits_grow_with_failures_and_end_with_a_success() {
        let throttle = Throttle::default();
        for _ in 0..4 {
            throttle.failed(ann());
            assert_eq!(seconds(&throttle, &ann()), None);
        }
        for expected in [1, 2, 4, 8, 16, 30, 30] {
            throttle.failed(ann());
            assert_eq!(seconds(&throttle, &ann()), Some(expected));
        }
        assert_eq!(throttle.wait(&Who::of("bob", None)), None);
        advance(Duration::from_secs(29)).await;
        assert_eq!(seconds(&throttle, &ann()), Some(1));
        advance(Duration::from_secs(1)).await;
        assert_eq!(seconds(&throttle, &ann()), None);
        throttle.succeeded(&ann());
        throttle.failed(ann());
        assert_eq!(seconds(&throttle, &ann()), None);
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_waits_whatever_names_it_tries_and_whichever_it_knows() {
        let throttle = Throttle::default();
        let from = |name: &str, address: &str| Who::of(name, Some(address.parse().unwrap()));
        for n in 0..20 {
            assert_eq!(seconds(&throttle, &from("ann", "2001:db8::1")), None);
            throttle.failed(from(&format!("user{n}"), &format!("2001:db8::{n}")));
        }
        assert_eq!(seconds(&throttle, &from("ann", "2001:db8::ffff:1")), Some(1));
        throttle.succeeded(&from("ann", "2001:db8::1"));
        assert_eq!(seconds(&throttle, &from("ann", "2001:db8::1")), Some(1));
        for other in ["2001:db8:0:1::1", "192.0.2.1"] {
            assert_eq!(seconds(&throttle, &from("ann", other)), None);
        }
        for _ in 0..20 {
            throttle.failed(from(&"x".repeat(1_000), "::ffff:192.0.2.1"));
        }
        assert_eq!(seconds(&throttle, &from("ann", "192.0.2.1")), Some(1));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_long_ago_is_forgotten() {
        let throttle = Throttle::default();
        for _ in 0..9 {
            throttle.failed(ann());
        }
        advance(FORGET).await;
        throttle.failed(ann());
        assert_eq!(throttle.wait(&ann()), None);
    }
}
