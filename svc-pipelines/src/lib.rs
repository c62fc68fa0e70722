//! Creates pipelines from git, has them built, knows their versions and jobs.
//!
//! In reading order: [`domain`] decides, purely; `codec` says how its events are stored; `service` is
//! the one task that owns the state; `effects` has builds submitted to the scheduler and notes how
//! they ended; `api` is the gRPC face; `config` and [`start`] put it together.

mod api;
mod codec;
mod config;
pub mod domain;
mod effects;
mod service;

pub use api::view;
pub use codec::decode;
pub use config::Config;
pub use service::{Deps, Service, StartError, start};
