//! Users and what they may do, in Gaia's forms.

use authz::{Category, Group};
use axum::{Json, extract::State, http::StatusCode};
use proto::access::v1::{
    CreateUserRequest, ListUsersRequest, RemoveUserRequest, ResetPasswordRequest, SetRolesRequest,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Params, Payload, User, time::rfc3339};
use crate::{error::ApiError, gate::Gate, limits};

/// What a user gets who is created without saying what they may do.
const DEFAULT: Group = Group::ReadOnly;
/// Roles in one request.
const MOST_ROLES: usize = 200;

/// Who there is, and when each logged in last: what each may do is for who may see that.
pub(crate) async fn list(State(gate): State<Gate>) -> Result<Json<Value>, ApiError> {
    let users = gate.access().list_users(ListUsersRequest {}).await?.into_inner().users;
    let shown = users.into_iter().map(|user| {
        json!({
            "username": user.username,
            "display_name": user.display_name,
            "lastlogin": rfc3339(user.last_login_at),
        })
    });
    Ok(Json(shown.collect()))
}

#[derive(Deserialize)]
struct NewUser {
    username: String,
    #[serde(default)]
    display_name: String,
    password: String,
    roles: Option<Vec<String>>,
    groups: Option<Vec<String>>,
}

pub(crate) async fn create(
    State(gate): State<Gate>,
    user: User,
    payload: Payload,
) -> Result<(StatusCode, &'static str), ApiError> {
    let NewUser { username, display_name, password, roles, groups } = payload.json()?;
    limits::text("username", &username, limits::NAME)?;
    limits::text("display_name", &display_name, limits::NOTE)?;
    limits::text("password", &password, limits::PASSWORD)?;
    let roles = match (roles, groups) {
        (None, None) => vec![DEFAULT.name().to_owned()],
        (roles, groups) => together(roles, groups)?,
    };
    let caller = Some(user.caller);
    let request = CreateUserRequest { username, display_name, password, roles, caller };
    gate.access().create_user(request).await?;
    Ok((StatusCode::CREATED, "User has been added"))
}

pub(crate) async fn remove(
    State(gate): State<Gate>,
    user: User,
    params: Params,
) -> Result<&'static str, ApiError> {
    let request = RemoveUserRequest { username: name(&params)?, caller: Some(user.caller) };
    gate.access().remove_user(request).await?;
    Ok("User has been deleted")
}

#[derive(Deserialize)]
struct NewPassword {
    newpassword: String,
}

pub(crate) async fn reset_password(
    State(gate): State<Gate>,
    user: User,
    params: Params,
    payload: Payload,
) -> Result<&'static str, ApiError> {
    let NewPassword { newpassword: new_password } = payload.json()?;
    limits::text("newpassword", &new_password, limits::PASSWORD)?;
    let (username, caller) = (name(&params)?, Some(user.caller));
    gate.access().reset_password(ResetPasswordRequest { username, new_password, caller }).await?;
    Ok("Password has been changed")
}

/// What a user may do.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Permissions {
    #[serde(default)]
    username: String,
    roles: Option<Vec<String>>,
    groups: Option<Vec<String>>,
}

pub(crate) async fn permissions(
    State(gate): State<Gate>,
    params: Params,
) -> Result<Json<Permissions>, ApiError> {
    let username = name(&params)?;
    let users = gate.access().list_users(ListUsersRequest {}).await?.into_inner().users;
    let user = users.into_iter().find(|user| user.username == username);
    let user = user.ok_or_else(|| {
        let message = format!("there is no user `{}`: list the users", username.escape_debug());
        ApiError::new(StatusCode::NOT_FOUND, message)
    })?;
    let is_group = |name: &String| Group::of_name(name).is_some();
    let (groups, roles) = user.roles.into_iter().partition(is_group);
    Ok(Json(Permissions { username, roles: Some(roles), groups: Some(groups) }))
}

pub(crate) async fn set_permissions(
    State(gate): State<Gate>,
    user: User,
    params: Params,
    payload: Payload,
) -> Result<&'static str, ApiError> {
    let Permissions { username: said, roles, groups } = payload.json()?;
    let username = name(&params)?;
    // Gaia believes the body alone, and the path may say another name.
    if !said.is_empty() && said != username {
        let message = "`username` is not the user of the path: correct one of them";
        return Err(ApiError::bad_request(message));
    }
    let (roles, caller) = (together(roles, groups)?, Some(user.caller));
    gate.access().set_roles(SetRolesRequest { username, roles, caller }).await?;
    Ok("Permissions have been updated")
}

/// All roles, by category, as Gaia's settings show them.
pub(crate) async fn all_permissions(_: User) -> Json<Value> {
    let categories = Category::ALL.iter().map(|category| {
        let roles = category.roles.iter().map(|role| {
            json!({ "name": role.name(), "api_endpoints": null, "description": role.description() })
        });
        let roles: Vec<_> = roles.collect();
        json!({ "name": category.name, "description": category.description, "roles": roles })
    });
    Json(categories.collect())
}

fn name(params: &Params) -> Result<String, ApiError> {
    let name = params.find("username").unwrap_or_default();
    limits::text("username", name, limits::NAME)?;
    Ok(name.to_owned())
}

fn together(
    roles: Option<Vec<String>>,
    groups: Option<Vec<String>>,
) -> Result<Vec<String>, ApiError> {
    let all = [roles.unwrap_or_default(), groups.unwrap_or_default()].concat();
    if all.len() > MOST_ROLES {
        let length = all.len();
        let message = format!("`roles` has {length} entries, at most {MOST_ROLES} are taken");
        return Err(ApiError::bad_request(message));
    }
    all.iter().try_for_each(|role| limits::text("roles", role, limits::NAME))?;
    Ok(all)
}
