//! The file of users: one a line, `<name> read|read-write <argon2id hash>`.
//!
//! Hashing is slow on purpose, so what was verified once is remembered, as a digest under a key of this
//! process. Passwords are tried a few at a time, beside the runtime; whoever guesses has to wait, and when
//! too many wait the next one is refused.

use std::{
    collections::HashMap,
    fmt, fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use argon2::{Argon2, PasswordHasher as _, PasswordVerifier as _, password_hash::phc};
use authz::throttle::{Throttle, Who};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use sha2::{Digest as _, Sha256};
use tokio::{sync::Semaphore, task::spawn_blocking};
use tonic::Status;

/// Each takes 19 MiB while it runs.
const AT_ONCE: usize = 2;
/// Who waits for that at most.
const WAITING: usize = 16;
/// Longest `authorization` header that is looked at.
const LONGEST: usize = 2_048;

/// What a user may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rights {
    Read,
    ReadWrite,
}

impl fmt::Display for Rights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::ReadWrite => "read-write",
        })
    }
}

/// Who may use a served log without a service's certificate.
pub struct Users {
    known: HashMap<String, User>,
    /// Verified instead of the hash of a user who does not exist, so that both take the same time.
    nobody: String,
    verified: Mutex<HashMap<[u8; 32], (String, Rights)>>,
    key: [u8; 32],
    running: Arc<Semaphore>,
    waiting: Semaphore,
    throttle: Throttle,
}

struct User {
    rights: Rights,
    hash: String,
}

/// A file of users that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum UsersError {
    #[error("read the users in `{}`", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error(
        "line {line} of the users is `{text}`; it must be `<name> read|read-write <argon2 hash>`, as `gaia log user` prints it"
    )]
    Line { line: usize, text: String },
    #[error("line {line} of the users names {name} a second time")]
    Twice { line: usize, name: String },
    #[error("`{name}` is not a user's name: 1 to 64 characters without white space and `:`")]
    Name { name: String },
}

impl Default for Users {
    /// Nobody.
    fn default() -> Self {
        let nobody = hash(&identity::random_hex::<16>());
        Self {
            known: HashMap::new(),
            nobody,
            verified: Mutex::default(),
            key: identity::random(),
            running: Arc::new(Semaphore::new(AT_ONCE)),
            waiting: Semaphore::new(WAITING),
            throttle: Throttle::default(),
        }
    }
}

impl fmt::Debug for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.known.keys()).finish()
    }
}

impl Users {
    pub fn read(path: &Path) -> Result<Self, UsersError> {
        let failed = |source| UsersError::Read { path: path.to_owned(), source };
        Self::parse(&fs::read_to_string(path).map_err(failed)?)
    }

    /// Empty lines and those that begin with `#` are skipped.
    pub fn parse(text: &str) -> Result<Self, UsersError> {
        let mut users = Self::default();
        for (line, text) in (1..).zip(text.lines()) {
            let text = text.trim();
            if text.is_empty() || text.starts_with('#') {
                continue;
            }
            let (name, user) = user(text).ok_or_else(|| {
                let shown = text.split_whitespace().next().unwrap_or_default();
                UsersError::Line { line, text: format!("{shown} …") }
            })?;
            if users.known.insert(name.clone(), user).is_some() {
                return Err(UsersError::Twice { line, name });
            }
        }
        Ok(users)
    }

    /// The line of a new user.
    pub fn line(name: &str, rights: Rights, password: &str) -> Result<String, UsersError> {
        if !is_name(name) {
            return Err(UsersError::Name { name: name.escape_debug().to_string() });
        }
        Ok(format!("{name} {rights} {}", hash(password)))
    }

    /// Who shows this `authorization` header, from this address.
    pub(super) async fn verify(
        &self,
        shown: &[u8],
        address: Option<IpAddr>,
    ) -> Result<(String, Rights), Status> {
        if shown.len() > LONGEST {
            return Err(unknown());
        }
        let digest = Sha256::new().chain_update(self.key).chain_update(shown).finalize().into();
        if let Some(known) = self.remembered().get(&digest) {
            return Ok(known.clone());
        }
        let (name, password) = basic(shown).ok_or_else(unknown)?;
        let whose = Who::of(&name, address);
        self.check_wait(&whose)?;
        let _waiting = self.waiting.try_acquire().map_err(|_| {
            Status::resource_exhausted("too many passwords are being checked; try again")
        })?;
        let fits = self.fits(&name, password).await;
        // Who tries many at once learns no more than who tries one after the other.
        self.check_wait(&whose)?;
        let Some(user) = self.known.get(&name).filter(|_| fits) else {
            self.throttle.failed(whose);
            return Err(unknown());
        };
        self.throttle.succeeded(&whose);
        self.remembered().insert(digest, (name.clone(), user.rights));
        Ok((name, user.rights))
    }

