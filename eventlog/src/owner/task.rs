//! The task itself: decide, append, wait, answer.

use std::{
    collections::{HashMap, VecDeque, hash_map::RandomState},
    hash::{BuildHasher, DefaultHasher, Hash, Hasher},
    iter,
    path::PathBuf,
};

use futures::{StreamExt, future, stream::ReadyChunks};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::sleep,
};

use super::{
    INBOX, Input, Lease, OwnerError, Read, Reply, Rules, Standby,
    batch::{Append, Appends, new_event},
};
use crate::{
    Expected, Fold, Log, Recorded,
    log::{AppendError, LogError, Subscription},
    snapshot,
};

/// Foreign events that are folded in one turn at most, so that commands get theirs.
pub(super) const NOTICES: usize = 256;

pub(super) struct Task<S: Fold, C, E, R> {
    pub(super) log: Log,
    pub(super) rules: Rules<S, C, E, R>,
    pub(super) state: S,
    pub(super) revisions: Revisions,
    pub(super) receiver: mpsc::Receiver<Input<S, C, E, R>>,
    pub(super) bump: watch::Sender<u64>,
    /// What the start may have gone on from.
    pub(super) snapshot: Option<PathBuf>,
    /// `None`: nobody else can write these streams.
    pub(super) lease: Option<Lease>,
    /// What was decided is durable, so the state is what the log says.
    pub(super) is_durable: bool,
    /// Events that came and were not looked at, since the first of them deposed this one.
    pub(super) unread: VecDeque<Result<Recorded, LogError>>,
    /// Where a state that is still good goes when another process leads.
    pub(super) heir: Option<Heir<S, C, E, R>>,
}

pub(super) struct Heir<S: Fold, C, E, R> {
    /// The election by which this process leads.
    pub(super) leader: Option<Recorded>,
    pub(super) to: oneshot::Sender<Standby<S, C, E, R>>,
}

/// What one turn will do once its events are durable.
struct Turn<S: Fold, E, R> {
    appends: Appends,
    answers: Vec<Answer<E, R>>,
    reads: Vec<Read<S>>,
}

/// A command's outcome, and where it goes.
type Answer<E, R> = (Reply<E, R>, Result<Vec<E>, R>);

impl<S: Fold, E, R> Default for Turn<S, E, R> {
    fn default() -> Self {
        Self { appends: Appends::default(), answers: Vec::new(), reads: Vec::new() }
    }
}

