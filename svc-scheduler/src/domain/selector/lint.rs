//! Why a selector can never match, or not on the workers that there are.

use std::ops::Range;

use super::{
    Condition, Relation, Selector, SelectorError, Term,
    offer::{Offer, Unmet, is_same},
    parse::{self, Placed},
};

/// Something worth saying about a selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub severity: Severity,
    /// What it is about: characters, from 0. `None`: not about one term.
    pub place: Option<Range<usize>>,
    pub text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    Note,
    /// No worker that is registered now can match.
    Warning,
    /// No worker can ever match.
    Error,
}

/// `base`: what is asked for besides, like the pipeline's type and tags. `fleet`: the registered workers.
pub fn lint(
    text: &str,
    base: &Selector,
    fleet: &[(&str, &Offer)],
) -> Result<Vec<Finding>, SelectorError> {
    let mut terms: Vec<(Term, Option<Range<usize>>)> =
        base.required.iter().map(|condition| (Term::Require(condition.clone()), None)).collect();
    let written = parse::terms(text)?;
    terms.extend(written.into_iter().map(|Placed { term, place }| (term, Some(place))));
    let mut findings = vec![];
    for (index, (term, place)) in terms.iter().enumerate() {
        let earlier = terms[..index].iter().map(|(earlier, _)| earlier);
        let mut about = |severity, text| {
            findings.push(Finding { severity, place: place.clone(), text });
        };
        for conflict in earlier.filter_map(|earlier| conflict(earlier, term)) {
            about(Severity::Error, conflict);
        }
        if let Some(text) = idle(term, &terms) {
            about(Severity::Note, text);
        }
        if let Some((severity, text)) = nowhere(term, fleet) {
            about(severity, text);
        }
    }
    if findings.iter().all(|finding| finding.severity == Severity::Note) {
        let all: Selector = terms.into_iter().map(|(term, _)| term).collect();
        findings.extend(nobody(&all, fleet));
    }
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    Ok(findings)
}

impl Selector {
    /// Two terms that can never both hold.
    #[must_use]
    pub fn contradiction(&self) -> Option<String> {
        let required = self.required.iter().cloned().map(Term::Require);
        let forbidden = self.forbidden.iter().cloned().map(Term::Forbid);
        let terms: Vec<_> = required.chain(forbidden).collect();
        let with_earlier =
            |(index, term)| terms[..index].iter().find_map(|earlier| conflict(earlier, term));
        terms.iter().enumerate().find_map(with_earlier)
    }
}

/// Why both cannot hold on one worker.
fn conflict(one: &Term, other: &Term) -> Option<String> {
    match (one, other) {
        (Term::Require(one), Term::Require(other)) => {
            excludes(one, other).then(|| format!("no worker can fulfil both `{one}` and `{other}`"))
        }
        (Term::Require(required), Term::Forbid(forbidden))
        | (Term::Forbid(forbidden), Term::Require(required)) => implies(required, forbidden)
            .then(|| format!("`{required}` is required, and `!{forbidden}` forbids it")),
        _ => None,
    }
}

/// Whether two conditions are never true of one worker.
fn excludes(one: &Condition, other: &Condition) -> bool {
    use Condition::{Compares, Has, Is};
    match (one, other) {
        (Has(_), _) | (_, Has(_)) => false,
        (Is { key, value }, Is { key: same, value: other }) => {
            key == same && !is_same(value, other)
        }
        (Is { key, value }, Compares { key: same, relation, limit })
        | (Compares { key: same, relation, limit }, Is { key, value }) => {
            let number = super::Number::parse(value);
            key == same && !number.is_some_and(|number| relation.holds(number, *limit))
        }
        (
            Compares { key, relation: one, limit: first },
            Compares { key: same, relation: other, limit: second },
        ) => {
            // From both sides: is each limit within the other's?
            let is_open = one.holds(*second, *first) && other.holds(*first, *second);
            key == same && one.is_upper() != other.is_upper() && !is_open
        }
    }
}

/// Whether the second is true of every worker of which the first is.
fn implies(first: &Condition, second: &Condition) -> bool {
    use Condition::{Compares, Has, Is};
    match (first, second) {
        (Has(_), Is { .. } | Compares { .. }) | (Compares { .. }, Is { .. }) => false,
        (Has(key) | Is { key, .. } | Compares { key, .. }, Has(same)) => key == same,
        (Is { key, value }, Is { key: same, value: other }) => key == same && is_same(value, other),
        (Is { key, value }, Compares { key: same, relation, limit }) => {
            let number = super::Number::parse(value);
            key == same && number.is_some_and(|number| relation.holds(number, *limit))
        }
        (
            Compares { key, relation, limit },
            Compares { key: same, relation: wider, limit: bound },
        ) => {
            // Beyond a strict limit means beyond any bound that is not further.
            let is_within = wider.holds(*limit, *bound)
                || (limit == bound && matches!(relation, Relation::Above | Relation::Below));
            key == same && relation.is_upper() == wider.is_upper() && is_within
        }
    }
}

