//! What is seen of a path: whether packets wait in a queue, and how many are lost. Pure: time comes in.
//!
//! A packet waits when it takes longer than the fastest one did. That a little passes is by RFC 9406's measure:
//! an eighth of the way, 4 to 16 ms. The least of what the last moments took is looked at, so that one late
//! acknowledgement is no queue.

use std::time::{Duration, Instant};

/// Shorter round trips than this show no queue that their clocks could tell from chance, and cubic is at
/// its height again in no time.
const FAR: Duration = Duration::from_millis(10);
const LEAST_WAIT: Duration = Duration::from_millis(4);
const MOST_WAIT: Duration = Duration::from_millis(16);
/// More than one in so many is no noise: a queue too short to be seen runs over, or somebody polices.
const NOISE: u64 = 10;
/// Of how many packets the share of the lost is taken, at least; older ones count half and less.
const SAMPLE: u64 = 256;

#[derive(Clone, Debug)]
pub(super) struct Path {
    /// The fastest there and back.
    base: Duration,
    /// The least in this quarter of a round trip, and in the one before.
    least: [Duration; 2],
    quarter_began: Instant,
    /// Packets.
    delivered: u64,
    lost: u64,
}

impl Path {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            base: Duration::MAX,
            least: [Duration::MAX; 2],
            quarter_began: now,
            delivered: 0,
            lost: 0,
        }
    }

    /// A packet arrived, and `now` that is known.
    pub(super) fn delivered(&mut self, now: Instant, sent: Instant) {
        let took = now.saturating_duration_since(sent);
        self.base = self.base.min(took);
        if now.saturating_duration_since(self.quarter_began) > self.base / 4 {
            self.least = [Duration::MAX, self.least[0]];
            self.quarter_began = now;
        }
        self.least[0] = self.least[0].min(took);
        self.delivered += 1;
        if self.delivered > 2 * SAMPLE {
            self.delivered /= 2;
            self.lost /= 2;
        }
    }

    /// Whether the loss of so many packets means that the path is full.
    pub(super) fn lost(&mut self, packets: u64) -> bool {
        self.lost += packets;
        let many = self.lost * NOISE > (self.delivered + self.lost).max(SAMPLE);
        if many {
            // What was judged is judged once.
            (self.delivered, self.lost) = (0, 0);
        }
        many || self.base < FAR || self.waits()
    }

    fn waits(&self) -> bool {
        let allowed = (self.base / 8).clamp(LEAST_WAIT, MOST_WAIT);
        let [now, before] = self.least;
        now.min(before) > self.base.saturating_add(allowed)
    }
}
