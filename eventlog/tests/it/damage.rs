//! Torn tails are cut, every other damage is refused.

use std::fs;

use eventlog::{Expected, Log, OpenError, verify};

use crate::{all, clock, event, events, fill, numbers};

/// A log of five events, and in a last write `batch` more; returns where each record starts, and the
/// file's bytes.
async fn written(dir: &std::path::Path, batch: u64) -> (Vec<usize>, Vec<u8>) {
    let log = Log::open(dir, clock()).unwrap();
    fill(&log, "run-1", 5).await;
    log.append("run-2", Expected::None, events(5..5 + batch)).await.unwrap();
    drop(log);
    let bytes = fs::read(file(dir)).unwrap();
    let mut starts = vec![64];
    while *starts.last().unwrap() < bytes.len() {
        let at = *starts.last().unwrap();
        let length = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        starts.push(at + length as usize);
    }
    (starts, bytes)
}

fn file(dir: &std::path::Path) -> std::path::PathBuf {
    dir.join("00000000000000000000.segment")
}

#[tokio::test]
async fn a_torn_tail_is_cut_wherever_it_tore() {
    let dir = tempfile::tempdir().unwrap();
    let (starts, bytes) = written(dir.path(), 2).await;
    for cut in starts[5]..bytes.len() {
        let zeros = [0; 4_096];
        // Either the file ends there, or nothing but reserved space follows.
        for torn in [bytes[..cut].to_vec(), [&bytes[..cut], &zeros].concat()] {
            fs::write(file(dir.path()), &torn).unwrap();
            let log = Log::open(dir.path(), clock()).unwrap();
            assert_eq!(log.next_position().await.unwrap(), 5, "cut at {cut}");
        }
    }
    let log = Log::open(dir.path(), clock()).unwrap();
    log.append("run-1", Expected::Revision(4), vec![event(9)]).await.unwrap();
    assert_eq!(numbers(&all(log.read_all(0, &[])).await), [0, 1, 2, 3, 4, 9]);
    drop(log);
    assert_eq!(verify(dir.path()).unwrap().events, 6);
}

#[tokio::test]
async fn every_flipped_bit_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    let (starts, bytes) = written(dir.path(), 1).await;
    for at in 0..bytes.len() {
        // All bits of what is compared, a changing one of what is checksummed.
        let bits = if at < 96 { 0..8 } else { at % 8..at % 8 + 1 };
        for bit in bits {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << bit;
            fs::write(file(dir.path()), &damaged).unwrap();
            match Log::open(dir.path(), clock()) {
                Err(OpenError::Damaged { file: named, offset, .. }) => {
                    assert_eq!(named, file(dir.path()));
                    let record = starts.iter().rfind(|start| **start <= at).copied().unwrap_or(0);
                    assert_eq!(offset as usize, record, "bit {bit} of byte {at}");
                }
                Err(OpenError::NewerFormat { .. }) => assert!((8..12).contains(&at)),
                other => panic!("bit {bit} of byte {at}: {other:?}"),
            }
            assert!(verify(dir.path()).is_err());
            assert_eq!(fs::read(file(dir.path())).unwrap(), damaged, "it was changed");
        }
    }
}

#[tokio::test]
async fn damage_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let (starts, mut bytes) = written(dir.path(), 1).await;
    bytes[starts[2] + 80] ^= 4;
    fs::write(file(dir.path()), &bytes).unwrap();
    let error = Log::open(dir.path(), clock()).unwrap_err().to_string();
    let start = format!("`{}` is damaged at byte {}: ", file(dir.path()).display(), starts[2]);
    assert!(error.starts_with(&start), "{error}");
    assert!(error.contains("a later record, written after this one, is sound"), "{error}");
    assert!(error.ends_with("keep a copy of the folder, and restore it from a backup"), "{error}");
}
