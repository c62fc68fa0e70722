//! `gaia user …`: who may log in, and what they may do.

use anyhow::Result;
use clap::Subcommand;
use http::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{login::ask_password, segment};
use crate::{
    client::Client,
    output::{Output, table},
};

#[derive(Subcommand, Debug)]
pub enum UserCommand {
    /// List the users
    Ls,
    /// Add a user; the password is asked for, or read from GAIA_NEW_PASSWORD
    Add {
        name: String,
        /// Name to show [default: the name]
        #[arg(long, default_value = "")]
        display_name: String,
        /// Role or group; may be repeated; `gaia user roles` lists them [default: readonly]
        #[arg(long = "role", value_name = "ROLE", value_delimiter = ',')]
        roles: Vec<String>,
        #[arg(long, env = "GAIA_NEW_PASSWORD", hide = true, hide_env_values = true)]
        password: Option<String>,
    },
    /// Remove a user; ends its sessions
    Rm { name: String },
    /// Set a user's password without the old one; ends its sessions
    Password {
        name: String,
        #[arg(long, env = "GAIA_NEW_PASSWORD", hide = true, hide_env_values = true)]
        password: Option<String>,
    },
    /// Show what a user may do, or all roles and groups
    Roles { name: Option<String> },
    /// Let a user do this, and nothing else
    Allow {
        name: String,
        /// Roles and groups; none takes all away
        #[arg(value_name = "ROLE")]
        roles: Vec<String>,
    },
}

#[derive(Debug, Deserialize, Serialize)]
struct Permissions {
    username: String,
    roles: Vec<String>,
    groups: Vec<String>,
}

pub async fn user(command: UserCommand, client: &Client, output: Output) -> Result<()> {
    match command {
        UserCommand::Ls => {
            let users: Vec<Value> = client.get("/api/v1/users").await?;
            let text =
                |user: &Value, field: &str| user[field].as_str().unwrap_or_default().to_owned();
            output.show(&users, |users| {
                let last_login = |user| match text(user, "lastlogin") {
                    never if never.starts_with("0001-") => "never".to_owned(),
                    at => at,
                };
                let row =
                    |user| [text(user, "username"), text(user, "display_name"), last_login(user)];
                table(["NAME", "SHOWN AS", "LAST LOGIN"], users.iter().map(row))
            })
        }
        UserCommand::Add { name, display_name, roles, password } => {
            let password = password.map_or_else(|| ask_password(&name), Ok)?;
            let mut body = json!({
                "username": name,
                "display_name": display_name,
                "password": password,
            });
            if !roles.is_empty() {
                body["roles"] = json!(roles);
            }
            client.call(Method::POST, "/api/v1/user", Some(&body)).await?;
            said(output, &name, "is added")
        }
        UserCommand::Rm { name } => {
            client.call(Method::DELETE, &path(&name, ""), None::<&()>).await?;
            said(output, &name, "is removed")
        }
        UserCommand::Password { name, password } => {
            let password = password.map_or_else(|| ask_password(&name), Ok)?;
            let body = json!({ "newpassword": password });
            client.call(Method::PUT, &path(&name, "/password"), Some(&body)).await?;
            said(output, &name, "has another password")
        }
        UserCommand::Roles { name: Some(name) } => {
            let permissions: Permissions = client.get(&path(&name, "/permissions")).await?;
            output.show(&permissions, |Permissions { groups, roles, .. }| {
                let names = [groups.as_slice(), roles].concat();
                if names.is_empty() { format!("{name} may do nothing.") } else { names.join("\n") }
            })
        }
        UserCommand::Roles { name: None } => roles(client, output).await,
        UserCommand::Allow { name, roles } => {
            let body = json!({ "roles": roles, "groups": [] });
            client.call(Method::PUT, &path(&name, "/permissions"), Some(&body)).await?;
            said(output, &name, "may do this now")
        }
    }
}

fn said(output: Output, name: &str, what: &str) -> Result<()> {
    output.show(&json!({ "username": name }), |_| format!("User {name} {what}."))
}

fn path(name: &str, what: &str) -> String {
    format!("/api/v1/user/{}{what}", segment(name))
}

async fn roles(client: &Client, output: Output) -> Result<()> {
    let categories: Vec<Value> = client.get("/api/v1/permission").await?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let groups = authz::Group::ALL
        .iter()
        .map(|group| [group.name().to_owned(), group.description().to_owned()]);
    let roles = categories.iter().flat_map(|category| {
        let roles = category["roles"].as_array().into_iter().flatten();
        roles.map(|role| {
            [text(&category["name"]) + &text(&role["name"]), text(&role["description"])]
        })
    });
    output.show(&categories, |_| table(["ROLE", "ALLOWS"], groups.chain(roles)))
}
