//! The language in which a run says what it asks of its worker.

use proptest::prelude::*;

use super::*;

fn selector(text: &str) -> Selector {
    Selector::parse(text).unwrap()
}

#[track_caller]
fn suits(text: &str, tags: &[&str]) -> bool {
    let offer = Offer::of(tags);
    selector(text).unmet(&offer).next().is_none()
}

#[test]
fn required_and_forbidden_tags_count_whatever_the_case() {
    assert!(suits("GPU, linux", &["gpu", "Linux"]));
    assert!(!suits("gpu linux", &["gpu"]));
    assert!(suits("!gpu", &["linux"]));
    assert!(!suits("!gpu", &["GPU"]));
    // What a worker refuses, it does not have.
    assert!(!suits("gpu", &["gpu", "-gpu"]));
    assert!(suits("!gpu", &["gpu", "!gpu"]));
    assert!(suits("", &[]));
}

#[test]
fn labels_are_compared_as_text_or_as_exact_numbers() {
    let big = &["mem=16.5", "os=Linux", "disk"];
    for holds in ["mem>=16", "mem>16.499999999", "mem<=16.5", "mem=16.50", "mem", "os=LINUX"] {
        assert!(suits(holds, big), "{holds}");
    }
    for fails in ["mem>16.5", "mem<16.5", "os>=3", "cpu>=1", "os=windows", "mem!=16.5", "!os"] {
        assert!(!suits(fails, big), "{fails}");
    }
    // What is not there is not windows either.
    assert!(suits("os!=windows", &[]));
    // The last word counts: an operator's comes after the worker's own.
    assert!(suits("mem=8", &["mem=16", "mem=8"]));
}

#[test]
fn a_taint_keeps_away_what_does_not_tolerate_it() {
    let tainted = &["golang", "taint:ci"];
    assert!(!suits("golang", tainted));
    assert!(suits("golang tolerate:CI", tainted));
    assert!(suits("golang tolerate:*", tainted));
    assert!(!suits("golang tolerate:other", tainted));
}

#[test]
fn of_the_suitable_workers_the_preferred_one_is_taken_while_it_has_room() {
    let workers = || {
        let slow = joined(1, 9, &["golang", "hdd"]);
        [slow, joined(2, 1, &["golang", "ssd"]), joined(3, 5, &["golang"])].concat()
    };
    let runs = |text: &str| {
        let wanted = || RunSpec { selector: selector(text), ..spec() };
        own([submitted_with(1, 1, wanted()), submitted_with(2, 2, wanted())])
    };
    let assigned = |text: &str| {
        let given: Vec<_> = [workers(), runs(text)].concat();
        placing::assign_to(&State::replay(&given), &[1, 2, 3])
    };
    assert_eq!(assigned("ssd~10 hdd~-5"), [(1, 2), (2, 3)]);
    assert_eq!(assigned("hdd~1"), [(1, 1), (2, 1)]);
    assert_eq!(assigned(""), [(1, 1), (2, 1)]);
}

