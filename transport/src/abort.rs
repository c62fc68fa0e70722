//! A task that lives no longer than who wants its result.

use tokio::task::AbortHandle;

/// Aborts the task when dropped.
pub(crate) struct AbortOnDrop(pub(crate) AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
