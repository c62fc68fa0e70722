//! The gateway before real services over a log in memory: stories of agents, users and intruders.

#![allow(clippy::unwrap_used, reason = "helpers outside of test functions are tests too")]

mod agent;
mod audit;
mod bulk;
mod chunked;
mod client;
mod concurrency;
mod gaia;
mod history;
mod house;
mod identity;
mod intake;
mod leases;
mod logs;
mod matrix;
mod network;
mod operator;
mod pollers;
mod process;
mod replay;
mod runs;
mod schedules;
mod selectors;
mod take_over;
mod users;
mod views;
