//! Hosts pipelines: starts the program, speaks Gaia's plugin protocol with it, ends it for certain.
//!
//! A pipeline is a process that prints one line saying where it listens, and then answers two RPCs,
//! `GetJobs` and `ExecuteJob`, over mutually authenticated TLS. Every SDK of Gaia works unmodified.
//!
//! In reading order: [`launch`](Launch) says what to start, `process` owns the child and its output,
//! `output` reads what it prints, `running` knows whose that is, `handshake` its line, `certificates` makes the run's TLS identity, `connection` dials,
//! `plugin` is the whole of it, `graph` runs the jobs by their dependencies.
//!
//! Invariants: no process of a plugin's group outlives its [`Plugin`]; only job ids that the
//! pipeline itself gave are ever sent to it; a pipeline that dies has failed, never succeeded.

mod certificates;
mod connection;
mod graph;
mod handshake;
mod output;
mod plugin;
mod process;
mod running;
#[cfg(test)]
mod tests;

use std::{ffi::OsString, path::PathBuf, sync::Arc};

use bytes::Bytes;

use crate::clock;

pub use graph::{GraphError, GraphOutcome, JobTransition, JobUpdate, check, run_graph};
pub use output::LastOutput;
pub use plugin::{CertificatesFailed, JobOutcome, Plugin, PluginError, StartError};
pub use process::Exit;

/// What to start, and where.
#[derive(Debug, Clone)]
pub struct Launch {
    /// An absolute path, or a name that the `PATH` of `env` finds.
    pub program: PathBuf,
    pub args: Vec<OsString>,
    pub cwd: PathBuf,
    /// The complete environment; nothing is inherited. The protocol's own variables are added and
    /// win over the same names here.
    pub env: Vec<(OsString, OsString)>,
    /// A folder for this run alone; made with mode 0700 where it is missing. Holds the certificates
    /// and perhaps the pipeline's socket.
    pub scratch: PathBuf,
}

/// A piece of what a pipeline wrote, as it came out of the pipe: not cut at lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    pub stream: Stream,
    /// Which jobs ran then: one of them wrote it.
    pub jobs: Jobs,
    /// When it came, in milliseconds since the epoch.
    pub at: u64,
    pub bytes: Bytes,
}

impl Output {
    /// It came now.
    pub fn now(stream: Stream, jobs: Jobs, bytes: Bytes) -> Self {
        Self { stream, jobs, at: u64::try_from(clock::millis()).unwrap_or(0), bytes }
    }
}

/// The ids of jobs.
pub type Jobs = Arc<[u32]>;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stream {
    Stdout,
    Stderr,
}
