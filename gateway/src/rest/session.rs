//! Logging in, and changing one's own password.

use authz::Route;
use axum::{Json, extract::State, http::StatusCode};
use proto::access::v1::{ChangePasswordRequest, LoginRequest, Session};
use serde::{Deserialize, Serialize};
use tonic::{Code, Status};

use super::{Anyone, Payload, User, time::rfc3339};
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
    lastlogin: String,
}

pub(crate) async fn login(
    State(gate): State<Gate>,
    Anyone(caller): Anyone,
    payload: Payload,
) -> Result<Json<LoggedIn>, ApiError> {
    let Login { username, password } = payload.json()?;
    limits::text("username", &username, limits::NAME)?;
    limits::text("password", &password, limits::PASSWORD)?;
    let request = LoginRequest { username, password, caller: Some(caller) };
    let session = gate.access().login(request).await.map_err(not_logged_in)?;
    let session: Session = session.into_inner();
    Ok(Json(LoggedIn {
        username: session.username,
        display_name: session.display_name,
        tokenstring: session.token,
        jwtexpiry: session.expires_at / 1_000,
        lastlogin: rfc3339(session.last_login_at),
    }))
}

fn not_logged_in(refusal: Status) -> ApiError {
    let count = |reason| authz::count(Route::Login.path(), reason);
    match refusal.code() {
        // Gaia's answer, and not a 401: the token is not what is wrong.
        Code::Unauthenticated => {
            count("wrong_password");
            ApiError::forbidden("invalid username and/or password: correct them and try again")
        }
        Code::ResourceExhausted => {
            count("too_many_logins");
            let seconds = refusal.metadata().get("retry-after");
            let seconds = seconds.and_then(|seconds| seconds.to_str().ok()?.parse().ok());
            ApiError::from(refusal).retry_after(seconds.unwrap_or(1))
        }
        _ => refusal.into(),
    }
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
            "`{}` changes its own password here: leave `username` out, or set that of another user with \
             PUT /api/v1/user/NAME/password",
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
