//! Builds a pipeline: clone, build by its language, start the result once to learn its jobs, upload.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use ids::Digest;
use proto::worker::BuildResult;
use serde::Deserialize;

use crate::{
    command::Step,
    git,
    home::make_dir,
    order::{BuildTask, Language, Order, job_message},
    prepare::prepare,
    primary::Primary,
    python,
    report::Ending,
    run::start,
    site::Site,
    stop::Trouble,
    upload::upload,
    workshop::Workshop,
};

const NAME: &str = "build";

pub(crate) async fn build(
    workshop: &Workshop,
    primary: &Primary,
    order: &Order,
    task: &BuildTask,
    site: &Site,
) -> Result<Ending, Trouble> {
    let making = make(workshop, order, task, site);
    let late = |_| {
        let seconds = workshop.config.build_seconds;
        Trouble::Pipeline(format!("the build took longer than {seconds} seconds"))
    };
    let made = tokio::time::timeout(workshop.config.build_time(), making).await.map_err(late)?;
    let (digest, result) = made?;
    // The line or the server may be bad for long, and that is not the build's fault.
    site.log.note(format!("upload: {} bytes, sha256 {digest}", result.size)).await;
    let uploading = upload(primary, &order.lease, &workshop.cache, digest, &site.log);
    site.stopper.unless(uploading).await??;
    Ok(Ending::Built(result))
}

/// Builds, and keeps what came of it.
async fn make(
    workshop: &Workshop,
    order: &Order,
    task: &BuildTask,
    site: &Site,
) -> Result<(Digest, BuildResult), Trouble> {
    let clone = site.work.join("clone");
    let commit = git::clone(workshop, site, &task.0, &clone).await?;
    site.log.note(format!("clone: at commit {commit}")).await;
    let target = workshop.kept.take(&target(workshop, order));
    let built = compile(workshop, site, order, &clone).await?;
    let (digest, length, binary) = match workshop.cache.put(&built).await {
        Ok(kept) => kept,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let name = built.strip_prefix(&clone).unwrap_or(&built).display();
            return Err(Trouble::Pipeline(format!("build failed: it made no `{name}`")));
        }
        Err(error) => return Err(Trouble::io("keeping the binary", error)),
    };
    if order.language == Language::Rust {
        target.filled().await;
    }
    let recipe = prepare(workshop, site, order.language, digest, &binary).await?;
    site.log.note("check: starting the pipeline once to learn its jobs").await;
    let (plugin, jobs) = start(&recipe, site).await?;
    plugin.stop(site.grace()).await;
    let jobs = jobs.iter().map(job_message).collect();
    let sha_sum = digest.as_bytes().to_vec();
    Ok((digest, BuildResult { sha_sum, size: length, commit, jobs }))
}

/// Answers with the path of what was built.
async fn compile(
    workshop: &Workshop,
    site: &Site,
    order: &Order,
    clone: &Path,
) -> Result<PathBuf, Trouble> {
    let step = |program: &str| Step::new(NAME, program, clone);
    match order.language {
        Language::Cpp => {
            step("make").run(site).await?;
            Ok(clone.join("pipeline.out"))
        }
        Language::Golang => golang(workshop, site, clone).await,
        Language::Java => {
            step("mvn")
                .args(["--batch-mode", "clean", "compile", "assembly:single"])
                .run(site)
                .await?;
            Ok(clone.join("target/plugin-jar-with-dependencies.jar"))
        }
        Language::Nodejs => {
            let archive = site.work.join("pipeline.tar.gz");
            let pack = step("tar").args(["--exclude=.git", "-czf"]).args([&archive]);
            pack.args(["-C"]).args([clone]).args(["."]).run(site).await?;
            Ok(archive)
        }
        Language::Python => python_sdist(workshop, site, clone).await,
        Language::Ruby => ruby(site, clone).await,
        Language::Rust => rust(workshop, site, order, clone).await,
    }
}

async fn golang(workshop: &Workshop, site: &Site, clone: &Path) -> Result<PathBuf, Trouble> {
    let go = |args: &[&str]| {
        Step::new(NAME, "go", clone)
            .args(args)
            .env("GOPATH", workshop.home.tools("go"))
            .env("GOCACHE", workshop.home.tools("go-build"))
            .env("GOFLAGS", "-modcacherw")
    };
    if !clone.join("go.mod").exists() {
        // Older pipelines of Gaia come without a module.
        go(&["mod", "init", "pipeline"]).run(site).await?;
        go(&["mod", "tidy"]).run(site).await?;
    }
    go(&["build", "-o", "pipeline.out", "."]).run(site).await?;
    Ok(clone.join("pipeline.out"))
}

async fn python_sdist(workshop: &Workshop, site: &Site, clone: &Path) -> Result<PathBuf, Trouble> {
    let dir = site.work.join("venv");
    let venv = python::make_venv(NAME, workshop, site, &dir).await?;
    let setuptools = Step::new(NAME, venv.python(), clone).args(["-c", "import setuptools"]);
    if let Err(Trouble::Pipeline(_)) = setuptools.answer(site).await {
        venv.install_packages(NAME, workshop, site, &["setuptools"]).await?;
    }
    Step::new(NAME, venv.python(), clone).args(["setup.py", "sdist"]).run(site).await?;
    the_one(&clone.join("dist"), "tar.gz")
}

