//! Ends suspensions and drains when their time comes.
//!
//! What is due is read from the state, so a restart does at once what came due meanwhile. While
//! nothing is due, nothing happens.

use std::time::Duration;

use eventlog::{Clock, Origin, Stopped};
use tokio::{sync::oneshot, time::sleep};

use crate::{
    domain::{Command, Event, State},
    presence::Presence,
    service::Owner,
};

/// Somebody may set the clock while this waits.
const LONGEST_WAIT: Duration = Duration::from_mins(1);

/// Ends when the service stops, or nobody asks it any more.
pub(crate) async fn end_pauses(
    owner: Owner,
    presence: Presence,
    clock: Clock,
    mut unused: oneshot::Receiver<()>,
) {
    let mut changes = owner.changes();
    loop {
        // Seen before looking, so that what changes meanwhile is not missed.
        changes.borrow_and_update();
        let Ok(due) = owner.read(State::next_due).await else { return };
        let wait = due.map(|due| due.since(clock.now()));
        if wait == Some(Duration::ZERO) {
            if end(&owner, &presence, &clock).await.is_err() {
                return;
            }
            continue;
        }
        tokio::select! {
            _ = &mut unused => return,
            woken = changes.changed() => if woken.is_err() { return },
            () = sleep(wait.unwrap_or_default().min(LONGEST_WAIT)), if wait.is_some() => {}
        }
    }
}

async fn end(owner: &Owner, presence: &Presence, clock: &Clock) -> Result<(), Stopped> {
    let command = Command::EndPauses { at: clock.now() };
    let ended = owner.ask(command, Origin::service("svc-registry")).await?.unwrap_or_default();
    for worker in ended.iter().filter_map(Event::worker) {
        presence.changed(worker)?;
    }
    Ok(())
}
