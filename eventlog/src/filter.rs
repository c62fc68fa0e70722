//! What of the log is wanted, and in which order.

/// Which way a read goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Oldest first.
    Forward,
    /// Newest first.
    Backward,
}

/// What of the whole log is wanted. Empty: everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Beginnings of names; with none given, every stream.
    pub streams: Vec<String>,
    /// Beginnings of types; with none given, every type.
    pub event_types: Vec<String>,
}

impl Filter {
    #[must_use]
    pub fn streams(prefixes: &[&str]) -> Self {
        Self { streams: owned(prefixes), event_types: Vec::new() }
    }

    #[must_use]
    pub fn event_types(prefixes: &[&str]) -> Self {
        Self { streams: Vec::new(), event_types: owned(prefixes) }
    }

    #[must_use]
    pub fn matches(&self, stream: &str, event_type: &str) -> bool {
        begins(&self.streams, stream) && begins(&self.event_types, event_type)
    }
}

fn begins(prefixes: &[String], name: &str) -> bool {
    prefixes.is_empty() || prefixes.iter().any(|prefix| name.starts_with(prefix))
}

fn owned(prefixes: &[&str]) -> Vec<String> {
    prefixes.iter().map(ToString::to_string).collect()
}

impl From<&[&str]> for Filter {
    fn from(streams: &[&str]) -> Self {
        Self::streams(streams)
    }
}

impl<const N: usize> From<&[&str; N]> for Filter {
    fn from(streams: &[&str; N]) -> Self {
        Self::streams(streams)
    }
}

impl From<&Vec<&str>> for Filter {
    fn from(streams: &Vec<&str>) -> Self {
        Self::streams(streams)
    }
}
