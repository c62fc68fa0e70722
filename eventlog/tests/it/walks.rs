//! The files of a log, walked without opening it: heads, copies, wounds.

use std::{fs, ops::ControlFlow, path::Path};

use eventlog::{
    Clock, Expected, Head, Log, Metadata, NewEvent, OpenError, Options,
    files::{self, Entry, ImportError, Imported},
};
use futures::StreamExt;
use ids::EventId;
use uuid::Uuid;

/// Small, so that a log has many files.
const OPTIONS: Options = Options { segment_bytes: 4_096 };

/// Appends of one to three events, to a few streams.
async fn log_of(dir: &Path, appends: u128) -> u64 {
    let log = Log::open_with(dir, Clock::system(), OPTIONS).unwrap();
    for number in 0..appends {
        let event = |at: u128| {
            let id = EventId::from_uuid(Uuid::from_u128(number * 10 + at + 1));
            NewEvent::new(id, "Told", vec![number as u8; 50], &Metadata::default())
        };
        let events = (0..=number % 3).map(event).collect();
        log.append(format!("s-{}", number % 5), Expected::Any, events).await.unwrap();
    }
    log.next_position().await.unwrap()
}

fn entries(dir: &Path) -> Vec<Entry> {
    let mut entries = Vec::new();
    files::walk(dir, 0, |entry| {
        entries.push(entry);
        Ok::<_, OpenError>(ControlFlow::Continue(()))
    })
    .unwrap();
    entries
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

fn imported(entries: Vec<Entry>) -> impl Iterator<Item = Result<Imported, OpenError>> {
    entries.into_iter().map(|entry| Ok(entry.into()))
}

#[tokio::test]
async fn a_copy_made_from_the_events_has_the_same_head() {
    let dir = tempfile::tempdir().unwrap();
    let (log, other) = (dir.path().join("log"), dir.path().join("other"));
    let next = log_of(&log, 60).await;
    let entries = entries(&log);
    assert!(files::segments(&log).unwrap().len() > 3);
    let positions: Vec<_> = entries.iter().map(|entry| entry.recorded.position).collect();
    assert_eq!(positions, (0..next).collect::<Vec<_>>());
    let last = entries.last().unwrap();
    let head = Head { position: next - 1, chain: last.chain };
    assert_eq!(files::head(&log).unwrap(), Some(head));
    assert_eq!(eventlog::verify(&log).unwrap().head, head.chain);
    for entry in &entries {
        let at = Head { position: entry.recorded.position, chain: entry.chain };
        assert_eq!(files::head_at(&log, at.position).unwrap(), Some(at));
        assert_eq!(
            files::raw(&log, entry).unwrap().len() as u64,
            entry.place.end - entry.place.start
        );
    }
    assert_eq!(files::head_at(&log, next).unwrap(), None);

    assert_eq!(files::import(&other, imported(entries.clone())).unwrap(), Some(head));
    assert_eq!(eventlog::verify(&other).unwrap().head, head.chain);
    // It is a log like any other: it opens, and goes on.
    let opened = Log::open(&other, Clock::system()).unwrap();
    assert_eq!(opened.next_position().await.unwrap(), next);
    drop(opened);
    let again = files::import(&other, imported(entries.clone()));
    assert!(matches!(again, Err(ImportError::NotEmpty(_))), "{again:?}");
    let gap = files::import(&dir.path().join("gap"), imported(entries[1..].to_vec()));
    assert!(matches!(gap, Err(ImportError::Gap { expected: 0, found: 1 })), "{gap:?}");
    let whole = entries.iter().position(|entry| entry.left > 0).unwrap();
    let short = files::import(&dir.path().join("short"), imported(entries[..=whole].to_vec()));
    assert!(matches!(short, Err(ImportError::CutShort)), "{short:?}");
}

#[tokio::test]
async fn an_empty_log_has_no_head() {
    let dir = tempfile::tempdir().unwrap();
    drop(Log::open(dir.path(), Clock::system()).unwrap());
    assert_eq!(files::head(dir.path()).unwrap(), None);
    assert_eq!(files::wound(dir.path()).unwrap(), None);
}

#[tokio::test]
async fn damage_in_any_file_is_found_and_cut_back_to_what_is_sound() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    log_of(&log, 60).await;
    let whole = entries(&log);
    assert_eq!(files::wound(&log).unwrap(), None);
    for (number, victim) in files::segments(&log).unwrap().into_iter().enumerate() {
        // In the header, and in the first record.
        // The newest file may have no record yet.
        let Some(record) = whole.iter().find(|entry| entry.segment == number) else { continue };
        for at in [20, record.place.start + 80] {
            let wounded = dir.path().join(format!("wounded-{number}-{at}"));
            copy(&log, &wounded);
            let path = wounded.join(victim.path.file_name().unwrap());
            let mut bytes = fs::read(&path).unwrap();
            bytes[at as usize] ^= 4;
            fs::write(&path, bytes).unwrap();
            // A start looks at the headers of all files, and reads the newest.
            match Log::open(&wounded, Clock::system()) {
                Err(_) => {}
                Ok(opened) => {
                    assert!(at != 20, "{}", path.display());
                    let last = opened.read_all(0, &[]).collect::<Vec<_>>().await.pop();
                    let error = last.unwrap().expect_err("it is damaged").to_string();
                    assert!(error.contains(path.to_str().unwrap()), "{error}");
                }
            }
            let wound = files::wound(&wounded).unwrap().expect("it is damaged");
            assert!(wound.why.contains(victim.path.file_name().unwrap().to_str().unwrap()));
            assert!(wound.sound <= record.recorded.position, "{wound:?}");
            files::cut(&wounded, &wound).unwrap();
            assert_eq!(files::wound(&wounded).unwrap(), None);
            let kept: Vec<_> = whole.iter().take(wound.sound as usize).cloned().collect();
            assert!(entries(&wounded) == kept, "{wound:?}");
            let opened = Log::open(&wounded, Clock::system()).unwrap();
            assert_eq!(opened.next_position().await.unwrap(), wound.sound);
        }
    }
}