#[test]
fn an_error_says_where_and_what_to_do() {
    let cases = [
        (
            "a~-2147483648",
            "at character 3: `-2147483648` is no weight; use a whole number from -100 to 100 but 0",
        ),
        ("gpu !", "at character 6: a tag is missing after `!`"),
        (
            "gpu -ssd",
            "at character 5: `-` does not begin a name; write `!` to forbid a tag, or put the name in quotes",
        ),
        (
            "a && b",
            "at character 3: terms are joined by blanks and all of them count; leave `&` out",
        ),
        ("mem>=", "at character 6: a value is missing after `>=`"),
        (
            "mem>=16Gi",
            "at character 6: `>=` compares numbers, and `16gi` is none (no units; up to 15 digits)",
        ),
        ("ssd~0", "at character 5: `0` is no weight; use a whole number from -100 to 100 but 0"),
        (
            "ssd~101",
            "at character 5: `101` is no weight; use a whole number from -100 to 100 but 0",
        ),
        (
            "!ssd~5",
            "at character 5: a term cannot both forbid and have a weight; a weight below 0 says `rather not`",
        ),
        ("x \"ab", "at character 3: the quotes are not closed"),
        ("\"\"", "at character 1: a name in quotes is empty"),
        ("a=b=c", "at character 4: `=` means nothing here; put a name that holds it in quotes"),
        ("ü =x", "at character 3: `=` means nothing here; put a name that holds it in quotes"),
        ("tolerate:", "at character 10: a tag is missing after `tolerate:`"),
        (
            "tolerate:a~3",
            "at character 11: `tolerate:` takes the name of a taint, or `*`, and nothing else",
        ),
    ];
    for (text, error) in cases {
        assert_eq!(Selector::parse(text).unwrap_err().to_string(), error, "{text}");
    }
    let long = "a ".repeat(MAX_TERMS + 1);
    assert_eq!(Selector::parse(&long).unwrap_err().kind, SelectorErrorKind::TooManyTerms);
    let long = "a".repeat(MAX_SELECTOR + 1);
    assert_eq!(Selector::parse(&long).unwrap_err().kind, SelectorErrorKind::TooLong);
}

#[test]
fn a_run_that_can_never_be_placed_is_refused() {
    let with = |text: &str| RunSpec { selector: selector(text), ..spec() };
    let refused = |why: &str| {
        let why = why.to_owned();
        Err(Rejection::InvalidSpec(SpecError::Contradiction { why }))
    };
    check(
        [],
        submit(1, with("!golang")),
        refused("`golang` is required, and `!golang` forbids it"),
    );
    let both = "no worker can fulfil both `mem>=16` and `mem<8`";
    check([], submit(1, with("mem<8 mem>=16")), refused(both));
    let pin = || RunSpec { pinned_worker: "w9".into(), ..spec() };
    let unknown = Err(Rejection::UnknownPin { pin: "w9".into() });
    check([joined(1, 1, &[])], submit(1, pin()), unknown.clone());
    let gone = vec![fact(9, WorkerChange::Deregistered)];
    check([joined(9, 1, &[]), gone], submit(1, pin()), unknown);
}

#[test]
fn a_linter_explains_what_cannot_match() {
    let offers = [
        ("big", Offer::of(["golang", "mem=64", "ssd", "taint:ci"])),
        ("small", Offer::of(["golang", "mem=lots", "os=linux"])),
    ];
    let fleet: Vec<_> = offers.iter().map(|(name, offer)| (*name, offer)).collect();
    let base = Selector::default().with_tags([&"golang".to_owned()]);
    let said = |text: &str| -> Vec<_> {
        let findings = lint(text, &base, &fleet).unwrap();
        findings
            .into_iter()
            .map(|finding| (finding.severity, finding.place, finding.text))
            .collect()
    };
    let warn = |place, text: &str| vec![(Severity::Warning, place, text.to_owned())];
    assert_eq!(said("os=linux"), []);
    assert_eq!(
        said("  sssd"),
        warn(Some(2..6), "no registered worker fulfils `sssd`; did you mean `ssd`?")
    );
    let other = "no registered worker fulfils `os=windows`; worker `small` has `os=linux`";
    assert_eq!(said("os=windows"), warn(Some(0..10), other));
    let number = "no registered worker fulfils `mem>=100`; worker `small` has `mem=lots`, which is no number";
    assert_eq!(said("mem>=100"), warn(Some(0..8), number));
    let taint = "no registered worker suits all of it; the nearest is `big`, which has the taint `ci`, which is not tolerated";
    assert_eq!(said("ssd"), warn(None, taint));
    let never = "no worker can fulfil both `mem>=16` and `mem<16`";
    assert_eq!(said("mem>=16 mem<16")[0], (Severity::Error, Some(8..14), never.into()));
    let idle = "`ssd~5` changes nothing, since `ssd` is required";
    assert_eq!(said("ssd tolerate:ci ssd~5"), [(Severity::Note, Some(16..21), idle.into())]);
    let nobody = "no registered worker has the taint `cd`";
    assert_eq!(said("tolerate:cd os"), [(Severity::Note, Some(0..11), nobody.into())]);
}

