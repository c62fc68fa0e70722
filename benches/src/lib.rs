//! What we publish figures from: one program a subject in `src/bin`, each with its raw baseline from the
//! same minute. Run them with `cargo run --release -p benches --bin NAME`.

pub mod events;
mod fleet;
mod process;
mod raw;
mod relay;
mod seed;
mod worker;

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Result;
use clap::Parser;

pub use fleet::{Fleet, Joined, Outcome};
pub use process::Usage;
pub use raw::raw_appends;
pub use relay::Relay;
pub use seed::{Kind, seed};
pub use worker::BenchWorker;

/// Real time.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "a benchmark measures real time")]
pub fn now() -> Instant {
    Instant::now()
}

/// `p50 …, p99 …, most …` of what was measured.
pub fn percentiles(took: &mut [Duration]) -> String {
    if took.is_empty() {
        return "not measured".to_owned();
    }
    took.sort_unstable();
    let at = |share: usize| took[(took.len() * share / 100).min(took.len() - 1)];
    format!("p50 {:?}, p99 {:?}, most {:?}", at(50), at(99), took[took.len() - 1])
}

/// How many a second.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "counts are small")]
pub fn rate(count: usize, took: Duration) -> f64 {
    count as f64 / took.as_secs_f64()
}

/// What each of so many had of it.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "counts are small")]
pub fn each(total: f64, count: usize) -> f64 {
    total / count as f64
}

/// KiB that each of so many takes of these bytes.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "figures are rounded anyway")]
pub fn kibibytes_each(bytes: u64, count: usize) -> f64 {
    each(bytes as f64 / 1024.0, count)
}

/// MiB a second.
#[must_use]
pub fn mebibytes(bytes: usize, took: Duration) -> f64 {
    rate(bytes, took) / f64::from(1 << 20)
}

/// The machine's load, for beside the figures.
#[must_use]
pub fn load() -> String {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split_whitespace().take(3).collect::<Vec<_>>().join(" ")
}

/// A benchmark's `main`. Its program is also the server and the agents that it starts.
pub fn run<A: Parser>(bench: impl AsyncFnOnce(A) -> Result<()>) -> Result<ExitCode> {
    let word = std::env::args().nth(1);
    if matches!(word.as_deref(), Some("server" | "agent")) {
        return Ok(gaia::main());
    }
    tokio::runtime::Runtime::new()?.block_on(bench(A::parse()))?;
    Ok(ExitCode::SUCCESS)
}
