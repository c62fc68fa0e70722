//! One log on disk: offsets, crashes, seals, replacements.

use proptest::prelude::*;
use tempfile::TempDir;
use uuid::Uuid;

use super::*;
use ids::{Attempt, RunId};

struct Disk {
    folder: TempDir,
}

impl Disk {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn place(&self) -> Place {
        let log = LogId { run: RunId::from_uuid(Uuid::from_u128(1)), attempt: Attempt(1) };
        Place {
            log,
            folder: self.folder.path().join("run"),
            shelf: Shelf::Folder(self.folder.path().into()),
            most_bytes: 100 << 20,
            unsure: 0..0,
        }
    }

    fn open(&self) -> LogFile {
        LogFile::open(self.place(), None).unwrap()
    }

    /// Opens it after a loss of power.
    fn open_harmed(&self) -> LogFile {
        let length = self.stored().len() as u64;
        let unsure = length.saturating_sub(MOST_UNSYNCED)..length;
        LogFile::open(Place { unsure, ..self.place() }, None).unwrap()
    }

    fn stored(&self) -> Vec<u8> {
        fs::read(self.place().path()).unwrap_or_default()
    }

    /// Harms the file as a loss of power may.
    fn zero(&self, range: Range<u64>) {
        let file = OpenOptions::new().write(true).open(self.place().path()).unwrap();
        file.write_all_at(&vec![0; (range.end - range.start) as usize], range.start).unwrap();
    }

    fn aside(&self, content: &[u8]) -> PathBuf {
        let path = self.folder.path().join("aside");
        fs::write(&path, content).unwrap();
        path
    }
}

fn seal_of(content: &[u8]) -> Seal {
    Seal { size: content.len() as u64, digest: Digest::of(content) }
}

/// Appends, and tells what is durable.
fn append(file: &mut LogFile, offset: u64, data: &[u8]) -> Result<u64, Refusal> {
    file.append(offset, data, None)?;
    file.sync()?;
    Ok(file.progress().length)
}

fn replace(disk: &Disk, file: &mut LogFile, content: &[u8]) -> Result<u64, Refusal> {
    let hash = Sha256::new_with_prefix(content);
    file.replace(&disk.aside(content), seal_of(content), hash)?;
    Ok(file.progress().length)
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n % 251 + 1) as u8).collect()
}

#[test]
fn a_sealed_log_is_not_cut_by_other_bytes_although_it_was_found_on_disk() {
    let disk = Disk::new();
    append(&mut disk.open(), 0, b"the truth").unwrap();
    let mut file = disk.open_harmed();
    assert!(file.seal(seal_of(b"the truth")).unwrap());
    append(&mut file, 0, b"a lie").unwrap();
    assert!(matches!(append(&mut file, 4, b"truth, or not"), Err(Refusal::Sealed { .. })));
    assert_eq!(disk.stored(), b"the truth");
}

#[test]
fn known_bytes_are_skipped_and_gaps_write_nothing() {
    let disk = Disk::new();
    let mut file = disk.open();
    assert_eq!(append(&mut file, 5, b"late").unwrap(), 0);
    assert!(!disk.place().path().exists(), "a gap makes no log");
    assert_eq!(append(&mut file, 0, b"hello").unwrap(), 5);
    assert_eq!(append(&mut file, 0, b"hello").unwrap(), 5);
    assert_eq!(append(&mut file, 3, b"lo world").unwrap(), 11);
    assert_eq!(append(&mut file, 12, b"gap").unwrap(), 11);
    assert_eq!(append(&mut file, 2, b"").unwrap(), 11);
    assert_eq!(disk.stored(), b"hello world");
}

#[test]
fn a_reopened_log_goes_on_at_its_end() {
    let disk = Disk::new();
    append(&mut disk.open(), 0, b"hello").unwrap();
    let mut file = disk.open();
    assert_eq!(file.progress(), Progress { exists: true, length: 5, generation: 0 });
    assert_eq!(append(&mut file, 3, b"lo world").unwrap(), 11);
    assert!(file.seal(seal_of(b"hello world")).unwrap());
}

