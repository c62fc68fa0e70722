//! A pipeline on our SDK whose behaviour its arguments choose, for the system stories.
//!
//! ```text
//! Begin ─── Work ─── End
//! ```
//!
//! `print`: Work copies this file to its output first. `lines`: how many lines Work prints, of at least `width` bytes each, over `seconds`. `gate`: Work waits until this file exists. `fail`: Work fails.
//! `leak`: Work prints the vault secret `STORY_SECRET`.

use std::{fs::File, path::Path, process::ExitCode, time::Duration};

use gaia_sdk::{Ctx, Job, JobResult, Stop, serve, tokio};

fn main() -> ExitCode {
    serve(vec![
        Job::new("Begin", begin).about("Says hello"),
        Job::new("Work", work)
            .about("Does what the arguments say")
            .after("Begin")
            .text("print", "File to copy to the output; `none` copies nothing")
            .default("none")
            .text("lines", "Lines to print")
            .default("1")
            .text("width", "Bytes of each line, at least")
            .default("0")
            .text("seconds", "Over how long they are printed")
            .default("0")
            .text("gate", "File to wait for; `none` waits for nothing")
            .default("none")
            .flag("fail", "Fail on purpose")
            .flag("leak", "Print the secret")
            .secret("STORY_SECRET"),
        Job::new("End", end).about("Says goodbye").after("Work"),
    ])
}

async fn begin(_: Ctx) -> JobResult {
    println!("begin");
    eprintln!("begin aloud");
    Ok(())
}

async fn work(ctx: Ctx) -> JobResult {
    let print = ctx.text("print")?;
    if print != "none" {
        std::io::copy(&mut File::open(print)?, &mut std::io::stdout().lock())?;
    }
    print_lines(&ctx).await?;
    if ctx.flag("leak") {
        let secret = ctx.text("STORY_SECRET")?;
        println!("the secret has {} bytes: {secret}", secret.len());
    }
    let gate = ctx.text("gate")?;
    if gate != "none" {
        println!("waiting as process {}", std::process::id());
        while !Path::new(gate).exists() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        println!("the gate is open");
    }
    if ctx.flag("fail") {
        return Err(Stop::fail("told to fail by the argument `fail`"));
    }
    Ok(())
}

async fn print_lines(ctx: &Ctx) -> JobResult {
    let (lines, width, seconds): (usize, usize, usize) =
        (ctx.get("lines")?, ctx.get("width")?, ctx.get("seconds")?);
    // Ten portions a second.
    let portion = lines.div_ceil((10 * seconds).max(1)).max(1);
    for line in 0..lines {
        let text = format!("line {line} of {lines}");
        println!("{text:.<width$}");
        if seconds > 0 && line % portion == portion - 1 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    Ok(())
}

async fn end(_: Ctx) -> JobResult {
    println!("end");
    Ok(())
}
