//! Uploads a binary: asks which of its chunks the server lacks, sends those, and asks again. After a break
//! or a restart of either side that is the same question, so nothing is sent twice that has arrived.

use std::{fs, io, os::unix::fs::FileExt as _, sync::Arc, time::Duration};

use ::http::{Method, StatusCode};
use bytes::Bytes;
use chunks::{Chunk, Manifest, frames, pack};
use futures::{Stream, StreamExt as _, stream};
use ids::Digest;
use serde::Deserialize;
use tokio::{fs::File, task::spawn_blocking};

use crate::{
    cache::Cache,
    http::{self, Answer, HttpError, PATIENCE, call_within, full, leased},
    order::Lease,
    primary::Primary,
    retry::Pauses,
    spool::Log,
    stop::Trouble,
};

/// Answers that bring it no further before it is given up.
const TRIES: u32 = 8;
/// Chunks that are packed ahead.
const AHEAD: usize = 8;
/// The server reads all of the binary before it answers, from wherever it keeps it.
const SLOWEST: u64 = 4 << 20;

struct Upload<'a> {
    primary: &'a Primary,
    lease: &'a Lease,
    digest: Digest,
    file: Arc<fs::File>,
    manifest: Manifest,
}

enum Step {
    Stored,
    /// These chunks were missing, and were sent.
    Sent(usize),
    /// It takes binaries whole only.
    Whole,
}

enum Failure {
    /// It may pass, and to wait costs less than to build again.
    Broken(String),
    /// The server has no room; somebody may make some.
    Full(String),
    Refused(String),
}

impl From<HttpError> for Failure {
    fn from(error: HttpError) -> Self {
        Self::Broken(error.to_string())
    }
}

/// Goes on through outages, until the caller drops it.
pub(crate) async fn upload(
    primary: &Primary,
    lease: &Lease,
    cache: &Cache,
    digest: Digest,
    log: &Log,
) -> Result<(), Trouble> {
    let opened = cache.chunked(digest).await;
    let (file, manifest) = opened.map_err(|error| Trouble::io("reading the binary", error))?;
    let upload = Upload { primary, lease, digest, file: Arc::new(file), manifest };
    let (mut pauses, mut tries, mut fewest) = (Pauses::new(), 0, usize::MAX);
    // For people, once.
    let mut told = String::new();
    loop {
        let step = match upload.advance().await {
            Ok(Step::Whole) => upload.whole().await,
            step => step,
        };
        let why = match step {
            Ok(Step::Sent(missing)) if missing < fewest => {
                (tries, fewest) = (0, missing);
                continue;
            }
            Ok(Step::Sent(missing)) => {
                tries += 1;
                format!("the server still lacks {missing} chunks")
            }
            Ok(Step::Stored | Step::Whole) => return Ok(()),
            Err(Failure::Broken(why)) => why,
            Err(Failure::Full(why)) => {
                tries += 1;
                why
            }
            Err(Failure::Refused(why)) => {
                return Err(Trouble::Worker(format!("upload failed: the server refused: {why}")));
            }
        };
        if tries == TRIES {
            return Err(Trouble::Worker(format!("upload failed: {why}")));
        }
        if told != why {
            log.note(format!("upload: {why}; trying again")).await;
            told.clone_from(&why);
        }
        tracing::warn!(%digest, why, "uploading a binary failed; trying again");
        pauses.pause().await;
    }
}

impl Upload<'_> {
    async fn advance(&self) -> Result<Step, Failure> {
        #[derive(Deserialize)]
        struct Missing {
            missing: Vec<u32>,
        }
        let request = self.request("/manifest").body(full(self.manifest.encode()));
        let request = request.expect("ids make a valid request");
        let patience = PATIENCE + Duration::from_secs(self.manifest.size() / SLOWEST);
        let answer = call_within(self.primary.bulk(), request, patience).await?;
        if matches!(answer.status, StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED) {
            return Ok(Step::Whole);
        }
        let answer = good(answer)?;
        if answer.status != StatusCode::ACCEPTED {
            return Ok(Step::Stored);
        }
        let unreadable = || Failure::Broken("the server's answer cannot be read".to_owned());
        let Missing { missing } = answer.json().ok_or_else(unreadable)?;
        let placed: Vec<(u64, Chunk)> = self.manifest.placed().collect();
        let chunks = missing.iter().map(|number| placed.get(*number as usize).copied());
        let chunks: Vec<_> = chunks.collect::<Option<_>>().ok_or_else(unreadable)?;
        let body = framed(Arc::clone(&self.file), chunks);
        let request = self.request("/chunks").header("content-type", frames::MEDIA_TYPE);
        good(http::upload(self.primary.bulk(), request, body).await?)?;
        Ok(Step::Sent(missing.len()))
    }

    async fn whole(&self) -> Result<Step, Failure> {
        let file = self.file.try_clone();
        let file =
            file.map_err(|error| Failure::Refused(format!("reading the binary: {error}")))?;
        let mut file = File::from_std(file);
        let begun = tokio::io::AsyncSeekExt::rewind(&mut file).await;
        begun.map_err(|error| Failure::Refused(format!("reading the binary: {error}")))?;
        let request = self
            .request("")
            .header("content-type", "application/octet-stream")
            .header("content-length", self.manifest.size());
        good(http::upload(self.primary.bulk(), request, http::pieces(file)).await?)?;
        Ok(Step::Stored)
    }

    fn request(&self, what: &str) -> ::http::request::Builder {
        leased(Method::PUT, &format!("/artifacts/sha256/{}{what}", self.digest), self.lease)
    }
}

fn good(answer: Answer) -> Result<Answer, Failure> {
    if answer.status.is_success() {
        Ok(answer)
    } else if answer.status == StatusCode::INSUFFICIENT_STORAGE {
        Err(Failure::Full(answer.text()))
    } else if answer.is_passing_for_worker() {
        Err(Failure::Broken(answer.text()))
    } else {
        Err(Failure::Refused(answer.text()))
    }
}

/// These chunks of the file, as they travel.
fn framed(
    file: Arc<fs::File>,
    chunks: Vec<(u64, Chunk)>,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    let packed = move |(at, chunk): (u64, Chunk)| {
        let file = Arc::clone(&file);
        let work = spawn_blocking(move || {
            let mut bytes = vec![0; chunk.length as usize];
            file.read_exact_at(&mut bytes, at)?;
            let stored = pack(&bytes);
            let mut frame = Vec::with_capacity(stored.len() + 64);
            frame.extend_from_slice(&frames::head(chunk.digest, &stored));
            frame.extend_from_slice(&stored);
            Ok(frame.into())
        });
        async move { work.await.expect("packing neither panics nor is aborted") }
    };
    stream::iter(chunks).map(packed).buffered(AHEAD)
}
