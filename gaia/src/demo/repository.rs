//! The git repositories that the demonstration's pipelines come from. Their files are part of this
//! program, so that it can be shown where its sources are not.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

/// The vault secret that both examples ask for.
pub(super) const SECRET_KEY: &str = "PUBLISH_TOKEN";
pub(super) const SECRET_VALUE: &str = "not-to-be-seen-in-any-log";

pub(super) struct Repository {
    pub(super) name: &'static str,
    /// Gaia's pipeline type.
    pub(super) kind: &'static str,
    pub(super) folder: PathBuf,
}

/// A file of this project, under its name in the repository.
macro_rules! file {
    ($name:literal, $source:literal) => {
        ($name, include_str!(concat!("../../../", $source)))
    };
}

const PYTHON: [(&str, &str); 2] = [
    file!("setup.py", "examples/python/setup.py"),
    file!("pipeline.py", "examples/python/pipeline.py"),
];

const RUST: [(&str, &str); 3] = [
    file!("Cargo.toml", "examples/rust/Cargo.toml"),
    file!("Cargo.lock", "examples/rust/Cargo.lock"),
    file!("src/main.rs", "examples/rust/src/main.rs"),
];

/// The SDK, which the Rust example carries with it.
const SDK: [(&str, &str); 12] = [
    file!("sdk/Cargo.toml", "sdk/rust/Cargo.toml"),
    file!("sdk/README.md", "sdk/rust/README.md"),
    file!("sdk/src/lib.rs", "sdk/rust/src/lib.rs"),
    file!("sdk/src/cli.rs", "sdk/rust/src/cli.rs"),
    file!("sdk/src/context.rs", "sdk/rust/src/context.rs"),
    file!("sdk/src/execute.rs", "sdk/rust/src/execute.rs"),
    file!("sdk/src/job.rs", "sdk/rust/src/job.rs"),
    file!("sdk/src/plan.rs", "sdk/rust/src/plan.rs"),
    file!("sdk/src/server.rs", "sdk/rust/src/server.rs"),
    file!("sdk/src/generated/proto.rs", "sdk/rust/src/generated/proto.rs"),
    file!("sdk/src/generated/plugin.rs", "sdk/rust/src/generated/plugin.rs"),
    (".gitignore", "target/\n"),
];

/// A pipeline on Gaia's own Python SDK.
pub(super) fn python(parent: &Path) -> Result<Repository> {
    Ok(Repository {
        name: "standard library",
        kind: "python",
        folder: repository(parent, "repository-python", &[&PYTHON])?,
    })
}

/// A pipeline on our Rust SDK.
pub(super) fn rust(parent: &Path) -> Result<Repository> {
    Ok(Repository {
        name: "primes",
        kind: "rust",
        folder: repository(parent, "repository-rust", &[&RUST, &SDK])?,
    })
}

fn repository(parent: &Path, name: &str, files: &[&[(&str, &str)]]) -> Result<PathBuf> {
    let folder = parent.join(name);
    for (name, text) in files.iter().copied().flatten() {
        let path = folder.join(name);
        let parent = path.parent().context("a file has a folder")?;
        fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    }
    git(&folder, &["init", "--quiet"])?;
    git(&folder, &["add", "--all"])?;
    git(&folder, &["commit", "--quiet", "--message", "the pipeline"])?;
    Ok(folder)
}

fn git(folder: &Path, words: &[&str]) -> Result<()> {
    let output = Command::new("git")
        .current_dir(folder)
        .args(["-c", "user.name=Demonstration", "-c", "user.email=demo@example.org"])
        .args(words)
        .output()
        .context("run git: is it installed?")?;
    if !output.status.success() {
        bail!("git {}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example would not build without a file that was added to the SDK and not here.
    #[test]
    fn the_whole_sdk_goes_with_the_example() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../sdk/rust/src");
        let mut folders = vec![root.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).unwrap().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                let name = format!("sdk/src/{}", path.strip_prefix(&root).unwrap().display());
                assert!(SDK.iter().any(|(known, _)| *known == name), "{name} is missing in SDK");
            }
        }
    }
}
