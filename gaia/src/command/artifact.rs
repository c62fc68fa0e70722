//! `gaia artifact`: the stored binaries.

use anyhow::Result;
use clap::Subcommand;
use http::Method;
use indicatif::HumanBytes;
use serde::{Deserialize, Serialize};

use crate::{client::Client, output::Output};

#[derive(Subcommand, Debug)]
pub enum ArtifactCommand {
    /// Remove the binaries that no pipeline and no open run has needed for a month, and the bytes of those
    /// that were removed more than an hour ago; the server does it by itself each hour
    Gc {
        /// Only say what would go
        #[arg(long)]
        dry_run: bool,
    },
}

#[derive(Serialize, Deserialize)]
struct Figures {
    dry_run: bool,
    artifacts: u64,
    objects: u64,
    bytes: u64,
    kept_artifacts: u64,
    kept_bytes: u64,
}

pub async fn artifact(command: ArtifactCommand, client: &Client, output: Output) -> Result<()> {
    let ArtifactCommand::Gc { dry_run } = command;
    let path = if dry_run { "/api/v1/artifact/gc?dry_run" } else { "/api/v1/artifact/gc" };
    let answer = client.call(Method::POST, path, None::<&()>).await?;
    let figures: Figures = serde_json::from_slice(&answer)?;
    output.show(&figures, |figures| {
        let [went, left] =
            if figures.dry_run { ["would go", "would stay"] } else { ["went", "stay"] };
        format!(
            "{} binaries and {} ({} objects) {went}; {} binaries and {} {left}.",
            figures.artifacts,
            HumanBytes(figures.bytes),
            figures.objects,
            figures.kept_artifacts,
            HumanBytes(figures.kept_bytes),
        )
    })
}