impl Relation {
    const fn is_upper(self) -> bool {
        matches!(self, Self::AtMost | Self::Below)
    }
}

/// Why a term changes nothing.
fn idle(term: &Term, terms: &[(Term, Option<Range<usize>>)]) -> Option<String> {
    let Term::Prefer(condition, weight) = term else { return None };
    terms.iter().find_map(|(other, _)| match other {
        Term::Require(required) if implies(required, condition) => {
            Some(format!("`{condition}~{weight}` changes nothing, since `{required}` is required"))
        }
        Term::Forbid(forbidden) if implies(condition, forbidden) => {
            Some(format!("`{condition}~{weight}` changes nothing, since `!{forbidden}` forbids it"))
        }
        _ => None,
    })
}

/// What is to be said of a term that makes no difference between the workers that there are.
fn nowhere(term: &Term, fleet: &[(&str, &Offer)]) -> Option<(Severity, String)> {
    if fleet.is_empty() {
        return None;
    }
    let is_anywhere =
        |condition: &Condition| fleet.iter().any(|(_, offer)| offer.fulfils(condition));
    match term {
        Term::Require(condition) if !is_anywhere(condition) => {
            let hint = hint(condition, fleet);
            Some((Severity::Warning, format!("no registered worker fulfils `{condition}`{hint}")))
        }
        Term::Forbid(condition) if fleet.iter().all(|(_, offer)| offer.fulfils(condition)) => {
            let text = format!("every registered worker fulfils `{condition}`, which is forbidden");
            Some((Severity::Warning, text))
        }
        Term::Prefer(condition, _) if !is_anywhere(condition) => {
            let hint = hint(condition, fleet);
            Some((Severity::Note, format!("no registered worker fulfils `{condition}`{hint}")))
        }
        Term::Tolerate(taint) if taint != "*" => {
            let is_known = fleet.iter().any(|(_, offer)| offer.taints().any(|own| own == taint));
            let text = || format!("no registered worker has the taint `{taint}`");
            (!is_known).then(|| (Severity::Note, text()))
        }
        _ => None,
    }
}

/// What may have been meant.
fn hint(condition: &Condition, fleet: &[(&str, &Offer)]) -> String {
    let (Condition::Has(key) | Condition::Is { key, .. } | Condition::Compares { key, .. }) =
        condition;
    let values = || fleet.iter().filter_map(|(name, offer)| Some((*name, offer.label(key)?)));
    match condition {
        Condition::Compares { .. } => {
            let text = values().find(|(_, value)| super::Number::parse(value).is_none());
            if let Some((name, value)) = text {
                return format!("; worker `{name}` has `{key}={value}`, which is no number");
            }
        }
        Condition::Is { .. } => {
            if let Some((name, value)) = values().next() {
                return format!("; worker `{name}` has `{key}={value}`");
            }
        }
        Condition::Has(_) => {}
    }
    let names = fleet.iter().flat_map(|(_, offer)| offer.names());
    let near = names.filter(|name| name != key).map(|name| (distance(name, key), name)).min();
    match near {
        Some((distance, name)) if distance <= 1 + key.chars().count() / 4 => {
            format!("; did you mean `{name}`?")
        }
        _ => String::new(),
    }
}

/// Letters to change, add or take away.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (index, letter) in one.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = index + 1;
        for (at, known) in other.iter().enumerate() {
            let changed = diagonal + usize::from(letter != *known);
            diagonal = row[at + 1];
            row[at + 1] = changed.min(row[at] + 1).min(diagonal + 1);
        }
    }
    row[other.len()]
}

/// Each term alone is fulfilled somewhere, but is all of it?
fn nobody(all: &Selector, fleet: &[(&str, &Offer)]) -> Option<Finding> {
    let unmet = |offer: &&(&str, &Offer)| all.unmet(offer.1).count();
    let (name, offer) = fleet.iter().min_by_key(unmet)?;
    let reasons: Vec<_> = all.unmet(offer).map(|unmet| unmet.to_string()).collect();
    let text = || {
        format!(
            "no registered worker suits all of it; the nearest is `{name}`, which {}",
            reasons.join(" and ")
        )
    };
    let finding = |text| Finding { severity: Severity::Warning, place: None, text };
    (!reasons.is_empty()).then(|| finding(text()))
}

impl std::fmt::Display for Unmet<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Lacks(condition) => write!(f, "lacks `{condition}`"),
            Self::Has(condition) => write!(f, "has `{condition}`, which is forbidden"),
            Self::Tainted(taint) => write!(f, "has the taint `{taint}`, which is not tolerated"),
        }
    }
}
