//! The head of a log, signed: kept elsewhere, it later proves that the log still holds what it held.
//!
//! The chain covers every event up to a position, so whoever rewrites history, even with all hashes
//! made anew, can no longer show the chain that was signed. The signature is over these lines, each
//! with its line end, by the key of the certificate (see [`identity::signer`]):
//!
//! ```text
//! gaia log head 1
//! <position, decimal>
//! <chain, 64 hex digits>
//! <when it was signed, in milliseconds since 1970>
//! ```

use identity::{Credentials, IdentityError, Peer, StatementError};
use std::fmt::Write;

use ids::{Digest, Timestamp};
use serde::{Deserialize, Serialize};

/// The version of the text that is signed.
const VERSION: u32 = 1;
/// Services that hold a log or stand before it, so that no other certificate of the CA can vouch.
const SIGNERS: [&str; 2] = ["gateway", "log"];

/// How far a log reaches, and the chain up to there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Of the last event.
    pub position: u64,
    pub chain: Digest,
}

/// A head as it is kept: JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedHead {
    version: u32,
    pub position: u64,
    /// Hex.
    pub chain: String,
    /// When it was signed, in milliseconds since 1970.
    pub at: u64,
    /// PEM.
    certificate: String,
    /// ASN.1 DER in hex.
    signature: String,
}

/// Why a signed head proves nothing.
#[derive(Debug, thiserror::Error)]
pub enum HeadError {
    #[error("the signed head has version {0}, and this program reads version {VERSION}")]
    Version(u32),
    #[error("the signed head's {0} is not hex digits")]
    Hex(&'static str),
    #[error("the signed head proves nothing")]
    Statement(#[from] StatementError),
    #[error("the signed head proves nothing: {0:?} signed it, and only the gateway or the log may")]
    Signer(Peer),
}

impl SignedHead {
    pub fn sign(head: Head, at: Timestamp, by: &Credentials) -> Result<Self, IdentityError> {
        let signature = by.sign(text(head, at).as_bytes())?;
        Ok(Self {
            version: VERSION,
            position: head.position,
            chain: head.chain.to_string(),
            at: at.as_millis(),
            certificate: by.certificate.clone(),
            signature: hex(&signature),
        })
    }

    /// What was signed, if the CA (PEM) vouches for who signed it.
    pub fn check(&self, ca: &str) -> Result<Head, HeadError> {
        if self.version != VERSION {
            return Err(HeadError::Version(self.version));
        }
        let chain = self.chain.parse().map_err(|_| HeadError::Hex("chain"))?;
        let head = Head { position: self.position, chain };
        let signature = unhex(&self.signature).ok_or(HeadError::Hex("signature"))?;
        let at = Timestamp(self.at);
        let text = text(head, at);
        match identity::signer(ca, &self.certificate, at, text.as_bytes(), &signature)? {
            Peer::Service(name) if SIGNERS.contains(&name.as_str()) => Ok(head),
            other => Err(HeadError::Signer(other)),
        }
    }
}

fn text(head: Head, at: Timestamp) -> String {
    format!("gaia log head {VERSION}\n{}\n{}\n{}\n", head.position, head.chain, at.as_millis())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String takes everything");
        text
    })
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.is_ascii() || !text.len().is_multiple_of(2) {
        return None;
    }
    let byte = |at| u8::from_str_radix(&text[at..at + 2], 16).ok();
    (0..text.len()).step_by(2).map(byte).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use identity::Authority;

    use super::*;
    use crate::Clock;

    #[test]
    fn a_head_is_believed_from_the_gateway_and_unchanged_only() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::open_or_create(dir.path()).unwrap();
        let by = |name: &str| {
            authority.issue_service(name, &[], Duration::from_hours(1)).unwrap().credentials
        };
        let head = Head { position: 41, chain: Digest::from_bytes([7; 32]) };
        let now = Clock::system().now();
        let signed = SignedHead::sign(head, now, &by("gateway")).unwrap();
        let kept: SignedHead =
            serde_json::from_str(&serde_json::to_string(&signed).unwrap()).unwrap();
        assert_eq!(kept.check(&authority.ca_pem()).unwrap(), head);

        let changed = [
            SignedHead { position: 40, ..kept.clone() },
            SignedHead { at: kept.at + 1, ..kept.clone() },
            SignedHead { chain: "08".repeat(32), ..kept.clone() },
            SignedHead { chain: "nonsense".into(), ..kept.clone() },
            SignedHead { version: 2, ..kept.clone() },
            SignedHead { signature: "é".into(), ..kept.clone() },
            SignedHead { certificate: String::new(), ..kept },
        ];
        for head in changed {
            assert!(head.check(&authority.ca_pem()).is_err(), "{head:?}");
        }
        let other = SignedHead::sign(head, now, &by("svc-logs")).unwrap();
        let error = other.check(&authority.ca_pem()).unwrap_err().to_string();
        assert!(error.contains("svc-logs"), "{error}");
    }
}
