//! gRPC in: parses, mints ids, stamps the time, asks, and answers.

mod certificates;
mod environment;
mod history;
mod join;
mod operator;
mod rejection;

use std::{pin::Pin, time::Duration};

use eventlog::{Clock, Origin, Stopped, owner::Past};
use futures::{Stream, StreamExt, stream};
use identity::{Authority, MasterKey};
use ids::WorkerId;
use proto::{
    common::v1::Caller,
    registry::v1::{self as wire, registry_server::Registry},
};
use subtle::ConstantTimeEq as _;
use tokio::sync::{oneshot, watch};
use tonic::{Request, Response, Status, async_trait};
use uuid::Uuid;

use crate::{
    config::Config,
    domain::{Command, Description, Event, Generation, Registration, Rejection, Workers},
    limits::{self, InvalidField},
    presence::{Attachment, Presence},
    service::Owner,
    views::{Contact, view, view_of},
};

pub(crate) struct Api {
    pub(crate) owner: Owner,
    pub(crate) presence: Presence,
    pub(crate) past: Past<Workers>,
    pub(crate) secrets: Secrets,
    pub(crate) clock: Clock,
    pub(crate) authority: Authority,
    pub(crate) config: Config,
    pub(crate) master_key: MasterKey,
    /// Gone when nobody can ask any more.
    pub(crate) _used: oneshot::Sender<()>,
}

/// Makes registration secrets, and opens those that are stored.
pub(crate) struct Secrets(MasterKey);

const SECRET_CONTEXT: &str = "registration";

impl Secrets {
    pub(crate) fn new(master_key: MasterKey) -> Self {
        Self(master_key)
    }

    /// A new one, in clear and sealed.
    pub(crate) fn make(&self) -> (String, Vec<u8>) {
        let secret = identity::random_hex::<32>();
        let sealed = self.0.seal(SECRET_CONTEXT, secret.as_bytes());
        (secret, sealed)
    }

    fn open(&self, sealed: &[u8]) -> Result<String, Status> {
        let secret = self.0.open(SECRET_CONTEXT, sealed).map_err(|error| {
            Status::internal(format!(
                "open the registration secret: {error}; restore the master key, or reset the secret"
            ))
        })?;
        Ok(String::from_utf8_lossy(&secret).into_owned())
    }
}

impl Api {
    async fn ask(&self, command: Command, caller: Option<Caller>) -> Result<Vec<Event>, Status> {
        Ok(self.owner.ask(command, Origin::from(caller)).await.map_err(stopped)??)
    }

    /// Does it, tells those who watch the worker, and shows the worker.
    async fn change(
        &self,
        worker: WorkerId,
        command: Command,
        caller: Option<Caller>,
    ) -> Result<Response<wire::Worker>, Status> {
        if !self.ask(command, caller).await?.is_empty() {
            self.presence.changed(worker).map_err(stopped)?;
        }
        let contact = self.presence.contact(worker).await.map_err(stopped)?;
        let shown = show(&self.owner, worker, contact).await?;
        shown.map(Response::new).ok_or_else(|| Rejection::UnknownWorker(worker).into())
    }

    /// The registration secret in clear.
    async fn secret(&self) -> Result<(String, Generation), Status> {
        let (sealed, generation) = self
            .owner
            .read(|state| (state.secret().0.to_vec(), state.secret().1))
            .await
            .map_err(stopped)?;
        Ok((self.secrets.open(&sealed)?, generation))
    }

    async fn check_secret(&self, shown: &str) -> Result<Generation, Status> {
        let (secret, generation) = self.secret().await?;
        if bool::from(secret.as_bytes().ct_eq(shown.as_bytes())) {
            Ok(generation)
        } else {
            Err(Rejection::WrongSecret.into())
        }
    }
}

