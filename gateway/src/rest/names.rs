//! Names of streams or types, as queries give them: `run-*,worker-7`.

/// Names wanted, and beginnings of names, which end with `*`. Without any: every name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Names(Vec<String>);

impl Names {
    pub(super) fn parse(text: &str) -> Self {
        let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
        Self(names.map(str::to_owned).collect())
    }

    /// What every wanted name begins with one of; empty: anything.
    pub(super) fn prefixes(&self) -> Vec<String> {
        let prefixes: Vec<_> =
            self.0.iter().map(|name| name.strip_suffix('*').unwrap_or(name).to_owned()).collect();
        if prefixes.iter().any(String::is_empty) { Vec::new() } else { prefixes }
    }

    pub(super) fn hold(&self, name: &str) -> bool {
        let is = |wanted: &String| match wanted.strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix),
            None => name == wanted,
        };
        self.0.is_empty() || self.0.iter().any(is)
    }

    /// The only name wanted, if it is one.
    pub(super) fn only(&self) -> Option<&str> {
        match self.0.as_slice() {
            [name] if !name.ends_with('*') => Some(name),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_whole_or_beginnings() {
        let names = Names::parse("run-*, worker-7");
        assert_eq!(names.prefixes(), ["run-", "worker-7"]);
        let held = ["run-1", "worker-7", "worker-77", "user-a"].map(|name| names.hold(name));
        assert_eq!((held, names.only()), ([true, true, false, false], None));
        assert_eq!(Names::parse("worker-7").only(), Some("worker-7"));
        for everything in ["", " , ", "*", "run-*,*"] {
            let names = Names::parse(everything);
            assert!(names.hold("x") && names.prefixes().is_empty(), "{everything}");
        }
    }
}
