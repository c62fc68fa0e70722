//! Users, their sessions, and the vault.
//!
//! In reading order: [`domain`] decides, `codec` stores, `limits` says what may come in, `passwords`,
//! `sessions` guards the door, `service` starts it all, `api` serves it.
//!
//! Invariants:
//! - No password and no secret is stored or shown in clear: passwords are hashed, secrets sealed.
//! - Who fails to log in is not told why.
//! - A session ends when it expires, and when its user is removed or gets another password.
//! - Nobody gives a right that they have not, or changes who has more.

mod api;
mod codec;
mod config;
pub mod domain;
mod limits;
mod passwords;
mod service;
mod sessions;

pub use codec::decode;
pub use config::Config;
pub use domain::State;
pub use passwords::PasswordError;
pub use service::{Deps, RunError, Service, StartError, start};
