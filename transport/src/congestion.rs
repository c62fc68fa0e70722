//! QUIC's congestion control: cubic, told only of those losses that mean a full path.
//!
//! Radio links and long lines lose packets, and put them out of order, though there is room. Cubic takes each
//! of these for a queue that ran over: at 100 ms and one loss in a hundred nothing is left but 2 Mbit/s of 100.
//! BBR does not, but quinn's is erratic where nothing is lost. So what is lost is judged by what else is seen:
//! without a queue, and while few are lost, it is noise. On a path without loss this is cubic, to the byte.

mod path;
#[cfg(test)]
mod tests;

use path::Path;
use quinn::congestion::{Controller, ControllerFactory, ControllerMetrics, Cubic, CubicConfig};
use quinn_proto::RttEstimator;
use std::{any::Any, sync::Arc, time::Instant};

/// Makes the controller of each path that a connection takes.
#[derive(Debug)]
pub(crate) struct Discerning;

impl ControllerFactory for Discerning {
    fn build(self: Arc<Self>, now: Instant, mtu: u16) -> Box<dyn Controller> {
        let cubic = Cubic::new(Arc::new(CubicConfig::default()), now, mtu);
        Box::new(Control { cubic, path: Path::new(now), mtu: mtu.into(), seen: Seen::default() })
    }
}

#[derive(Clone, Debug)]
struct Control {
    cubic: Cubic,
    path: Path,
    mtu: u64,
    seen: Seen,
}

/// How often packets were lost, by what was made of it.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    noise: u64,
    congestion: u64,
}

impl Controller for Control {
    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        app_limited: bool,
        rtt: &RttEstimator,
    ) {
        self.path.delivered(now, sent);
        self.cubic.on_ack(now, sent, bytes, app_limited, rtt);
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        sent: Instant,
        is_persistent_congestion: bool,
        lost_bytes: u64,
    ) {
        // No bytes: a router on the way marked a packet instead of losing it.
        let said = is_persistent_congestion || lost_bytes == 0;
        if !self.path.lost(lost_bytes.div_ceil(self.mtu)) && !said {
            self.seen.noise += 1;
            return;
        }
        self.seen.congestion += 1;
        self.cubic.on_congestion_event(now, sent, is_persistent_congestion, lost_bytes);
    }

    fn on_mtu_update(&mut self, mtu: u16) {
        self.mtu = mtu.into();
        self.cubic.on_mtu_update(mtu);
    }

    fn window(&self) -> u64 {
        self.cubic.window()
    }

    fn metrics(&self) -> ControllerMetrics {
        self.cubic.metrics()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        self.cubic.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
