//! What a run's stream may hold, said once more and without the domain: a judge reads events one by one,
//! whoever appended them, and names the first that breaks a rule.

use super::*;

/// What a run's events amount to.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Life {
    pub(crate) submitted: bool,
    pub(crate) attempts: u32,
    /// Who has it, by which attempt.
    pub(crate) live: Option<(WorkerId, Attempt)>,
    pub(crate) started: bool,
    cancel_requested: bool,
    /// How it ended.
    pub(crate) ended: Option<RunState>,
    jobs: Vec<(JobId, bool)>,
    tokens: Vec<LeaseToken>,
}

impl Life {
    /// The rule that the event breaks, if it breaks one.
    pub(crate) fn judge(&mut self, event: &Event) -> Result<(), &'static str> {
        rule(self.ended.is_none(), "nothing happens to a run that has ended")?;
        let is_submission = matches!(event, Event::RunSubmitted { .. });
        rule(self.submitted != is_submission, "a run is submitted once, and first")?;
        match event {
            Event::RunSubmitted { spec, .. } => {
                self.submitted = true;
                self.jobs = spec.jobs.iter().map(|job| (job.id, false)).collect();
            }
            Event::LimitChanged { .. } | Event::RunNumbered { .. } => {
                return Err("limits and numbers are not a run's");
            }
            Event::RunDue { .. } => rule(self.live.is_none(), "what is held is not delayed")?,
            Event::RunAssigned { attempt, worker, token, .. } => {
                rule(self.live.is_none(), "a run has one live lease at most")?;
                rule(*attempt == Attempt(self.attempts + 1), "an attempt has the next number")?;
                rule(!self.tokens.contains(token), "a token is used once")?;
                self.tokens.push(*token);
                (self.attempts, self.started) = (attempt.0, false);
                self.live = Some((*worker, *attempt));
            }
            Event::RunStarted { attempt, .. } => {
                self.is_live(*attempt)?;
                rule(!self.started, "an attempt starts once")?;
                self.started = true;
            }
            Event::JobStarted { attempt, job, .. } | Event::JobFinished { attempt, job, .. } => {
                self.is_live(*attempt)?;
                rule(self.started, "no job before the start")?;
                let known = self.jobs.iter_mut().find(|(id, _)| id == job);
                let (_, finished) = known.ok_or("a run has the jobs of its spec")?;
                rule(!*finished, "a job ends once")?;
                *finished = matches!(event, Event::JobFinished { .. });
            }
            Event::RunRequeued { attempt, reason, .. } => {
                self.is_live(*attempt)?;
                rule(!reason.is_empty(), "every further attempt has a reason")?;
                self.live = None;
                self.jobs.iter_mut().for_each(|(_, finished)| *finished = false);
            }
            Event::RunCancelRequested { .. } => {
                rule(self.live.is_some() && !self.cancel_requested, "a holder is asked once")?;
                self.cancel_requested = true;
            }
            Event::RunCancelled { .. } => self.end(RunState::Cancelled),
            Event::RunFinished { attempt, outcome, .. } => {
                if *outcome == Outcome::Succeeded {
                    self.is_live(*attempt)?;
                    rule(self.started && !self.cancel_requested, "no success after a cancel")?;
                }
                self.end((*outcome).into());
            }
        }
        Ok(())
    }

    fn is_live(&self, attempt: Attempt) -> Result<(), &'static str> {
        rule(self.live.is_some_and(|(_, live)| live == attempt), "only the live attempt says so")
    }

    fn end(&mut self, state: RunState) {
        (self.ended, self.live) = (Some(state), None);
    }
}

fn rule(holds: bool, rule: &'static str) -> Result<(), &'static str> {
    if holds { Ok(()) } else { Err(rule) }
}

/// Numbers that only look random; the same for the same seed.
pub(crate) struct Seeded(u64);

impl Seeded {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Less than `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }

    /// In so many of a hundred cases.
    pub(crate) fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }
}
