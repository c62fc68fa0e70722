//! Beside a log: for each stretch of its bytes the stream, the jobs, and when it arrived at the agent.
//!
//! The log itself stays what it is; this lies in a file of its own, as records that each begin with their
//! length, in the order of the log. It tells, and proves nothing: what is not known is told as unknown, and a
//! record is written after its bytes, so that none is ever told for other bytes. Blocking.

use std::{
    collections::VecDeque,
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::PathBuf,
    sync::Arc,
};

use prost::Message;
use proto::logs::v1::{LogSource, LogSpan, LogSpans, LogStream};

/// Of one record: more than the header holds that brings it.
const LONGEST: usize = 64 << 10;
/// Jobs of one source: no pipeline has more.
const MOST_JOBS: usize = 1_000;
/// Stretches and their jobs in one answer. A record may name one source of many jobs for each of many
/// stretches; told in full, it would be thousands of times as long.
const MOST_TOLD: usize = 64 << 10;

/// Why spans are refused; nothing is stored then.
pub(crate) fn check(spans: &LogSpans) -> Result<(), String> {
    let LogSpans { offset, lengths, delays, origins, sources, .. } = spans;
    if lengths.len() != delays.len() || lengths.len() != origins.len() {
        return Err(format!(
            "has {} lengths, {} delays and {} origins: send one of each for a stretch",
            lengths.len(),
            delays.len(),
            origins.len()
        ));
    }
    if spans.encoded_len() > LONGEST {
        return Err(format!("has more than {LONGEST} bytes: send fewer stretches at once"));
    }
    let end = lengths.iter().try_fold(*offset, |end, length| end.checked_add(*length));
    if end.is_none() || lengths.contains(&0) {
        return Err("has a length of 0, or lengths without an end".into());
    }
    if let Some(origin) = origins.iter().find(|origin| **origin as usize >= sources.len()) {
        return Err(format!("has no source {origin}, which a stretch names"));
    }
    let is_odd = |source: &LogSource| {
        LogStream::try_from(source.stream).is_err() || source.jobs.len() > MOST_JOBS
    };
    match sources.iter().position(is_odd) {
        Some(at) => Err(format!("has a source {at} with an unknown stream or too many jobs")),
        None => Ok(()),
    }
}

fn end(spans: &LogSpans) -> u64 {
    spans.lengths.iter().fold(spans.offset, |end, length| end.saturating_add(*length))
}

/// Bytes that follow each other and came from the same source.
#[derive(Debug)]
struct Stretch {
    length: u64,
    at: u64,
    /// Shared by all of a record that name it.
    source: Option<Arc<LogSource>>,
}

impl Stretch {
    fn unknown(length: u64) -> Self {
        Self { length, at: 0, source: None }
    }

    fn told(&self, length: u64) -> LogSpan {
        LogSpan { length, at: self.at, source: self.source.as_deref().cloned() }
    }

    fn weight(&self) -> usize {
        1 + self.source.as_ref().map_or(0, |source| source.jobs.len())
    }
}

/// The stretches, one by one.
fn stretches(spans: LogSpans) -> impl Iterator<Item = Stretch> {
    let sources: Vec<_> = spans.sources.into_iter().map(Arc::new).collect();
    let columns = spans.lengths.into_iter().zip(spans.delays).zip(spans.origins);
    let mut at = spans.at;
    columns.map(move |((length, delay), origin)| {
        at = at.saturating_add_signed(delay);
        Stretch { length, at, source: sources.get(origin as usize).cloned() }
    })
}

/// The file, for the one who writes it.
#[derive(Debug)]
pub(crate) struct SpanFile {
    file: File,
    length: u64,
    /// Where what it tells ends.
    covered: u64,
}

impl SpanFile {
    /// Opens or makes it; what follows the last whole record is cut off.
    pub(crate) fn open(path: &PathBuf) -> io::Result<Self> {
        let file =
            File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        let mut opened = Self { file, length: 0, covered: 0 };
        opened.cut(u64::MAX)?;
        Ok(opened)
    }

    pub(crate) fn append(&mut self, spans: &LogSpans) -> io::Result<()> {
        if end(spans) > self.covered {
            let record = spans.encode_length_delimited_to_vec();
            self.file.write_all_at(&record, self.length)?;
            self.length += record.len() as u64;
            self.covered = end(spans);
        }
        Ok(())
    }

