//! Which events a reader of the whole log wants.
//!
//! Clients send regular expressions with look-ahead, so the engine must know it; it backtracks, so its
//! steps are limited, and an expression that needs more is refused where it does.

use fancy_regex::{Regex, RegexBuilder};
use proto::event_store::client::streams::read_req::options::{
    FilterOptions,
    filter_options::{Expression, Filter as Wanted, Window},
};
use tonic::Status;

use crate::{Filter, event::Recorded};

/// Steps of one match at most; names have up to 256 bytes.
const STEPS: usize = 10_000;
/// Longest expression, in bytes, and most prefixes.
const LONGEST: usize = 4_096;
/// Events that are looked at between two checkpoints where the client does not say how many.
const WINDOW: u64 = 32;

#[derive(Clone, Debug)]
pub(super) struct EventFilter {
    of: Of,
    by: By,
    /// Events that are looked at between two checkpoints.
    pub(super) interval: u64,
}

#[derive(Clone, Copy, Debug)]
enum Of {
    Streams,
    Types,
}

#[derive(Clone, Debug)]
enum By {
    Prefixes(Vec<String>),
    Expression(Regex),
}

impl EventFilter {
    pub(super) fn parse(options: FilterOptions) -> Result<Self, Status> {
        let (of, expression) = match options.filter {
            Some(Wanted::StreamIdentifier(expression)) => (Of::Streams, expression),
            Some(Wanted::EventType(expression)) => (Of::Types, expression),
            None => return Err(Status::invalid_argument("the filter filters nothing")),
        };
        let window = match options.window {
            Some(Window::Max(0)) => return Err(Status::invalid_argument("a window of 0 events")),
            Some(Window::Max(max)) => u64::from(max),
            Some(Window::Count(_)) | None => WINDOW,
        };
        let interval = window * u64::from(options.checkpoint_interval_multiplier.max(1));
        Ok(Self { of, by: by(expression)?, interval })
    }

    /// What the log itself can look for; where it cannot, [`EventFilter::matches`] must look again.
    pub(super) fn prefixes(&self) -> Filter {
        let prefixes = match &self.by {
            By::Prefixes(prefixes) => prefixes.clone(),
            By::Expression(_) => vec![],
        };
        match self.of {
            Of::Streams => Filter { streams: prefixes, ..Filter::default() },
            Of::Types => Filter { event_types: prefixes, ..Filter::default() },
        }
    }

    pub(super) fn matches(&self, event: &Recorded) -> Result<bool, Status> {
        let name = match self.of {
            Of::Streams => &event.stream,
            Of::Types => &event.event.event_type,
        };
        match &self.by {
            By::Prefixes(prefixes) => {
                Ok(prefixes.is_empty() || prefixes.iter().any(|prefix| name.starts_with(prefix)))
            }
            By::Expression(expression) => expression.is_match(&**name).map_err(|error| {
                let (expression, name) = (expression.as_str(), name.escape_debug());
                Status::invalid_argument(format!("match `{expression}` with `{name}`: {error}"))
            }),
        }
    }
}

/// An expression counts more than prefixes, as everywhere in the protocol.
fn by(Expression { regex, prefix }: Expression) -> Result<By, Status> {
    if regex.len() > LONGEST || prefix.len() > LONGEST {
        return Err(Status::invalid_argument(format!(
            "a filter has at most {LONGEST} bytes of expression or {LONGEST} prefixes"
        )));
    }
    if regex.is_empty() {
        return Ok(By::Prefixes(prefix));
    }
    let expression = RegexBuilder::new(&regex)
        .backtrack_limit(STEPS)
        .delegate_size_limit(1 << 20)
        .delegate_dfa_size_limit(1 << 20)
        .build();
    expression.map(By::Expression).map_err(|error| {
        Status::invalid_argument(format!(
            "`{}` is no regular expression: {error}",
            regex.escape_debug()
        ))
    })
}
