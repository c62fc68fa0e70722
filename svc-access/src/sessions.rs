//! Sessions: JSON Web Tokens, signed with HS256 by a key that only this service has.

use std::{fmt, path::Path, time::Duration};

use identity::IdentityError;
use ids::Timestamp;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, encode};
use serde::{Deserialize, Serialize};

use crate::domain::Generation;

pub(crate) struct Sessions {
    sign: EncodingKey,
    verify: DecodingKey,
    valid: Duration,
}

/// What a token says. What the user may do is looked up at each call, so that a change is felt at once. Times: seconds since the epoch, as the standard wants them.
#[derive(Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Claims {
    pub(crate) username: String,
    iat: u64,
    exp: u64,
    jti: String,
    /// Generation of the user's password: a new password ends the sessions of the old one.
    generation: u64,
}

/// A token, and when it ends.
#[derive(Debug)]
pub(crate) struct Issued {
    pub(crate) token: String,
    pub(crate) expires_at: Timestamp,
}

impl Sessions {
    /// With the key in the file, which is made if it is missing.
    pub(crate) fn open(key_file: &Path, valid: Duration) -> Result<Self, IdentityError> {
        let key = identity::secret_file(key_file)?;
        let (sign, verify) = (EncodingKey::from_secret(&*key), DecodingKey::from_secret(&*key));
        Ok(Self { sign, verify, valid })
    }

    pub(crate) fn issue(&self, username: &str, generation: Generation, now: Timestamp) -> Issued {
        let exp = (now + self.valid).as_millis() / 1_000;
        let claims = Claims {
            username: username.into(),
            iat: now.as_millis() / 1_000,
            exp,
            jti: identity::random_hex::<16>(),
            generation: generation.0,
        };
        let token = encode(&Header::new(Algorithm::HS256), &claims, &self.sign)
            .expect("claims are JSON, and the key fits the algorithm");
        Issued { token, expires_at: Timestamp(exp * 1_000) }
    }

    /// `None`: forged or expired.
    pub(crate) fn claims(&self, token: &str, now: Timestamp) -> Option<Claims> {
        let mut validation = Validation::new(Algorithm::HS256);
        // Checked below, by the clock of this service.
        validation.validate_exp = false;
        let claims: Claims = decode(token, &self.verify, &validation).ok()?.claims;
        (claims.expires_at() > now).then_some(claims)
    }
}

impl Claims {
    pub(crate) fn expires_at(&self) -> Timestamp {
        Timestamp(self.exp.saturating_mul(1_000))
    }

    pub(crate) fn generation(&self) -> Generation {
        Generation(self.generation)
    }
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sessions")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_700_000_000_500);
    const HOUR: Duration = Duration::from_hours(1);

    fn sessions(dir: &Path) -> Sessions {
        Sessions::open(&dir.join("session.key"), HOUR).unwrap()
    }

    #[test]
    fn a_token_is_good_until_it_expires_also_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let issued = sessions(dir.path()).issue("ann", Generation(3), NOW);
        assert_eq!(issued.expires_at, Timestamp(1_700_003_600_000));
        let sessions = sessions(dir.path());
        let claims = sessions.claims(&issued.token, NOW).unwrap();
        assert_eq!((claims.username.as_str(), claims.generation()), ("ann", Generation(3)));
        assert_eq!(claims.expires_at(), issued.expires_at);
        let last = Timestamp(issued.expires_at.0 - 1);
        assert!(sessions.claims(&issued.token, last).is_some());
        assert_eq!(sessions.claims(&issued.token, issued.expires_at), None);
    }

    #[test]
    fn a_forged_token_is_no_token() {
        let dir = tempfile::tempdir().unwrap();
        let sessions = sessions(dir.path());
        let good = sessions.issue("ann", Generation(1), NOW).token;
        let (other_dir, claims) = (tempfile::tempdir().unwrap(), sessions.claims(&good, NOW));
        let foreign = self::sessions(other_dir.path()).issue("ann", Generation(1), NOW).token;
        let other_algorithm =
            encode(&Header::new(Algorithm::HS384), &claims.unwrap(), &sessions.sign).unwrap();
        // {"alg":"none","typ":"JWT"}
        let parts: Vec<&str> = good.split('.').collect();
        let unsigned = format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{}.", parts[1]);
        let swapped = {
            let bob = sessions.issue("bob", Generation(1), NOW).token;
            let bob: Vec<&str> = bob.split('.').collect();
            format!("{}.{}.{}", parts[0], bob[1], parts[2])
        };
        for forged in [foreign, other_algorithm, unsigned, swapped, "x".into(), String::new()] {
            assert_eq!(sessions.claims(&forged, NOW), None, "{forged}");
        }
        assert!(sessions.claims(&good, NOW).is_some());
    }
}
