//! What can be set.

use std::path::PathBuf;

use serde::Deserialize;

/// `[service]` in the configuration file.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The folder of the logs: `<data>/<run>/<attempt>.log`, and of `svc-logs.snapshot`, which may be
    /// removed. Made if it is missing; for this service alone.
    pub data: PathBuf,
    /// A bucket for logs once they are sealed: `s3://<bucket>/<prefix>`, instead of the folder. Endpoint and
    /// credentials are the variables `AWS_*`. For this service alone.
    pub bucket: Option<String>,
    /// Largest log of one attempt, in bytes.
    pub max_log_bytes: u64,
    /// How long a log that nobody writes or follows stays open, in seconds.
    pub idle_seconds: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { data: "logs".into(), bucket: None, max_log_bytes: 4 << 30, idle_seconds: 30 }
    }
}
