//! What an agent needs to know before it starts.

use std::{fmt, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

/// Settings of one agent. Every field has a default, but `server` must be given.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where the gateway is: "https://host:port".
    pub server: String,
    /// What people call this worker. Empty: the name of the host.
    pub name: String,
    /// A join token. Needed only to join; an agent that joined keeps its identity.
    pub token: String,
    /// The registration secret, Gaia's way instead of a token. Needed only to join; an agent that joined keeps its identity.
    pub secret: String,
    /// Tags beside those that the agent finds by itself. "-python" takes one away.
    pub tags: Vec<String>,
    /// Runs at the same time. 0: as many as the machine has cores.
    pub slots: u32,
    /// Folder for identity, cache and work. Belongs to one agent at a time.
    pub home: PathBuf,
    /// The CA to trust for joining by the secret (a token knows it): the path of a PEM file, or the PEM text itself.
    pub ca_certificate: String,
    /// Which versions of HTTP to speak.
    pub protocols: Protocols,
    /// Seconds between asking a process to end and killing it.
    pub grace_seconds: u64,
    /// Seconds that running runs may take to end when the agent shuts down.
    pub drain_seconds: u64,
    /// Seconds that one build may take.
    pub build_seconds: u64,
    /// Bytes of log that one attempt may write; what comes after is dropped.
    pub log_limit: u64,
    /// Bytes of one attempt's log that may wait on this disk for the server; at least 8 MiB.
    pub spool_limit: u64,
    /// What happens when so much of a log waits.
    pub spool_full: WhenFull,
    /// Bytes of binaries to keep, and as many of what was prepared of them and of what builds keep for the next
    /// one; the least recently used go first.
    pub cache_limit: u64,
    /// The agent inside a server, which takes only what no other worker can.
    pub primary: bool,
}

/// Which versions of HTTP the agent speaks with the gateway.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocols {
    /// HTTP/3, and HTTP/2 where UDP does not pass.
    #[default]
    PreferHttp3,
    Http2,
    Http3,
}

/// What becomes of a job's output when the spool is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhenFull {
    /// The job waits until the server has taken more: nothing is missing.
    #[default]
    Block,
    /// The job goes on; what finds no room is dropped, and the log says how much is missing.
    Drop,
}

impl From<Protocols> for transport::Protocols {
    fn from(protocols: Protocols) -> Self {
        match protocols {
            Protocols::PreferHttp3 => Self::PreferHttp3,
            Protocols::Http2 => Self::Http2,
            Protocols::Http3 => Self::Http3,
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            server: String::new(),
            name: String::new(),
            token: String::new(),
            secret: String::new(),
            tags: Vec::new(),
            slots: 0,
            home: PathBuf::from("gaia-agent"),
            ca_certificate: String::new(),
            protocols: Protocols::default(),
            grace_seconds: 10,
            drain_seconds: 3600,
            build_seconds: 3600,
            log_limit: 1 << 30,
            spool_limit: 256 << 20,
            spool_full: WhenFull::default(),
            cache_limit: 10 << 30,
            primary: false,
        }
    }
}

impl Config {
    pub(crate) fn slots(&self) -> i32 {
        let slots = match self.slots {
            0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            slots => slots as usize,
        };
        i32::try_from(slots).unwrap_or(i32::MAX)
    }

    pub(crate) fn grace(&self) -> Duration {
        Duration::from_secs(self.grace_seconds)
    }

    pub(crate) fn drain(&self) -> Duration {
        Duration::from_secs(self.drain_seconds)
    }

    pub(crate) fn build_time(&self) -> Duration {
        Duration::from_secs(self.build_seconds)
    }

    /// The name to register with.
    pub(crate) fn worker_name(&self) -> String {
        if !self.name.is_empty() {
            return self.name.clone();
        }
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        host.trim().to_owned()
    }
}

/// Shows everything but the token and the secret.
impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("server", &self.server)
            .field("name", &self.name)
            .field("tags", &self.tags)
            .field("slots", &self.slots)
            .field("home", &self.home)
            .field("protocols", &self.protocols)
            .field("primary", &self.primary)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_needs_only_what_differs() {
        let config: Config = toml::from_str("server = \"https://gaia:8443\"\nslots = 3").unwrap();
        assert_eq!(config.slots(), 3);
        assert_eq!(config.grace(), Duration::from_secs(10));
        assert!(toml::from_str::<Config>("sever = \"x\"").is_err());
    }

    #[test]
    fn debug_output_does_not_show_the_secret() {
        let config =
            Config { secret: "hunter2".into(), token: "hunter2".into(), ..Config::default() };
        assert!(!format!("{config:?}").contains("hunter2"));
    }
}
