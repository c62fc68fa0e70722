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

#[cfg(test)]
mod tests {
    use ids::{EventId, Timestamp};
    use tonic::Code;
    use uuid::Uuid;

    use super::*;
    use crate::{Metadata, NewEvent};

    fn options(regex: &str, prefix: &[&str]) -> Expression {
        let prefix = prefix.iter().map(ToString::to_string).collect();
        Expression { regex: regex.into(), prefix }
    }

    fn of_streams(regex: &str, prefix: &[&str]) -> Result<EventFilter, Status> {
        EventFilter::parse(FilterOptions {
            filter: Some(Wanted::StreamIdentifier(options(regex, prefix))),
            checkpoint_interval_multiplier: 3,
            window: Some(Window::Max(10)),
        })
    }

    fn event(stream: &str, event_type: &str) -> Recorded {
        let id = EventId::from_uuid(Uuid::from_u128(1));
        Recorded {
            position: 0,
            stream: stream.into(),
            revision: 0,
            recorded_at: Timestamp(0),
            event: NewEvent::new(id, event_type.to_owned(), "", &Metadata::default()),
        }
    }

    #[test]
    fn an_expression_chooses_by_its_name_and_looks_ahead() {
        // What the official clients send to leave out the log's own streams.
        let filter = of_streams(r"^[^\$].*", &["run-"]).unwrap();
        assert!(
            filter.matches(&event("worker-1", "Lost")).unwrap(),
            "it counts more than prefixes"
        );
        assert!(!filter.matches(&event("$$run-1", "$metadata")).unwrap());
        let filter = of_streams("^(?!run-7).*", &[]).unwrap();
        assert!(filter.matches(&event("run-1", "run-7")).unwrap());
        assert!(!filter.matches(&event("run-77", "Ended")).unwrap());
        let types = Wanted::EventType(options("ed$", &[]));
        let types = FilterOptions { filter: Some(types), ..FilterOptions::default() };
        let filter = EventFilter::parse(types).unwrap();
        assert!(filter.matches(&event("run-1", "Ended")).unwrap());
        assert!(!filter.matches(&event("ended", "Began")).unwrap());
    }

    #[test]
    fn prefixes_go_to_the_log_and_expressions_cannot() {
        let filter = of_streams("", &["run-", "worker-"]).unwrap();
        assert_eq!(filter.prefixes(), Filter::streams(&["run-", "worker-"]));
        assert!(filter.matches(&event("worker-1", "")).unwrap());
        assert!(!filter.matches(&event("user-1", "run-")).unwrap());
        assert_eq!(of_streams("^run-", &["x"]).unwrap().prefixes(), Filter::default());
    }

    #[test]
    fn a_checkpoint_comes_as_often_as_the_client_says() {
        assert_eq!(of_streams("x", &[]).unwrap().interval, 30);
        let filter = Some(Wanted::StreamIdentifier(options("x", &[])));
        let silent = FilterOptions { filter: filter.clone(), ..FilterOptions::default() };
        assert_eq!(EventFilter::parse(silent).unwrap().interval, WINDOW);
        let none =
            FilterOptions { filter, window: Some(Window::Max(0)), ..FilterOptions::default() };
        assert_eq!(EventFilter::parse(none).unwrap_err().code(), Code::InvalidArgument);
    }

    #[test]
    fn what_takes_too_long_or_is_no_expression_is_refused() {
        for wrong in ["(", &"x".repeat(LONGEST + 1)] {
            assert_eq!(of_streams(wrong, &[]).unwrap_err().code(), Code::InvalidArgument);
        }
        let slow = of_streams("(a|b|ab)*(?>c)", &[]).unwrap();
        let error = slow.matches(&event(&"ab".repeat(100), "")).unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument);
    }
}
