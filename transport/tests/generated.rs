//! The committed code of the tests' own service is what its .proto file says.
//!
//! After a change of the file: `GENERATE=1 cargo test -p transport --test generated`.

use std::{env, fs, path::Path};

const CODE: &str = "gaia.vehicle.v1.rs";

#[test]
fn the_committed_code_is_what_the_proto_file_says() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let fresh = Path::new(env!("CARGO_TARGET_TMPDIR")).join("generated");
    fs::create_dir_all(&fresh).expect("a folder for the fresh code");
    let descriptors = protox::compile(["vehicle.proto"], [&here]).expect("a valid file");
    tonic_prost_build::configure()
        .bytes(".gaia")
        .build_transport(false)
        .out_dir(&fresh)
        .compile_fds(descriptors)
        .expect("code for it");
    let fresh = fs::read_to_string(fresh.join(CODE)).expect("fresh code");
    let committed = here.join("it/vehicle/generated.rs");
    if env::var_os("GENERATE").is_some() {
        fs::write(&committed, &fresh).expect("to write the fresh code");
    }
    let committed = fs::read_to_string(&committed).unwrap_or_default();
    assert!(committed == fresh, "vehicle.proto has changed; see the head of this file");
}
