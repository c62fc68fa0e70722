//! The log: one truth, append-only, from which every state is rebuilt.
//!
//! In reading order: [`event`] (what is stored), [`Log`] (the contract: append with an expected
//! revision, read a stream, read all, subscribe), [`retention`] (what streams hide), the engines, [`Fold`] (state as the fold
//! of its events), [`owner`] (the one task that owns a service's state),
//! and [`snapshot`] (what makes its start short).
//!
//! Invariants:
//! - An append that was answered is durable.
//! - Positions grow with every event, and may have gaps; the revisions of each stream count from 0.
//! - What was appended never changes; what a stream hides may be gone.

mod clock;
#[cfg(feature = "esdb")]
pub mod conformance;
mod disk;
mod embedded;
#[cfg(feature = "esdb")]
mod esdb;
pub mod event;
mod filter;
mod fold;
mod head;
mod log;
mod memory;
pub mod owner;
pub mod retention;
pub mod server;
pub mod snapshot;
mod store;
mod when;

pub use clock::Clock;
pub use embedded::{
    OpenError, Options, files,
    scavenge::{Scavenged, scavenge},
    verify::{Summary, verify},
};
pub use event::{Content, Expected, Metadata, NewEvent, Recorded};
pub use filter::{Direction, Filter};
pub use fold::Fold;
pub use head::{Head, HeadError, SignedHead};
pub use log::{AppendError, Appended, Log, LogError, Subscription};
pub use owner::{DecodeError, Origin, Owner, Rules, Stopped};
pub use retention::StreamMetadata;
