//! Cuts what an attempt prints into lines, without secrets, so that two streams never mix in one line.

use std::mem;

use super::{
    Entry,
    spans::{Origin, Spans},
};
use crate::{
    mask::{Masker, Secrets},
    runtime::{Output, Stream},
};

/// A line that is longer is shown in parts.
const LONGEST_LINE: usize = 64 * 1024;

/// Standard output, standard error and the agent's own notes.
#[derive(Debug)]
pub(super) struct Lanes {
    secrets: Secrets,
    streams: [Lane; 2],
    /// To be written.
    ready: Ready,
    /// Whose line is not finished in what was written.
    open: Option<usize>,
}

#[derive(Debug)]
struct Lane {
    masker: Masker,
    /// Masked, not yet a line.
    line: Vec<u8>,
    /// Of the last piece of it.
    origin: Option<Origin>,
}

/// Bytes, and where they came from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ready {
    pub(super) bytes: Vec<u8>,
    pub(super) spans: Spans,
}

impl Ready {
    fn push(&mut self, bytes: &[u8], origin: Origin) {
        self.bytes.extend_from_slice(bytes);
        self.spans.push(bytes.len() as u64, origin);
    }
}

const NOTES: usize = 2;

impl Lanes {
    pub(super) fn new(secrets: &Secrets) -> Self {
        let lane = || Lane { masker: Masker::new(secrets.clone()), line: Vec::new(), origin: None };
        Self {
            secrets: secrets.clone(),
            streams: [lane(), lane()],
            ready: Ready::default(),
            open: None,
        }
    }

    pub(super) fn take(&mut self, entry: Entry) {
        match entry {
            Entry::Note { text, at } => {
                let line = format!("{}\n", self.secrets.mask(&text));
                self.show(NOTES, line.as_bytes(), Origin::agent(at));
            }
            Entry::Output(Output { stream, jobs, at, bytes }) => {
                let index = match stream {
                    Stream::Stdout => 0,
                    Stream::Stderr => 1,
                };
                let lane = &mut self.streams[index];
                let is_open = !lane.line.is_empty() || lane.masker.holds();
                let earlier = lane.origin.take().filter(|_| is_open);
                let origin = Origin::pipeline(stream, jobs, at).since(earlier);
                lane.line.extend(lane.masker.push(&bytes));
                let whole =
                    lane.line.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
                let length = if lane.line.len() > LONGEST_LINE { lane.line.len() } else { whole };
                let lines: Vec<u8> = lane.line.drain(..length).collect();
                lane.origin = Some(origin.clone());
                self.show(index, &lines, origin);
            }
        }
    }

    pub(super) fn have_unfinished(&self) -> bool {
        self.streams.iter().any(|lane| !lane.line.is_empty())
    }

    /// Nothing came for a moment. What a masker still holds stays where it is.
    pub(super) fn show_unfinished(&mut self) {
        for index in 0..self.streams.len() {
            let lane = &mut self.streams[index];
            let rest = mem::take(&mut lane.line);
            if let Some(origin) = lane.origin.clone() {
                self.show(index, &rest, origin);
            }
        }
    }

    pub(super) fn finish(&mut self) {
        for lane in &mut self.streams {
            let rest = lane.masker.finish();
            lane.line.extend(rest);
        }
        self.show_unfinished();
    }

    /// A line that another lane left open is ended first, so that lines never mix.
    fn show(&mut self, lane: usize, bytes: &[u8], origin: Origin) {
        let Some(last) = bytes.last() else { return };
        if self.open.is_some_and(|open| open != lane) {
            self.ready.push(b"\n", Origin::agent(origin.at));
        }
        self.ready.push(bytes, origin);
        self.open = (*last != b'\n').then_some(lane);
    }

    pub(super) fn ready(&mut self) -> Ready {
        mem::take(&mut self.ready)
    }
}
