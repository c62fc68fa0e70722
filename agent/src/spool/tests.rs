//! What ends up in the file.

use bytes::Bytes;

use super::*;

struct Fixture {
    dir: tempfile::TempDir,
    spool: Spool,
    log: Log,
    progress: watch::Receiver<Progress>,
    stopper: Stopper,
}

async fn begin(secrets: &[&str], limit: u64) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let stopper = Stopper::default();
    let secrets = Secrets::new(secrets.iter().copied());
    let path = dir.path().join("log");
    let (spool, log, progress) = Spool::start(path, secrets, limit, stopper.clone()).await.unwrap();
    Fixture { dir, spool, log, progress, stopper }
}

impl Fixture {
    async fn print(&self, stream: Stream, text: &'static str) {
        self.log.output(Output { stream, bytes: Bytes::from_static(text.as_bytes()) }).await;
    }

    /// The file, when it holds this many bytes.
    async fn text_of(&mut self, size: u64) -> String {
        self.progress.wait_for(|progress| progress.size >= size).await.unwrap();
        std::fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    async fn finish(self) -> String {
        self.spool.finish(self.log).await;
        let text = std::fs::read_to_string(self.dir.path().join("log")).unwrap();
        let progress = *self.progress.borrow();
        assert_eq!(progress.size, text.len() as u64);
        assert_eq!(progress.end, Some(Digest::of(text.as_bytes())));
        text
    }
}

#[tokio::test]
async fn lines_of_two_streams_do_not_mix() {
    let log = begin(&[], 1000).await;
    log.print(Stream::Stdout, "one ").await;
    log.print(Stream::Stderr, "error\n").await;
    log.print(Stream::Stdout, "two\nthree").await;
    log.log.note("agent").await;
    assert_eq!(log.finish().await, "error\none two\nagent\nthree");
}

#[tokio::test]
async fn an_unfinished_line_is_shown_after_a_moment() {
    let mut log = begin(&[], 1000).await;
    log.print(Stream::Stdout, "working").await;
    assert_eq!(log.text_of(7).await, "working");
    log.print(Stream::Stderr, "oops\n").await;
    assert_eq!(log.finish().await, "working\noops\n");
}

#[tokio::test]
async fn a_secret_in_two_pieces_never_reaches_the_disk() {
    let mut log = begin(&["s3cret"], 1000).await;
    log.print(Stream::Stdout, "key s3c").await;
    // The silence shows what is decided, and no more.
    assert_eq!(log.text_of(4).await, "key ");
    log.print(Stream::Stdout, "ret\n").await;
    log.log.note("said s3cret").await;
    assert_eq!(log.finish().await, "key ***\nsaid ***\n");
}

#[tokio::test]
async fn a_log_has_a_limit() {
    let log = begin(&[], 10).await;
    for _ in 0..5 {
        log.print(Stream::Stdout, "12345\n").await;
    }
    assert!(log.stopper.why().is_none());
    let text = log.finish().await;
    assert!(text.starts_with("12345\n1234\nThe log reached 10 bytes"), "{text}");
}

#[tokio::test]
async fn a_full_disk_stops_the_attempt() {
    let stopper = Stopper::default();
    let full = PathBuf::from("/dev/full");
    let (spool, log, _progress) =
        Spool::start(full, Secrets::default(), 1000, stopper.clone()).await.unwrap();
    log.note("hello").await;
    stopper.token().cancelled().await;
    assert!(matches!(stopper.why(), Some(Why::NoLog(text)) if text.contains("No space")));
    spool.finish(log).await;
}

#[tokio::test]
async fn a_process_that_never_lets_go_does_not_keep_the_log_open() {
    tokio::time::pause();
    let log = begin(&[], 1000).await;
    let held = log.log.clone();
    log.log.note("last").await;
    assert_eq!(log.finish().await, "last\n");
    held.note("too late").await;
}