#[test]
fn what_a_power_loss_harmed_is_replaced_by_what_is_sent_again() {
    let (disk, sent) = (Disk::new(), pattern(20_000));
    append(&mut disk.open(), 0, &sent[..16_000]).unwrap();
    disk.zero(8_192..12_288);
    let mut file = disk.open_harmed();
    assert_eq!(file.progress().length, 16_000);
    // All before 8,000 was acknowledged, so the worker goes on there.
    assert_eq!(append(&mut file, 8_000, &sent[8_000..10_000]).unwrap(), 10_000);
    assert_eq!(file.progress().generation, 1);
    assert_eq!(append(&mut file, 10_000, &sent[10_000..]).unwrap(), 20_000);
    assert_eq!(disk.stored(), sent);
    assert!(file.seal(seal_of(&sent)).unwrap());
}

#[test]
fn what_this_process_wrote_is_not_changed_by_other_bytes() {
    let disk = Disk::new();
    let mut file = disk.open();
    append(&mut file, 0, b"hello").unwrap();
    assert_eq!(append(&mut file, 0, b"HELLO world").unwrap(), 11);
    assert_eq!(disk.stored(), b"hello world");
}

#[test]
fn of_what_was_found_only_the_end_can_be_unsure() {
    let (disk, sent) = (Disk::new(), pattern(MOST_UNSYNCED as usize + 10));
    append(&mut disk.open(), 0, &sent).unwrap();
    let mut file = disk.open_harmed();
    append(&mut file, 0, b"XXXXXXXXXX").unwrap();
    assert_eq!(disk.stored(), sent, "synced long ago");
    append(&mut file, 10, b"XX").unwrap();
    assert_eq!(disk.stored()[..12], [&sent[..10], b"XX"].concat()[..], "may have been torn");
}

#[test]
fn damage_that_nobody_repaired_is_never_sealed() {
    let (disk, sent) = (Disk::new(), pattern(10_000));
    append(&mut disk.open(), 0, &sent).unwrap();
    disk.zero(4_096..8_192);
    let mut file = disk.open_harmed();
    append(&mut file, 10_000, b"more").unwrap();
    let refused = file.seal(seal_of(&[&sent[..], b"more"].concat())).unwrap_err();
    assert!(matches!(refused, Refusal::Differs { .. }), "{refused}");
}

#[test]
fn a_seal_needs_the_whole_log_and_is_final() {
    let disk = Disk::new();
    let mut file = disk.open();
    assert!(!file.seal(seal_of(b"hello")).unwrap());
    append(&mut file, 0, b"hell").unwrap();
    assert!(!file.seal(seal_of(b"hello")).unwrap(), "a byte is missing");
    append(&mut file, 4, b"o").unwrap();
    for wrong in [seal_of(b"hellO"), seal_of(b"hell")] {
        assert!(matches!(file.seal(wrong), Err(Refusal::Differs { .. })));
    }
    assert!(file.seal(seal_of(b"hello")).unwrap());
    assert!(file.seal(seal_of(b"hello")).unwrap());
    assert_eq!(append(&mut file, 0, b"hello").unwrap(), 5);
    assert!(matches!(append(&mut file, 5, b"!"), Err(Refusal::Sealed { size: 5, .. })));
    assert!(matches!(replace(&disk, &mut file, b"hello world"), Err(Refusal::Sealed { .. })));

    let mut file = LogFile::open(disk.place(), Some(seal_of(b"hello"))).unwrap();
    assert!(matches!(append(&mut file, 5, b"!"), Err(Refusal::Sealed { .. })));
    assert!(file.seal(seal_of(b"hello")).unwrap());
    assert!(matches!(file.seal(seal_of(b"hellO")), Err(Refusal::Differs { .. })));
    assert_eq!(disk.stored(), b"hello");
}

#[test]
fn a_run_that_printed_nothing_has_an_empty_log() {
    let disk = Disk::new();
    let mut file = disk.open();
    append(&mut file, 0, b"").unwrap();
    assert!(file.seal(seal_of(b"")).unwrap());
    assert!(disk.place().path().exists());
}

