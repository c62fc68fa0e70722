//! The Rust SDK for Gaia pipelines.
