//! What a loss of power may have harmed.
//!
//! A process that is killed harms nothing: what it wrote is in the files, synced or not. A machine that stops may lose
//! what was not synced, or leave zeros in its place. So the machine's boot is noted beside the logs, and at the
//! first start under another one the ends of the logs that were not sealed are noted as *unsure*, for good: a
//! service that is killed again before it was told better must not believe them. Blocking.

use std::{
    collections::HashMap,
    fmt::Write as _,
    fs,
    io::{self, Write as _},
    ops::Range,
    path::Path,
};

use crate::{
    domain::LogId,
    file::{MOST_UNSYNCED, sync_folder},
};

/// Not the name of any run.
const NOTE: &str = ".boot";
/// Differs at each start of the machine.
const BOOT: &str = "/proc/sys/kernel/random/boot_id";

/// The unsure bytes of logs, and since which boot.
#[derive(Debug, Default)]
pub(crate) struct Harm {
    boot: String,
    unsure: HashMap<LogId, Range<u64>>,
}

/// Empty where it cannot be known; then each start may be one after a loss of power.
pub(crate) fn this_boot() -> String {
    fs::read_to_string(BOOT).map_or_else(|_| String::new(), |boot| boot.trim().to_owned())
}

impl Harm {
    /// What was noted. Nothing, where nothing was.
    pub(crate) fn read(folder: &Path) -> io::Result<Self> {
        let text = match fs::read_to_string(folder.join(NOTE)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            text => text?,
        };
        let mut lines = text.lines();
        let boot = lines.next().unwrap_or_default().to_owned();
        let unsure = lines.map(parse).collect::<Option<_>>();
        // Renamed when it was whole, so somebody else wrote into it.
        let damaged =
            || io::Error::new(io::ErrorKind::InvalidData, "its file .boot is damaged: remove it");
        Ok(Self { boot, unsure: unsure.ok_or_else(damaged)? })
    }

    pub(crate) fn is_of(&self, boot: &str) -> bool {
        !boot.is_empty() && self.boot == boot
    }

    /// What is unsure under another boot, where these logs were found unsealed with so many bytes.
    pub(crate) fn after(&self, boot: String, found: Vec<(LogId, u64)>) -> Self {
        let unsure = found.into_iter().map(|(log, length)| {
            let now = length.saturating_sub(MOST_UNSYNCED);
            // Nobody may have told yet what an earlier loss did.
            let start = self.unsure.get(&log).map_or(now, |before| before.start.min(now));
            (log, start..length)
        });
        Self { boot, unsure: unsure.collect() }
    }

    pub(crate) fn write(&self, folder: &Path) -> io::Result<()> {
        let mut text = format!("{}\n", self.boot);
        for (LogId { run, attempt }, Range { start, end }) in &self.unsure {
            writeln!(text, "{run} {attempt} {start} {end}").expect("a String takes everything");
        }
        let new = folder.join(".boot.new");
        let mut file = fs::File::create(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(new, folder.join(NOTE))?;
        sync_folder(folder)
    }

    pub(crate) fn of(&self, log: LogId) -> Range<u64> {
        self.unsure.get(&log).cloned().unwrap_or_default()
    }
}

fn parse(line: &str) -> Option<(LogId, Range<u64>)> {
    let mut words = line.split(' ');
    let log = LogId { run: words.next()?.parse().ok()?, attempt: words.next()?.parse().ok()? };
    Some((log, words.next()?.parse().ok()?..words.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use ids::{Attempt, RunId};
    use uuid::Uuid;

    use super::*;

    fn log(number: u128) -> LogId {
        LogId { run: RunId::from_uuid(Uuid::from_u128(number)), attempt: Attempt(2) }
    }

    #[test]
    fn what_was_unsure_stays_so_until_the_log_is_sealed() {
        let folder = tempfile::tempdir().unwrap();
        let first = Harm::read(folder.path()).unwrap();
        assert!(!first.is_of("") && !first.is_of("one"));
        let length = MOST_UNSYNCED + 10;
        first
            .after("one".into(), vec![(log(1), length), (log(2), 5)])
            .write(folder.path())
            .unwrap();

        let noted = Harm::read(folder.path()).unwrap();
        assert!(noted.is_of("one") && !noted.is_of("two"));
        assert_eq!(
            (noted.of(log(1)), noted.of(log(2)), noted.of(log(3))),
            (10..length, 0..5, 0..0)
        );
        // The first grew, the second was sealed.
        noted.after("two".into(), vec![(log(1), 3 * length)]).write(folder.path()).unwrap();
        let noted = Harm::read(folder.path()).unwrap();
        assert_eq!((noted.of(log(1)), noted.of(log(2))), (10..3 * length, 0..0));

        fs::write(folder.path().join(NOTE), "two\nno log\n").unwrap();
        assert!(Harm::read(folder.path()).unwrap_err().to_string().contains("remove it"));
    }
}
