//! Registers, pulls work, prepares, builds, runs and reports; hosts the plugin protocol.

pub mod runtime;
