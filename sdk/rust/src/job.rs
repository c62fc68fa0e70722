//! Declaring a job: its function, its place in the graph, its arguments.

use std::{error::Error, fmt, future::Future, pin::Pin, sync::Arc};

use crate::Ctx;

/// What a job's function answers.
pub type JobResult = Result<(), Stop>;

/// Why a job ends other than well. Every error becomes [`Stop::Fail`] by `?`.
#[derive(Debug)]
pub enum Stop {
    /// The run ends here: running jobs finish, nothing new starts, and the run is no failure.
    Exit(String),
    /// The job failed, and with it the run.
    Fail(Box<dyn Error + Send + Sync>),
}

impl Stop {
    /// Ends the run early, as a success.
    pub fn exit(reason: impl Into<String>) -> Self {
        Self::Exit(reason.into())
    }

    /// Fails the job with a message.
    pub fn fail(message: impl Into<String>) -> Self {
        Self::Fail(message.into().into())
    }
}

impl<E: Error + Send + Sync + 'static> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Fail(Box::new(error))
    }
}

pub(crate) type Running = Pin<Box<dyn Future<Output = JobResult> + Send>>;
type Handler = Arc<dyn Fn(Ctx) -> Running + Send + Sync>;

/// A job of the pipeline.
#[derive(Clone)]
pub struct Job {
    pub(crate) title: String,
    pub(crate) about: String,
    pub(crate) after: Vec<String>,
    pub(crate) arguments: Vec<Argument>,
    pub(crate) handler: Handler,
}

/// A value that a job wants.
#[derive(Debug, Clone)]
pub(crate) struct Argument {
    pub(crate) key: String,
    pub(crate) about: String,
    pub(crate) kind: &'static str,
    pub(crate) default: String,
}

impl Job {
    /// A job with a title that no other job of the pipeline has, whatever the case.
    pub fn new<F, Fut>(title: impl Into<String>, function: F) -> Self
    where
        F: Fn(Ctx) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = JobResult> + Send + 'static,
    {
        Self {
            title: title.into(),
            about: String::new(),
            after: Vec::new(),
            arguments: Vec::new(),
            handler: Arc::new(move |ctx| Box::pin(function(ctx))),
        }
    }

    /// Describes the job to people.
    #[must_use]
    pub fn about(mut self, text: impl Into<String>) -> Self {
        self.about = text.into();
        self
    }

    /// Starts only when the job with this title, whatever the case, has succeeded. May be used
    /// several times.
    #[must_use]
    pub fn after(mut self, title: impl Into<String>) -> Self {
        self.after.push(title.into());
        self
    }

    /// Wants a line of text.
    #[must_use]
    pub fn text(self, key: impl Into<String>, about: impl Into<String>) -> Self {
        self.argument("textfield", key.into(), about.into())
    }

    /// Wants several lines of text.
    #[must_use]
    pub fn text_area(self, key: impl Into<String>, about: impl Into<String>) -> Self {
        self.argument("textarea", key.into(), about.into())
    }

    /// Wants a yes or no; see [`Ctx::flag`].
    #[must_use]
    pub fn flag(self, key: impl Into<String>, about: impl Into<String>) -> Self {
        self.argument("boolean", key.into(), about.into())
    }

    /// Wants the secret of this name from the vault.
    #[must_use]
    pub fn secret(self, key: impl Into<String>) -> Self {
        self.argument("vault", key.into(), String::new())
    }

    /// What the argument declared last is when nobody says. Secrets have no default.
    #[must_use]
    pub fn default(mut self, value: impl Into<String>) -> Self {
        if let Some(argument) = self.arguments.last_mut().filter(|last| last.kind != "vault") {
            argument.default = value.into();
        }
        self
    }

    fn argument(mut self, kind: &'static str, key: String, about: String) -> Self {
        self.arguments.push(Argument { key, about, kind, default: String::new() });
        self
    }
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job")
            .field("title", &self.title)
            .field("after", &self.after)
            .field("arguments", &self.arguments)
            .finish_non_exhaustive()
    }
}
