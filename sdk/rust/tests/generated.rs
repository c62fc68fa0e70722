//! The committed code of the protocol is what its .proto files say.
//!
//! It is committed so that a pipeline needs no code generator to build. After a change of the
//! files: `GENERATE=1 cargo test -p gaia-sdk --test generated`.

use std::{env, fs, path::Path};

const FILES: [(&str, &str); 2] = [("plugin.proto", "proto.rs"), ("go_plugin.proto", "plugin.rs")];

#[test]
fn the_committed_code_is_what_the_proto_files_say() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let protos = here.join("../../proto/proto");
    let fresh = Path::new(env!("CARGO_TARGET_TMPDIR")).join("generated");
    fs::create_dir_all(&fresh).expect("a folder for the fresh code");
    let descriptors =
        protox::compile(FILES.map(|(proto, _)| proto), [&protos]).expect("valid files");
    tonic_prost_build::configure()
        .build_client(false)
        .build_transport(false)
        .out_dir(&fresh)
        .compile_fds(descriptors)
        .expect("code for them");
    for (proto, code) in FILES {
        let fresh = fs::read_to_string(fresh.join(code)).expect("fresh code");
        let committed = here.join("src/generated").join(code);
        if env::var_os("GENERATE").is_some() {
            fs::write(&committed, &fresh).expect("to write the fresh code");
        }
        let committed = fs::read_to_string(&committed).unwrap_or_default();
        assert!(committed == fresh, "{proto} has changed; see the head of this file");
    }
}
