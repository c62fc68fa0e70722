//! Tracing start-up: what every process of the house does first.

use std::io::IsTerminal;

use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

/// Logs to standard error: one line an event, or JSON where `GAIA_LOG_FORMAT=json`. `GAIA_LOG` takes
/// the filter, in the syntax of `RUST_LOG`; without it `default_filter` holds.
///
/// Harmless when called again: the first call wins.
pub fn init(default_filter: &str) {
    let filter = EnvFilter::try_from_env("GAIA_LOG").unwrap_or_else(|_| default_filter.into());
    let json = std::env::var("GAIA_LOG_FORMAT").is_ok_and(|format| format == "json");
    let registry = tracing_subscriber::registry().with(filter);
    let outcome = if json {
        registry.with(fmt::layer().json().with_writer(std::io::stderr)).try_init()
    } else {
        let colours = std::io::stderr().is_terminal();
        let lines = fmt::layer().with_target(false).with_ansi(colours);
        registry.with(lines.with_writer(std::io::stderr)).try_init()
    };
    if outcome.is_err() {
        tracing::debug!("tracing was started before");
    }
}
