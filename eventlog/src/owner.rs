//! The one task that owns a service's state, and is the only writer of its streams.
//!
//! Every service has the same shell around its own `decide` and `evolve`, and the order of its steps
//! is what makes the service safe, so the shell is written once:
//!
//! 1. take what waits in the inbox;
//! 2. decide each command against the state, evolving as it goes;
//! 3. append all events of the batch, and wait until they are durable;
//! 4. only then answer the callers, look at the state for readers, and wake those who act on it.
//!
//! Where two processes share the streams, one leads, by a [`Lease`], and the other is a [`Standby`].
//!
//! Nothing is believed before it is durable: a failed append stops the task for good, and with it the
//! process. A restart replays what was stored. Own events stand in the log in the order in which they
//! were decided, whatever their streams, so a replay folds them as the living state did.
//!
//! What is not here: effects (derived from the state by each service's `effects.rs`), read models,
//! any knowledge of what a command means.

mod batch;
mod lease;
mod past;
mod replay;
mod standby;
mod task;
#[cfg(test)]
mod tests;

use std::{collections::VecDeque, fmt};

use futures::{StreamExt, stream};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
};

use crate::{
    Fold, Log, Recorded,
    log::{AppendError, LogError},
    snapshot::Snapshots,
};
pub use lease::{Lease, Moment};
pub use past::Past;
use replay::{Replayed, replay};
pub use standby::{Fence, Led, Standby};
pub(crate) use task::Revisions;
use task::{NOTICES, Task};

/// How a domain meets the log. `S` is the state, `C` its commands, `E` the events that it decides
/// and owns, `R` its refusals. `S::Event` may be wider than `E`: it also holds the few facts of other
/// services that the state folds.
#[derive(Debug)]
pub struct Rules<S: Fold, C, E, R> {
    /// Streams that this service alone writes, by prefix.
    pub owns: &'static [&'static str],
    /// Streams of other services that the state folds, by prefix. A foreign fact is folded when it
    /// comes to notice, which may be after own events that stand behind it in the log; a replay folds
    /// it before them. So the two must give the same state in either order.
    pub follows: &'static [&'static str],
    pub decide: fn(&S, C) -> Result<Vec<E>, R>,
    /// The stream that an event belongs to.
    pub stream: fn(&E) -> String,
    pub encode: fn(&E) -> Encoded,
    /// `None`: an event that this state does not need.
    pub decode: fn(&Recorded) -> Result<Option<S::Event>, DecodeError>,
}

impl<S: Fold, C, E, R> Rules<S, C, E, R> {
    fn decode(&self, recorded: &Recorded) -> Result<Option<S::Event>, DecodeError> {
        known(self.decode, recorded)
    }
}

/// What a state folds of an event. Those of the log itself, such as tombstones, are for nobody.
fn known<E>(
    decode: fn(&Recorded) -> Result<Option<E>, DecodeError>,
    recorded: &Recorded,
) -> Result<Option<E>, DecodeError> {
    if recorded.event.event_type.starts_with('$') {
        return Ok(None);
    }
    decode(recorded)
}

/// The stored form of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    pub event_type: &'static str,
    /// From 1.
    pub version: u32,
    pub data: Vec<u8>,
}

/// The newest version of a type of event that this program knows; `None`: it does not know the type.
#[must_use]
pub fn newest_version(event_type: &str) -> Option<u32> {
    let found = proto::EVENTS.binary_search_by_key(&event_type, |(known, _)| known);
    found.ok().map(|at| proto::EVENTS[at].1)
}

/// Refuses a known type in a version that only a newer program can read. An unknown type is let
/// through: whoever does not know it does not need it.
pub fn check_version(recorded: &Recorded) -> Result<(), DecodeError> {
    let version = recorded.event.version();
    // Every known type has a first version, which most events are.
    if version <= 1 {
        return Ok(());
    }
    match newest_version(&recorded.event.event_type) {
        Some(newest) if version > newest => Err(DecodeError::new(
            recorded,
            format!("it has version {version}, and this program reads versions up to {newest}"),
        )),
        _ => Ok(()),
    }
}

/// The log holds something that this program cannot read: written by a newer one, or damaged.
#[derive(Debug, thiserror::Error)]
#[error(
    "decode event {position} ({event_type} in `{stream}`): {why}; if a newer version wrote this log, start that version"
)]
pub struct DecodeError {
    pub position: u64,
    pub stream: String,
    pub event_type: String,
    pub why: String,
}

impl DecodeError {
    #[must_use]
    pub fn new(recorded: &Recorded, why: impl fmt::Display) -> Self {
        Self {
            position: recorded.position,
            stream: recorded.stream.to_string(),
            event_type: recorded.event.event_type.to_string(),
            why: why.to_string(),
        }
    }
}

/// Who asks, for the audit trail; stored beside every event that follows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// `user:<name>`, `worker:<id>` or `service:<name>`; of one who joined, `token:<id>` or
    /// `secret:registration`; of a remote start, `trigger:<pipeline>`.
    pub actor: String,
    /// Address and port.
    pub address: String,
    /// Serial number of the certificate, in hex.
    pub certificate: String,
}

