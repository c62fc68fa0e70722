//! Two schedulers as processes on one served log, of which one leads: what the other one may do, and what
//! a hundred take-overs leave behind.

#![allow(clippy::unwrap_used, reason = "helpers outside of test functions are tests too")]

mod fence;
mod house;
mod metrics;
mod take_overs;
mod worker;
