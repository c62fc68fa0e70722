//! svc-registry as a process of its own.

fn main() {}
