//! What can be wrong with an identity.

use std::{io, path::PathBuf};

/// Lowercase fragments that fit "failed to …"; the cause is the source.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("read `{}`", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("write `{}`", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("use `{0}`: others can read it (mode {mode:o}); run `chmod 600 {0}`", path.display())]
    NotPrivate { path: PathBuf, mode: u32 },
    #[error(
        "use `{}`: it holds {found} bytes instead of {expected}; restore it from a backup",
        path.display()
    )]
    WrongLength { path: PathBuf, found: usize, expected: usize },
    #[error(
        "open the CA: `{}` is there but `{}` is not; restore it from a backup, or remove both to begin anew",
        present.display(),
        missing.display()
    )]
    HalfACa { present: PathBuf, missing: PathBuf },
    #[error("read the {what}, which should be PEM")]
    Pem { what: &'static str, source: rustls::pki_types::pem::Error },
    #[error("open the CA")]
    Ca(#[source] rcgen::Error),
    #[error(
        "roll over the CA: the key of its root is not in `{}`; put it back for as long as this takes",
        path.display()
    )]
    NoRootKey { path: PathBuf },
    #[error(
        "roll over the CA in `{}`: an early version made it, and it cannot vouch for another; to \
         begin anew, remove that folder, restart the server, and let all agents join again",
        path.display()
    )]
    OldCa { path: PathBuf },
    #[error("use the certificate: it belongs to another key; join again")]
    OtherKey,
    #[error("accept the certificate request: {0}")]
    Request(&'static str),
    #[error("make a certificate")]
    Issue(#[source] rcgen::Error),
    #[error("make a certificate: `{name}` is not a {what}: {why}")]
    InvalidName { what: &'static str, name: String, why: &'static str },
    #[error("make a certificate: it would be valid beyond the year 9999")]
    TooLong,
    #[error("set up TLS")]
    Tls(#[source] rustls::Error),
    #[error("set up the verification of client certificates")]
    Verifier(#[source] rustls::server::VerifierBuilderError),
    #[error("know a peer by its certificate: {0}")]
    NotAPeer(String),
    /// Another key, another context, or a damaged value: which of them cannot be told.
    #[error("decrypt a stored secret: it is damaged, or the master key is another one")]
    Sealed,
}
