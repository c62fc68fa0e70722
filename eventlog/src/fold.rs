//! State as the fold of its events.

/// State that is the fold of its events.
///
/// `evolve` is total: every event in the log has already happened, so there is nothing left to
/// refuse. It does no IO and reads no clock, so replaying the same log always yields the same state.
pub trait Fold: Default {
    type Event;

    fn evolve(&mut self, event: &Self::Event);

    #[must_use]
    fn replay<'a>(events: impl IntoIterator<Item = &'a Self::Event>) -> Self
    where
        Self::Event: 'a,
    {
        let mut state = Self::default();
        for event in events {
            state.evolve(event);
        }
        state
    }
}