/// As Gaia does: the gem's entry file gets a name of its own, so that gems do not meet.
async fn ruby(site: &Site, clone: &Path) -> Result<PathBuf, Trouble> {
    let trouble = |error| Trouble::io("preparing the gem", error);
    let spec = the_one(clone, "gemspec")?;
    let name = site.work.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let text = fs::read_to_string(&spec).map_err(trouble)?.replacen("${NAME}", &name, 1);
    fs::write(&spec, text).map_err(trouble)?;
    let entry = clone.join("lib/gaia.rb");
    if entry.exists() {
        fs::rename(entry, clone.join(format!("lib/{name}.rb"))).map_err(trouble)?;
    }
    Step::new(NAME, "gem", clone).args(["build"]).args([&spec]).run(site).await?;
    the_one(clone, "gem")
}

/// The only file in `dir` whose name ends so.
fn the_one(dir: &Path, ending: &str) -> Result<PathBuf, Trouble> {
    let suffix = format!(".{ending}");
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| path.to_string_lossy().ends_with(&suffix))
        .collect();
    match (found.pop(), found.len()) {
        (Some(path), 0) => Ok(path),
        (None, _) => Err(Trouble::Pipeline(format!("build failed: there is no {suffix} file"))),
        (Some(_), more) => Err(Trouble::Pipeline(format!(
            "build failed: there are {} {suffix} files, and one is needed",
            more + 1
        ))),
    }
}

fn target(workshop: &Workshop, order: &Order) -> PathBuf {
    workshop.home.targets().join(order.pipeline.to_string())
}

async fn rust(
    workshop: &Workshop,
    site: &Site,
    order: &Order,
    clone: &Path,
) -> Result<PathBuf, Trouble> {
    // Kept for each pipeline, so that building it again is quick.
    let target = target(workshop, order);
    make_dir(&target).map_err(|error| Trouble::io("preparing the build", error))?;
    let cargo = |args: &[&str]| {
        Step::new(NAME, "cargo", clone).args(args).env("CARGO_TARGET_DIR", target.as_os_str())
    };
    let metadata = cargo(&["metadata", "--no-deps", "--format-version=1"]).answer(site).await?;
    let name = binary_name(&metadata, &clone.join("Cargo.toml")).map_err(Trouble::Pipeline)?;
    cargo(&["build", "--release", "--bin", &name]).run(site).await?;
    Ok(target.join("release").join(name))
}

/// The one program of the root package, or the one that `default-run` names.
fn binary_name(metadata: &str, manifest: &Path) -> Result<String, String> {
    #[derive(Deserialize)]
    struct Metadata {
        packages: Vec<Package>,
    }
    #[derive(Deserialize)]
    struct Package {
        manifest_path: PathBuf,
        default_run: Option<String>,
        targets: Vec<Target>,
    }
    #[derive(Deserialize)]
    struct Target {
        name: String,
        kind: Vec<String>,
    }
    let metadata: Metadata = serde_json::from_str(metadata)
        .map_err(|error| format!("build failed: cargo's metadata cannot be read: {error}"))?;
    let mut packages = metadata.packages.into_iter();
    let root = packages.find(|package| package.manifest_path == manifest);
    let root = root.ok_or("build failed: the repository's Cargo.toml has no [package]")?;
    let programs = root.targets.iter().filter(|target| target.kind.iter().any(|it| it == "bin"));
    let mut names: Vec<String> = programs.map(|target| target.name.clone()).collect();
    match (root.default_run, names.len()) {
        (Some(name), _) => Ok(name),
        (None, 1) => Ok(names.remove(0)),
        (None, 0) => Err("build failed: the package has no program (src/main.rs)".into()),
        (None, _) => Err(format!(
            "build failed: the package has the programs {}; name one with `default-run`",
            names.join(", ")
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(default_run: &str, targets: &str) -> String {
        format!(
            r#"{{"packages":[{{"manifest_path":"/c/Cargo.toml","default_run":{default_run},"targets":{targets}}}]}}"#
        )
    }

    fn name(text: &str) -> Result<String, String> {
        binary_name(text, Path::new("/c/Cargo.toml"))
    }

    #[test]
    fn the_program_of_a_package_is_found() {
        let one = r#"[{"name":"a","kind":["bin"]},{"name":"l","kind":["lib"]}]"#;
        let two = r#"[{"name":"a","kind":["bin"]},{"name":"b","kind":["bin"]}]"#;
        assert_eq!(name(&metadata("null", one)), Ok("a".into()));
        assert_eq!(name(&metadata("\"b\"", two)), Ok("b".into()));
        assert!(name(&metadata("null", two)).unwrap_err().contains("programs a, b"));
        assert!(name(&metadata("null", "[]")).unwrap_err().contains("no program"));
        assert!(name(r#"{"packages":[]}"#).unwrap_err().contains("no [package]"));
    }
}
