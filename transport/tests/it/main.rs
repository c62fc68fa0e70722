//! What transport promises, over every way that a call can travel.

#![allow(clippy::unwrap_used, missing_debug_implementations, unreachable_pub)]

mod calls;
mod house;
mod network;
mod raw;
mod standing;
mod tls;
mod vehicle;
