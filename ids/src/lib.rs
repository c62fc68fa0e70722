//! Typed identifiers, digests and timestamps.
//!
//! Everything that crosses a crate boundary is named by its own type, so that a `RunId` can never be
//! passed where a `WorkerId` is expected. Text forms are Gaia's: plain UUIDs, plain numbers, hex.
//! This crate mints nothing and reads no clock.

use std::{fmt, str::FromStr, time::Duration};

use sha2::{Digest as _, Sha256};
use uuid::Uuid;

/// A text that is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a valid {kind}: expected {expected}")]
pub struct ParseIdError {
    kind: &'static str,
    text: String,
    expected: &'static str,
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $Name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $Name(Uuid);

        impl $Name {
            /// Ids are made at the edge of the system, never by a domain.
            #[must_use]
            pub const fn from_uuid(uuid: Uuid) -> Self {
                Self(uuid)
            }

            #[must_use]
            pub const fn as_uuid(self) -> Uuid {
                self.0
            }
        }

        impl fmt::Display for $Name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $Name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($Name), "({})"), self.0)
            }
        }

        impl FromStr for $Name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                Uuid::try_parse(text).map(Self).map_err(|_| ParseIdError {
                    kind: $kind,
                    text: shorten(text),
                    expected: "a UUID",
                })
            }
        }
    };
}

uuid_id!(/// One run of a pipeline, or one build of it (Gaia's `uniqueid` of a run).
    RunId, "run id");
uuid_id!(/// A machine that runs pipelines (Gaia's `uniqueid` of a worker).
    WorkerId, "worker id");
uuid_id!(/// Proves that a report belongs to the current attempt of a run.
    LeaseToken, "lease token");
uuid_id!(/// A token that lets workers join; only its hash is known to the server.
    JoinTokenId, "join token id");
uuid_id!(/// One event of the log.
    EventId, "event id");

macro_rules! number_id {
    ($(#[$doc:meta])* $Name:ident, $inner:ty, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $Name(pub $inner);

        impl fmt::Display for $Name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $Name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($Name), "({})"), self.0)
            }
        }

        impl FromStr for $Name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                text.parse().map(Self).map_err(|_| ParseIdError {
                    kind: $kind,
                    text: shorten(text),
                    expected: "a number",
                })
            }
        }
    };
}

number_id!(/// A pipeline, from 1.
    PipelineId, u64, "pipeline id");
number_id!(/// A run within its pipeline, from 1; 0 for builds.
    RunNumber, u64, "run number");
number_id!(/// A try of a run, from 1.
    Attempt, u32, "attempt");
number_id!(/// A job within its pipeline; chosen by the pipeline's SDK, opaque.
    JobId, u32, "job id");

/// The sha256 of some bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl TryFrom<&[u8]> for Digest {
    type Error = ParseIdError;

    fn try_from(bytes: &[u8]) -> Result<Self, ParseIdError> {
        bytes.try_into().map(Self).map_err(|_| ParseIdError {
            kind: "digest",
            text: format!("{} bytes", bytes.len()),
            expected: "a sha256 of 32 bytes",
        })
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

impl FromStr for Digest {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let error = || ParseIdError {
            kind: "digest",
            text: shorten(text),
            expected: "a sha256 of 64 hex digits",
        };
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(error());
        }
        let mut bytes = [0; 32];
        for (byte, at) in bytes.iter_mut().zip((0..64).step_by(2)) {
            *byte = u8::from_str_radix(&text[at..at + 2], 16).map_err(|_| error())?;
        }
        Ok(Self(bytes))
    }
}

/// Milliseconds since the epoch, as stamped by the service that received a command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub u64);

impl Timestamp {
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// How long `self` is after `earlier`; zero when it is not.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl std::ops::Add<Duration> for Timestamp {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    }
}

/// What a message about bad input repeats of it.
fn shorten(text: &str) -> String {
    const MOST: usize = 60;
    if text.chars().count() <= MOST {
        return text.escape_debug().to_string();
    }
    let start: String = text.chars().take(MOST).collect();
    format!("{}…", start.escape_debug())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_id_reads_its_own_text() {
        let run = RunId::from_uuid(Uuid::from_u128(7));
        assert_eq!(run.to_string().parse(), Ok(run));
    }

    #[test]
    fn a_bad_id_is_named_in_the_error() {
        let error = "run-7".parse::<RunId>().unwrap_err();
        assert_eq!(error.to_string(), "`run-7` is not a valid run id: expected a UUID");
    }

    #[test]
    fn a_digest_reads_its_own_text_and_nothing_else() {
        let digest = Digest::of(b"gaia");
        assert_eq!(digest.to_string().parse(), Ok(digest));
        assert!("00".parse::<Digest>().is_err());
        assert!("zz".repeat(32).parse::<Digest>().is_err());
        assert!("+0".repeat(32).parse::<Digest>().is_err());
        assert!(Digest::try_from(&[0_u8; 31][..]).is_err());
    }

    #[test]
    fn an_error_does_not_repeat_a_megabyte_of_input() {
        let error = "x".repeat(1 << 20).parse::<WorkerId>().unwrap_err();
        assert!(error.to_string().len() < 200);
    }
}
