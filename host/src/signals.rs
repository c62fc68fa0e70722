//! Ending when asked to.

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// What the process was asked.
#[derive(Clone, Debug, Default)]
pub struct Signals {
    /// Fires at the first SIGTERM or Ctrl-C: take nothing new, finish, end.
    pub shutdown: CancellationToken,
    /// Fires at the second: end now, in order. The third ends the process on the spot.
    pub abort: CancellationToken,
}

/// Listens from now on.
pub fn signals() -> Result<Signals> {
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for Ctrl-C")?;
    let signals = Signals::default();
    let steps = [signals.shutdown.clone(), signals.abort.clone()];
    tokio::spawn(async move {
        let mut steps = steps.iter();
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            match steps.next() {
                Some(step) => step.cancel(),
                None => std::process::exit(130),
            }
        }
    });
    Ok(signals)
}

/// The first signal, for processes that end the same way at any.
pub fn shutdown() -> Result<CancellationToken> {
    Ok(signals()?.shutdown)
}
