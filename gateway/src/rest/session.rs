//! Logging in, and changing one's password.

use axum::{Json, extract::State, http::StatusCode};
use proto::access::v1::{ChangePasswordRequest, LoginRequest, Session};
use serde::{Deserialize, Serialize};
use tonic::Code;

use super::{Payload, User};
use crate::{error::ApiError, gate::Gate, limits};

#[derive(Deserialize)]
struct Login {
    username: String,
    password: String,
}

/// Gaia's user, as its login answers it.
#[derive(Debug, Serialize)]
pub(crate) struct LoggedIn {
    username: String,
    display_name: String,
    tokenstring: String,
    /// Seconds since the epoch.
    jwtexpiry: u64,
}

pub(crate) async fn login(
    State(gate): State<Gate>,
    payload: Payload,
) -> Result<Json<LoggedIn>, ApiError> {
    let Login { username, password } = payload.json()?;
    limits::text("username", &username, limits::NAME)?;
    limits::text("password", &password, limits::PASSWORD)?;
    let session = gate.access().login(LoginRequest { username, password }).await;
    let session = session.map_err(|refusal| match refusal.code() {
        // Gaia's answer, and not a 401: the token is not what is wrong.
        Code::Unauthenticated => {
            ApiError::forbidden("invalid username and/or password: correct them and try again")
        }
        _ => refusal.into(),
    })?;
    let Session { username, display_name, token, expires_at, .. } = session.into_inner();
    Ok(Json(LoggedIn { username, display_name, tokenstring: token, jwtexpiry: expires_at / 1_000 }))
}

#[derive(Deserialize)]
struct PasswordChange {
    #[serde(default)]
    username: String,
    oldpassword: String,
    newpassword: String,
    newpasswordconf: Option<String>,
}

pub(crate) async fn change_password(
    State(gate): State<Gate>,
    user: User,
    payload: Payload,
) -> Result<&'static str, ApiError> {
    let change: PasswordChange = payload.json()?;
    limits::text("oldpassword", &change.oldpassword, limits::PASSWORD)?;
    limits::text("newpassword", &change.newpassword, limits::PASSWORD)?;
    if change.newpasswordconf.is_some_and(|confirmed| confirmed != change.newpassword) {
        return Err(ApiError::bad_request("the new password does not match its confirmation"));
    }
    if !change.username.is_empty() && change.username != user.name {
        return Err(ApiError::forbidden(format!(
            "`{}` may change only its own password: leave `username` out",
            user.name
        )));
    }
    let request = ChangePasswordRequest {
        username: user.name,
        old_password: change.oldpassword,
        new_password: change.newpassword,
        caller: Some(user.caller),
    };
    gate.access().change_password(request).await.map_err(|refusal| match refusal.code() {
        Code::Unauthenticated => ApiError::new(
            StatusCode::PRECONDITION_FAILED,
            "the old password is wrong: the password was not changed",
        ),
        _ => refusal.into(),
    })?;
    Ok("Password has been changed")
}
