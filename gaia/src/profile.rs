//! Where the client commands find their server: flags, then the environment, then the saved login.

use std::{
    env, fs,
    io::Write,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::client::Client;

/// How to reach the server. Every client command takes these.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Server")]
pub struct ServerArgs {
    /// Address of the server, such as <https://gaia.example.org:8443>
    #[arg(long, env = "GAIA_SERVER", global = true, value_name = "URL")]
    pub server: Option<String>,
    /// File with the CA certificate of the server
    #[arg(long, env = "GAIA_CA_CERT", global = true, value_name = "FILE")]
    pub ca_cert: Option<PathBuf>,
    /// Token of a login
    #[arg(long, env = "GAIA_TOKEN", global = true, hide_env_values = true)]
    pub token: Option<String>,
    /// File with the saved login [default: gaia/profile.toml in the user's configuration folder]
    #[arg(long, env = "GAIA_PROFILE", global = true, value_name = "FILE")]
    pub profile: Option<PathBuf>,
}

/// A saved login.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Profile {
    pub server: String,
    /// PEM.
    pub ca: String,
    pub token: String,
}

impl Profile {
    fn read(path: &Path) -> Result<Option<Self>> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
        };
        let profile = toml::from_str(&text).with_context(|| {
            format!("read {}: not a saved login; log in again with `gaia login`", path.display())
        })?;
        Ok(Some(profile))
    }

    /// Nobody but the user can read the file, not even for a moment.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)
                .with_context(|| format!("create the folder {}", folder.display()))?;
        }
        let text = toml::to_string(self).context("encode the login")?;
        let write = || -> std::io::Result<()> {
            let mut file = fs::OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(path)?;
            file.set_permissions(fs::Permissions::from_mode(0o600))?;
            file.write_all(text.as_bytes())
        };
        write().with_context(|| format!("write {}", path.display()))
    }
}

impl ServerArgs {
    pub fn profile_path(&self) -> Result<PathBuf> {
        if let Some(path) = &self.profile {
            return Ok(path.clone());
        }
        let folder = env::var_os("XDG_CONFIG_HOME")
            .map(PathBuf::from)
            .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".config")));
        match folder {
            Some(folder) => Ok(folder.join("gaia/profile.toml")),
            None => bail!("no HOME is set: name a file for the login with --profile"),
        }
    }

    /// A client that is logged in, or a message that says how to get there.
    pub fn client(&self) -> Result<Client> {
        let saved = Profile::read(&self.profile_path()?)?;
        let server = self
            .server
            .clone()
            .or_else(|| saved.as_ref().map(|profile| profile.server.clone()))
            .context("no server is known: log in with `gaia login --server URL --ca-cert FILE`")?;
        let ca = self.ca(saved.as_ref())?;
        let token = self.token.clone().or_else(|| saved.map(|profile| profile.token));
        Client::new(&server, &ca, token)
    }

    /// A client that need not be logged in.
    pub fn anonymous_client(&self) -> Result<(Client, String)> {
        let saved = Profile::read(&self.profile_path()?)?;
        let server = self
            .server
            .clone()
            .or_else(|| saved.as_ref().map(|profile| profile.server.clone()))
            .context("name the server: --server URL")?;
        let ca = self.ca(saved.as_ref())?;
        Ok((Client::new(&server, &ca, None)?, ca))
    }

    /// PEM text of the CA to trust.
    pub fn ca_pem(&self) -> Result<String> {
        self.ca(Profile::read(&self.profile_path()?)?.as_ref())
    }

    fn ca(&self, saved: Option<&Profile>) -> Result<String> {
        match (&self.ca_cert, saved) {
            (Some(path), _) => fs::read_to_string(path)
                .with_context(|| format!("read the CA certificate {}", path.display())),
            (None, Some(profile)) => Ok(profile.ca.clone()),
            (None, None) => bail!(
                "the server's CA certificate is not known: name its file with --ca-cert \
                 (the server keeps it in its data folder, ca/ca.pem)"
            ),
        }
    }
}