#[test]
fn a_replacement_is_never_shorter() {
    let disk = Disk::new();
    let mut file = disk.open();
    assert_eq!(replace(&disk, &mut file, b"hello").unwrap(), 5);
    assert_eq!(replace(&disk, &mut file, b"hell").unwrap(), 5);
    assert_eq!(disk.stored(), b"hello");
    assert_eq!(file.progress().generation, 1);
    assert_eq!(replace(&disk, &mut file, b"hello").unwrap(), 5);
    assert_eq!(file.progress().generation, 1, "the same again is not written again");
    assert_eq!(replace(&disk, &mut file, b"HELLO").unwrap(), 5);
    assert_eq!(replace(&disk, &mut file, b"HELLO world").unwrap(), 11);
    assert_eq!(append(&mut file, 11, b"!").unwrap(), 12);
    assert!(file.seal(seal_of(b"HELLO world!")).unwrap());
    assert_eq!(disk.stored(), b"HELLO world!");
}

#[test]
fn a_log_has_a_largest_size() {
    let disk = Disk::new();
    let mut file = LogFile::open(Place { most_bytes: 5, ..disk.place() }, None).unwrap();
    append(&mut file, 0, b"hello").unwrap();
    assert!(matches!(append(&mut file, 5, b"!"), Err(Refusal::TooLong { most: 5, .. })));
}

#[test]
fn unsynced_bytes_are_taken_back_after_an_error() {
    let disk = Disk::new();
    let mut file = disk.open();
    append(&mut file, 0, b"hello").unwrap();
    file.append(5, b" world", None).unwrap();
    file.give_up();
    assert_eq!(disk.stored(), b"hello");
}

#[test]
fn a_full_disk_is_told_with_its_folder() {
    let place = Disk::new().place();
    let full = place.refusal(io::ErrorKind::StorageFull.into()).to_string();
    assert!(full.contains(&place.folder.display().to_string()), "{full}");
}

#[derive(Clone, Debug)]
enum Step {
    Append {
        offset: usize,
        length: usize,
    },
    Reopen,
    /// The process dies before it synced.
    Crash {
        offset: usize,
        length: usize,
        keep: usize,
    },
}

fn any_step() -> impl Strategy<Value = Step> {
    let piece = || (0..300_usize, 0..80_usize);
    prop_oneof![
        8 => piece().prop_map(|(offset, length)| Step::Append { offset, length }),
        1 => Just(Step::Reopen),
        2 => (piece(), 0..80_usize)
            .prop_map(|((offset, length), keep)| Step::Crash { offset, length, keep }),
    ]
}

proptest! {
    /// Whatever is sent, again or out of order, over whatever crashes: what is acknowledged stays, and
    /// what is stored is the beginning of what was sent.
    #[test]
    fn the_log_is_always_a_prefix_of_what_was_sent(steps in prop::collection::vec(any_step(), 0..40)) {
        let (disk, sent) = (Disk::new(), pattern(400));
        let piece = |offset: usize, length: usize| &sent[offset..(offset + length).min(400)];
        let (mut file, mut acknowledged) = (disk.open(), 0);
        for step in steps {
            match step {
                Step::Append { offset, length } => {
                    let durable = append(&mut file, offset as u64, piece(offset, length)).unwrap();
                    prop_assert!(durable >= acknowledged);
                    if offset as u64 <= durable {
                        prop_assert!(durable >= piece(offset, length).len() as u64 + offset as u64);
                    }
                    acknowledged = durable;
                }
                Step::Reopen => file = disk.open(),
                Step::Crash { offset, length, keep } => {
                    file.append(offset as u64, piece(offset, length), None).unwrap();
                    let left = disk.stored().len().min(acknowledged as usize + keep);
                    if disk.place().path().exists() {
                        let harmed =
                            OpenOptions::new().write(true).open(disk.place().path()).unwrap();
                        harmed.set_len(left as u64).unwrap();
                    }
                    file = disk.open();
                    prop_assert!(file.progress().length >= acknowledged);
                    acknowledged = file.progress().length;
                }
            }
            prop_assert_eq!(disk.stored(), &sent[..acknowledged as usize]);
        }
        append(&mut file, 0, &sent).unwrap();
        prop_assert!(file.seal(seal_of(&sent)).unwrap());
    }
}
