//! A state that follows the log, its own streams too, until it is its turn to write them.
//!
//! Whoever takes over has seen everything before its own election, and then fences: it appends to each
//! stream that the one before could still append to, so that the other expects a revision that is past.
//! What the one before still made of streams that did not exist yet is read like everything else, also
//! later, while the new one leads.
//!
//! Who is deposed follows again from where it stands, unless it had decided what it could not store: that
//! is in its state and in no log, so it must begin anew.

use std::{collections::VecDeque, fmt, time::Duration};

use futures::{StreamExt, future::join_all, stream::ReadyChunks};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
};

use super::{
    Encoded, INBOX, Lease, Origin, Owner, OwnerError, Rules,
    batch::new_event,
    replay::{Replayed, replay},
    task::{Heir, NOTICES, Revisions, Task, is_in},
};
use crate::{
    Expected, Fold, Log, Recorded,
    log::{AppendError, LogError, Subscription},
};

/// Fences that are on their way together.
const FENCES: usize = 4_096;

/// A state that is kept warm.
pub struct Standby<S: Fold, C, E, R> {
    pub(super) log: Log,
    pub(super) rules: Rules<S, C, E, R>,
    pub(super) elections: &'static str,
    pub(super) state: S,
    pub(super) revisions: Revisions,
    /// The last election.
    pub(super) leader: Option<Recorded>,
    pub(super) events: ReadyChunks<Subscription>,
    /// Those that came with the others, in order.
    pub(super) unread: VecDeque<Result<Recorded, LogError>>,
}

/// Who leads.
#[derive(Debug)]
pub struct Led<S: Fold, C, E, R> {
    pub owner: Owner<S, C, E, R>,
    pub task: JoinHandle<Result<(), OwnerError>>,
    /// When another one leads and the task has ended: who follows again, if the state is still good.
    pub deposed: oneshot::Receiver<Standby<S, C, E, R>>,
}

/// What a new leader appends.
#[derive(Debug)]
pub struct Fence<S> {
    /// Every stream that somebody who knows this state may append to, but for those that do not exist.
    pub streams: fn(&S) -> Vec<String>,
    pub event: Encoded,
    pub origin: Origin,
}

