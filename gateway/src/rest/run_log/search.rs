//! Finds the lines of a log that hold a text. Pure; takes the log piece by piece.
//!
//! Bytes are compared, so a log that is no text can be searched too. A line of any length takes no more
//! than [`LONGEST`] bytes of memory; a match across the cut of such a line is found as well.

use serde::Serialize;

/// Bytes of a line that are looked at, and kept, at once.
const LONGEST: usize = 64 << 10;
/// Bytes of a line that are shown.
const SHOWN: usize = 1024;
/// Lines that are answered.
pub(super) const MOST: usize = 1000;

/// A line that holds the text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Match {
    /// From 1.
    pub(super) line: u64,
    /// Of the line's first byte in the log.
    pub(super) offset: u64,
    /// The line's beginning. What is no text is shown as the replacement character.
    pub(super) text: String,
}

#[derive(Debug)]
pub(super) struct Search {
    wanted: Vec<u8>,
    pub(super) matches: Vec<Match>,
    line: u64,
    /// Where the line began.
    offset: u64,
    length: u64,
    /// Of the line: its beginning, and what is not looked at yet.
    beginning: Vec<u8>,
    open: Vec<u8>,
    found: bool,
}

impl Search {
    pub(super) fn new(wanted: &str) -> Self {
        Self {
            wanted: wanted.as_bytes().to_vec(),
            matches: Vec::new(),
            line: 1,
            offset: 0,
            length: 0,
            beginning: Vec::new(),
            open: Vec::new(),
            found: false,
        }
    }

    /// There are more matches than are answered.
    pub(super) fn is_full(&self) -> bool {
        self.matches.len() > MOST
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, ends) = part.strip_suffix(b"\n").map_or((part, false), |text| (text, true));
            self.extend(text);
            self.length += part.len() as u64;
            if ends {
                self.end_line();
            }
        }
    }

    pub(super) fn finish(&mut self) {
        if self.length > 0 {
            self.end_line();
        }
    }

    fn extend(&mut self, text: &[u8]) {
        let room = SHOWN.saturating_sub(self.beginning.len());
        self.beginning.extend_from_slice(&text[..text.len().min(room)]);
        for piece in text.chunks(LONGEST) {
            self.open.extend_from_slice(piece);
            if self.open.len() > LONGEST {
                self.look();
                let kept = self.open.len() - self.open.len().min(self.wanted.len() - 1);
                self.open.drain(..kept);
            }
        }
    }

    fn look(&mut self) {
        self.found |= self.open.windows(self.wanted.len()).any(|window| window == self.wanted);
    }

    fn end_line(&mut self) {
        self.look();
        if self.found && !self.is_full() {
            let text = String::from_utf8_lossy(&self.beginning).into_owned();
            self.matches.push(Match { line: self.line, offset: self.offset, text });
        }
        self.line += 1;
        self.offset += self.length;
        (self.length, self.found) = (0, false);
        self.beginning.clear();
        self.open.clear();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn search(wanted: &str, pieces: &[&[u8]]) -> Vec<Match> {
        let mut search = Search::new(wanted);
        for piece in pieces {
            search.push(piece);
        }
        search.finish();
        search.matches
    }

    #[test]
    fn a_line_is_found_wherever_it_was_cut() {
        let found = search("err", &[b"one\nan e", b"rr", b"or\n\xff err"]);
        let line = |line, offset, text: &str| Match { line, offset, text: text.into() };
        assert_eq!(found, [line(2, 4, "an error"), line(3, 13, "\u{fffd} err")]);
    }

    #[test]
    fn an_endless_line_takes_little_memory_and_is_found_across_the_cuts() {
        let mut search = Search::new("needle");
        for _ in 0..100 {
            search.push(&b"x".repeat(50_001));
            assert!(search.open.len() <= 2 * LONGEST);
        }
        search.push(b"nee");
        search.push(&[b"dle".as_slice(), &b"x".repeat(200_000)].concat());
        search.finish();
        assert_eq!(search.matches.len(), 1);
        assert_eq!((search.matches[0].line, search.matches[0].text.len()), (1, SHOWN));
    }

    #[test]
    fn no_more_than_the_most_are_kept() {
        let found = search("a", &[&b"a\n".repeat(MOST + 50)]);
        assert_eq!(found.len(), MOST + 1);
    }

    proptest! {
        #[test]
        fn it_finds_what_a_simple_search_finds(log in "[ab\\n]{0,60}", wanted in "[ab]{1,3}", cut in 0_usize..60) {
            let cut = cut.min(log.len());
            let found = search(&wanted, &[&log.as_bytes()[..cut], &log.as_bytes()[cut..]]);
            let lines: Vec<u64> = found.iter().map(|found| found.line).collect();
            let numbered = (1..).zip(log.split('\n'));
            let simple: Vec<u64> =
                numbered.filter(|(_, line)| line.contains(&wanted)).map(|(number, _)| number).collect();
            prop_assert_eq!(lines, simple);
            for found in found {
                let offset = usize::try_from(found.offset).unwrap();
                prop_assert!(log[offset..].starts_with(&found.text));
            }
        }
    }
}
