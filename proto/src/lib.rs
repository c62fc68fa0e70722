//! The .proto files and the types generated from them; no logic.
//!
//! One module per proto package. `worker` and `plugin` are Gaia's own protocols, wire-compatible;
//! everything under `gaia.*` is ours. Each service has one package that it serves and one package
//! with the stored form of its events.

#![allow(clippy::all, clippy::pedantic, missing_debug_implementations, unreachable_pub)]

mod codec;

/// Every message and service, for reflection and for tests that walk the API.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Every type of event of the house, sorted, and the newest version of its stored form: what
/// `events.lock` says.
pub const EVENTS: &[(&str, u32)] = include!(concat!(env!("OUT_DIR"), "/events.rs"));

include!(concat!(env!("OUT_DIR"), "/rpcs.rs"));

impl Rpc {
    /// All of them, with their paths.
    pub const ALL: &'static [(Self, &'static str)] = RPCS;

    /// The path that calls it.
    pub fn path(self) -> &'static str {
        RPCS[self as usize].1
    }

    /// The RPC that this path calls.
    pub fn of_path(path: &str) -> Option<Self> {
        RPCS.iter().find(|(_, known)| *known == path).map(|(rpc, _)| *rpc)
    }
}

/// Gaia's Worker API (package `protobuf`), with our additions.
pub mod worker {
    tonic::include_proto!("protobuf");
}

/// The protocol between an agent and a pipeline (package `proto`).
pub mod plugin {
    tonic::include_proto!("proto");
}

/// The part of go-plugin's own services that we use (package `plugin`).
pub mod go_plugin {
    tonic::include_proto!("plugin");
}

/// The EventStoreDB protocol (package `event_store.client`), by its public names and numbers; the text
/// is ours. Only what a log needs of it.
pub mod event_store {
    pub mod client {
        tonic::include_proto!("event_store.client");

        pub mod streams {
            tonic::include_proto!("event_store.client.streams");
        }
        pub mod server_features {
            tonic::include_proto!("event_store.client.server_features");
        }
        pub mod gossip {
            tonic::include_proto!("event_store.client.gossip");
        }
    }
}
pub mod google {
    pub mod rpc {
        tonic::include_proto!("google.rpc");
    }
}

// The nesting repeats the package names, since generated code refers to its neighbours by them.
pub mod common {
    pub mod v1 {
        tonic::include_proto!("gaia.common.v1");
    }
}
pub mod log {
    pub mod v1 {
        tonic::include_proto!("gaia.log.v1");
    }
}
pub mod registry {
    pub mod v1 {
        tonic::include_proto!("gaia.registry.v1");
    }
    pub mod events {
        pub mod v1 {
            tonic::include_proto!("gaia.registry.events.v1");
        }
    }
}
pub mod scheduler {
    pub mod v1 {
        tonic::include_proto!("gaia.scheduler.v1");
    }
    pub mod events {
        pub mod v1 {
            tonic::include_proto!("gaia.scheduler.events.v1");
        }
    }
}
pub mod leadership {
    pub mod events {
        pub mod v1 {
            tonic::include_proto!("gaia.leadership.events.v1");
        }
    }
}
pub mod artifacts {
    pub mod v1 {
        tonic::include_proto!("gaia.artifacts.v1");
    }
    pub mod events {
        pub mod v1 {
            tonic::include_proto!("gaia.artifacts.events.v1");
        }
    }
}
pub mod logs {
    pub mod v1 {
        tonic::include_proto!("gaia.logs.v1");
    }
    pub mod events {
        pub mod v1 {
            tonic::include_proto!("gaia.logs.events.v1");
        }
    }
}
pub mod pipelines {
    pub mod v1 {
        tonic::include_proto!("gaia.pipelines.v1");
    }
    pub mod events {
        pub mod v1 {
            tonic::include_proto!("gaia.pipelines.events.v1");
        }
    }
}
pub mod access {
    pub mod v1 {
        tonic::include_proto!("gaia.access.v1");
    }
    pub mod events {
        pub mod v1 {
            tonic::include_proto!("gaia.access.events.v1");
        }
    }
}
