//! Join tokens as people pass them on: `gaia-join.<id>.<secret>.<CA fingerprint>`.
//!
//! The fingerprint pins the CA, so that whoever joins knows at the first connection that this is the
//! server which made the token.

use std::{fmt, str::FromStr};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use ids::{Digest, JoinTokenId};
use zeroize::Zeroizing;

use crate::random;

const PREFIX: &str = "gaia-join";
/// No token is longer.
const LONGEST: usize = 200;

/// Lets its holder join. Only its hash is kept at the server.
#[derive(Clone)]
pub struct JoinToken {
    pub id: JoinTokenId,
    secret: Zeroizing<[u8; 32]>,
    /// The sha256 of the certificate of the CA's root.
    pub ca: Digest,
}

/// A text that is no join token. It is not repeated, since it may be a secret all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this is not a whole join token: one looks like `gaia-join.ID.SECRET.FINGERPRINT`, and \
     `gaia worker token create` makes it"
)]
pub struct ParseTokenError;

impl JoinToken {
    #[must_use]
    pub fn new(id: JoinTokenId, ca: Digest) -> Self {
        Self { id, secret: Zeroizing::new(random()), ca }
    }

    /// What the server keeps of the secret. It has 256 random bits, so one hash is enough.
    #[must_use]
    pub fn secret_hash(&self) -> Digest {
        Digest::of(self.secret.as_slice())
    }

    /// The whole token. Show it once.
    #[must_use]
    pub fn to_text(&self) -> String {
        let encode = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        let (secret, ca) = (encode(self.secret.as_slice()), encode(self.ca.as_bytes()));
        format!("{PREFIX}.{}.{secret}.{ca}", self.id.as_uuid().simple())
    }

    /// Whether a text seems to be meant as one.
    #[must_use]
    pub fn is_meant_by(text: &str) -> bool {
        text.trim_start().starts_with(PREFIX)
    }
}

impl FromStr for JoinToken {
    type Err = ParseTokenError;

    fn from_str(text: &str) -> Result<Self, ParseTokenError> {
        let text = text.trim();
        let parts: Vec<&str> = text.split('.').collect();
        let [PREFIX, id, secret, ca] = parts[..] else { return Err(ParseTokenError) };
        if text.len() > LONGEST {
            return Err(ParseTokenError);
        }
        let bytes = |text: &str| -> Result<[u8; 32], ParseTokenError> {
            let bytes =
                Zeroizing::new(BASE64_URL_SAFE_NO_PAD.decode(text).map_err(|_| ParseTokenError)?);
            bytes.as_slice().try_into().map_err(|_| ParseTokenError)
        };
        Ok(Self {
            id: id.parse().map_err(|_| ParseTokenError)?,
            secret: Zeroizing::new(bytes(secret)?),
            ca: Digest::from_bytes(bytes(ca)?),
        })
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinToken({})", self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> JoinToken {
        JoinToken::new(JoinTokenId::from_uuid(uuid::Uuid::from_u128(7)), Digest::of(b"ca"))
    }

    #[test]
    fn a_token_reads_its_own_text_and_debug_shows_no_secret() {
        let token = token();
        let read: JoinToken = format!(" {}\n", token.to_text()).parse().unwrap();
        assert_eq!((read.id, read.ca), (token.id, token.ca));
        assert_eq!(read.secret_hash(), token.secret_hash());
        assert!(!token.to_text().contains(&token.secret_hash().to_string()));
        assert_eq!(format!("{token:?}"), "JoinToken(00000000-0000-0000-0000-000000000007)");
        assert_ne!(self::token().secret_hash(), token.secret_hash());
    }

    #[test]
    fn what_is_no_token_is_refused_and_not_repeated() {
        let whole = token().to_text();
        for text in [
            "",
            "gaia-join",
            "gaia-join...",
            &whole[1..],
            &whole[..whole.len() - 1],
            &format!("{whole}A"),
            &format!("{whole}.more"),
            &whole.replace('.', "/"),
            &format!("gaia-join.{}", "x".repeat(1 << 20)),
        ] {
            let error = text.parse::<JoinToken>().unwrap_err().to_string();
            assert!(error.contains("gaia worker token create") && error.len() < 200, "{error}");
        }
    }
}
