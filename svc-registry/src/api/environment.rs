//! Variables for the environment of runs. Secret ones are sealed before they are a command, and opened
//! only for the run that gets them.

use eventlog::Origin;
use proto::registry::v1::{self as wire, scope};
use tonic::{Response, Status};

use super::{Api, operator::note, stopped, worker_id};
use crate::{
    domain::{Command, MOST_BYTES, Rejection, Scope, State, Value, Variable},
    limits,
};

/// Where a variable is, its name, and what it is.
type Found = (Scope, String, Variable);

impl Api {
    pub(super) async fn set(
        &self,
        request: wire::SetVariableRequest,
    ) -> Result<Response<wire::Variable>, Status> {
        let scope = read(request.scope)?;
        let (key, note) = (limits::key(&request.key)?, note(&request.note)?);
        limits::value(&request.value)?;
        let value = if request.secret {
            let plain = request.value.as_bytes();
            Value::Sealed(self.master_key.seal(&context(&scope, &key), plain))
        } else {
            Value::Plain(request.value)
        };
        let variable = Variable { value: value.clone(), updated_at: self.clock.now() };
        let at = variable.updated_at;
        let shown = shown(&scope, &key, &variable);
        let command = Command::SetVariable { scope, key, value, note, at };
        self.owner.ask(command, Origin::from(request.caller)).await.map_err(stopped)??;
        Ok(Response::new(shown))
    }

    pub(super) async fn remove(
        &self,
        request: wire::RemoveVariableRequest,
    ) -> Result<Response<wire::RemoveVariableResponse>, Status> {
        let scope = read(request.scope)?;
        let (key, note) = (limits::key(&request.key)?, note(&request.note)?);
        let command = Command::RemoveVariable { scope, key, note, at: self.clock.now() };
        self.owner.ask(command, Origin::from(request.caller)).await.map_err(stopped)??;
        Ok(Response::new(wire::RemoveVariableResponse {}))
    }

    pub(super) async fn variables(
        &self,
        request: wire::ListVariablesRequest,
    ) -> Result<Response<wire::ListVariablesResponse>, Status> {
        let wanted = request.scope.map(|scope| read(Some(scope))).transpose()?;
        let look = move |state: &State| {
            let all = state.variables();
            all.filter(|(scope, ..)| wanted.as_ref().is_none_or(|wanted| wanted == *scope))
                .map(|(scope, key, variable)| shown(scope, key, variable))
                .collect()
        };
        let variables = self.owner.read(look).await.map_err(stopped)?;
        Ok(Response::new(wire::ListVariablesResponse { variables }))
    }

    pub(super) async fn environment(
        &self,
        request: wire::ResolveEnvironmentRequest,
    ) -> Result<Response<wire::ListVariablesResponse>, Status> {
        let worker = worker_id(&request.worker_id)?;
        let look = move |state: &State| {
            let known = state.worker(worker).filter(|known| known.deregistered.is_none());
            known.ok_or(Rejection::UnknownWorker(worker))?;
            let found = state.environment(worker).into_iter();
            let found = found
                .map(|(key, (scope, variable))| (scope.clone(), key.to_owned(), variable.clone()));
            Ok::<_, Rejection>(found.collect::<Vec<Found>>())
        };
        let found = self.owner.read(look).await.map_err(stopped)??;
        let variables =
            found.iter().map(|found| self.open(found)).collect::<Result<Vec<_>, _>>()?;
        let size: usize = variables.iter().map(|it| it.key.len() + it.value.len()).sum();
        // Tags that it got since may have made it so.
        if size > MOST_BYTES {
            return Err(Status::failed_precondition(format!(
                "the environment of worker {worker} has {size} bytes; at most {MOST_BYTES} are given to \
                 a run: remove variables of the worker or of its tags"
            )));
        }
        Ok(Response::new(wire::ListVariablesResponse { variables }))
    }

    fn open(&self, (scope, key, variable): &Found) -> Result<wire::Variable, Status> {
        let mut shown = shown(scope, key, variable);
        if let Value::Sealed(sealed) = &variable.value {
            let opened = self.master_key.open(&context(scope, key), sealed).ok();
            shown.value =
                opened.and_then(|value| String::from_utf8(value).ok()).ok_or_else(|| {
                    Status::failed_precondition(format!(
                        "variable `{key}` cannot be decrypted; restore the master key, or set the \
                         variable again"
                    ))
                })?;
        }
        Ok(shown)
    }
}

/// What a sealed value is bound to.
fn context(scope: &Scope, key: &str) -> String {
    match scope {
        Scope::Worker(worker) => format!("variable/worker/{worker}/{key}"),
        Scope::Tag(tag) => format!("variable/tag/{tag}/{key}"),
    }
}

fn read(scope: Option<wire::Scope>) -> Result<Scope, Status> {
    match scope.and_then(|scope| scope.scope) {
        Some(scope::Scope::WorkerId(id)) => Ok(Scope::Worker(worker_id(&id)?)),
        Some(scope::Scope::Tag(tag)) => {
            let tag = limits::tag(&tag)?;
            if tag.starts_with('-') {
                return Err(Status::invalid_argument(
                    "`scope` is a negative tag, which no worker offers; name a tag without `-`",
                ));
            }
            Ok(Scope::Tag(tag.to_lowercase()))
        }
        None => Err(Status::invalid_argument("`scope` is missing; name a worker or a tag")),
    }
}

/// Without the value of a secret one.
fn shown(scope: &Scope, key: &str, variable: &Variable) -> wire::Variable {
    let scope = match scope {
        Scope::Worker(worker) => scope::Scope::WorkerId(worker.to_string()),
        Scope::Tag(tag) => scope::Scope::Tag(tag.clone()),
    };
    let (value, secret) = match &variable.value {
        Value::Plain(text) => (text.clone(), false),
        Value::Sealed(_) => (String::new(), true),
    };
    wire::Variable {
        scope: Some(wire::Scope { scope: Some(scope) }),
        key: key.to_owned(),
        value,
        secret,
        updated_at: variable.updated_at.0,
    }
}
