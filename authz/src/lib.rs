//! Who may call what: one table, and the layer that holds everybody to it.
//!
//! In reading order: [`table`] has a row for every RPC and every route, [`Role`] what users may do,
//! [`guard`] refuses by the table before a handler is entered, `tally` counts what was refused, [`throttle`]
//! slows down who guesses passwords.
//!
//! To add an RPC, add its row to [`table::of_rpc`]; to add a route, add it to [`table::Route`] and to
//! the gateway's `routes`. Neither compiles without.
//!
//! Invariants:
//! - What has no row is refused.
//! - Who is refused is not told who would have been admitted.
//! - Nothing here trusts what a request says of its sender: identity is the connection's.

mod guard;
mod role;
pub mod table;
mod tally;
pub mod throttle;

pub use guard::{Refusal, guard};
pub use role::{Category, Grants, Group, Role};
pub use table::{Lease, Needs, Route};
pub use tally::{count, count_rejection, metrics};
