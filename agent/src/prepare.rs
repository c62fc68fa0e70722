//! Makes a binary ready to be started, by its language; once for each digest.
//!
//! What was prepared is marked as the last step, so that a preparation that was interrupted is done
//! again from the start. Parallel runs of one pipeline wait for one preparation.

use std::{
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use ids::Digest;
use tokio::{sync::OwnedMutexGuard, task::spawn_blocking};

use crate::{
    command::Step,
    home::make_dir,
    kept::Use,
    order::Language,
    python::{self, PIPELINE},
    runtime::Launch,
    site::Site,
    stop::Trouble,
    unpack::{MOST, UnpackError, unpack},
    workshop::Workshop,
};

pub(crate) const NAME: &str = "prepare";
const DONE: &str = ".prepared";

/// How to start a prepared pipeline.
#[derive(Debug)]
pub(crate) struct Recipe {
    program: PathBuf,
    args: Vec<OsString>,
    /// Where Gaia starts it; `None`: in the attempt's own folder.
    dir: Option<PathBuf>,
    env: Vec<(OsString, OsString)>,
    /// Of the folder that it was prepared in.
    _used: Option<Use>,
}

impl Recipe {
    fn new(program: impl Into<PathBuf>, args: &[&str]) -> Self {
        let args = args.iter().map(OsString::from).collect();
        Self { program: program.into(), args, dir: None, env: Vec::new(), _used: None }
    }

    pub(crate) fn launch(&self, site: &Site) -> Launch {
        let mut env = site.environment();
        env.extend(self.env.iter().cloned());
        Launch {
            program: self.program.clone(),
            args: self.args.clone(),
            cwd: self.dir.clone().unwrap_or_else(|| site.work.clone()),
            env,
            scratch: site.work.join("plugin"),
        }
    }
}

/// Prepares `binary`, where that has not been done, and says how to start it.
pub(crate) async fn prepare(
    workshop: &Workshop,
    site: &Site,
    language: Language,
    digest: Digest,
    binary: &Path,
) -> Result<Recipe, Trouble> {
    let dir = workshop.home.prepared().join(digest.to_string());
    match language {
        Language::Cpp | Language::Golang | Language::Rust => Ok(Recipe::new(binary, &[])),
        Language::Java => {
            let mut recipe = Recipe::new("java", &["-jar"]);
            recipe.args.push(binary.into());
            Ok(recipe)
        }
        Language::Python => {
            let install = |_| python_install(workshop, site, &dir, binary);
            let used = once(workshop, site, digest, &dir, install).await?;
            Ok(Recipe { _used: used, ..python_recipe(site, &dir) })
        }
        Language::Nodejs => {
            let install = |turn| node_install(workshop, site, &dir, binary, turn);
            let used = once(workshop, site, digest, &dir, install).await?;
            let source = dir.join("source");
            Ok(Recipe { dir: Some(source), _used: used, ..Recipe::new("node", &["index.js"]) })
        }
        Language::Ruby => {
            let install = |_| ruby_install(site, &dir, binary);
            let used = once(workshop, site, digest, &dir, install).await?;
            Ok(Recipe { _used: used, ..ruby_recipe(&dir)? })
        }
    }
}

/// Nobody else prepares the same as long as somebody has it.
type Turn = Arc<OwnedMutexGuard<()>>;

async fn once<F: Future<Output = Result<(), Trouble>>>(
    workshop: &Workshop,
    site: &Site,
    digest: Digest,
    dir: &Path,
    work: impl FnOnce(Turn) -> F,
) -> Result<Option<Use>, Trouble> {
    // Before it is looked for, so that it does not go meanwhile.
    let used = workshop.kept.take(dir);
    let turn = Arc::new(site.stopper.unless(workshop.preparing.enter(digest)).await?);
    let trouble = |error| Trouble::io("preparing the pipeline", error);
    let done = dir.join(DONE);
    if done.exists() {
        return Ok(Some(used));
    }
    start_anew(dir).map_err(trouble)?;
    work(Arc::clone(&turn)).await?;
    fs::File::create(done).and_then(|file| file.sync_all()).map_err(trouble)?;
    used.filled().await;
    Ok(Some(used))
}

/// Works on a thread, which has the turn until it is done, also when nobody waits for it any more.
async fn on_thread<T: Send + 'static>(turn: Turn, work: impl FnOnce() -> T + Send + 'static) -> T {
    let working = spawn_blocking(move || {
        let done = work();
        drop(turn);
        done
    });
    working.await.expect("the work neither panics nor is aborted")
}

