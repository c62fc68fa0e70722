//! Encryption of what must be stored but not be readable.
//!
//! Each value gets its own data key, which the master key wraps, so a later change of the master key
//! touches 48 bytes a value. Stored form, version 1:
//!
//! ```text
//! version │ nonce │ data key, encrypted │ nonce │ value, encrypted
//!    1    │  24   │      32 + 16        │  24   │   n + 16
//! ```

use std::{fmt, path::Path, sync::Arc};

use chacha20poly1305::{
    KeyInit as _, XChaCha20Poly1305, XNonce,
    aead::{Aead as _, Payload},
};
use zeroize::Zeroizing;

use crate::{IdentityError, files::secret_file, random};

/// Encrypts what must be stored but not be readable: XChaCha20-Poly1305, a data key per value,
/// wrapped by the master key. `context` is bound to the value: what was sealed as one thing cannot be
/// opened as another.
#[derive(Clone)]
pub struct MasterKey(Arc<Zeroizing<[u8; 32]>>);

const VERSION: u8 = 1;
const NONCE: usize = 24;
const WRAPPED_KEY: usize = 32 + 16;

impl MasterKey {
    /// Reads 32 bytes from the file (0600; refuses one that others can read), or makes it.
    pub fn open_or_create(path: &Path) -> Result<Self, IdentityError> {
        secret_file(path).map(|key| Self(Arc::new(key)))
    }

    pub fn seal(&self, context: &str, plain: &[u8]) -> Vec<u8> {
        let data_key = Zeroizing::new(random());
        let mut sealed = vec![VERSION];
        sealed.extend(encrypt(&self.0, &bound("key", context), data_key.as_slice()));
        sealed.extend(encrypt(&data_key, &bound("value", context), plain));
        sealed
    }

    pub fn open(&self, context: &str, sealed: &[u8]) -> Result<Vec<u8>, IdentityError> {
        let [VERSION, rest @ ..] = sealed else { return Err(IdentityError::Sealed) };
        let (wrapped, value) =
            rest.split_at_checked(NONCE + WRAPPED_KEY).ok_or(IdentityError::Sealed)?;
        let data_key = Zeroizing::new(decrypt(&self.0, &bound("key", context), wrapped)?);
        let data_key = data_key.as_slice().try_into().map_err(|_| IdentityError::Sealed)?;
        decrypt(&Zeroizing::new(data_key), &bound("value", context), value)
    }
}

fn bound(what: &str, context: &str) -> Vec<u8> {
    format!("gaia {VERSION} {what} {context}").into_bytes()
}

fn encrypt(key: &[u8; 32], bound: &[u8], plain: &[u8]) -> Vec<u8> {
    let nonce: [u8; NONCE] = random();
    let encrypted = XChaCha20Poly1305::new(key.into())
        .encrypt(&XNonce::from(nonce), Payload { msg: plain, aad: bound })
        .expect("fails only beyond 256 GiB");
    [&nonce[..], &encrypted].concat()
}

fn decrypt(key: &[u8; 32], bound: &[u8], sealed: &[u8]) -> Result<Vec<u8>, IdentityError> {
    let (nonce, encrypted) = sealed.split_first_chunk::<NONCE>().ok_or(IdentityError::Sealed)?;
    XChaCha20Poly1305::new(key.into())
        .decrypt(&XNonce::from(*nonce), Payload { msg: encrypted, aad: bound })
        .map_err(|_| IdentityError::Sealed)
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterKey")
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    fn key() -> MasterKey {
        MasterKey(Arc::new(Zeroizing::new(random())))
    }

    #[test]
    fn a_sealed_value_opens_in_its_own_context_only() {
        let key = key();
        let sealed = key.seal("secret/a", b"x=1\ny=2");
        assert_eq!(key.open("secret/a", &sealed).unwrap(), b"x=1\ny=2");
        assert!(key.open("secret/b", &sealed).is_err());
        assert!(self::key().open("secret/a", &sealed).is_err());
        assert!(!sealed.windows(3).any(|window| window == b"x=1"));
        assert_ne!(sealed, key.seal("secret/a", b"x=1\ny=2"));
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let key = key();
        let sealed = key.seal("c", b"value");
        for bit in 0..sealed.len() * 8 {
            let mut damaged = sealed.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(key.open("c", &damaged).is_err(), "bit {bit}");
        }
        for length in 0..sealed.len() {
            assert!(key.open("c", &sealed[..length]).is_err(), "cut to {length}");
        }
    }

    #[test]
    fn the_key_file_is_made_once_and_must_stay_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/master.key");
        let sealed = MasterKey::open_or_create(&path).unwrap().seal("c", b"value");
        let again = MasterKey::open_or_create(&path).unwrap();
        assert_eq!(again.open("c", &sealed).unwrap(), b"value");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let folder = fs::metadata(path.parent().unwrap()).unwrap();
        assert_eq!(folder.permissions().mode() & 0o777, 0o700);

        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let error = MasterKey::open_or_create(&path).unwrap_err().to_string();
        assert!(error.contains("chmod 600"), "{error}");

        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, "short").unwrap();
        let error = MasterKey::open_or_create(&path).unwrap_err().to_string();
        assert!(error.contains("5 bytes instead of 32"), "{error}");
    }

    #[test]
    fn debug_shows_no_key() {
        assert_eq!(format!("{:?}", key()), "MasterKey");
    }
}
