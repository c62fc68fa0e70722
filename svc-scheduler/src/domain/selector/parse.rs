//! From text to terms, and back.

use std::{fmt, ops::Range};

use super::{Condition, MAX_SELECTOR, MAX_TERMS, MAX_WEIGHT, Number, Relation, Term};

const TOLERATE: &str = "tolerate:";

/// A term, and where it stands: characters, from 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Placed {
    pub(super) term: Term,
    pub(super) place: Range<usize>,
}

/// Text that is no selector.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at character {at}: {kind}")]
pub struct SelectorError {
    /// From 1.
    pub at: usize,
    pub kind: SelectorErrorKind,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectorErrorKind {
    #[error("the selector is longer than {MAX_SELECTOR} characters")]
    TooLong,
    #[error("there are more than {MAX_TERMS} terms")]
    TooManyTerms,
    #[error("a tag is missing after `{0}`")]
    NoName(String),
    #[error("`{0}` means nothing here; put a name that holds it in quotes")]
    Unexpected(char),
    #[error("terms are joined by blanks and all of them count; leave `{0}` out")]
    NoOperators(char),
    #[error("`-` does not begin a name; write `!` to forbid a tag, or put the name in quotes")]
    Minus,
    #[error("the quotes are not closed")]
    Unclosed,
    #[error("a name cannot hold control characters")]
    Control,
    #[error("a name in quotes is empty")]
    EmptyQuotes,
    #[error("a value is missing after `{0}`")]
    NoValue(&'static str),
    #[error("`{sign}` compares numbers, and `{value}` is none (no units; up to 15 digits)")]
    NotNumber { sign: &'static str, value: String },
    #[error("`{0}` is no weight; use a whole number from -{MAX_WEIGHT} to {MAX_WEIGHT} but 0")]
    BadWeight(String),
    #[error("a term cannot both forbid and have a weight; a weight below 0 says `rather not`")]
    ForbidWithWeight,
    #[error("`tolerate:` takes the name of a taint, or `*`, and nothing else")]
    BadToleration,
}

type Kind = SelectorErrorKind;

/// What a person wrote.
pub(super) fn terms(text: &str) -> Result<Vec<Placed>, SelectorError> {
    if text.chars().count() > MAX_SELECTOR {
        return Err(SelectorError { at: MAX_SELECTOR + 1, kind: Kind::TooLong });
    }
    let found = terms_of_any_number(text)?;
    match found.get(MAX_TERMS) {
        Some(first) => Err(SelectorError { at: first.place.start + 1, kind: Kind::TooManyTerms }),
        None => Ok(found),
    }
}

/// The written form of a selector may be longer than what a person wrote.
pub(super) fn terms_of_any_number(text: &str) -> Result<Vec<Placed>, SelectorError> {
    let text: Vec<char> = text.chars().collect();
    let mut reader = Reader { text: &text, at: 0 };
    let mut found = vec![];
    loop {
        reader.skip(|next| next.is_whitespace() || next == ',');
        let start = reader.at;
        if reader.peek().is_none() {
            return Ok(found);
        }
        let term = reader.term()?;
        found.push(Placed { term, place: start..reader.at });
    }
}

fn is_plain(letter: char) -> bool {
    !letter.is_whitespace() && !letter.is_control() && !",!~=<>\"&|()".contains(letter)
}

/// A name as it is written: in quotes where it must be.
pub(super) struct Written<'a>(pub(super) &'a str);

impl fmt::Display for Written<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.0;
        let is_plain = name.chars().all(is_plain) && !name.starts_with('-');
        if is_plain && !name.is_empty() && !name.starts_with(TOLERATE) {
            return f.write_str(name);
        }
        write!(f, "\"{}\"", name.replace('\\', "\\\\").replace('"', "\\\""))
    }
}

