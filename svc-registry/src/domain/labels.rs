//! The tags of a worker, and who gave it each.

use super::{Rejection, Worker};

/// Tags of one worker that operators gave it.
pub(super) const MOST: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// The agent found it by itself.
    Detected,
    /// The agent's settings say so.
    Configured,
    Operator,
}

impl Source {
    pub(super) const fn by_whom(self) -> &'static str {
        match self {
            Self::Detected => "was detected by the worker itself",
            Self::Configured => "is in the settings of the worker's agent",
            Self::Operator => "was added by an operator",
        }
    }
}

/// What an operator changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Changed {
    pub(super) added: Vec<String>,
    pub(super) removed: Vec<String>,
}

impl Worker {
    /// All tags, each once; negative ones begin with `-`. Of a tag that has several sources the last
    /// one is told.
    #[must_use]
    pub fn labels(&self) -> Vec<(&str, Source)> {
        let description = &self.description;
        let is_detected = |tag: &str| description.detected.iter().any(|found| same(found, tag));
        let own = description.tags.iter().filter(|tag| !holds(&self.operator_tags, tag));
        let own = own.map(|tag| {
            let source = if is_detected(tag) { Source::Detected } else { Source::Configured };
            (tag.as_str(), source)
        });
        own.chain(self.operator_tags.iter().map(|tag| (tag.as_str(), Source::Operator))).collect()
    }

    /// Whether runs that ask for the tag may come here.
    #[must_use]
    pub fn offers(&self, wanted: &str) -> bool {
        let labels = || self.labels().into_iter().map(|(tag, _)| tag);
        let is_denied = labels().filter_map(denied).any(|denied| same(denied, wanted));
        !is_denied && labels().any(|tag| same(tag, wanted))
    }

    /// Whether operators or its join token gave it the tag.
    pub(super) fn was_given(&self, wanted: &str) -> bool {
        holds(&self.operator_tags, wanted)
    }

    /// A tag takes the place of its opposite. What is already so is left out.
    pub(super) fn retag(&self, add: Vec<String>, remove: &[String]) -> Result<Changed, Rejection> {
        agree(&add)?;
        if let Some(tag) = add.iter().find(|tag| holds(remove, tag)) {
            return Err(Rejection::Contradiction(tag.clone()));
        }
        let mut changed = Changed::default();
        let mut drop = |known: &String| {
            if !changed.removed.contains(known) {
                changed.removed.push(known.clone());
            }
        };
        for tag in remove {
            match self.operator_tags.iter().find(|known| same(known, tag)) {
                Some(known) => drop(known),
                None => self.must_not_say(tag)?,
            }
        }
        for tag in &add {
            let opposite = opposite(tag);
            self.operator_tags.iter().filter(|known| same(known, &opposite)).for_each(&mut drop);
        }
        changed.added = add.into_iter().filter(|tag| !holds(&self.operator_tags, tag)).collect();
        let count = self.operator_tags.len() - changed.removed.len() + changed.added.len();
        if count > MOST {
            return Err(Rejection::TooManyTags(count));
        }
        Ok(changed)
    }

    /// An operator cannot remove what the worker says of itself.
    fn must_not_say(&self, tag: &str) -> Result<(), Rejection> {
        match self.labels().into_iter().find(|(known, _)| same(known, tag)) {
            Some((known, source)) => {
                let (tag, by_whom) = (known.to_owned(), source.by_whom());
                Err(Rejection::OwnTag { opposite: opposite(&tag), tag, by_whom })
            }
            None => Ok(()),
        }
    }
}

/// Tags that are given together; none is the opposite of another.
pub(super) fn agree(tags: &[String]) -> Result<(), Rejection> {
    match tags.iter().find(|tag| holds(tags, &opposite(tag))) {
        Some(tag) => Err(Rejection::Contradiction(tag.clone())),
        None => Ok(()),
    }
}

/// What a negative tag denies.
fn denied(tag: &str) -> Option<&str> {
    tag.strip_prefix(['-', '!']).map(str::trim)
}

fn opposite(tag: &str) -> String {
    denied(tag).map_or_else(|| format!("-{tag}"), str::to_owned)
}

fn holds(tags: &[String], tag: &str) -> bool {
    tags.iter().any(|known| same(known, tag))
}

/// Case does not tell tags apart.
pub(super) fn same(one: &str, other: &str) -> bool {
    one.to_lowercase() == other.to_lowercase()
}
