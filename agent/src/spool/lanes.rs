//! Cuts what an attempt prints into lines, without secrets, so that two streams never mix in one line.

use std::mem;

use super::Entry;
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
    ready: Vec<u8>,
    /// Whose line is not finished in what was written.
    open: Option<usize>,
}

#[derive(Debug)]
struct Lane {
    masker: Masker,
    /// Masked, not yet a line.
    line: Vec<u8>,
}

const NOTES: usize = 2;

impl Lanes {
    pub(super) fn new(secrets: &Secrets) -> Self {
        let lane = || Lane { masker: Masker::new(secrets.clone()), line: Vec::new() };
        Self { secrets: secrets.clone(), streams: [lane(), lane()], ready: Vec::new(), open: None }
    }

    pub(super) fn take(&mut self, entry: Entry) {
        match entry {
            Entry::Note(text) => {
                let line = format!("{}\n", self.secrets.mask(&text));
                self.show(NOTES, line.as_bytes());
            }
            Entry::Output(Output { stream, bytes }) => {
                let index = match stream {
                    Stream::Stdout => 0,
                    Stream::Stderr => 1,
                };
                let lane = &mut self.streams[index];
                lane.line.extend(lane.masker.push(&bytes));
                let whole =
                    lane.line.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
                let length = if lane.line.len() > LONGEST_LINE { lane.line.len() } else { whole };
                let lines: Vec<u8> = lane.line.drain(..length).collect();
                self.show(index, &lines);
            }
        }
    }

    pub(super) fn have_unfinished(&self) -> bool {
        self.streams.iter().any(|lane| !lane.line.is_empty())
    }

    /// Nothing came for a moment. What a masker still holds stays where it is.
    pub(super) fn show_unfinished(&mut self) {
        for index in 0..self.streams.len() {
            let line = mem::take(&mut self.streams[index].line);
            self.show(index, &line);
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
    fn show(&mut self, lane: usize, bytes: &[u8]) {
        let Some(last) = bytes.last() else { return };
        if self.open.is_some_and(|open| open != lane) {
            self.ready.push(b'\n');
        }
        self.ready.extend_from_slice(bytes);
        self.open = (*last != b'\n').then_some(lane);
    }

    pub(super) fn ready(&mut self) -> Vec<u8> {
        mem::take(&mut self.ready)
    }
}
