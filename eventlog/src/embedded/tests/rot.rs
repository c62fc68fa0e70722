//! Bit rot and truncation at rest: each is seen, none is believed. And bytes made to mislead.

use std::path::{Path, PathBuf};

use futures::StreamExt;

use super::{
    crashes::chain,
    history::{History, clock},
    *,
};
use crate::{
    disk::simulated::{Disk, Random, mount},
    verify,
};

const ROTS: u64 = 10_000;

/// Sealed files and a newest one, as a clean end leaves them.
async fn written(root: &Path, disk: &Disk) -> Vec<(PathBuf, Vec<u8>)> {
    let dir = root.join("log");
    let log = Log::open_with(&dir, clock(), Options { segment_bytes: 2_000 }).unwrap();
    let mut history = History::new(7);
    let newest = || Segment::list(&dir).unwrap().pop().unwrap();
    while history.count() < 40 || disk.used(&newest()) < 1_000 {
        history.step(&log, disk).await.unwrap();
    }
    drop(log);
    let bytes = |path: PathBuf| (path.clone(), disk.bytes(&path));
    Segment::list(&dir).unwrap().into_iter().map(bytes).collect()
}

async fn read(dir: &Path) -> Result<Vec<Recorded>, String> {
    let log = Log::open(dir, clock()).map_err(|error| chain(&error))?;
    log.read_all(0, &[])
        .map(|event| event.map_err(|error| chain(&error)))
        .collect::<Vec<_>>()
        .await
        .into_iter()
        .collect()
}

/// Something that a disk does to bytes at rest; says whether it only cut the end off.
fn rot(bytes: &mut Vec<u8>, random: &mut Random) -> bool {
    let at = random.below(bytes.len() as u64) as usize;
    match random.below(8) {
        0 => {
            bytes.truncate(at);
            return true;
        }
        1 => {
            for byte in bytes.iter_mut().skip(at).take(1 + random.below(64) as usize) {
                *byte = !*byte;
            }
        }
        2..4 => (0..2 + random.below(6)).for_each(|_| {
            let at = random.below(bytes.len() as u64) as usize;
            bytes[at] ^= 1 << random.below(8);
        }),
        _ => bytes[at] ^= 1 << random.below(8),
    }
    false
}

#[tokio::test]
async fn every_flip_and_truncation_is_seen() {
    let mounted = mount(0);
    let (dir, disk) = (mounted.root.join("log"), &mounted.disk);
    let files = written(&mounted.root, disk).await;
    assert!(files.len() > 4, "{} files", files.len());
    let sound = read(&dir).await.unwrap();
    let mut random = Random::new(1);
    let (mut refused, mut cut) = (0, 0);
    for number in 0..ROTS {
        let victim = random.below(files.len() as u64) as usize;
        let (path, whole) = &files[victim];
        let mut bytes = whole.clone();
        let only_shorter = rot(&mut bytes, &mut random);
        if bytes == *whole {
            // Bits that were flipped twice.
            continue;
        }
        disk.set_bytes(path, &bytes);
        let verified = verify(&dir);
        match read(&dir).await {
            Err(message) => {
                assert!(verified.is_err(), "{number}: only the start saw it");
                let file = format!("`{}`", path.display());
                // A file that is cut short between two records shows where the next one begins.
                let next = files.get(victim + 1).map(|(next, _)| format!("`{}`", next.display()));
                assert!(
                    message.contains(&file) || next.is_some_and(|next| message.contains(&next)),
                    "{number}: {message}"
                );
                let says_where = message.contains("damaged at byte ")
                    && message.contains("restore it from a backup");
                assert!(
                    says_where || message.contains("start the newer version"),
                    "{number}: {message}"
                );
                assert_eq!(disk.bytes(path), bytes, "{number}: it was changed");
                refused += 1;
                if number % 16 == 0 {
                    repaired(&dir, &sound).await;
                }
            }
            // The end of the newest file is where an unfinished write would be.
            Ok(found) => {
                assert!(only_shorter && victim + 1 == files.len(), "{number}: it was not seen");
                assert!(found.len() < sound.len() && found == sound[..found.len()], "{number}");
                cut += 1;
            }
        }
        for (path, bytes) in &files {
            if !disk.has(path) {
                drop(File::create(path).unwrap());
            }
            disk.set_bytes(path, bytes);
        }
    }
    println!("{refused} refused, {cut} cut at the tail");
    assert!(refused > ROTS * 9 / 10 && cut > 0, "{refused} refused, {cut} cut");
}

