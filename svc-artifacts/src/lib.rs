//! Stores and streams blobs by sha256.
//!
//! The bytes are files named by their digest; the event log says which there are.
//!
//! In reading order: [`domain`] knows the blobs, `codec` says how that is stored; `blobs` is the
//! folder; `api` is the gRPC face; `config` and [`start`] put it together.

mod api;
mod blobs;
mod codec;
mod config;
pub mod domain;
mod service;

pub use blobs::FolderError;
pub use codec::decode;
pub use config::Config;
pub use service::{Deps, Service, StartError, start};
