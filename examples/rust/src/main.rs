//! An example pipeline: looks for primes.
//!
//! ```text
//! Plan ─┬─ Primes ─┬─ Report ── Publish
//!       └─ Twins ──┘
//! ```
//!
//! Primes and Twins run side by side. Publish takes the argument `version`, the secret
//! `PUBLISH_TOKEN` from the vault, and fails when the argument `fail` is `true`.
//! All jobs run in one process, so they may share what they found.

use std::{process::ExitCode, sync::OnceLock};

use gaia_sdk::{Ctx, Job, JobResult, Stop, serve, tokio::task::yield_now};

static LIMIT: OnceLock<u64> = OnceLock::new();
static PRIMES: OnceLock<usize> = OnceLock::new();
static TWINS: OnceLock<usize> = OnceLock::new();

fn main() -> ExitCode {
    serve(vec![
        Job::new("Plan", plan)
            .about("Decides how far to look")
            .text("limit", "Highest number to look at")
            .default("6000000"),
        Job::new("Primes", primes).about("Counts the primes").after("Plan"),
        Job::new("Twins", twins).about("Counts the pairs of primes that are 2 apart").after("Plan"),
        Job::new("Report", report).about("Says what was found").after("Primes").after("Twins"),
        Job::new("Publish", publish)
            .about("Signs the report")
            .after("Report")
            .text("version", "Version to publish")
            .default("1.0")
            .flag("fail", "Fail on purpose")
            .secret("PUBLISH_TOKEN"),
    ])
}

async fn plan(ctx: Ctx) -> JobResult {
    let limit = ctx.get("limit")?;
    if limit < 2 {
        return Err(Stop::exit("there are no primes below 2"));
    }
    println!("looking at the numbers up to {limit}");
    LIMIT.get_or_init(|| limit);
    Ok(())
}

async fn primes(_: Ctx) -> JobResult {
    let count = count("primes", is_prime).await?;
    PRIMES.get_or_init(|| count);
    Ok(())
}

async fn twins(_: Ctx) -> JobResult {
    let count = count("twins", |number| is_prime(number) && is_prime(number + 2)).await?;
    TWINS.get_or_init(|| count);
    Ok(())
}

async fn report(_: Ctx) -> JobResult {
    println!("{} primes, {} of them with a twin", found(&PRIMES)?, found(&TWINS)?);
    Ok(())
}

async fn publish(ctx: Ctx) -> JobResult {
    if ctx.flag("fail") {
        return Err(Stop::fail("told to fail by the argument `fail`"));
    }
    let token = ctx.text("PUBLISH_TOKEN")?;
    println!("publishing version {} with {} primes", ctx.text("version")?, found(&PRIMES)?);
    println!("signed with a token of {} characters", token.chars().count());
    Ok(())
}

async fn count(what: &str, is_one: fn(u64) -> bool) -> Result<usize, Stop> {
    let limit = found(&LIMIT)?;
    let part = limit / 10 + 1;
    let mut count = 0;
    for start in (1..=limit).step_by(usize::try_from(part)?) {
        let end = limit.min(start + part - 1);
        count += (start..=end).filter(|number| is_one(*number)).count();
        println!("{count} {what} up to {end}");
        yield_now().await;
    }
    Ok(count)
}

fn is_prime(number: u64) -> bool {
    let mut divisors = (2..).take_while(|divisor| divisor * divisor <= number);
    number > 1 && divisors.all(|divisor| number % divisor != 0)
}

fn found<T: Copy>(place: &OnceLock<T>) -> Result<T, Stop> {
    place.get().copied().ok_or_else(|| Stop::fail("the jobs before this one have not run"))
}