impl<S, C, E, R> Standby<S, C, E, R>
where
    S: Fold + Send + 'static,
    S::Event: From<E> + Send,
    C: Send + 'static,
    E: Clone + Send + Sync + 'static,
    R: Send + 'static,
{
    /// Replays the log. `elections` is the stream that says who leads.
    pub async fn start(
        log: Log,
        rules: Rules<S, C, E, R>,
        elections: &'static str,
    ) -> Result<Self, OwnerError> {
        let Replayed { state, revisions, end, .. } = replay(&log, &rules, None).await?;
        // After `end` was read, so none is missed; one that is seen twice is taken once.
        let last = log.read_stream_backward(elections, None, 1).next().await.transpose()?;
        let wanted = [rules.owns, rules.follows, &[elections]].concat();
        let events = log.subscribe(end, &wanted).ready_chunks(NOTICES);
        let unread = VecDeque::new();
        Ok(Self { log, rules, elections, state, revisions, leader: last, events, unread })
    }

    /// The last election that is known; its revision is the term.
    #[must_use]
    pub fn leader(&self) -> Option<&Recorded> {
        self.leader.as_ref()
    }

    #[must_use]
    pub fn state(&self) -> &S {
        &self.state
    }

    /// Follows until another election is known. May be dropped at any time and called again.
    pub async fn follow(&mut self) -> Result<(), OwnerError> {
        let known = self.term();
        while self.term() == known {
            self.step().await?;
        }
        Ok(())
    }

    /// Wins the election if nobody else has since the last one that is known: appends the event to the
    /// stream of elections, and answers with the term.
    pub async fn elect(
        &mut self,
        event: Encoded,
        origin: &Origin,
    ) -> Result<Option<u64>, OwnerError> {
        let expected = self.term().map_or(Expected::None, Expected::Revision);
        let event = new_event(self.elections, event, origin);
        match self.log.append(self.elections, expected, vec![event]).await {
            Ok(appended) => Ok(Some(appended.revision)),
            Err(AppendError::Conflict { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Follows for so long, or until somebody else is elected.
    pub async fn wait(&mut self, lease: &Lease, time: Duration) -> Result<(), OwnerError> {
        let waited = tokio::time::timeout(time, async {
            loop {
                self.step().await?;
                if let Some(seen) = self.term().filter(|seen| *seen > lease.term()) {
                    return lease.check(seen);
                }
            }
        });
        // That the time is over is what was waited for.
        waited.await.unwrap_or(Ok(()))
    }

    /// Starts to write. When this answers, nobody who led before can append to a stream of the fence.
    pub async fn lead(
        mut self,
        mut lease: Lease,
        fence: &Fence<S>,
    ) -> Result<Led<S, C, E, R>, OwnerError> {
        while self.term().is_none_or(|seen| seen < lease.term()) {
            self.step().await?;
        }
        lease.check(self.term().unwrap_or_default())?;
        let mut streams = (fence.streams)(&self.state);
        while !streams.is_empty() {
            streams = self.fence(&mut lease, streams, fence).await?;
        }
        let (inbox, receiver) = mpsc::channel(INBOX);
        let (bump, changes) = watch::channel(0);
        let (to, deposed) = oneshot::channel();
        let Self { log, rules, state, revisions, events, unread, leader, .. } = self;
        let mut task = Task {
            log,
            rules,
            state,
            revisions,
            receiver,
            bump,
            snapshot: None,
            lease: Some(lease),
            is_durable: true,
            unread: VecDeque::new(),
            heir: Some(Heir { leader, to }),
        };
        task.notice(unread)?;
        Ok(Led { owner: Owner { inbox, changes }, task: tokio::spawn(task.run(events)), deposed })
    }

    /// Those to which the one before has appended meanwhile are to be fenced again.
    async fn fence(
        &mut self,
        lease: &mut Lease,
        streams: Vec<String>,
        fence: &Fence<S>,
    ) -> Result<Vec<String>, OwnerError> {
        let mut late = vec![];
        for some in streams.chunks(FENCES) {
            lease.hold().await?;
            let before: Vec<_> = some.iter().map(|stream| self.revisions.get(stream)).collect();
            let appends = some.iter().map(|stream| {
                let event = new_event(stream, fence.event.clone(), &fence.origin);
                self.log.append(stream, self.revisions.advance(stream, 1), vec![event])
            });
            let appends: Vec<_> = appends.collect();
            for ((stream, before), appended) in some.iter().zip(before).zip(join_all(appends).await)
            {
                match (appended, before) {
                    (Ok(_), _) => {}
                    (Err(AppendError::Conflict { .. }), Some(before)) => {
                        self.revisions.set(stream, before);
                        late.push((stream.clone(), before));
                    }
                    (Err(error), _) => return Err(error.into()),
                }
            }
        }
        for (stream, before) in &late {
            while self.revisions.get(stream) == Some(*before) {
                self.step().await?;
            }
        }
        Ok(late.into_iter().map(|(stream, _)| stream).collect())
    }

    fn term(&self) -> Option<u64> {
        self.leader.as_ref().map(|last| last.revision)
    }

    /// Folds the next event. May be dropped while it waits.
    pub(super) async fn step(&mut self) -> Result<(), OwnerError> {
        if self.unread.is_empty() {
            let ended = || LogError::Stopped("the subscription ended".into());
            self.unread.extend(self.events.next().await.ok_or_else(ended)?);
        }
        let Some(recorded) = self.unread.pop_front().transpose()? else { return Ok(()) };
        if *recorded.stream == *self.elections {
            if self.term().is_none_or(|known| known < recorded.revision) {
                self.leader = Some(recorded);
            }
            return Ok(());
        }
        let own = is_in(&recorded.stream, self.rules.owns);
        if own && !self.revisions.learn(&recorded.stream, recorded.revision) {
            return Ok(());
        }
        if let Some(event) = self.rules.decode(&recorded)? {
            self.state.evolve(&event);
        }
        Ok(())
    }
}

impl<S: Fold, C, E, R> fmt::Debug for Standby<S, C, E, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Standby")
    }
}
