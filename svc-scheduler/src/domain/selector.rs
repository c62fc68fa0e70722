//! What a run asks of its worker, in one small language; documented for people in `docs/selectors.md`.
//!
//! ```text
//! selector  = { term }                              terms are separated by blanks or commas
//! term      = condition                             the worker must fulfil it
//!           | "!" condition                         the worker must not
//!           | condition "~" weight                  better if it does (worse, below 0); -100 to 100
//!           | "tolerate:" name                      goes to workers with this taint too; `*`: any
//! condition = name                                  a tag, or a label of any value
//!           | name ( "=" | "!=" ) name              a label's value; `a!=b` means `!a=b`
//!           | name ( ">=" | "<=" | ">" | "<" ) number
//! name      = letters other than blanks and , ! ~ = < > " & | ( ) and not beginning with `-`,
//!             or anything in quotes, in which `\"` and `\\` stand for `"` and `\`
//! number    = [ "-" ] digits [ "." digits ]         up to 15 digits, and 9 after the point
//! ```
//!
//! Case does not count. The order of terms means nothing, so equal wishes are equal values and have one
//! written form. This module does no IO.

mod lint;
mod offer;
mod parse;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

pub use lint::{Finding, Severity, lint};
pub use offer::{Offer, Unmet};
pub use parse::{SelectorError, SelectorErrorKind};

/// Most characters of a selector.
pub const MAX_SELECTOR: usize = 1_000;
/// Most terms of a selector.
pub const MAX_TERMS: usize = 64;
/// The furthest that a weight may be from 0.
const MAX_WEIGHT: i32 = 100;

#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Selector {
    required: BTreeSet<Condition>,
    forbidden: BTreeSet<Condition>,
    preferred: BTreeMap<Condition, i32>,
    tolerated: BTreeSet<String>,
}

/// Something that is true of a worker or not. All text is in lower case.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Condition {
    /// It has the tag, or the label with any value.
    Has(String),
    Is {
        key: String,
        value: String,
    },
    /// The label is a number, and that is in this relation to the limit.
    Compares {
        key: String,
        relation: Relation,
        limit: Number,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Relation {
    AtLeast,
    AtMost,
    Above,
    Below,
}

/// A decimal number, exactly: in billionths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Number(i128);

/// One term as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Term {
    Require(Condition),
    Forbid(Condition),
    Prefer(Condition, i32),
    Tolerate(String),
}

impl Selector {
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        Ok(parse::terms(text)?.into_iter().map(|placed| placed.term).collect())
    }

    /// Reads the written form, however long.
    pub fn read(text: &str) -> Result<Self, SelectorError> {
        Ok(parse::terms_of_any_number(text)?.into_iter().map(|placed| placed.term).collect())
    }

    #[must_use]
    pub fn terms(&self) -> usize {
        let Self { required, forbidden, preferred, tolerated } = self;
        required.len() + forbidden.len() + preferred.len() + tolerated.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Asks for these tags too, as Gaia's pipelines do.
    #[must_use]
    pub fn with_tags<'a>(mut self, tags: impl IntoIterator<Item = &'a String>) -> Self {
        let tags = tags.into_iter().map(|tag| tag.trim().to_lowercase());
        self.required.extend(tags.filter(|tag| !tag.is_empty()).map(|tag| Condition::tag(&tag)));
        self
    }

    /// Whether some workers are better than others.
    pub(super) fn prefers(&self) -> bool {
        !self.preferred.is_empty()
    }

    /// How much a worker is preferred.
    pub(super) fn score(&self, offer: &Offer) -> i32 {
        let wanted = self.preferred.iter().filter(|(condition, _)| offer.fulfils(condition));
        wanted.map(|(_, weight)| *weight).sum()
    }

    /// All that stands between this and a worker; nothing: they suit each other.
    pub(super) fn unmet<'a>(&'a self, offer: &'a Offer) -> impl Iterator<Item = Unmet<'a>> {
        let lacks = self.required.iter().filter(|condition| !offer.fulfils(condition));
        let has = self.forbidden.iter().filter(|condition| offer.fulfils(condition));
        let tainted = offer.taints().filter(|taint| !self.tolerates(taint));
        lacks.map(Unmet::Lacks).chain(has.map(Unmet::Has)).chain(tainted.map(Unmet::Tainted))
    }

    pub(super) fn suits(&self, offer: &Offer) -> bool {
        self.unmet(offer).next().is_none()
    }

    fn tolerates(&self, taint: &str) -> bool {
        self.tolerated.contains(taint) || self.tolerated.contains("*")
    }
}

