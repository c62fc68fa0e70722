//! What people say about a pipeline, and what is wrong with it.
//!
//! The URL and the branch end up on git's command line on a worker, so nothing here may look like an
//! option or name a helper program, and no secret may hide in a URL, which is stored in clear.

use std::{collections::BTreeSet, fmt};

use super::policy::Policy;

/// In characters.
const LONGEST_NAME: usize = 50;
const MOST_TAGS: usize = 64;
/// In characters.
const LONGEST_TAG: usize = 64;
/// In bytes; also what other systems take.
const LONGEST_URL: usize = 2_048;
/// In bytes: a branch is a file in git's folder.
const LONGEST_BRANCH: usize = 250;
/// In characters.
const LONGEST_WORKER: usize = 200;
/// In characters.
const LONGEST_SELECTOR: usize = 1_000;

/// What a pipeline is written in; says how it is built and started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PipelineType {
    Golang,
    Java,
    Python,
    Cpp,
    Ruby,
    Nodejs,
    Rust,
}

impl PipelineType {
    pub const ALL: [Self; 7] =
        [Self::Golang, Self::Java, Self::Python, Self::Cpp, Self::Ruby, Self::Nodejs, Self::Rust];

    /// Gaia's names.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Golang => "golang",
            Self::Java => "java",
            Self::Python => "python",
            Self::Cpp => "cpp",
            Self::Ruby => "ruby",
            Self::Nodejs => "nodejs",
            Self::Rust => "rust",
        }
    }

    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }
}

impl fmt::Display for PipelineType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// As it was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    pub name: String,
    pub kind: String,
    pub url: String,
    pub branch: String,
    pub tags: Vec<String>,
    pub pinned_worker: String,
    pub selector: String,
    pub policy: Policy,
}

/// What is to be different; `None`: nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    pub name: Option<String>,
    pub tags: Option<Vec<String>>,
    pub pinned_worker: Option<String>,
    pub selector: Option<String>,
    pub policy: Option<Policy>,
}

/// As it is kept: checked, and each thing in its one form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    pub name: String,
    pub kind: PipelineType,
    pub url: String,
    /// Without `refs/heads/`. Empty: the repository's default branch.
    pub branch: String,
    /// None twice, whatever the case.
    pub tags: Vec<String>,
    /// Id or name of the only worker that may run it; empty: any.
    pub pinned_worker: String,
    /// What it asks of its workers besides, in the scheduler's language.
    pub selector: String,
    pub policy: Policy,
}

/// A field that cannot be accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {why}")]
pub struct InvalidField {
    pub field: &'static str,
    pub why: String,
}

pub(super) fn invalid<T>(field: &'static str, why: impl Into<String>) -> Result<T, InvalidField> {
    Err(InvalidField { field, why: why.into() })
}

impl Wish {
    pub(super) fn check(self) -> Result<Spec, InvalidField> {
        Ok(Spec {
            name: name(&self.name)?,
            kind: kind(&self.kind)?,
            url: url(&self.url)?,
            branch: branch(&self.branch)?,
            tags: tags(self.tags)?,
            pinned_worker: pinned_worker(&self.pinned_worker)?,
            selector: selector(&self.selector)?,
            policy: self.policy.check()?,
        })
    }
}

impl Change {
    /// What it makes of a pipeline.
    pub(super) fn check(self, mut spec: Spec) -> Result<Spec, InvalidField> {
        if let Some(new) = self.name {
            spec.name = name(&new)?;
        }
        if let Some(new) = self.tags {
            spec.tags = tags(new)?;
        }
        if let Some(new) = self.pinned_worker {
            spec.pinned_worker = pinned_worker(&new)?;
        }
        if let Some(new) = self.selector {
            spec.selector = selector(&new)?;
        }
        if let Some(new) = self.policy {
            spec.policy = new.check()?;
        }
        Ok(spec)
    }
}

