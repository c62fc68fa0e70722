//! The one binary: server, agent, dev, demo and the client commands.

fn main() {}
