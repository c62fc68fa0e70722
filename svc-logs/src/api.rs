//! The gRPC face: parses, stamps the time, asks the log's own task, records what is complete.

use std::sync::Arc;

use bytes::Bytes;
use eventlog::{Clock, Origin, Stopped};
use futures::stream::BoxStream;
use ids::{Attempt, Digest};
use proto::logs::v1 as wire;
use sha2::{Digest as _, Sha256};
use tokio::{io::AsyncWriteExt, sync::mpsc};
use tonic::{Request, Response, Status, Streaming};

use crate::{
    domain::{Command, Lack, LogId, Seal},
    file::Refusal,
    reader::{self, Library, Wanted},
    spans,
    store::Aside,
    writer::{End, OpenLog, Piece, Wish, Written, chain},
};

/// Most bytes of one append.
pub(crate) const MOST_BYTES: usize = 1 << 20;
/// Bytes of a reason why a log is incomplete.
const MOST_REASON: usize = 4 << 10;
/// A log may be closed between looking it up and asking it.
const TRIES: usize = 3;

pub(crate) struct Api {
    pub(crate) library: Library,
    pub(crate) clock: Clock,
    /// Largest log, in bytes.
    pub(crate) most_bytes: u64,
    /// Logs that were sealed, to be compressed.
    pub(crate) archive: mpsc::UnboundedSender<LogId>,
}

impl Api {
    async fn open(&self, log: LogId) -> Result<OpenLog, Status> {
        reader::open(&self.library.store, &self.library.owner, log).await
    }

    async fn ask(&self, log: LogId, wish: Wish) -> Result<Written, Status> {
        let mut outcome = Err(Refusal::Closed(log));
        for _ in 0..TRIES {
            outcome = self.open(log).await?.ask(wish.clone()).await;
            if !matches!(outcome, Err(Refusal::Closed(_))) {
                break;
            }
        }
        outcome.map_err(|refusal| refused(&refusal))
    }

    /// Whether it was not recorded before.
    async fn record(&self, log: LogId, seal: Seal, lack: Lack) -> Result<bool, Status> {
        let command = Command::SealLog { log, seal, lack, at: self.clock.now() };
        let answer = self.library.owner.ask(command, Origin::service("svc-logs")).await;
        let answer = answer.map_err(stopped)?;
        answer
            .map(|events| !events.is_empty())
            .map_err(|rejection| Status::failed_precondition(rejection.to_string()))
    }

    /// Writes the rest of the stream aside. It counts only if the client ended it.
    async fn receive(
        &self,
        log: LogId,
        first: Bytes,
        mut rest: Streaming<wire::ReplaceLogRequest>,
    ) -> Result<(Aside, Seal, Sha256), Status> {
        let place = self.library.store.place(log);
        let failed = |error| refused(&place.refusal(error));
        let aside = self.library.store.aside();
        let mut file = tokio::fs::File::create_new(aside.path()).await.map_err(failed)?;
        let (mut hash, mut size, mut data) = (Sha256::new(), 0, first);
        loop {
            size += data.len() as u64;
            if size > self.most_bytes {
                return Err(refused(&Refusal::TooLong { log, most: self.most_bytes }));
            }
            hash.update(&data);
            file.write_all(&data).await.map_err(failed)?;
            match rest.message().await? {
                None => break,
                Some(next) => {
                    let goes_on = next.run_id.is_empty() || next.run_id == log.run.to_string();
                    if !goes_on || (next.attempt != 0 && next.attempt != log.attempt.0) {
                        return Err(Status::invalid_argument(
                            "run_id, attempt: differ from the first message's",
                        ));
                    }
                    data = next.data;
                }
            }
        }
        file.flush().await.map_err(failed)?;
        let digest = Digest::from_bytes(hash.clone().finalize().into());
        Ok((aside, Seal { size, digest }, hash))
    }
}

#[tonic::async_trait]
impl wire::logs_server::Logs for Api {
    type ReadLogStream = BoxStream<'static, Result<wire::ReadLogResponse, Status>>;

    async fn append_log(
        &self,
        request: Request<wire::AppendLogRequest>,
    ) -> Result<Response<wire::AppendLogResponse>, Status> {
        let wire::AppendLogRequest { run_id, attempt, offset, data, end, spans } =
            request.into_inner();
        let log = log_id(&run_id, attempt)?;
        if data.len() > MOST_BYTES {
            return Err(Status::invalid_argument(format!(
                "data: has {} bytes, more than {MOST_BYTES}: send it in pieces",
                data.len()
            )));
        }
        if let Some(spans) = &spans {
            spans::check(spans).map_err(|why| Status::invalid_argument(format!("spans: {why}")))?;
        }
        let told = end.unwrap_or_default();
        let end = end_of(&told)?;
        let piece = Piece { offset, data, spans, end };
        let written = self.ask(log, Wish::Append(piece)).await?;
        if let Some(seal) = written.sealed
            && self.record(log, seal, lack(told, seal)).await?
        {
            // Refused: the service is stopping, and it is done at the next start.
            self.archive.send(log).ok();
        }
        let durable_offset = written.durable_offset;
        Ok(Response::new(wire::AppendLogResponse { durable_offset }))
    }