/// What is before the damage can be had back.
async fn repaired(dir: &Path, sound: &[Recorded]) {
    let Ok(Some(wound)) = files::wound(dir) else {
        // Only a header of a newer format is nothing to repair.
        return;
    };
    files::cut(dir, &wound).unwrap();
    assert_eq!(read(dir).await.unwrap(), sound[..wound.sound as usize]);
}

/// What an index file says is not believed when it is damaged, of another time, or not there: everything
/// is as it was, and the file is made again.
#[tokio::test]
async fn an_index_file_that_is_damaged_changes_nothing() {
    let mounted = mount(0);
    let (dir, disk) = (mounted.root.join("log"), &mounted.disk);
    let files = written(&mounted.root, disk).await;
    let sound = read(&dir).await.unwrap();
    let indexes: Vec<_> = files[..files.len() - 1]
        .iter()
        .map(|(path, _)| path.with_extension("index"))
        .map(|path| (disk.bytes(&path), path))
        .collect();
    let mut random = Random::new(3);
    for number in 0..1_000 {
        let victim = random.below(indexes.len() as u64) as usize;
        let (whole, path) = &indexes[victim];
        let mut bytes = whole.clone();
        match random.below(8) {
            0 => bytes.clone_from(&indexes[random.below(indexes.len() as u64) as usize].0),
            1 => bytes.clear(),
            _ => drop(rot(&mut bytes, &mut random)),
        }
        // At rest, or under a log that is open.
        let is_open = random.chance(1, 2);
        if !is_open {
            disk.set_bytes(path, &bytes);
        }
        let log = Log::open(&dir, clock()).unwrap();
        if is_open {
            disk.set_bytes(path, &bytes);
        }
        let events: Vec<_> = log.read_all(0, &[]).map(Result::unwrap).collect().await;
        assert_eq!(events, sound, "{number}");
        streams_are_whole(&log, &sound).await;
        // Whatever nobody had to look at stays as it is until somebody does.
        drop(log);
        disk.set_bytes(path, whole);
    }
    for (_, path) in &indexes {
        disk::remove_file(path).unwrap();
    }
    streams_are_whole(&Log::open(&dir, clock()).unwrap(), &sound).await;
    for (whole, path) in &indexes {
        assert_eq!(&disk.bytes(path), whole);
    }
}

/// Each stream is what the log as a whole says of it, and an append to it knows how long it is.
async fn streams_are_whole(log: &Log, sound: &[Recorded]) {
    let is_noted = |stream: &str| sound.iter().any(|event| event.stream == format!("$${stream}"));
    let mut names: Vec<_> = sound.iter().map(|event| event.stream.to_string()).collect();
    names.sort();
    names.dedup();
    for name in names.iter().filter(|name| !name.starts_with("$$") && !is_noted(name)) {
        let expected: Vec<_> = sound.iter().filter(|event| event.stream == **name).collect();
        if expected.iter().any(|event| event.event.event_type == crate::retention::TOMBSTONE_TYPE) {
            continue;
        }
        let found: Vec<_> = log.read_stream(name, 0, 1_000).map(Result::unwrap).collect().await;
        assert_eq!(found.iter().collect::<Vec<_>>(), expected);
        let back = log.read_stream_backward(name, None, 1_000);
        let mut back: Vec<_> = back.map(Result::unwrap).collect().await;
        back.reverse();
        assert_eq!(back, found);
        let wrong = log.append(name.as_str(), Expected::Revision(1_000), vec![new(1)]).await;
        let last = expected.len() as u64 - 1;
        let Err(AppendError::Conflict { current, .. }) = wrong else { panic!("{wrong:?}") };
        assert_eq!(current, Some(last));
        // A retry of its last append is known again.
        let retry = expected[last as usize].event.clone();
        let again = log.append(name.as_str(), Expected::Any, vec![retry]).await.unwrap();
        assert_eq!((again.position, again.revision), (expected[last as usize].position, last));
    }
}

