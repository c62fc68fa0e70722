//! What operators do with workers.

use eventlog::Clock;
use ids::{Timestamp, WorkerId};
use proto::{common::v1::Caller, registry::v1 as wire};
use tonic::{Response, Status};

use super::{Api, worker_id};
use crate::{
    domain::Command,
    limits::{self, InvalidField},
};

type Answer = Result<Response<wire::Worker>, Status>;

/// A request to change one worker, read.
struct Change {
    worker: WorkerId,
    note: String,
    until: Option<Timestamp>,
    force: bool,
    at: Timestamp,
    caller: Option<Caller>,
}

impl Change {
    fn read(request: wire::ChangeWorkerRequest, clock: &Clock) -> Result<Self, InvalidField> {
        Ok(Self {
            worker: worker_id(&request.worker_id)?,
            note: note(&request.note)?,
            until: (request.until != 0).then_some(Timestamp(request.until)),
            force: request.force,
            at: clock.now(),
            caller: request.caller,
        })
    }
}

pub(super) fn note(note: &str) -> Result<String, InvalidField> {
    limits::text("note", note, limits::NOTE)
}

impl Api {
    pub(super) async fn rename(&self, request: wire::RenameWorkerRequest) -> Answer {
        let (worker, note) = (worker_id(&request.worker_id)?, note(&request.note)?);
        let name = limits::name(&request.name)?;
        if name.is_empty() {
            return Err(Status::invalid_argument("`name` is empty; give the worker a name"));
        }
        let command = Command::RenameWorker { worker, name, note, at: self.clock.now() };
        self.change(worker, command, request.caller).await
    }

    pub(super) async fn tag(&self, request: wire::TagWorkerRequest) -> Answer {
        let (worker, note) = (worker_id(&request.worker_id)?, note(&request.note)?);
        let (add, remove) = (limits::tags(&request.add)?, limits::tags(&request.remove)?);
        if add.is_empty() && remove.is_empty() {
            return Err(Status::invalid_argument("`add` and `remove` are empty; name a tag"));
        }
        let command = Command::TagWorker { worker, add, remove, note, at: self.clock.now() };
        self.change(worker, command, request.caller).await
    }

    pub(super) async fn suspend(&self, request: wire::ChangeWorkerRequest) -> Answer {
        let Change { worker, note, until, at, caller, .. } = Change::read(request, &self.clock)?;
        self.change(worker, Command::SuspendWorker { worker, until, note, at }, caller).await
    }

    pub(super) async fn drain(&self, request: wire::ChangeWorkerRequest) -> Answer {
        let Change { worker, note, until, at, caller, .. } = Change::read(request, &self.clock)?;
        let command = Command::DrainWorker { worker, deadline: until, note, at };
        self.change(worker, command, caller).await
    }

    pub(super) async fn resume(&self, request: wire::ChangeWorkerRequest) -> Answer {
        let Change { worker, note, at, caller, .. } = Change::read(request, &self.clock)?;
        self.change(worker, Command::ResumeWorker { worker, note, at }, caller).await
    }

    pub(super) async fn deregister(&self, request: wire::ChangeWorkerRequest) -> Answer {
        let Change { worker, note, force, at, caller, .. } = Change::read(request, &self.clock)?;
        let command = Command::DeregisterWorker { worker, forced: force, note, at };
        self.change(worker, command, caller).await
    }
}
