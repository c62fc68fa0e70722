//! What may come in. An event can never be refused for its size, since nothing longer passes.

use authz::{Group, Role};
use tonic::Status;

/// Characters of a user's name.
const USERNAME: usize = 64;
/// Characters of a user's name as it is shown.
const DISPLAY_NAME: usize = 100;
/// Characters of a key.
const KEY: usize = 128;
/// Bytes of a secret.
const VALUE: usize = 64 << 10;
/// Keys resolved in one call.
const KEYS: usize = 256;

/// The name of a new user.
pub(crate) fn username(name: &str) -> Result<(), Status> {
    let allowed = |char: char| char.is_ascii_alphanumeric() || ".-_@".contains(char);
    let why = if name.is_empty() {
        "is empty; give the user a name".into()
    } else if name.len() > USERNAME {
        format!("has {} bytes; at most {USERNAME} are allowed", name.len())
    } else if let Some(char) = name.chars().find(|&char| !allowed(char)) {
        format!("holds {char:?}; use letters, digits, `.`, `-`, `_` and `@`")
    } else if !name.starts_with(|char: char| char.is_ascii_alphanumeric()) {
        format!("is `{name}`; begin with a letter or a digit")
    } else {
        return Ok(());
    };
    Err(Status::invalid_argument(format!("`username` {why}")))
}

/// How a user is shown.
pub(crate) fn display_name(name: &str) -> Result<String, Status> {
    let name = name.trim();
    let length = name.chars().count();
    let why = if length > DISPLAY_NAME {
        format!("has {length} characters; at most {DISPLAY_NAME} are allowed")
    } else if let Some(control) = name.chars().find(|char| char.is_control()) {
        format!("holds the control character {control:?}; remove it")
    } else {
        return Ok(name.to_owned());
    };
    Err(Status::invalid_argument(format!("`display_name` {why}")))
}

/// Names of roles and groups that exist, sorted, each once.
pub(crate) fn roles(names: Vec<String>) -> Result<Vec<String>, Status> {
    let is_known = |name: &str| Role::of_name(name).is_some() || Group::of_name(name).is_some();
    if let Some(unknown) = names.iter().find(|name| !is_known(name)) {
        let shown: String = unknown.escape_debug().take(40).collect();
        return Err(Status::invalid_argument(format!(
            "`roles` holds `{shown}`, which is no role and no group; list the permissions to see which are"
        )));
    }
    let mut names = names;
    names.sort_unstable();
    names.dedup();
    Ok(names)
}

/// The key of a secret.
pub(crate) fn key(key: &str) -> Result<String, Status> {
    let allowed = |char: char| char.is_ascii_alphanumeric() || ".-_".contains(char);
    let why = if key.is_empty() {
        "is empty; give the secret a name".into()
    } else if key.len() > KEY {
        format!("has {} bytes; at most {KEY} are allowed", key.len())
    } else if let Some(char) = key.chars().find(|&char| !allowed(char)) {
        format!("holds {char:?}; use letters, digits, `.`, `-` and `_`")
    } else {
        return Ok(key.into());
    };
    Err(Status::invalid_argument(format!("`key` {why}")))
}

pub(crate) fn value(value: &str) -> Result<(), Status> {
    if value.len() > VALUE {
        let length = value.len();
        let why = format!("`value` has {length} bytes; at most {VALUE} are allowed");
        return Err(Status::invalid_argument(why));
    }
    Ok(())
}

pub(crate) fn keys(keys: &[String]) -> Result<(), Status> {
    if keys.len() > KEYS {
        let length = keys.len();
        let why = format!("`keys` has {length} entries; at most {KEYS} are allowed");
        return Err(Status::invalid_argument(why));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_username_cannot_be_mistaken_for_anything_else() {
        for good in ["a", "ann", "Ann.B-2_c@example.org", "7", &"u".repeat(64)] {
            username(good).unwrap();
        }
        for bad in ["", " ann", "a b", "a/b", "..", "-a", "@a", "a\u{0}", "ä", &"u".repeat(65)] {
            let message = username(bad).unwrap_err().message().to_owned();
            assert!(message.starts_with("`username` ") && message.len() < 200, "{message}");
        }
    }

    #[test]
    fn only_roles_that_exist_are_given() {
        let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        let sorted = roles(names(&["readonly", "PipelineStart", "readonly"])).unwrap();
        assert_eq!(sorted, ["PipelineStart", "readonly"]);
        for bad in ["", "Admin", "root", &"x".repeat(10_000)] {
            let message = roles(names(&["admin", bad])).unwrap_err().message().to_owned();
            assert!(message.starts_with("`roles` ") && message.len() < 200, "{message}");
        }
    }

    #[test]
    fn a_key_is_made_of_few_characters() {
        for good in ["a", "GITHUB_TOKEN", "db.password-2", &"k".repeat(128)] {
            assert_eq!(key(good).unwrap(), good);
        }
        for bad in ["", "a b", "a/b", "ä", "a=b", "a\n", &"k".repeat(129)] {
            let refused = key(bad).unwrap_err();
            assert_eq!(refused.code(), tonic::Code::InvalidArgument);
            assert!(refused.message().starts_with("`key` "), "{refused}");
        }
    }

    #[test]
    fn a_value_may_be_long_but_not_endless() {
        value("").unwrap();
        value(&"x".repeat(64 << 10)).unwrap();
        assert!(value(&"x".repeat((64 << 10) + 1)).unwrap_err().message().contains("`value`"));
    }
}