impl FromIterator<Term> for Selector {
    fn from_iter<T: IntoIterator<Item = Term>>(terms: T) -> Self {
        let mut selector = Self::default();
        for term in terms {
            match term {
                Term::Require(condition) => drop(selector.required.insert(condition)),
                Term::Forbid(condition) => drop(selector.forbidden.insert(condition)),
                // Of two weights for the same the last one counts, so that a start can change it.
                Term::Prefer(condition, weight) => {
                    selector.preferred.insert(condition, weight);
                }
                Term::Tolerate(taint) => drop(selector.tolerated.insert(taint)),
            }
        }
        selector
    }
}

impl Condition {
    /// `key=value` is a label, anything else a tag; the text is in lower case.
    pub(super) fn tag(text: &str) -> Self {
        match text.split_once('=') {
            Some((key, value)) if !key.is_empty() && !value.is_empty() => {
                Self::Is { key: key.into(), value: value.into() }
            }
            _ => Self::Has(text.into()),
        }
    }
}

impl Relation {
    const fn sign(self) -> &'static str {
        match self {
            Self::AtLeast => ">=",
            Self::AtMost => "<=",
            Self::Above => ">",
            Self::Below => "<",
        }
    }

    fn holds(self, value: Number, limit: Number) -> bool {
        match self {
            Self::AtLeast => value >= limit,
            Self::AtMost => value <= limit,
            Self::Above => value > limit,
            Self::Below => value < limit,
        }
    }
}

impl Number {
    const DECIMALS: u32 = 9;
    const MOST_DIGITS: usize = 15;

    /// `None`: not a number, or one of too many digits.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (negative, digits) = match text.strip_prefix('-') {
            Some(digits) => (true, digits),
            None => (false, text),
        };
        let (whole, fraction) = match digits.split_once('.') {
            Some((whole, fraction)) if !fraction.is_empty() => (whole, fraction),
            Some(_) => return None,
            None => (digits, ""),
        };
        let is_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        let fits = (1..=Self::MOST_DIGITS).contains(&whole.len())
            && fraction.len() <= Self::DECIMALS as usize;
        if !fits || !is_digits(whole) || !is_digits(fraction) {
            return None;
        }
        let scaled = format!("{whole}{fraction:0<width$}", width = Self::DECIMALS as usize);
        let value: i128 = scaled.parse().ok()?;
        Some(Self(if negative { -value } else { value }))
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let one = 10_i128.pow(Self::DECIMALS);
        let (sign, value) = (if self.0 < 0 { "-" } else { "" }, self.0.abs());
        let fraction = format!("{:09}", value % one);
        let fraction = fraction.trim_end_matches('0');
        let point = if fraction.is_empty() { "" } else { "." };
        write!(f, "{sign}{}{point}{fraction}", value / one)
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Has(name) => write!(f, "{}", parse::Written(name)),
            Self::Is { key, value } => {
                write!(f, "{}={}", parse::Written(key), parse::Written(value))
            }
            Self::Compares { key, relation, limit } => {
                write!(f, "{}{}{limit}", parse::Written(key), relation.sign())
            }
        }
    }
}

/// The one written form, which reads as the same selector again.
impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let required = self.required.iter().map(ToString::to_string);
        let forbidden = self.forbidden.iter().map(|condition| format!("!{condition}"));
        let preferred = self.preferred.iter().map(|(condition, by)| format!("{condition}~{by}"));
        let tolerated =
            self.tolerated.iter().map(|taint| format!("tolerate:{}", parse::Written(taint)));
        let terms: Vec<_> = required.chain(forbidden).chain(preferred).chain(tolerated).collect();
        f.write_str(&terms.join(" "))
    }
}
