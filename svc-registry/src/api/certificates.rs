//! Certificates: renewed, listed, revoked; the CA's roll-over; and the stream that says whom to believe.

use std::{collections::HashSet, pin::Pin, time::Duration};

use eventlog::{Clock, Stopped};
use futures::{Stream, StreamExt, stream};
use identity::{Authority, Peer, Signed};
use ids::{Timestamp, WorkerId};
use proto::registry::v1::{self as wire, revoke_certificates_request};
use tokio::{sync::watch, time::timeout};
use tonic::{Request, Status};

use super::{
    Api,
    join::{certified, wrong},
    stopped, worker_id,
};
use crate::{
    State,
    domain::{
        Command, Event, Rejection,
        certificate::{self, Certificate, Command as CertificateCommand, Issue, Subject, Which},
    },
    limits::{self, InvalidField},
    service::Owner,
};

/// How often the roots are looked at without a reason: an overlap ends by itself.
const LOOK: Duration = Duration::from_hours(1);
/// Names by which services of the house are known: no other may have them in its certificate.
const HOUSE: [&str; 3] = ["gateway", "log", "gaia-pipeline.io"];

impl Api {
    pub(super) async fn renew(
        &self,
        request: Request<wire::RenewCertificateRequest>,
    ) -> Result<wire::Certified, Status> {
        let connection = request.extensions().get::<transport::Connection>().cloned();
        let Some(transport::Connection { peer: Peer::Service(caller), certificate, .. }) =
            connection
        else {
            return Err(Status::permission_denied("only services of the house may renew"));
        };
        let (request, shown) = (request.into_inner(), certificate.unwrap_or_default());
        let key = key(&request.request)?;
        let names = foreign_names(&caller, &request.host_names)?;
        let valid = self.config.service_certificate_valid();
        let signed = self.authority.sign_service(&key, &caller, names, valid);
        let signed = signed.map_err(|error| Status::invalid_argument(error.to_string()))?;
        let certificate = issue(&signed, Subject::Service(caller));
        let at = self.clock.now();
        let command = CertificateCommand::IssueCertificate { shown, certificate, at };
        self.ask(Command::Certificate(command), request.caller).await?;
        Ok(certified(None, signed))
    }

    pub(super) async fn renew_worker(
        &self,
        request: wire::RenewWorkerCertificateRequest,
    ) -> Result<wire::Certified, Status> {
        let key = key(&request.request)?;
        let (worker, expired) = if request.expired_certificate.is_empty() {
            (worker_id(&request.worker_id)?, None)
        } else {
            let known = self.authority.recognize(&request.expired_certificate, &key);
            let (worker, serial) = known.map_err(|error| wrong("certificate", error))?;
            (worker, Some(serial))
        };
        let signed = self.authority.sign_worker(&key, worker, self.config.certificate_valid());
        let signed = signed.map_err(|error| Status::invalid_argument(error.to_string()))?;
        let (certificate, at) = (issue(&signed, Subject::Worker(worker)), self.clock.now());
        let shown = request.caller.as_ref().map(|caller| caller.certificate.clone());
        let shown = shown.unwrap_or_default();
        let command = match expired {
            None => CertificateCommand::IssueCertificate { shown, certificate, at },
            Some(expired) => CertificateCommand::ReissueCertificate { expired, certificate, at },
        };
        self.ask(Command::Certificate(command), request.caller).await?;
        Ok(certified(Some(worker), signed))
    }

    pub(super) async fn certificates(&self) -> Result<wire::ListCertificatesResponse, Status> {
        let now = self.clock.now();
        let list = move |state: &State| {
            let valid = state.certificates.iter().filter(|(_, known)| known.expires_at > now);
            valid.map(|(serial, known)| shown(serial, known)).collect::<Vec<_>>()
        };
        let mut certificates = self.owner.read(list).await.map_err(stopped)?;
        certificates.sort_by_key(|certificate| certificate.issued_at);
        Ok(wire::ListCertificatesResponse { certificates })
    }

