//! What can be set.

use std::time::Duration;

use serde::Deserialize;

/// What svc-registry can be told.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How long a worker may be away before it counts as lost, in milliseconds.
    pub grace_ms: u64,
    /// How long the certificate of a new worker is valid, in days.
    pub worker_certificate_days: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self { grace_ms: 10_000, worker_certificate_days: 90 }
    }
}

impl Config {
    pub(crate) fn grace(&self) -> Duration {
        Duration::from_millis(self.grace_ms)
    }

    pub(crate) fn worker_certificate_valid(&self) -> Duration {
        Duration::from_hours(24 * u64::from(self.worker_certificate_days))
    }
}
