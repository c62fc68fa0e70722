//! Who is who: the CA, certificates, peers, TLS configurations, sealed secrets.
//!
//! In reading order: [`Authority`] makes certificates (`ca` is its folder), for a [`Request`] of a
//! [`Key`] that stays where it is; [`Credentials`] holds one, [`Live`] replaces them in a process that
//! runs, `tls` turns them into rustls configurations; [`Peer`] is what the other side proved to be,
//! [`JoinToken`] lets a worker ask for its first certificate, [`MasterKey`] seals what is stored,
//! `statement` is what a service signs for others to keep.
//!
//! Invariants:
//! - Identity comes from a certificate that our CA signed, never from a header or a host name.
//! - A worker's certificate cannot act as a server.
//! - A certificate is looked at in every handshake: no session is resumed.
//! - No `Debug` shows a key; no key is written to a file that others can read.

mod authority;
mod ca;
mod credentials;
mod error;
mod files;
mod live;
mod peer;
mod request;
mod sealed;
mod statement;
#[cfg(test)]
mod tests;
mod tls;
mod token;

pub use authority::Authority;
pub use credentials::{Credentials, Issued, Signed, Validity, issuer_of, validity_of};
pub use error::IdentityError;
pub use files::{read_private, secret_file, write_private};
pub use live::{Live, Revoked};
pub use peer::{Peer, peer_of};
pub use request::{Key, Request};
pub use sealed::MasterKey;
pub use statement::{StatementError, signer};
pub use tls::{
    anonymous_client_tls, client_tls, install_crypto, live_client_tls, live_server_tls,
    pinned_client_tls, server_tls,
};
pub use token::{JoinToken, ParseTokenError};

/// Random bytes that nobody can guess.
#[must_use]
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rustls::crypto::aws_lc_rs::default_provider()
        .secure_random
        .fill(&mut bytes)
        .expect("the system's source of randomness answers");
    bytes
}

/// The same as hex digits, two for each byte.
#[must_use]
pub fn random_hex<const N: usize>() -> String {
    peer::hex(&random::<N>())
}
