//! Follows the log, is elected when the leader is gone, leads until another one is elected, and follows
//! again.
//!
//! ```text
//!            the leader is gone, and this one         it is dead, or its lease is over;
//!            is the first to be elected               what it could still write is fenced
//! Following ──────────────────────────────▶ Elected ────────────────────────────────────▶ Leading
//!     ▲                                        │                                             │
//!     └──────────── another one is elected, or an append is refused ─────────────────────────┘
//! ```
//!
//! Invariants:
//! - Who is not elected appends nothing but its own election.
//! - Whoever led before can append to no stream that exists when the next one begins to act.
//! - An idle leader and its standby write nothing.

use std::time::Duration;

use eventlog::{
    Origin,
    owner::{Fence, Lease, Led, Moment, OwnerError, Standby},
};
use tokio::sync::watch;

use crate::{
    Config, Deps,
    domain::{Command, Event, Rejection, State},
    door::Standing,
    leadership::{self, ELECTIONS, Leader, Ruling},
    rival::{Gone, Seat, until_gone},
    service::{ServiceError, furnish, origin, rules},
};

pub(crate) struct Succession {
    deps: Deps,
    config: Config,
    seat: Seat,
    standing: watch::Sender<Standing>,
    /// The last term that is known to be of this address, and not of another process.
    own_term: Option<u64>,
}

type Follower = Standby<State, Command, Event, Rejection>;

impl Succession {
    pub(crate) fn new(
        deps: Deps,
        config: Config,
        seat: Seat,
        standing: watch::Sender<Standing>,
    ) -> Self {
        Self { deps, config, seat, standing, own_term: None }
    }

    /// Until it shall stop, or cannot go on.
    pub(crate) async fn run(mut self) -> Result<(), ServiceError> {
        let stop = self.seat.stop.clone();
        stop.run_until_cancelled_owned(Box::pin(self.run_on())).await.unwrap_or(Ok(()))
    }

    async fn run_on(&mut self) -> Result<(), ServiceError> {
        let mut follower = self.follow().await?;
        // Whoever led from this address leads no more, or not for long: this process has its place.
        let before = leader(&follower)?.filter(|leader| leader.address == self.seat.address);
        self.own_term = before.map(|before| before.term);
        loop {
            let mut deposed = None;
            match self.succeed(follower, &mut deposed).await {
                Err(ServiceError::Owner(lost)) if lost.is_loss_of_leadership() => {
                    tracing::warn!("this scheduler leads no more: {lost}");
                    self.standing.send_replace(Standing::Open);
                    follower = match deposed {
                        Some(deposed) => deposed,
                        None => self.follow().await?,
                    };
                }
                ended => return ended,
            }
        }
    }

    async fn follow(&self) -> Result<Follower, OwnerError> {
        Standby::start(self.deps.log.clone(), rules(), ELECTIONS).await
    }

    /// From follower to leader, to its end. `deposed`: the follower again, if its state is still good.
    async fn succeed(
        &mut self,
        mut follower: Follower,
        deposed: &mut Option<Follower>,
    ) -> Result<(), ServiceError> {
        let (lease, wait) = self.win(&mut follower).await?;
        let term = lease.term();
        self.own_term = Some(term);
        self.standing.send_replace(Standing::Elected);
        if let Err(error) = follower.wait(&lease, wait).await {
            *deposed = Some(follower);
            return Err(error.into());
        }
        let at = self.deps.clock.now();
        let fenced = Ruling::StreamFenced { stream: String::new(), term, at };
        let fence = Fence {
            streams: leadership::written,
            event: leadership::encode(&fenced),
            origin: origin(),
        };
        let Led { owner, task, deposed: mut after } = follower.lead(lease, &fence).await?;
        let (service, work) = furnish(owner, task, self.deps.clone(), self.config.clone());
        tracing::info!("this scheduler leads in term {term}");
        self.standing.send_replace(Standing::Leads(service));
        let ended = work.await;
        *deposed = after.try_recv().ok();
        ended
    }

    /// Follows until this one is elected; also says how long whoever led before may still act.
    async fn win(&self, follower: &mut Follower) -> Result<(Lease, Duration), ServiceError> {
        loop {
            let before = leader(follower)?;
            let gone = match &before {
                None => Gone::Dead,
                Some(before) if before.address == self.seat.address => {
                    if self.own_term != Some(before.term) {
                        return Err(ServiceError::SameAddress(before.address.clone()));
                    }
                    if self.seat.is_bound { Gone::Dead } else { Gone::Silent }
                }
                Some(before) => {
                    self.standing.send_replace(Standing::Follows(before.address.clone()));
                    tokio::select! {
                        other = follower.follow() => {
                            other?;
                            continue;
                        }
                        gone = until_gone(&self.seat, before) => gone,
                    }
                }
            };
            let asked = Moment::now();
            let (address, lease) = (self.seat.address.clone(), self.config.leader_lease);
            let elected = Ruling::LeaderElected { address, lease, at: self.deps.clock.now() };
            let origin: Origin = origin();
            match follower.elect(leadership::encode(&elected), &origin).await? {
                Some(term) => {
                    let lease = Lease::new(self.deps.log.clone(), ELECTIONS, term, lease, asked);
                    let wait = match (gone, before) {
                        (Gone::Silent, Some(before)) => before.lease,
                        _ => Duration::ZERO,
                    };
                    tracing::info!(?gone, "this scheduler is elected for term {term}");
                    return Ok((lease, wait));
                }
                // Somebody was faster.
                None => follower.follow().await?,
            }
        }
    }
}

fn leader(follower: &Follower) -> Result<Option<Leader>, OwnerError> {
    let read = follower.leader().map(Leader::read).transpose()?;
    Ok(read.flatten())
}
