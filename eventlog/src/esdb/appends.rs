//! Appends, in order of the calls.
//!
//! All go through one batch session, whose requests a server takes in order, so they need not wait for
//! each other. When it ends, by a refused append or a broken connection, whatever has no answer yet is
//! sent again in the same order in a new one; the ids of events make that harmless. What of the old
//! session still arrives comes before or after its repetition, and one of the two changes nothing.

use std::{collections::VecDeque, sync::Arc};

use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use kurrentdb::{BatchAppendClient, BatchAppendOptions, BatchWriteResult, Error, EventData};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep_until},
};

use super::{
    convert::to_event_data,
    pool::{Lease, Pool},
    reads, state_of,
    trouble::{PATIENCE, Trouble, code, is_conflict, last_word},
};
use crate::{
    event::{Expected, NewEvent},
    log::{AppendError, Appended, LogError},
};

/// Appends that are on their way at most; further ones wait for answers.
const IN_FLIGHT: usize = 1_024;

type Reply = oneshot::Sender<Result<Appended, AppendError>>;
type Outcome = (u64, Result<BatchWriteResult, Error>);

/// An append without an answer.
pub(super) struct Pending {
    stream: String,
    expected: Expected,
    events: Vec<EventData>,
    refused: Option<LogError>,
    reply: Reply,
    until: Instant,
    number: u64,
}

impl Pending {
    pub(super) fn new(
        stream: String,
        expected: Expected,
        events: Vec<NewEvent>,
    ) -> (Self, oneshot::Receiver<Result<Appended, AppendError>>) {
        let (reply, answer) = oneshot::channel();
        let converted: Result<Vec<_>, _> = events.iter().map(to_event_data).collect();
        let (events, refused) = match converted {
            Ok(events) => (events, None),
            Err(error) => (vec![], Some(error)),
        };
        let until = Instant::now() + PATIENCE;
        (Self { stream, expected, events, refused, reply, until, number: 0 }, answer)
    }

    /// The caller may have gone away.
    fn answer(self, answer: Result<Appended, AppendError>) {
        self.reply.send(answer).ok();
    }
}

/// The task that sends appends.
pub(super) struct Appender {
    pool: Arc<Pool>,
    inbox: mpsc::UnboundedReceiver<Pending>,
    /// In order of the calls; the first ones may have been sent.
    pending: VecDeque<Pending>,
    numbers: u64,
    trouble: Trouble,
}

/// A batch session, and what is on its way in it.
struct Session {
    client: Arc<BatchAppendClient>,
    answers: FuturesUnordered<BoxFuture<'static, Outcome>>,
    /// Appends from this number on were not sent.
    unsent: u64,
}

impl Session {
    async fn open(lease: &Lease, unsent: u64) -> Result<Self, Error> {
        let client = lease.client().batch_append(&BatchAppendOptions::default()).await?;
        Ok(Self { client: Arc::new(client), answers: FuturesUnordered::new(), unsent })
    }

    /// Polled once at once, which puts it into the session in this order.
    fn send(&mut self, pending: &Pending) {
        let client = Arc::clone(&self.client);
        let (number, stream) = (pending.number, pending.stream.clone());
        let (expected, events) = (state_of(pending.expected), pending.events.clone());
        let mut answer =
            async move { (number, client.append_to_stream(stream, expected, events).await) }
                .boxed();
        let early = answer.as_mut().now_or_never();
        self.answers.push(match early {
            Some(outcome) => std::future::ready(outcome).boxed(),
            None => answer,
        });
        self.unsent = number + 1;
    }
}

impl Appender {
    pub(super) fn new(pool: Arc<Pool>, inbox: mpsc::UnboundedReceiver<Pending>) -> Self {
        let (pending, trouble) = (VecDeque::new(), Trouble::default());
        Self { pool, inbox, pending, numbers: 0, trouble }
    }

    pub(super) async fn run(mut self) {
        loop {
            if self.pending.is_empty() {
                let Some(first) = self.inbox.recv().await else { return };
                self.enlist(first);
            } else if let Err(error) = self.connection().await {
                self.get_over(&error).await;
            } else {
                return;
            }
        }
    }

    fn enlist(&mut self, mut new: Pending) {
        if let Some(error) = new.refused.take() {
            return new.answer(Err(error.into()));
        }
        new.number = self.numbers;
        self.numbers += 1;
        self.pending.push_back(new);
    }

