//! What can be set.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Settings of the gateway.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Seconds between two signs of life on an open `GetWork`; at least 1.
    pub keep_alive_seconds: u64,
    /// Largest body of a REST request, in bytes.
    pub max_body_bytes: usize,
    /// Hours for which the log of an ended attempt is still taken from the worker that had it.
    pub late_log_hours: u64,
    /// Largest log inside a JSON answer, in bytes; `?raw=1` has no limit.
    pub max_json_log_bytes: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            keep_alive_seconds: 5,
            max_body_bytes: 32 << 20,
            late_log_hours: 7 * 24,
            max_json_log_bytes: 16 << 20,
        }
    }
}

impl Config {
    pub(crate) fn keep_alive(&self) -> Duration {
        Duration::from_secs(self.keep_alive_seconds.max(1))
    }

    pub(crate) fn late_log(&self) -> Duration {
        Duration::from_secs(self.late_log_hours.saturating_mul(3600))
    }
}
