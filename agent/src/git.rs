//! Clones a repository with the git CLI, without showing its credentials to anybody.
//!
//! Passwords go to git through an askpass program and its environment, keys through a file that only
//! the agent may read and that is removed after the clone. Repositories run nothing here: no hooks,
//! no `ext::` transport.

use std::{fs, io, os::unix::fs::PermissionsExt as _, path::Path};

use proto::worker::BuildOrder;

use crate::{command::Step, home::write_private, site::Site, stop::Trouble, workshop::Workshop};

const NAME: &str = "clone";
const SAFE: [&str; 6] = [
    "-c",
    "protocol.ext.allow=never",
    "-c",
    "core.hooksPath=/dev/null",
    "-c",
    "credential.helper=",
];
/// Git names the server that asks, as in `Password for 'https://ann@example.org': `. Another than the
/// repository's, such as one that a submodule or a redirect names, is told nothing.
const ASKPASS: &str = "#!/bin/sh
case \"$1\" in
\"Username for '$GAIA_GIT_SCHEME://$GAIA_GIT_HOST': \"|\\
\"Username for '$GAIA_GIT_SCHEME://\"*\"@$GAIA_GIT_HOST': \") printf '%s\\n' \"$GAIA_GIT_USERNAME\" ;;
\"Password for '$GAIA_GIT_SCHEME://$GAIA_GIT_HOST': \"|\\
\"Password for '$GAIA_GIT_SCHEME://\"*\"@$GAIA_GIT_HOST': \") printf '%s\\n' \"$GAIA_GIT_PASSWORD\" ;;
*) echo 'the credentials are not for this server' >&2; exit 1 ;;
esac
";

/// Clones into `clone`, a folder that does not exist yet. Answers with the commit, in hex.
pub(crate) async fn clone(
    workshop: &Workshop,
    site: &Site,
    order: &BuildOrder,
    clone: &Path,
) -> Result<String, Trouble> {
    let secrets = site.work.join("git");
    let trouble = |error| Trouble::io("preparing the clone", error);
    crate::home::make_dir(&secrets).map_err(trouble)?;
    let mut step = Step::new(NAME, "git", &site.work)
        .args(SAFE)
        .args(["clone", "--depth=1", "--single-branch", "--recurse-submodules"])
        .args(["--shallow-submodules"]);
    let branch = order.branch.trim_start_matches("refs/heads/");
    if !branch.is_empty() {
        step = step.args(["--branch", branch]);
    }
    step = step.args(["--", order.url.as_str()]).args([clone]);
    let step = quiet(with_credentials(workshop, step, order, &secrets).map_err(trouble)?);
    let cloned = step.run(site).await;
    fs::remove_dir_all(&secrets).map_err(trouble)?;
    cloned?;
    let head = Step::new(NAME, "git", clone).args(SAFE).args(["rev-parse", "HEAD"]);
    quiet(head).answer(site).await
}

/// Nobody is there to be asked, and nobody's settings count.
fn quiet(step: Step) -> Step {
    step.env("GIT_TERMINAL_PROMPT", "0").env("GIT_CONFIG_NOSYSTEM", "1").env("LC_ALL", "C.UTF-8")
}

fn with_credentials(
    workshop: &Workshop,
    mut step: Step,
    order: &BuildOrder,
    secrets: &Path,
) -> io::Result<Step> {
    if !order.password.is_empty()
        && order.private_key.is_empty()
        && let Some((scheme, host)) = server(&order.url)
    {
        let askpass = secrets.join("askpass");
        write_private(&askpass, ASKPASS.as_bytes())?;
        fs::set_permissions(&askpass, fs::Permissions::from_mode(0o700))?;
        let user = if order.username.is_empty() { "git" } else { &order.username };
        step = step
            .env("GIT_ASKPASS", askpass)
            .env("GAIA_GIT_SCHEME", scheme)
            .env("GAIA_GIT_HOST", host)
            .env("GAIA_GIT_USERNAME", user)
            .env("GAIA_GIT_PASSWORD", &order.password);
    }
    step = step.env("GIT_SSH_COMMAND", ssh(workshop, order, secrets)?);
    Ok(step)
}

/// Scheme and host, with the port if there is one, as git names them when it asks.
fn server(url: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = url.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let host = authority.rsplit_once('@').map_or(authority, |(_user, host)| host);
    Some((scheme, host))
}

/// A host key that was never seen is noted; one that changed is refused.
fn ssh(workshop: &Workshop, order: &BuildOrder, secrets: &Path) -> io::Result<String> {
    let known = workshop.home.tools("known_hosts");
    let mut command = format!(
        "ssh -o BatchMode=yes -o StrictHostKeyChecking=accept-new -o UserKnownHostsFile='{} ~/.ssh/known_hosts'",
        known.display()
    );
    if !order.private_key.is_empty() {
        let key = secrets.join("key");
        // OpenSSH refuses a key without a last newline.
        write_private(&key, format!("{}\n", order.private_key.trim()).as_bytes())?;
        command = format!("{command} -o IdentitiesOnly=yes -i '{}'", key.display());
    }
    Ok(command)
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead as _, BufReader, Write as _},
        net::TcpListener,
        process::Command,
    };

    use base64::{Engine as _, engine::general_purpose::STANDARD};

    use super::*;

    /// Answers with the port of a server that wants a password, and what was told to it.
    fn curious() -> (u16, std::sync::mpsc::Receiver<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (sender, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let head = BufReader::new(stream.try_clone().unwrap()).lines();
                for line in head.map_while(Result::ok).take_while(|line| !line.is_empty()) {
                    if let Some((_, sent)) = line.split_once(": Basic ") {
                        let sent = STANDARD.decode(sent.trim()).unwrap();
                        sender.send(String::from_utf8(sent).unwrap()).ok();
                    }
                }
                let answer = "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"x\"\r\n\
                              Content-Length: 0\r\nConnection: close\r\n\r\n";
                stream.write_all(answer.as_bytes()).ok();
            }
        });
        (port, told)
    }

    #[test]
    fn a_password_is_told_to_the_repositorys_server_alone() {
        let folder = tempfile::tempdir().unwrap();
        let askpass = folder.path().join("askpass");
        fs::write(&askpass, ASKPASS).unwrap();
        fs::set_permissions(&askpass, fs::Permissions::from_mode(0o700)).unwrap();
        let (port, told) = curious();
        let here = format!("127.0.0.1:{port}");
        let asks = |url: &str, scheme: &str, host: &str| {
            let mut git = Command::new("git");
            git.args(SAFE).args(["ls-remote", url]).current_dir(&folder);
            git.env("GIT_TERMINAL_PROMPT", "0").env("LC_ALL", "C.UTF-8");
            git.env("GIT_ASKPASS", &askpass).env("GAIA_GIT_SCHEME", scheme);
            git.env("GAIA_GIT_HOST", host).env("GAIA_GIT_USERNAME", "ann");
            let output = git.env("GAIA_GIT_PASSWORD", "hunter22").output().unwrap();
            assert!(!output.status.success());
            told.try_iter().filter(|sent| sent.ends_with(":hunter22")).count()
        };
        for url in [format!("http://{here}/it.git"), format!("http://bob@{here}/it.git")] {
            let (scheme, host) = server(&url).unwrap();
            assert!(asks(&url, scheme, host) > 0, "{url}");
            for (scheme, host) in [("https", host), ("http", "example.org"), ("http", "127.0.0.1")]
            {
                assert_eq!(asks(&url, scheme, host), 0, "{url} for {scheme}://{host}");
            }
        }
    }
}
