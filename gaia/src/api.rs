//! The answers of the REST API that the commands read.

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Run {
    pub uniqueid: String,
    /// Within the pipeline; 0 for builds.
    pub id: u64,
    pub pipelineid: u64,
    #[serde(default)]
    pub pipelinename: String,
    #[serde(default)]
    pub kind: String,
    pub status: String,
    #[serde(default)]
    pub started_reason: String,
    #[serde(default)]
    pub attempts: Vec<Attempt>,
    #[serde(default)]
    pub jobs: Vec<Job>,
    #[serde(default)]
    pub reason: String,
    #[serde(default)]
    pub stoppedearly: bool,
    #[serde(default)]
    pub cancelrequested: bool,
    #[serde(default)]
    pub submitted_at: u64,
    #[serde(default)]
    pub started_at: u64,
    #[serde(default)]
    pub finished_at: u64,
}

impl Run {
    pub fn is_over(&self) -> bool {
        matches!(self.status.as_str(), "success" | "failed" | "cancelled")
    }

    /// `success`, `success (stopped early)`, `running (cancelling)`, …
    pub fn state(&self) -> String {
        match self.status.as_str() {
            "success" if self.stoppedearly => "success (stopped early)".to_owned(),
            status if self.cancelrequested && !self.is_over() => format!("{status} (cancelling)"),
            status => status.to_owned(),
        }
    }

    /// The worker of the newest attempt.
    pub fn worker(&self) -> String {
        match self.attempts.last() {
            Some(attempt) if !attempt.workername.is_empty() => attempt.workername.clone(),
            Some(attempt) => attempt.workerid.clone(),
            None => "–".to_owned(),
        }
    }

    /// Milliseconds from submission to the moment the first worker had begun it.
    pub fn pick_up(&self) -> Option<u64> {
        let first = self.attempts.first()?;
        (first.started_at > 0).then(|| first.started_at.saturating_sub(self.submitted_at))
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Attempt {
    pub attempt: u32,
    pub workerid: String,
    #[serde(default)]
    pub workername: String,
    #[serde(default)]
    pub assigned_at: u64,
    #[serde(default)]
    pub started_at: u64,
    #[serde(default)]
    pub ended_at: u64,
    #[serde(default)]
    pub reason: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Job {
    pub id: u32,
    pub title: String,
    #[serde(default)]
    pub status: String,
    #[serde(default)]
    pub message: String,
    #[serde(default)]
    pub started_at: u64,
    #[serde(default)]
    pub finished_at: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Pipeline {
    pub id: u64,
    pub name: String,
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default)]
    pub tags: Vec<String>,
    #[serde(default)]
    pub repo: Option<Repository>,
    /// Of the newest build: "building", "built", "failed".
    pub buildstate: String,
    /// The run that does it.
    pub buildrunid: String,
    /// Why it failed.
    #[serde(default)]
    pub builderror: String,
    /// Count of builds that succeeded; 0: there is nothing to run yet.
    pub version: u32,
    #[serde(default)]
    pub jobs: Vec<Job>,
    #[serde(default)]
    pub periodicschedules: Vec<String>,
    #[serde(default)]
    pub time_zone: String,
    /// Milliseconds since the epoch; 0: never.
    #[serde(default)]
    pub next_start_at: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Repository {
    #[serde(default)]
    pub url: String,
    #[serde(default)]
    pub selectedbranch: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Worker {
    pub uniqueid: String,
    pub name: String,
    pub status: String,
    pub slots: i32,
    #[serde(default)]
    pub tags: Vec<String>,
    #[serde(default)]
    pub finishedruns: i64,
    #[serde(default)]
    pub connected: bool,
    #[serde(default)]
    pub runs: Vec<String>,
    #[serde(default)]
    pub note: String,
    /// "active", "suspended", "draining", "lost".
    #[serde(default)]
    pub state: String,
    /// When its suspension ends, or the deadline of its drain; 0: none.
    #[serde(default)]
    pub until: u64,
    #[serde(default)]
    pub os: String,
    #[serde(default)]
    pub arch: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Variable {
    /// Id of the worker, or the tag; the other is empty.
    pub worker: String,
    pub tag: String,
    pub key: String,
    /// Stars, where it is secret.
    pub value: String,
    pub secret: bool,
    pub updated_at: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Event {
    pub position: u64,
    pub stream: String,
    pub revision: u64,
    /// Milliseconds since the epoch.
    pub recorded_at: u64,
    #[serde(rename = "type")]
    pub event_type: String,
    pub version: u32,
    #[serde(default)]
    pub actor: String,
    #[serde(default)]
    pub address: String,
    #[serde(default)]
    pub certificate: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub causation: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub correlation: String,
    pub id: String,
    /// The fields by name; `None`: the server does not know the type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<serde_json::Value>,
    /// Base64 of the stored bytes, with everything secret blanked.
    pub data: String,
    /// Something secret is not shown.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub redacted: bool,
}
