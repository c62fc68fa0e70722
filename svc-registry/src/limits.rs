//! What texts may come in. An event can never be refused for its size, since nothing longer passes.

use std::time::Duration;

use crate::domain::token::Network;

/// A field that is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{field}` {why}")]
pub(crate) struct InvalidField {
    field: &'static str,
    why: String,
}

/// Characters of the name of a worker.
pub(crate) const NAME: usize = 100;
/// Characters of what a worker says of its system.
pub(crate) const SYSTEM: usize = 100;
/// Characters of a reason.
pub(crate) const NOTE: usize = 1_000;
/// Bytes of the value of a variable.
pub(crate) const VALUE: usize = 32 << 10;
const TAGS: usize = 64;
const TAG: usize = 64;
const SLOTS: u32 = 10_000;
const KEY: usize = 128;

/// The text without blanks around it; it may be empty.
pub(crate) fn text(
    field: &'static str,
    text: &str,
    longest: usize,
) -> Result<String, InvalidField> {
    let text = text.trim();
    let length = text.chars().count();
    if length > longest {
        return Err(InvalidField::new(
            field,
            format!("has {length} characters; at most {longest} are allowed"),
        ));
    }
    if let Some(control) = text.chars().find(|char| char.is_control()) {
        return Err(InvalidField::new(
            field,
            format!("holds the control character {control:?}; remove it"),
        ));
    }
    Ok(text.into())
}

/// What people call a worker: it may be empty, but not be mistaken for a path or for an id.
pub(crate) fn name(name: &str) -> Result<String, InvalidField> {
    let wrong = |why: String| Err(InvalidField::new("name", why));
    let name = text("name", name, NAME)?;
    if let Some(separator) = name.chars().find(|char| matches!(char, '/' | '\\')) {
        return wrong(format!("holds the path separator `{separator}`; remove it"));
    }
    if name == "." || name == ".." {
        return wrong(format!("is `{name}`, which is a folder's; choose another"));
    }
    if name.parse::<ids::WorkerId>().is_ok() {
        return wrong("has the form of a worker's id; choose another".to_owned());
    }
    Ok(name)
}

/// The name of an environment variable.
pub(crate) fn key(key: &str) -> Result<String, InvalidField> {
    let wrong = |why: String| Err(InvalidField::new("key", why));
    if key.len() > KEY {
        return wrong(format!("has {} bytes; at most {KEY} are allowed", key.len()));
    }
    let starts_well = key.starts_with(|char: char| char.is_ascii_alphabetic() || char == '_');
    if !starts_well || !key.chars().all(|char| char.is_ascii_alphanumeric() || char == '_') {
        let key = key.escape_debug();
        return wrong(format!(
            "is `{key}`; a variable's name has letters, digits and `_`, and begins with no digit"
        ));
    }
    if RESERVED.iter().any(|reserved| key.starts_with(reserved)) {
        return wrong(format!("is `{key}`; names that begin so are the agent's own"));
    }
    Ok(key.to_owned())
}

/// What the agent tells its pipelines.
const RESERVED: [&str; 2] = ["GAIA_PLUGIN", "PLUGIN_"];

pub(crate) fn value(value: &str) -> Result<(), InvalidField> {
    let wrong = |why: String| Err(InvalidField::new("value", why));
    if value.len() > VALUE {
        return wrong(format!("has {} bytes; at most {VALUE} are allowed", value.len()));
    }
    if value.contains('\0') {
        return wrong("holds a NUL, which no environment can; remove it".to_owned());
    }
    Ok(())
}

/// The tags without blanks around them, each once. Case does not tell tags apart, but is kept.
pub(crate) fn tags(tags: &[String]) -> Result<Vec<String>, InvalidField> {
    let mut known: Vec<String> = Vec::new();
    if tags.len() > TAGS {
        return Err(InvalidField::new(
            "tags",
            format!("has {} entries; at most {TAGS} are allowed", tags.len()),
        ));
    }
    for tag in tags {
        let tag = self::tag(tag)?;
        if !known.iter().any(|known| known.to_lowercase() == tag.to_lowercase()) {
            known.push(tag);
        }
    }
    Ok(known)
}

/// One tag; a negative one begins with `-`.
pub(crate) fn tag(tag: &str) -> Result<String, InvalidField> {
    let tag = text("tags", tag, TAG)?;
    let denied = tag.strip_prefix(['-', '!']);
    if denied.unwrap_or(&tag).trim().is_empty() {
        return Err(InvalidField::new("tags", "holds an empty tag; remove it".into()));
    }
    Ok(denied.map_or_else(|| tag.clone(), |denied| format!("-{}", denied.trim())))
}

