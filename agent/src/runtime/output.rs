//! Reads what a pipeline writes: finds the handshake, passes everything else on, keeps the end.
//!
//! Bytes leave as they come, so a last line without a newline arrives too. A slow reader slows the
//! pipeline down; one that went away does not stop it.

use std::{
    collections::VecDeque,
    fmt, future,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures::FutureExt as _;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    sync::mpsc,
    task::unconstrained,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    Output, Stream,
    handshake::{self, Address, Line},
    running::Running,
};

const PIECE: usize = 16 * 1024;
/// How much a program may print before the handshake.
pub(super) const MAX_NOISE: usize = 1024 * 1024;
/// A longer line without an end is no handshake.
const MAX_LINE: usize = 16 * 1024;
const TAIL: usize = 2 * 1024;
/// How long a pipe may stay open and silent when all that we know of have ended.
const STRAGGLER: Duration = Duration::from_secs(1);
/// How long we wait for bytes after that in all: what left the group may print for ever.
const STRAGGLERS: Duration = Duration::from_secs(5);
/// The most that a pipe holds, so the most that those that ended can have left in it.
const MOST_LEFT: usize = 1024 * 1024;

/// The end of all that a pipeline wrote, both streams together.
#[derive(Debug, Clone, Default)]
pub(super) struct Tail(Arc<Mutex<VecDeque<u8>>>);

impl Tail {
    fn push(&self, bytes: &[u8]) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend(&bytes[bytes.len().saturating_sub(TAIL)..]);
        let surplus = kept.len().saturating_sub(TAIL);
        kept.drain(..surplus);
    }

    pub(super) fn text(&self) -> LastOutput {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        LastOutput(String::from_utf8_lossy(kept.make_contiguous()).trim().to_owned())
    }
}

/// What a program printed last, for error messages.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LastOutput(pub String);

impl fmt::Display for LastOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_str() {
            "" => f.write_str("it printed nothing"),
            text => write!(f, "its last output was:\n{text}"),
        }
    }
}

#[derive(Debug)]
pub(super) enum NoHandshake {
    TooMuchNoise,
    Refused(String),
}

/// One of the two streams.
#[derive(Debug)]
pub(super) struct Pump<R> {
    reader: R,
    buffer: BytesMut,
    stream: Stream,
    output: mpsc::Sender<Output>,
    tail: Tail,
    running: Running,
}

impl<R: AsyncRead + Unpin> Pump<R> {
    pub(super) fn new(
        reader: R,
        stream: Stream,
        running: Running,
        output: mpsc::Sender<Output>,
        tail: Tail,
    ) -> Self {
        Self { reader, buffer: BytesMut::new(), stream, output, tail, running }
    }

    /// Reads up to the handshake and takes it out. Pends for ever if the stream ends before: how
    /// the process ends says more. May be dropped at any time; nothing that was read is lost.
    pub(super) async fn handshake(&mut self) -> Result<Address, NoHandshake> {
        let mut skipped = 0;
        loop {
            while let Some(line) = self.next_line() {
                skipped += line.len();
                match handshake::read(&line) {
                    Line::Handshake { noise, address } => {
                        self.pass(line.slice(..noise)).await;
                        return Ok(address);
                    }
                    Line::Refused(problem) => {
                        self.pass(line).await;
                        return Err(NoHandshake::Refused(problem));
                    }
                    Line::Noise => self.pass(line).await,
                }
                if skipped > MAX_NOISE {
                    return Err(NoHandshake::TooMuchNoise);
                }
            }
            if self.fill().await == 0 {
                future::pending::<()>().await;
            }
        }
    }

    fn next_line(&mut self) -> Option<Bytes> {
        let end = self.buffer.iter().position(|byte| *byte == b'\n').map(|at| at + 1);
        let end = end.or_else(|| (self.buffer.len() >= MAX_LINE).then_some(self.buffer.len()))?;
        Some(self.buffer.split_to(end).freeze())
    }

    /// Passes everything on until the end of the stream. After `closing`, a stream that stays
    /// silent, or goes on for too long, is left: something that escaped from the pipeline's process
    /// group holds it open.
    pub(super) async fn run(mut self, closing: CancellationToken) {
        loop {
            let rest = self.buffer.split().freeze();
            self.pass(rest).await;
            if !self.running.asks() {
                tokio::select! {
                    biased;
                    count = read(&mut self.reader, &mut self.buffer) => match count {
                        0 => return,
                        _ => continue,
                    },
                    () = self.running.changed() => {}
                    () = closing.cancelled() => break,
                }
            }
            // What a job wrote before it answered was there to be read before its answer was.
            if self.running.asks() {
                match unconstrained(self.fill()).now_or_never() {
                    Some(0) => return,
                    Some(_) => {}
                    None => self.running.found_empty(),
                }
            }
        }
        self.drain().await;
    }

    /// Passes on what is left. A slow reader costs no patience: only waiting for bytes does.
    async fn drain(&mut self) {
        let (mut patience, mut left) = (STRAGGLERS, MOST_LEFT);
        while !patience.is_zero() && left > 0 {
            let begun = Instant::now();
            let Ok(count @ 1..) = timeout(STRAGGLER.min(patience), self.fill()).await else {
                return;
            };
            patience = patience.saturating_sub(begun.elapsed());
            left = left.saturating_sub(count);
            let rest = self.buffer.split().freeze();
            self.pass(rest).await;
        }
    }

    /// The count of new bytes; a pipe that fails is one that ended.
    async fn fill(&mut self) -> usize {
        read(&mut self.reader, &mut self.buffer).await
    }

    async fn pass(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.tail.push(&bytes);
            let output = Output::now(self.stream, self.running.jobs(), bytes);
            self.output.send(output).await.ok();
        }
    }
}

async fn read(reader: &mut (impl AsyncRead + Unpin), buffer: &mut BytesMut) -> usize {
    buffer.reserve(PIECE);
    reader.read_buf(buffer).await.unwrap_or(0)
}
