//! Every program of the house in one, built where the system stories can find it: the name under which it
//! is started says which it is. Under any other name it is `gaia`.

use std::{env, path::Path, process::ExitCode};

#[path = "../../../svc-access/src/main.rs"]
mod access;
#[path = "../../../svc-artifacts/src/main.rs"]
mod artifacts;
#[path = "../../../gateway/src/main.rs"]
mod gate;
#[path = "../../../svc-logs/src/main.rs"]
mod logs;
#[path = "../../../svc-pipelines/src/main.rs"]
mod pipelines;
#[path = "../../../svc-registry/src/main.rs"]
mod registry;
#[path = "../../../svc-scheduler/src/main.rs"]
mod scheduler;

fn main() -> ExitCode {
    let started = env::args().next().unwrap_or_default();
    let name = Path::new(&started).file_name().and_then(|name| name.to_str());
    match name.unwrap_or_default() {
        "svc-access" => access::main(),
        "svc-artifacts" => artifacts::main(),
        "svc-logs" => logs::main(),
        "svc-pipelines" => pipelines::main(),
        "svc-registry" => registry::main(),
        "svc-scheduler" => scheduler::main(),
        "gateway" => gate::main(),
        _ => gaia::main(),
    }
}