    pub(super) async fn revoke(
        &self,
        request: wire::RevokeCertificatesRequest,
    ) -> Result<wire::ListCertificatesResponse, Status> {
        let which = which(request.which)?;
        let note = limits::text("note", &request.note, limits::NOTE)?;
        let at = self.clock.now();
        let command = CertificateCommand::RevokeCertificates { which, note, at };
        let events = self.ask(Command::Certificate(command), request.caller).await?;
        let serials: Vec<String> = events.into_iter().filter_map(revoked).collect();
        let list = move |state: &State| {
            let known = serials.iter().filter_map(|serial| {
                state.certificates.get(serial).map(|known| shown(serial, known))
            });
            known.collect()
        };
        let certificates = self.owner.read(list).await.map_err(stopped)?;
        Ok(wire::ListCertificatesResponse { certificates })
    }

    pub(super) async fn roll_over(
        &self,
        request: wire::RollOverCaRequest,
    ) -> Result<wire::RollOverCaResponse, Status> {
        let note = limits::text("note", &request.note, limits::NOTE)?;
        let overlap = match (request.at_once, request.overlap_ms) {
            (true, _) => Duration::ZERO,
            (false, 0) => self.config.longest_valid(),
            (false, ms) => Duration::from_millis(ms),
        };
        if !request.at_once {
            let now = self.clock.now();
            let look = move |state: &State| certificate::outlasts(state, overlap, now);
            self.owner.read(look).await.map_err(stopped)?.map_err(Rejection::from)?;
        }
        // Files are written and synced.
        let authority = self.authority.clone();
        let rolled = tokio::task::spawn_blocking(move || authority.roll_over(overlap)).await;
        rolled
            .map_err(|error| Status::internal(error.to_string()))?
            .map_err(|error| Status::failed_precondition(format!("failed to {error}")))?;
        let (at, fingerprint) = (self.clock.now(), self.authority.fingerprint());
        let overlap_until = at + overlap;
        let command = CertificateCommand::RollOverCa { fingerprint, overlap_until, note, at };
        self.ask(Command::Certificate(command), request.caller).await?;
        tracing::warn!(%fingerprint, ?overlap, "the CA has rolled over");
        let fingerprint = fingerprint.to_string();
        Ok(wire::RollOverCaResponse { fingerprint, overlap_until: overlap_until.0 })
    }

    pub(super) fn trust(&self) -> Pin<Box<dyn Stream<Item = Result<wire::Trust, Status>> + Send>> {
        let watch = TrustWatch {
            changes: self.owner.changes(),
            owner: self.owner.clone(),
            clock: self.clock.clone(),
            authority: self.authority.clone(),
            revision: None,
            roots: String::new(),
            told: HashSet::new(),
            ended: false,
        };
        let next = |mut watch: TrustWatch| async { watch.next().await.map(|trust| (trust, watch)) };
        stream::unfold(watch, next).boxed()
    }
}

/// What one watcher was told.
struct TrustWatch {
    owner: Owner,
    changes: watch::Receiver<u64>,
    clock: Clock,
    authority: Authority,
    /// `None`: nothing yet.
    revision: Option<u64>,
    roots: String,
    told: HashSet<String>,
    ended: bool,
}

impl TrustWatch {
    async fn next(&mut self) -> Option<Result<wire::Trust, Status>> {
        while !self.ended {
            self.changes.mark_unchanged();
            match self.look().await {
                Ok(Some(trust)) => return Some(Ok(trust)),
                Ok(None) => {}
                Err(status) => {
                    self.ended = true;
                    return Some(Err(status));
                }
            }
            if let Ok(Err(_)) = timeout(LOOK, self.changes.changed()).await {
                self.ended = true;
                return Some(Err(stopped(Stopped)));
            }
        }
        None
    }