    fn check_wait(&self, whose: &[Who]) -> Result<(), Status> {
        let Some(wait) = self.throttle.wait(whose) else { return Ok(()) };
        let seconds = wait.as_secs() + 1;
        let why = format!("too many wrong passwords; try again in {seconds} s");
        Err(Status::resource_exhausted(why))
    }

    async fn fits(&self, name: &str, password: String) -> bool {
        let hash = self.known.get(name).map_or(&self.nobody, |user| &user.hash).clone();
        let Ok(permit) = Arc::clone(&self.running).acquire_owned().await else { return false };
        let fits = spawn_blocking(move || {
            let _permit = permit;
            phc::PasswordHash::new(&hash).is_ok_and(|hash| {
                Argon2::default().verify_password(password.as_bytes(), &hash).is_ok()
            })
        });
        fits.await.unwrap_or(false)
    }

    /// At most one entry for each spelling of a right password.
    fn remembered(&self) -> std::sync::MutexGuard<'_, HashMap<[u8; 32], (String, Rights)>> {
        self.verified.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unknown() -> Status {
    Status::unauthenticated("there is no user with this name and this password")
}

fn user(line: &str) -> Option<(String, User)> {
    let mut words = line.split_whitespace();
    let (name, rights, hash) = (words.next()?, words.next()?, words.next()?);
    let rights = match rights {
        "read" => Rights::Read,
        "read-write" => Rights::ReadWrite,
        _ => return None,
    };
    let sound = words.next().is_none() && is_name(name) && phc::PasswordHash::new(hash).is_ok();
    sound.then(|| (name.to_owned(), User { rights, hash: hash.to_owned() }))
}

fn is_name(name: &str) -> bool {
    (1..=64).contains(&name.chars().count())
        && !name
            .contains(|letter: char| letter.is_whitespace() || letter.is_control() || letter == ':')
        && !name.starts_with('#')
}

fn hash(password: &str) -> String {
    let hash = Argon2::default().hash_password(password.as_bytes());
    hash.expect("a password of any length can be hashed").to_string()
}

/// Name and password of `Basic <base64 of name:password>`.
fn basic(shown: &[u8]) -> Option<(String, String)> {
    let (scheme, encoded) = std::str::from_utf8(shown).ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = BASE64_STANDARD.decode(encoded.trim()).ok()?;
    let (name, password) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
    Some((name.to_owned(), password.to_owned()))
}

#[cfg(test)]
mod tests {
    use futures::future::join_all;
    use tonic::Code;

    use super::*;

    fn shown(name: &str, password: &str) -> Vec<u8> {
        format!("Basic {}", BASE64_STANDARD.encode(format!("{name}:{password}"))).into_bytes()
    }

    #[tokio::test]
    async fn who_guesses_has_to_wait() {
        let line = Users::line("ada", Rights::Read, "right").unwrap();
        let users = Users::parse(&line).unwrap();
        let from = |last| Some(IpAddr::from([192, 0, 2, last]));
        for guess in 0..5 {
            let guess = shown("ada", &guess.to_string());
            let refused = users.verify(&guess, from(1)).await.unwrap_err();
            assert_eq!(refused.code(), Code::Unauthenticated);
        }
        let refused = users.verify(&shown("ada", "right"), from(2)).await.unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
        assert!(refused.message().contains("try again in"), "{refused}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_guesses_much_at_once_learns_no_more() {
        let line = Users::line("ada", Rights::Read, "right").unwrap();
        let users = Users::parse(&line).unwrap();
        let tried = (0..12).map(|guess| shown("ada", &guess.to_string()));
        let tried: Vec<_> = tried.chain([shown("ada", "right")]).collect();
        let answers = join_all(tried.iter().map(|tried| users.verify(tried, None))).await;
        let codes: Vec<_> = answers.into_iter().map(|answer| answer.unwrap_err().code()).collect();
        let told = codes.iter().filter(|code| **code == Code::Unauthenticated);
        assert_eq!((told.count(), codes[12]), (5, Code::ResourceExhausted), "{codes:?}");
    }

    #[tokio::test]
    async fn too_many_at_once_are_refused_and_nobody_who_is_known() {
        let line = Users::line("ada", Rights::Read, "right").unwrap();
        let users = Users::parse(&line).unwrap();
        users.verify(&shown("ada", "right"), None).await.unwrap();
        let guesses: Vec<_> = (0..40).map(|name| shown(&name.to_string(), "guess")).collect();
        let answers = join_all(guesses.iter().map(|guess| users.verify(guess, None))).await;
        let codes = answers.into_iter().map(|answer| answer.unwrap_err().code());
        assert_eq!(codes.filter(|code| *code == Code::ResourceExhausted).count(), 40 - WAITING);
        users.verify(&shown("ada", "right"), None).await.unwrap();
    }
}
