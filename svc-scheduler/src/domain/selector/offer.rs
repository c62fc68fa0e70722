//! What a worker offers: its tags, labels, refusals and taints.

use std::collections::{BTreeMap, BTreeSet};

use super::{Condition, Number};

/// Before the name of a taint among a worker's tags.
const TAINT: &str = "taint:";

/// The tags of a worker, in lower case and sorted by what they say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offer {
    tags: BTreeSet<String>,
    /// `key=value`; of several values the last one counts.
    labels: BTreeMap<String, String>,
    /// `-tag` or `!tag`: it does not take what asks for the tag, whoever gave it.
    refused: BTreeSet<String>,
    /// `taint:name`: it takes only what tolerates this.
    taints: BTreeSet<String>,
}

/// Why a worker and a run do not suit each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmet<'a> {
    /// The run asks for it.
    Lacks(&'a Condition),
    /// The run forbids it.
    Has(&'a Condition),
    /// The run does not tolerate it.
    Tainted(&'a str),
}

impl Unmet<'_> {
    /// As a selector would say it.
    #[must_use]
    pub fn term(&self) -> String {
        match self {
            Self::Lacks(condition) => condition.to_string(),
            Self::Has(condition) => format!("!{condition}"),
            Self::Tainted(taint) => format!("{TAINT}{taint}"),
        }
    }
}

impl Offer {
    #[must_use]
    pub fn of<T: AsRef<str>>(tags: impl IntoIterator<Item = T>) -> Self {
        let mut offer = Self::default();
        for tag in tags {
            let tag = tag.as_ref().trim().to_lowercase();
            if let Some(refused) = tag.strip_prefix(['-', '!']) {
                offer.refused.insert(refused.trim().to_owned());
            } else if let Some(taint) = tag.strip_prefix(TAINT) {
                offer.taints.insert(taint.trim().to_owned());
            } else if let Condition::Is { key, value } = Condition::tag(&tag) {
                offer.labels.insert(key, value);
            } else {
                offer.tags.insert(tag);
            }
        }
        let Self { tags, labels, refused, .. } = &mut offer;
        tags.retain(|tag| !refused.contains(tag));
        labels.retain(|key, value| {
            !refused.contains(key) && !refused.contains(&format!("{key}={value}"))
        });
        offer
    }

    #[must_use]
    pub fn fulfils(&self, condition: &Condition) -> bool {
        match condition {
            Condition::Has(name) => self.tags.contains(name) || self.labels.contains_key(name),
            Condition::Is { key, value } => {
                self.labels.get(key).is_some_and(|own| is_same(own, value))
            }
            Condition::Compares { key, relation, limit } => {
                let own = self.labels.get(key).and_then(|own| Number::parse(own));
                own.is_some_and(|own| relation.holds(own, *limit))
            }
        }
    }

    /// Whether the worker itself says that it does not want this.
    #[must_use]
    pub fn refuses(&self, condition: &Condition) -> bool {
        match condition {
            Condition::Has(name) => self.refused.contains(name),
            Condition::Is { key, .. } | Condition::Compares { key, .. } => {
                self.refused.contains(key) || self.refused.contains(&condition.to_string())
            }
        }
    }

    pub fn taints(&self) -> impl Iterator<Item = &str> {
        self.taints.iter().map(String::as_str)
    }

    /// The value of a label.
    #[must_use]
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels.get(key).map(String::as_str)
    }

    /// Every name that a condition could ask for.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tags.iter().chain(self.labels.keys()).map(String::as_str)
    }
}

/// Numbers are the same whatever their written form.
pub(super) fn is_same(one: &str, other: &str) -> bool {
    one == other || Number::parse(one).is_some_and(|number| Number::parse(other) == Some(number))
}
