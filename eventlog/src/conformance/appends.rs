//! Order, retries, conflicts, sizes, positions.

use futures::{FutureExt, StreamExt, future, stream::FuturesOrdered};
use kurrentdb::{CurrentRevision, Error, ReadStreamOptions, StreamState};

use super::probe::{Probe, Unmet, holds, new, sized, small};
use crate::{Log, esdb::trouble::is_conflict, event::Expected, log::AppendError};

pub(super) async fn one_session_keeps_the_order(probe: &Probe) -> Result<String, Unmet> {
    const APPENDS: usize = 200;
    let session = probe.session().await?;
    let streams: Vec<String> = (0..10).map(|n| probe.stream(&format!("order-{n}"))).collect();
    let mut answers = FuturesOrdered::new();
    for stream in streams.iter().cycle().take(APPENDS) {
        let session = session.clone();
        let mut answer = async move {
            session.append_to_stream(stream, StreamState::Any, vec![small("Probed")]).await
        }
        .boxed();
        // Polled once, which sends it.
        let early = answer.as_mut().now_or_never();
        answers.push_back(match early {
            Some(answer) => future::ready(answer).boxed(),
            None => answer,
        });
    }
    let mut last = None;
    while let Some(answer) = answers.next().await {
        let position = answer?.current_position().map(|position| position.commit);
        holds(position.is_some(), "the answer names no position")?;
        holds(position > last, format!("position {position:?} came after {last:?}"))?;
        last = position;
    }
    Ok(format!("{APPENDS} appends to 10 streams in order"))
}

pub(super) async fn a_retry_changes_nothing(probe: &Probe) -> Result<String, Unmet> {
    let stream = probe.stream("retry");
    let mut revision = 0;
    let states = [StreamState::NoStream, StreamState::StreamRevision(1), StreamState::Any];
    for state in states {
        let batch = vec![small("First"), small("Second")];
        let first = probe.append(&stream, state, batch.clone()).await?;
        for way in ["a call", "a session"] {
            let again = if way == "a call" {
                probe.append(&stream, state, batch.clone()).await?.next_expected_version
            } else {
                let answer = probe.session().await?;
                let answer = answer.append_to_stream(&stream, state, batch.clone()).await?;
                answer.current_revision().unwrap_or(first.next_expected_version)
            };
            holds(
                again == first.next_expected_version,
                format!(
                    "{state:?} by {way}: revision {again}, at first {}",
                    first.next_expected_version
                ),
            )?;
        }
        revision = first.next_expected_version;
    }
    let read = probe.read(&stream, ReadStreamOptions::default()).await?;
    holds(read.len() == 6, format!("{} events where 6 belong", read.len()))?;
    Ok(format!("expecting none, a revision, any; last revision {revision}"))
}

pub(super) async fn a_refused_append_stops_no_other(probe: &Probe) -> Result<String, Unmet> {
    let stream = probe.stream("refused");
    let appends = (0..9_u64).map(|number| {
        let expected = match number {
            0 => Expected::None,
            4 => Expected::Revision(77),
            number => Expected::Revision(number - 1 - u64::from(number > 4)),
        };
        probe.log.append(stream.as_str(), expected, vec![new("Probed")])
    });
    // Called in order, before the first is answered.
    let appends: Vec<_> = appends.collect();
    for (number, answer) in future::join_all(appends).await.into_iter().enumerate() {
        match answer {
            Ok(_) if number != 4 => {}
            Err(AppendError::Conflict { .. }) if number == 4 => {}
            Ok(_) => holds(false, "an append with a wrong expectation was taken")?,
            Err(error) => holds(false, format!("append {number}: {error}"))?,
        }
    }
    let read = probe.read(&stream, ReadStreamOptions::default()).await?;
    holds(read.len() == 8, format!("{} events where 8 belong", read.len()))?;
    Ok("the fifth of nine was refused, eight were taken".into())
}

pub(super) async fn large_batches_are_taken_whole(probe: &Probe) -> Result<String, Unmet> {
    let stream = probe.stream("large");
    let many = || vec![0; Log::MAX_BATCH_EVENTS].into_iter().map(|_| small("Probed")).collect();
    probe.append(&stream, StreamState::NoStream, many()).await?;
    let session = probe.session().await?;
    let half = StreamState::StreamRevision(Log::MAX_BATCH_EVENTS as u64 - 1);
    session.append_to_stream(&stream, half, many()).await?;
    let large = || vec![sized("Probed", Log::MAX_BATCH_BYTES - 2 * "Probed".len())];
    probe.append(&stream, StreamState::StreamExists, large()).await?;
    session.append_to_stream(&stream, StreamState::StreamExists, large()).await?;
    let refused = probe.append(&stream, StreamState::NoStream, many()).await;
    holds(
        refused.as_ref().is_err_and(is_conflict),
        format!("a batch with a wrong expectation: {:?}", refused.err()),
    )?;
    let read = probe.read(&stream, ReadStreamOptions::default()).await?;
    let events = 2 * Log::MAX_BATCH_EVENTS + 2;
    holds(read.len() == events, format!("{} events where {events} belong", read.len()))?;
    let bytes = read.iter().map(|event| event.data.len()).max().unwrap_or_default();
    Ok(format!("{} events at once, {bytes} bytes in one", Log::MAX_BATCH_EVENTS))
}

