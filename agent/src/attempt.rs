//! One attempt from its order to its last report.
//!
//! ```text
//! order ─► log and reports begin ─► run or build ─► log's end acknowledged ─► last report acknowledged
//! ```
//!
//! The last report goes out only after the server has the whole log, so a run that ended never lacks
//! a line. An attempt whose lease was lost reports nothing more, but what it had printed by then still
//! goes to the server, for as long as that takes it.

use std::{convert::Infallible, fs, future::pending, io, sync::Arc, time::Duration};

use proto::worker::PipelineRun;
use tokio::{sync::watch, task::spawn_blocking, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    build, leftovers,
    order::{Lease, Order, Task},
    primary::Primary,
    processes,
    report::{Delivery, Ending, Reporter},
    run,
    shipping::{abandon, ship},
    site::Site,
    spool::{Bounds, Progress, Shelf, Spool},
    stop::{Stopper, Trouble, Why},
    workshop::Workshop,
};

/// Does what was ordered, and says how it went.
pub(crate) async fn attend(
    workshop: Arc<Workshop>,
    primary: Primary,
    lease: Lease,
    message: PipelineRun,
    stopper: Stopper,
) {
    let reporter = Reporter::start(primary.clone(), &message, stopper.clone());
    let order = Order::try_from(&message);
    drop(message);
    let ending = match &order {
        Ok(order) => {
            let ending = work(&workshop, &primary, order, &reporter, &stopper).await;
            without_secrets(ending, order)
        }
        Err(why) => Ending::Failed(format!("the order cannot be understood: {why}")),
    };
    tracing::info!(run = %lease.run, attempt = lease.attempt, ?ending, "an attempt ended");
    tokio::select! {
        biased;
        () = stopper.forgotten().cancelled() => {}
        delivery = reporter.finish(ending) => {
            let acknowledged = delivery == Delivery::Acknowledged;
            tracing::debug!(run = %lease.run, acknowledged, "the last report of an attempt");
        }
    }
    clear(&workshop, &lease).await;
}

/// Works with a log that is shipped meanwhile; ends when both are done.
async fn work(
    workshop: &Workshop,
    primary: &Primary,
    order: &Order,
    reporter: &Reporter,
    stopper: &Stopper,
) -> Ending {
    let shelf = Shelf::new(workshop.home.spool(&order.lease.file_name()));
    let (secrets, bounds) = (order.secrets.clone(), Bounds::of(&workshop.config));
    if let Err(error) = leftovers::note(&workshop.home, &order.lease) {
        return give_up(Trouble::io("cannot keep the log", error), stopper);
    }
    let spooled = Spool::start(shelf, secrets, bounds, stopper.clone()).await;
    let (spool, log, shipment) = match spooled {
        Ok(spooled) => spooled,
        Err(error) => return give_up(Trouble::io("cannot keep the log", error), stopper),
    };
    let begun = CancellationToken::new();
    let (longest, progress) = (order.longest_silence, shipment.progress.clone());
    let silent = watch_for_silence(longest, &begun, progress, stopper);
    let working = async {
        let work = workshop.home.work(&order.lease.file_name());
        let grace = workshop.config.grace();
        let site = Site::new(order, work, log.clone(), stopper.clone(), begun.clone(), grace);
        let conducting = async {
            match site {
                Ok(site) => conduct(workshop, primary, order, reporter, &site).await,
                Err(error) => give_up(Trouble::io("cannot make a work folder", error), stopper),
            }
        };
        let ending = tokio::select! {
            ending = conducting => ending,
            never = silent => match never {},
        };
        if let Ending::Failed(why) | Ending::GivenBack(why) = &ending {
            log.note(why.as_str()).await;
        }
        spool.finish(log).await;
        ending
    };
    let progress = shipment.progress.clone();
    let shipping = async {
        let shipped = ship(primary.control(), &order.lease, shipment).await;
        if let Err(error) = &shipped {
            tracing::warn!(run = %order.lease.run, %error, "the log of an attempt is incomplete");
            // The answer to a report tells whether the attempt is still ours.
            reporter.repeat();
            abandon(primary.control(), &order.lease, error, progress).await;
        }
    };
    let (ending, ()) = tokio::join!(working, shipping);
    ending
}

/// Stops an attempt that prints nothing for too long, once it has begun: what is downloaded and made ready
/// before prints nothing, and a build has a time limit of its own.
async fn watch_for_silence(
    longest: Option<Duration>,
    begun: &CancellationToken,
    mut progress: watch::Receiver<Progress>,
    stopper: &Stopper,
) -> Infallible {
    if let Some(longest) = longest {
        begun.cancelled().await;
        progress.mark_unchanged();
        loop {
            match timeout(longest, progress.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_ended)) => return pending().await,
                // Not silent: it waits for the server.
                Err(_) if progress.borrow().blocked => {}
                Err(_) => break,
            }
        }
        stopper.stop(Why::Silent(longest));
    }
    pending().await
}

async fn conduct(
    workshop: &Workshop,
    primary: &Primary,
    order: &Order,
    reporter: &Reporter,
    site: &Site,
) -> Ending {
    let done = match &order.task {
        Task::Run(task) => run::run(workshop, primary, order, task, site, reporter).await,
        Task::Build(task) => build::build(workshop, primary, order, task, site).await,
    };
    match done {
        Ok(Ending::Cancelled(_)) => give_up(Trouble::Stopped, &site.stopper),
        Ok(ending) => ending,
        Err(trouble) => give_up(trouble, &site.stopper),
    }
}

fn give_up(trouble: Trouble, stopper: &Stopper) -> Ending {
    match trouble {
        Trouble::Pipeline(why) => Ending::Failed(why),
        Trouble::Worker(why) => Ending::GivenBack(why),
        Trouble::Stopped => match stopper.why() {
            Some(Why::NoLog(why)) => Ending::GivenBack(why),
            Some(Why::Aborted) => {
                Ending::GivenBack("the agent was shut down before the run ended".into())
            }
            Some(Why::Lost) => {
                Ending::GivenBack("this attempt was taken away from the worker".into())
            }
            Some(Why::Silent(longest)) => Ending::Failed(format!(
                "timed out: nothing was printed for {} s",
                longest.as_secs()
            )),
            Some(Why::Cancelled) | None => Ending::Cancelled("the run was cancelled".into()),
        },
    }
}

fn without_secrets(ending: Ending, order: &Order) -> Ending {
    let mask = |text: String| order.secrets.mask(&text);
    match ending {
        Ending::Failed(reason) => Ending::Failed(mask(reason)),
        Ending::GivenBack(reason) => Ending::GivenBack(mask(reason)),
        Ending::Cancelled(reason) => Ending::Cancelled(mask(reason)),
        Ending::StoppedEarly(reason) => Ending::StoppedEarly(mask(reason)),
        Ending::Succeeded | Ending::Built(_) => ending,
    }
}

/// Ends and removes what only this attempt needed.
async fn clear(workshop: &Workshop, lease: &Lease) {
    let work = workshop.home.work(&lease.file_name());
    let ended = spawn_blocking(move || {
        processes::end_marked(&work);
        fs::remove_dir_all(work)
    });
    let ended = ended.await.expect("looking for processes neither panics nor is aborted");
    let removed = [ended, leftovers::remove(&workshop.home, lease)];
    for error in removed.into_iter().filter_map(Result::err) {
        if error.kind() != io::ErrorKind::NotFound {
            tracing::warn!(run = %lease.run, %error, "cannot remove what an attempt left");
        }
    }
}
