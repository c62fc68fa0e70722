//! How the runs of a pipeline are treated: kept here, acted upon by the scheduler, whose rules these are.

use std::collections::BTreeSet;

use super::spec::{InvalidField, invalid};

/// The furthest that a priority may be from 0.
const HIGHEST_PRIORITY: i32 = 100;
const MOST_GROUPS: usize = 8;
const LONGEST_GROUP: usize = 64;
const MOST_RETRIES: u32 = 100;
const LONGEST_RETRY_DELAY: u32 = 86_400;
const LONGEST_TIMEOUT: u32 = 30 * 86_400;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Higher is sooner.
    pub priority: i32,
    /// Named groups with a common limit; each once, sorted, in lower case.
    pub groups: Vec<String>,
    pub on_worker_lost: OnWorkerLost,
    pub retries: u32,
    /// In seconds, like all times here.
    pub retry_delay: u32,
    pub infrastructure_retries: Option<u32>,
    /// 0: none, likewise below.
    pub queue_timeout: u32,
    pub start_timeout: u32,
    pub run_timeout: u32,
    pub silence_timeout: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnWorkerLost {
    #[default]
    Requeue,
    Fail,
    Wait,
}

impl Policy {
    pub(super) fn check(self) -> Result<Self, InvalidField> {
        let (priority, groups) = (self.priority, &self.groups);
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
        let groups = groups?.into_iter().collect();
        let bounds = [
            ("retries", self.retries, MOST_RETRIES),
            ("retry_delay", self.retry_delay, LONGEST_RETRY_DELAY),
            (
                "infrastructure_retries",
                self.infrastructure_retries.unwrap_or_default(),
                MOST_RETRIES,
            ),
            ("queue_timeout", self.queue_timeout, LONGEST_TIMEOUT),
            ("start_timeout", self.start_timeout, LONGEST_TIMEOUT),
            ("run_timeout", self.run_timeout, LONGEST_TIMEOUT),
            ("silence_timeout", self.silence_timeout, LONGEST_TIMEOUT),
        ];
        match bounds.into_iter().find(|(_, value, most)| value > most) {
            Some((field, value, most)) => invalid(field, format!("{value} is more than {most}")),
            None => Ok(Self { groups, ..self }),
        }
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
