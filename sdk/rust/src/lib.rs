//! Write Gaia pipelines in Rust: a job is an async function.
//!
//! ```no_run
//! use gaia_sdk::{Ctx, Job, JobResult, Stop, serve};
//!
//! async fn build(ctx: Ctx) -> JobResult {
//!     let version = ctx.text("version")?;
//!     eprintln!("building {version}");
//!     Ok(())
//! }
//!
//! async fn deploy(ctx: Ctx) -> JobResult {
//!     if ctx.flag("dry-run") {
//!         return Err(Stop::exit("a dry run ends here"));
//!     }
//!     let count: u32 = ctx.get("machines")?;
//!     eprintln!("deploying to {count} machines with a token of {} bytes", ctx.text("TOKEN")?.len());
//!     Ok(())
//! }
//!
//! fn main() -> std::process::ExitCode {
//!     serve(vec![
//!         Job::new("Build", build).about("Compiles it").text("version", "What to build"),
//!         Job::new("Deploy", deploy)
//!             .after("build")
//!             .text("machines", "How many").default("3")
//!             .flag("dry-run", "Stop before anything changes")
//!             .secret("TOKEN"),
//!     ])
//! }
//! ```
//!
//! Under an agent the program serves its jobs; by hand it is a command line: `list`, `graph`,
//! `run [JOB] [KEY=VALUE]…`. What a job prints, to either stream, is the run's log.
//!
//! In reading order: `job` declares, `context` is what a job gets, `plan` checks the whole,
//! `execute` runs a job, `server` speaks the protocol, `cli` is the program by hand.

mod cli;
mod context;
mod execute;
mod job;
mod plan;
mod server;

// Committed, not built: see tests/generated.rs.
#[allow(warnings, clippy::all, clippy::pedantic)]
mod generated {
    pub(crate) mod proto {
        include!("generated/proto.rs");
    }
    pub(crate) mod plugin {
        include!("generated/plugin.rs");
    }
}

use std::{env, process::ExitCode};

pub use context::{ArgumentError, Ctx};
pub use job::{Job, JobResult, Stop};
/// The runtime that jobs run on, for timers, sockets and tasks.
pub use tokio;

use plan::Plan;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// Serves the jobs to the agent that started the program, or, started by hand, does what the
/// command line says. To be returned from `main`.
#[must_use = "return it from `main`"]
pub fn serve(jobs: Vec<Job>) -> ExitCode {
    let plan = match Plan::new(jobs) {
        Ok(plan) => plan,
        Err(error) => return fail(&error),
    };
    if env::var_os(server::CERT).is_some() {
        return match server::run(plan) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&error),
        };
    }
    let words: Vec<String> = env::args().skip(1).collect();
    match cli::run(&plan, &words) {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => fail(&error),
    }
}

fn fail(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("error: {error}");
    let mut source = error.source();
    while let Some(cause) = source {
        eprintln!("  since: {cause}");
        source = cause.source();
    }
    ExitCode::from(2)
}
