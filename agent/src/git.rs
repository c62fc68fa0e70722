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
const ASKPASS: &str = "#!/bin/sh
case \"$1\" in
Username*) printf '%s\\n' \"$GAIA_GIT_USERNAME\" ;;
*) printf '%s\\n' \"$GAIA_GIT_PASSWORD\" ;;
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
    if !order.password.is_empty() && order.private_key.is_empty() {
        let askpass = secrets.join("askpass");
        write_private(&askpass, ASKPASS.as_bytes())?;
        fs::set_permissions(&askpass, fs::Permissions::from_mode(0o700))?;
        let user = if order.username.is_empty() { "git" } else { &order.username };
        step = step
            .env("GIT_ASKPASS", askpass)
            .env("GAIA_GIT_USERNAME", user)
            .env("GAIA_GIT_PASSWORD", &order.password);
    }
    step = step.env("GIT_SSH_COMMAND", ssh(workshop, order, secrets)?);
    Ok(step)
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
