//! The one binary: server, agent, dev, demo and the client commands.
//!
//! In reading order: [`cli`] (what can be typed), [`server`] (every service in one process), `dev`
//! and `demo` (a whole system for people to look at), `client` and `profile` (how commands reach a
//! server), `command` (one file for each noun), `output` (tables, JSON).
//!
//! This is a library with a thin `main.rs`, so that the system stories can run the same program.

pub mod api;
pub mod cli;
pub mod client;
pub mod command;
mod demo;
mod dev;
mod log;
mod output;
pub mod processes;
mod profile;
mod served_log;
pub mod server;
pub mod span;
mod sse;

pub use cli::main;

/// A dispatched run costs a quarter less of the processor than with glibc's (`docs/limits.md`).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;
