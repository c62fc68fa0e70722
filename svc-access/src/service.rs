//! What runs: the owner of the state, and the first user.

use authz::throttle::Throttle;
use std::path::PathBuf;

use axum::Router;
use eventlog::{Clock, Log, Origin, Rules, Stopped, owner::OwnerError};
use identity::{IdentityError, MasterKey};
use proto::access::v1::access_server::AccessServer;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::task::JoinHandle;
use tonic::service::Routes;

use crate::{
    api::Api,
    codec,
    config::Config,
    domain::{self, Command, Event, Rejection, State},
    passwords::{self, PasswordError, Passwords},
    sessions::Sessions,
};

pub(crate) type Owner = eventlog::Owner<State, Command, Event, Rejection>;

/// Largest request, in bytes: a secret, and room for the rest.
const MAX_REQUEST: usize = 128 << 10;

/// What the service needs.
#[derive(Clone, Debug)]
pub struct Deps {
    pub log: Log,
    pub clock: Clock,
    /// Seals the vault.
    pub master_key: MasterKey,
    /// Folder of the key that signs sessions, `session.key`.
    pub data: PathBuf,
}

/// What runs.
#[derive(Debug)]
pub struct Service {
    /// The gRPC service `Access`, for services of the house only.
    pub router: Router,
    /// Ends only when the process must stop, or every clone of the router is gone.
    pub task: JoinHandle<Result<(), RunError>>,
    /// The password of the user `admin`, if it was generated just now. Nothing else knows it.
    pub first_admin_password: Option<SecretString>,
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("start svc-access")]
    Owner(#[from] OwnerError),
    #[error("start svc-access")]
    Stopped(#[from] Stopped),
    #[error("start svc-access: the key of the sessions")]
    Key(#[from] IdentityError),
    #[error("start svc-access: the initial password of `admin` {0}")]
    AdminPassword(#[from] PasswordError),
}

#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("run svc-access")]
    Owner(#[from] OwnerError),
    #[error("run svc-access: its task failed")]
    Task(#[from] tokio::task::JoinError),
}

/// Replays the log and starts the service. At the very first start, creates the user `admin`.
pub async fn start(deps: Deps, config: Config) -> Result<Service, StartError> {
    let (api, task, first_admin_password) = open(deps, &config).await?;
    let server = AccessServer::new(api).max_decoding_message_size(MAX_REQUEST);
    let router = authz::guard(Routes::new(server).into_axum_router());
    let task = tokio::spawn(async move { Ok(task.await??) });
    Ok(Service { router, task, first_admin_password })
}

type OwnerTask = JoinHandle<Result<(), OwnerError>>;

async fn open(
    deps: Deps,
    config: &Config,
) -> Result<(Api, OwnerTask, Option<SecretString>), StartError> {
    let rules = Rules {
        owns: codec::OWNS,
        follows: &[],
        decide: domain::decide,
        stream: codec::stream,
        encode: codec::encode,
        decode: codec::decode,
    };
    let sessions = Sessions::open(&deps.data.join("session.key"), config.session())?;
    let (owner, task) = Owner::start(deps.log, rules).await?;
    let passwords = Passwords::new().await;
    let first_admin_password =
        create_admin(&owner, &passwords, &deps.clock, config.admin_password.clone()).await?;
    let api = Api {
        owner,
        passwords,
        sessions,
        throttle: Throttle::default(),
        master_key: deps.master_key,
        clock: deps.clock,
    };
    Ok((api, task, first_admin_password))
}

/// The password, if one was generated.
async fn create_admin(
    owner: &Owner,
    passwords: &Passwords,
    clock: &Clock,
    chosen: Option<SecretString>,
) -> Result<Option<SecretString>, StartError> {
    if owner.read(|state| state.users().next().is_some()).await? {
        return Ok(None);
    }
    if let Some(chosen) = &chosen {
        passwords::check(chosen.expose_secret())?;
    }
    let is_chosen = chosen.is_some();
    let password = chosen.unwrap_or_else(|| identity::random_hex::<12>().into());
    let command = Command::CreateUser {
        username: "admin".into(),
        display_name: "Administrator".into(),
        password_hash: passwords.hash(password.clone()).await,
        roles: vec![domain::ADMINISTRATORS.into()],
        at: clock.now(),
    };
    let created = owner.ask(command, Origin::service("svc-access")).await?;
    let is_ours = created.is_ok_and(|events| !events.is_empty());
    Ok((is_ours && !is_chosen).then_some(password))
}

#[cfg(test)]
mod tests;
