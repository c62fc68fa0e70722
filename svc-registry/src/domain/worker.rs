//! What is known of a worker.

use ids::{Timestamp, WorkerId};

use super::Pause;

/// Who a new worker is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    pub worker: WorkerId,
    pub name: String,
    pub tags: Vec<String>,
    /// The embedded agent of a server.
    pub primary: bool,
    /// Hex.
    pub certificate_serial: String,
    pub certificate_expires_at: Timestamp,
}

/// What a worker says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Description {
    /// How many runs it takes at once; 0: not said.
    pub slots: u32,
    pub tags: Vec<String>,
    /// Those of the tags that the agent found by itself.
    pub detected: Vec<String>,
    /// Empty: not said; like the next two.
    pub os: String,
    pub arch: String,
    pub version: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Worker {
    pub name: String,
    pub primary: bool,
    /// It joined by a token, as our agents do, and not by the registration secret, Gaia's way.
    pub by_token: bool,
    pub description: Description,
    pub certificate_serial: String,
    pub certificate_expires_at: Timestamp,
    pub registered_at: Timestamp,
    /// The newest sign of life that the log knows of.
    pub last_contact_at: Timestamp,
    pub lost: bool,
    /// `None`: it takes runs.
    pub pause: Option<Pause>,
    /// `None`: it is registered.
    pub deregistered: Option<Deregistered>,
    /// Beside those that it says of itself.
    pub operator_tags: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deregistered {
    /// Why.
    pub note: String,
    /// It is not even told to stop.
    pub forced: bool,
}

impl Worker {
    pub(super) fn new(registration: &Registration, at: Timestamp) -> Self {
        Self {
            name: registration.name.clone(),
            primary: registration.primary,
            by_token: false,
            description: Description { tags: registration.tags.clone(), ..Description::default() },
            certificate_serial: registration.certificate_serial.clone(),
            certificate_expires_at: registration.certificate_expires_at,
            registered_at: at,
            last_contact_at: at,
            lost: false,
            pause: None,
            deregistered: None,
            operator_tags: vec![],
        }
    }

    pub(super) fn due(&self) -> Option<Timestamp> {
        self.pause.as_ref().filter(|_| self.deregistered.is_none()).and_then(Pause::due)
    }

    /// Neither lost nor deregistered.
    #[must_use]
    pub fn is_present(&self) -> bool {
        !self.lost && self.deregistered.is_none()
    }
}

impl Description {
    /// What was not said stays as it was known. Tags are always said: an empty list takes all away.
    pub(super) fn completed_by(self, known: &Self) -> Self {
        let or = |said: String, known: &String| if said.is_empty() { known.clone() } else { said };
        Self {
            slots: if self.slots == 0 { known.slots } else { self.slots },
            tags: self.tags,
            detected: self.detected,
            os: or(self.os, &known.os),
            arch: or(self.arch, &known.arch),
            version: or(self.version, &known.version),
        }
    }

    /// Tags are a set, and their case does not matter.
    pub(super) fn says_the_same_as(&self, other: &Self) -> bool {
        let sorted = |tags: &[String]| {
            let mut tags: Vec<_> = tags.iter().map(|tag| tag.to_lowercase()).collect();
            tags.sort_unstable();
            tags
        };
        let with_sorted_tags = |description: &Self| {
            let (tags, detected) = (sorted(&description.tags), sorted(&description.detected));
            Self { tags, detected, ..description.clone() }
        };
        with_sorted_tags(self) == with_sorted_tags(other)
    }
}
