//! A start with a snapshot is a start without one, but shorter.

use std::{env, fs, path::Path, process::Command};

use super::*;
use crate::snapshot::Form;

fn form(version: u32) -> Form<Bank> {
    Form {
        name: "bank",
        version,
        encode: |bank| {
            let payments = bank.payments.iter();
            let payments = payments
                .flat_map(|(account, amount)| [&[*account][..], &amount.to_le_bytes()].concat());
            bank.holidays.to_le_bytes().into_iter().chain(payments).collect()
        },
        decode: |bytes| {
            let (holidays, payments) = bytes.split_first_chunk()?;
            let payment = |bytes: &[u8]| {
                Some((bytes[0], u32::from_le_bytes(*bytes.get(1..)?.first_chunk()?)))
            };
            Some(Bank {
                payments: payments.chunks(5).map(payment).collect::<Option<_>>()?,
                holidays: u32::from_le_bytes(*holidays),
            })
        },
    }
}

async fn start_from(log: &Log, dir: &Path, version: u32) -> BankOwner {
    let snapshots = Snapshots::new(dir, form(version)).every(10);
    Owner::start_from(log.clone(), RULES, snapshots).await.unwrap().0
}

/// Rules of a bank that can read nothing: its start succeeds only if it need not.
fn blind() -> Rules<Bank, Pay, Paid, TooMuch> {
    Rules { decode: |recorded| Err(DecodeError::new(recorded, "it was read")), ..RULES }
}

async fn blind_start(log: &Log, dir: &Path, version: u32) -> Option<BankOwner> {
    let snapshots = Snapshots::new(dir, form(version)).every(10);
    Owner::start_from(log.clone(), blind(), snapshots).await.ok().map(|(owner, _)| owner)
}

/// A log with 20 events, and a folder with a snapshot of them.
async fn saved() -> (Log, tempfile::TempDir) {
    let log = Log::in_memory(clock());
    let owner = start(&log).await;
    for account in 0..10 {
        soon(owner.ask(pay(account % 3, &[1, u32::from(account) + 1]), teller()))
            .await
            .unwrap()
            .unwrap();
    }
    let dir = tempfile::tempdir().unwrap();
    let again = start_from(&log, dir.path(), 1).await;
    assert_eq!(bank(&again).await, bank(&owner).await);
    assert!(dir.path().join("bank.snapshot").exists());
    (log, dir)
}

#[tokio::test]
async fn a_start_goes_on_from_a_snapshot() {
    let (log, dir) = saved().await;
    let owner = blind_start(&log, dir.path(), 1).await.expect("nothing is read");
    assert_eq!(bank(&owner).await, bank(&start(&log).await).await);
    // It knows where its streams end.
    let paid = soon(owner.ask(pay(1, &[7]), teller())).await.unwrap();
    assert!(paid.is_ok());
    soon(owner.ask(pay(9, &[7]), teller())).await.unwrap().unwrap();
    // What came later is folded on top.
    let later = start_from(&log, dir.path(), 1).await;
    assert_eq!(bank(&later).await, bank(&start(&log).await).await);
    assert_eq!(bank(&later).await.payments.len(), 22);
}

#[tokio::test]
async fn a_short_start_saves_nothing() {
    let (log, dir) = saved().await;
    let file = dir.path().join("bank.snapshot");
    let before = fs::read(&file).unwrap();
    let owner = start_from(&log, dir.path(), 1).await;
    for _ in 0..9 {
        soon(owner.ask(pay(1, &[7]), teller())).await.unwrap().unwrap();
    }
    start_from(&log, dir.path(), 1).await;
    assert_eq!(fs::read(&file).unwrap(), before);
    soon(owner.ask(pay(1, &[7]), teller())).await.unwrap().unwrap();
    start_from(&log, dir.path(), 1).await;
    assert_ne!(fs::read(&file).unwrap(), before);
    assert!(blind_start(&log, dir.path(), 1).await.is_some());
}

#[tokio::test]
async fn a_snapshot_of_other_code_is_not_used() {
    let (log, dir) = saved().await;
    assert!(blind_start(&log, dir.path(), 2).await.is_none());
    assert!(!dir.path().join("bank.snapshot").exists());
    let owner = start_from(&log, dir.path(), 2).await;
    assert_eq!(bank(&owner).await, bank(&start(&log).await).await);
    assert!(blind_start(&log, dir.path(), 2).await.is_some());
}

/// Tells the child, which is this same test binary or a copy of it, where log and snapshot are.
const CHILD: &str = "EVENTLOG_TEST_SNAPSHOT";

