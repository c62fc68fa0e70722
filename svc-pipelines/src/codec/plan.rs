//! The stored form of schedules, of what they start, and of trigger tokens.

use eventlog::{DecodeError, Recorded};
use ids::{Digest, PipelineId, Timestamp};
use prost::Message;
use proto::pipelines::{events::v1 as stored, v1 as wire};

use super::{read, run_id};
use crate::domain::{MissedTicks, Schedules, SchedulesWish, schedule::Event};

pub(super) fn encode(event: Event) -> (&'static str, Vec<u8>) {
    let pipeline_id = event.pipeline().0;
    match event {
        Event::SchedulesSet { schedules, by, at, .. } => {
            let wire::Schedules { crons, time_zone, missed } = schedules_to_proto(&schedules);
            let at = at.0;
            let set = stored::SchedulesSet { pipeline_id, crons, time_zone, missed, by, at };
            ("SchedulesSet", set.encode_to_vec())
        }
        Event::ScheduleFired { cron, tick, run, at, .. } => {
            let (tick, run_id, at) = (tick.0, run.to_string(), at.0);
            let fired = stored::ScheduleFired { pipeline_id, cron, tick, run_id, at };
            ("ScheduleFired", fired.encode_to_vec())
        }
        Event::TickSkipped { cron, tick, reason, at, .. } => {
            let (tick, at) = (tick.0, at.0);
            let skipped = stored::TickSkipped { pipeline_id, cron, tick, reason, at };
            ("TickSkipped", skipped.encode_to_vec())
        }
        Event::ScheduleRewound { cron, covered, at, .. } => {
            let (covered, at) = (covered.0, at.0);
            let rewound = stored::ScheduleRewound { pipeline_id, cron, covered, at };
            ("ScheduleRewound", rewound.encode_to_vec())
        }
        Event::StartConfirmed { run, at, .. } => {
            let (run_id, at) = (run.to_string(), at.0);
            let confirmed = stored::StartConfirmed { pipeline_id, run_id, at };
            ("StartConfirmed", confirmed.encode_to_vec())
        }
        Event::StartRefused { run, reason, at, .. } => {
            let (run_id, at) = (run.to_string(), at.0);
            let refused = stored::StartRefused { pipeline_id, run_id, reason, at };
            ("StartRefused", refused.encode_to_vec())
        }
        Event::TriggerTokenSet { hash, by, at, .. } => {
            let token_hash = hash.map(|hash| hash.as_bytes().to_vec().into()).unwrap_or_default();
            let set = stored::TriggerTokenSet { pipeline_id, token_hash, by, at: at.0 };
            ("TriggerTokenSet", set.encode_to_vec())
        }
    }
}

/// `None`: of an unknown type.
pub(super) fn decode(recorded: &Recorded) -> Result<Option<Event>, DecodeError> {
    let event = match &*recorded.event.event_type {
        "SchedulesSet" => {
            let set: stored::SchedulesSet = read(recorded)?;
            let missed = set.missed;
            let wish = wire::Schedules { crons: set.crons, time_zone: set.time_zone, missed };
            let wish = schedules_from_proto(wish);
            let schedules = wish.and_then(|wish| wish.read().map_err(|error| error.to_string()));
            Event::SchedulesSet {
                pipeline: PipelineId(set.pipeline_id),
                schedules: schedules.map_err(|error| DecodeError::new(recorded, error))?,
                by: set.by,
                at: Timestamp(set.at),
            }
        }
        "ScheduleFired" => {
            let fired: stored::ScheduleFired = read(recorded)?;
            Event::ScheduleFired {
                pipeline: PipelineId(fired.pipeline_id),
                cron: fired.cron,
                tick: Timestamp(fired.tick),
                run: run_id(recorded, &fired.run_id)?,
                at: Timestamp(fired.at),
            }
        }
        "TickSkipped" => {
            let skipped: stored::TickSkipped = read(recorded)?;
            Event::TickSkipped {
                pipeline: PipelineId(skipped.pipeline_id),
                cron: skipped.cron,
                tick: Timestamp(skipped.tick),
                reason: skipped.reason,
                at: Timestamp(skipped.at),
            }
        }
        "StartRefused" => {
            let refused: stored::StartRefused = read(recorded)?;
            Event::StartRefused {
                pipeline: PipelineId(refused.pipeline_id),
                run: run_id(recorded, &refused.run_id)?,
                reason: refused.reason,
                at: Timestamp(refused.at),
            }
        }
        "TriggerTokenSet" => {
            let set: stored::TriggerTokenSet = read(recorded)?;
            let hash = (!set.token_hash.is_empty()).then(|| Digest::try_from(&set.token_hash[..]));
            Event::TriggerTokenSet {
                pipeline: PipelineId(set.pipeline_id),
                hash: hash.transpose().map_err(|error| DecodeError::new(recorded, error))?,
                by: set.by,
                at: Timestamp(set.at),
            }
        }
        _ => return decode_later(recorded),
    };
    Ok(Some(event))
}

/// What puts things right.
fn decode_later(recorded: &Recorded) -> Result<Option<Event>, DecodeError> {
    let event = match &*recorded.event.event_type {
        "ScheduleRewound" => {
            let rewound: stored::ScheduleRewound = read(recorded)?;
            Event::ScheduleRewound {
                pipeline: PipelineId(rewound.pipeline_id),
                cron: rewound.cron,
                covered: Timestamp(rewound.covered),
                at: Timestamp(rewound.at),
            }
        }
        "StartConfirmed" => {
            let confirmed: stored::StartConfirmed = read(recorded)?;
            Event::StartConfirmed {
                pipeline: PipelineId(confirmed.pipeline_id),
                run: run_id(recorded, &confirmed.run_id)?,
                at: Timestamp(confirmed.at),
            }
        }
        _ => return Ok(None),
    };
    Ok(Some(event))
}

pub(crate) fn schedules_to_proto(schedules: &Schedules) -> wire::Schedules {
    let missed = match schedules.missed {
        MissedTicks::Skip => wire::MissedTicks::Skip,
        MissedTicks::Once => wire::MissedTicks::Once,
    };
    wire::Schedules {
        crons: schedules.crons.iter().map(ToString::to_string).collect(),
        time_zone: schedules.zone.0.name().to_owned(),
        missed: missed.into(),
    }
}

/// The error: a value that is none of the protocol.
pub(crate) fn schedules_from_proto(schedules: wire::Schedules) -> Result<SchedulesWish, String> {
    let missed = match wire::MissedTicks::try_from(schedules.missed) {
        Ok(wire::MissedTicks::Skip) => MissedTicks::Skip,
        Ok(wire::MissedTicks::Once) => MissedTicks::Once,
        Err(error) => return Err(format!("missed: {error}")),
    };
    Ok(SchedulesWish { crons: schedules.crons, time_zone: schedules.time_zone, missed })
}
