//! What ends up in the file.

use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::*;
use crate::{
    config::WhenFull,
    runtime::{Jobs, Stream},
    stop::Why,
};

struct Fixture {
    dir: tempfile::TempDir,
    spool: Spool,
    log: Log,
    shipment: Shipment,
    stopper: Stopper,
}

const ROOMY: Bounds = Bounds { log: 1000, spool: 1000, when_full: WhenFull::Block };

async fn begin(secrets: &[&str], bounds: Bounds) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let stopper = Stopper::default();
    let secrets = Secrets::new(secrets.iter().copied());
    let shelf = Shelf::with_segments(dir.path().join("log"), 10);
    let (spool, log, shipment) =
        Spool::start(shelf, secrets, bounds, stopper.clone()).await.unwrap();
    Fixture { dir, spool, log, shipment, stopper }
}

/// What the segments hold together.
pub(crate) fn content(dir: &Path) -> Vec<u8> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut segments: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|it| it == "log")).collect();
    segments.sort();
    segments.iter().flat_map(|path| std::fs::read(path).unwrap()).collect()
}

impl Fixture {
    async fn print(&self, stream: Stream, text: &'static str) {
        self.print_bytes(stream, text.as_bytes()).await;
    }

    async fn print_bytes(&self, stream: Stream, bytes: &'static [u8]) {
        let output = Output::now(stream, Jobs::from([]), Bytes::from_static(bytes));
        self.log.output(output).await;
    }

    fn text(&self) -> String {
        String::from_utf8(content(&self.dir.path().join("log"))).unwrap()
    }

    async fn until(&mut self, is_so: impl FnMut(&Progress) -> bool) {
        self.shipment.progress.wait_for(is_so).await.unwrap();
    }

    /// The log, when it holds this many bytes.
    async fn text_of(&mut self, size: u64) -> String {
        self.until(|progress| progress.size >= size).await;
        self.text()
    }

    async fn finish(self) -> String {
        String::from_utf8(self.finish_bytes().await).unwrap()
    }

    async fn finish_bytes(self) -> Vec<u8> {
        self.spool.finish(self.log).await;
        let bytes = content(&self.dir.path().join("log"));
        let progress = *self.shipment.progress.borrow();
        assert_eq!(progress.size, bytes.len() as u64);
        assert_eq!(progress.end, Some(Digest::of(&bytes)));
        bytes
    }
}

#[tokio::test]
async fn lines_of_two_streams_do_not_mix() {
    let log = begin(&[], ROOMY).await;
    log.print(Stream::Stdout, "one ").await;
    log.print(Stream::Stderr, "error\n").await;
    log.print(Stream::Stdout, "two\nthree").await;
    log.log.note("agent").await;
    assert_eq!(log.finish().await, "error\none two\nagent\nthree");
}

#[tokio::test]
async fn an_unfinished_line_is_shown_after_a_moment() {
    let mut log = begin(&[], ROOMY).await;
    log.print(Stream::Stdout, "working").await;
    assert_eq!(log.text_of(7).await, "working");
    log.print(Stream::Stderr, "oops\n").await;
    assert_eq!(log.finish().await, "working\noops\n");
}

#[tokio::test]
async fn a_secret_in_two_pieces_never_reaches_the_disk() {
    let mut log = begin(&["s3cret"], ROOMY).await;
    log.print(Stream::Stdout, "key s3c").await;
    // The silence shows what is decided, and no more.
    assert_eq!(log.text_of(4).await, "key ");
    log.print(Stream::Stdout, "ret\n").await;
    log.log.note("said s3cret").await;
    assert_eq!(log.finish().await, "key ***\nsaid ***\n");
}

#[tokio::test]
async fn a_log_has_a_limit() {
    let log = begin(&[], Bounds { log: 10, ..ROOMY }).await;
    for _ in 0..5 {
        log.print(Stream::Stdout, "12345\n").await;
    }
    assert!(log.stopper.why().is_none());
    let text = log.finish().await;
    assert!(text.starts_with("12345\n1234\nThe log reached 10 bytes"), "{text}");
}

#[tokio::test]
async fn a_full_disk_stops_the_attempt() {
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/dev/full", dir.path().join(format!("{:020}.log", 0))).unwrap();
    let (stopper, shelf) = (Stopper::default(), Shelf::new(dir.path().into()));
    let (spool, log, _shipment) =
        Spool::start(shelf, Secrets::default(), ROOMY, stopper.clone()).await.unwrap();
    log.note("hello").await;
    stopper.token().cancelled().await;
    assert!(matches!(stopper.why(), Some(Why::NoLog(text)) if text.contains("No space")));
    spool.finish(log).await;
}

