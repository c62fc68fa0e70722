//! Where one attempt works: its folder, its environment, its log, and how it is stopped.

use std::{
    env,
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use crate::{
    home::make_dir,
    order::Order,
    processes,
    spool::Log,
    stop::{Stopper, Why},
};

/// What a pipeline's processes get of the agent's own environment: what tools need to be found and
/// to reach the network, and nothing that the agent was trusted with.
const INHERITED: [&str; 33] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "TZ",
    "CARGO_HOME",
    "RUSTUP_HOME",
    "RUSTUP_TOOLCHAIN",
    "GOROOT",
    "GOPROXY",
    "GOTOOLCHAIN",
    "JAVA_HOME",
    "MAVEN_HOME",
    "PYENV_ROOT",
    "NVM_DIR",
    "PIP_INDEX_URL",
    "PIP_EXTRA_INDEX_URL",
    "PIP_CONFIG_FILE",
    "NPM_CONFIG_REGISTRY",
    "NPM_CONFIG_USERCONFIG",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
    "LD_LIBRARY_PATH",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "HTTPS_PROXY",
];

#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) log: Log,
    /// For this attempt alone; removed when it is over.
    pub(crate) work: PathBuf,
    pub(crate) stopper: Stopper,
    /// Cancelled when the pipeline itself runs, and may be asked to say something now and then.
    pub(crate) begun: CancellationToken,
    grace: Duration,
    environment: Vec<(OsString, OsString)>,
}

impl Site {
    /// Makes the attempt's folder.
    pub(crate) fn new(
        order: &Order,
        work: PathBuf,
        log: Log,
        stopper: Stopper,
        begun: CancellationToken,
        grace: Duration,
    ) -> io::Result<Self> {
        let temporary = work.join("tmp");
        make_dir(&temporary)?;
        let mut environment = environment(&order.environment, &temporary);
        environment.push(processes::mark(&work));
        Ok(Self { log, work, stopper, begun, grace, environment })
    }

    /// The complete environment of a process, before what its language needs.
    pub(crate) fn environment(&self) -> Vec<(OsString, OsString)> {
        self.environment.clone()
    }

    /// How long a process may take to end after it was asked to.
    pub(crate) fn grace(&self) -> Duration {
        match self.stopper.why() {
            // Somebody else may run the same by now, or the agent is in a hurry.
            Some(Why::Lost | Why::Aborted) => Duration::ZERO,
            _ => self.grace,
        }
    }
}

fn environment(ordered: &[(String, String)], temporary: &Path) -> Vec<(OsString, OsString)> {
    let inherited =
        INHERITED.iter().filter_map(|key| Some((OsString::from(key), env::var_os(key)?)));
    let own = [(OsString::from("TMPDIR"), temporary.as_os_str().to_owned())];
    let usable = |key: &str| !key.is_empty() && !key.contains(['=', '\0']);
    let ordered = ordered
        .iter()
        .filter(|(key, value)| usable(key) && !value.contains('\0'))
        .map(|(key, value)| (key.into(), value.into()));
    inherited.chain(own).chain(ordered).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_s_variables_win_and_nothing_of_the_agent_leaks() {
        let ordered = [("LANG", "xx"), ("A=B", "no"), ("", "no"), ("TOKEN", "t")];
        let ordered = ordered.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let environment = environment(&ordered, Path::new("/tmp/x"));
        let value = |wanted: &str| {
            let found = environment.iter().rfind(|(key, _)| key == wanted);
            found.map(|(_, value)| value.to_str().unwrap())
        };
        assert_eq!(value("LANG"), Some("xx"));
        assert_eq!(value("TMPDIR"), Some("/tmp/x"));
        assert_eq!(value("TOKEN"), Some("t"));
        assert_eq!(value("A=B"), None);
        // Cargo sets it for tests, and it is not on the list.
        assert!(env::var_os("CARGO_MANIFEST_DIR").is_some());
        assert_eq!(value("CARGO_MANIFEST_DIR"), None);
    }
}
