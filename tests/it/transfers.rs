//! Binaries on their way while those who move them are killed.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

use anyhow::Result;
use gaia::api::{Pipeline, Run};
use ids::Digest;
use serde_json::json;
use tests::{Cluster, Setting, commit_all};

use crate::{program, story_pipeline};

/// Bytes behind the program, which nobody reads and nothing makes less.
const NOISE: usize = 64 << 20;
/// How often somebody is killed in the middle of each transfer: these in turn, and the agent.
const KILLS: usize = 6;
const SERVICES: [&str; 2] = ["svc-artifacts", "gateway"];

fn noise() -> Vec<u8> {
    let mut state = 88_172_645_463_325_252_u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_be_bytes()
    };
    (0..NOISE / 8).flat_map(|_| next()).collect()
}

/// Kills those who move a binary whenever more of it has come, until the run is over. Answers with the run
/// and how often that was.
async fn disturb(
    cluster: &mut Cluster,
    run: &str,
    (agent, arguments): (&str, &[&str]),
    came: impl Fn() -> Result<u64>,
) -> Result<(Run, usize)> {
    let mut before = 0;
    for kills in 0..KILLS {
        let over = cluster
            .until("more came, or all", async || {
                if came()? > before {
                    return Ok(Some(None));
                }
                let run = cluster.run(run).await?;
                Ok(run.is_over().then_some(Some(run)))
            })
            .await?;
        if let Some(run) = over {
            return Ok((run, kills));
        }
        if let Some(service) = SERVICES.get(kills % (SERVICES.len() + 1)) {
            cluster.kill(service).await?;
            cluster.restart(service)?;
        } else {
            cluster.kill(agent).await?;
            cluster.launch_agent_by(agent, "", arguments)?;
        }
        before = came()?;
    }
    Ok((cluster.ended(run).await?, KILLS))
}

/// Files in the folders of this folder.
fn files(folder: &Path) -> Result<u64> {
    let mut count = 0;
    for inner in fs::read_dir(folder)? {
        count += fs::read_dir(inner?.path())?.count() as u64;
    }
    Ok(count)
}

async fn large_pipeline(cluster: &Cluster, noise: &[u8]) -> Result<Pipeline> {
    let repository = cluster.home("large");
    fs::create_dir_all(&repository)?;
    fs::write(repository.join("noise"), noise)?;
    let program = story_pipeline().display();
    let makefile =
        format!("all:\n\tcat {program} noise > pipeline.out\n\tchmod 755 pipeline.out\n");
    fs::write(repository.join("Makefile"), makefile)?;
    commit_all(&repository)?;
    cluster.create("large", "cpp", &repository, &[]).await
}

#[tokio::test]
async fn a_binary_arrives_whole_whoever_is_killed_on_its_way() -> Result<()> {
    let lines = "max_infrastructure_attempts = 1000\n";
    let patient = Setting { service: "svc-scheduler", lines, environment: &[] };
    let mut cluster = Cluster::start_apart(program(), &[patient], |_| Ok(())).await?;
    cluster.agent("one", &[]).await?;
    let noise = noise();
    let digest = Digest::of(&[&fs::read(story_pipeline())?[..], &noise].concat());
    let pipeline = large_pipeline(&cluster, &noise).await?;

    let chunks = cluster.home("svc-artifacts").join("artifacts/chunks");
    let stored = || files(&chunks);
    let (build, kills) = disturb(&mut cluster, &pipeline.buildrunid, ("one", &[]), stored).await?;
    assert_eq!(build.status, "success", "{}", build.reason);
    assert!(kills >= KILLS - 1, "{kills} times in the middle of the upload");
    let pipeline = cluster
        .until("the pipeline is built", async || {
            let path = format!("/api/v1/pipeline/{}", pipeline.id);
            let pipeline: Pipeline = cluster.client.get(&path).await?;
            Ok((pipeline.version > 0).then_some(pipeline))
        })
        .await?;

    let two = ["--tag", "two"];
    cluster.agent("two", &two).await?;
    let run = cluster.start_run(&pipeline, json!({ "tags": ["two"] })).await?;
    let cache = cluster.home("two").join("cache");
    let part = cache.join(format!("{digest}.part"));
    let came = || Ok(fs::metadata(&part).map_or(0, |meta| meta.blocks()));
    let (run, kills) = disturb(&mut cluster, &run.uniqueid, ("two", &two), came).await?;
    assert_eq!(run.status, "success", "{}", run.reason);
    assert!(kills >= KILLS - 1, "{kills} times in the middle of the download");
    assert_eq!(Digest::of(&fs::read(cache.join(digest.to_string()))?), digest);
    Ok(())
}
