//! What can be set.

use std::time::Duration;

use secrecy::SecretString;
use serde::Deserialize;

/// What svc-access can be told.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How long a login is good for, in hours.
    pub session_hours: u32,
    /// The password that the user `admin` gets at the very first start, instead of a generated one.
    /// Never from a file: whoever starts the service takes it from the environment.
    #[serde(skip)]
    pub admin_password: Option<SecretString>,
}

impl Default for Config {
    fn default() -> Self {
        Self { session_hours: 12, admin_password: None }
    }
}

impl Config {
    pub(crate) fn session(&self) -> Duration {
        Duration::from_hours(self.session_hours.into())
    }
}