fn name(text: &str) -> Result<String, InvalidField> {
    let name = text.trim_matches(' ');
    let is_fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, ' ' | '-' | '_');
    if name.is_empty() {
        return invalid("name", "is empty: give the pipeline a name");
    }
    if let Some(bad) = name.chars().find(|&c| !is_fine(c)) {
        return invalid(
            "name",
            format!("holds {bad:?}: use letters from a to z, digits, spaces, `-` and `_` only"),
        );
    }
    if name.len() > LONGEST_NAME {
        return invalid(
            "name",
            format!("has {} characters, more than {LONGEST_NAME}: shorten it", name.len()),
        );
    }
    Ok(name.into())
}

fn kind(text: &str) -> Result<PipelineType, InvalidField> {
    PipelineType::named(text).map_or_else(
        || {
            let names = PipelineType::ALL.map(PipelineType::as_str).join(", ");
            invalid("type", format!("{} is none of {names}", quoted(text)))
        },
        Ok,
    )
}

fn url(text: &str) -> Result<String, InvalidField> {
    let url = text.trim();
    if url.is_empty() {
        return invalid("url", "is empty: say where the repository is");
    }
    if url.len() > LONGEST_URL {
        return invalid("url", format!("has {} bytes, more than {LONGEST_URL}", url.len()));
    }
    if url.chars().any(char::is_control) {
        return invalid("url", format!("{} holds control characters", quoted(url)));
    }
    if let Some((scheme, rest)) = url.split_once("://") {
        remote(url, scheme, rest)?;
    } else if !url.starts_with('/') {
        scp_style(url)?;
    }
    Ok(url.into())
}

fn remote(url: &str, scheme: &str, rest: &str) -> Result<(), InvalidField> {
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    if scheme == "file" {
        if !matches!(authority, "" | "localhost") {
            return invalid("url", format!("{}: write file:///path/to/it", quoted(url)));
        }
        return Ok(());
    }
    if !matches!(scheme, "https" | "http" | "ssh" | "git") {
        return invalid(
            "url",
            format!("{} is none of https, http, ssh, git and file", quoted(scheme)),
        );
    }
    let (user, host) = match authority.rsplit_once('@') {
        Some((user, host)) => (Some(user), host),
        None => (None, authority),
    };
    // The URL is stored and shown in clear; nor is it repeated in this message.
    match user {
        Some(user) if scheme == "ssh" && is_plain(user) => {}
        Some(_) => {
            return invalid(
                "url",
                "holds a user's name or a password: put them into the credentials instead",
            );
        }
        None => {}
    }
    if !is_host(host) {
        return invalid("url", format!("{} has no valid host", quoted(url)));
    }
    if path.chars().any(char::is_whitespace) {
        return invalid("url", format!("{}: write spaces as %20", quoted(url)));
    }
    Ok(())
}

/// `git@host:path`, as hosters show it.
fn scp_style(url: &str) -> Result<(), InvalidField> {
    let parts = url.split_once('@').and_then(|(user, rest)| {
        let (host, path) = rest.split_once(':')?;
        Some((user, host, path))
    });
    let is_fine = parts.is_some_and(|(user, host, path)| {
        is_plain(user)
            && is_plain(host)
            && !path.is_empty()
            && !path.starts_with(['-', ':'])
            && !path.chars().any(char::is_whitespace)
    });
    if is_fine {
        return Ok(());
    }
    invalid(
        "url",
        format!(
            "{} is no repository: write https://host/path, ssh://host/path, user@host:path, or a path from `/`",
            quoted(url)
        ),
    )
}

/// A name that git and ssh cannot take for an option or anything else.
fn is_plain(text: &str) -> bool {
    let is_fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    !text.is_empty() && !text.starts_with('-') && text.chars().all(is_fine)
}

