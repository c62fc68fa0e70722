//! Where the events of one segment are, in memory: of the newest, and of one that was just sealed until
//! its index file is there.

use std::{collections::HashMap, sync::Arc};

use super::{IdDigest, Place, Run, Span};
use crate::embedded::segment::Segment;

#[derive(Debug, Default)]
pub(in crate::embedded) struct Fresh {
    /// Where each record starts.
    offsets: Vec<u32>,
    /// Where the last record ends.
    end: u32,
    ids: Vec<IdDigest>,
    streams: HashMap<Box<str>, Records>,
    /// What says something about a stream, and counts: of each stream the newest event that does, and
    /// the newest tombstone.
    notes: HashMap<(Box<str>, bool), u32>,
}

#[derive(Debug)]
struct Records {
    /// Revision of the first of them.
    first: u64,
    /// Their numbers in the segment.
    numbers: Vec<u32>,
}

/// One append's share of a segment.
#[derive(Clone, Copy, Debug)]
pub(in crate::embedded) struct Batch<'a> {
    pub(in crate::embedded) stream: &'a str,
    /// Revision of its first event.
    pub(in crate::embedded) revision: u64,
    /// Where each of its records starts.
    pub(in crate::embedded) offsets: &'a [u32],
    pub(in crate::embedded) ids: &'a [IdDigest],
    /// Where the last one ends.
    pub(in crate::embedded) end: u32,
}

impl Fresh {
    pub(in crate::embedded) fn push(&mut self, batch: Batch<'_>) {
        let next = self.offsets.len() as u32;
        let numbers = next..next + batch.offsets.len() as u32;
        if let Some(records) = self.streams.get_mut(batch.stream) {
            records.numbers.extend(numbers);
        } else {
            let records = Records { first: batch.revision, numbers: numbers.collect() };
            self.streams.insert(batch.stream.into(), records);
        }
        self.offsets.extend_from_slice(batch.offsets);
        self.ids.extend_from_slice(batch.ids);
        self.end = batch.end;
    }

    /// Remembers that an event says something about a stream: the `ahead`-th of those pushed next.
    pub(in crate::embedded) fn note(&mut self, stream: &str, is_tombstone: bool, ahead: usize) {
        let number = (self.offsets.len() + ahead) as u32;
        self.notes.insert((stream.into(), is_tombstone), number);
    }

    /// The revision that comes next in a stream that has events here.
    pub(in crate::embedded) fn next_revision(&self, stream: &str) -> Option<u64> {
        self.find(stream).map(Run::end)
    }

    /// As [`Fresh::notes`], in the segment that this is of.
    pub(in crate::embedded) fn note_spans(&self, segment: &Arc<Segment>) -> Vec<Span> {
        self.notes().into_iter().map(|place| place.in_segment(segment)).collect()
    }

    pub(in crate::embedded) fn count(&self) -> usize {
        self.offsets.len()
    }

    pub(super) fn offsets(&self) -> &[u32] {
        &self.offsets
    }

    pub(in crate::embedded) fn ids(&self) -> &[IdDigest] {
        &self.ids
    }

    pub(super) fn end(&self) -> u32 {
        self.end
    }

    pub(super) fn find(&self, stream: &str) -> Option<Run> {
        let records = self.streams.get(stream)?;
        Some(Run { first: records.first, count: records.numbers.len() as u64 })
    }

    /// Each stream with where its events are.
    pub(super) fn streams(
        &self,
    ) -> impl ExactSizeIterator<Item = (&str, Run, impl Iterator<Item = Place>)> {
        self.streams.iter().map(|(stream, records)| {
            let run = Run { first: records.first, count: records.numbers.len() as u64 };
            (&**stream, run, records.numbers.iter().map(|number| self.place(*number)))
        })
    }

    /// Places of the stream's events from the `skip`-th here on, at most `limit`.
    pub(super) fn places(&self, stream: &str, skip: u64, limit: usize) -> Vec<Place> {
        let numbers = self.streams.get(stream).map_or(&[][..], |records| &records.numbers);
        let skip = usize::try_from(skip).unwrap_or(usize::MAX);
        numbers.iter().skip(skip).take(limit).map(|number| self.place(*number)).collect()
    }

    /// Of what says something about a stream, in the log's order.
    pub(super) fn notes(&self) -> Vec<Place> {
        let mut numbers: Vec<_> = self.notes.values().copied().collect();
        numbers.sort_unstable();
        numbers.into_iter().map(|number| self.place(number)).collect()
    }

    fn place(&self, number: u32) -> Place {
        let offset = self.offsets[number as usize];
        let end = self.offsets.get(number as usize + 1).copied().unwrap_or(self.end);
        Place { offset, length: end - offset }
    }
}
