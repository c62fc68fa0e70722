//! A writer that is killed in the middle of its work has lost nothing that it was answered.

use std::{
    collections::HashMap,
    env,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, Command, Stdio},
};

use eventlog::{Expected, Log, OpenError, verify};

use crate::{all, clock, event, number, open_small};

/// Tells the child, which is this same test binary, where to write.
const FOLDER: &str = "EVENTLOG_TEST_FOLDER";
const WRITERS: u64 = 8;

/// The child's work; in an ordinary run of the tests there is none.
#[test]
fn write_until_killed() {
    let Some(dir) = env::var_os(FOLDER) else { return };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let log = open_small(Path::new(&dir));
        let writers = (0..WRITERS).map(|writer| tokio::spawn(write(log.clone(), writer)));
        for writer in writers.collect::<Vec<_>>() {
            writer.await.unwrap();
        }
    });
}

/// Counts up in a stream of its own, and says so only when the log has answered.
async fn write(log: Log, writer: u64) {
    let stream = format!("run-{writer}");
    let mut next = all(log.read_stream(stream.as_str(), 0, usize::MAX)).await.len() as u64;
    loop {
        let expected = next.checked_sub(1).map_or(Expected::None, Expected::Revision);
        // Ids must not repeat between writers, since they would look like retries.
        let batch = (next..next + 3).map(|number| {
            let mut new = event(writer << 32 | number);
            new.data = number.to_string().into_bytes().into();
            new
        });
        log.append(stream.as_str(), expected, batch.collect()).await.unwrap();
        next += 3;
        let line = format!("acknowledged {writer} {next}\n");
        std::io::stdout().write_all(line.as_bytes()).unwrap();
    }
}

fn start(dir: &Path) -> Child {
    Command::new(env::current_exe().unwrap())
        .args(["crash::write_until_killed", "--exact", "--nocapture"])
        .env(FOLDER, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

#[tokio::test]
async fn a_killed_writer_has_lost_nothing_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged: HashMap<u64, u64> = HashMap::new();
    for round in 0..6 {
        let mut child = start(dir.path());
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut seen = 0;
        while let Some(Ok(line)) = lines.next() {
            let mut words = line.split(' ').skip_while(|word| *word != "acknowledged").skip(1);
            let Some(writer) = words.next() else { continue };
            let length = words.next().unwrap().parse().unwrap();
            acknowledged.insert(writer.parse().unwrap(), length);
            seen += 1;
            if seen == 40 + 37 * round {
                // SIGKILL. What it had said before is still in the pipe, and counts.
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(seen >= 40 + 37 * round, "the child ended by itself");

        let log = open_small(dir.path());
        let mut total = 0;
        for writer in 0..WRITERS {
            let read = all(log.read_stream(format!("run-{writer}"), 0, usize::MAX)).await;
            let length = read.len() as u64;
            assert!(read.iter().map(number).eq(0..length));
            assert!(length >= acknowledged.get(&writer).copied().unwrap_or(0), "round {round}");
            assert_eq!(length % 3, 0, "a batch was torn");
            total += length;
        }
        assert_eq!(log.next_position().await.unwrap(), total);
        drop(log);
        assert_eq!(verify(dir.path()).unwrap().events, total);
    }
}

#[tokio::test]
async fn a_folder_belongs_to_one_process() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = start(dir.path());
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("acknowledged")), "the child ended by itself");
    let refused = Log::open(dir.path(), clock()).unwrap_err();
    assert!(matches!(refused, OpenError::InUse { .. }), "{refused}");
    assert!(refused.to_string().contains("another process uses this folder"), "{refused}");
    child.kill().unwrap();
    child.wait().unwrap();
    Log::open(dir.path(), clock()).unwrap();
}
