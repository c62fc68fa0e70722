//! Reads, of a stream or of the whole log, in both directions; what follows is in `subscribe`.

use futures::{
    StreamExt, TryStreamExt,
    future::ready,
    stream::{self, BoxStream},
};
use proto::event_store::client::{
    Empty,
    streams::{
        ReadReq, ReadResp,
        read_req::{
            Options,
            options::{
                AllOptions, CountOption, FilterOption, ReadDirection, StreamOption, StreamOptions,
                UuidOption, all_options::AllOption, stream_options::RevisionOption,
                uuid_option::Content as IdForm,
            },
        },
        read_resp::{Content, ReadEvent, StreamNotFound, read_event},
    },
};
use tonic::Status;

use super::{
    access::Caller,
    filter::EventFilter,
    names,
    subscribe::{self, Origin},
};
use crate::{
    Filter,
    event::{self, Recorded},
    log::{Log, LogError, Subscription},
};

/// Answers of a call.
pub(super) type Answers = BoxStream<'static, Result<ReadResp, Status>>;

/// How an event is shown.
#[derive(Clone, Copy, Debug)]
pub(super) struct Form {
    structured_ids: bool,
}

/// Where a read begins.
#[derive(Clone, Copy, Debug)]
pub(super) enum From {
    Start,
    End,
    At(u64),
}

impl super::Served {
    pub(super) fn answers(&self, _: &Caller, request: ReadReq) -> Result<Answers, Status> {
        let options = request.options.ok_or_else(|| missing("options"))?;
        let form = form(options.uuid_option.as_ref())?;
        let backwards = match ReadDirection::try_from(options.read_direction) {
            Ok(direction) => direction == ReadDirection::Backwards,
            Err(_) => return Err(missing("a known direction")),
        };
        let filter = match options.filter_option {
            Some(FilterOption::Filter(filter)) => Some(EventFilter::parse(filter)?),
            Some(FilterOption::NoFilter(Empty {})) | None => None,
        };
        let Options { stream_option, count_option, control_option, .. } = options;
        let names_ends = control_option.is_some_and(|control| control.compatibility >= 1);
        match (stream_option.ok_or_else(|| missing("a stream, or all"))?, count_option) {
            (StreamOption::Stream(_), _) if filter.is_some() => {
                Err(Status::invalid_argument("only a read of all can be filtered"))
            }
            (_, Some(CountOption::Subscription(_))) if backwards => {
                Err(Status::invalid_argument("a subscription goes forwards"))
            }
            (StreamOption::Stream(options), Some(CountOption::Count(count))) => {
                let (stream, from) = stream_of(options)?;
                let limit = usize::try_from(count).unwrap_or(usize::MAX);
                Ok(self.stream(stream, from, backwards, limit, form, names_ends))
            }
            (StreamOption::All(options), Some(CountOption::Count(count))) => {
                let limit = usize::try_from(count).unwrap_or(usize::MAX);
                Ok(all(&self.log, all_of(&options)?, backwards, filter, limit, form))
            }
            (StreamOption::Stream(options), Some(CountOption::Subscription(_))) => {
                let (stream, from) = stream_of(options)?;
                Ok(self.subscribed(Origin::Stream { stream, from }, form))
            }
            (StreamOption::All(options), Some(CountOption::Subscription(_))) => {
                let from = all_of(&options)?;
                Ok(self.subscribed(Origin::All { from, filter }, form))
            }
            (_, None) => Err(missing("a count, or subscription")),
        }
    }

    fn subscribed(&self, origin: Origin, form: Form) -> Answers {
        let answers = subscribe::answers(self.log.clone(), self.clock.clone(), origin, form);
        let stopped = self.stop.clone().cancelled_owned();
        let stop = stream::once(ready(Err(super::append::stopping())));
        answers.take_until(stopped).chain(stop).boxed()
    }

    fn stream(
        &self,
        stream: String,
        from: From,
        backwards: bool,
        limit: usize,
        form: Form,
        names_ends: bool,
    ) -> Answers {
        let log = self.log.clone();
        let events = match (from, backwards) {
            (_, true) => log.read_stream_backward(stream.as_str(), backward(from), limit),
            (From::Start, false) => log.read_stream(stream.as_str(), 0, limit),
            (From::End, false) => stream::empty().boxed(),
            (From::At(revision), false) => log.read_stream(stream.as_str(), revision, limit),
        };
        let last = async move {
            let end = last(&log, &stream).await?;
            Ok::<_, Status>(match end {
                Some(revision) if names_ends => Some(Content::LastStreamPosition(revision)),
                Some(_) => None,
                None => Some(Content::StreamNotFound(StreamNotFound {
                    stream_identifier: Some(names::identifier(stream.into_bytes())),
                })),
            })
        };
        // A stream that is not there has no events, so what comes last is all there is.
        let last = stream::once(last).try_filter_map(|content| ready(Ok(content.map(answer))));
        shown(events, form).chain(last).boxed()
    }
}

