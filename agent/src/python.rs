//! Virtual environments, on machines that differ in what they have.
//!
//! `python3 -m venv` lacks pip on Debian without `python3-venv`; then `virtualenv` serves, and
//! without that the machine's own pip installs into an environment that has none.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
};

use crate::{
    command::Step,
    home::{make_dir, write_private},
    prepare::path_with,
    site::Site,
    stop::Trouble,
    workshop::Workshop,
};

/// pip tells what a file is by its name.
pub(crate) const PIPELINE: &str = "pipeline.tar.gz";

/// Gaia's Python SDK needs a protobuf of its time, and a package that it does not declare. The second
/// line follows from the first and saves pip from trying thirty versions.
const CONSTRAINTS: &str = "protobuf<4\ngrpcio-health-checking<1.49\n";
const UNDECLARED: &str = "six";

/// A virtual environment and how to install into it.
#[derive(Debug)]
pub(crate) struct Venv {
    dir: PathBuf,
    /// Program and arguments before `install`.
    pip: Vec<OsString>,
}

/// Makes one in `dir`, by whatever way works here.
pub(crate) async fn make_venv(
    name: &'static str,
    workshop: &Workshop,
    site: &Site,
    dir: &Path,
) -> Result<Venv, Trouble> {
    let parent = dir.parent().expect("a folder inside of the agent's home");
    let attempt = |program: &str, args: &[&str]| {
        fs::remove_dir_all(dir).ok();
        Step::new(name, program, parent).args(args).args([dir]).run(site)
    };
    let python = dir.join("bin/python");
    let own = ["-m", "pip"].map(OsString::from);
    let own: Vec<OsString> = std::iter::once(python.clone().into()).chain(own).collect();
    match attempt("python3", &["-m", "venv"]).await {
        Err(Trouble::Pipeline(_)) => {}
        done => return done.map(|()| Venv { dir: dir.into(), pip: own }),
    }
    match attempt("virtualenv", &["--quiet"]).await {
        Err(Trouble::Pipeline(_) | Trouble::Worker(_)) => {}
        done => return done.map(|()| Venv { dir: dir.into(), pip: own }),
    }
    attempt("python3", &["-m", "venv", "--without-pip"]).await.map_err(
        |trouble| match trouble {
            Trouble::Pipeline(why) => Trouble::Worker(why),
            trouble => trouble,
        },
    )?;
    let hosts = ["python3", "-m", "pip", "--python"].map(OsString::from);
    let pip = hosts.into_iter().chain([python.into()]).collect();
    make_dir(&workshop.home.tools("pip")).map_err(|error| Trouble::io("preparing pip", error))?;
    Ok(Venv { dir: dir.into(), pip })
}

impl Venv {
    pub(crate) fn python(&self) -> PathBuf {
        self.dir.join("bin/python")
    }

    /// Installs a pipeline's source distribution so that Gaia's SDK works with it.
    pub(crate) async fn install_pipeline(
        &self,
        name: &'static str,
        workshop: &Workshop,
        site: &Site,
        archive: &Path,
    ) -> Result<(), Trouble> {
        let tools = workshop.home.tools("pip");
        let constraints = tools.join("constraints.txt");
        make_dir(&tools)
            .and_then(|()| write_private(&constraints, CONSTRAINTS.as_bytes()))
            .map_err(|error| Trouble::io("preparing pip", error))?;
        let step = self.install(name, workshop, site).args([UNDECLARED]).args([archive]);
        step.env("PIP_CONSTRAINT", constraints).run(site).await
    }

    /// Installs packages by their names.
    pub(crate) async fn install_packages(
        &self,
        name: &'static str,
        workshop: &Workshop,
        site: &Site,
        packages: &[&str],
    ) -> Result<(), Trouble> {
        self.install(name, workshop, site).args(packages).run(site).await
    }

    fn install(&self, name: &'static str, workshop: &Workshop, site: &Site) -> Step {
        let (program, args) = self.pip.split_first().expect("pip has a program");
        let parent = self.dir.parent().expect("a folder inside of the agent's home");
        Step::new(name, program, parent)
            .args(args)
            .args(["install", "--disable-pip-version-check", "--no-input", "--progress-bar=off"])
            .env("PIP_CACHE_DIR", workshop.home.tools("pip").join("cache"))
            .env("PATH", path_with(site, &self.dir.join("bin")))
    }
}
