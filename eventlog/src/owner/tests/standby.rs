//! Two banks on one log, of which one leads: the other one can be paused anywhere, and writes nothing.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::log::{Engine, Subscription};
use crate::retention::StreamMetadata;

const ELECTIONS: &str = "bank-leader";
const LEASE: Duration = Duration::from_mins(1);

type BankStandby = Standby<Bank, Pay, Paid, TooMuch>;

/// Whoever writes by it may be paused after it has looked whether it leads and before it appends.
struct Pausable {
    log: Log,
    /// Closed: it goes on.
    paused: Arc<Semaphore>,
}

impl Engine for Pausable {
    fn append(
        &self,
        stream: String,
        expected: Expected,
        events: Vec<NewEvent>,
    ) -> BoxFuture<'static, Result<Appended, AppendError>> {
        let (log, paused) = (self.log.clone(), Arc::clone(&self.paused));
        async move {
            drop(paused.acquire().await);
            log.append(stream, expected, events).await
        }
        .boxed()
    }

    fn read_stream(
        &self,
        stream: String,
        from: Option<u64>,
        direction: Direction,
        limit: usize,
    ) -> Subscription {
        match direction {
            Direction::Forward => self.log.read_stream(stream, from.unwrap_or(0), limit),
            Direction::Backward => self.log.read_stream_backward(stream, from, limit),
        }
    }

    fn read_all(
        &self,
        from: Option<u64>,
        direction: Direction,
        filter: Filter,
        follow: bool,
    ) -> Subscription {
        match direction {
            Direction::Forward if follow => self.log.subscribe(from.unwrap_or(0), filter),
            Direction::Forward => self.log.read_all(from.unwrap_or(0), filter),
            Direction::Backward => self.log.read_all_backward(from, filter),
        }
    }

    fn next_position(&self) -> BoxFuture<'static, Result<u64, LogError>> {
        let log = self.log.clone();
        async move { log.next_position().await }.boxed()
    }

    fn stream_metadata(
        &self,
        _: String,
    ) -> BoxFuture<'static, Result<(StreamMetadata, Option<u64>), LogError>> {
        unreachable!("an owner asks for no metadata")
    }

    fn set_stream_metadata(
        &self,
        _: String,
        _: Expected,
        _: StreamMetadata,
        _: EventId,
    ) -> BoxFuture<'static, Result<Appended, AppendError>> {
        unreachable!("an owner sets no metadata")
    }

    fn delete(&self, _: String, _: Expected) -> BoxFuture<'static, Result<(), AppendError>> {
        unreachable!("an owner deletes nothing")
    }

    fn tombstone(&self, _: String, _: Expected) -> BoxFuture<'static, Result<(), AppendError>> {
        unreachable!("an owner deletes nothing")
    }
}

/// A way to the log that is closed once [`Semaphore::forget_permits`] took its permits.
fn pausable(log: &Log) -> (Log, Arc<Semaphore>) {
    let paused = Arc::new(Semaphore::new(1));
    (Log::new(Pausable { log: log.clone(), paused: Arc::clone(&paused) }), paused)
}

fn ruling(event_type: &'static str) -> Encoded {
    Encoded { event_type, version: 1, data: vec![] }
}

/// Every account that there is.
fn fence() -> Fence<Bank> {
    let streams = |bank: &Bank| {
        let accounts: std::collections::BTreeSet<_> = bank.payments.iter().map(|p| p.0).collect();
        accounts.into_iter().map(|account| format!("account-{account}")).collect()
    };
    Fence { streams, event: ruling("Fenced"), origin: teller() }
}

async fn standby(log: &Log) -> BankStandby {
    Standby::start(log.clone(), RULES, ELECTIONS).await.unwrap()
}

async fn elect(log: &Log, standby: &mut BankStandby, valid: Duration) -> Lease {
    let asked = Moment::now();
    let term = soon(standby.elect(ruling("Elected"), &teller())).await.unwrap().unwrap();
    Lease::new(log.clone(), ELECTIONS, term, valid, asked)
}

type Task = JoinHandle<Result<(), OwnerError>>;

async fn lead(log: &Log, valid: Duration) -> (BankOwner, Task) {
    let mut standby = standby(log).await;
    let lease = elect(log, &mut standby, valid).await;
    let Led { owner, task, .. } = soon(standby.lead(lease, &fence())).await.unwrap();
    (owner, task)
}

async fn payments(log: &Log) -> usize {
    let paid = |recorded: &Result<Recorded, LogError>| {
        future::ready(*recorded.as_ref().unwrap().event.event_type == *"Paid")
    };
    log.read_all(0, Filter::default()).filter(paid).count().await
}

async fn is_deposed(task: Task) {
    let error = soon(task).await.unwrap().unwrap_err();
    assert!(error.is_loss_of_leadership(), "{error}");
}

