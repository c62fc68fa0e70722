//! What can be set.

use std::time::Duration;

/// Durations are in seconds, where the name does not say otherwise.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// A run whose attempts were lost or given back this often has failed. At least 1.
    pub max_infrastructure_attempts: u32,
    /// A worker that was given a run has this long to begin it or to say that it has it.
    #[serde(with = "seconds")]
    pub start_timeout: Duration,
    /// A worker that polls counts as being there for this long after it asked.
    #[serde(with = "seconds")]
    pub poll_grace: Duration,
    /// Of several schedulers: where the others and the gateway reach this one, `https://host:port`. Not
    /// set: where it listens.
    pub address: Option<String>,
    /// Of several schedulers: for how long the leader may act after it last saw in the log that it leads,
    /// and how long it must be silent to count as gone. In milliseconds, at least 100; the same for all.
    #[serde(with = "millis", rename = "leader_lease_millis")]
    pub leader_lease: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_infrastructure_attempts: 5,
            start_timeout: Duration::from_mins(1),
            poll_grace: Duration::from_secs(15),
            address: None,
            leader_lease: Duration::from_secs(2),
        }
    }
}

mod seconds {
    //! A duration as a number of seconds.

    use std::time::Duration;

    use serde::{Deserialize, Deserializer};

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        u64::deserialize(from).map(Duration::from_secs)
    }
}

mod millis {
    //! A duration as a number of milliseconds.

    use std::time::Duration;

    use serde::{Deserialize, Deserializer};

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        u64::deserialize(from).map(Duration::from_millis)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_set_has_its_default_and_a_misspelled_key_is_refused() {
        let config: Config = toml::from_str("start_timeout = 5").unwrap();
        assert_eq!(config, Config { start_timeout: Duration::from_secs(5), ..Config::default() });
        let config: Config = toml::from_str("leader_lease_millis = 500").unwrap();
        assert_eq!(config.leader_lease, Duration::from_millis(500));
        let error = toml::from_str::<Config>("start_timeuot = 5").unwrap_err();
        assert!(error.to_string().contains("start_timeuot"), "{error}");
    }
}
