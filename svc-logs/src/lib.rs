//! Stores run logs by offset, and follows them live.
//!
//! The bytes are files, one per attempt of a run; the event log holds only their turning points.
//!
//! In reading order: [`domain`] decides what is sealed and knows which attempts are over; `codec` says
//! how that is stored; `file` is one log on disk, `harm` which of its bytes a loss of power may have changed, `spans` what lies
//! beside it, `writer` the task that writes one, `store` the
//! folder of them all; `archive` is a sealed log compressed, `shelf` where those lie, `archivist` makes them, `content` reads either;
//! `standing` is what followers wait on, `reader` what they do; `api` is the gRPC
//! face; `snapshot` makes the next start short; `config` and [`start`] put it together.

mod api;
mod archive;
mod archivist;
mod codec;
mod config;
mod content;
pub mod domain;
mod file;
mod harm;
mod reader;
mod service;
mod shelf;
mod snapshot;
mod spans;
mod standing;
mod store;
mod writer;

pub use codec::decode;
pub use config::Config;
pub use service::{Deps, Service, StartError, start};