/// A host's name or address, perhaps with a port.
fn is_host(authority: &str) -> bool {
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (authority, None),
    };
    let is_v6 =
        host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).is_some_and(|address| {
            !address.is_empty()
                && address.chars().all(|c| c.is_ascii_hexdigit() || matches!(c, ':' | '.'))
        });
    // Names of other scripts are for the resolver to judge.
    let is_name = !host.is_empty()
        && !host.starts_with('-')
        && host.chars().all(|c| c.is_alphanumeric() || matches!(c, '.' | '-' | '_'));
    (is_v6 || is_name) && port.is_none_or(|port| port.parse::<u16>().is_ok())
}

/// The rules are those of `git check-ref-format --branch`.
fn branch(text: &str) -> Result<String, InvalidField> {
    let text = text.trim();
    let branch = text.strip_prefix("refs/heads/").unwrap_or(text);
    if text.is_empty() {
        return Ok(String::new());
    }
    let refuse = |why: &str| invalid("branch", format!("{} {why}", quoted(text)));
    let is_bad = |c: char| {
        c.is_control() || c.is_whitespace() || matches!(c, '~' | '^' | ':' | '?' | '*' | '[' | '\\')
    };
    if branch.len() > LONGEST_BRANCH {
        return refuse("is too long");
    }
    if branch.starts_with("refs/") {
        return refuse("is not a branch: write its name, or refs/heads/ and its name");
    }
    if branch.starts_with('-') {
        return refuse("starts with `-`");
    }
    if let Some(bad) = branch.chars().find(|&c| is_bad(c)) {
        return refuse(&format!("holds {bad:?}, which no branch may"));
    }
    let is_part = |part: &str| {
        let ends_in_lock = part.strip_suffix(".lock").is_some();
        !part.is_empty() && !part.starts_with('.') && !ends_in_lock
    };
    let is_fine = branch.split('/').all(is_part)
        && !branch.ends_with('.')
        && !branch.contains("..")
        && !branch.contains("@{")
        && !matches!(branch, "@" | "HEAD");
    if is_fine { Ok(branch.into()) } else { refuse("is not a name that git allows a branch") }
}

fn tags(given: Vec<String>) -> Result<Vec<String>, InvalidField> {
    if given.len() > MOST_TAGS {
        return invalid("tags", format!("are {}, more than {MOST_TAGS}", given.len()));
    }
    let mut seen = BTreeSet::new();
    let mut kept = vec![];
    for given in given {
        let tag = given.trim();
        let length = tag.chars().count();
        if tag.is_empty() || length > LONGEST_TAG {
            return invalid(
                "tags",
                format!("{} has {length} characters: use 1 to {LONGEST_TAG}", quoted(tag)),
            );
        }
        // Workers list their tags with commas between them, so that none could ever have this one.
        if tag.chars().any(|c| c.is_control() || c == ',') {
            return invalid("tags", format!("{} holds commas or control characters", quoted(tag)));
        }
        if seen.insert(tag.to_lowercase()) {
            kept.push(tag.into());
        }
    }
    Ok(kept)
}

fn pinned_worker(text: &str) -> Result<String, InvalidField> {
    let worker = text.trim();
    if worker.chars().count() > LONGEST_WORKER || worker.chars().any(char::is_control) {
        return invalid("pinned_worker", format!("{} is no worker's id or name", quoted(worker)));
    }
    Ok(worker.into())
}

fn selector(text: &str) -> Result<String, InvalidField> {
    let selector = text.trim();
    let length = selector.chars().count();
    if length > LONGEST_SELECTOR {
        let why = format!("has {length} characters, more than {LONGEST_SELECTOR}: shorten it");
        return invalid("selector", why);
    }
    if selector.chars().any(char::is_control) {
        return invalid("selector", "holds control characters");
    }
    Ok(selector.into())
}

/// What a message repeats of bad input.
fn quoted(text: &str) -> String {
    const MOST: usize = 80;
    let start: String = text.chars().take(MOST).collect();
    let more = if text.chars().nth(MOST).is_some() { "…" } else { "" };
    format!("`{}{more}`", start.escape_debug())
}
