//! How runs are treated: as a pipeline has it, and as a single start changes it.

use proto::common::v1::RunPolicy;
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
}

impl Wish {
    pub(super) fn apply(self, to: Option<RunPolicy>) -> Result<RunPolicy, ApiError> {
        let mut policy = to.unwrap_or_default();
        if let Some(priority) = self.priority {
            policy.priority = priority;
        }
        if let Some(groups) = self.groups {
            if groups.len() > GROUPS {
                let message = format!("`groups` has {} entries: leave some out", groups.len());
                return Err(ApiError::bad_request(message));
            }
            groups.iter().try_for_each(|group| limits::text("groups", group, limits::NAME))?;
            policy.groups = groups;
        }
        Ok(policy)
    }
}

#[derive(Debug, Serialize)]
pub(super) struct PolicyJson {
    priority: i32,
    groups: Vec<String>,
}

impl From<Option<RunPolicy>> for PolicyJson {
    fn from(policy: Option<RunPolicy>) -> Self {
        let RunPolicy { priority, groups } = policy.unwrap_or_default();
        Self { priority, groups }
    }
}