struct Reader<'a> {
    text: &'a [char],
    at: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<char> {
        self.text.get(self.at).copied()
    }

    fn skip(&mut self, over: impl Fn(char) -> bool) {
        while self.peek().is_some_and(&over) {
            self.at += 1;
        }
    }

    /// Goes over the sign if it stands here.
    fn take(&mut self, sign: &str) -> bool {
        let is_here = sign.chars().enumerate().all(|(offset, letter)| {
            self.text.get(self.at + offset).is_some_and(|here| *here == letter)
        });
        if is_here {
            self.at += sign.chars().count();
        }
        is_here
    }

    fn error(&self, kind: Kind) -> SelectorError {
        SelectorError { at: self.at + 1, kind }
    }

    fn term(&mut self) -> Result<Term, SelectorError> {
        let forbids = self.take("!");
        if self.take(TOLERATE) {
            let taint = self.name(TOLERATE)?;
            return if !forbids && self.is_at_end() {
                Ok(Term::Tolerate(taint))
            } else {
                Err(self.error(Kind::BadToleration))
            };
        }
        let name = self.name(if forbids { "!" } else { "" })?;
        let (negated, condition) = self.condition(name)?;
        if self.peek() == Some('~') {
            if forbids || negated {
                return Err(self.error(Kind::ForbidWithWeight));
            }
            let weight = self.weight()?;
            self.end()?;
            return Ok(Term::Prefer(condition, weight));
        }
        self.end()?;
        // `!a!=b` means `a=b` to logic, but hardly to who wrote it.
        match (forbids, negated) {
            (true, true) => Err(self.error(Kind::Unexpected('!'))),
            (false, false) => Ok(Term::Require(condition)),
            _ => Ok(Term::Forbid(condition)),
        }
    }

    /// Whether it is negated, and the condition that begins with the name.
    fn condition(&mut self, name: String) -> Result<(bool, Condition), SelectorError> {
        for relation in [Relation::AtLeast, Relation::AtMost, Relation::Above, Relation::Below] {
            if self.take(relation.sign()) {
                let limit = self.number(relation.sign())?;
                return Ok((false, Condition::Compares { key: name, relation, limit }));
            }
        }
        for (sign, negated) in [("!=", true), ("=", false)] {
            if self.take(sign) {
                let value = self.value(sign)?;
                return Ok((negated, Condition::Is { key: name, value }));
            }
        }
        Ok((false, Condition::Has(name)))
    }

    fn name(&mut self, after: &str) -> Result<String, SelectorError> {
        match self.peek() {
            Some('"') => self.quoted(),
            Some('-') => Err(self.error(Kind::Minus)),
            Some(letter) if is_plain(letter) => Ok(self.word()),
            Some(letter @ ('&' | '|' | '(' | ')')) => Err(self.error(Kind::NoOperators(letter))),
            Some(letter) if !letter.is_whitespace() && letter != ',' => {
                Err(self.error(Kind::Unexpected(letter)))
            }
            _ => Err(self.error(Kind::NoName(after.into()))),
        }
    }

    fn value(&mut self, sign: &'static str) -> Result<String, SelectorError> {
        match self.peek() {
            Some('"') => self.quoted(),
            Some(letter) if is_plain(letter) => Ok(self.word()),
            Some(letter) if !letter.is_whitespace() && letter != ',' => {
                Err(self.error(Kind::Unexpected(letter)))
            }
            _ => Err(self.error(Kind::NoValue(sign))),
        }
    }

    fn number(&mut self, sign: &'static str) -> Result<Number, SelectorError> {
        let at = self.at;
        let value = self.value(sign)?;
        Number::parse(&value).ok_or_else(|| {
            let kind = Kind::NotNumber { sign, value };
            SelectorError { at: at + 1, kind }
        })
    }

    fn weight(&mut self) -> Result<i32, SelectorError> {
        self.at += 1;
        let at = self.at;
        let text = self.word();
        let weight = text.strip_prefix('+').unwrap_or(&text).parse::<i32>().ok();
        let range = -MAX_WEIGHT..=MAX_WEIGHT;
        let fits = weight.filter(|weight| *weight != 0 && range.contains(weight));
        fits.ok_or(SelectorError { at: at + 1, kind: Kind::BadWeight(text) })
    }

    fn word(&mut self) -> String {
        let start = self.at;
        self.skip(is_plain);
        self.text[start..self.at].iter().collect::<String>().to_lowercase()
    }

    fn quoted(&mut self) -> Result<String, SelectorError> {
        let opening = self.error(Kind::Unclosed);
        self.at += 1;
        let mut text = String::new();
        loop {
            let Some(letter) = self.peek() else { return Err(opening) };
            if letter.is_control() {
                return Err(self.error(Kind::Control));
            }
            self.at += 1;
            match letter {
                '"' => break,
                '\\' if matches!(self.peek(), Some('"' | '\\')) => {
                    text.extend(self.peek());
                    self.at += 1;
                }
                _ => text.push(letter),
            }
        }
        let text = text.trim().to_lowercase();
        if text.is_empty() {
            return Err(SelectorError { kind: Kind::EmptyQuotes, ..opening });
        }
        Ok(text)
    }

    fn is_at_end(&self) -> bool {
        self.peek().is_none_or(|next| next.is_whitespace() || next == ',')
    }

    fn end(&self) -> Result<(), SelectorError> {
        match self.peek() {
            Some(letter @ ('&' | '|' | '(' | ')')) => Err(self.error(Kind::NoOperators(letter))),
            Some(letter) if !self.is_at_end() => Err(self.error(Kind::Unexpected(letter))),
            _ => Ok(()),
        }
    }
}
