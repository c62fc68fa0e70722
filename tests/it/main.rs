//! The one integration-test binary: whole-system stories, and the house rules.

mod certificates;
mod clients;
#[path = "../compat/mod.rs"]
mod compat;
mod control;
mod disk;
mod faults;
mod input;
mod logs;
mod loss;
mod network;
mod python;
mod schedulers;
mod tidy;
mod transfers;
mod trust;

use std::path::Path;

use anyhow::Result;
use gaia::api::Pipeline;
use tests::Cluster;

/// The `gaia` program.
fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_gaia-process"))
}

/// A pipeline on our SDK whose behaviour its arguments choose; see its source for them.
fn story_pipeline() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_story-pipeline"))
}

/// A server, one agent called `one`, and the story pipeline.
async fn cluster_of_one() -> Result<(Cluster, Pipeline)> {
    let mut cluster = Cluster::start(program()).await?;
    cluster.agent("one", &["--slots", "4"]).await?;
    let pipeline = cluster.pipeline_of("story", story_pipeline(), &[]).await?;
    Ok((cluster, pipeline))
}
