//! Registers workers, gives them certificates, and knows which of them are there.
//!
//! In reading order: [`domain`] decides, `codec` stores, `limits` says what may come in, `presence`
//! knows who is connected, `effects` ends suspensions and drains, `views` shows what is known,
//! `service` starts it all, `api` serves it.
//!
//! Invariants:
//! - An idle fleet writes nothing: a worker's sign of life is its open stream, kept in memory.
//! - The registration secret, secret variables and the keys of workers are never stored in clear; keys
//!   not at all.
//! - A worker that was deregistered never comes back.

mod api;
mod codec;
mod config;
pub mod domain;
mod effects;
mod limits;
mod presence;
mod service;
mod views;

pub use codec::decode;
pub use config::Config;
pub use domain::State;
pub use service::{Deps, RunError, Service, StartError, start};
pub use views::{Contact, view, view_of};