pub(crate) fn slots(slots: i32) -> Result<u32, InvalidField> {
    u32::try_from(slots).ok().filter(|&slots| slots <= SLOTS).ok_or_else(|| {
        InvalidField::new("slots", format!("is {slots}; it should be between 0 and {SLOTS}"))
    })
}

/// The networks that a token is good for.
pub(crate) fn networks(texts: &[String]) -> Result<Vec<Network>, InvalidField> {
    const NETWORKS: usize = 64;
    let wrong = |why: String| InvalidField::new("networks", why);
    if texts.len() > NETWORKS {
        return Err(wrong(format!("has {} entries; at most {NETWORKS} are allowed", texts.len())));
    }
    let network = |text: &String| {
        let shown: String = text.chars().take(60).collect();
        text.trim().parse().map_err(|error| wrong(format!("`{}` {error}", shown.escape_debug())))
    };
    texts.iter().map(network).collect()
}

/// How often a token may be used.
pub(crate) fn uses(uses: u32) -> Result<u32, InvalidField> {
    const USES: u32 = 10_000;
    match uses {
        0 => Ok(1),
        1..=USES => Ok(uses),
        _ => {
            Err(InvalidField::new("uses", format!("is {uses}; it should be between 1 and {USES}")))
        }
    }
}

/// How long a token is valid.
pub(crate) fn lifetime(ms: u64) -> Result<Duration, InvalidField> {
    const LONGEST: Duration = Duration::from_hours(30 * 24);
    let lifetime = if ms == 0 { Duration::from_hours(1) } else { Duration::from_millis(ms) };
    if lifetime > LONGEST {
        let why = "is longer than 30 days; a token that lies around for longer is a risk";
        return Err(InvalidField::new("valid_ms", why.into()));
    }
    Ok(lifetime)
}

impl InvalidField {
    pub(crate) fn new(field: &'static str, why: String) -> Self {
        Self { field, why }
    }
}

impl From<InvalidField> for tonic::Status {
    fn from(error: InvalidField) -> Self {
        Self::invalid_argument(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned(texts: &[&str]) -> Vec<String> {
        texts.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn tags_are_trimmed_and_told_apart_without_case_but_shown_as_written() {
        assert_eq!(tags(&owned(&[" Golang", "golang ", "GPU"])), Ok(owned(&["Golang", "GPU"])));
        assert_eq!(tags(&[]), Ok(vec![]));
    }

    #[test]
    fn what_is_wrong_with_a_text_is_said() {
        let why = |tags: Result<Vec<String>, InvalidField>| tags.unwrap_err().to_string();
        assert_eq!(why(tags(&owned(&["go", " "]))), "`tags` holds an empty tag; remove it");
        assert_eq!(
            why(tags(&owned(&["go\n"; 65]))),
            "`tags` has 65 entries; at most 64 are allowed"
        );
        assert_eq!(
            why(tags(&owned(&["a\0b"]))),
            "`tags` holds the control character '\\0'; remove it"
        );
        assert!(tags(&["é".repeat(64)]).is_ok());
        assert!(tags(&["é".repeat(65)]).is_err());
        assert_eq!(
            text("name", &"x".repeat(101), NAME).unwrap_err().to_string(),
            "`name` has 101 characters; at most 100 are allowed"
        );
        assert_eq!(slots(0), Ok(0));
        assert_eq!(
            slots(-1).unwrap_err().to_string(),
            "`slots` is -1; it should be between 0 and 10000"
        );
        assert!(slots(10_001).is_err());
        assert!(tags(&["x".repeat(1 << 20)]).unwrap_err().to_string().len() < 200);
        assert!(tags(&vec!["go".to_string(); 10_000]).is_err());
    }

    #[test]
    fn a_negative_tag_denies_something() {
        assert_eq!(tags(&owned(&["! go", "-Go"])), Ok(owned(&["-go"])));
        assert!(tags(&owned(&["- "])).is_err());
    }

    #[test]
    fn a_name_is_neither_a_path_nor_an_id() {
        assert_eq!(name(" build er "), Ok("build er".into()));
        for bad in ["a/b", "a\\b", "..", ".", "a\tb", "0193e9a0-0000-7000-8000-000000000000"] {
            assert!(name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_variable_has_a_name_that_every_shell_takes() {
        assert_eq!(key("_HTTP_PROXY2"), Ok("_HTTP_PROXY2".into()));
        for bad in ["", "1A", "A=B", "A B", "Ä", "A\0", "GAIA_PLUGIN_KEY", "PLUGIN_MIN_PORT"] {
            assert!(key(bad).unwrap_err().to_string().starts_with("`key`"), "{bad}");
        }
        assert!(key(&"A".repeat(129)).is_err());
        assert!(value(&"x".repeat(VALUE)).is_ok());
        assert!(value(&"x".repeat(VALUE + 1)).is_err());
        assert!(value("a\0b").is_err());
    }
}
