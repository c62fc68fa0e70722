//! What waits to be written, who writes it, and when it is worth a write.
//!
//! Writers that were answered together tend to come back together. A write that starts with the first
//! of them takes one and leaves the others to a second sync, so a write waits for as many as there
//! were: never with a lone writer, and never longer than a fraction of a sync.
//!
//! Threads of the log's own write. On a fast disk it takes longer to wake a thread, and to be woken by
//! it, than to write and sync: there, whoever brings the last of those awaited writes them all. It is not
//! done on a runtime of one thread, which everything else would wait for.

use std::{
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::writer::Request;

/// The threads of a log.
pub(super) const THREADS: u8 = 2;
/// A disk that takes a write in less than this is faster than another thread.
const FAST: Duration = Duration::from_micros(400);
/// More appends than this are worth the threads: one encodes while the other waits for the disk.
const FEW: usize = 64;
/// As many are worth waking the other thread while the first one writes.
const GROUP: usize = 32;
/// While there are appends, a thread looks this often for one that nobody came to write: its caller has
/// something else to do first.
const TICK: Duration = Duration::from_millis(1);

#[derive(Default)]
pub(super) struct Inbox {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
#[expect(clippy::struct_excessive_bools, reason = "they change independently")]
struct State {
    waiting: Vec<Request>,
    /// Nobody will send any more.
    closed: bool,
    /// Nothing will be written any more.
    stopped: bool,
    /// Somebody prepares a write.
    staging: bool,
    /// Somebody has the disk.
    writing: bool,
    /// How many threads sleep until they are called.
    asleep: u8,
    /// One of them was called to what waits.
    called: bool,
    /// One of them looks again after a [`TICK`].
    ticking: bool,
    /// There were appends since it last looked.
    active: bool,
    /// How many appends were under way when the last write ended: answered, or waiting.
    crowd: usize,
    /// How long to wait for them, at most, and when it began.
    patience: Duration,
    since: Option<Instant>,
    /// Whether the disk was [`FAST`].
    fast: bool,
}

/// What whoever appends has to do next.
pub(super) enum Lead {
    /// Write these.
    Write(Vec<Request>),
    /// Let others append first, and ask again.
    Yield,
    /// Wait for the answer.
    Wait,
}

impl State {
    fn are_all_here(&self) -> bool {
        self.waiting.len() >= self.crowd
    }

    fn is_idle(&self) -> bool {
        !self.staging && !self.writing
    }

    fn take(&mut self) -> Vec<Request> {
        (self.staging, self.called) = (true, false);
        std::mem::take(&mut self.waiting)
    }
}

impl Inbox {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request that comes too late is dropped, and its reply with it. Whoever sends should then ask
    /// whether to [`lead`](Self::lead).
    pub(super) fn send(&self, request: Request) {
        let mut state = self.state();
        if state.closed || state.stopped {
            return;
        }
        state.waiting.push(request);
        state.active = true;
        if state.asleep == THREADS {
            drop(state);
            self.changed.notify_one();
        }
    }

    /// Asked by whoever appends: may it wait for the disk a moment, and has it let others go first?
    pub(super) fn lead(&self, may_block: bool, yielded: bool) -> Lead {
        let mut state = self.state();
        let few = state.waiting.len().max(state.crowd) <= FEW;
        if may_block && state.fast && few && !state.closed {
            if !state.is_idle() || state.waiting.is_empty() {
                return Lead::Wait;
            }
            if !yielded && !state.are_all_here() {
                return Lead::Yield;
            }
            return Lead::Write(state.take());
        }
        let is_worth_a_call = if state.writing {
            !state.called && state.waiting.len() >= GROUP
        } else {
            !state.called || state.are_all_here()
        };
        if is_worth_a_call && !state.staging {
            state.called = true;
            drop(state);
            self.changed.notify_one();
        }
        Lead::Wait
    }

    /// Waits for what a thread must write. `None`: there will be nothing any more.
    pub(super) fn next(&self) -> Option<Vec<Request>> {
        let mut state = self.state();
        loop {
            if state.stopped || (state.closed && state.is_idle() && state.waiting.is_empty()) {
                return None;
            }
            let mut left = Duration::MAX;
            if state.is_idle() && !state.waiting.is_empty() {
                let waited = state.since.map_or(Duration::MAX, |since| since.elapsed());
                left = state.patience.saturating_sub(waited);
                if state.closed || state.are_all_here() || left.is_zero() {
                    return Some(state.take());
                }
            } else if state.writing && !state.staging && state.waiting.len() >= GROUP {
                return Some(state.take());
            }
            state = self.sleep(state, left);
        }
    }

    fn sleep<'a>(&self, mut state: MutexGuard<'a, State>, most: Duration) -> MutexGuard<'a, State> {
        let wait = |state, most| {
            self.changed.wait_timeout(state, most).unwrap_or_else(PoisonError::into_inner).0
        };
        if most < Duration::MAX {
            return wait(state, most);
        }
        if state.active && !state.ticking {
            (state.active, state.ticking) = (false, true);
            state = wait(state, TICK);
            state.ticking = false;
        } else {
            state.asleep += 1;
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.asleep -= 1;
        }
        state
    }

    /// Whoever staged has the disk now. What else waits goes with it.
    pub(super) fn begin(&self) -> Vec<Request> {
        let mut state = self.state();
        (state.staging, state.writing, state.called) = (false, true, false);
        std::mem::take(&mut state.waiting)
    }

    /// A write has ended that answered so many and took so long. Whoever says it has the disk still.
    #[expect(clippy::disallowed_methods, reason = "paces the writer; nothing stored depends on it")]
    pub(super) fn wrote(&self, answered: usize, took: Duration) {
        let mut state = self.state();
        state.writing = false;
        state.crowd = answered + state.waiting.len();
        state.patience = took / 2;
        state.fast = took < FAST;
        state.since = Some(Instant::now());
        let (closed, awaited) = (state.closed, !state.waiting.is_empty());
        state.called = awaited;
        drop(state);
        if closed {
            self.changed.notify_all();
        } else if awaited {
            self.changed.notify_one();
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
