//! Takes secret values out of a stream of bytes, wherever it was cut into chunks.
//!
//! Every byte that is part of an occurrence of a secret is left out, overlapping occurrences
//! included; each island of such bytes becomes `***`. A tail that could still become a secret is held
//! back, and that is never more than the longest form of a secret. A held tail is not released by silence,
//! since the rest of the secret would then pass unseen; it goes when it is decided or the stream ends.
//!
//! Public for the benchmark that measures it.

mod forms;
mod skips;

use std::{
    collections::BTreeSet,
    fmt,
    sync::{Arc, LazyLock},
};

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};

use forms::forms;
use skips::Skips;

const MASK: &[u8] = b"***";
/// So many beginnings at most are looked for with vector instructions before the automaton has to.
const MOST_VECTORED: usize = 64;
/// With forms that are shorter skipping is slower than an automaton.
const SHORTEST_TO_SKIP: usize = 8;
/// Of each form the automaton looks for so many bytes at its beginning, so that long secrets (keys) make
/// no large automaton; whether the rest is there too is looked at where they are found.
const BEGINNING: usize = 6;
/// With more beginnings the fast automaton would take too much memory: 20 MiB and more.
const MOST_FAST: usize = 10_000;

/// What must not be seen, prepared for searching. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Secrets(Arc<Patterns>);

/// All forms of all secrets. Debug shows only how many.
struct Patterns {
    /// By their first byte, longest first.
    by_first: Vec<Vec<Vec<u8>>>,
    search: Search,
    /// Bytes of the longest form.
    longest: usize,
}

/// Finds where the next form may begin.
enum Search {
    /// There is no secret.
    Nothing,
    Skips(Skips),
    /// For few forms, or short ones.
    Automaton(AhoCorasick),
}

impl Default for Secrets {
    fn default() -> Self {
        static NONE: LazyLock<Secrets> = LazyLock::new(|| Secrets::new([]));
        NONE.clone()
    }
}

impl fmt::Debug for Patterns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} patterns", self.by_first.iter().map(Vec::len).sum::<usize>())
    }
}

impl Secrets {
    /// Looks for each value as it is, line by line, and in the encodings that programs print: base64,
    /// hex, and what URLs, JSON and shells make of it. Values of one or two bytes are not looked for.
    pub fn new<'a>(values: impl IntoIterator<Item = &'a str>) -> Self {
        let forms: BTreeSet<Vec<u8>> = values.into_iter().flat_map(forms).collect();
        let search = Search::new(&forms.iter().map(Vec::as_slice).collect::<Vec<_>>());
        let longest = forms.iter().map(Vec::len).max().unwrap_or(0);
        let mut by_first = vec![Vec::new(); 256];
        for form in forms {
            by_first[usize::from(form[0])].push(form);
        }
        for list in &mut by_first {
            list.sort_by_key(|form| std::cmp::Reverse(form.len()));
        }
        Self(Arc::new(Patterns { by_first, search, longest }))
    }

    /// A whole text without its secrets.
    pub(crate) fn mask(&self, text: &str) -> String {
        let mut masker = Masker::new(self.clone());
        let mut out = masker.push(text.as_bytes());
        out.extend(masker.finish());
        String::from_utf8_lossy(&out).into_owned()
    }
}

impl Search {
    fn new(forms: &[&[u8]]) -> Self {
        let beginnings: BTreeSet<&[u8]> =
            forms.iter().map(|form| &form[..form.len().min(BEGINNING)]).collect();
        if beginnings.is_empty() {
            return Self::Nothing;
        }
        if beginnings.len() > MOST_VECTORED
            && let Some(skips) = Skips::new(forms, SHORTEST_TO_SKIP)
        {
            return Self::Skips(skips);
        }
        let mut builder = AhoCorasick::builder();
        let is_fast = beginnings.len() <= MOST_FAST;
        builder.match_kind(MatchKind::LeftmostFirst).kind(is_fast.then_some(AhoCorasickKind::DFA));
        let automaton = builder.build(beginnings);
        Self::Automaton(automaton.expect("a few short patterns make a small automaton"))
    }
}

impl Patterns {
    /// The forms that begin with this byte, longest first.
    fn of(&self, first: u8) -> &[Vec<u8>] {
        &self.by_first[usize::from(first)]
    }

    /// Where a form begins next, or something that looks like one.
    fn next(&self, bytes: &[u8]) -> Option<usize> {
        match &self.search {
            Search::Nothing => None,
            Search::Skips(skips) => skips.next(bytes),
            Search::Automaton(automaton) => Some(automaton.find(bytes)?.start()),
        }
    }

    /// The longest form that stands at the beginning; 0: none does.
    fn length_at(&self, bytes: &[u8]) -> usize {
        let found = self.of(bytes[0]).iter().find(|form| bytes.starts_with(form));
        found.map_or(0, Vec::len)
    }

    /// Everything before it is decided: no form begins there and goes on beyond the end.
    fn decided(&self, bytes: &[u8]) -> usize {
        let goes_on = |rest: &[u8]| {
            if matches!(&self.search, Search::Skips(skips) if !skips.may_begin(rest)) {
                return false;
            }
            let longer = self.of(rest[0]).iter().take_while(|form| form.len() > rest.len());
            longer.into_iter().any(|form| form.starts_with(rest))
        };
        let first = (bytes.len() + 1).saturating_sub(self.longest);
        (first..bytes.len()).find(|at| goes_on(&bytes[*at..])).unwrap_or(bytes.len())
    }
}

/// Masks one stream.
#[derive(Debug)]
pub struct Masker {
    secrets: Secrets,
    /// Bytes that are not decided yet.
    held: Vec<u8>,
    /// How many of the next bytes belong to a secret that was found.
    inside: usize,
}

impl Masker {
    /// At the beginning of a stream.
    pub fn new(secrets: Secrets) -> Self {
        Self { secrets, held: Vec::new(), inside: 0 }
    }

    /// Takes more of the stream; answers with what may be seen by now.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.held.extend_from_slice(bytes);
        let decided = self.secrets.0.decided(&self.held);
        self.drain(decided)
    }

    /// Bytes were taken of which it is not decided yet whether they may be seen.
    pub(crate) fn holds(&self) -> bool {
        !self.held.is_empty()
    }

    /// The stream ended: answers with the rest.
    pub fn finish(&mut self) -> Vec<u8> {
        self.drain(self.held.len())
    }

    fn drain(&mut self, end: usize) -> Vec<u8> {
        let patterns = &self.secrets.0;
        let mut out = Vec::with_capacity(end);
        let mut at = 0;
        while at < end {
            if self.inside == 0 {
                let next = patterns.next(&self.held[at..]).map_or(end, |next| end.min(at + next));
                out.extend_from_slice(&self.held[at..next]);
                at = next;
                if at == end {
                    break;
                }
            }
            let length = patterns.length_at(&self.held[at..]);
            if length > 0 && self.inside == 0 {
                out.extend_from_slice(MASK);
            }
            self.inside = self.inside.max(length);
            if self.inside == 0 {
                out.push(self.held[at]);
            }
            self.inside = self.inside.saturating_sub(1);
            at += 1;
        }
        self.held.drain(..end);
        out
    }
}

#[cfg(test)]
mod tests;
