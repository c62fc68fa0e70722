//! The shell around a small bank: accounts of our own, and a foreign stream of holidays.

mod snapshots;
mod standby;

use std::{sync::Arc, time::Duration};

use futures::{
    FutureExt,
    future::{self, BoxFuture},
    stream::BoxStream,
};
use ids::{EventId, Timestamp};
use proptest::prelude::*;
use tokio::{sync::Semaphore, time::timeout};
use uuid::Uuid;

use super::*;
use crate::{
    Appended, Clock, Direction, Expected, Filter, Metadata, NewEvent,
    memory::Memory,
    retention::Standing,
    store::{Append, Store, Stored},
};

/// Says which account gets how much; one account takes 100 at most.
#[derive(Clone, Debug)]
struct Pay {
    account: u8,
    amounts: Vec<u32>,
    padding: usize,
}

#[derive(Clone, Debug, PartialEq)]
struct Paid {
    account: u8,
    amount: u32,
    padding: usize,
}

#[derive(Debug, PartialEq)]
struct TooMuch;

enum Fact {
    Paid(Paid),
    Holiday,
}

impl From<Paid> for Fact {
    fn from(paid: Paid) -> Self {
        Self::Paid(paid)
    }
}

/// Keeps the order of all payments, so that a replay in another order shows.
#[derive(Clone, Debug, Default, PartialEq)]
struct Bank {
    payments: Vec<(u8, u32)>,
    holidays: u32,
}

impl Fold for Bank {
    type Event = Fact;

    fn evolve(&mut self, event: &Fact) {
        match event {
            Fact::Paid(paid) => self.payments.push((paid.account, paid.amount)),
            Fact::Holiday => self.holidays += 1,
        }
    }
}

type BankOwner = Owner<Bank, Pay, Paid, TooMuch>;

const RULES: Rules<Bank, Pay, Paid, TooMuch> = Rules {
    owns: &["account-"],
    follows: &["holiday-"],
    decide: |_, pay| {
        let Pay { account, amounts, padding } = pay;
        if amounts.contains(&0) {
            return Err(TooMuch);
        }
        Ok(amounts.into_iter().map(|amount| Paid { account, amount, padding }).collect())
    },
    stream: |paid| format!("account-{}", paid.account),
    encode: |paid| {
        let mut data = paid.amount.to_le_bytes().to_vec();
        data.resize(4 + paid.padding, 0);
        Encoded { event_type: "Paid", version: 1, data }
    },
    decode: |recorded| match &*recorded.event.event_type {
        "Paid" => {
            let amount = recorded.event.data.first_chunk().map(|bytes| u32::from_le_bytes(*bytes));
            let amount = amount.ok_or_else(|| DecodeError::new(recorded, "it is too short"))?;
            let account = recorded.stream.trim_start_matches("account-").parse().unwrap();
            let padding = recorded.event.data.len() - 4;
            Ok(Some(Fact::Paid(Paid { account, amount, padding })))
        }
        "Holiday" => Ok(Some(Fact::Holiday)),
        _ => Ok(None),
    },
};

fn pay(account: u8, amounts: &[u32]) -> Pay {
    Pay { account, amounts: amounts.to_vec(), padding: 0 }
}

fn teller() -> Origin {
    Origin { actor: "user:teller".into(), ..Origin::default() }
}

fn new(number: u128, event_type: &str) -> NewEvent {
    NewEvent::new(
        EventId::from_uuid(Uuid::from_u128(number)),
        event_type,
        bytes::Bytes::new(),
        &Metadata::default(),
    )
}

fn clock() -> Clock {
    Clock::from_fn(|| Timestamp(0))
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(20), future).await.expect("this takes too long")
}

async fn start(log: &Log) -> BankOwner {
    Owner::start(log.clone(), RULES).await.unwrap().0
}

async fn bank(owner: &BankOwner) -> Bank {
    soon(owner.read(Clone::clone)).await.unwrap()
}

/// Answers an append only when it gets a permit, and fails it when there will be none any more.
struct Slow {
    memory: Memory,
    permits: Arc<Semaphore>,
}