#[tokio::test]
async fn who_slept_between_its_look_and_its_append_appends_nothing() {
    let log = Log::in_memory(clock());
    let (way, paused) = pausable(&log);
    let (old, old_task) = lead(&way, LEASE).await;
    old.ask(pay(1, &[1]), teller()).await.unwrap().unwrap();
    old.ask(pay(2, &[2]), teller()).await.unwrap().unwrap();
    paused.forget_permits(1);
    let mut late = Box::pin(old.ask(pay(2, &[3]), teller()));
    assert!(future::poll_immediate(&mut late).await.is_none());
    settle().await;
    let (new, _) = lead(&log, LEASE).await;
    assert_eq!(bank(&new).await.payments, [(1, 1), (2, 2)]);
    paused.close();
    assert_eq!(soon(late).await, Err(Stopped));
    is_deposed(old_task).await;
    assert_eq!(old.read(|_: &Bank| ()).await, Err(Stopped));
    assert_eq!(payments(&log).await, 2, "the old leader appended");
    new.ask(pay(2, &[4]), teller()).await.unwrap().unwrap();
    assert_eq!(bank(&new).await, bank(&start(&log).await).await);
}

#[tokio::test]
async fn what_arrives_between_election_and_fence_is_taken_and_fenced_again() {
    let log = Log::in_memory(clock());
    let (old, old_task) = lead(&log, LEASE).await;
    old.ask(pay(1, &[1]), teller()).await.unwrap().unwrap();
    let mut standby = standby(&log).await;
    let lease = elect(&log, &mut standby, LEASE).await;
    // From the past: it was on its way when the other one was elected.
    let paid = Paid { account: 1, amount: 7, padding: 0 };
    let event = batch::new_event("account-1", (RULES.encode)(&paid), &teller());
    log.append("account-1", Expected::Revision(0), vec![event]).await.unwrap();
    let Led { owner: new, .. } = soon(standby.lead(lease, &fence())).await.unwrap();
    assert_eq!(bank(&new).await.payments, [(1, 1), (1, 7)]);
    let last = soon(log.read_stream_backward("account-1", None, 1).next()).await.unwrap().unwrap();
    assert_eq!((&*last.event.event_type, last.revision), ("Fenced", 2));
    is_deposed(old_task).await;
}

#[tokio::test]
async fn a_stream_that_the_one_before_still_made_is_taken() {
    let log = Log::in_memory(clock());
    let (way, paused) = pausable(&log);
    let (old, old_task) = lead(&way, LEASE).await;
    paused.forget_permits(1);
    let mut late = Box::pin(old.ask(pay(9, &[5]), teller()));
    assert!(future::poll_immediate(&mut late).await.is_none());
    settle().await;
    let (new, _) = lead(&log, LEASE).await;
    let mut changes = new.changes();
    assert!(bank(&new).await.payments.is_empty());
    paused.close();
    // It may be answered, since it is in the log; what comes after is not.
    soon(late).await.ok();
    is_deposed(old_task).await;
    while bank(&new).await.payments.is_empty() {
        soon(changes.changed()).await.unwrap();
    }
    new.ask(pay(9, &[6]), teller()).await.unwrap().unwrap();
    assert_eq!(bank(&new).await.payments, [(9, 5), (9, 6)]);
}

#[tokio::test]
async fn who_cannot_hear_of_the_other_looks_before_it_answers_once_its_time_is_over() {
    let log = Log::in_memory(clock());
    let valid = Duration::from_millis(20);
    let mut standby = standby(&log).await;
    let lease = elect(&log, &mut standby, valid).await;
    let Led { owner: old, task: old_task, .. } = soon(standby.lead(lease, &fence())).await.unwrap();
    old.ask(pay(1, &[1]), teller()).await.unwrap().unwrap();
    // The whole process is paused: no task of it runs.
    let (new, _) = lead(&log, LEASE).await;
    // Not of tokio: the clock of leases is another one.
    std::thread::sleep(valid * 2);
    assert_eq!(old.ask(pay(3, &[2]), teller()).await, Err(Stopped));
    is_deposed(old_task).await;
    assert_eq!(payments(&log).await, 1);
    assert_eq!(bank(&new).await.payments, [(1, 1)]);
}

#[tokio::test]
async fn a_standby_folds_each_event_once_whoever_wrote_it() {
    let log = Log::in_memory(clock());
    let (old, _old_task) = lead(&log, LEASE).await;
    let mut follower = standby(&log).await;
    assert_eq!(follower.leader().unwrap().revision, 0);
    for amount in 1..=1_000 {
        old.ask(pay(amount as u8 % 5, &[amount]), teller()).await.unwrap().unwrap();
    }
    log.append("holiday-1", Expected::Any, vec![new(1, "Holiday")]).await.unwrap();
    let lease = elect(&log, &mut follower, LEASE).await;
    soon(follower.follow()).await.unwrap();
    assert_eq!(follower.leader().unwrap().revision, lease.term());
    let state = follower.state().clone();
    assert_eq!((state.payments.len(), state.holidays), (1_000, 1));
    let Led { owner: new, .. } = soon(follower.lead(lease, &fence())).await.unwrap();
    // Its own fences and payments come back to it.
    for amount in 1..=100 {
        new.ask(pay(amount as u8 % 9, &[amount]), teller()).await.unwrap().unwrap();
    }
    assert_eq!(bank(&new).await.payments.len(), 1_100);
    assert_eq!(bank(&new).await, bank(&start(&log).await).await);
}

