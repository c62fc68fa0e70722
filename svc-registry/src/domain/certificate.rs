//! Certificates that were given out and have not expired, and which of them are revoked.
//!
//! The newest expired one of each is kept for as long as a worker that was away may renew by it. What is
//! forgotten stands in the log.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use ids::{Digest, Timestamp, WorkerId};

use super::{Event as Any, Registration, Rejection, State, registered};

/// For how long after its end a worker may renew by a certificate: an agent that comes back after days
/// has its runs' logs still to deliver, and is the same worker.
pub const LATE: Duration = Duration::from_hours(30 * 24);

#[derive(Clone, Debug)]
pub enum Command {
    /// A worker or a service renews by the certificate of its connection (empty: it has none); the new
    /// one counts from when this is durable.
    IssueCertificate {
        shown: String,
        certificate: Issue,
        at: Timestamp,
    },
    /// The same for a worker that shows this certificate of its own, which no handshake takes.
    ReissueCertificate {
        expired: String,
        certificate: Issue,
        at: Timestamp,
    },
    RevokeCertificates {
        which: Which,
        note: String,
        at: Timestamp,
    },
    RollOverCa {
        fingerprint: Digest,
        overlap_until: Timestamp,
        note: String,
        at: Timestamp,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    CertificateIssued { certificate: Issue, at: Timestamp },
    CertificateRevoked { serial: String, note: String, at: Timestamp },
    CaRolledOver { fingerprint: Digest, overlap_until: Timestamp, note: String, at: Timestamp },
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("no certificate that is still valid has the serial {0}; `gaia cert ls` lists them")]
    UnknownSerial(String),
    #[error("{0} has no certificate that is still valid; `gaia cert ls` lists them")]
    NoneOf(Subject),
    #[error(
        "this certificate has been expired for more than {} days, or another has expired since: join again with a join token",
        LATE.as_secs() / 86_400
    )]
    TooLate,
    #[error("this certificate is revoked")]
    Revoked,
    #[error(
        "the old CA must overlap for at least {seconds}s, for as long as workers have certificates of it \
         (cut off before: {workers}); or roll over at once, and let them join again"
    )]
    ShortOverlap { workers: usize, seconds: u64 },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issue {
    /// Hex.
    pub serial: String,
    pub subject: Subject,
    pub expires_at: Timestamp,
}

/// Whom a certificate names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    Worker(WorkerId),
    Service(String),
}

impl std::fmt::Display for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Worker(worker) => write!(f, "worker {worker}"),
            Self::Service(name) => write!(f, "service {name}"),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    Serial(String),
    AllOf(Subject),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    pub subject: Subject,
    pub issued_at: Timestamp,
    pub expires_at: Timestamp,
    /// When and why, if it was.
    pub revoked: Option<(Timestamp, String)>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Certificates {
    by_serial: BTreeMap<String, Certificate>,
    by_expiry: BTreeSet<(Timestamp, String)>,
    by_subject: BTreeMap<Subject, BTreeSet<(Timestamp, String)>>,
    /// Of whom one was ever revoked, until they are deregistered.
    distrusted: BTreeSet<WorkerId>,
    /// Changes whenever somebody is believed no more.
    pub(crate) revision: u64,
}

impl Certificates {
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Certificate)> {
        self.by_serial.iter().map(|(serial, certificate)| (serial.as_str(), certificate))
    }

    #[must_use]
    pub fn get(&self, serial: &str) -> Option<&Certificate> {
        self.by_serial.get(serial)
    }

    /// Errs if the newest certificate of the worker was revoked: it gets no other one.
    pub(super) fn trusted(&self, worker: WorkerId) -> Result<(), Refusal> {
        let own = self.by_subject.get(&Subject::Worker(worker));
        let newest = own.and_then(BTreeSet::last);
        newest.map_or(Ok(()), |(_, serial)| self.unrevoked(serial))
    }

    /// Errs if this certificate was revoked.
    fn unrevoked(&self, serial: &str) -> Result<(), Refusal> {
        match self.get(serial) {
            Some(Certificate { revoked: Some(_), .. }) => Err(Refusal::Revoked),
            _ => Ok(()),
        }
    }

    /// Errs if any certificate that the worker ever had was revoked: the key that it joined with may be known
    /// to others.
    pub(super) fn unblemished(&self, worker: WorkerId) -> Result<(), Refusal> {
        if self.distrusted.contains(&worker) { Err(Refusal::Revoked) } else { Ok(()) }
    }

    pub(super) fn dismiss(&mut self, worker: WorkerId) {
        self.distrusted.remove(&worker);
        self.revision += 1;
    }

    pub(super) fn add(&mut self, issue: &Issue, at: Timestamp) {
        while let Some(first) = self.by_expiry.first().cloned()
            && first.0 + LATE <= at
        {
            self.forget(&first);
        }
        let Issue { serial, subject, expires_at } = issue.clone();
        // The newest is kept: the worker may not have heard of what it got for it, and ask again.
        let own = self.by_subject.get(&subject).into_iter().flatten();
        let mut expired: Vec<_> = own.take_while(|one| one.0 <= at).cloned().collect();
        expired.pop();
        for one in expired {
            self.forget(&one);
        }
        self.by_expiry.insert((expires_at, serial.clone()));
        let own = self.by_subject.entry(subject.clone()).or_default();
        own.insert((expires_at, serial.clone()));
        let certificate = Certificate { subject, issued_at: at, expires_at, revoked: None };
        self.by_serial.insert(serial, certificate);
    }

    fn forget(&mut self, one: &(Timestamp, String)) {
        self.by_expiry.remove(one);
        let Some(known) = self.by_serial.remove(&one.1) else { return };
        if let Some(own) = self.by_subject.get_mut(&known.subject) {
            own.remove(one);
            if own.is_empty() {
                self.by_subject.remove(&known.subject);
            }
        }
    }

    pub(super) fn evolve(&mut self, event: &Event) {
        match event {
            Event::CertificateIssued { certificate, at } => self.add(certificate, *at),
            Event::CertificateRevoked { serial, note, at } => {
                if let Some(known) = self.by_serial.get_mut(serial) {
                    known.revoked = Some((*at, note.clone()));
                    if let Subject::Worker(worker) = known.subject {
                        self.distrusted.insert(worker);
                    }
                }
                self.revision += 1;
            }
            Event::CaRolledOver { .. } => self.revision += 1,
        }
    }
}

