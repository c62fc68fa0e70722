//! A pipeline whose jobs take no arguments: the only kind that Gaia's own agents can run for us.

use std::process::ExitCode;

use gaia_sdk::{Ctx, Job, JobResult, serve};

fn main() -> ExitCode {
    serve(vec![Job::new("a", done), Job::new("b", done).after("a")])
}

async fn done(_: Ctx) -> JobResult {
    println!("done");
    Ok(())
}