    /// Forgets the records that reach beyond this byte of the log.
    pub(crate) fn cut(&mut self, at: u64) -> io::Result<()> {
        let (mut position, mut covered) = (0, 0);
        while let Some((record, next)) = record(&self.file, position)? {
            if end(&record) > at {
                break;
            }
            (position, covered) = (next, end(&record));
        }
        self.file.set_len(position)?;
        (self.length, self.covered) = (position, covered);
        Ok(())
    }

    pub(crate) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

/// The log's bytes are others now.
pub(crate) fn remove(path: &PathBuf) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The record at this position, and where the next begins. `None`: no whole one is there.
fn record(file: &File, position: u64) -> io::Result<Option<(LogSpans, u64)>> {
    let mut bytes = vec![0; LONGEST + 4];
    let mut filled = 0;
    while filled < bytes.len() {
        // Most records are short.
        let wanted = bytes.len().min(filled + 512.max(filled));
        match file.read_at(&mut bytes[filled..wanted], position + filled as u64)? {
            0 => break,
            count => filled += count,
        }
        // After a power loss it may be any number.
        if let Ok(length) = prost::decode_length_delimiter(&bytes[..filled])
            && filled >= length.saturating_add(prost::length_delimiter_len(length))
        {
            break;
        }
    }
    let mut rest = &bytes[..filled];
    // Zeros, as a power loss leaves them, are an empty record.
    let decoded = LogSpans::decode_length_delimited(&mut rest).ok();
    let decoded = decoded.filter(|spans| !spans.lengths.is_empty() && check(spans).is_ok());
    let next = position + (filled - rest.len()) as u64;
    Ok(decoded.map(|spans| (spans, next)))
}

/// Goes through the file with one who reads the log.
#[derive(Debug)]
pub(crate) struct SpanReader {
    path: PathBuf,
    file: Option<File>,
    position: u64,
    /// Where `ahead` begins in the log.
    at: u64,
    ahead: VecDeque<Stretch>,
    /// Where it ends.
    end: u64,
}

impl SpanReader {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, file: None, position: 0, at: 0, ahead: VecDeque::new(), end: 0 }
    }

    /// What is known of these bytes: of all, or of the first of them where it would be too much at once.
    /// Each call goes on where one before ended, or later.
    pub(crate) fn read(&mut self, offset: u64, length: u64) -> io::Result<Vec<LogSpan>> {
        let wanted = offset + length;
        let (mut spans, mut at, mut weight) = (vec![], offset, 0);
        while at < wanted && weight < MOST_TOLD {
            let Some((stretch, end)) = self.stretch(at)? else {
                push(&mut spans, Stretch::unknown(0).told(wanted - at));
                break;
            };
            let part = end.min(wanted) - at;
            weight += stretch.weight();
            push(&mut spans, stretch.told(part));
            at += part;
        }
        Ok(spans)
    }

    /// In which this byte lies, and where it ends. `None`: nothing is told of it, nor of what follows.
    fn stretch(&mut self, at: u64) -> io::Result<Option<(&Stretch, u64)>> {
        loop {
            while let Some(first) = self.ahead.front()
                && self.at + first.length <= at
            {
                self.at += first.length;
                self.ahead.pop_front();
            }
            if !self.ahead.is_empty() {
                break;
            }
            if !self.look_ahead(at)? {
                return Ok(None);
            }
        }
        let end = |first: &Stretch| self.at + first.length;
        Ok(self.ahead.front().map(|first| (first, end(first))))
    }

    /// Reads one record more, once nothing is ahead. `false`: there is none.
    fn look_ahead(&mut self, at: u64) -> io::Result<bool> {
        if self.file.is_none() {
            match File::open(&self.path) {
                Ok(file) => self.file = Some(file),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        let Some(file) = &self.file else { return Ok(false) };
        let Some((record, next)) = record(file, self.position)? else { return Ok(false) };
        self.position = next;
        if end(&record) <= at.max(self.end) {
            // Nobody asks for it any more.
            self.end = self.end.max(end(&record));
            self.at = self.end;
            return Ok(true);
        }
        let mut from = record.offset;
        if from > self.end {
            self.ahead.push_back(Stretch::unknown(from - self.end));
            self.end = from;
        }
        for mut stretch in stretches(record) {
            let ends = from + stretch.length;
            // A record that was sent again, with more behind it.
            stretch.length = ends.saturating_sub(self.end.max(from));
            from = ends;
            if stretch.length > 0 {
                self.end = ends;
                self.ahead.push_back(stretch);
            }
        }
        Ok(true)
    }
}

fn push(spans: &mut Vec<LogSpan>, span: LogSpan) {
    match spans.last_mut() {
        Some(last) if last.at == span.at && last.source == span.source => {
            last.length += span.length;
        }
        _ => spans.push(span),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spans(offset: u64, lengths: &[u64]) -> LogSpans {
        LogSpans {
            offset,
            at: 1000 + offset,
            lengths: lengths.to_vec(),
            delays: lengths.iter().enumerate().map(|(number, _)| number.min(1) as i64).collect(),
            origins: vec![0; lengths.len()],
            sources: vec![LogSource { stream: LogStream::Stdout.into(), jobs: vec![3] }],
        }
    }

    fn told(reader: &mut SpanReader, offset: u64, length: u64) -> Vec<(u64, u64)> {
        let spans = reader.read(offset, length).unwrap();
        spans.iter().map(|span| (span.length, span.at)).collect()
    }

    #[test]
    fn what_was_told_twice_or_torn_is_told_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("1.spans");
        let mut file = SpanFile::open(&path).unwrap();
        let mut reader = SpanReader::new(path.clone());
        file.append(&spans(0, &[4, 6])).unwrap();
        assert_eq!(told(&mut reader, 0, 6), [(4, 1000), (2, 1001)]);
        // Known already; overlapping; after a gap.
        file.append(&spans(4, &[6])).unwrap();
        file.append(&spans(5, &[5, 3])).unwrap();
        file.append(&spans(20, &[1])).unwrap();
        drop(file);
        let torn = File::options().append(true).open(&path).unwrap();
        io::Write::write_all(&mut &torn, &spans(21, &[5]).encode_length_delimited_to_vec()[..7])
            .unwrap();
        let mut file = SpanFile::open(&path).unwrap();
        assert_eq!(file.covered, 21);
        file.append(&spans(21, &[2])).unwrap();
        assert_eq!(told(&mut reader, 6, 7), [(4, 1001), (3, 1006)]);
        assert_eq!(told(&mut reader, 13, 20), [(7, 0), (1, 1020), (2, 1021), (10, 0)]);
        let mut late = SpanReader::new(path.clone());
        assert_eq!(told(&mut late, 9, 2), [(1, 1001), (1, 1006)]);

        file.cut(12).unwrap();
        assert_eq!(file.covered, 10, "a record that reaches further is gone");
        assert_eq!(told(&mut SpanReader::new(path), 0, 12), [(4, 1000), (6, 1001), (2, 0)]);
    }

    #[test]
    fn a_record_that_says_much_of_little_is_told_in_parts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("1.spans");
        let mut much = spans(0, &vec![1; 10_000]);
        much.delays = (0..10_000).map(|number| number % 2).collect();
        much.sources[0].jobs = (0..1_000).collect();
        assert_eq!(check(&much), Ok(()));
        SpanFile::open(&path).unwrap().append(&much).unwrap();
        let mut reader = SpanReader::new(path);
        let mut at = 0;
        while at < 10_000 {
            let told = reader.read(at, 10_000 - at).unwrap();
            let jobs = told.iter().flat_map(|span| &span.source).map(|source| source.jobs.len());
            let jobs = jobs.sum::<usize>();
            assert!((1..=MOST_TOLD + 1_000).contains(&jobs), "{jobs} jobs");
            at += told.iter().map(|span| span.length).sum::<u64>();
        }
        assert_eq!(at, 10_000);
    }

    #[test]
    fn who_comes_late_holds_nothing_of_what_was_before() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("1.spans");
        let mut file = SpanFile::open(&path).unwrap();
        for record in 0..100 {
            file.append(&spans(record * 100, &[1; 100])).unwrap();
        }
        let mut reader = SpanReader::new(path);
        assert_eq!(told(&mut reader, 9_950, 1), [(1, 10_950)]);
        assert!(reader.ahead.len() <= 50, "{} are held", reader.ahead.len());
    }

    #[test]
    fn odd_spans_are_refused() {
        assert_eq!(check(&spans(7, &[1, 2, 3])), Ok(()));
        let odd = |change: fn(&mut LogSpans)| {
            let mut odd = spans(7, &[1, 2, 3]);
            change(&mut odd);
            check(&odd).unwrap_err()
        };
        assert!(odd(|it| it.delays.truncate(1)).contains("3 lengths, 1 delays"));
        assert!(odd(|it| it.lengths[1] = 0).contains("length of 0"));
        assert!(odd(|it| it.lengths[1] = u64::MAX).contains("without an end"));
        assert!(odd(|it| it.origins[2] = 1).contains("no source 1"));
        assert!(odd(|it| it.sources[0].stream = 9).contains("unknown stream"));
        assert!(odd(|it| it.sources[0].jobs = vec![1; 1_001]).contains("too many jobs"));
    }
}
