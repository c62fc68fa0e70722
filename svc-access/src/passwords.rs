//! Hashing of passwords with Argon2id. Slow on purpose, so it runs beside the runtime, a few at a time.

use std::sync::Arc;

use argon2::{Argon2, PasswordHasher as _, PasswordVerifier as _, password_hash::phc};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::spawn_blocking,
};

use crate::domain::PasswordHash;

/// Each takes 19 MiB while it runs.
const AT_ONCE: usize = 4;
const SHORTEST: usize = 8;
const LONGEST: usize = 1_024;

/// A password that cannot be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PasswordError {
    #[error("has less than {SHORTEST} characters; choose a longer one")]
    TooShort,
    #[error("has more than {LONGEST} bytes; choose a shorter one")]
    TooLong,
}

/// Cheap to clone.
#[derive(Clone)]
pub(crate) struct Passwords {
    running: Arc<Semaphore>,
    /// Verified instead of the hash of a user who does not exist, so that both take the same time.
    nobody: PasswordHash,
}

/// The right to work now.
pub(crate) struct Turn(#[expect(dead_code, reason = "held")] OwnedSemaphorePermit);

impl Passwords {
    pub(crate) async fn new() -> Self {
        let running = Arc::new(Semaphore::new(AT_ONCE));
        let nobody = PasswordHash(String::new());
        let mut passwords = Self { running, nobody };
        passwords.nobody = passwords.hash(SecretString::from(identity::random_hex::<16>())).await;
        passwords
    }

    pub(crate) async fn hash(&self, password: SecretString) -> PasswordHash {
        run(self.turn().await, move || {
            let hash = Argon2::default().hash_password(password.expose_secret().as_bytes());
            PasswordHash(hash.expect("a password of any length can be hashed").to_string())
        })
        .await
    }

    /// Whether it is the password; never so without a hash, but that takes as long.
    pub(crate) async fn verify(
        &self,
        turn: Turn,
        password: SecretString,
        hash: Option<PasswordHash>,
    ) -> bool {
        let exists = hash.is_some();
        let hash = hash.unwrap_or_else(|| self.nobody.clone());
        let fits = run(turn, move || {
            let password = password.expose_secret().as_bytes();
            phc::PasswordHash::new(&hash.0)
                .is_ok_and(|hash| Argon2::default().verify_password(password, &hash).is_ok())
        });
        fits.await && exists
    }

    /// Waits until the work of few enough others is left.
    pub(crate) async fn turn(&self) -> Turn {
        let turn = Arc::clone(&self.running).acquire_owned().await;
        Turn(turn.expect("the semaphore is never closed"))
    }
}

async fn run<T: Send + 'static>(turn: Turn, work: impl FnOnce() -> T + Send + 'static) -> T {
    let done = spawn_blocking(move || {
        // Held until the work is done, also when nobody waits for it any more.
        let _turn = turn;
        work()
    });
    done.await.expect("hashing does not panic")
}

pub(crate) fn check(password: &str) -> Result<(), PasswordError> {
    if password.chars().count() < SHORTEST {
        Err(PasswordError::TooShort)
    } else if password.len() > LONGEST {
        Err(PasswordError::TooLong)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_hash_fits_its_password_alone() {
        let passwords = Passwords::new().await;
        let hash = passwords.hash("correct horse".into()).await;
        assert!(hash.0.starts_with("$argon2id$v=19$"), "{}", hash.0);
        assert_ne!(passwords.hash("correct horse".into()).await, hash);
        let fits = async |password: &str, hash| {
            passwords.verify(passwords.turn().await, password.into(), hash).await
        };
        assert!(fits("correct horse", Some(hash.clone())).await);
        assert!(!fits("correct hors", Some(hash)).await);
        assert!(!fits("correct horse", Some(PasswordHash("x".into()))).await);
        assert!(!fits("correct horse", None).await);
    }

    #[test]
    fn a_password_is_neither_short_nor_endless() {
        assert_eq!(check("1234567"), Err(PasswordError::TooShort));
        assert_eq!(check("12345678"), Ok(()));
        assert_eq!(check(&"x".repeat(1_025)), Err(PasswordError::TooLong));
    }
}
