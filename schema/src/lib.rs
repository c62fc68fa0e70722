//! What the stored form of every event is, and was.
//!
//! In reading order: [`payload`] (an event's data as people may see it: readable, without secrets),
//! `events` (which message a type of event is), [`golden`] (the test that every codec of the house
//! passes), `lock` (the test that no stored form changes unnoticed; `proto/events.lock` is what it
//! compares with).
//!
//! Invariants:
//! - What the schema marks with `debug_redact` is never shown.
//! - The stored form of a type and version never changes: a change is a new version.

mod events;
pub mod golden;
#[cfg(test)]
mod lock;
pub mod payload;

pub use payload::{Payload, payload};
