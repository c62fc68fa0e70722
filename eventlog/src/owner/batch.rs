//! What one turn of the task appends: as few appends as keep the order of decisions.

use ids::EventId;
use uuid::Uuid;

use super::{Encoded, Origin};
use crate::{Log, Metadata, NewEvent};

/// Events for one stream, in order.
#[derive(Debug)]
pub(super) struct Append {
    pub(super) stream: String,
    pub(super) events: Vec<NewEvent>,
    size: Size,
}

/// What the log limits in one append.
#[derive(Clone, Copy, Debug, Default)]
struct Size {
    events: usize,
    bytes: usize,
}

impl Size {
    fn of(event: &NewEvent) -> Self {
        Self { events: 1, bytes: event.size() }
    }

    fn plus(self, more: Self) -> Self {
        Self { events: self.events + more.events, bytes: self.bytes + more.bytes }
    }

    fn fits(self) -> bool {
        self.events <= Log::MAX_BATCH_EVENTS && self.bytes <= Log::MAX_BATCH_BYTES
    }
}

/// The appends of one turn, in order.
#[derive(Debug, Default)]
pub(super) struct Appends {
    appends: Vec<Append>,
    size: Size,
}

impl Appends {
    pub(super) fn is_empty(&self) -> bool {
        self.appends.is_empty()
    }

    /// Whether it is time to append, so that nobody behind waits for too much.
    pub(super) fn is_full(&self) -> bool {
        !self.size.fits()
    }

    pub(super) fn into_appends(self) -> Vec<Append> {
        self.appends
    }

    /// Takes the events of one command. Those that follow each other in one stream go together, so a
    /// crash keeps all of them or none, unless they alone are more than one append may hold.
    pub(super) fn take(&mut self, events: impl Iterator<Item = (String, NewEvent)>) {
        let before = self.appends.len();
        for (stream, event) in events {
            let size = Size::of(&event);
            self.size = self.size.plus(size);
            match self.appends[before..].last_mut() {
                Some(last) if last.has_room(&stream, size) => last.push(event, size),
                _ => self.appends.push(Append { stream, events: vec![event], size }),
            }
        }
        self.join(before);
    }

    /// Puts the append at `at` into the one before it, if they fit together.
    fn join(&mut self, at: usize) {
        let (earlier, later) = self.appends.split_at_mut(at);
        if let (Some(last), Some(next)) = (earlier.last_mut(), later.first_mut())
            && last.has_room(&next.stream, next.size)
        {
            last.size = last.size.plus(next.size);
            last.events.append(&mut next.events);
            self.appends.remove(at);
        }
    }
}

impl Append {
    fn has_room(&self, stream: &str, more: Size) -> bool {
        self.stream == stream && self.size.plus(more).fits()
    }

    fn push(&mut self, event: NewEvent, size: Size) {
        self.events.push(event);
        self.size = self.size.plus(size);
    }
}

/// The event as the log takes it.
pub(super) fn new_event(stream: &str, encoded: Encoded, origin: &Origin) -> NewEvent {
    #[expect(clippy::disallowed_methods, reason = "the edge where events get their ids")]
    let id = EventId::from_uuid(Uuid::now_v7());
    NewEvent::new(
        id,
        encoded.event_type,
        encoded.data,
        &Metadata {
            version: encoded.version,
            actor: origin.actor.clone(),
            address: origin.address.clone(),
            certificate: origin.certificate.clone(),
            correlation_id: stream.to_owned(),
            ..Metadata::default()
        },
    )
}