fn start_anew(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    make_dir(dir)
}

/// A copy under a name that the language's tools take.
fn place(binary: &Path, path: &Path) -> Result<(), Trouble> {
    fs::copy(binary, path).map(drop).map_err(|error| Trouble::io("copying the binary", error))
}

async fn python_install(
    workshop: &Workshop,
    site: &Site,
    dir: &Path,
    binary: &Path,
) -> Result<(), Trouble> {
    let archive = dir.join(PIPELINE);
    place(binary, &archive)?;
    let venv = python::make_venv(NAME, workshop, site, &dir.join("venv")).await?;
    venv.install_pipeline(NAME, workshop, site, &archive).await
}

fn python_recipe(site: &Site, dir: &Path) -> Recipe {
    let venv = dir.join("venv");
    let bin = venv.join("bin");
    let code = "import pipeline; pipeline.main()";
    Recipe {
        dir: Some(venv.clone()),
        env: vec![("VIRTUAL_ENV".into(), venv.into()), ("PATH".into(), path_with(site, &bin))],
        ..Recipe::new(bin.join("python"), &["-c", code])
    }
}

/// The attempt's `PATH` with `first` before everything else.
pub(crate) fn path_with(site: &Site, first: &Path) -> OsString {
    let environment = site.environment();
    let path = environment.iter().rfind(|(key, _)| key == "PATH").map(|(_, value)| value.clone());
    let mut out = first.as_os_str().to_owned();
    if let Some(path) = path {
        out.push(":");
        out.push(path);
    }
    out
}

async fn node_install(
    workshop: &Workshop,
    site: &Site,
    dir: &Path,
    binary: &Path,
    turn: Turn,
) -> Result<(), Trouble> {
    let source = dir.join("source");
    make_dir(&source).map_err(|error| Trouble::io("preparing the pipeline", error))?;
    site.log.note(format!("{NAME}: unpacking the sources")).await;
    let (archive, folder) = (binary.to_owned(), source.clone());
    let unpacked = on_thread(turn, move || unpack(&archive, &folder, MOST)).await;
    unpacked.map_err(|error| match error {
        UnpackError::Disk(error) => Trouble::io("unpacking the sources", error),
        error => Trouble::Pipeline(error.to_string()),
    })?;
    Step::new(NAME, "npm", &source)
        .args(["install", "--no-audit", "--no-fund"])
        .env("npm_config_cache", workshop.home.tools("npm"))
        .run(site)
        .await
}

async fn ruby_install(site: &Site, dir: &Path, binary: &Path) -> Result<(), Trouble> {
    let gem = dir.join("pipeline.gem");
    place(binary, &gem)?;
    let name = Step::new(NAME, "gem", dir)
        .args(["specification", "--yaml", "pipeline.gem", "name"])
        .answer(site)
        .await?;
    let name = name.lines().find_map(|line| line.strip_prefix("--- ")).unwrap_or(name.as_str());
    fs::write(dir.join("name"), name.trim())
        .map_err(|error| Trouble::io("preparing the pipeline", error))?;
    Step::new(NAME, "gem", dir)
        .args(["install", "--force", "--no-document", "--install-dir", "gems", "pipeline.gem"])
        .run(site)
        .await
}

fn ruby_recipe(dir: &Path) -> Result<Recipe, Trouble> {
    let name = fs::read_to_string(dir.join("name"))
        .map_err(|error| Trouble::io("reading the gem's name", error))?;
    let env = vec![("GEM_HOME".into(), dir.join("gems").into())];
    Ok(Recipe { env, ..Recipe::new("ruby", &["-r", &name, "-e", "Main.main"]) })
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use futures::FutureExt as _;

    use super::*;
    use crate::flights::Flights;

    #[tokio::test]
    async fn a_preparation_that_was_given_up_ends_before_the_next_one_begins() {
        let (flights, digest) = (Flights::default(), Digest::of(b""));
        let turn = Arc::new(flights.enter(digest).await);
        let (unpacked, unpacking) = mpsc::channel::<()>();
        assert!(on_thread(turn, move || unpacking.recv()).now_or_never().is_none());
        assert!(flights.enter(digest).now_or_never().is_none());
        unpacked.send(()).unwrap();
        flights.enter(digest).await;
    }
}
