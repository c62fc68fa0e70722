//! Where events are: for each position its place in a file, for each stream its positions, for the
//! newest events their ids. In memory, rebuilt at every start.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use ids::EventId;

use super::segment::Segment;
use crate::retention::{Standing, Standings};

/// What readers see: durable events only.
#[derive(Debug, Default)]
pub(super) struct Index {
    segments: Vec<Part>,
    streams: HashMap<Box<str>, Vec<u64>>,
    standings: Standings,
    next_position: u64,
}

/// One segment's share.
#[derive(Debug)]
struct Part {
    segment: Arc<Segment>,
    /// Offset of each record, from the segment's first position on.
    offsets: Vec<u32>,
    /// Where the last record ends.
    end: u32,
}

/// Records that lie together in one file.
#[derive(Clone, Debug)]
pub(super) struct Span {
    pub(super) segment: Arc<Segment>,
    pub(super) offset: u32,
    pub(super) length: usize,
    pub(super) events: u64,
}

impl Index {
    pub(super) fn next_position(&self) -> u64 {
        self.next_position
    }

    pub(super) fn add_segment(&mut self, segment: Arc<Segment>) {
        self.segments.push(Part { segment, offsets: Vec::new(), end: 0 });
    }

    /// Takes the events of one batch: where each starts, and where the last one ends.
    pub(super) fn push(&mut self, stream: &str, offsets: &[u32], end: u32) {
        let positions = self.next_position..self.next_position + offsets.len() as u64;
        self.next_position = positions.end;
        match self.streams.get_mut(stream) {
            Some(places) => places.extend(positions),
            None => drop(self.streams.insert(stream.into(), positions.collect())),
        }
        let part = self.segments.last_mut().expect("events come after their segment");
        part.offsets.extend_from_slice(offsets);
        part.end = end;
    }

    /// Takes what an event says about a stream, before the event itself.
    pub(super) fn note(&mut self, stream: &str, event_type: &str, revision: u64, data: &[u8]) {
        let streams = &self.streams;
        let length_of = |name: &str| streams.get(name).map_or(0, Vec::len) as u64;
        self.standings.note(stream, event_type, revision, data, length_of);
    }

    pub(super) fn standing(&self, stream: &str) -> Standing {
        self.standings.standing(stream, self.length(stream))
    }

    /// How many events the stream has.
    pub(super) fn length(&self, stream: &str) -> u64 {
        self.streams.get(stream).map_or(0, |places| places.len() as u64)
    }

    /// The revision that the event at this position has, if it is one of the stream's.
    pub(super) fn revision(&self, stream: &str, position: u64) -> Option<u64> {
        self.streams.get(stream)?.binary_search(&position).ok().map(|at| at as u64)
    }

    /// Positions of the stream's events from a revision on, at most `limit`.
    pub(super) fn positions(&self, stream: &str, from: u64, limit: usize) -> &[u64] {
        let places = self.streams.get(stream).map_or(&[][..], Vec::as_slice);
        let from = usize::try_from(from).unwrap_or(usize::MAX).min(places.len());
        let to = from.saturating_add(limit).min(places.len());
        &places[from..to]
    }

    /// The events from `from` up to `to` that lie together, at most `bytes`, at least one event.
    /// `None`: there is none.
    pub(super) fn span(&self, from: u64, to: u64, bytes: usize) -> Option<Span> {
        let to = to.min(self.next_position);
        if from >= to {
            return None;
        }
        let at = self.segments.partition_point(|part| part.segment.header.first <= from);
        let part = self.segments.get(at.checked_sub(1)?)?;
        let first = part.segment.header.first;
        let start = (from - first) as usize;
        let last = ((to - first) as usize).min(part.offsets.len());
        let offset = *part.offsets.get(start)?;
        let limit = u64::from(offset) + bytes as u64;
        // The end of a record is the start of the next.
        let fitting = part.offsets[start + 1..last].partition_point(|&at| u64::from(at) <= limit);
        let all_fit = fitting + 1 == last - start && u64::from(part.end_of(last)) <= limit;
        let after = if all_fit { last } else { start + fitting.max(1) };
        let length = (part.end_of(after) - offset) as usize;
        let events = (after - start) as u64;
        Some(Span { segment: Arc::clone(&part.segment), offset, length, events })
    }
}

impl Span {
    pub(super) fn is_followed_by(&self, next: &Self) -> bool {
        Arc::ptr_eq(&self.segment, &next.segment)
            && self.offset as usize + self.length == next.offset as usize
    }

    pub(super) fn extend(&mut self, next: &Self) {
        self.length += next.length;
        self.events += next.events;
    }
}

impl Part {
    /// Where the record before the given one ends.
    fn end_of(&self, next: usize) -> u32 {
        self.offsets.get(next).copied().unwrap_or(self.end)
    }
}

/// The ids of the newest events, so that a retry without an expected revision is recognised.
#[derive(Debug, Default)]
pub(super) struct RecentIds {
    positions: HashMap<EventId, u64>,
    order: VecDeque<(EventId, u64)>,
}

impl RecentIds {
    const MOST: usize = 1 << 17;

    pub(super) fn push(&mut self, id: EventId, position: u64) {
        if self.order.len() == Self::MOST
            && let Some((oldest, at)) = self.order.pop_front()
            && self.positions.get(&oldest) == Some(&at)
        {
            self.positions.remove(&oldest);
        }
        self.positions.insert(id, position);
        self.order.push_back((id, position));
    }

    pub(super) fn position(&self, id: EventId) -> Option<u64> {
        self.positions.get(&id).copied()
    }
}
