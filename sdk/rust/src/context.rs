//! What a job gets: its title and its arguments.

use std::{any::type_name, collections::BTreeMap, error::Error, fmt, str::FromStr};

use crate::job::Job;

/// A job's view of its run.
#[derive(Clone)]
pub struct Ctx {
    title: String,
    values: BTreeMap<String, String>,
}

/// An argument is missing or is not what the job needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ArgumentError {
    /// Nobody gave a value, and there is no default.
    Missing(String),
    /// The value is not of the wanted type. The value itself is not told: it may be a secret.
    Unusable {
        /// The argument's key.
        key: String,
        /// The wanted type.
        wanted: &'static str,
        /// What the type says about the value.
        problem: String,
    },
}

impl fmt::Display for ArgumentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(key) => {
                write!(f, "the argument `{key}` has no value; give it one at the start of the run")
            }
            Self::Unusable { key, wanted, problem } => {
                write!(f, "the argument `{key}` is no {wanted}: {problem}")
            }
        }
    }
}

impl Error for ArgumentError {}

impl Ctx {
    /// Declared defaults apply where no value, or an empty one, was given.
    pub(crate) fn new(job: &Job, given: impl IntoIterator<Item = (String, String)>) -> Self {
        let defaults = job.arguments.iter().map(|wanted| (&wanted.key, &wanted.default));
        let mut values: BTreeMap<String, String> =
            defaults.map(|(key, value)| (key.clone(), value.clone())).collect();
        values.extend(given.into_iter().filter(|(_, value)| !value.is_empty()));
        values.retain(|_, value| !value.is_empty());
        Self { title: job.title.clone(), values }
    }

    /// The job's own title.
    pub fn job(&self) -> &str {
        &self.title
    }

    /// The value of an argument or secret.
    pub fn text(&self, key: &str) -> Result<&str, ArgumentError> {
        self.find(key).ok_or_else(|| ArgumentError::Missing(key.to_owned()))
    }

    /// The value, if there is one.
    pub fn find(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(String::as_str)
    }

    /// The value as a number, an address, or whatever else can be read from text.
    pub fn get<T: FromStr<Err: fmt::Display>>(&self, key: &str) -> Result<T, ArgumentError> {
        self.text(key)?.trim().parse().map_err(|problem: T::Err| ArgumentError::Unusable {
            key: key.to_owned(),
            wanted: type_name::<T>(),
            problem: problem.to_string(),
        })
    }

    /// Is it `true`, `yes`, `on` or `1`, whatever the case?
    pub fn flag(&self, key: &str) -> bool {
        let value = self.find(key).unwrap_or_default().trim();
        ["true", "yes", "on", "1"].iter().any(|yes| value.eq_ignore_ascii_case(yes))
    }
}

/// Without the values, which may be secrets.
impl fmt::Debug for Ctx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: Vec<_> = self.values.keys().collect();
        f.debug_struct("Ctx").field("job", &self.title).field("arguments", &keys).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ctx(given: &[(&str, &str)]) -> Ctx {
        let job = Job::new("Deploy", |_| async { Ok(()) })
            .text("machines", "")
            .default("3")
            .flag("fast", "")
            .secret("TOKEN")
            .default("no secret has a default");
        Ctx::new(&job, given.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())))
    }

    #[test]
    fn a_default_is_used_when_nobody_says_and_only_then() {
        assert_eq!(ctx(&[]).get::<u32>("machines"), Ok(3));
        assert_eq!(ctx(&[("machines", "")]).get::<u32>("machines"), Ok(3));
        assert_eq!(ctx(&[("machines", " 7 ")]).get::<u32>("machines"), Ok(7));
        assert_eq!(ctx(&[]).text("TOKEN"), Err(ArgumentError::Missing("TOKEN".into())));
    }

    #[test]
    fn flags_are_set_by_the_usual_words() {
        for (value, set) in
            [("true", true), ("Yes", true), ("1", true), ("false", false), ("", false)]
        {
            assert_eq!(ctx(&[("fast", value)]).flag("fast"), set, "{value}");
        }
    }

    #[test]
    fn values_are_never_shown() {
        let ctx = ctx(&[("TOKEN", "hunter2"), ("machines", "hunter3")]);
        let shown = format!("{ctx:?} {}", ctx.get::<u32>("machines").expect_err("no number"));
        assert!(shown.contains("TOKEN") && shown.contains("machines"), "{shown}");
        assert!(!shown.contains("hunter"), "{shown}");
    }
}
