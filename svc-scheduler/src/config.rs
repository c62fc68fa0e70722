//! What can be set.

use std::time::Duration;

/// Durations are in seconds.
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
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_infrastructure_attempts: 5,
            start_timeout: Duration::from_mins(1),
            poll_grace: Duration::from_secs(15),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_set_has_its_default_and_a_misspelled_key_is_refused() {
        let config: Config = toml::from_str("start_timeout = 5").unwrap();
        assert_eq!(config, Config { start_timeout: Duration::from_secs(5), ..Config::default() });
        let error = toml::from_str::<Config>("start_timeuot = 5").unwrap_err();
        assert!(error.to_string().contains("start_timeuot"), "{error}");
    }
}
