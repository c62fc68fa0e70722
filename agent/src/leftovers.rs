//! Logs that a previous life of the agent could not ship any more.
//!
//! A line that a pipeline printed is on this disk or at the server. So what is found in the spool at
//! the start is shipped to its end, as far as the server still takes it, before it is removed.

use std::{fs, io, path::PathBuf};

use futures::{StreamExt as _, stream};
use ids::RunId;
use tokio::sync::watch;

use crate::{
    home::{Home, make_dir, write_private},
    order::Lease,
    primary::Primary,
    shipping::{abandon, ship},
    spool::{Progress, Shelf, Shipment, Tail},
};

const AT_ONCE: usize = 4;
/// Whose log it is, beside its segments.
const LEASE: &str = "lease";
const INCOMPLETE: &str = "the agent ended before this attempt did";
const LAST_LINE: &[u8] = b"\nThe agent ended here, and this attempt with it.\n";

/// A spooled log, and whose it is.
#[derive(Debug)]
pub(crate) struct Leftover {
    lease: Lease,
    /// The folder of its segments.
    log: PathBuf,
}

/// Notes whose log this is, in case that the agent does not live to ship it.
pub(crate) fn note(home: &Home, lease: &Lease) -> io::Result<()> {
    let text = format!("{} {} {}", lease.run, lease.attempt, lease.token);
    let log = home.spool(&lease.file_name());
    make_dir(&log)?;
    write_private(&log.join(LEASE), text.as_bytes())
}

/// The attempt is over.
pub(crate) fn remove(home: &Home, lease: &Lease) -> io::Result<()> {
    match fs::remove_dir_all(home.spool(&lease.file_name())) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// What the spool holds before the first order. What is nobody's is removed.
pub(crate) fn find(home: &Home) -> Vec<Leftover> {
    let entries = fs::read_dir(home.spools()).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let log = entry.path();
            let lease = fs::read_to_string(log.join(LEASE)).ok();
            let Some(lease) = lease.and_then(|text| parse(&text)) else {
                let removed =
                    if log.is_dir() { fs::remove_dir_all(&log) } else { fs::remove_file(&log) };
                if let Err(error) = removed {
                    tracing::warn!(path = %log.display(), %error, "cannot remove a log of nobody");
                }
                return None;
            };
            Some(Leftover { lease, log })
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
        let found = self.close().await;
        let shipment = found.map_err(|error| format!("cannot read it: {error}"))?;
        let progress = shipment.progress.clone();
        let shipped = ship(primary.control(), &self.lease, shipment).await;
        if let Err(error) = &shipped {
            abandon(primary.control(), &self.lease, error, progress).await;
        }
        shipped.map_err(|error| error.to_string())
    }

    async fn close(&self) -> io::Result<Shipment> {
        let segments = Shelf::new(self.log.clone());
        let mut tail = Tail::reopen(segments.clone()).await?;
        tail.close(LAST_LINE).await?;
        let (size, end) = (tail.size(), Some(tail.digest()));
        let (_, progress) = watch::channel(Progress {
            size,
            end,
            gaps: segments.read_gaps(),
            ..Progress::default()
        });
        let first = tail.first();
        let acknowledged = watch::Sender::new(first);
        Ok(Shipment { shelf: segments, first, progress, incomplete: INCOMPLETE, acknowledged })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_nobodys_goes_and_what_is_somebodys_stays() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::open(folder.path()).unwrap();
        let lease =
            Lease { run: RunId::from_uuid(uuid::Uuid::nil()), attempt: 3, token: "t".into() };
        note(&home, &lease).unwrap();
        fs::create_dir(home.spools().join("without a lease")).unwrap();
        fs::write(home.spools().join("no folder"), "of another form").unwrap();
        let found: Vec<_> = find(&home).iter().map(Leftover::attempt).collect();
        assert_eq!(found, [(lease.run, 3)]);
        assert_eq!(fs::read_dir(home.spools()).unwrap().count(), 1);
        remove(&home, &lease).unwrap();
        assert!(find(&home).is_empty());
    }
}