#[async_trait]
impl Registry for Api {
    async fn register_worker(
        &self,
        request: Request<wire::RegisterWorkerRequest>,
    ) -> Result<Response<wire::RegisterWorkerResponse>, Status> {
        let request = request.into_inner();
        if !self.config.registration_secret {
            return Err(Status::permission_denied(
                "this server takes no registration secret: ask for a join token \
                 (`gaia worker token create`)",
            ));
        }
        let secret = self.check_secret(&request.secret).await?;
        #[expect(clippy::disallowed_methods, reason = "workers get their ids here")]
        let worker = WorkerId::from_uuid(Uuid::now_v7());
        let name = limits::name(&request.name)?;
        let tags = limits::tags(&request.tags)?;
        let issued = self
            .authority
            .issue_worker(worker, self.config.worker_certificate_valid())
            .map_err(|error| Status::internal(format!("register a worker: {error}")))?;
        let registration = Registration {
            worker,
            name: if name.is_empty() { made_up_name(worker) } else { name },
            tags,
            primary: request.primary,
            certificate_serial: issued.serial,
            certificate_expires_at: issued.expires_at,
        };
        let at = self.clock.now();
        let caller = admitted_by(request.caller, "secret:registration".to_owned());
        self.ask(Command::RegisterWorker { registration, secret, at }, Some(caller)).await?;
        self.presence.expect(worker).map_err(stopped)?;
        Ok(Response::new(wire::RegisterWorkerResponse {
            worker_id: worker.to_string(),
            certificate: issued.credentials.certificate,
            key: issued.credentials.key,
            ca_certificate: issued.credentials.ca,
        }))
    }

    type AttachWorkerStream = Pin<Box<dyn Stream<Item = Result<wire::Worker, Status>> + Send>>;

    async fn attach_worker(
        &self,
        request: Request<wire::AttachWorkerRequest>,
    ) -> Result<Response<Self::AttachWorkerStream>, Status> {
        let mut request = request.into_inner();
        let worker = worker_id(&request.worker_id)?;
        let caller = request.caller.take();
        let description = description(&request)?;
        // First of all, so that a loss that is under way is stored before the return.
        let (attachment, changes) = self.presence.attach(worker).await.map_err(stopped)?;
        let command = Command::AttachWorker { worker, description, at: self.clock.now() };
        let answer = self.owner.ask(command, Origin::from(caller)).await.map_err(stopped)?;
        if !answer.map_err(|_| not_registered())?.is_empty() {
            self.presence.changed(worker).map_err(stopped)?;
        }
        let watch = Watch {
            owner: self.owner.clone(),
            clock: self.clock.clone(),
            worker,
            changes,
            shown: None,
            ended: false,
            _attachment: attachment,
        };
        let workers = stream::unfold(watch, |mut watch| async {
            watch.next().await.map(|worker| (worker, watch))
        });
        Ok(Response::new(workers.boxed()))
    }

    async fn detach_worker(
        &self,
        request: Request<wire::DetachWorkerRequest>,
    ) -> Result<Response<wire::DetachWorkerResponse>, Status> {
        let wire::DetachWorkerRequest { worker_id: id, silent_ms } = request.into_inner();
        let silent = Duration::from_millis(silent_ms);
        self.presence.silent(worker_id(&id)?, silent).map_err(stopped)?;
        Ok(Response::new(wire::DetachWorkerResponse {}))
    }

    async fn list_workers(
        &self,
        request: Request<wire::ListWorkersRequest>,
    ) -> Result<Response<wire::ListWorkersResponse>, Status> {
        if let Some(end) = request.into_inner().before {
            let workers = history::workers(&self.past, end).await?;
            return Ok(Response::new(wire::ListWorkersResponse { workers }));
        }
        let contacts = self.presence.contacts().await.map_err(stopped)?;
        let workers = self
            .owner
            .read(move |state| view(state.workers(), |worker| contacts.get(&worker).copied()))
            .await
            .map_err(stopped)?;
        Ok(Response::new(wire::ListWorkersResponse { workers }))
    }

    async fn list_changes(
        &self,
        request: Request<wire::ListChangesRequest>,
    ) -> Result<Response<wire::ListChangesResponse>, Status> {
        let worker = worker_id(&request.into_inner().worker_id)?;
        let changes = history::changes(&self.past, worker).await?;
        if changes.is_empty() {
            return Err(Rejection::UnknownWorker(worker).into());
        }
        Ok(Response::new(wire::ListChangesResponse { changes }))
    }

    async fn rename_worker(
        &self,
        request: Request<wire::RenameWorkerRequest>,
    ) -> Result<Response<wire::Worker>, Status> {
        self.rename(request.into_inner()).await
    }