    /// After a connection broke: gives up what there is no hope or no time for.
    async fn get_over(&mut self, error: &Error) {
        // One that breaks while nobody waits for an answer is no trouble.
        if self.pending.is_empty() {
            return;
        }
        if self.trouble.wait(error, None).await.is_err() {
            for pending in self.pending.drain(..) {
                let last = last_word(error).unwrap_or(LogError::Unavailable(error.to_string()));
                pending.answer(Err(last.into()));
            }
            return;
        }
        let now = Instant::now();
        while self.pending.front().is_some_and(|first| first.until <= now) {
            let late = self.pending.pop_front().expect("it is there");
            late.answer(Err(LogError::Unavailable(error.to_string()).into()));
        }
    }

    /// One session after the other, until the connection breaks, or nobody can append any more.
    async fn connection(&mut self) -> Result<(), Error> {
        let mut lease = self.pool.lease().await?;
        loop {
            let first = self.pending.front().map_or(self.numbers, |first| first.number);
            let session = lease.look(Session::open(&lease, first).await)?;
            let ended = self.session(session).await;
            if lease.look(ended)? {
                return Ok(());
            }
        }
    }

    /// Sends what is pending and what comes, until an append is refused, which ends the session. True:
    /// nobody can append any more.
    async fn session(&mut self, mut session: Session) -> Result<bool, Error> {
        let mut open = true;
        while open || !self.pending.is_empty() {
            self.send(&mut session);
            let until = self.pending.front().map(|first| first.until);
            tokio::select! {
                Some(outcome) = session.answers.next() => {
                    if let Some(ended) = self.answered(outcome).await {
                        return self.drain(session, ended).await;
                    }
                }
                new = self.inbox.recv(), if open && self.pending.len() < IN_FLIGHT => match new {
                    Some(new) => self.enlist(new),
                    None => open = false,
                },
                () = at(until) => return Err(Error::DeadlineExceeded),
            }
        }
        Ok(true)
    }

    fn send(&mut self, session: &mut Session) {
        // More may wait than what brought us here.
        while self.pending.len() < IN_FLIGHT {
            let Ok(new) = self.inbox.try_recv() else { break };
            self.enlist(new);
        }
        let unsent = self.pending.partition_point(|pending| pending.number < session.unsent);
        for pending in self.pending.iter().skip(unsent) {
            session.send(pending);
        }
    }

    /// A session that has ended says so for every append in it; among these is the one that ended it.
    async fn drain(&mut self, mut session: Session, mut ended: Ended) -> Result<bool, Error> {
        while let Some(outcome) = session.answers.next().await {
            if let Some(Ended::Refused) = self.answered(outcome).await {
                ended = Ended::Refused;
            }
        }
        match ended {
            Ended::Refused => Ok(false),
            Ended::Broken(error) => Err(error),
        }
    }

    /// Passes the answer on. `None`: the session goes on.
    async fn answered(&mut self, (number, outcome): Outcome) -> Option<Ended> {
        let place = self.pending.binary_search_by_key(&number, |pending| pending.number).ok()?;
        let (answer, ended) = match outcome {
            Ok(result) => {
                self.trouble = Trouble::default();
                (self.appended(&self.pending[place].stream, &result).await, None)
            }
            Err(error) => match self.refusal(&self.pending[place], &error).await {
                Some(refusal) => (Err(refusal), Some(Ended::Refused)),
                None => return Some(Ended::Broken(error)),
            },
        };
        if let Some(pending) = self.pending.remove(place) {
            pending.answer(answer);
        }
        ended
    }

    /// A server may leave out the position of what was there already.
    async fn appended(
        &self,
        stream: &str,
        result: &BatchWriteResult,
    ) -> Result<Appended, AppendError> {
        let revision = match result.current_revision() {
            Some(revision) => revision,
            None => reads::last_revision(&self.pool, stream).await?.unwrap_or(0),
        };
        let position = match result.current_position() {
            Some(position) => position.commit,
            None => reads::position_of(&self.pool, stream, revision).await?,
        };
        Ok(Appended { position, revision })
    }

    /// Why this append, and not the session, has failed.
    async fn refusal(&self, pending: &Pending, error: &Error) -> Option<AppendError> {
        let stream = pending.stream.clone();
        if is_conflict(error) {
            return Some(match reads::last_revision(&self.pool, &stream).await {
                Ok(current) => {
                    AppendError::Conflict { stream, expected: pending.expected, current }
                }
                Err(LogError::Deleted { stream }) => AppendError::Deleted { stream },
                Err(error) => error.into(),
            });
        }
        match error {
            Error::Grpc { code, message }
                if *code as i32 == code::NOT_FOUND && message == "StreamDeleted" =>
            {
                Some(AppendError::Deleted { stream })
            }
            error => last_word(error).map(AppendError::from),
        }
    }
}

/// What has ended a session.
enum Ended {
    /// One append was refused.
    Refused,
    Broken(Error),
}

async fn at(until: Option<Instant>) {
    match until {
        Some(until) => sleep_until(until).await,
        None => std::future::pending().await,
    }
}
