//! How long to wait before the next try.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};

/// Growing pauses with jitter, for as long as it takes; short at first, so that the restart of a
/// server passes almost unseen.
#[derive(Debug)]
pub(crate) struct Pauses {
    backoff: ExponentialBackoff,
}

const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(3);

impl Pauses {
    pub(crate) fn new() -> Self {
        let builder = ExponentialBuilder::new()
            .with_min_delay(SHORTEST)
            .with_max_delay(LONGEST)
            .with_jitter()
            .without_max_times();
        Self { backoff: builder.build() }
    }

    /// It worked: begin with short pauses again.
    pub(crate) fn reset(&mut self) {
        *self = Self::new();
    }

    pub(crate) async fn pause(&mut self) {
        tokio::time::sleep(self.backoff.next().unwrap_or(LONGEST)).await;
    }
}
