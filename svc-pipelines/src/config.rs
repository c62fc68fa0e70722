//! What can be set.

use std::time::Duration;

use serde::Deserialize;

/// `[service]` in the configuration file.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How long the scheduler may take to answer before a build is submitted to it again, in
    /// milliseconds.
    pub scheduler_timeout_ms: u64,
    /// Longest pause between two tries to reach the scheduler, in milliseconds.
    pub longest_retry_pause_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { scheduler_timeout_ms: 10_000, longest_retry_pause_ms: 5_000 }
    }
}

impl Config {
    pub(crate) const fn scheduler_timeout(&self) -> Duration {
        Duration::from_millis(self.scheduler_timeout_ms)
    }

    pub(crate) const fn longest_retry_pause(&self) -> Duration {
        Duration::from_millis(self.longest_retry_pause_ms)
    }
}
