//! What can be set.

use std::path::PathBuf;

use serde::Deserialize;

/// `[service]` in the configuration file.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The folder of the blobs: `<data>/sha256/<aa>/<hex>`. Made if it is missing; for this service
    /// alone.
    pub data: PathBuf,
    /// Largest blob, in bytes.
    pub max_artifact_bytes: u64,
    /// Bytes of all blobs together, those on their way included; 0: as much as the disk takes.
    pub max_total_bytes: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { data: "artifacts".into(), max_artifact_bytes: 4 << 30, max_total_bytes: 0 }
    }
}
