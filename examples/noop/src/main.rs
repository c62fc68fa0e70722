//! A pipeline whose only job does nothing, for measuring everything around it.

use std::process::ExitCode;

use gaia_sdk::{Job, serve};

fn main() -> ExitCode {
    serve(vec![Job::new("Nothing", |_| async { Ok(()) })])
}
