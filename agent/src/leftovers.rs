//! Logs that a previous life of the agent could not ship any more.
//!
//! A line that a pipeline printed is on this disk or at the server. So what is found in the spool at
//! the start is shipped to its end, as far as the server still takes it, before it is removed.

use std::{fs, io, path::PathBuf};

use futures::{StreamExt as _, stream};
use ids::{Digest, RunId};
use tokio::sync::watch;

use crate::{
    home::{Home, make_dir, write_private},
    order::Lease,
    primary::Primary,
    shipping::{ShipError, abandon, ship},
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
            let lease = match fs::read(log.join(LEASE)) {
                Ok(text) => parse(&String::from_utf8_lossy(&text)),
                Err(error) if is_missing(&error) => None,
                Err(error) => {
                    // It may be readable at the next start, and is somebody's until then.
                    tracing::warn!(path = %log.display(), %error, "cannot read whose log this is");
                    return None;
                }
            };
            let Some(lease) = lease else {
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

/// Whether the disk may give at the next start what it does not give now.
fn may_pass(error: &ShipError) -> bool {
    match error {
        ShipError::File(error) => !is_missing(error) && error.kind() != io::ErrorKind::InvalidData,
        ShipError::Gone(_) | ShipError::Refused(_) => false,
    }
}

fn is_missing(error: &io::Error) -> bool {
    use io::ErrorKind::{NotADirectory, NotFound, UnexpectedEof};
    matches!(error.kind(), NotFound | NotADirectory | UnexpectedEof)
}

/// Ships all of them and removes them, a few at a time.
pub(crate) async fn deliver(leftovers: Vec<Leftover>, primary: &Primary, home: &Home) {
    stream::iter(leftovers)
        .for_each_concurrent(AT_ONCE, async |leftover| {
            let run = leftover.lease.run;
            match leftover.deliver(primary).await {
                Ok(()) => tracing::info!(%run, "shipped the log of an attempt that was lost"),
                Err(error) if may_pass(&error) => {
                    tracing::warn!(%run, %error, "the log of a lost attempt stays until the next start");
                    return;
                }
                Err(error) => {
                    tracing::warn!(%run, %error, "the log of a lost attempt is incomplete");
                }
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

    async fn deliver(&self, primary: &Primary) -> Result<(), ShipError> {
        let (shipped, progress) = match self.close().await {
            Ok(shipment) => {
                let progress = shipment.progress.clone();
                (ship(primary.control(), &self.lease, shipment).await, progress)
            }
            Err(error) => {
                // All that is known of it is that it cannot be told.
                let end = Some(Digest::of(b""));
                let progress = Progress { end, ..Progress::default() };
                (Err(ShipError::File(error)), watch::channel(progress).1)
            }
        };
        if let Err(error) = &shipped
            && !may_pass(error)
        {
            abandon(primary.control(), &self.lease, error, progress).await;
        }
        shipped
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
        // No disk gives this one.
        let unreadable = home.spools().join("unreadable");
        fs::create_dir_all(unreadable.join(LEASE)).unwrap();
        let found: Vec<_> = find(&home).iter().map(Leftover::attempt).collect();
        assert_eq!(found, [(lease.run, 3)]);
        assert_eq!(fs::read_dir(home.spools()).unwrap().count(), 2);
        assert!(unreadable.exists());
        remove(&home, &lease).unwrap();
        assert!(find(&home).is_empty());
    }
}