pub(super) async fn positions_grow(probe: &Probe) -> Result<String, Unmet> {
    let stream = probe.stream("positions");
    let mut last = None;
    for _ in 0..10 {
        let batch = (0..3).map(|_| small("Probed")).collect();
        let answer = probe.append(&stream, StreamState::Any, batch).await?;
        let three =
            ReadStreamOptions::default().backwards().position(kurrentdb::StreamPosition::End);
        let mut read = probe.read(&stream, three.max_count(3)).await?;
        read.reverse();
        for event in &read {
            let position = event.position;
            holds(position.commit == position.prepare, format!("{position:?} is two numbers"))?;
            holds(Some(position.commit) > last, format!("{position:?} comes after {last:?}"))?;
            last = Some(position.commit);
        }
        let named = answer.position.commit;
        holds(Some(named) == last, format!("the answer names {named}, the last is {last:?}"))?;
    }
    Ok("30 events in batches of 3".into())
}

pub(super) async fn revisions_have_no_gaps(probe: &Probe) -> Result<String, Unmet> {
    let stream = probe.stream("revisions");
    for count in 1..8_u64 {
        let batch = (0..count).map(|_| small("Probed")).collect();
        let answer = probe.append(&stream, StreamState::Any, batch).await?;
        let (named, belongs) = (answer.next_expected_version, count * (count + 1) / 2 - 1);
        holds(named == belongs, format!("the answer names {named} instead of {belongs}"))?;
    }
    let read = probe.read(&stream, ReadStreamOptions::default()).await?;
    let revisions: Vec<u64> = read.iter().map(|event| event.revision).collect();
    holds(revisions.iter().copied().eq(0..28), format!("{revisions:?}"))?;
    Ok("28 events in 7 batches".into())
}

pub(super) async fn expectations_are_kept(probe: &Probe) -> Result<String, Unmet> {
    let (old, fresh) = (probe.stream("expected"), probe.stream("expected-fresh"));
    probe.fill(&old, 3).await?;
    let wrong = [
        (&old, StreamState::NoStream, CurrentRevision::Current(2)),
        (&old, StreamState::StreamRevision(1), CurrentRevision::Current(2)),
        (&old, StreamState::StreamRevision(3), CurrentRevision::Current(2)),
        (&fresh, StreamState::StreamExists, CurrentRevision::NoStream),
        (&fresh, StreamState::StreamRevision(0), CurrentRevision::NoStream),
    ];
    for (stream, state, is) in wrong {
        let answer = probe.append(stream, state, vec![small("Probed")]).await;
        let told =
            matches!(&answer, Err(Error::WrongExpectedVersion { current, .. }) if *current == is);
        holds(told, format!("a call that expects {state:?}: {answer:?}"))?;
        let session = probe.session().await?;
        let answer = session.append_to_stream(stream, state, vec![small("Probed")]).await;
        holds(
            answer.as_ref().is_err_and(is_conflict),
            format!("a session that expects {state:?}: {answer:?}"),
        )?;
    }
    for state in [StreamState::StreamRevision(2), StreamState::StreamExists, StreamState::Any] {
        probe.append(&old, state, vec![small("Probed")]).await?;
    }
    probe.append(&fresh, StreamState::NoStream, vec![small("Probed")]).await?;
    Ok("5 wrong ones refused by call and by session, 4 right ones taken".into())
}

pub(super) async fn of_many_writers_one_wins(probe: &Probe) -> Result<String, Unmet> {
    const WRITERS: usize = 16;
    let stream = probe.stream("race");
    for revision in 0..5_u64 {
        let state = match revision.checked_sub(1) {
            None => StreamState::NoStream,
            Some(last) => StreamState::StreamRevision(last),
        };
        let writers = (0..WRITERS).map(|_| probe.append(&stream, state, vec![small("Probed")]));
        let answers = future::join_all(writers).await;
        let won = answers.iter().filter(|answer| answer.is_ok()).count();
        holds(won == 1, format!("{won} of {WRITERS} writers were right about {state:?}"))?;
        let odd =
            answers.iter().filter_map(|answer| answer.as_ref().err()).find(|e| !is_conflict(e));
        holds(odd.is_none(), format!("a loser heard: {odd:?}"))?;
    }
    Ok(format!("one of {WRITERS}, five times"))
}
