//! svc-access as a process of its own.

fn main() {}
