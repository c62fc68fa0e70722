//! Beside the bytes of a log: for each stretch of them the stream, the jobs, and when it arrived.
//!
//! The bytes stay what they are; these lie in a file beside each segment, as records that each begin
//! with their length. A record is written after its bytes, so what an agent that was killed left without
//! one is told without one, and never with a wrong one.

use std::collections::VecDeque;

use prost::Message;
use proto::logs::v1::{LogSource, LogSpans, LogStream};

use crate::runtime::{Jobs, Stream};

/// Where a stretch came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) stream: LogStream,
    pub(super) jobs: Jobs,
    /// Milliseconds since the epoch.
    pub(super) at: u64,
}

impl Origin {
    pub(super) fn agent(at: u64) -> Self {
        Self { stream: LogStream::Agent, jobs: Jobs::from([]), at }
    }

    pub(super) fn pipeline(stream: Stream, jobs: Jobs, at: u64) -> Self {
        let stream = match stream {
            Stream::Stdout => LogStream::Stdout,
            Stream::Stderr => LogStream::Stderr,
        };
        Self { stream, jobs, at }
    }

    pub(super) fn unknown() -> Self {
        Self { stream: LogStream::Unspecified, jobs: Jobs::from([]), at: 0 }
    }

    /// Of a line that began earlier: it is of the jobs of then or of now.
    pub(super) fn since(mut self, earlier: Option<Self>) -> Self {
        if let Some(earlier) = earlier
            && earlier.jobs != self.jobs
        {
            let more = earlier.jobs.iter().filter(|job| !self.jobs.contains(job));
            self.jobs = self.jobs.iter().chain(more).copied().collect();
        }
        self
    }
}

/// Stretches that follow each other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Spans(VecDeque<(u64, Origin)>);

impl Spans {
    pub(super) fn one(length: usize, origin: Origin) -> Self {
        let mut spans = Self::default();
        spans.push(length as u64, origin);
        spans
    }

    pub(super) fn push(&mut self, length: u64, origin: Origin) {
        match self.0.back_mut() {
            _ if length == 0 => {}
            Some((last, same)) if *same == origin => *last += length,
            _ => self.0.push_back((length, origin)),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn length(&self) -> u64 {
        self.0.iter().map(|(length, _)| length).sum()
    }

    /// Takes the first bytes of them away.
    pub(super) fn take(&mut self, mut length: u64) -> Self {
        let mut taken = Self::default();
        while length > 0
            && let Some((first, origin)) = self.0.pop_front()
        {
            let part = first.min(length);
            length -= part;
            if part < first {
                self.0.push_front((first - part, origin.clone()));
            }
            taken.push(part, origin);
        }
        taken
    }

    /// The first of them, so few that they and their `offset` take about `most` bytes at most.
    pub(super) fn take_small(&mut self, most: usize) -> Self {
        // A length of three bytes, a delay of one or two, an index.
        let count = self.0.len().min(most / 6);
        let mut size = 0;
        let mut taken = VecDeque::new();
        let mut last: Option<Jobs> = None;
        for _ in 0..count {
            let Some((length, origin)) = self.0.pop_front() else { break };
            if last.as_ref() != Some(&origin.jobs) {
                size += 8 + 5 * origin.jobs.len();
                last = Some(Jobs::clone(&origin.jobs));
            }
            size += 6;
            taken.push_back((length, origin));
            if size > most {
                break;
            }
        }
        Self(taken)
    }

    pub(super) fn append(&mut self, more: Self) {
        for (length, origin) in more.0 {
            self.push(length, origin);
        }
    }

    pub(super) fn encode(&self, offset: u64) -> LogSpans {
        let first = self.0.front().map_or(0, |(_, origin)| origin.at);
        let mut spans = LogSpans { offset, at: first, ..LogSpans::default() };
        let mut before = first;
        for (length, origin) in &self.0 {
            let source = LogSource { stream: origin.stream.into(), jobs: origin.jobs.to_vec() };
            let known = spans.sources.iter().rposition(|known| *known == source);
            let index = known.unwrap_or_else(|| {
                spans.sources.push(source);
                spans.sources.len() - 1
            });
            spans.lengths.push(*length);
            spans.delays.push(origin.at.wrapping_sub(before) as i64);
            spans.origins.push(index as u32);
            before = origin.at;
        }
        spans
    }

    /// What [`Spans::encode`] made.
    fn decode(spans: &LogSpans) -> Self {
        let mut decoded = Self::default();
        let mut at = spans.at;
        let columns = spans.lengths.iter().zip(&spans.delays).zip(&spans.origins);
        for ((length, delay), origin) in columns {
            at = at.wrapping_add_signed(*delay);
            let source = spans.sources.get(*origin as usize).cloned().unwrap_or_default();
            let (stream, jobs) = (source.stream(), source.jobs.into());
            decoded.push(*length, Origin { stream, jobs, at });
        }
        decoded
    }

    /// As it stands in the file.
    pub(super) fn record(&self, offset: u64) -> Vec<u8> {
        self.encode(offset).encode_length_delimited_to_vec()
    }
}

/// Takes records off the beginning of `bytes` as far as they are whole, and answers what they say.
pub(super) fn read_records(bytes: &mut &[u8]) -> Vec<(u64, Spans)> {
    let mut records = Vec::new();
    let mut rest = *bytes;
    while let Ok(record) = LogSpans::decode_length_delimited(&mut rest) {
        records.push((record.offset, Spans::decode(&record)));
        *bytes = rest;
        if rest.is_empty() {
            break;
        }
    }
    records
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(stream: Stream, job: u32, at: u64) -> Origin {
        Origin::pipeline(stream, Jobs::from([job]), at)
    }

    #[test]
    fn what_was_recorded_is_read_as_far_as_it_is_whole() {
        let mut spans = Spans::one(5, origin(Stream::Stdout, 7, 1000));
        spans.push(3, origin(Stream::Stderr, 7, 999));
        spans.push(4, origin(Stream::Stderr, 7, 999));
        spans.push(1, Origin::agent(2000));
        assert_eq!((spans.0.len(), spans.length()), (3, 13));
        let bytes = [spans.record(100), spans.record(113)].concat();
        let mut whole = &bytes[..];
        assert_eq!(read_records(&mut whole), [(100, spans.clone()), (113, spans.clone())]);
        assert!(whole.is_empty());
        let mut cut = &bytes[..bytes.len() - 1];
        assert_eq!(read_records(&mut cut), [(100, spans)]);
        assert!(!cut.is_empty());
    }

    #[test]
    fn they_are_cut_where_the_bytes_are() {
        let mut spans = Spans::one(5, origin(Stream::Stdout, 7, 1));
        spans.push(5, origin(Stream::Stderr, 7, 1));
        let mut whole = spans.take(7);
        assert_eq!((whole.length(), spans.length()), (7, 3));
        whole.append(spans.clone());
        assert_eq!(whole.0.len(), 2);
        assert_eq!(spans.take(100).length(), 3);
        assert!(spans.is_empty());
    }

    #[test]
    fn a_header_holds_what_is_taken_for_it() {
        let mut spans = Spans::default();
        for number in 0..100_000 {
            let jobs: Jobs = (0..number % 5).collect();
            let at = 1_700_000_000_000 + u64::from(number % 17) * 100;
            spans.push(1 + u64::from(number) % 3000, Origin::pipeline(Stream::Stdout, jobs, at));
        }
        let mut count = 0;
        while !spans.is_empty() {
            assert!(spans.take_small(8 << 10).encode(u64::MAX).encoded_len() <= 8 << 10);
            count += 1;
        }
        assert!(count < 400, "{count}");
    }
}
