//! What can be set.

use std::time::Duration;

use serde::Deserialize;

/// What svc-registry can be told.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How long a worker may be away before it counts as lost, in milliseconds, from when something was heard
    /// of it. Who falls silent, with its connection open, counts as away after 5 s, so less does not help then.
    pub grace_ms: u64,
    /// How long the certificate of a worker is valid that joined by a token and renews it by itself,
    /// in seconds.
    pub certificate_seconds: u64,
    /// The same for a worker that registered with the secret, as Gaia's agents do: they cannot renew it.
    pub worker_certificate_days: u32,
    /// The same for a service of the house, which renews it by itself, in seconds.
    pub service_certificate_seconds: u64,
    /// Whether workers may register with the secret, Gaia's way.
    pub registration_secret: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            grace_ms: 10_000,
            certificate_seconds: 24 * 3_600,
            worker_certificate_days: 90,
            service_certificate_seconds: 90 * 24 * 3_600,
            registration_secret: true,
        }
    }
}

impl Config {
    pub(crate) fn grace(&self) -> Duration {
        Duration::from_millis(self.grace_ms)
    }

    pub(crate) fn worker_certificate_valid(&self) -> Duration {
        Duration::from_hours(24 * u64::from(self.worker_certificate_days))
    }

    pub(crate) fn certificate_valid(&self) -> Duration {
        Duration::from_secs(self.certificate_seconds)
    }

    pub(crate) fn service_certificate_valid(&self) -> Duration {
        Duration::from_secs(self.service_certificate_seconds)
    }

    /// After this time, whatever was signed before it has expired.
    pub(crate) fn longest_valid(&self) -> Duration {
        let joined = self.certificate_valid().max(self.service_certificate_valid());
        joined.max(self.worker_certificate_valid())
    }
}
