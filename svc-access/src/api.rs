//! gRPC in: parses, stamps the time, hashes and seals, asks, and answers. In reading order: this file
//! (logins and the vault), `users`.

mod users;

use authz::throttle::{Throttle, Who};
use std::net::{IpAddr, SocketAddr};

use eventlog::{Clock, Origin, Stopped};
use identity::MasterKey;
use proto::{
    access::v1::{self as wire, access_server::Access},
    common::v1::Caller,
};
use secrecy::{ExposeSecret as _, SecretString};
use tonic::{Request, Response, Status, async_trait};

use crate::{
    domain::{Command, Rejection, Secret, User},
    limits,
    passwords::{self, Passwords},
    service::Owner,
    sessions::Sessions,
};

pub(crate) struct Api {
    pub(crate) owner: Owner,
    pub(crate) passwords: Passwords,
    pub(crate) sessions: Sessions,
    pub(crate) throttle: Throttle,
    pub(crate) master_key: MasterKey,
    pub(crate) clock: Clock,
}

/// Values of secrets in one answer, in bytes together; less than what clients take.
const MAX_RESOLVED: usize = 3 << 20;

impl Api {
    async fn ask(&self, command: Command, caller: Option<Caller>) -> Result<(), Status> {
        self.owner.ask(command, Origin::from(caller)).await.map_err(stopped)??;
        Ok(())
    }

    async fn user(&self, username: &str) -> Result<Option<User>, Status> {
        let username = username.to_string();
        self.owner.read(move |state| state.user(&username).cloned()).await.map_err(stopped)
    }

    /// The user whose password it is.
    async fn prove(
        &self,
        username: &str,
        password: SecretString,
        caller: Option<&Caller>,
    ) -> Result<User, Status> {
        let user = self.user(username).await?;
        let whose = Who::of(username, caller.and_then(address));
        self.check_wait(&whose)?;
        let turn = self.passwords.turn().await;
        // Those who tried before it at the same moment have failed meanwhile, perhaps: who tries many at once
        // costs and learns no more than who tries one after the other.
        self.check_wait(&whose)?;
        let hash = user.as_ref().map(|user| user.password_hash.clone());
        let proved = self.passwords.verify(turn, password, hash).await;
        self.check_wait(&whose)?;
        if !proved {
            self.throttle.failed(whose);
            return Err(Rejection::WrongPassword.into());
        }
        self.throttle.succeeded(&whose);
        user.ok_or_else(|| Rejection::WrongPassword.into())
    }

    fn check_wait(&self, whose: &[Who]) -> Result<(), Status> {
        let Some(wait) = self.throttle.wait(whose) else { return Ok(()) };
        let seconds = wait.as_secs() + 1;
        let message = format!("too many failed logins; try again in {seconds} s");
        let mut status = Status::resource_exhausted(message);
        status.metadata_mut().insert("retry-after", seconds.into());
        Err(status)
    }

    fn open(&self, key: &str, secret: &Secret) -> Result<String, Status> {
        self.master_key
            .open(&context(key), &secret.sealed)
            .ok()
            .and_then(|value| String::from_utf8(value).ok())
            .ok_or_else(|| {
                Status::failed_precondition(format!(
                    "secret `{key}` cannot be decrypted; restore the master key, or put the secret again"
                ))
            })
    }
}

#[async_trait]
impl Access for Api {
    async fn login(
        &self,
        request: Request<wire::LoginRequest>,
    ) -> Result<Response<wire::Session>, Status> {
        let wire::LoginRequest { username, password, caller } = request.into_inner();
        let user = self.prove(&username, password.into(), caller.as_ref()).await?;
        let (proved, at) = (user.generation, self.clock.now());
        let caller = Caller { name: format!("user:{username}"), ..caller.unwrap_or_default() };
        let logged_in = Command::LogIn { username: username.clone(), proved, at };
        self.ask(logged_in, Some(caller)).await?;
        let issued = self.sessions.issue(&username, proved, at);
        Ok(Response::new(wire::Session {
            username,
            display_name: user.display_name,
            token: issued.token,
            expires_at: issued.expires_at.0,
            roles: user.roles,
            last_login_at: at.0,
        }))
    }

    async fn authenticate(
        &self,
        request: Request<wire::AuthenticateRequest>,
    ) -> Result<Response<wire::Session>, Status> {
        let token = request.into_inner().token;
        let over = || Status::unauthenticated("the session is invalid or over; log in again");
        let claims = self.sessions.claims(&token, self.clock.now()).ok_or_else(over)?;
        let user = self.user(&claims.username).await?.ok_or_else(over)?;
        if user.generation != claims.generation() {
            return Err(over());
        }
        Ok(Response::new(wire::Session {
            expires_at: claims.expires_at().0,
            username: claims.username,
            display_name: user.display_name,
            token,
            roles: user.roles,
            last_login_at: user.last_login_at.unwrap_or_default().0,
        }))
    }

    async fn change_password(
        &self,
        request: Request<wire::ChangePasswordRequest>,
    ) -> Result<Response<wire::ChangePasswordResponse>, Status> {
        let wire::ChangePasswordRequest { username, old_password, new_password, caller } =
            request.into_inner();
        let new_password = SecretString::from(new_password);
        let user = self.prove(&username, old_password.into(), caller.as_ref()).await?;
        passwords::check(new_password.expose_secret())
            .map_err(|error| Status::invalid_argument(format!("`new_password` {error}")))?;
        let password_hash = self.passwords.hash(new_password).await;
        let (proved, at) = (user.generation, self.clock.now());
        let command = Command::ChangePassword { username, proved, password_hash, at };
        self.ask(command, caller).await?;
        Ok(Response::new(wire::ChangePasswordResponse {}))
    }

