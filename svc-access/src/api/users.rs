//! Users: listed, created, allowed more or less, given a new password, removed.
//!
//! Nobody gives what they have not, and nobody changes who may do more: otherwise the right to manage
//! users would be the right to everything.

use authz::Grants;
use proto::{access::v1 as wire, common::v1::Caller};
use secrecy::{ExposeSecret as _, SecretString};
use tonic::Status;

use super::{Api, stopped};
use crate::{
    State,
    domain::{Command, PasswordHash, Rejection, User},
    limits, passwords,
};

impl Api {
    pub(super) async fn users(&self) -> Result<wire::ListUsersResponse, Status> {
        let all = |state: &State| state.users().map(|(name, user)| shown(name, user)).collect();
        Ok(wire::ListUsersResponse { users: self.owner.read(all).await.map_err(stopped)? })
    }

    pub(super) async fn add(&self, request: wire::CreateUserRequest) -> Result<wire::User, Status> {
        let wire::CreateUserRequest { username, display_name, password, roles, caller } = request;
        limits::username(&username)?;
        let display_name = match limits::display_name(&display_name)? {
            name if name.is_empty() => username.clone(),
            name => name,
        };
        let roles = limits::roles(roles)?;
        self.must_have(caller.as_ref(), &roles).await?;
        let password_hash = self.hash("password", password).await?;
        let (name, at) = (username.clone(), self.clock.now());
        let command = Command::CreateUser { username, display_name, password_hash, roles, at };
        self.ask(command, caller).await?;
        self.shown(name).await
    }

    pub(super) async fn allow(&self, request: wire::SetRolesRequest) -> Result<wire::User, Status> {
        let wire::SetRolesRequest { username, roles, caller } = request;
        let roles = limits::roles(roles)?;
        let seen = self.within(caller.as_ref(), &username).await?;
        self.must_have(caller.as_ref(), &roles).await?;
        let (name, at) = (username.clone(), self.clock.now());
        self.ask(Command::SetRoles { username, seen, roles, at }, caller).await?;
        self.shown(name).await
    }

    pub(super) async fn reset(
        &self,
        request: wire::ResetPasswordRequest,
    ) -> Result<wire::User, Status> {
        let wire::ResetPasswordRequest { username, new_password, caller } = request;
        let seen = self.within(caller.as_ref(), &username).await?;
        let password_hash = self.hash("new_password", new_password).await?;
        let (name, at) = (username.clone(), self.clock.now());
        self.ask(Command::ResetPassword { username, seen, password_hash, at }, caller).await?;
        self.shown(name).await
    }

    pub(super) async fn remove(
        &self,
        request: wire::RemoveUserRequest,
    ) -> Result<wire::RemoveUserResponse, Status> {
        let wire::RemoveUserRequest { username, caller } = request;
        let seen = self.within(caller.as_ref(), &username).await?;
        self.ask(Command::RemoveUser { username, seen, at: self.clock.now() }, caller).await?;
        Ok(wire::RemoveUserResponse {})
    }

    async fn hash(&self, field: &str, password: String) -> Result<PasswordHash, Status> {
        let password = SecretString::from(password);
        passwords::check(password.expose_secret())
            .map_err(|error| Status::invalid_argument(format!("`{field}` {error}")))?;
        Ok(self.passwords.hash(password).await)
    }

    /// What the user may do; refused if that is more than the caller may.
    async fn within(&self, caller: Option<&Caller>, username: &str) -> Result<Vec<String>, Status> {
        limits::username(username)?;
        let user = self.user(username).await?;
        let user = user.ok_or_else(|| Rejection::UnknownUser(username.to_owned()))?;
        self.must_have(caller, &user.roles).await?;
        Ok(user.roles)
    }

    /// The caller must be able to do all that these roles allow.
    async fn must_have(&self, caller: Option<&Caller>, roles: &[String]) -> Result<(), Status> {
        let name = caller.and_then(|caller| caller.name.strip_prefix("user:"));
        let user = self.user(name.unwrap_or_default()).await?;
        let user = user.ok_or_else(|| Status::permission_denied("only users manage users"))?;
        match Grants::of_names(user.roles).lacks(&Grants::of_names(roles)) {
            None => Ok(()),
            Some(right) => Err(Status::permission_denied(format!(
                "that needs `{right}`, which you have not: ask an administrator to do it"
            ))),
        }
    }

    async fn shown(&self, username: String) -> Result<wire::User, Status> {
        let user = self.user(&username).await?;
        let user = user.ok_or_else(|| Rejection::UnknownUser(username.clone()))?;
        Ok(shown(&username, &user))
    }
}

fn shown(username: &str, user: &User) -> wire::User {
    wire::User {
        username: username.to_owned(),
        display_name: user.display_name.clone(),
        roles: user.roles.clone(),
        last_login_at: user.last_login_at.unwrap_or_default().0,
    }
}
