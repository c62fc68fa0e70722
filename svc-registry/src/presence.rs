//! Who is connected, in memory: one task counts the attachments of each worker, and tells the log
//! when a worker is lost.
//!
//! An attachment is acknowledged by this task before its worker's `AttachWorker` is decided, and while
//! the task reports a loss it acknowledges nothing. So a loss that crosses with a new attachment is
//! always stored before the return.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use eventlog::{Clock, Origin, Stopped};
use futures::future;
use ids::{Timestamp, WorkerId};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep_until},
};

use crate::{
    domain::{Command, Event},
    service::Owner,
    views::Contact,
};

/// A handle to the task; cheap to clone.
#[derive(Clone)]
pub(crate) struct Presence(mpsc::UnboundedSender<Message>);

enum Message {
    Attach {
        worker: WorkerId,
        reply: oneshot::Sender<watch::Receiver<()>>,
    },
    Detach {
        worker: WorkerId,
    },
    /// Nothing has come from it for so long.
    Silent {
        worker: WorkerId,
        silent: Duration,
    },
    /// It was just registered, and should attach within the grace time.
    Expect {
        worker: WorkerId,
    },
    /// The log knows something new of it.
    Changed {
        worker: WorkerId,
    },
    Contact {
        worker: WorkerId,
        reply: oneshot::Sender<Option<Contact>>,
    },
    Contacts {
        reply: oneshot::Sender<HashMap<WorkerId, Contact>>,
    },
}

/// A worker is there for as long as one of these is.
pub(crate) struct Attachment {
    worker: WorkerId,
    presence: Presence,
}

impl Presence {
    /// Counts until the attachment is dropped. The receiver is told of every later change of the worker.
    pub(crate) async fn attach(
        &self,
        worker: WorkerId,
    ) -> Result<(Attachment, watch::Receiver<()>), Stopped> {
        let (reply, acknowledged) = oneshot::channel();
        self.send(Message::Attach { worker, reply })?;
        // From here on, also when the caller goes away while it waits.
        let attachment = Attachment { worker, presence: self.clone() };
        let changes = acknowledged.await.map_err(|_| Stopped)?;
        Ok((attachment, changes))
    }

    /// Nothing was heard of the worker's only attachment, which ends now. With another one it means nothing.
    pub(crate) fn silent(&self, worker: WorkerId, silent: Duration) -> Result<(), Stopped> {
        self.send(Message::Silent { worker, silent })
    }

    pub(crate) fn expect(&self, worker: WorkerId) -> Result<(), Stopped> {
        self.send(Message::Expect { worker })
    }

    pub(crate) fn changed(&self, worker: WorkerId) -> Result<(), Stopped> {
        self.send(Message::Changed { worker })
    }

    pub(crate) async fn contact(&self, worker: WorkerId) -> Result<Option<Contact>, Stopped> {
        let (reply, contact) = oneshot::channel();
        self.send(Message::Contact { worker, reply })?;
        contact.await.map_err(|_| Stopped)
    }

    /// Of all workers that are connected, or were a moment ago.
    pub(crate) async fn contacts(&self) -> Result<HashMap<WorkerId, Contact>, Stopped> {
        let (reply, contacts) = oneshot::channel();
        self.send(Message::Contacts { reply })?;
        contacts.await.map_err(|_| Stopped)
    }

    fn send(&self, message: Message) -> Result<(), Stopped> {
        self.0.send(message).map_err(|_| Stopped)
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        // The task may have stopped, and then nobody counts.
        self.presence.send(Message::Detach { worker: self.worker }).ok();
    }
}

/// The task that counts.
pub(crate) struct Task {
    owner: Owner,
    clock: Clock,
    grace: Duration,
    inbox: mpsc::UnboundedReceiver<Message>,
    workers: HashMap<WorkerId, Entry>,
    /// Those without an attachment, by the end of their grace time.
    awaited: BTreeSet<(Instant, WorkerId)>,
}

struct Entry {
    attachments: u32,
    /// When something was heard of the only attachment, if that is long ago.
    heard: Option<Instant>,
    /// While there is an attachment, this is out of date.
    last_contact_at: Timestamp,
    /// End of the grace time; `None` while there is an attachment.
    deadline: Option<Instant>,
    changes: watch::Sender<()>,
}

impl Task {
    /// Everyone who is present according to the log gets the grace time from now.
    pub(crate) async fn new(
        owner: Owner,
        clock: Clock,
        grace: Duration,
    ) -> Result<(Presence, Self), Stopped> {
        let present = owner
            .read(|state| {
                let present = state.registered().filter(|(_, known)| known.is_present());
                present.map(|(id, known)| (id, known.last_contact_at)).collect::<Vec<_>>()
            })
            .await?;
        let (sender, inbox) = mpsc::unbounded_channel();
        let (workers, awaited) = (HashMap::new(), BTreeSet::new());
        let mut task = Self { owner, clock, grace, inbox, workers, awaited };
        for (worker, last_contact_at) in present {
            task.expect_since(worker, Instant::now(), last_contact_at);
        }
        Ok((Presence(sender), task))
    }

