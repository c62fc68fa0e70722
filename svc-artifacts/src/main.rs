//! Stores and streams blobs by sha256.

fn main() {}
