//! Compiles the .proto files with protox, so that no `protoc` is needed, and lists the events.

use std::{collections::BTreeMap, env, error::Error, fmt::Write, fs, path::Path};

use prost_types::FileDescriptorSet;

const FILES: [&str; 23] = [
    "worker.proto",
    "plugin.proto",
    "go_plugin.proto",
    "gaia/common.proto",
    "gaia/log.proto",
    "gaia/registry.proto",
    "gaia/registry_events.proto",
    "gaia/scheduler.proto",
    "gaia/scheduler_events.proto",
    "gaia/leadership_events.proto",
    "gaia/artifacts.proto",
    "gaia/artifacts_events.proto",
    "gaia/logs.proto",
    "gaia/logs_events.proto",
    "gaia/pipelines.proto",
    "gaia/pipelines_events.proto",
    "gaia/access.proto",
    "gaia/access_events.proto",
    "eventstore/shared.proto",
    "eventstore/status.proto",
    "eventstore/streams.proto",
    "eventstore/server_features.proto",
    "eventstore/gossip.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    println!("cargo::rerun-if-changed=events.lock");
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).include_source_info(true).open_files(FILES)?;
    let out = env::var("OUT_DIR")?;
    let out = Path::new(&out);
    // Encoded by protox itself, which keeps the options that prost's types do not know.
    fs::write(out.join("descriptors.bin"), compiler.encode_file_descriptor_set())?;
    fs::write(out.join("events.rs"), events(&fs::read_to_string("events.lock")?)?)?;
    fs::write(out.join("rpcs.rs"), rpcs(&compiler.file_descriptor_set())?)?;
    tonic_prost_build::configure()
        .codec_path("crate::codec::Codec")
        .bytes(".gaia")
        .bytes(".event_store")
        .bytes(".protobuf.LogChunk")
        .bytes(".protobuf.FileChunk")
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}

/// The newest version of each event, from the lines of the lock that are not indented.
fn events(lock: &str) -> Result<String, Box<dyn Error>> {
    let mut newest = BTreeMap::new();
    for line in lock.lines().filter(|line| !line.starts_with([' ', '#']) && !line.is_empty()) {
        let mut words = line.split(' ');
        let (Some(event), Some(version)) = (words.next(), words.next()) else {
            return Err(format!("events.lock: `{line}` is no event and version").into());
        };
        let newest: &mut u32 = newest.entry(event).or_default();
        *newest = (*newest).max(version.parse()?);
    }
    let mut text = String::from("&[\n");
    for (event, version) in newest {
        writeln!(text, "    ({event:?}, {version}),")?;
    }
    text.push_str("]\n");
    Ok(text)
}

/// An enumeration of every RPC, so that a `match` over them must name each.
fn rpcs(descriptors: &FileDescriptorSet) -> Result<String, Box<dyn Error>> {
    let (mut names, mut paths) = (String::new(), String::new());
    for file in &descriptors.file {
        for service in &file.service {
            for method in &service.method {
                let name = format!("{}{}", service.name(), method.name());
                let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                writeln!(names, "    /// `{path}`\n    {name},")?;
                writeln!(paths, "    (Rpc::{name}, {path:?}),")?;
            }
        }
    }
    Ok(format!(
        "/// Every RPC of every service, named `<Service><Method>`.\n\
         #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]\n\
         pub enum Rpc {{\n{names}}}\n\n\
         const RPCS: &[(Rpc, &str)] = &[\n{paths}];\n"
    ))
}
