//! What waits to be written, and when it is worth a write.
//!
//! Writers that were answered together tend to come back together. A write that starts with the first
//! of them takes one and leaves the others to a second sync, so the inbox waits a moment for as many
//! as there were: never with a lone writer, never longer than a fraction of a sync, and not once
//! arrivals have ceased.

use std::{
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::writer::Request;

/// Arrivals while there is time anyway are staged in groups of this many: each wake costs.
const GROUP: usize = 32;

#[derive(Default)]
pub(super) struct Inbox {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: Vec<Request>,
    /// As soon as this many wait, whoever stages wants to know.
    wake_at: usize,
    /// Nobody will send any more.
    closed: bool,
    /// Nothing will be written any more.
    stopped: bool,
    /// A write is under way.
    busy: bool,
    /// How many are staged.
    staged: usize,
    /// How many appends were under way when the last write ended: answered, staged, or waiting.
    crowd: usize,
    /// How long to wait for them, at most, and when it began.
    patience: Duration,
    since: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// There are requests to stage.
    Stage,
    /// The disk is free, and is now the caller's until [`Inbox::wrote`].
    Write,
    End,
}

impl Inbox {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request that comes too late is dropped, and its reply with it.
    pub(super) fn send(&self, request: Request) {
        let mut state = self.state();
        if state.closed || state.stopped {
            return;
        }
        state.waiting.push(request);
        if state.waiting.len() >= state.wake_at {
            state.wake_at = usize::MAX;
            drop(state);
            self.changed.notify_all();
        }
    }

    /// Waits for what to do next, given how many appends are staged, and whether that is all that
    /// fits into one write.
    pub(super) fn next(&self, staged: usize, full: bool, taken: &mut Vec<Request>) -> Next {
        let mut state = self.state();
        let mut quiet = false;
        state.staged = staged;
        loop {
            if state.stopped {
                return Next::End;
            }
            if !full && !state.waiting.is_empty() {
                std::mem::swap(&mut state.waiting, taken);
                return Next::Stage;
            }
            if staged == 0 && state.closed && !state.busy {
                return Next::End;
            }
            if staged == 0 || state.busy {
                state.wake_at = match (full, staged) {
                    (true, _) => usize::MAX,
                    (false, 0) => 1,
                    (false, _) => GROUP,
                };
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let missing = state.crowd.saturating_sub(staged);
            let waited = state.since.map_or(Duration::MAX, |since| since.elapsed());
            let left = state.patience.saturating_sub(waited);
            if quiet || full || state.closed || missing == 0 || left.is_zero() {
                state.busy = true;
                state.staged = 0;
                return Next::Write;
            }
            state.wake_at = missing.min(GROUP);
            let moment = left.min(state.patience / 4);
            let (next, timeout) =
                self.changed.wait_timeout(state, moment).unwrap_or_else(PoisonError::into_inner);
            state = next;
            quiet = timeout.timed_out();
        }
    }

    /// The disk is free again, after a write that answered so many and took so long.
    #[expect(clippy::disallowed_methods, reason = "paces the writer; nothing stored depends on it")]
    pub(super) fn wrote(&self, answered: usize, took: Duration) {
        let mut state = self.state();
        state.busy = false;
        state.crowd = answered + state.staged + state.waiting.len();
        state.patience = took / 2;
        state.since = Some(Instant::now());
        // With nothing to do, whoever stages would only wake to wait again.
        let awaited = state.staged > 0 || !state.waiting.is_empty() || state.closed;
        drop(state);
        if awaited {
            self.changed.notify_all();
        }
    }

    /// What waits is still taken.
    pub(super) fn close(&self) {
        self.state().closed = true;
        self.changed.notify_all();
    }

    /// What waits is dropped.
    pub(super) fn stop(&self) {
        let mut state = self.state();
        state.stopped = true;
        let dropped = std::mem::take(&mut state.waiting);
        drop(state);
        drop(dropped);
        self.changed.notify_all();
    }
}