impl Store for Slow {
    fn append(&self, append: Append) -> BoxFuture<'static, Result<Appended, AppendError>> {
        let (answer, permits) = (self.memory.append(append), Arc::clone(&self.permits));
        async move {
            let Ok(permit) = permits.acquire().await else {
                return Err(LogError::Stopped("the disk is full".into()).into());
            };
            permit.forget();
            answer.await
        }
        .boxed()
    }

    fn standing(&self, stream: &str) -> Standing {
        self.memory.standing(stream)
    }

    fn length(&self, stream: String) -> BoxFuture<'static, Result<u64, LogError>> {
        self.memory.length(stream)
    }

    fn read_stream(
        &self,
        stream: String,
        from: Option<u64>,
        direction: Direction,
        limit: usize,
    ) -> BoxStream<'static, Result<Recorded, LogError>> {
        self.memory.read_stream(stream, from, direction, limit)
    }

    fn read_all(
        &self,
        from: Option<u64>,
        direction: Direction,
        filter: Filter,
        follow: bool,
    ) -> BoxStream<'static, Result<Recorded, LogError>> {
        self.memory.read_all(from, direction, filter, follow)
    }

    fn next_position(&self) -> BoxFuture<'static, Result<u64, LogError>> {
        self.memory.next_position()
    }
}

fn slow_log() -> (Log, Arc<Semaphore>) {
    let permits = Arc::new(Semaphore::new(0));
    let slow = Slow { memory: Memory::new(clock()), permits: Arc::clone(&permits) };
    (Log::new(Stored::new(slow, clock())), permits)
}

/// Lets the task do all that it can do without help.
async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn nothing_is_answered_or_shown_before_it_is_durable() {
    let (log, permits) = slow_log();
    let owner = start(&log).await;
    let mut changes = owner.changes();
    let mut answer = Box::pin(owner.ask(pay(1, &[5]), teller()));
    assert!(future::poll_immediate(&mut answer).await.is_none());
    let mut read = Box::pin(owner.read(|bank: &Bank| bank.payments.len()));
    assert!(future::poll_immediate(&mut read).await.is_none());
    settle().await;
    assert_eq!(log.next_position().await.unwrap(), 1, "the append is under way");
    assert!(future::poll_immediate(&mut answer).await.is_none());
    assert!(future::poll_immediate(&mut read).await.is_none());
    assert!(!changes.has_changed().unwrap());
    permits.add_permits(1);
    let paid = Paid { account: 1, amount: 5, padding: 0 };
    assert_eq!(soon(answer).await.unwrap(), Ok(vec![paid]));
    assert_eq!(soon(read).await.unwrap(), 1);
    soon(changes.changed()).await.unwrap();
}

#[tokio::test]
async fn a_read_does_not_wait_for_commands_behind_it() {
    let (log, _permits) = slow_log();
    let owner = start(&log).await;
    let mut read = Box::pin(owner.read(|bank: &Bank| bank.payments.len()));
    let mut answer = Box::pin(owner.ask(pay(1, &[5]), teller()));
    assert!(future::poll_immediate(&mut read).await.is_none());
    assert!(future::poll_immediate(&mut answer).await.is_none());
    assert_eq!(soon(read).await.unwrap(), 0);
}

#[tokio::test]
async fn a_reader_sees_what_was_answered_before() {
    let owner = start(&Log::in_memory(clock())).await;
    for round in 1..=50_u32 {
        owner.ask(pay(1, &[round]), teller()).await.unwrap().unwrap();
        assert_eq!(bank(&owner).await.payments.last(), Some(&(1, round)));
    }
}

#[tokio::test]
async fn a_refusal_appends_nothing() {
    let log = Log::in_memory(clock());
    let owner = start(&log).await;
    assert_eq!(owner.ask(pay(1, &[0]), teller()).await.unwrap(), Err(TooMuch));
    assert_eq!(owner.ask(pay(1, &[]), teller()).await.unwrap(), Ok(vec![]));
    assert_eq!(log.next_position().await.unwrap(), 0);
    assert!(!owner.changes().has_changed().unwrap());
}

