//! What streams keep, and what they hide: metadata, deletion, tombstones. Pure.
//!
//! Stored as EventStoreDB does. The metadata of `x` are the events of `$$x`, of which the last one
//! counts. A soft delete truncates before the largest revision there is: it hides every event that
//! was there before it, and none that came later. A tombstone is the last event of a stream.

use std::{collections::HashMap, time::Duration};

use ids::Timestamp;
use serde_json::{Map, Value};

use crate::{
    event::{Expected, Recorded},
    log::{AppendError, LogError},
};

/// Type of the events that hold a stream's metadata.
pub const METADATA_TYPE: &str = "$metadata";
/// Type of the event that ends a stream for good.
pub const TOMBSTONE_TYPE: &str = "$streamDeleted";
/// Truncating before this revision deletes what is there.
pub const DELETED: u64 = i64::MAX as u64;

const MAX_COUNT: &str = "$maxCount";
const MAX_AGE: &str = "$maxAge";
const TRUNCATE_BEFORE: &str = "$tb";

/// What a stream keeps. Empty: everything, for ever.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StreamMetadata {
    /// Only the newest events, so many; at least 1.
    pub max_count: Option<u64>,
    /// Only events this young; whole seconds, at least 1.
    pub max_age: Option<Duration>,
    /// Only events from this revision on. [`DELETED`]: only those that come later.
    pub truncate_before: Option<u64>,
    /// Whatever else there is, kept as it is.
    pub custom: Map<String, Value>,
}

impl StreamMetadata {
    /// As it is stored.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let mut json = self.custom.clone();
        let numbers = [
            (MAX_COUNT, self.max_count),
            (MAX_AGE, self.max_age.map(|age| age.as_secs())),
            (TRUNCATE_BEFORE, self.truncate_before),
        ];
        for (name, number) in numbers {
            if let Some(number) = number {
                json.insert(name.to_owned(), number.into());
            }
        }
        Value::Object(json).to_string().into_bytes()
    }

    pub fn from_json(json: &[u8]) -> Result<Self, LogError> {
        let mut custom: Map<String, Value> = serde_json::from_slice(json).map_err(|error| {
            LogError::Invalid(format!("a stream's metadata is a JSON object: {error}"))
        })?;
        let mut number = |name: &str, least| match custom.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match value.as_u64().filter(|value| (least..=DELETED).contains(value)) {
                Some(number) => Ok(Some(number)),
                None => Err(LogError::Invalid(format!(
                    "`{name}` in a stream's metadata is a whole number from {least} to {DELETED}, not {value}"
                ))),
            },
        };
        Ok(Self {
            max_count: number(MAX_COUNT, 1)?,
            max_age: number(MAX_AGE, 1)?.map(Duration::from_secs),
            truncate_before: number(TRUNCATE_BEFORE, 0)?,
            custom,
        })
    }

    /// Whether it comes back from its stored form as it is.
    pub(crate) fn check(&self) -> Result<(), LogError> {
        let again = Self::from_json(&self.to_json())?;
        if again == *self {
            Ok(())
        } else {
            Err(LogError::Invalid(format!(
                "a stream's metadata must not name `{MAX_COUNT}`, `{MAX_AGE}` or `{TRUNCATE_BEFORE}` among its own, and an age has whole seconds: {self:?}"
            )))
        }
    }
}

/// The stream that holds another's metadata.
#[must_use]
pub fn metadata_stream(stream: &str) -> String {
    format!("$${stream}")
}

/// The stream whose metadata this one holds.
#[must_use]
pub fn subject(stream: &str) -> Option<&str> {
    stream.strip_prefix("$$")
}

/// Where a stream stands.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Standing {
    /// How many events were ever appended to it.
    pub(crate) next_revision: u64,
    /// Nothing is appended to it or read from it any more.
    pub(crate) tombstoned: bool,
    pub(crate) metadata: StreamMetadata,
    /// The last revision of its metadata.
    pub(crate) metadata_revision: Option<u64>,
    /// If its metadata truncates before [`DELETED`]: the next revision when that was stored.
    pub(crate) deleted_before: Option<u64>,
}

impl Standing {
    pub(crate) fn last_revision(&self) -> Option<u64> {
        self.next_revision.checked_sub(1)
    }

    /// Whether nothing came after its soft delete.
    fn is_deleted(&self) -> bool {
        self.deleted_before == Some(self.next_revision)
    }

