//! How runs are treated: as a pipeline has it, and as a single start changes it.

use proto::common::v1::{OnWorkerLost, RunPolicy};
use serde::{Deserialize, Serialize};

use crate::{error::ApiError, limits};

/// Most groups that are looked at; the services take fewer.
const GROUPS: usize = 100;

/// What is to be different.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wish {
    priority: Option<i32>,
    groups: Option<Vec<String>>,
    on_worker_lost: Option<Lost>,
    retries: Option<u32>,
    /// Seconds, like all times here.
    retry_delay: Option<u32>,
    infrastructure_retries: Option<u32>,
    queue_timeout: Option<u32>,
    start_timeout: Option<u32>,
    run_timeout: Option<u32>,
    silence_timeout: Option<u32>,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
enum Lost {
    Requeue,
    Fail,
    Wait,
}

impl Wish {
    pub(super) fn apply(self, to: Option<RunPolicy>) -> Result<RunPolicy, ApiError> {
        let groups = self.groups.as_deref().unwrap_or_default();
        if groups.len() > GROUPS {
            let message = format!("`groups` has {} entries: leave some out", groups.len());
            return Err(ApiError::bad_request(message));
        }
        groups.iter().try_for_each(|group| limits::text("groups", group, limits::NAME))?;
        let old = to.unwrap_or_default();
        let lost = self.on_worker_lost.map(|lost| match lost {
            Lost::Requeue => OnWorkerLost::Requeue.into(),
            Lost::Fail => OnWorkerLost::Fail.into(),
            Lost::Wait => OnWorkerLost::Wait.into(),
        });
        Ok(RunPolicy {
            priority: self.priority.unwrap_or(old.priority),
            groups: self.groups.unwrap_or(old.groups),
            on_worker_lost: lost.unwrap_or(old.on_worker_lost),
            retries: self.retries.unwrap_or(old.retries),
            retry_delay: self.retry_delay.unwrap_or(old.retry_delay),
            infrastructure_retries: self.infrastructure_retries.or(old.infrastructure_retries),
            queue_timeout: self.queue_timeout.unwrap_or(old.queue_timeout),
            start_timeout: self.start_timeout.unwrap_or(old.start_timeout),
            run_timeout: self.run_timeout.unwrap_or(old.run_timeout),
            silence_timeout: self.silence_timeout.unwrap_or(old.silence_timeout),
        })
    }
}

#[derive(Debug, Serialize)]
pub(super) struct PolicyJson {
    priority: i32,
    groups: Vec<String>,
    on_worker_lost: Lost,
    retries: u32,
    retry_delay: u32,
    /// None: as the server is set.
    infrastructure_retries: Option<u32>,
    queue_timeout: u32,
    start_timeout: u32,
    run_timeout: u32,
    silence_timeout: u32,
}

impl From<Option<RunPolicy>> for PolicyJson {
    fn from(policy: Option<RunPolicy>) -> Self {
        let policy = policy.unwrap_or_default();
        Self {
            on_worker_lost: match policy.on_worker_lost() {
                OnWorkerLost::Requeue => Lost::Requeue,
                OnWorkerLost::Fail => Lost::Fail,
                OnWorkerLost::Wait => Lost::Wait,
            },
            priority: policy.priority,
            groups: policy.groups,
            retries: policy.retries,
            retry_delay: policy.retry_delay,
            infrastructure_retries: policy.infrastructure_retries,
            queue_timeout: policy.queue_timeout,
            start_timeout: policy.start_timeout,
            run_timeout: policy.run_timeout,
            silence_timeout: policy.silence_timeout,
        }
    }
}
