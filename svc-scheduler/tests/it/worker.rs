//! A worker that does nothing, and notes what it was told: it attaches again whenever its line ends, and
//! reports each run until it is heard.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use proto::{
    common::v1::Lease,
    scheduler::v1::{
        AttachWorkerRequest, Instruction, ReportRunRequest, ReportedState, RunReport, instruction,
        scheduler_client::SchedulerClient,
    },
};
use tokio::{sync::mpsc, time::sleep};
use tonic::{Code, Streaming};
use transport::Channel;

use crate::house::worker_id;

/// Between two tries.
const PAUSE: Duration = Duration::from_millis(5);

/// Who was told to begin which attempt, and with which token.
pub(crate) type Told = Arc<Mutex<HashMap<(String, u32), (u128, String)>>>;

pub(crate) struct Worker {
    pub(crate) number: u128,
    pub(crate) client: SchedulerClient<Channel>,
    pub(crate) told: Told,
}

impl Worker {
    /// For ever.
    pub(crate) async fn work(self) {
        let (done, mut finished) = mpsc::unbounded_channel();
        let mut held: HashMap<String, Lease> = HashMap::new();
        loop {
            let Some(mut line) = self.attach(&held).await else {
                sleep(PAUSE).await;
                continue;
            };
            loop {
                tokio::select! {
                    ended = finished.recv() => {
                        let run: String = ended.expect("this task has a sender");
                        held.remove(&run);
                    }
                    message = line.message() => {
                        let Ok(Some(Instruction { instruction: Some(told) })) = message else { break };
                        match told {
                            instruction::Instruction::Start(start) => {
                                let lease = start.lease.unwrap();
                                self.note(&lease);
                                if held.insert(lease.run_id.clone(), lease.clone()).is_none() {
                                    let (client, done) = (self.client.clone(), done.clone());
                                    tokio::spawn(run(client, self.number, lease, done));
                                }
                            }
                            instruction::Instruction::Cancel(lease) => {
                                held.remove(&lease.run_id);
                            }
                        }
                    }
                }
            }
        }
    }

    fn note(&self, lease: &Lease) {
        let key = (lease.run_id.clone(), lease.attempt);
        let word = (self.number, lease.token.clone());
        let known = self.told.lock().unwrap().entry(key).or_insert_with(|| word.clone()).clone();
        assert_eq!(known, word, "the same attempt of run {} was given twice", lease.run_id);
    }

    async fn attach(&self, held: &HashMap<String, Lease>) -> Option<Streaming<Instruction>> {
        let request = AttachWorkerRequest {
            worker_id: worker_id(self.number),
            push: true,
            held: held.values().cloned().collect(),
            ..Default::default()
        };
        Some(self.client.clone().attach_worker(request).await.ok()?.into_inner())
    }
}

/// One run, from its beginning to its end.
async fn run(
    mut client: SchedulerClient<Channel>,
    worker: u128,
    lease: Lease,
    done: mpsc::UnboundedSender<String>,
) {
    for state in [ReportedState::Running, ReportedState::Succeeded] {
        loop {
            let report = RunReport { state: state.into(), ..Default::default() };
            let request = ReportRunRequest {
                worker_id: worker_id(worker),
                lease: Some(lease.clone()),
                report: Some(report),
                caller: None,
            };
            match client.report_run(request).await {
                Ok(_) => break,
                // It was heard before, or it is another's now.
                Err(refusal) if refusal.code() == Code::FailedPrecondition => break,
                Err(_) => sleep(PAUSE).await,
            }
        }
    }
    done.send(lease.run_id).ok();
}
