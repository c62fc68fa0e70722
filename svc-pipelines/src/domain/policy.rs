//! How the runs of a pipeline are treated: kept here, acted upon by the scheduler, whose rules these are.

use std::collections::BTreeSet;

use super::spec::{InvalidField, invalid};

/// The furthest that a priority may be from 0.
const HIGHEST_PRIORITY: i32 = 100;
const MOST_GROUPS: usize = 8;
const LONGEST_GROUP: usize = 64;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Higher is sooner.
    pub priority: i32,
    /// Named groups with a common limit; each once, sorted, in lower case.
    pub groups: Vec<String>,
}

impl Policy {
    pub(super) fn check(self) -> Result<Self, InvalidField> {
        let Self { priority, groups } = self;
        if !(-HIGHEST_PRIORITY..=HIGHEST_PRIORITY).contains(&priority) {
            let why = format!(
                "{priority} is out of range: use a whole number from -{HIGHEST_PRIORITY} to {HIGHEST_PRIORITY}"
            );
            return invalid("priority", why);
        }
        if groups.len() > MOST_GROUPS {
            return invalid("groups", format!("are {}, more than {MOST_GROUPS}", groups.len()));
        }
        let groups: Result<BTreeSet<_>, _> = groups.iter().map(|name| group(name)).collect();
        Ok(Self { priority, groups: groups?.into_iter().collect() })
    }
}

fn group(text: &str) -> Result<String, InvalidField> {
    let name = text.trim().to_ascii_lowercase();
    let is_fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if !(1..=LONGEST_GROUP).contains(&name.len()) || !name.chars().all(is_fine) {
        let start: String = name.chars().take(80).collect();
        let why = format!(
            "`{}` is no name of a group: use 1 to {LONGEST_GROUP} letters from a to z, digits, `.`, `_` and `-`",
            start.escape_debug()
        );
        return invalid("groups", why);
    }
    Ok(name)
}
