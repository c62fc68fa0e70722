//! An agent and the registry, as far as the scheduler sees them.

use futures::StreamExt;

use super::*;

impl Simulation {
    pub(super) fn attach(&mut self, at: usize) {
        let agent = &self.agents[at];
        if !agent.up || agent.line.is_some() {
            return;
        }
        let Some((client, _)) = self.scheduler.as_ref().filter(|_| !agent.cut) else {
            return self.after(500, Happening::Attach(at));
        };
        let request = AttachWorkerRequest {
            worker_id: worker_id(at as u128 + 1),
            push: true,
            held: agent.works.values().map(|work| work.lease.clone()).collect(),
            ..Default::default()
        };
        self.scheduled += 1;
        let (line, mut client, tell) = (self.scheduled, client.clone(), self.tell.clone());
        let reader = self.calls.spawn(async move {
            if let Ok(stream) = client.attach_worker(request).await {
                let mut stream = stream.into_inner();
                while let Some(Ok(next)) = stream.next().await {
                    let instruction = Box::new(next.instruction.unwrap());
                    tell.send(Happening::Told { agent: at, line, instruction }).ok();
                }
            }
            tell.send(Happening::LineEnded { agent: at, line }).ok();
        });
        self.agents[at].line = Some((line, reader));
    }

    pub(super) fn obey(&mut self, at: usize, line: u64, told: instruction::Instruction) {
        let agent = &mut self.agents[at];
        if agent.line.as_ref().is_none_or(|(current, _)| *current != line) {
            return;
        }
        match told {
            instruction::Instruction::Start(Assignment { lease, .. }) => {
                let lease = lease.unwrap();
                let run = number(&lease.run_id);
                if agent.works.get(&run).is_some_and(|work| work.lease == lease) {
                    return;
                }
                let (state, acknowledged) = (ReportedState::Unspecified, false);
                agent.works.insert(run, Work { lease: lease.clone(), state, acknowledged });
                self.after(0, Happening::Report { agent: at, run });
                let delay = 10 + self.dice.below(1_500);
                self.after(delay, Happening::Work { agent: at, lease });
            }
            instruction::Instruction::Cancel(lease) => self.stop(at, &lease),
        }
    }

    fn stop(&mut self, at: usize, lease: &Lease) {
        let run = number(&lease.run_id);
        let work = self.agents[at].works.get_mut(&run).filter(|work| work.lease == *lease);
        if let Some(work) = work.filter(|work| !is_end(work.state)) {
            (work.state, work.acknowledged) = (ReportedState::Cancelled, false);
            self.after(0, Happening::Report { agent: at, run });
        }
    }

    /// The work goes on: it begins, and ends.
    pub(super) fn work(&mut self, at: usize, lease: Lease) {
        let run = number(&lease.run_id);
        let ends = match self.dice.below(10) {
            0 => ReportedState::Failed,
            1 => ReportedState::GivenBack,
            _ => ReportedState::Succeeded,
        };
        let length = 10 + self.dice.below(6_000);
        let work = self.agents[at].works.get_mut(&run).filter(|work| work.lease == lease);
        let Some(work) = work.filter(|work| !is_end(work.state)) else { return };
        let begins = work.state == ReportedState::Unspecified;
        work.state = if begins { ReportedState::Running } else { ends };
        work.acknowledged = false;
        self.after(0, Happening::Report { agent: at, run });
        if begins {
            self.after(length, Happening::Work { agent: at, lease });
        }
    }

    /// Says how things are, and does so again until that is answered.
    pub(super) fn report(&mut self, at: usize, run: u128) {
        let Some(work) = self.agents[at].works.get(&run).filter(|work| !work.acknowledged) else {
            return;
        };
        let (lease, state) = (work.lease.clone(), work.state);
        self.after(2_000, Happening::Report { agent: at, run });
        let copies = 1 + u64::from(self.now() < QUIET && self.dice.percent(5));
        for _ in 0..copies {
            if let Some(delay) = self.hop(at) {
                let lease = lease.clone();
                self.after(delay, Happening::Arrive { agent: at, lease, state });
            }
        }
    }