pub(super) fn decide(state: &State, command: Command) -> Result<Vec<Any>, Rejection> {
    match command {
        Command::IssueCertificate { shown, certificate, at } => {
            // The connection of a revoked certificate may not have been cut yet.
            state.certificates.unrevoked(&shown)?;
            if let Subject::Worker(worker) = certificate.subject {
                registered(state, worker)?;
                state.certificates.trusted(worker)?;
            }
            Ok(vec![Event::CertificateIssued { certificate, at }.into()])
        }
        Command::ReissueCertificate { expired, certificate, at } => {
            let known = state.certificates.get(&expired).ok_or(Refusal::TooLate)?;
            state.certificates.unrevoked(&expired)?;
            if known.subject != certificate.subject || known.expires_at + LATE <= at {
                return Err(Refusal::TooLate.into());
            }
            decide(state, Command::IssueCertificate { shown: expired, certificate, at })
        }
        Command::RevokeCertificates { which, note, at } => {
            let revoked = |serial: String| {
                Event::CertificateRevoked { serial, note: note.clone(), at }.into()
            };
            let serials = usable(state, which, at)?;
            Ok(serials.into_iter().map(revoked).collect())
        }
        Command::RollOverCa { fingerprint, overlap_until, note, at } => {
            Ok(vec![Event::CaRolledOver { fingerprint, overlap_until, note, at }.into()])
        }
    }
}

/// Whether nobody is cut off who shows a certificate of the old CA for as long as that is good: a worker may
/// renew until then, and whoever was away may come back. Services renew at once, and are not asked about.
pub fn outlasts(state: &State, overlap: Duration, at: Timestamp) -> Result<(), Refusal> {
    let end = at + overlap;
    let (mut workers, mut latest) = (BTreeSet::new(), end);
    for (_, known) in state.certificates.iter().filter(|(_, known)| known.revoked.is_none()) {
        if let Subject::Worker(worker) = known.subject
            && known.expires_at > end
            && registered(state, worker).is_ok()
        {
            workers.insert(worker);
            latest = latest.max(known.expires_at);
        }
    }
    if workers.is_empty() {
        return Ok(());
    }
    let seconds = latest.since(at).as_millis().div_ceil(1_000) as u64;
    Err(Refusal::ShortOverlap { workers: workers.len(), seconds })
}

/// Those that are meant and not revoked yet, also expired ones by which a worker could still renew.
fn usable(state: &State, which: Which, at: Timestamp) -> Result<Vec<String>, Refusal> {
    let of = |which: &Which, serial: &str, known: &Certificate| match which {
        Which::Serial(wanted) => wanted == serial,
        Which::AllOf(subject) => *subject == known.subject,
    };
    let known = state.certificates.iter().filter(|(_, known)| known.expires_at + LATE > at);
    let meant: Vec<_> = known.filter(|(serial, known)| of(&which, serial, known)).collect();
    if meant.is_empty() {
        return Err(match which {
            Which::Serial(serial) => Refusal::UnknownSerial(serial),
            Which::AllOf(subject) => Refusal::NoneOf(subject),
        });
    }
    let open = meant.into_iter().filter(|(_, known)| known.revoked.is_none());
    Ok(open.map(|(serial, _)| serial.to_owned()).collect())
}

/// The certificate that came with a registration.
pub(super) fn of(registration: &Registration) -> Issue {
    Issue {
        serial: registration.certificate_serial.clone(),
        subject: Subject::Worker(registration.worker),
        expires_at: registration.certificate_expires_at,
    }
}

pub(super) fn issued_to(registration: &Registration, at: Timestamp) -> Any {
    Event::CertificateIssued { certificate: of(registration), at }.into()
}

impl From<Event> for Any {
    fn from(event: Event) -> Self {
        Self::Certificate(event)
    }
}
