//! Takes secret values out of a stream of bytes, wherever it was cut into chunks.
//!
//! Every byte that is part of an occurrence of a secret is left out, overlapping occurrences
//! included; each island of such bytes becomes `***`. A tail that could still become a secret is held
//! back, and that is never more than the longest secret. A held tail is not released by silence,
//! since the rest of the secret would then pass unseen; it goes when it is decided or the stream ends.

use std::{collections::BTreeSet, sync::Arc};

use base64::{Engine as _, engine::general_purpose};

/// Shorter values would black out half of a log and hide nothing.
const SHORTEST: usize = 3;
/// Lines of a longer secret (a key, say) that are shorter are not looked for on their own.
const SHORTEST_LINE: usize = 8;
const MASK: &[u8] = b"***";

/// What must not be seen, prepared for searching. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Secrets(Arc<Patterns>);

/// All forms of all secrets, by their first byte, longest first. Debug shows only how many.
struct Patterns {
    by_first: Vec<Vec<Vec<u8>>>,
}

impl Default for Patterns {
    fn default() -> Self {
        Self { by_first: vec![Vec::new(); 256] }
    }
}

impl std::fmt::Debug for Patterns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} patterns", self.by_first.iter().map(Vec::len).sum::<usize>())
    }
}

impl Secrets {
    /// Looks for each value as it is, line by line, and in the encodings that programs print.
    pub(crate) fn new<'a>(values: impl IntoIterator<Item = &'a str>) -> Self {
        let forms: BTreeSet<Vec<u8>> = values.into_iter().flat_map(forms).collect();
        let mut patterns = Patterns::default();
        for form in forms.into_iter().filter(|form| form.len() >= SHORTEST) {
            patterns.by_first[usize::from(form[0])].push(form);
        }
        for list in &mut patterns.by_first {
            list.sort_by_key(|form| std::cmp::Reverse(form.len()));
        }
        Self(Arc::new(patterns))
    }

    /// A whole text without its secrets.
    pub(crate) fn mask(&self, text: &str) -> String {
        let mut masker = Masker::new(self.clone());
        let mut out = masker.push(text.as_bytes());
        out.extend(masker.finish());
        String::from_utf8_lossy(&out).into_owned()
    }

    /// What begins here: a secret of this length, maybe a longer one, or nothing.
    fn at(&self, bytes: &[u8]) -> Found {
        let mut undecided = false;
        for form in &self.0.by_first[usize::from(bytes[0])] {
            if bytes.starts_with(form) {
                return Found { length: form.len(), undecided };
            }
            undecided |= form.starts_with(bytes);
        }
        Found { length: 0, undecided }
    }
}

struct Found {
    length: usize,
    /// The bytes end inside of a (longer) secret.
    undecided: bool,
}

fn forms(value: &str) -> Vec<Vec<u8>> {
    let trimmed = value.trim();
    let mut forms = vec![
        value.as_bytes().to_vec(),
        trimmed.as_bytes().to_vec(),
        percent_encoded(trimmed).into_bytes(),
    ];
    if trimmed.len() >= SHORTEST_LINE {
        for text in [value, trimmed] {
            forms.push(general_purpose::STANDARD_NO_PAD.encode(text).into_bytes());
            forms.push(general_purpose::URL_SAFE_NO_PAD.encode(text).into_bytes());
        }
    }
    if let Ok(json) = serde_json::to_string(trimmed) {
        forms.push(json.as_bytes()[1..json.len() - 1].to_vec());
    }
    let lines = trimmed.lines().map(str::trim).filter(|line| line.len() >= SHORTEST_LINE);
    forms.extend(lines.map(|line| line.as_bytes().to_vec()));
    forms
}

fn percent_encoded(text: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            write!(out, "%{byte:02X}").expect("a String takes everything");
        }
    }
    out
}

/// Masks one stream.
#[derive(Debug)]
pub(crate) struct Masker {
    secrets: Secrets,
    /// Bytes that are not decided yet.
    held: Vec<u8>,
    /// How many of the next bytes belong to a secret that was found.
    inside: usize,
}

impl Masker {
    pub(crate) fn new(secrets: Secrets) -> Self {
        Self { secrets, held: Vec::new(), inside: 0 }
    }

    /// Takes more of the stream; answers with what may be seen by now.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.held.extend_from_slice(bytes);
        self.drain(false)
    }

    /// The stream ended: answers with the rest.
    pub(crate) fn finish(&mut self) -> Vec<u8> {
        self.drain(true)
    }

    fn drain(&mut self, ended: bool) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.held.len());
        let mut at = 0;
        while at < self.held.len() {
            let found = self.secrets.at(&self.held[at..]);
            if found.undecided && !ended {
                break;
            }
            if found.length > 0 && self.inside == 0 {
                out.extend_from_slice(MASK);
            }
            self.inside = self.inside.max(found.length);
            if self.inside == 0 {
                out.push(self.held[at]);
            }
            self.inside = self.inside.saturating_sub(1);
            at += 1;
        }
        self.held.drain(..at);
        out
    }
}

#[cfg(test)]
mod tests;