#[tokio::test]
async fn an_event_says_who_asked() {
    let log = Log::in_memory(clock());
    let owner = start(&log).await;
    owner.ask(pay(7, &[1]), teller()).await.unwrap().unwrap();
    let stored = soon(log.read_stream("account-7", 0, 1).next()).await.unwrap().unwrap();
    let metadata = stored.event.metadata();
    assert_eq!((metadata.version, metadata.actor.as_str()), (1, "user:teller"));
    assert_eq!(metadata.correlation_id, "account-7");
}

#[tokio::test]
async fn a_conflict_stops_the_task() {
    let log = Log::in_memory(clock());
    let (owner, task) = Owner::start(log.clone(), RULES).await.unwrap();
    owner.ask(pay(1, &[1]), teller()).await.unwrap().unwrap();
    log.append("account-1", Expected::Any, vec![new(1, "Paid")]).await.unwrap();
    assert_eq!(owner.ask(pay(1, &[2]), teller()).await, Err(Stopped));
    let error = soon(task).await.unwrap().unwrap_err();
    assert!(
        matches!(error, OwnerError::Append(AppendError::Conflict { current: Some(1), .. })),
        "{error:?}"
    );
    assert_eq!(owner.ask(pay(2, &[2]), teller()).await, Err(Stopped));
    assert_eq!(owner.read(|_: &Bank| ()).await, Err(Stopped));
}

#[tokio::test]
async fn a_failed_append_stops_the_task() {
    let (log, permits) = slow_log();
    let (owner, task) = Owner::start(log, RULES).await.unwrap();
    permits.close();
    assert_eq!(owner.ask(pay(1, &[1]), teller()).await, Err(Stopped));
    let error = soon(task).await.unwrap().unwrap_err();
    assert!(error.to_string().contains("the disk is full"), "{error}");
}

#[tokio::test]
async fn a_foreign_log_that_cannot_be_read_stops_the_task() {
    let log = Log::in_memory(clock());
    let (owner, task) = Owner::start(log.clone(), RULES).await.unwrap();
    log.append("holiday-1", Expected::Any, vec![new(1, "Paid")]).await.unwrap();
    let error = soon(task).await.unwrap().unwrap_err();
    let expected = "decode event 0 (Paid in `holiday-1`): it is too short";
    assert!(error.to_string().starts_with(expected), "{error}");
    drop(owner);
    let again: Result<(BankOwner, _), _> = Owner::start(log, RULES).await;
    assert!(matches!(again, Err(OwnerError::Decode(_))));
}

#[tokio::test]
async fn a_restart_replays_what_was_stored() {
    let log = Log::in_memory(clock());
    let owner = start(&log).await;
    log.append("holiday-1", Expected::Any, vec![new(1, "Holiday")]).await.unwrap();
    log.append("other-1", Expected::Any, vec![new(2, "Paid")]).await.unwrap();
    let asked = (1..=20).map(|amount| owner.ask(pay(amount as u8 % 3, &[amount; 2]), teller()));
    soon(future::join_all(asked)).await;
    let mut changes = owner.changes();
    soon(changes.wait_for(|_| true)).await.unwrap();
    while bank(&owner).await.holidays == 0 {
        soon(changes.changed()).await.unwrap();
    }
    let before = bank(&owner).await;
    assert_eq!(before.payments.len(), 40);
    drop(owner);
    let owner = start(&log).await;
    assert_eq!(bank(&owner).await, before);
    owner.ask(pay(1, &[9]), teller()).await.unwrap().unwrap();
    assert_eq!(bank(&owner).await.payments.len(), 41);
}

#[tokio::test]
async fn foreign_events_are_folded_without_gap() {
    let log = Log::in_memory(clock());
    let writer = tokio::spawn({
        let log = log.clone();
        async move {
            for number in 0..2_000 {
                let event = vec![new(number, "Holiday")];
                log.append("holiday-1", Expected::Any, event).await.unwrap();
                tokio::task::yield_now().await;
            }
        }
    });
    // Owners start in the middle of it, while commands keep them busy.
    for account in 0..10 {
        let owner = start(&log).await;
        let mut changes = owner.changes();
        for _ in 0..20 {
            owner.ask(pay(account, &[1]), teller()).await.unwrap().unwrap();
        }
        if account == 9 {
            soon(writer).await.unwrap();
            while bank(&owner).await.holidays < 2_000 {
                soon(changes.changed()).await.unwrap();
            }
            assert_eq!(bank(&owner).await.holidays, 2_000);
            return;
        }
    }
}