fn any_name() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => prop::sample::select(vec!["a", "b", "mem", "os"]).prop_map(Into::into),
        1 => "[ -~]{1,6}",
        1 => "\\PC{1,4}",
        1 => Just("tolerate:x".to_owned()),
    ]
}

/// Text that is mostly a selector.
fn any_text() -> impl Strategy<Value = String> {
    let quoted = any_name()
        .prop_map(|name| format!("\"{}\"", name.replace('\\', "\\\\").replace('"', "\\\"")));
    let name = prop_oneof![any_name(), quoted];
    let value = prop_oneof![
        Just(String::new()),
        Just("=x".to_owned()),
        Just("!=x".to_owned()),
        ("(>=|<=|>|<|=)", -20..20_i32).prop_map(|(sign, limit)| format!("{sign}{limit}")),
        "(>|<)-?[0-9]{1,3}\\.[0-9]{1,9}",
    ];
    let before = prop_oneof![4 => Just(""), 1 => Just("!"), 1 => Just("tolerate:")];
    let after =
        prop_oneof![4 => Just(String::new()), 1 => (-120..120_i32).prop_map(|by| format!("~{by}"))];
    let term = (before, name, value, after)
        .prop_map(|(before, name, value, after)| format!("{before}{name}{value}{after}"));
    prop::collection::vec(term, 0..5).prop_map(|terms| terms.join(" "))
}

fn any_tag() -> impl Strategy<Value = String> {
    prop_oneof![
        any_name(),
        (any_name(), -20..20_i32).prop_map(|(key, value)| format!("{key}={value}")),
        any_name().prop_map(|name| format!("-{name}")),
        any_name().prop_map(|name| format!("taint:{name}")),
    ]
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(text in "\\PC{0,40}") {
        if let Err(error) = Selector::parse(&text) {
            prop_assert!(error.at <= text.chars().count() + 1);
        }
    }

    #[test]
    fn the_written_form_reads_as_the_same_selector(text in any_text()) {
        let Ok(selector) = Selector::parse(&text) else { return Ok(()) };
        let written = selector.to_string();
        prop_assert_eq!(Selector::read(&written), Ok(selector), "{}", written);
    }

    /// What is said to be impossible is; no worker disproves it.
    #[test]
    fn a_contradiction_is_one(text in any_text(), tags in prop::collection::vec(any_tag(), 0..6)) {
        let Ok(selector) = Selector::parse(&text) else { return Ok(()) };
        let offer = Offer::of(&tags);
        if selector.contradiction().is_some() {
            prop_assert!(selector.unmet(&offer).next().is_some());
        }
        let findings = lint(&text, &Selector::default(), &[("w", &offer)]).unwrap();
        let is_fine = findings.iter().all(|finding| finding.severity == Severity::Note);
        prop_assert_eq!(selector.unmet(&offer).next().is_none(), is_fine);
    }
}

#[test]
fn random_text_is_often_a_selector_and_often_suits() {
    use proptest::{strategy::ValueTree, test_runner::TestRunner};

    let mut runner = TestRunner::deterministic();
    let (mut read, mut impossible) = (0, 0);
    for _ in 0..500 {
        let text = any_text().new_tree(&mut runner).unwrap().current();
        if let Ok(selector) = Selector::parse(&text) {
            read += 1;
            impossible += usize::from(selector.contradiction().is_some());
        }
    }
    assert!(read > 100 && impossible > 5, "{read} read, {impossible} impossible");
}
