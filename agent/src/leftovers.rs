//! Logs that a previous life of the agent could not ship any more.
//!
//! A line that a pipeline printed is on this disk or at the server. So what is found in the spool at
//! the start is shipped to its end, as far as the server still takes it, before it is removed.

use std::{fs, io, path::PathBuf};

use futures::{StreamExt as _, stream};
use ids::RunId;
use tokio::{io::AsyncWriteExt as _, sync::watch};

use crate::{
    cache::digest_of,
    home::{Home, write_private},
    order::Lease,
    primary::Primary,
    shipping::ship,
    spool::Progress,
};

const AT_ONCE: usize = 4;
const LAST_LINE: &[u8] = b"\nThe agent ended here, and this attempt with it.\n";

/// A spooled log, and whose it is.
#[derive(Debug)]
pub(crate) struct Leftover {
    lease: Lease,
    log: PathBuf,
}

/// Notes whose log this is, in case that the agent does not live to ship it.
pub(crate) fn note(home: &Home, lease: &Lease) -> io::Result<()> {
    let text = format!("{} {} {}", lease.run, lease.attempt, lease.token);
    write_private(&home.spool(&lease.file_name()).with_extension("lease"), text.as_bytes())
}

/// The attempt is over.
pub(crate) fn remove(home: &Home, lease: &Lease) -> io::Result<()> {
    let log = home.spool(&lease.file_name());
    for path in [log.clone(), log.with_extension("lease")] {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// What the spool holds before the first order.
pub(crate) fn find(home: &Home) -> Vec<Leftover> {
    let entries = fs::read_dir(home.spools()).into_iter().flatten().flatten();
    let leases = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|it| it == "lease"));
    leases
        .filter_map(|path| {
            let lease = parse(&fs::read_to_string(&path).ok()?)?;
            Some(Leftover { lease, log: path.with_extension("log") })
        })
        .collect()
}

fn parse(text: &str) -> Option<Lease> {
    let mut words = text.split(' ');
    let (run, attempt) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    Some(Lease { run, attempt, token: words.next()?.to_owned() })
}

/// Ships all of them and removes them, a few at a time.
pub(crate) async fn deliver(leftovers: Vec<Leftover>, primary: &Primary, home: &Home) {
    stream::iter(leftovers)
        .for_each_concurrent(AT_ONCE, async |leftover| {
            let run = leftover.lease.run;
            match leftover.deliver(primary).await {
                Ok(()) => tracing::info!(%run, "shipped the log of an attempt that was lost"),
                Err(why) => tracing::warn!(%run, why, "the log of a lost attempt is incomplete"),
            }
            if let Err(error) = remove(home, &leftover.lease) {
                tracing::warn!(%run, %error, "cannot remove a log");
            }
        })
        .await;
}

impl Leftover {
    pub(crate) fn attempt(&self) -> (RunId, u32) {
        (self.lease.run, self.lease.attempt)
    }

    async fn deliver(&self, primary: &Primary) -> Result<(), String> {
        let ended = self.end().await;
        let end = ended.map_err(|error| format!("cannot read it: {error}"))?;
        let (_sender, progress) = watch::channel(end);
        let shipped = ship(primary.control(), &self.lease, &self.log, progress).await;
        shipped.map_err(|error| error.to_string())
    }

    async fn end(&self) -> io::Result<Progress> {
        let mut file = tokio::fs::File::options().append(true).open(&self.log).await?;
        file.write_all(LAST_LINE).await?;
        file.flush().await?;
        let (digest, size) = digest_of(&self.log).await?;
        Ok(Progress { size, end: Some(digest) })
    }
}
