//! Who is who: the CA, certificates, peers, TLS configurations, sealed secrets.
//!
//! In reading order: [`Authority`] makes certificates, [`Credentials`] holds one, `tls` turns it into
//! rustls configurations, [`Peer`] is what the other side proved to be, [`MasterKey`] seals what is
//! stored.
//!
//! Invariants:
//! - Identity comes from a certificate that our CA signed, never from a header or a host name.
//! - A worker's certificate cannot act as a server.
//! - No `Debug` shows a key; no key is written to a file that others can read.

mod authority;
mod credentials;
mod error;
mod files;
mod peer;
mod sealed;
#[cfg(test)]
mod tests;
mod tls;

pub use authority::Authority;
pub use credentials::{Credentials, Issued};
pub use error::IdentityError;
pub use files::secret_file;
pub use peer::{Peer, peer_of};
pub use sealed::MasterKey;
pub use tls::{anonymous_client_tls, client_tls, install_crypto, server_tls};

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
