//! Subscriptions: confirmed, then what is stored, then "caught up", then what comes.
//!
//! Both parts begin where the other ends, so nothing is missed and nothing comes twice. A filtered
//! subscription gets a checkpoint after every so many events that were looked at, so that a client
//! whose events are rare can begin again where it was.

use futures::{
    StreamExt, TryStreamExt,
    future::ready,
    stream::{self, BoxStream},
};
use proto::event_store::client::streams::read_resp::{
    CaughtUp, Checkpoint, Content, Position, SubscriptionConfirmation,
};
use tonic::Status;
use uuid::Uuid;

use super::{
    filter::EventFilter,
    names,
    read::{Answers, Form, From, answer, last},
    refusal::deleted,
};
use crate::{Clock, Filter, event::Recorded, log::Log, retention::TOMBSTONE_TYPE};

/// What is followed, and from where: a subscription begins after it.
pub(super) enum Origin {
    Stream { stream: String, from: From },
    All { from: From, filter: Option<EventFilter> },
}

type Contents = BoxStream<'static, Result<Content, Status>>;

pub(super) fn answers(log: Log, clock: Clock, origin: Origin, form: Form) -> Answers {
    let id = Uuid::from_bytes(identity::random()).to_string();
    let confirmation = Content::Confirmation(SubscriptionConfirmation { subscription_id: id });
    let events = stream::once(async move {
        match origin {
            Origin::Stream { stream, from } => follow_stream(log, clock, stream, from, form).await,
            Origin::All { from, filter } => follow_all(log, clock, from, filter, form).await,
        }
    });
    stream::once(ready(Ok(confirmation))).chain(events.try_flatten()).map_ok(answer).boxed()
}

async fn follow_all(
    log: Log,
    clock: Clock,
    from: From,
    filter: Option<EventFilter>,
    form: Form,
) -> Result<Contents, Status> {
    let end = log.next_position().await?;
    let begin = match from {
        From::Start => 0,
        From::End => end,
        From::At(position) => position.saturating_add(1),
    };
    let looked = Looked { filter, form, clock: clock.clone(), since_checkpoint: 0 };
    let (stored, coming) = if begin < end {
        let stored = log.read_all(begin, Filter::default());
        let stored = stored.try_take_while(move |event| ready(Ok(event.position < end)));
        (stored.boxed(), log.subscribe(end, Filter::default()))
    } else {
        (stream::empty().boxed(), log.subscribe(begin, Filter::default()))
    };
    let mut caught_up = looked.checkpoint(end.checked_sub(1)).into_iter().collect::<Vec<_>>();
    let at = end.checked_sub(1).map(both);
    caught_up.push(Content::CaughtUp(CaughtUp {
        timestamp: Some(names::timestamp(clock.now())),
        stream_revision: None,
        position: at,
    }));
    let caught_up = stream::iter(caught_up.into_iter().map(Ok));
    let stored = looked.clone().wanted(stored);
    Ok(stored.chain(caught_up).chain(looked.wanted(coming)).boxed())
}

/// What becomes of events that are looked at.
#[derive(Clone)]
struct Looked {
    filter: Option<EventFilter>,
    form: Form,
    clock: Clock,
    since_checkpoint: u64,
}

impl Looked {
    fn wanted(mut self, events: BoxStream<'static, Result<Recorded, crate::LogError>>) -> Contents {
        let contents = events.map_err(Status::from).map(move |event| {
            let contents = event.and_then(|event| self.look(event));
            match contents {
                Ok(contents) => stream::iter(contents.into_iter().flatten().map(Ok)).left_stream(),
                Err(status) => stream::once(ready(Err(status))).right_stream(),
            }
        });
        contents.flatten().boxed()
    }

    /// The event if it is wanted, and a checkpoint if one is due.
    fn look(&mut self, event: Recorded) -> Result<[Option<Content>; 2], Status> {
        let Some(filter) = &self.filter else {
            return Ok([Some(self.form.event(event)), None]);
        };
        let position = event.position;
        let wanted = filter.matches(&event)?.then(|| self.form.event(event));
        self.since_checkpoint += 1;
        if self.since_checkpoint < filter.interval {
            return Ok([wanted, None]);
        }
        self.since_checkpoint = 0;
        Ok([wanted, self.checkpoint(Some(position))])
    }

    fn checkpoint(&self, position: Option<u64>) -> Option<Content> {
        let (Some(_), Some(position)) = (&self.filter, position) else { return None };
        Some(Content::Checkpoint(Checkpoint {
            commit_position: position,
            prepare_position: position,
            timestamp: Some(names::timestamp(self.clock.now())),
        }))
    }
}

async fn follow_stream(
    log: Log,
    clock: Clock,
    stream: String,
    from: From,
    form: Form,
) -> Result<Contents, Status> {
    // Before the stream is read, so that what comes while it is read comes again, and is known.
    let end = log.next_position().await?;
    let seen = match from {
        From::Start => None,
        From::At(revision) => Some(revision),
        From::End => last(&log, &stream).await?,
    };
    let begin = seen.map_or(0, |revision| revision.saturating_add(1));
    let stored = log.read_stream(stream.as_str(), begin, usize::MAX);
    let following = Following { log, clock, stream, form, end, seen };
    // First what is stored; where that ends, the rest is known to begin.
    let contents =
        stream::unfold((Some(stored), following), |(stored, mut following)| async move {
            let mut stored = stored?;
            match stored.next().await {
                Some(Ok(event)) => {
                    following.seen = Some(event.revision);
                    let content = Ok(following.form.event(event));
                    Some((stream::once(ready(content)).boxed(), (Some(stored), following)))
                }
                Some(Err(error)) => {
                    let failed = stream::once(ready(Err(error.into()))).boxed();
                    Some((failed, (None, following)))
                }
                None => Some((following.clone().coming(), (None, following))),
            }
        });
    Ok(contents.flatten().boxed())
}

#[derive(Clone)]
struct Following {
    log: Log,
    clock: Clock,
    stream: String,
    form: Form,
    end: u64,
    /// Revision of the last event that was shown.
    seen: Option<u64>,
}

impl Following {
    /// That all was shown, and then what comes.
    fn coming(self) -> Contents {
        let caught_up = Content::CaughtUp(CaughtUp {
            timestamp: Some(names::timestamp(self.clock.now())),
            stream_revision: self.seen.map(u64::cast_signed),
            position: None,
        });
        let coming = self.log.subscribe(self.end, Filter::streams(&[self.stream.as_str()]));
        let Self { stream, form, seen, .. } = self;
        let coming = coming.map_err(Status::from).try_filter_map(move |event| {
            let new = seen.is_none_or(|seen| event.revision > seen);
            ready(if event.stream != stream || !new {
                Ok(None)
            } else if event.event.event_type == TOMBSTONE_TYPE {
                Err(deleted(&stream))
            } else {
                Ok(Some(form.event(event)))
            })
        });
        stream::once(ready(Ok(caught_up))).chain(coming).boxed()
    }
}

fn both(position: u64) -> Position {
    Position { commit_position: position, prepare_position: position }
}
