//! What can be set.

use std::path::PathBuf;

use serde::Deserialize;

/// `[service]` in the configuration file.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The folder of the blobs, unless they are in a bucket. Made if it is missing; for this service
    /// alone.
    pub data: PathBuf,
    /// A bucket for the blobs instead: `s3://<bucket>/<prefix>`. Endpoint and credentials are the
    /// variables `AWS_*`. For this service alone.
    pub bucket: Option<String>,
    /// Largest blob, in bytes.
    pub max_artifact_bytes: u64,
    /// Bytes of all blobs as they are stored, those on their way included; 0: as much as there is room
    /// for.
    pub max_total_bytes: u64,
    /// Days that a blob is kept after nothing needs it any more.
    pub keep_days: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data: "artifacts".into(),
            bucket: None,
            max_artifact_bytes: 4 << 30,
            max_total_bytes: 0,
            keep_days: 30,
        }
    }
}
