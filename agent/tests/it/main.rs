//! An agent against a server that is a real peer of its protocol and keeps what it gets.
//!
//! The pipelines are this very test binary: started with [`PIPELINE`] set, its one test
//! [`pipeline_process`] becomes a pipeline of our SDK.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests")]

mod builds;
mod chunked;
mod joining;
mod logs;
mod network;
mod peer;
mod relay;
mod runs;
mod stopping;
mod worker;

use std::{env, path::Path, process::ExitCode, time::Duration};

use gaia_sdk::{Ctx, Job, JobResult, Stop};

const PIPELINE: &str = "AGENT_TEST_PIPELINE";

/// Lines of 1 KiB that are more than all buffers and the smallest spool hold.
const FLOOD: usize = 24 << 10;

/// Of a log of 0.3 MiB.
const LINES: usize = 4000;

/// No test, unless asked to be a pipeline.
#[test]
fn pipeline_process() {
    let Ok(kind) = env::var(PIPELINE) else { return };
    let code = gaia_sdk::serve(match kind.as_str() {
        "greets" => vec![
            Job::new("Greet", greet).text("greeting", "What to print").secret("TOKEN"),
            Job::new("Part", |_| async {
                eprintln!("goodbye");
                Ok(())
            })
            .after("greet"),
        ],
        "fails" => vec![
            Job::new("Fail", |_| async { Err(std::io::Error::other("no s3cr=et here").into()) }),
            Job::new("Never", |_| async { Ok(()) }).after("fail"),
        ],
        "murmurs" => vec![Job::new("Murmur", |_| async {
            for number in 0..LINES {
                println!("line {number} {}", "x".repeat(60));
            }
            Ok(())
        })],
        "chatters" => vec![Job::new("Chatter", |_| async {
            for number in 0..40_000 {
                println!("line {number} {}", "x".repeat(60));
            }
            Ok(())
        })],
        "floods" => vec![Job::new("Flood", |_| async {
            for number in 0..FLOOD {
                println!("{number:06} {}", "x".repeat(1016));
            }
            Ok(())
        })],
        "stops" => vec![
            Job::new("Check", |_| async { Err(Stop::exit("nothing is new")) }),
            Job::new("Never", |_| async { Ok(()) }).after("check"),
        ],
        "sleeps" => vec![Job::new("Sleep", sleep).text("folder", "Where to write the `pid`")],
        "waits" => vec![Job::new("Wait", wait).text("folder", "Where to look for `go`")],
        other => panic!("no pipeline {other}"),
    });
    std::process::exit(i32::from(code != ExitCode::SUCCESS));
}

async fn greet(ctx: Ctx) -> JobResult {
    let greeting = ctx.find("greeting").unwrap_or("nothing");
    println!("{greeting} with {}", ctx.find("TOKEN").unwrap_or("no token"));
    println!("variable {}", env::var("VARIABLE").unwrap_or_default());
    Ok(())
}

/// Prints one line, and nothing more.
async fn sleep(ctx: Ctx) -> JobResult {
    std::fs::write(Path::new(ctx.text("folder")?).join("pid"), std::process::id().to_string())?;
    println!("good night");
    gaia_sdk::tokio::time::sleep(Duration::from_hours(1)).await;
    Ok(())
}

/// Prints from time to time until the file `go` is there.
async fn wait(ctx: Ctx) -> JobResult {
    let folder = Path::new(ctx.text("folder")?);
    std::fs::write(folder.join("pid"), std::process::id().to_string())?;
    println!("waiting");
    for count in 0.. {
        if folder.join("go").exists() {
            break;
        }
        if count % 10 == 0 {
            println!("tick {count}");
        }
        gaia_sdk::tokio::time::sleep(Duration::from_millis(5)).await;
    }
    println!("went");
    Ok(())
}
