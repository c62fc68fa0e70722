//! Two schedulers that both believe to lead give no number twice.

use std::{collections::BTreeMap, sync::Arc};

use eventlog::owner::{Fence, Lease, Led, Moment, Standby};
use ids::Timestamp;

use super::*;
use crate::{
    leadership::{self, ELECTIONS, Ruling},
    wire,
};

type Task = JoinHandle<Result<(), OwnerError>>;

async fn submit(owner: &Owner, number: u128) -> Result<(), eventlog::Stopped> {
    let submit = Command::SubmitRun {
        run: RunId::from_uuid(Uuid::from_u128(number)),
        spec: Arc::new(wire::read_spec(spec(&[])).unwrap()),
        start_reason: String::new(),
        started_by: String::new(),
        at: Timestamp(number as u64),
    };
    owner.ask(submit, origin()).await?.unwrap();
    Ok(())
}

/// Is elected, and fences.
async fn succeed(log: &Log) -> (Owner, Task) {
    let mut follower = Standby::start(log.clone(), rules(), ELECTIONS).await.unwrap();
    let (at, asked) = (Timestamp(1), Moment::now());
    let lease = Duration::from_mins(1);
    let elected = Ruling::LeaderElected { address: String::new(), lease, at };
    let term = follower.elect(leadership::encode(&elected), &origin()).await.unwrap().unwrap();
    let fenced = Ruling::StreamFenced { stream: String::new(), term, at };
    let fence = Fence {
        streams: leadership::written,
        event: leadership::encode(&fenced),
        origin: origin(),
    };
    let lease = Lease::new(log.clone(), ELECTIONS, term, lease, asked);
    let Led { owner, task, .. } = follower.lead(lease, &fence).await.unwrap();
    (owner, task)
}

/// How many runs are known, and the number of each that has one.
async fn numbers(owner: &Owner) -> (usize, BTreeMap<u64, RunId>) {
    let look = |state: &State| {
        let numbered = state.runs().filter(|(_, run)| run.number.0 > 0);
        (state.runs().count(), numbered.map(|(id, run)| (run.number.0, id)).collect())
    };
    owner.read(look).await.unwrap()
}

#[tokio::test]
async fn a_leader_that_does_not_know_that_it_was_deposed_gives_no_number() {
    let log = Log::in_memory(Clock::system());
    // Without a lease: later than this no leader can notice.
    let (old, old_task) = Owner::start(log.clone(), rules()).await.unwrap();
    submit(&old, 1).await.unwrap();
    let (new, new_task) = succeed(&log).await;
    let deps = Deps { log: log.clone(), clock: Clock::system() };
    let (_router, work) = furnish(new.clone(), new_task, deps, Config::default());
    let work = tokio::spawn(work);
    assert!(submit(&old, 2).await.is_err());
    let ended = within(old_task).await.unwrap().unwrap_err();
    assert!(ended.is_loss_of_leadership(), "{ended}");
    submit(&new, 3).await.unwrap();
    // The submission had passed, but not its number.
    let (count, by_number) = within(async {
        loop {
            let (count, by_number) = numbers(&new).await;
            if count == 3 && by_number.len() == count {
                return (count, by_number);
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!((count, by_number.into_keys().collect::<Vec<_>>()), (3, vec![1, 2, 3]));
    assert!(!work.is_finished());
}