    pub(super) fn arrive(&mut self, at: usize, lease: Lease, state: ReportedState) {
        let request = pb::ReportRunRequest {
            worker_id: worker_id(at as u128 + 1),
            lease: Some(lease.clone()),
            report: Some(pb::RunReport { state: state.into(), ..Default::default() }),
            caller: None,
        };
        self.call(|mut client| async move {
            let answer = client.report_run(request).await;
            let answer = answer.map(|answer| answer.into_inner().cancel_requested);
            let answer = answer.map_err(|refused| refused.code());
            Happening::Answered { agent: at, lease, state, answer }
        });
    }

    pub(super) fn answered(
        &mut self,
        at: usize,
        lease: Lease,
        state: ReportedState,
        answer: Result<bool, Code>,
    ) {
        let run = number(&lease.run_id);
        if answer.is_ok() {
            self.seen.reported.push((run, lease.attempt, state));
        }
        let works = &mut self.agents[at].works;
        let Some(work) = works.get_mut(&run).filter(|work| work.lease == lease) else { return };
        match answer {
            Ok(_) if is_end(state) && work.state == state => drop(works.remove(&run)),
            Ok(true) => self.stop(at, &lease),
            Ok(false) => work.acknowledged |= work.state == state,
            Err(Code::FailedPrecondition | Code::NotFound) => drop(works.remove(&run)),
            Err(_) => {}
        }
    }

    /// It hears and is heard no more, or has gone with all that it did.
    pub(super) fn cut(&mut self, at: usize, crashes: bool) {
        if !self.agents[at].up || self.agents[at].cut {
            return;
        }
        self.count(if crashes { "crashes of agents" } else { "partitions" });
        let now = self.now();
        let agent = &mut self.agents[at];
        if let Some((_, reader)) = agent.line.take() {
            reader.abort();
        }
        if crashes {
            agent.up = false;
            agent.works.clear();
        } else {
            agent.cut = true;
        }
        agent.silent_since = Some(now);
        self.after(GRACE, Happening::Lose { agent: at, since: now });
        let away = (now + 200 + self.dice.below(3 * GRACE)).min(QUIET.max(now + 1));
        self.at(away, Happening::Mend(at));
    }

    /// Its line stays open, and whoever is at the other end learns nothing.
    pub(super) fn pause(&mut self, at: usize) {
        let now = self.now();
        let until = (now + 200 + self.dice.below(3 * GRACE)).min(QUIET.max(now + 1));
        let agent = &mut self.agents[at];
        if !agent.up || agent.cut || agent.paused_until > now {
            return;
        }
        (agent.paused_until, agent.silent_since) = (until, Some(now));
        self.count("pauses of agents");
        self.after(GRACE, Happening::Lose { agent: at, since: now });
        self.at(until, Happening::Mend(at));
    }

    pub(super) async fn lose(&mut self, at: usize, since: u64) {
        if self.agents[at].silent_since == Some(since) {
            self.agents[at].lost = true;
            let worker_id = worker_id(at as u128 + 1);
            let lost = registry::WorkerLost { worker_id, ..Default::default() };
            self.record(at, "WorkerLost", lost).await;
        }
    }

    pub(super) async fn mend(&mut self, at: usize) {
        let agent = &mut self.agents[at];
        (agent.up, agent.cut, agent.silent_since) = (true, false, None);
        if std::mem::take(&mut agent.lost) {
            let worker_id = worker_id(at as u128 + 1);
            let back = registry::WorkerReturned { worker_id, ..Default::default() };
            self.record(at, "WorkerReturned", back).await;
        }
        self.after(1, Happening::Attach(at));
    }

    async fn record(&self, at: usize, event_type: &str, event: impl Message) {
        record(&self.log, at as u128 + 1, event_type, event).await;
    }
}

pub(super) fn is_end(state: ReportedState) -> bool {
    !matches!(state, ReportedState::Unspecified | ReportedState::Running)
}