    /// Ends when the last handle is gone, or the owner of the state has stopped.
    pub(crate) async fn run(mut self) {
        loop {
            let next = self.awaited.first().map(|&(deadline, _)| deadline);
            let due = async {
                match next {
                    Some(deadline) => sleep_until(deadline).await,
                    None => future::pending().await,
                }
            };
            tokio::select! {
                // Who is back in the last moment is back.
                biased;
                message = self.inbox.recv() => match message {
                    Some(message) => self.handle(message),
                    None => return,
                },
                () = due => if self.lose_overdue().await.is_err() {
                    return;
                },
            }
        }
    }

    fn handle(&mut self, message: Message) {
        match message {
            Message::Attach { worker, reply } => {
                let changes = self.attach(worker);
                // The caller may have gone away; its attachment is then dropped too.
                reply.send(changes).ok();
            }
            Message::Detach { worker } => self.detach(worker),
            Message::Silent { worker, silent } => {
                if let Some(entry) =
                    self.workers.get_mut(&worker).filter(|one| one.attachments == 1)
                {
                    entry.heard = Instant::now().checked_sub(silent);
                }
            }
            Message::Expect { worker } => self.expect(worker, Instant::now()),
            Message::Changed { worker } => {
                if let Some(entry) = self.workers.get(&worker) {
                    entry.changes.send_replace(());
                }
            }
            Message::Contact { worker, reply } => {
                let contact =
                    self.workers.get(&worker).map(|entry| entry.contact(self.clock.now()));
                // The caller may have gone away.
                reply.send(contact).ok();
            }
            Message::Contacts { reply } => {
                let now = self.clock.now();
                let contacts = self.workers.iter().map(|(&id, entry)| (id, entry.contact(now)));
                // The caller may have gone away.
                reply.send(contacts.collect()).ok();
            }
        }
    }

    fn attach(&mut self, worker: WorkerId) -> watch::Receiver<()> {
        let entry = self.workers.entry(worker).or_insert_with(|| Entry::new(Timestamp::default()));
        entry.attachments += 1;
        entry.heard = None;
        if let Some(deadline) = entry.deadline.take() {
            self.awaited.remove(&(deadline, worker));
        }
        entry.changes.subscribe()
    }

    fn detach(&mut self, worker: WorkerId) {
        let Some(entry) = self.workers.get_mut(&worker) else { return };
        entry.attachments -= 1;
        if entry.attachments == 0 {
            let heard = entry.heard.take().unwrap_or_else(Instant::now);
            self.expect(worker, heard);
        }
    }

    /// Starts the grace time of a worker without an attachment, which was heard last then.
    fn expect(&mut self, worker: WorkerId, heard: Instant) {
        let last_contact_at = Timestamp(self.clock.now().0 - heard.elapsed().as_millis() as u64);
        self.expect_since(worker, heard, last_contact_at);
    }

    fn expect_since(&mut self, worker: WorkerId, heard: Instant, last_contact_at: Timestamp) {
        let entry = self.workers.entry(worker).or_insert_with(|| Entry::new(last_contact_at));
        if entry.attachments > 0 {
            return;
        }
        entry.last_contact_at = last_contact_at;
        let deadline = heard + self.grace;
        if let Some(earlier) = entry.deadline.replace(deadline) {
            self.awaited.remove(&(earlier, worker));
        }
        self.awaited.insert((deadline, worker));
    }

    async fn lose_overdue(&mut self) -> Result<(), Stopped> {
        let now = Instant::now();
        let mut losses = Vec::new();
        while let Some(&(deadline, worker)) = self.awaited.first() {
            if deadline > now {
                break;
            }
            self.awaited.pop_first();
            let entry = self.workers.remove(&worker).expect("who is awaited has an entry");
            let command = Command::LoseWorker {
                worker,
                last_contact_at: entry.last_contact_at,
                at: self.clock.now(),
            };
            losses.push(self.owner.ask(command, Origin::service("svc-registry")));
        }
        for answer in future::join_all(losses).await {
            let lost = answer?.unwrap_or_default();
            for event in lost {
                if let Event::WorkerLost { worker, .. } = event {
                    tracing::warn!(%worker, "lost: it has not been connected for the grace time");
                }
            }
        }
        Ok(())
    }
}

impl Entry {
    fn new(last_contact_at: Timestamp) -> Self {
        let (heard, deadline) = (None, None);
        Self { attachments: 0, heard, last_contact_at, deadline, changes: watch::Sender::new(()) }
    }

    fn contact(&self, now: Timestamp) -> Contact {
        let connected = self.attachments > 0;
        Contact { connected, last_at: if connected { now } else { self.last_contact_at } }
    }
}