impl<S, C, E, R> Task<S, C, E, R>
where
    S: Fold,
    S::Event: From<E>,
    E: Clone,
{
    pub(super) async fn run(
        mut self,
        mut foreign: ReadyChunks<Subscription>,
    ) -> Result<(), OwnerError> {
        let ended = self.work(&mut foreign).await;
        if let Err(OwnerError::Deposed { .. }) = &ended {
            self.follow_on(foreign);
        }
        ended
    }

    /// What was decided and not stored stays in the state for ever, so only one without goes on.
    fn follow_on(self, events: ReadyChunks<Subscription>) {
        let Self { log, rules, state, revisions, lease, is_durable, unread, heir, .. } = self;
        if let (Some(lease), Some(Heir { leader, to }), true) = (lease, heir, is_durable) {
            let elections = lease.stream();
            // Nobody may wait for it.
            to.send(Standby { log, rules, elections, state, revisions, leader, events, unread })
                .ok();
        }
    }

    async fn work(&mut self, foreign: &mut ReadyChunks<Subscription>) -> Result<(), OwnerError> {
        let mut inputs = Vec::new();
        let pace = self.lease.as_ref().map(Lease::pace);
        loop {
            let look = async {
                match pace {
                    Some(pace) => sleep(pace).await,
                    None => future::pending().await,
                }
            };
            tokio::select! {
                taken = self.receiver.recv_many(&mut inputs, INBOX) => {
                    if taken == 0 {
                        return Ok(());
                    }
                    self.handle(inputs.drain(..)).await?;
                }
                noticed = foreign.next() => match noticed {
                    Some(events) => self.notice(events)?,
                    None => return Err(LogError::Stopped("the subscription ended".into()).into()),
                },
                () = look => if let Some(lease) = &mut self.lease {
                    lease.confirm().await?;
                },
            }
        }
    }

    pub(super) fn notice(
        &mut self,
        events: impl IntoIterator<Item = Result<Recorded, LogError>>,
    ) -> Result<(), OwnerError> {
        let (mut changed, mut events) = (false, events.into_iter());
        while let Some(recorded) = events.next() {
            let recorded = recorded?;
            if let Some(lease) = self.lease.as_ref().filter(|lease| lease.is_of(&recorded.stream)) {
                // Older ones are known; this process would not lead otherwise.
                if let Err(deposed) = lease.check(recorded.revision.max(lease.term())) {
                    self.unread = iter::once(Ok(recorded)).chain(events).collect();
                    return Err(deposed);
                }
                continue;
            }
            // Own streams come only to one who leads, and hold little that it has not written itself.
            let own = is_in(&recorded.stream, self.rules.owns);
            if own && !self.revisions.learn(&recorded.stream, recorded.revision) {
                continue;
            }
            if let Some(event) = self.rules.decode(&recorded)? {
                self.state.evolve(&event);
                changed = true;
            }
        }
        if changed {
            self.changed();
        }
        Ok(())
    }

    async fn handle(
        &mut self,
        inputs: impl Iterator<Item = Input<S, C, E, R>>,
    ) -> Result<(), OwnerError> {
        let mut turn = Turn::default();
        // Not even a look at the state is answered without.
        if let Some(lease) = &mut self.lease {
            lease.hold().await?;
        }
        for input in inputs {
            match input {
                Input::Command { command, origin, reply } => {
                    let answer = (self.rules.decide)(&self.state, command);
                    let Rules { stream, encode, .. } = self.rules;
                    turn.appends.take(answer.iter().flatten().map(|event| {
                        let name = stream(event);
                        let new = new_event(&name, encode(event), &origin);
                        (name, new)
                    }));
                    for event in answer.iter().flatten() {
                        self.is_durable = false;
                        self.state.evolve(&event.clone().into());
                    }
                    turn.answers.push((reply, answer));
                }
                // All of the state is durable: no need to wait for what comes behind.
                Input::Read(read) if turn.appends.is_empty() => read(&self.state),
                Input::Read(read) => turn.reads.push(read),
            }
            if turn.appends.is_full() {
                self.finish(std::mem::take(&mut turn)).await?;
            }
        }
        self.finish(turn).await
    }

    async fn finish(&mut self, turn: Turn<S, E, R>) -> Result<(), OwnerError> {
        if !turn.appends.is_empty() {
            if let Some(lease) = &mut self.lease {
                lease.hold().await?;
            }
            self.append(turn.appends.into_appends()).await?;
            self.is_durable = true;
            self.changed();
        }
        for (reply, answer) in turn.answers {
            // The caller may have gone away.
            reply.send(answer).ok();
        }
        for read in turn.reads {
            read(&self.state);
        }
        Ok(())
    }

    fn changed(&self) {
        self.bump.send_modify(|count| *count += 1);
    }

    /// All appends are on their way before the first is waited for, so they share one sync; the log
    /// keeps their order.
    async fn append(&mut self, appends: Vec<Append>) -> Result<(), OwnerError> {
        let waiting: Vec<_> = appends
            .into_iter()
            .map(|Append { stream, events, .. }| {
                let expected = self.revisions.advance(&stream, events.len() as u64);
                self.log.append(stream, expected, events)
            })
            .collect();
        let appended = future::try_join_all(waiting).await;
        if let (Err(AppendError::Conflict { .. }), Some(snapshot)) = (&appended, &self.snapshot) {
            // Nobody else writes to these streams, so the revisions were wrong.
            snapshot::remove(snapshot);
        }
        appended?;
        Ok(())
    }
}

/// The last revision of each stream that this task writes. By a hash of the name, since there are
/// as many streams as there ever were runs; should two names share one, the append conflicts, and the
/// next start hashes differently.
#[derive(Debug)]
pub(crate) struct Revisions {
    seed: u64,
    last: HashMap<u64, u64>,
}

impl Default for Revisions {
    fn default() -> Self {
        Self { seed: RandomState::new().hash_one(0), last: HashMap::new() }
    }
}

impl Revisions {
    pub(crate) fn restored(seed: u64, last: HashMap<u64, u64>) -> Self {
        Self { seed, last }
    }

    /// The seed, and the last revision by the hash of the name.
    pub(crate) fn stored(&self) -> (u64, &HashMap<u64, u64>) {
        (self.seed, &self.last)
    }

    fn key(&self, stream: &str) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.seed, stream).hash(&mut hasher);
        hasher.finish()
    }

    pub(super) fn set(&mut self, stream: &str, revision: u64) {
        self.last.insert(self.key(stream), revision);
    }

    pub(super) fn get(&self, stream: &str) -> Option<u64> {
        self.last.get(&self.key(stream)).copied()
    }

    /// Whether that is news.
    pub(super) fn learn(&mut self, stream: &str, revision: u64) -> bool {
        let news = self.get(stream).is_none_or(|known| known < revision);
        if news {
            self.set(stream, revision);
        }
        news
    }

    /// What to expect of the stream before `count` events are appended to it.
    pub(super) fn advance(&mut self, stream: &str, count: u64) -> Expected {
        use std::collections::hash_map::Entry;
        match self.last.entry(self.key(stream)) {
            Entry::Vacant(entry) => {
                entry.insert(count - 1);
                Expected::None
            }
            Entry::Occupied(mut entry) => {
                let before = *entry.get();
                entry.insert(before + count);
                Expected::Revision(before)
            }
        }
    }
}

pub(super) fn is_in(stream: &str, prefixes: &[&str]) -> bool {
    prefixes.iter().any(|prefix| stream.starts_with(prefix))
}
