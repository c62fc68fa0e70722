//! A log with the time of each line, or only what one stream or one job printed. Pure; takes the log piece
//! by piece, and leaves bytes as they are.

use proto::logs::v1::{LogSource, LogSpan, LogStream, ReadLogResponse};

use crate::{error::ApiError, limits, rest::time::rfc3339};

/// What is wanted, as the query says it.
#[derive(Debug, Default)]
pub(super) struct Wish {
    pub(super) timestamps: Option<String>,
    pub(super) stream: Option<String>,
    /// A job's title or id.
    pub(super) job: Option<String>,
    /// Also what that job or another that ran beside it printed.
    pub(super) unsure: Option<String>,
}

#[derive(Clone, Debug)]
pub(super) struct View {
    timestamps: bool,
    stream: Option<LogStream>,
    job: Option<u32>,
    unsure: bool,
    at_line_start: bool,
}

impl Wish {
    /// `None`: the log as it is. `jobs` are the run's: title and id.
    pub(super) fn view<'a>(
        &self,
        jobs: impl Iterator<Item = (&'a str, u32)>,
    ) -> Result<Option<View>, ApiError> {
        let is_on = |switch: &Option<String>| crate::rest::is_on(switch.as_deref());
        let stream = self.stream.as_deref().map(stream).transpose()?;
        let job = self.job.as_deref().map(|job| job_of(job, jobs)).transpose()?;
        let timestamps = is_on(&self.timestamps);
        let is_plain = !timestamps && stream.is_none() && job.is_none();
        let unsure = is_on(&self.unsure);
        let view = View { timestamps, stream, job, unsure, at_line_start: true };
        Ok((!is_plain).then_some(view))
    }
}

fn stream(name: &str) -> Result<LogStream, ApiError> {
    match name {
        "stdout" => Ok(LogStream::Stdout),
        "stderr" => Ok(LogStream::Stderr),
        "agent" => Ok(LogStream::Agent),
        other => Err(ApiError::bad_request(format!(
            "`stream` is `{}`: give stdout, stderr or agent",
            limits::cut(other.to_owned(), 60)
        ))),
    }
}

fn job_of<'a>(wanted: &str, jobs: impl Iterator<Item = (&'a str, u32)>) -> Result<u32, ApiError> {
    let jobs: Vec<_> = jobs.collect();
    let id = wanted.parse::<u32>().ok();
    let named = jobs.iter().find(|(title, _)| *title == wanted);
    let found = named.or_else(|| jobs.iter().find(|(_, known)| Some(*known) == id));
    found.map(|(_, id)| *id).ok_or_else(|| {
        let titles: Vec<_> = jobs.iter().map(|(title, _)| format!("`{title}`")).collect();
        ApiError::bad_request(format!(
            "`job` is `{}`, and the run has no such job; it has {}",
            limits::cut(wanted.to_owned(), 60),
            limits::cut(titles.join(", "), 1000)
        ))
    })
}

impl View {
    /// What is seen of a piece after its first `skip` bytes, which were seen before.
    pub(super) fn push(&mut self, piece: &ReadLogResponse, skip: usize) -> Vec<u8> {
        if let Some(before) = skip.checked_sub(1).and_then(|last| piece.data.get(last)) {
            self.at_line_start = *before == b'\n';
        } else if piece.offset == 0 {
            // Another attempt's, perhaps.
            self.at_line_start = true;
        }
        let (mut at, mut seen) = (0, Vec::with_capacity(piece.data.len()));
        for span in &piece.spans {
            let end = piece.data.len().min(at + span.length as usize);
            let from = end.min(at.max(skip));
            at = end;
            if self.wants(span.source.as_ref()) {
                self.show(&piece.data[from..end], span, &mut seen);
            }
        }
        seen
    }

    fn wants(&self, source: Option<&LogSource>) -> bool {
        let of_stream = |wanted| source.is_some_and(|source| source.stream() == wanted);
        let of_job = |wanted| {
            source.is_some_and(|source| {
                source.jobs == [wanted] || self.unsure && source.jobs.contains(&wanted)
            })
        };
        self.stream.is_none_or(of_stream) && self.job.is_none_or(of_job)
    }

