//! Examples of what is sealed and over.

use uuid::Uuid;

use super::*;

fn log(run: u128, attempt: u32) -> LogId {
    LogId { run: RunId::from_uuid(Uuid::from_u128(run)), attempt: Attempt(attempt) }
}

fn seal(size: u64) -> Seal {
    Seal { size, digest: Digest::of(&size.to_be_bytes()) }
}

fn lack() -> Lack {
    Lack { gaps: 1, dropped: 7, incomplete: "the disk was full".into(), missing: 2 }
}

fn sealed(log: LogId, size: u64) -> Fact {
    Event::LogSealed { log, seal: seal(size), lack: Lack::default(), at: Timestamp(1) }.into()
}

/// Given what happened, when a log is to be sealed, then this follows.
#[track_caller]
fn check(given: &[Fact], log: LogId, size: u64, then: Result<Vec<Event>, Rejection>) {
    let command = Command::SealLog { log, seal: seal(size), lack: lack(), at: Timestamp(1) };
    assert_eq!(decide(&State::replay(given), command), then);
}

#[test]
fn a_log_is_sealed_once() {
    let log1 = log(1, 1);
    let event = Event::LogSealed { log: log1, seal: seal(5), lack: lack(), at: Timestamp(1) };
    check(&[], log1, 5, Ok(vec![event]));
    check(&[sealed(log1, 5)], log1, 5, Ok(vec![]));
    let refused = Rejection::SealedOtherwise { log: log1, known: seal(5) };
    check(&[sealed(log1, 5)], log1, 6, Err(refused));
    let other = Event::LogSealed { log: log(1, 2), seal: seal(6), lack: lack(), at: Timestamp(1) };
    check(&[sealed(log1, 5)], log(1, 2), 6, Ok(vec![other]));
}

#[test]
fn an_attempt_is_over_when_the_run_went_on_without_it_or_ended() {
    let (run, other) = (log(1, 1).run, log(2, 1).run);
    let mut given = vec![Fact::RunSubmitted(run), Fact::RunSubmitted(other)];
    let over = |given: &[Fact]| State::replay(given).over(run);
    assert!(!over(&given).contains(Attempt(1)));

    given.push(Fact::AttemptOver(log(1, 1)));
    assert!(over(&given).contains(Attempt(1)));
    assert!(!over(&given).contains(Attempt(2)));

    given.push(sealed(log(1, 2), 5));
    assert!(over(&given).contains(Attempt(2)));
    assert!(!over(&given).contains(Attempt(3)) && !over(&given).is_whole_run());

    given.push(Fact::RunOver(run));
    assert!(over(&given).is_whole_run());
    let state = State::replay(&given);
    assert!(state.is_open(other) && !state.is_open(run), "only open runs are kept");
}