#[tokio::test]
async fn a_snapshot_of_another_program_is_not_used() {
    if let Some(dir) = env::var_os(CHILD) {
        let dir = Path::new(&dir);
        let log = Log::open(&dir.join("log"), clock()).unwrap();
        println!("it goes on: {}", blind_start(&log, dir, 1).await.is_some());
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(&dir.path().join("log"), clock()).unwrap();
    for number in 0..10 {
        log.append("holiday-1", Expected::Any, vec![new(number, "Holiday")]).await.unwrap();
    }
    let snapshots = Snapshots::new(dir.path(), form(1)).every(10);
    let (owner, task) = Owner::start_from(log.clone(), RULES, snapshots).await.unwrap();
    drop((owner, log));
    soon(task).await.unwrap().unwrap();
    let ours = env::current_exe().unwrap();
    let another = dir.path().join("another");
    fs::copy(&ours, &another).unwrap();
    for (program, expected) in [(ours, "it goes on: true"), (another, "it goes on: false")] {
        let mut child = Command::new(program);
        child.env(CHILD, dir.path()).args(["a_snapshot_of_another_program_is_not_used"]);
        let child = child.arg("--nocapture").output().unwrap();
        let said = String::from_utf8_lossy(&child.stdout);
        assert!(said.contains(expected), "{said}{}", String::from_utf8_lossy(&child.stderr));
    }
}

#[tokio::test]
async fn a_snapshot_of_another_log_is_not_used() {
    let (_, dir) = saved().await;
    let snapshot = fs::read(dir.path().join("bank.snapshot")).unwrap();
    // One that is shorter, and one that ends at the same place with another event.
    for count in [3, 20] {
        let other = Log::in_memory(clock());
        let owner = start(&other).await;
        for _ in 0..count {
            soon(owner.ask(pay(1, &[5]), teller())).await.unwrap().unwrap();
        }
        fs::write(dir.path().join("bank.snapshot"), &snapshot).unwrap();
        assert!(blind_start(&other, dir.path(), 1).await.is_none(), "{count}");
        let owner = start_from(&other, dir.path(), 1).await;
        assert_eq!(bank(&owner).await, bank(&start(&other).await).await, "{count}");
    }
}

#[tokio::test]
async fn a_damaged_snapshot_is_not_used() {
    let (log, dir) = saved().await;
    let file = dir.path().join("bank.snapshot");
    let sound = fs::read(&file).unwrap();
    let expected = bank(&start(&log).await).await;
    for at in (0..sound.len()).chain([sound.len() + 1]) {
        let mut damaged = sound.clone();
        match damaged.get_mut(at) {
            Some(byte) => *byte ^= 1 << (at % 8),
            None => damaged.truncate(at / 2),
        }
        fs::write(&file, &damaged).unwrap();
        assert!(blind_start(&log, dir.path(), 1).await.is_none(), "byte {at}");
        let owner = start_from(&log, dir.path(), 1).await;
        assert_eq!(bank(&owner).await, expected, "byte {at}");
    }
}

#[tokio::test]
async fn a_folder_that_takes_no_snapshot_stops_no_start() {
    let (log, dir) = saved().await;
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let owner = start_from(&log, &file, 1).await;
    assert_eq!(bank(&owner).await, bank(&start(&log).await).await);
}

#[tokio::test]
async fn a_snapshot_with_wrong_revisions_goes_with_the_process() {
    let (log, dir) = saved().await;
    let snapshots = Snapshots::new(dir.path(), form(1)).every(10);
    let (owner, task) = Owner::start_from(log.clone(), blind(), snapshots).await.unwrap();
    // Somebody else writes to a stream that is not theirs.
    log.append("account-1", Expected::Any, vec![new(77, "Paid")]).await.unwrap();
    assert_eq!(soon(owner.ask(pay(1, &[7]), teller())).await.unwrap_err(), Stopped);
    let error = soon(task).await.unwrap().unwrap_err();
    assert!(matches!(error, OwnerError::Append(AppendError::Conflict { .. })), "{error:?}");
    assert!(!dir.path().join("bank.snapshot").exists());
}

#[tokio::test]
async fn a_tombstone_in_a_stream_is_no_event_of_the_state() {
    let (log, _dir) = saved().await;
    let before = bank(&start(&log).await).await;
    log.tombstone("account-1", Expected::Any).await.unwrap();
    log.tombstone("holiday-1", Expected::Any).await.unwrap();
    let strict = Rules {
        decode: |recorded| match &*recorded.event.event_type {
            "Paid" => (RULES.decode)(recorded),
            _ => Err(DecodeError::new(recorded, "nobody knows it")),
        },
        ..RULES
    };
    let (owner, _) = Owner::start(log.clone(), strict).await.unwrap();
    assert_eq!(bank(&owner).await, before);
}