#[tokio::test]
async fn events_stand_in_the_log_as_they_were_decided() {
    let log = Log::in_memory(clock());
    let owner = start(&log).await;
    let asked =
        (0..300_u32).map(|number| owner.ask(pay(number as u8 % 3, &[number + 1]), teller()));
    soon(future::join_all(asked)).await;
    let live = bank(&owner).await;
    assert_eq!(live.payments.len(), 300);
    assert_eq!(bank(&start(&log).await).await, live);
}

#[tokio::test]
async fn more_than_one_append_may_hold_is_split() {
    let log = Log::in_memory(clock());
    let owner = start(&log).await;
    // Many commands of one batch, and one command with more events than an append may hold.
    let asked = (0..900).map(|_| owner.ask(Pay { padding: 9_000, ..pay(1, &[1, 2, 3]) }, teller()));
    for answer in soon(future::join_all(asked)).await {
        assert_eq!(answer.unwrap().unwrap().len(), 3);
    }
    let many: Vec<u32> = (1..=2_500).collect();
    assert_eq!(owner.ask(pay(1, &many), teller()).await.unwrap().unwrap().len(), 2_500);
    assert_eq!(bank(&start(&log).await).await, bank(&owner).await);
}

#[tokio::test]
async fn the_task_ends_with_the_last_handle() {
    let (owner, task) = Owner::start(Log::in_memory(clock()), RULES).await.unwrap();
    let other = owner.clone();
    drop(owner);
    other.ask(pay(1, &[1]), teller()).await.unwrap().unwrap();
    drop(other);
    soon(task).await.unwrap().unwrap();
}

#[test]
fn the_events_of_one_command_are_not_torn_apart() {
    let event = |padding| {
        let paid = Paid { account: 1, amount: 1, padding };
        let new = batch::new_event("account-1", (RULES.encode)(&paid), &teller());
        ("account-1".to_owned(), new)
    };
    let mut appends = batch::Appends::default();
    // 700 KB, then 2 × 300 KB, which fit in one append, but not beside the first.
    appends.take([event(700_000)].into_iter());
    appends.take([event(300_000), event(300_000)].into_iter());
    appends.take([event(10)].into_iter());
    assert!(appends.is_full());
    let counts: Vec<_> = appends.into_appends().iter().map(|append| append.events.len()).collect();
    assert_eq!(counts, [1, 3]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_replay_gives_the_living_state(
        rounds in prop::collection::vec(
            prop::collection::vec((0..4_u8, prop::collection::vec(0..5_u32, 0..4)), 0..20),
            0..5,
        ),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let log = Log::in_memory(clock());
            let mut owner = start(&log).await;
            for round in rounds {
                let asked = round.iter().map(|(account, amounts)| owner.ask(pay(*account, amounts), teller()));
                soon(future::join_all(asked)).await;
                let live = bank(&owner).await;
                owner = start(&log).await;
                assert_eq!(bank(&owner).await, live);
            }
        });
    }
}

#[tokio::test]
async fn a_look_back_is_the_fold_up_to_there_wherever_looks_began() {
    const EVENTS: u64 = 45_000;
    let log = Log::in_memory(clock());
    for batch in 0..EVENTS / 1_000 {
        // In the second quarter there is nothing for the bank.
        let (stream, event_type) = match batch {
            12..22 => ("elsewhere-1", "Other"),
            _ => ("holiday-1", "Holiday"),
        };
        let numbers = batch * 1_000..(batch + 1) * 1_000;
        let events = numbers.map(|number| new(number.into(), event_type)).collect();
        log.append(stream, Expected::Any, events).await.unwrap();
    }
    let past = Past::<Bank>::new(log, &RULES);
    let holidays = |end: u64| end.min(12_000) + end.clamp(22_000, EVENTS) - 22_000;
    let mut end = 7;
    for _ in 0..60 {
        let then = past.before(end).await.unwrap();
        assert_eq!(u64::from(then.holidays), holidays(end), "before {end}");
        end = (end * 48_271) % 50_021;
    }
}
