//! Stores run logs by offset, and follows them live.

fn main() {}
