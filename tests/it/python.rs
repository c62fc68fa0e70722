//! The happy path with Gaia's own Python SDK, unmodified, from PyPI.

use std::path::Path;

use anyhow::Result;
use serde_json::json;
use tests::{Cluster, commit_all};

use crate::program;

#[tokio::test]
async fn a_pipeline_on_gaias_python_sdk_is_built_and_run() -> Result<()> {
    let mut cluster = Cluster::start(program()).await?;
    cluster.agent("one", &["--slots", "2"]).await?;
    let repository = cluster.home("python");
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/python");
    copy(&example, &repository)?;
    commit_all(&repository)?;
    let body = json!({ "key": "PUBLISH_TOKEN", "value": "kept from the log" });
    cluster.client.call(http::Method::POST, "/api/v1/secret", Some(&body)).await?;

    let pipeline = cluster.pipeline("python", "python", &repository, &[]).await?;
    assert!(pipeline.jobs.len() == 5, "{:?}", pipeline.jobs);
    let run = cluster.start_run(&pipeline, json!({})).await?;
    let run = cluster.ended(&run.uniqueid).await?;
    let log = cluster.log(&run.uniqueid).await?;
    assert_eq!(run.status, "success", "{}\n{log}", run.reason);
    assert!(run.jobs.iter().all(|job| job.status == "success"), "{:?}", run.jobs);
    assert!(!log.contains("kept from the log"), "{log}");
    Ok(())
}

/// Copies a folder of files.
fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &to)?;
        } else {
            std::fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}