#[tokio::test]
async fn a_full_spool_blocks_the_job_until_the_server_takes_more() {
    let mut log = begin(&[], Bounds { spool: 20, ..ROOMY }).await;
    for _ in 0..5 {
        log.print(Stream::Stdout, "123456789\n").await;
    }
    log.until(|progress| progress.blocked && progress.size == 20).await;
    log.shipment.acknowledged.send_replace(20);
    log.until(|progress| progress.blocked && progress.size == 40).await;
    // What the server has is removed where the room is needed.
    assert_eq!(log.text().len(), 20);
    log.shipment.acknowledged.send_replace(40);
    log.spool.finish(log.log).await;
    let end = *log.shipment.progress.borrow();
    assert_eq!(end.size, 50);
    assert_eq!(end.end, Some(Digest::of("123456789\n".repeat(5).as_bytes())));
    assert_eq!((end.gaps, end.blocked), (Gaps::default(), false));
}

#[tokio::test]
async fn a_blocked_job_that_is_cancelled_is_not_waited_for() {
    let mut log = begin(&[], Bounds { spool: 20, ..ROOMY }).await;
    log.print(Stream::Stdout, "123456789\n123456789\n123456789\n").await;
    log.print(Stream::Stdout, "123456789\n").await;
    log.until(|progress| progress.blocked).await;
    log.stopper.stop(Why::Cancelled);
    let text = log.finish().await;
    assert!(text.contains("\n--- gap: 20 bytes are missing here: 20 bytes of"), "{text}");
}

#[tokio::test]
async fn a_full_spool_that_drops_says_how_much_is_missing() {
    let bounds = Bounds { spool: 20, when_full: WhenFull::Drop, ..ROOMY };
    let mut log = begin(&[], bounds).await;
    for text in ["123456789\n", "123456789", "\n-lost-\n"] {
        log.print(Stream::Stdout, text).await;
        log.until(|progress| progress.size + progress.gaps.bytes >= 10).await;
    }
    log.until(|progress| progress.gaps.count > 0).await;
    let dropped = log.shipment.progress.borrow().gaps.bytes;
    log.shipment.acknowledged.send_replace(19);
    log.print(Stream::Stdout, "again\n").await;
    log.spool.finish(log.log).await;
    let text = String::from_utf8(content(&log.dir.path().join("log"))).unwrap();
    let gap = format!("--- gap: {dropped} bytes are missing here");
    assert!(text.contains(&gap) && text.ends_with("---\nagain\n"), "{text}");
}

#[tokio::test]
async fn any_bytes_are_kept_as_they_came() {
    const ODD: &[u8] = b"nul \0 \x1b[31mred\x1b[0m \xff\xfe \xc3( \r\x07\x08 \x9b1A\n";
    let log = begin(&[], ROOMY).await;
    log.print_bytes(Stream::Stdout, ODD).await;
    log.print_bytes(Stream::Stdout, ODD).await;
    assert_eq!(log.finish_bytes().await, [ODD, ODD].concat());
}

#[tokio::test]
async fn a_line_without_an_end_takes_no_memory() {
    static PIECE: [u8; 1 << 20] = [b'x'; 1 << 20];
    let dir = tempfile::tempdir().unwrap();
    let bounds = Bounds { log: 1 << 30, spool: 1 << 30, when_full: WhenFull::Block };
    let shelf = Shelf::new(dir.path().into());
    let (spool, log, shipment) =
        Spool::start(shelf, Secrets::new(["xy"]), bounds, Stopper::default()).await.unwrap();
    for _ in 0..40 {
        let piece = Bytes::from_static(&PIECE);
        log.output(Output::now(Stream::Stdout, Jobs::from([]), piece)).await;
    }
    spool.finish(log).await;
    assert_eq!(shipment.progress.borrow().size, 40 << 20);
}

#[tokio::test]
async fn a_process_that_never_lets_go_does_not_keep_the_log_open() {
    tokio::time::pause();
    let log = begin(&[], ROOMY).await;
    let held = log.log.clone();
    log.log.note("last").await;
    assert_eq!(log.finish().await, "last\n");
    held.note("too late").await;
}