impl Origin {
    /// What a service does by itself.
    #[must_use]
    pub fn service(name: &str) -> Self {
        Self { actor: format!("service:{name}"), ..Self::default() }
    }
}

impl From<Option<proto::common::v1::Caller>> for Origin {
    fn from(caller: Option<proto::common::v1::Caller>) -> Self {
        let caller = caller.unwrap_or_default();
        Self { actor: caller.name, address: caller.address, certificate: caller.certificate }
    }
}

/// The service has stopped; what was asked may or may not have been done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this service has stopped")]
pub struct Stopped;

/// Why the task ended.
#[derive(Debug, thiserror::Error)]
pub enum OwnerError {
    #[error(transparent)]
    Append(#[from] AppendError),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// Another process leads; this one has appended nothing since.
    #[error("this process led in term {term}, and another one was elected for term {by}")]
    Deposed { term: u64, by: u64 },
}

impl OwnerError {
    /// Whether somebody else writes these streams now, so that this process must not, and all is well.
    #[must_use]
    pub fn is_loss_of_leadership(&self) -> bool {
        matches!(self, Self::Deposed { .. } | Self::Append(AppendError::Conflict { .. }))
    }
}

/// A handle to the task; cheap to clone. The task ends when the last handle is gone.
pub struct Owner<S: Fold, C, E, R> {
    inbox: mpsc::Sender<Input<S, C, E, R>>,
    changes: watch::Receiver<u64>,
}

enum Input<S: Fold, C, E, R> {
    Command { command: C, origin: Origin, reply: Reply<E, R> },
    Read(Read<S>),
}

type Reply<E, R> = oneshot::Sender<Result<Vec<E>, R>>;
type Read<S> = Box<dyn FnOnce(&S) + Send>;

/// How many inputs wait at most before a caller waits too.
const INBOX: usize = 1_024;

impl<S, C, E, R> Owner<S, C, E, R>
where
    S: Fold + Send + 'static,
    S::Event: From<E> + Send,
    C: Send + 'static,
    E: Clone + Send + Sync + 'static,
    R: Send + 'static,
{
    /// Replays the log and starts the task.
    pub async fn start(
        log: Log,
        rules: Rules<S, C, E, R>,
    ) -> Result<(Self, JoinHandle<Result<(), OwnerError>>), OwnerError> {
        Self::begin(log, rules, None).await
    }

    /// Like [`Owner::start`], but goes on from the newest snapshot, and saves one when that is due.
    pub async fn start_from(
        log: Log,
        rules: Rules<S, C, E, R>,
        snapshots: Snapshots<S>,
    ) -> Result<(Self, JoinHandle<Result<(), OwnerError>>), OwnerError> {
        Self::begin(log, rules, Some(snapshots)).await
    }

    async fn begin(
        log: Log,
        rules: Rules<S, C, E, R>,
        snapshots: Option<Snapshots<S>>,
    ) -> Result<(Self, JoinHandle<Result<(), OwnerError>>), OwnerError> {
        let Replayed { state, revisions, end } = replay(&log, &rules, snapshots.as_ref()).await?;
        let (inbox, receiver) = mpsc::channel(INBOX);
        let (bump, changes) = watch::channel(0);
        let foreign = match rules.follows {
            [] => stream::pending().boxed(),
            follows => log.subscribe(end, follows),
        };
        let foreign = foreign.ready_chunks(NOTICES);
        let snapshot = snapshots.map(|snapshots| snapshots.file());
        let task = Task {
            log,
            rules,
            state,
            revisions,
            receiver,
            bump,
            snapshot,
            lease: None,
            is_durable: true,
            unread: VecDeque::new(),
            heir: None,
        };
        Ok((Self { inbox, changes }, tokio::spawn(task.run(foreign))))
    }

    /// The events that followed from the command, once they are durable. Empty: it was already so.
    pub async fn ask(&self, command: C, origin: Origin) -> Result<Result<Vec<E>, R>, Stopped> {
        let (reply, answer) = oneshot::channel();
        self.inbox.send(Input::Command { command, origin, reply }).await.map_err(|_| Stopped)?;
        answer.await.map_err(|_| Stopped)
    }

    /// Looks at the state. Sees everything that was answered before the call, and nothing that is
    /// not durable. Keep it short: the task waits for it.
    pub async fn read<T: Send + 'static>(
        &self,
        look: impl FnOnce(&S) -> T + Send + 'static,
    ) -> Result<T, Stopped> {
        let (reply, answer) = oneshot::channel();
        let read = Box::new(move |state: &S| {
            // The reader may have gone away.
            reply.send(look(state)).ok();
        });
        self.inbox.send(Input::Read(read)).await.map_err(|_| Stopped)?;
        answer.await.map_err(|_| Stopped)
    }

    /// Changes value after every change of the state.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.clone()
    }
}

impl<S: Fold, C, E, R> Clone for Owner<S, C, E, R> {
    fn clone(&self) -> Self {
        Self { inbox: self.inbox.clone(), changes: self.changes.clone() }
    }
}

impl<S: Fold, C, E, R> fmt::Debug for Owner<S, C, E, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Owner")
    }
}
