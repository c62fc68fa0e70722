//! Stores and streams blobs by sha256.
//!
//! The bytes are chunks in an object store, each once, whatever blobs have it; the event log says which
//! blobs there are.
//!
//! In reading order: [`domain`] knows the blobs and who needs them, `codec` says how that is stored;
//! `store` keeps the objects, `incoming` and `outgoing` make blobs of them and back, `crew` does a few
//! things at once; `garbage` removes what nothing needs; `api` is the gRPC face; `config` and [`start`]
//! put it together.

mod api;
mod codec;
mod config;
mod crew;
pub mod domain;
mod error;
mod garbage;
mod incoming;
mod outgoing;
mod service;
mod store;

pub use codec::decode;
pub use config::Config;
pub use service::{Deps, Service, StartError, start};