    async fn list_users(
        &self,
        _: Request<wire::ListUsersRequest>,
    ) -> Result<Response<wire::ListUsersResponse>, Status> {
        self.users().await.map(Response::new)
    }

    async fn create_user(
        &self,
        request: Request<wire::CreateUserRequest>,
    ) -> Result<Response<wire::User>, Status> {
        self.add(request.into_inner()).await.map(Response::new)
    }

    async fn set_roles(
        &self,
        request: Request<wire::SetRolesRequest>,
    ) -> Result<Response<wire::User>, Status> {
        self.allow(request.into_inner()).await.map(Response::new)
    }

    async fn reset_password(
        &self,
        request: Request<wire::ResetPasswordRequest>,
    ) -> Result<Response<wire::User>, Status> {
        self.reset(request.into_inner()).await.map(Response::new)
    }

    async fn remove_user(
        &self,
        request: Request<wire::RemoveUserRequest>,
    ) -> Result<Response<wire::RemoveUserResponse>, Status> {
        self.remove(request.into_inner()).await.map(Response::new)
    }

    async fn put_secret(
        &self,
        request: Request<wire::PutSecretRequest>,
    ) -> Result<Response<wire::Secret>, Status> {
        let wire::PutSecretRequest { key, value, caller } = request.into_inner();
        let value = SecretString::from(value);
        let key = limits::key(&key)?;
        limits::value(value.expose_secret())?;
        let sealed = self.master_key.seal(&context(&key), value.expose_secret().as_bytes());
        let at = self.clock.now();
        self.ask(Command::PutSecret { key: key.clone(), sealed, at }, caller).await?;
        Ok(Response::new(wire::Secret { key, value: String::new(), updated_at: at.0 }))
    }

    async fn remove_secret(
        &self,
        request: Request<wire::RemoveSecretRequest>,
    ) -> Result<Response<wire::RemoveSecretResponse>, Status> {
        let wire::RemoveSecretRequest { key, caller } = request.into_inner();
        let key = limits::key(&key)?;
        self.ask(Command::RemoveSecret { key, at: self.clock.now() }, caller).await?;
        Ok(Response::new(wire::RemoveSecretResponse {}))
    }

    async fn list_secrets(
        &self,
        _: Request<wire::ListSecretsRequest>,
    ) -> Result<Response<wire::ListSecretsResponse>, Status> {
        let secrets = self.owner.read(|state| {
            let shown = |(key, secret): (&str, &Secret)| shown(key, String::new(), secret);
            state.secrets().map(shown).collect()
        });
        let secrets = secrets.await.map_err(stopped)?;
        Ok(Response::new(wire::ListSecretsResponse { secrets }))
    }

    async fn resolve_secrets(
        &self,
        request: Request<wire::ResolveSecretsRequest>,
    ) -> Result<Response<wire::ResolveSecretsResponse>, Status> {
        let keys = request.into_inner().keys;
        limits::keys(&keys)?;
        let found = self.owner.read(move |state| {
            let find = |key: String| match state.secret(&key) {
                Some(secret) => Ok((key, secret.clone())),
                None => Err(key),
            };
            keys.into_iter().map(find).collect::<Result<Vec<_>, _>>()
        });
        let found = found.await.map_err(stopped)?.map_err(|key| {
            let key = key.escape_debug();
            Status::not_found(format!("the vault has no secret `{key}`; add it in the vault"))
        })?;
        let size: usize = found.iter().map(|(_, secret)| secret.sealed.len()).sum();
        if size > MAX_RESOLVED {
            return Err(Status::resource_exhausted(format!(
                "these secrets have {size} bytes together; ask for at most {MAX_RESOLVED} at once"
            )));
        }
        let secrets = found
            .iter()
            .map(|(key, secret)| Ok(shown(key, self.open(key, secret)?, secret)))
            .collect::<Result<_, Status>>()?;
        Ok(Response::new(wire::ResolveSecretsResponse { secrets }))
    }
}

fn shown(key: &str, value: String, secret: &Secret) -> wire::Secret {
    wire::Secret { key: key.into(), value, updated_at: secret.updated_at.0 }
}

/// What a sealed value is bound to.
fn context(key: &str) -> String {
    format!("secret/{key}")
}

fn address(caller: &Caller) -> Option<IpAddr> {
    caller.address.parse().ok().map(|address: SocketAddr| address.ip())
}

fn stopped(error: Stopped) -> Status {
    Status::unavailable(format!("svc-access: {error}; try again"))
}

impl From<Rejection> for Status {
    fn from(rejection: Rejection) -> Self {
        let message = rejection.to_string();
        match rejection {
            Rejection::WrongPassword => Self::unauthenticated(message),
            Rejection::UserExists(_) => Self::already_exists(message),
            Rejection::UnknownUser(_) => Self::not_found(message),
            Rejection::LastAdministrator(_) => Self::failed_precondition(message),
            Rejection::RolesChanged(_) => Self::aborted(message),
        }
    }
}
