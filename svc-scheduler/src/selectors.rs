//! What a selector means on the workers that there are, for who is writing it.

use proto::scheduler::v1::{
    CheckSelectorRequest, CheckSelectorResponse, SelectorFinding, selector_finding,
};

use crate::domain::{Finding, Offer, Requirement, Selector, SelectorError, Severity, State, lint};

/// Most tags that are looked at; no pipeline has more.
const MAX_TAGS: usize = 100;

pub(crate) fn check(state: &State, request: CheckSelectorRequest) -> CheckSelectorResponse {
    let workers = state.workers().count() as u32;
    check_whole(state, request).map_or_else(
        |error| CheckSelectorResponse {
            findings: vec![unread(error)],
            workers,
            ..Default::default()
        },
        |checked| CheckSelectorResponse { workers, ..checked },
    )
}

fn check_whole(
    state: &State,
    request: CheckSelectorRequest,
) -> Result<CheckSelectorResponse, SelectorError> {
    let CheckSelectorRequest { selector: text, pipeline_type, mut tags, pinned_worker: pin } =
        request;
    tags.truncate(MAX_TAGS);
    tags.push(pipeline_type);
    let selector = Selector::parse(&text)?;
    let base = Selector::default().with_tags(&tags);
    let only = Requirement { pin, ..Requirement::default() };
    let fleet: Vec<(&str, &Offer)> = state
        .workers()
        .filter(|(id, worker)| worker.is_pinned_by(*id, &only))
        .map(|(_, worker)| (worker.name.as_str(), worker.offer()))
        .collect();
    let mut findings = lint(&text, &base, &fleet)?;
    if fleet.is_empty() {
        let text = if only.pin.is_empty() {
            "no worker is registered".into()
        } else {
            format!("worker `{}` is not registered", only.pin)
        };
        findings.push(Finding { severity: Severity::Warning, place: None, text });
    }
    let written = selector.to_string();
    let requirement = Requirement { selector: selector.with_tags(&tags), ..only };
    let suiting = state.workers().filter(|(id, worker)| worker.suits(*id, &requirement));
    Ok(CheckSelectorResponse {
        selector: written,
        findings: findings.into_iter().map(finding).collect(),
        matching: suiting.map(|(id, _)| state.worker_name(id)).collect(),
        workers: 0,
    })
}

fn unread(error: SelectorError) -> SelectorFinding {
    let (at, text) = (error.at as u32, error.kind.to_string());
    SelectorFinding { severity: selector_finding::Severity::Error.into(), from: at, to: at, text }
}

fn finding(finding: Finding) -> SelectorFinding {
    let severity = match finding.severity {
        Severity::Note => selector_finding::Severity::Note,
        Severity::Warning => selector_finding::Severity::Warning,
        Severity::Error => selector_finding::Severity::Error,
    };
    let place = finding.place.map_or((0, 0), |place| (place.start as u32 + 1, place.end as u32));
    SelectorFinding { severity: severity.into(), from: place.0, to: place.1, text: finding.text }
}
