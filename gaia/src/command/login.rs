//! `gaia login`: keeps a token for the other commands.

use std::io::{BufRead, IsTerminal, Write};

use anyhow::{Context, Result};
use clap::Args;

use crate::profile::{Profile, ServerArgs};

#[derive(Args, Debug)]
pub struct LoginArgs {
    /// User to log in as
    #[arg(long, env = "GAIA_USERNAME", default_value = "admin")]
    username: String,
    /// Password; better given in the environment or typed
    #[arg(long, env = "GAIA_PASSWORD", hide_env_values = true)]
    password: Option<String>,
}

pub async fn login(args: LoginArgs, server: &ServerArgs) -> Result<()> {
    let (mut client, ca) = server.anonymous_client()?;
    let password = match args.password {
        Some(password) => password,
        None => ask_password(&args.username)?,
    };
    let token = client.login(&args.username, &password).await?;
    let path = server.profile_path()?;
    Profile { server: client.server().to_owned(), ca, token }.write(&path)?;
    eprintln!("Logged in as {} (saved in {}).", args.username, path.display());
    Ok(())
}

/// Reads a line; a terminal shows what is typed, since hiding it needs more than this program has.
pub(super) fn ask_password(username: &str) -> Result<String> {
    if std::io::stdin().is_terminal() {
        eprint!("Password of {username} (shown as you type): ");
        std::io::stderr().flush().context("write the prompt")?;
    }
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).context("read the password")?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}