    fn show(&mut self, bytes: &[u8], span: &LogSpan, seen: &mut Vec<u8>) {
        if !self.timestamps {
            return seen.extend_from_slice(bytes);
        }
        let time = if span.at == 0 { "-".into() } else { rfc3339(span.at) };
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            if self.at_line_start {
                seen.extend_from_slice(time.as_bytes());
                seen.push(b' ');
            }
            seen.extend_from_slice(line);
            self.at_line_start = line.ends_with(b"\n");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(length: u64, at: u64, stream: LogStream, jobs: &[u32]) -> LogSpan {
        let source = LogSource { stream: stream.into(), jobs: jobs.to_vec() };
        LogSpan { length, at, source: Some(source) }
    }

    fn piece() -> ReadLogResponse {
        ReadLogResponse {
            attempt: 1,
            offset: 0,
            data: b"one\ntwo\n\xff\x1b\noops\nold"[..].into(),
            spans: vec![
                span(4, 1, LogStream::Stdout, &[7]),
                span(4, 2, LogStream::Stdout, &[7, 8]),
                span(3, 3, LogStream::Stderr, &[8]),
                span(5, 4, LogStream::Agent, &[]),
                LogSpan { length: 3, at: 0, source: None },
            ],
        }
    }

    fn seen(wish: Wish, skip: usize) -> String {
        let jobs = [("build", 7), ("test", 8)];
        let mut view = wish.view(jobs.into_iter()).unwrap().unwrap();
        String::from_utf8_lossy(&view.push(&piece(), skip)).into_owned()
    }

    fn on() -> String {
        "1".into()
    }

    #[test]
    fn each_line_has_its_time_and_no_byte_is_changed() {
        let timed = Wish { timestamps: Some(on()), ..Wish::default() };
        assert_eq!(
            seen(timed, 0),
            "1970-01-01T00:00:00.001Z one\n1970-01-01T00:00:00.002Z two\n\
             1970-01-01T00:00:00.003Z \u{fffd}\x1b\n1970-01-01T00:00:00.004Z oops\n- old"
        );
        // Taken up in the middle of a line, and at the beginning of one.
        let timed =
            || Wish { timestamps: Some(on()), stream: Some("stdout".into()), ..Wish::default() };
        assert_eq!(seen(timed(), 2), "e\n1970-01-01T00:00:00.002Z two\n");
        assert_eq!(seen(timed(), 4), "1970-01-01T00:00:00.002Z two\n");
    }

    #[test]
    fn the_next_attempt_begins_a_line_wherever_the_one_before_broke_off() {
        let wish = Wish { timestamps: Some(on()), ..Wish::default() };
        let mut view = wish.view([].into_iter()).unwrap().unwrap();
        view.push(&piece(), 0);
        let again = String::from_utf8_lossy(&view.push(&piece(), 0)).into_owned();
        assert!(again.starts_with("1970-01-01T00:00:00.001Z one\n"), "{again}");
    }

    #[test]
    fn what_may_be_of_another_job_is_shown_only_on_demand() {
        let of = |job: &str| Wish { job: Some(job.into()), ..Wish::default() };
        assert_eq!(seen(of("build"), 0), "one\n");
        assert_eq!(seen(Wish { unsure: Some(on()), ..of("7") }, 0), "one\ntwo\n");
        assert_eq!(seen(Wish { stream: Some("stderr".into()), ..of("test") }, 0), "\u{fffd}\x1b\n");
        assert_eq!(seen(Wish { stream: Some("agent".into()), ..Wish::default() }, 0), "oops\n");
    }

    #[test]
    fn a_wish_that_cannot_be_met_says_what_there_is() {
        let jobs = || [("build", 7)].into_iter();
        assert!(Wish::default().view(jobs()).unwrap().is_none());
        let refused = |wish: Wish| wish.view(jobs()).unwrap_err().message().to_owned();
        let job = refused(Wish { job: Some("deploy".into()), ..Wish::default() });
        assert!(job.contains("no such job; it has `build`"), "{job}");
        let stream = refused(Wish { stream: Some("out".into()), ..Wish::default() });
        assert!(stream.contains("stdout, stderr or agent"), "{stream}");
    }
}