#[tokio::test]
async fn of_many_who_want_to_lead_one_is_elected() {
    let log = Log::in_memory(clock());
    let mut candidates = future::join_all((0..8).map(|_| standby(&log))).await;
    let teller = teller();
    let elected = candidates.iter_mut().map(|one| one.elect(ruling("Elected"), &teller));
    let elected = soon(future::join_all(elected)).await;
    let terms: Vec<_> = elected.into_iter().filter_map(Result::unwrap).collect();
    assert_eq!(terms, [0]);
    // Those who were not know it, and may be the next.
    let mut late = standby(&log).await;
    assert_eq!(late.leader().unwrap().revision, 0);
    let lease = elect(&log, &mut late, LEASE).await;
    assert_eq!(lease.term(), 1);
    let other = elect(&log, &mut standby(&log).await, LEASE).await;
    assert_eq!(other.term(), 2);
    let lost = soon(late.wait(&lease, LEASE)).await.unwrap_err();
    assert!(matches!(lost, OwnerError::Deposed { term: 1, by: 2 }), "{lost}");
}

#[tokio::test]
async fn who_is_deposed_goes_on_from_where_it_stands() {
    let log = Log::in_memory(clock());
    let mut first = standby(&log).await;
    let lease = elect(&log, &mut first, LEASE).await;
    let Led { owner: old, task: old_task, mut deposed } =
        soon(first.lead(lease, &fence())).await.unwrap();
    old.ask(pay(1, &[1, 2]), teller()).await.unwrap().unwrap();
    log.append("holiday-1", Expected::Any, vec![new(1, "Holiday")]).await.unwrap();
    let (new, new_task) = lead(&log, LEASE).await;
    new.ask(pay(2, &[3]), teller()).await.unwrap().unwrap();
    is_deposed(old_task).await;
    assert_eq!(old.ask(pay(1, &[9]), teller()).await, Err(Stopped));
    // It does not read again what it knows.
    let mut again = deposed.try_recv().unwrap();
    assert_eq!(&again.state().payments[..2], [(1, 1), (1, 2)]);
    while again.leader().unwrap().revision < 1 || again.state().payments.len() < 3 {
        soon(again.step()).await.unwrap();
    }
    assert_eq!(*again.state(), bank(&start(&log).await).await);
    // And leads again, with the right revisions.
    let lease = elect(&log, &mut again, LEASE).await;
    let Led { owner: once_more, .. } = soon(again.lead(lease, &fence())).await.unwrap();
    is_deposed(new_task).await;
    once_more.ask(pay(2, &[4]), teller()).await.unwrap().unwrap();
    once_more.ask(pay(1, &[5]), teller()).await.unwrap().unwrap();
    assert_eq!(bank(&once_more).await, bank(&start(&log).await).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_deposed_with_what_it_could_not_store_begins_anew() {
    const VALID: Duration = Duration::from_millis(20);
    static DECIDES: AtomicBool = AtomicBool::new(false);
    static ELECTED: AtomicBool = AtomicBool::new(false);
    let slow = Rules {
        decide: |bank, pay| {
            DECIDES.store(true, Ordering::SeqCst);
            while !ELECTED.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
            // Its lease is over before it can append.
            std::thread::sleep(VALID * 2);
            (RULES.decide)(bank, pay)
        },
        ..RULES
    };
    let log = Log::in_memory(clock());
    let mut first = Standby::start(log.clone(), slow, ELECTIONS).await.unwrap();
    let lease = elect(&log, &mut first, VALID).await;
    let Led { owner: old, task, mut deposed } = soon(first.lead(lease, &fence())).await.unwrap();
    let late = tokio::spawn(async move { old.ask(pay(1, &[1]), teller()).await });
    while !DECIDES.load(Ordering::SeqCst) {
        tokio::task::yield_now().await;
    }
    let (new, _) = lead(&log, LEASE).await;
    ELECTED.store(true, Ordering::SeqCst);
    assert_eq!(soon(late).await.unwrap(), Err(Stopped));
    let error = soon(task).await.unwrap().unwrap_err();
    assert!(matches!(error, OwnerError::Deposed { .. }), "{error}");
    assert!(deposed.try_recv().is_err(), "its state has what no log has");
    assert!(bank(&new).await.payments.is_empty());
}
