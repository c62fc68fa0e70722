//! The place of a moment in the log.

use futures::StreamExt;
use ids::Timestamp;

use crate::{Log, LogError};

impl Log {
    /// The position before which stands everything that was recorded up to and at this moment, and
    /// nothing later. Reads as many events as the logarithm of their number. Where a clock went
    /// back, which the log does not forbid, it is one of the positions that fit.
    pub async fn position_after(&self, moment: Timestamp) -> Result<u64, LogError> {
        let (mut low, mut high) = (0, self.next_position().await?);
        while low < high {
            let middle = low + (high - low) / 2;
            // The position may be gone; then the next event that is there decides.
            match self.read_all(middle, &[]).next().await.transpose()? {
                Some(event) if event.position >= high => high = middle,
                Some(event) if event.recorded_at <= moment => low = event.position + 1,
                Some(_) | None => high = middle,
            }
        }
        Ok(low)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    };

    use ids::EventId;
    use uuid::Uuid;

    use super::*;
    use crate::{Clock, Expected, Metadata, NewEvent};

    #[tokio::test]
    async fn a_moment_has_everything_up_to_it_before_its_position() {
        let time = Arc::new(AtomicU64::new(0));
        let told = Arc::clone(&time);
        let log = Log::in_memory(Clock::from_fn(move || Timestamp(told.load(Ordering::Relaxed))));
        assert_eq!(log.position_after(Timestamp(5)).await.unwrap(), 0);
        // Two events at 10, two at 20, …
        for at in 1..=20_u64 {
            time.store(at.div_ceil(2) * 10, Ordering::Relaxed);
            let id = EventId::from_uuid(Uuid::from_u128(at.into()));
            let event = NewEvent::new(id, "Told", vec![], &Metadata::default());
            log.append("s", Expected::Any, vec![event]).await.unwrap();
        }
        for (moment, position) in [(9, 0), (10, 2), (19, 2), (20, 4), (100, 20), (1_000, 20)] {
            assert_eq!(log.position_after(Timestamp(moment)).await.unwrap(), position, "{moment}");
        }
    }
}
