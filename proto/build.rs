//! Compiles the .proto files with protox, so that no `protoc` is needed.

use std::{env, error::Error, fs, path::Path};

const FILES: [&str; 17] = [
    "worker.proto",
    "plugin.proto",
    "go_plugin.proto",
    "gaia/common.proto",
    "gaia/log.proto",
    "gaia/registry.proto",
    "gaia/registry_events.proto",
    "gaia/scheduler.proto",
    "gaia/scheduler_events.proto",
    "gaia/artifacts.proto",
    "gaia/artifacts_events.proto",
    "gaia/logs.proto",
    "gaia/logs_events.proto",
    "gaia/pipelines.proto",
    "gaia/pipelines_events.proto",
    "gaia/access.proto",
    "gaia/access_events.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    let out = Path::new(&env::var("OUT_DIR")?).join("descriptors.bin");
    fs::write(out, prost::Message::encode_to_vec(&descriptors))?;
    tonic_prost_build::configure()
        .bytes(".gaia")
        .bytes(".protobuf.LogChunk")
        .bytes(".protobuf.FileChunk")
        .compile_fds(descriptors)?;
    Ok(())
}
