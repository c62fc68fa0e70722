//! Queues runs, leases them to workers, and knows how each ended.
//!
//! In reading order: [`domain`] (what is decided and remembered), `codec` (the stored form of its
//! events), `wire` (runs and specs as other services see them), `service` (the rules for the owner of
//! the state, and the start), `succession` (how one of several comes to lead, with `leadership`, what the
//! log says of that, `rival`, how the leader is watched, and `door`, what callers find), `connections` (which workers are attached), `effects` (assigns, sends,
//! cancels, takes back), `ledger` (what was said to whom), `watchers` (who wants to hear of which
//! run), `views` (what the past is shown from), `selectors` (what is said of one), `api` (gRPC), `config`.
//!
//! What is not here: heartbeats and grace times (the registry says who is lost), binaries, logs,
//! secrets (an argument from the vault is only named).

mod api;
mod codec;
mod config;
mod connections;
pub mod domain;
mod door;
mod effects;
mod leadership;
mod ledger;
mod rival;
mod selectors;
mod service;
mod succession;
mod views;
mod watchers;
mod wire;

pub use codec::decode;
pub use config::Config;
pub use rival::Seat;
pub use service::{Deps, Service, ServiceError, StartError, start, start_in_seat};
pub use wire::view;