/// The revision of the stream's last event; `None`: it shows no events.
pub(super) async fn last(log: &Log, stream: &str) -> Result<Option<u64>, LogError> {
    let last = log.read_stream_backward(stream, None, 1).try_next().await?;
    Ok(last.map(|event| event.revision))
}

fn all(
    log: &Log,
    from: From,
    backwards: bool,
    filter: Option<EventFilter>,
    limit: usize,
    form: Form,
) -> Answers {
    let prefixes = filter.as_ref().map_or_else(Filter::default, EventFilter::prefixes);
    let events = match (from, backwards) {
        (From::Start, false) => log.read_all(0, prefixes),
        (From::At(position), false) => log.read_all(position, prefixes),
        (From::End, true) => log.read_all_backward(None, prefixes),
        // Backwards, the protocol means what lies before the position.
        (From::At(position), true) if position > 0 => {
            log.read_all_backward(Some(position - 1), prefixes)
        }
        (From::End, false) | (From::Start | From::At(_), true) => stream::empty().boxed(),
    };
    let Some(filter) = filter else {
        return shown(events.take(limit).boxed(), form);
    };
    let wanted = events.map_err(Status::from).try_filter_map(move |event| {
        ready(filter.matches(&event).map(|matches| matches.then_some(event)))
    });
    wanted.take(limit).map_ok(move |event| answer(form.event(event))).boxed()
}

fn shown(events: Subscription, form: Form) -> Answers {
    events.map_ok(move |event| answer(form.event(event))).map_err(Status::from).boxed()
}

pub(super) fn answer(content: Content) -> ReadResp {
    ReadResp { content: Some(content) }
}

fn missing(what: &str) -> Status {
    Status::invalid_argument(format!("the read does not say what it wants: it lacks {what}"))
}

fn form(option: Option<&UuidOption>) -> Result<Form, Status> {
    let option = option.ok_or_else(|| missing("the form of ids"))?;
    Ok(Form { structured_ids: !matches!(option.content, Some(IdForm::String(Empty {}))) })
}

fn stream_of(options: StreamOptions) -> Result<(String, From), Status> {
    let stream = names::stream_name(options.stream_identifier)?;
    let from = match options.revision_option {
        Some(RevisionOption::Revision(u64::MAX) | RevisionOption::End(Empty {})) => From::End,
        Some(RevisionOption::Revision(revision)) => From::At(revision),
        Some(RevisionOption::Start(Empty {})) => From::Start,
        None => return Err(missing("a revision to begin at")),
    };
    Ok((stream, from))
}

fn all_of(options: &AllOptions) -> Result<From, Status> {
    match &options.all_option {
        Some(AllOption::Position(position)) if position.commit_position == u64::MAX => {
            Ok(From::End)
        }
        Some(AllOption::Position(position)) => Ok(From::At(position.commit_position)),
        Some(AllOption::Start(Empty {})) => Ok(From::Start),
        Some(AllOption::End(Empty {})) => Ok(From::End),
        None => Err(missing("a position to begin at")),
    }
}

fn backward(from: From) -> Option<u64> {
    match from {
        From::Start => Some(0),
        From::End => None,
        From::At(revision) => Some(revision),
    }
}

impl Form {
    pub(super) fn event(self, recorded: Recorded) -> Content {
        let position = recorded.position;
        let id = recorded.event.id.as_uuid();
        let id = if self.structured_ids { names::structured(id) } else { names::text(id) };
        let content_type = match recorded.event.content {
            event::Content::Json => names::JSON,
            event::Content::Binary => names::BINARY,
        };
        let metadata = [
            (names::TYPE, recorded.event.event_type.to_string()),
            (names::CONTENT_TYPE, content_type.to_owned()),
            (names::CREATED, names::ticks(recorded.recorded_at).to_string()),
        ];
        let event = read_event::RecordedEvent {
            id: Some(id),
            stream_identifier: Some(names::identifier(recorded.stream.into_bytes())),
            stream_revision: recorded.revision,
            prepare_position: position,
            commit_position: position,
            metadata: metadata.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
            custom_metadata: recorded.event.metadata,
            data: recorded.event.data,
        };
        Content::Event(ReadEvent {
            event: Some(event),
            link: None,
            position: Some(read_event::Position::CommitPosition(position)),
        })
    }
}