    async fn tag_worker(
        &self,
        request: Request<wire::TagWorkerRequest>,
    ) -> Result<Response<wire::Worker>, Status> {
        self.tag(request.into_inner()).await
    }

    async fn suspend_worker(
        &self,
        request: Request<wire::ChangeWorkerRequest>,
    ) -> Result<Response<wire::Worker>, Status> {
        self.suspend(request.into_inner()).await
    }

    async fn drain_worker(
        &self,
        request: Request<wire::ChangeWorkerRequest>,
    ) -> Result<Response<wire::Worker>, Status> {
        self.drain(request.into_inner()).await
    }

    async fn resume_worker(
        &self,
        request: Request<wire::ChangeWorkerRequest>,
    ) -> Result<Response<wire::Worker>, Status> {
        self.resume(request.into_inner()).await
    }

    async fn deregister_worker(
        &self,
        request: Request<wire::ChangeWorkerRequest>,
    ) -> Result<Response<wire::Worker>, Status> {
        self.deregister(request.into_inner()).await
    }

    async fn set_variable(
        &self,
        request: Request<wire::SetVariableRequest>,
    ) -> Result<Response<wire::Variable>, Status> {
        self.set(request.into_inner()).await
    }

    async fn remove_variable(
        &self,
        request: Request<wire::RemoveVariableRequest>,
    ) -> Result<Response<wire::RemoveVariableResponse>, Status> {
        self.remove(request.into_inner()).await
    }

    async fn list_variables(
        &self,
        request: Request<wire::ListVariablesRequest>,
    ) -> Result<Response<wire::ListVariablesResponse>, Status> {
        self.variables(request.into_inner()).await
    }

    async fn resolve_environment(
        &self,
        request: Request<wire::ResolveEnvironmentRequest>,
    ) -> Result<Response<wire::ListVariablesResponse>, Status> {
        self.environment(request.into_inner()).await
    }

    async fn get_registration_secret(
        &self,
        _: Request<wire::GetRegistrationSecretRequest>,
    ) -> Result<Response<wire::RegistrationSecret>, Status> {
        let (secret, _) = self.secret().await?;
        Ok(Response::new(wire::RegistrationSecret { secret }))
    }

    async fn reset_registration_secret(
        &self,
        request: Request<wire::ResetRegistrationSecretRequest>,
    ) -> Result<Response<wire::RegistrationSecret>, Status> {
        let (secret, sealed) = self.secrets.make();
        let command = Command::ResetRegistrationSecret { sealed, at: self.clock.now() };
        self.ask(command, request.into_inner().caller).await?;
        Ok(Response::new(wire::RegistrationSecret { secret }))
    }

    async fn create_join_token(
        &self,
        request: Request<wire::CreateJoinTokenRequest>,
    ) -> Result<Response<wire::CreateJoinTokenResponse>, Status> {
        self.create_token(request.into_inner()).await.map(Response::new)
    }

    async fn list_join_tokens(
        &self,
        _: Request<wire::ListJoinTokensRequest>,
    ) -> Result<Response<wire::ListJoinTokensResponse>, Status> {
        self.tokens().await.map(Response::new)
    }

    async fn revoke_join_token(
        &self,
        request: Request<wire::RevokeJoinTokenRequest>,
    ) -> Result<Response<wire::JoinToken>, Status> {
        self.revoke_token(request.into_inner()).await.map(Response::new)
    }

    async fn join_worker(
        &self,
        request: Request<wire::JoinWorkerRequest>,
    ) -> Result<Response<wire::Certified>, Status> {
        self.join(request.into_inner()).await.map(Response::new)
    }

    async fn renew_certificate(
        &self,
        request: Request<wire::RenewCertificateRequest>,
    ) -> Result<Response<wire::Certified>, Status> {
        self.renew(request).await.map(Response::new)
    }

    async fn renew_worker_certificate(
        &self,
        request: Request<wire::RenewWorkerCertificateRequest>,
    ) -> Result<Response<wire::Certified>, Status> {
        self.renew_worker(request.into_inner()).await.map(Response::new)
    }

    async fn list_certificates(
        &self,
        _: Request<wire::ListCertificatesRequest>,
    ) -> Result<Response<wire::ListCertificatesResponse>, Status> {
        self.certificates().await.map(Response::new)
    }

