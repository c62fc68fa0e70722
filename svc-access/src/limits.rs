//! What may come in. An event can never be refused for its size, since nothing longer passes.

use tonic::Status;

/// Characters of a key.
const KEY: usize = 128;
/// Bytes of a secret.
const VALUE: usize = 64 << 10;
/// Keys resolved in one call.
const KEYS: usize = 256;

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