    /// What it was not told yet; the first time also that there is nothing.
    async fn look(&mut self) -> Result<Option<wire::Trust>, Status> {
        let (known, now) = (self.revision, self.clock.now());
        let look = move |state: &State| {
            let revision = state.certificates.revision;
            (Some(revision) != known).then(|| (revision, distrusted(state, now)))
        };
        let mut trust = wire::Trust::default();
        let looked = self.owner.read(look).await.map_err(stopped)?;
        if let Some((revision, (revoked, dismissed))) = looked {
            self.revision = Some(revision);
            let new = |one: &String| self.told.insert(one.clone());
            trust.revoked = revoked.into_iter().filter(new).collect();
            let new = |one: &String| self.told.insert(one.clone());
            trust.dismissed = dismissed.into_iter().map(|id| id.to_string()).filter(new).collect();
        }
        let roots = self.authority.ca_pem();
        if roots != self.roots {
            self.roots.clone_from(&roots);
            trust.ca_certificates = roots;
        }
        Ok((known.is_none() || trust != wire::Trust::default()).then_some(trust))
    }
}

fn key(request: &str) -> Result<identity::Request, Status> {
    Ok(identity::Request::parse(request).map_err(|error| wrong("request", error))?)
}

fn issue(signed: &Signed, subject: Subject) -> Issue {
    Issue { serial: signed.serial.clone(), subject, expires_at: signed.expires_at }
}

/// Revoked certificates, and workers that are no more; of those that have not expired.
fn distrusted(state: &State, now: Timestamp) -> (Vec<String>, HashSet<WorkerId>) {
    let (mut revoked, mut dismissed) = (vec![], HashSet::new());
    for (serial, known) in state.certificates.iter().filter(|(_, known)| known.expires_at > now) {
        if known.revoked.is_some() {
            revoked.push(serial.to_owned());
        }
        if let Subject::Worker(worker) = known.subject
            && state.worker(worker).is_some_and(|worker| worker.deregistered.is_some())
        {
            dismissed.insert(worker);
        }
    }
    (revoked, dismissed)
}

fn which(asked: Option<revoke_certificates_request::Which>) -> Result<Which, InvalidField> {
    use revoke_certificates_request::Which as Asked;
    Ok(match asked {
        Some(Asked::Serial(serial)) => Which::Serial(serial_number(&serial)?),
        Some(Asked::WorkerId(id)) => Which::AllOf(Subject::Worker(worker_id(&id)?)),
        Some(Asked::Service(name)) => {
            Which::AllOf(Subject::Service(limits::text("service", &name, limits::NAME)?))
        }
        None => return Err(InvalidField::new("which", "names nothing to revoke".into())),
    })
}

fn revoked(event: Event) -> Option<String> {
    match event {
        Event::Certificate(certificate::Event::CertificateRevoked { serial, .. }) => Some(serial),
        _ => None,
    }
}

fn shown(serial: &str, known: &Certificate) -> wire::Certificate {
    let (worker_id, service) = match &known.subject {
        Subject::Worker(worker) => (worker.to_string(), String::new()),
        Subject::Service(name) => (String::new(), name.clone()),
    };
    let (revoked_at, note) = known.revoked.clone().unwrap_or_default();
    wire::Certificate {
        serial: serial.to_owned(),
        worker_id,
        service,
        issued_at: known.issued_at.0,
        expires_at: known.expires_at.0,
        revoked_at: revoked_at.0,
        note,
    }
}

/// Hex, with or without colons, in any case.
fn serial_number(text: &str) -> Result<String, InvalidField> {
    let serial: String = text.chars().filter(|char| *char != ':').take(41).collect();
    let is_hex = serial.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !is_hex || !(1..=40).contains(&serial.len()) {
        let why = "is no serial number; one is 32 hex digits, as `gaia cert ls` shows them";
        return Err(InvalidField::new("serial", why.into()));
    }
    Ok(serial.to_lowercase())
}

/// A service may have any host names but those by which others of the house are known.
fn foreign_names<'a>(service: &str, names: &'a [String]) -> Result<&'a [String], InvalidField> {
    let is_house = |name: &str| HOUSE.contains(&name) || name.starts_with("svc-");
    let mut lower = names.iter().map(|name| name.to_lowercase());
    match lower.find(|name| is_house(name) && name != service) {
        None => Ok(names),
        Some(name) => Err(InvalidField::new(
            "host_names",
            format!("holds `{}`, which is another service's name", name.escape_debug()),
        )),
    }
}