    async fn revoke_certificates(
        &self,
        request: Request<wire::RevokeCertificatesRequest>,
    ) -> Result<Response<wire::ListCertificatesResponse>, Status> {
        self.revoke(request.into_inner()).await.map(Response::new)
    }

    async fn roll_over_ca(
        &self,
        request: Request<wire::RollOverCaRequest>,
    ) -> Result<Response<wire::RollOverCaResponse>, Status> {
        self.roll_over(request.into_inner()).await.map(Response::new)
    }

    type WatchTrustStream = Pin<Box<dyn Stream<Item = Result<wire::Trust, Status>> + Send>>;

    async fn watch_trust(
        &self,
        _: Request<wire::WatchTrustRequest>,
    ) -> Result<Response<Self::WatchTrustStream>, Status> {
        Ok(Response::new(self.trust()))
    }
}

/// What an attached worker is told. Dropping it ends the attachment.
struct Watch {
    owner: Owner,
    clock: Clock,
    worker: WorkerId,
    changes: watch::Receiver<()>,
    shown: Option<wire::Worker>,
    ended: bool,
    _attachment: Attachment,
}

impl Watch {
    async fn next(&mut self) -> Option<Result<wire::Worker, Status>> {
        while !self.ended {
            if self.is_out() {
                self.ended = true;
                return Some(Err(not_registered()));
            }
            if self.shown.is_some() && self.changes.changed().await.is_err() {
                self.ended = true;
                return Some(Err(stopped(Stopped)));
            }
            match self.look().await {
                Ok(worker) if self.is_known(&worker) => {}
                Ok(worker) => {
                    self.shown = Some(worker.clone());
                    return Some(Ok(worker));
                }
                Err(status) => {
                    self.ended = true;
                    return Some(Err(status));
                }
            }
        }
        None
    }

    async fn look(&self) -> Result<wire::Worker, Status> {
        let contact = Contact { connected: true, last_at: self.clock.now() };
        show(&self.owner, self.worker, Some(contact)).await?.ok_or_else(not_registered)
    }

    /// That it is deregistered is the last that is told.
    fn is_out(&self) -> bool {
        let state = self.shown.as_ref().map(wire::Worker::state);
        state == Some(wire::WorkerState::Deregistered)
    }

    /// That it is still there is no news.
    fn is_known(&self, worker: &wire::Worker) -> bool {
        let last_contact_at = worker.last_contact_at;
        self.shown.clone().map(|shown| wire::Worker { last_contact_at, ..shown }).as_ref()
            == Some(worker)
    }
}

async fn show(
    owner: &Owner,
    worker: WorkerId,
    contact: Option<Contact>,
) -> Result<Option<wire::Worker>, Status> {
    owner
        .read(move |state| state.worker(worker).map(|known| view_of(worker, known, contact)))
        .await
        .map_err(stopped)
}

fn description(request: &wire::AttachWorkerRequest) -> Result<Description, InvalidField> {
    Ok(Description {
        slots: limits::slots(request.slots)?,
        tags: limits::tags(&request.tags)?,
        detected: limits::tags(&request.detected_tags)?,
        os: limits::text("os", &request.os, limits::SYSTEM)?,
        arch: limits::text("arch", &request.arch, limits::SYSTEM)?,
        version: limits::text("version", &request.version, limits::SYSTEM)?,
    })
}

fn worker_id(text: &str) -> Result<WorkerId, InvalidField> {
    text.parse().map_err(|error| InvalidField::new("worker_id", format!("is wrong: {error}")))
}

/// Who joins has no name yet: for the history it is what let them in.
fn admitted_by(caller: Option<Caller>, name: String) -> Caller {
    Caller { name, ..caller.unwrap_or_default() }
}

/// From the random end of the id; its start is the time.
fn made_up_name(worker: WorkerId) -> String {
    let id = worker.to_string();
    format!("worker-{}", &id[id.len() - 8..])
}

fn stopped(error: Stopped) -> Status {
    Status::unavailable(format!("svc-registry: {error}; try again"))
}

fn not_registered() -> Status {
    Status::not_found("worker is not registered")
}