    async fn replace_log(
        &self,
        request: Request<Streaming<wire::ReplaceLogRequest>>,
    ) -> Result<Response<wire::AppendLogResponse>, Status> {
        let mut stream = request.into_inner();
        let Some(first) = stream.message().await? else {
            return Err(Status::invalid_argument("run_id: the stream had no message"));
        };
        let log = log_id(&first.run_id, first.attempt)?;
        let (aside, seal, hash) = self.receive(log, first.data, stream).await?;
        let wish = Wish::Replace { aside: Arc::new(aside), seal, hash };
        let durable_offset = self.ask(log, wish).await?.durable_offset;
        Ok(Response::new(wire::AppendLogResponse { durable_offset }))
    }

    async fn read_log(
        &self,
        request: Request<wire::ReadLogRequest>,
    ) -> Result<Response<Self::ReadLogStream>, Status> {
        let wire::ReadLogRequest { run_id, attempt, offset, follow, spans } = request.into_inner();
        let run = run_id.parse().map_err(|error| invalid("run_id", &error))?;
        let wanted = Wanted { run, attempt: Attempt(attempt), offset, spans };
        let chunks: Self::ReadLogStream = if follow {
            self.library.clone().follow(wanted).await?
        } else {
            Box::pin(self.library.read(wanted).await?)
        };
        Ok(Response::new(chunks))
    }

    async fn get_log(
        &self,
        request: Request<wire::GetLogRequest>,
    ) -> Result<Response<wire::GetLogResponse>, Status> {
        let wire::GetLogRequest { run_id, attempt } = request.into_inner();
        let run = run_id.parse().map_err(|error| invalid("run_id", &error))?;
        let wanted = Wanted { run, attempt: Attempt(attempt), offset: 0, spans: false };
        let (log, size, sealed) = self.library.look_up(wanted).await?;
        let sealed = sealed.map(|(seal, lack)| wire::LogEnd {
            size: seal.size,
            sha256: seal.digest.as_bytes().to_vec().into(),
            gaps: lack.gaps,
            dropped: lack.dropped,
            incomplete: lack.incomplete,
            missing: lack.missing,
        });
        Ok(Response::new(wire::GetLogResponse { attempt: log.attempt.0, size, sealed }))
    }
}

fn log_id(run: &str, attempt: u32) -> Result<LogId, Status> {
    let run = run.parse().map_err(|error| invalid("run_id", &error))?;
    if attempt == 0 {
        return Err(Status::invalid_argument("attempt: counts from 1"));
    }
    Ok(LogId { run, attempt: Attempt(attempt) })
}

/// `None`: more will come.
fn end_of(end: &wire::LogEnd) -> Result<Option<End>, Status> {
    if end.incomplete.len() > MOST_REASON {
        let message = format!("end.incomplete: has more than {MOST_REASON} bytes: say it shorter");
        return Err(Status::invalid_argument(message));
    }
    if *end == wire::LogEnd::default() {
        return Ok(None);
    }
    if end.sha256.is_empty() && !end.incomplete.is_empty() {
        return Ok(Some(End::AsItIs));
    }
    let digest = Digest::try_from(&end.sha256[..]);
    let digest = digest.map_err(|error| invalid("end.sha256", &error))?;
    Ok(Some(End::Whole(Seal { size: end.size, digest })))
}

/// What a log that was sealed so lacks of what its worker had.
fn lack(told: wire::LogEnd, seal: Seal) -> Lack {
    Lack {
        gaps: told.gaps,
        dropped: told.dropped,
        incomplete: told.incomplete,
        missing: told.size.saturating_sub(seal.size),
    }
}

fn invalid(field: &str, error: &ids::ParseIdError) -> Status {
    Status::invalid_argument(format!("{field}: {error}"))
}

fn refused(refusal: &Refusal) -> Status {
    let message = chain(refusal);
    match refusal {
        // Waiting does not help.
        Refusal::Sealed { .. } | Refusal::Differs { .. } | Refusal::TooLong { .. } => {
            Status::failed_precondition(message)
        }
        Refusal::Full { .. } => Status::resource_exhausted(message),
        Refusal::Io { .. } => Status::internal(message),
        Refusal::Closed(_) => Status::unavailable(message),
    }
}

pub(crate) fn stopped(stopped: Stopped) -> Status {
    Status::unavailable(format!("svc-logs: {stopped}"))
}