/// Somebody who knows the salt writes what is formed well, and means nothing.
#[tokio::test]
async fn forged_records_are_refused_without_panic() {
    let mounted = mount(0);
    let (dir, disk) = (mounted.root.join("log"), &mounted.disk);
    drop(Log::open(&dir, clock()).unwrap());
    let path = Segment::list(&dir).unwrap().remove(0);
    let mut random = Random::new(2);
    for _ in 0..4_000 {
        let mut build = Build::new();
        for _ in 0..=random.below(3) {
            build.write(&[(
                "run-1".into(),
                vec![vec![7; random.below(40) as usize]; 1 + random.below(2) as usize],
            )]);
        }
        let mut bytes = build.bytes;
        let mut at = 64;
        while let Some(length) =
            format::record_length(&bytes[at..], Dialect { format: FORMAT, salt: SALT })
        {
            if random.chance(2, 3) {
                forge(&mut bytes[at..at + length], &mut random);
            }
            at += length;
            if at >= bytes.len() {
                break;
            }
        }
        disk.set_bytes(&path, &bytes);
        drop(verify(&dir));
        drop(files::wound(&dir));
        drop(files::head(&dir));
        if let Ok(log) = Log::open(&dir, clock()) {
            let mut reading = log.read_all(0, &[]);
            while let Some(Ok(event)) = reading.next().await {
                assert!(event.event.data.len() <= bytes.len());
            }
        }
    }
}

/// Changes fields, mostly to extremes, and makes the checksums right again.
fn forge(record: &mut [u8], random: &mut Random) {
    const FIELDS: [(usize, usize); 9] =
        [(0, 4), (4, 4), (8, 8), (16, 8), (24, 8), (60, 2), (62, 1), (63, 1), (72, 1)];
    for _ in 0..random.below(3) {
        let (at, width) = FIELDS[random.below(FIELDS.len() as u64) as usize];
        let value = match random.below(5) {
            0 => u64::MAX,
            1 => 0,
            2 => u64::MAX >> 1,
            3 => random.next(),
            _ => random.below(200),
        };
        record[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
    }
    if random.chance(1, 2) {
        // What it says is cut elsewhere.
        let short = |at: usize| u64::from(u16::from_le_bytes([record[at], record[at + 1]]));
        let long = |at: usize| short(at) + (short(at + 2) << 16);
        let sum = short(48) + short(50) + long(52) + long(56);
        let mut cuts = [0; 3].map(|_| random.below(sum + 1));
        cuts.sort_unstable();
        let parts = [cuts[0], cuts[1] - cuts[0], cuts[2] - cuts[1], sum - cuts[2]];
        for ((at, width), part) in [(48, 2), (50, 2), (52, 4), (56, 4)].into_iter().zip(parts) {
            record[at..at + width].copy_from_slice(&part.to_le_bytes()[..width]);
        }
    }
    let head = crc32c::crc32c_append(SALT, &record[..64]);
    record[64..68].copy_from_slice(&head.to_le_bytes());
    let tail = record.len() - 8;
    let check = crc32c::crc32c_append(head, &record[72..tail]);
    record[tail..tail + 4].copy_from_slice(&check.to_le_bytes());
}