    /// Whether an append may go on.
    pub(crate) fn check(&self, stream: &str, expected: Expected) -> Result<(), AppendError> {
        if self.tombstoned {
            return Err(AppendError::Deleted { stream: stream.to_owned() });
        }
        let current = self.last_revision();
        let met = match expected {
            Expected::None if self.is_deleted() => true,
            Expected::Exists if self.is_deleted() => false,
            expected => expected.is_met_by(current),
        };
        if met {
            Ok(())
        } else {
            Err(AppendError::Conflict { stream: stream.to_owned(), expected, current })
        }
    }

    /// Where the events of an append with this expectation lie, if it is a retry.
    pub(crate) fn places_of_retry(&self, expected: Expected) -> [Option<u64>; 2] {
        match expected {
            Expected::None => [Some(0), Some(self.truncated_before()).filter(|first| *first > 0)],
            Expected::Revision(revision) => [revision.checked_add(1), None],
            Expected::Any | Expected::Exists => [None, None],
        }
    }

    /// Whether an append with this expectation can have gone there earlier: without events a stream
    /// was only before its first one, and where a deletion hides what was before.
    pub(crate) fn may_have_gone_to(&self, first: u64, expected: Expected) -> bool {
        match expected {
            Expected::Any | Expected::Exists => true,
            Expected::None => first <= self.truncated_before(),
            Expected::Revision(revision) => revision.checked_add(1) == Some(first),
        }
    }

    /// The first revision that neither truncation nor deletion hides.
    pub(crate) fn truncated_before(&self) -> u64 {
        self.deleted_before.or(self.metadata.truncate_before).unwrap_or(0)
    }

    /// Whether it depends on the stream's length what is to be seen of it.
    pub(crate) fn counts(&self, stream: &str) -> bool {
        subject(stream).is_some() || self.metadata.max_count.is_some()
    }

    /// What is to be seen of the stream.
    pub(crate) fn visible(&self, stream: &str, now: Timestamp) -> Visible {
        if subject(stream).is_some() {
            return Visible { from: self.next_revision.saturating_sub(1), since: Timestamp(0) };
        }
        let counted =
            self.metadata.max_count.map_or(0, |most| self.next_revision.saturating_sub(most));
        let since = self.metadata.max_age.map_or(0, |age| {
            now.as_millis().saturating_sub(u64::try_from(age.as_millis()).unwrap_or(u64::MAX))
        });
        Visible { from: counted.max(self.truncated_before()), since: Timestamp(since) }
    }
}

/// The part of a stream that is to be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Visible {
    /// The first revision.
    pub(crate) from: u64,
    /// When the oldest was recorded.
    pub(crate) since: Timestamp,
}

impl Visible {
    pub(crate) fn shows(self, recorded: &Recorded) -> bool {
        recorded.revision >= self.from && recorded.recorded_at >= self.since
    }
}

/// What is known of streams that have metadata or a tombstone; all others are ordinary.
#[derive(Debug, Default)]
pub(crate) struct Standings(HashMap<Box<str>, Standing>);

impl Standings {
    /// Whether an event says something about a stream.
    pub(crate) fn concerns(stream: &str, event_type: &str) -> bool {
        event_type == TOMBSTONE_TYPE || subject(stream).is_some()
    }

    pub(crate) fn is_tombstone(event_type: &str) -> bool {
        event_type == TOMBSTONE_TYPE
    }

    /// Whether such metadata delete their stream, so that its length counts.
    pub(crate) fn deletes(data: &[u8]) -> bool {
        StreamMetadata::from_json(data)
            .is_ok_and(|metadata| metadata.truncate_before == Some(DELETED))
    }

    /// Takes an event in. `length_of` is how many events a stream has.
    pub(crate) fn note(
        &mut self,
        stream: &str,
        event_type: &str,
        revision: u64,
        data: &[u8],
        length_of: impl FnOnce(&str) -> u64,
    ) {
        if event_type == TOMBSTONE_TYPE {
            self.0.entry(stream.into()).or_default().tombstoned = true;
        } else if let Some(subject) = subject(stream) {
            let standing = self.0.entry(subject.into()).or_default();
            // What is no metadata hides nothing.
            standing.metadata = StreamMetadata::from_json(data).unwrap_or_default();
            standing.metadata_revision = Some(revision);
            let deletes = standing.metadata.truncate_before == Some(DELETED);
            standing.deleted_before = deletes.then(|| length_of(subject));
        }
    }

    pub(crate) fn standing(&self, stream: &str, next_revision: u64) -> Standing {
        let known = subject(stream).map_or_else(
            || self.0.get(stream).cloned(),
            // Metadata have none of their own, and end with their stream.
            |subject| {
                let tombstoned = self.0.get(subject).is_some_and(|standing| standing.tombstoned);
                Some(Standing { tombstoned, ..Standing::default() })
            },
        );
        Standing { next_revision, ..known.unwrap_or_default() }
    }
}
