//! What we publish figures from: one program a subject in `src/bin`, each with its raw baseline from the
//! same minute. Run them with `cargo run --release -p benches --bin NAME`.

mod worker;

use std::time::{Duration, Instant};

pub use worker::BenchWorker;

/// Real time.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "a benchmark measures real time")]
pub fn now() -> Instant {
    Instant::now()
}

/// `p50 …, p99 …, most …` of what was measured, which must not be empty.
pub fn percentiles(took: &mut [Duration]) -> String {
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
