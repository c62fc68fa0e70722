//! What the files of a log hold, record by record, and what can be made of them without opening it:
//! the head, a copy of everything, and a log cut back to what is sound. None of it needs the lock,
//! but for [`cut`], which takes it.

use std::{
    io,
    ops::{ControlFlow, Range},
    path::{Path, PathBuf},
};

use ids::{Digest, EventId};

use super::{
    OpenError,
    format::{Chain, Content, Kind, Record, SEGMENT_HEADER, Said, SegmentHeader},
    index::remove_index,
    lock,
    recover::{damage, salt},
    segment::Segment,
};
use crate::{
    Head, NewEvent, Recorded,
    disk::{self, File},
};

/// A file of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentFile {
    pub path: PathBuf,
    /// Position of its first record.
    pub first: u64,
    /// The chain before its first record.
    pub before: Digest,
    /// With reserved space.
    pub bytes: u64,
}

/// A record, proved against the chain.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Without type, metadata and data if it was removed.
    pub recorded: Recorded,
    /// A scavenge removed what the event said: the hash of it, which the chain still proves.
    pub removed: Option<Digest>,
    /// How many events of the same append follow.
    pub left: u16,
    /// The chain up to and with it.
    pub chain: Digest,
    /// Number of its segment.
    pub segment: usize,
    /// Where in the file it stands, in bytes.
    pub place: Range<u64>,
}

/// The files, oldest first.
pub fn segments(dir: &Path) -> Result<Vec<SegmentFile>, OpenError> {
    let open = |path: PathBuf| {
        let segment = Segment::open(path, false)?;
        let length = segment.file.length();
        let length = length.map_err(|source| OpenError::io("read", &segment.path, source))?;
        Ok(SegmentFile {
            first: segment.header.first,
            before: Digest::from_bytes(segment.header.chain.0),
            bytes: length,
            path: segment.path,
        })
    };
    Segment::list(dir)?.into_iter().map(open).collect()
}

/// Shows every event to `look`, oldest first, from the first of the file that holds the position
/// `from` on, as long as it says so. The log may be in use meanwhile.
pub fn walk<E: From<OpenError>>(
    dir: &Path,
    from: u64,
    mut look: impl FnMut(Entry) -> Result<ControlFlow<()>, E>,
) -> Result<(), E> {
    let paths = Segment::list(dir)?;
    let mut start = 0;
    // From the first event on, each file is looked at only once those before it were found sound.
    for (at, path) in paths.iter().enumerate().filter(|_| from > 0) {
        if Segment::open(path.clone(), false)?.header.first <= from {
            start = at;
        }
    }
    let mut at: Option<(u64, Chain)> = None;
    for (number, path) in paths.iter().enumerate().skip(start) {
        let segment = Segment::open(path.clone(), false)?;
        let (next, chain) = at.unwrap_or((segment.header.first, segment.header.chain));
        if segment.header.first != next || segment.header.chain != chain {
            let why = format!(
                "it does not go on with event {next}: a file is missing, or is another log's"
            );
            return Err(OpenError::damaged(path, 16, why).into());
        }
        let mut pass = Pass { number, next, chain, batch: Vec::new(), end: SEGMENT_HEADER as u64 };
        if pass.segment(&segment, number + 1 < paths.len(), &mut look)?.is_break() {
            return Ok(());
        }
        at = Some((pass.next, pass.chain));
    }
    Ok(())
}

/// A walk through one segment.
struct Pass {
    number: usize,
    /// After the last whole batch.
    next: u64,
    chain: Chain,
    /// Where the last whole batch ended.
    end: u64,
    /// Events of a batch whose last one has not been seen.
    batch: Vec<Entry>,
}

impl Pass {
    fn segment<E: From<OpenError>>(
        &mut self,
        segment: &Segment,
        is_sealed: bool,
        look: &mut impl FnMut(Entry) -> Result<ControlFlow<()>, E>,
    ) -> Result<ControlFlow<()>, E> {
        let failed = |source| OpenError::io("read", &segment.path, source);
        let mut scanner = segment.scan().map_err(failed)?;
        let mut chain = self.chain;
        loop {
            let at = scanner.offset();
            let Some(record) = scanner.next().map_err(failed)? else { break };
            if let Some(why) = self.flaw(&record, chain) {
                return Err(OpenError::damaged(&segment.path, at, why).into());
            }
            chain = record.chain;
            let end = at + record.length as u64;
            let is_last = record.content.left == 0;
            self.batch.push(Entry {
                left: record.content.left,
                chain: Digest::from_bytes(chain.0),
                segment: self.number,
                place: at..end,
                removed: record.is_removed().then(|| Digest::from_bytes(record.said().0)),
                recorded: record.to_recorded(),
            });
            if is_last {
                self.next += self.batch.len() as u64;
                (self.chain, self.end) = (chain, end);
                for entry in self.batch.drain(..) {
                    if look(entry)?.is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                }
            }
        }
        let at = scanner.offset();
        let rest = scanner.rest().map_err(failed)?;
        let unfinished = !self.batch.is_empty() || rest.iter().any(|byte| *byte != 0);
        let flaw = damage(&rest, at, segment.header.dialect).or_else(|| {
            let why = "it ends in the middle of a write, though a later file exists";
            (is_sealed && unfinished).then(|| why.to_owned())
        });
        match flaw {
            Some(why) => Err(OpenError::damaged(&segment.path, at, why).into()),
            None => Ok(ControlFlow::Continue(())),
        }
    }

    fn flaw(&self, record: &Record<'_>, before: Chain) -> Option<String> {
        let next = self.next + self.batch.len() as u64;
        let position = record.content.position;
        if position != next {
            return Some(format!("event {position} stands where event {next} belongs"));
        }
        (record.chain_after(before) != record.chain)
            .then(|| format!("event {next} was changed after it was written"))
    }
}

/// How far the log reaches; `None`: it is empty. Reads the newest file only.
pub fn head(dir: &Path) -> Result<Option<Head>, OpenError> {
    let mut head = None;
    walk(dir, u64::MAX, |entry| {
        head = Some(Head { position: entry.recorded.position, chain: entry.chain });
        Ok::<_, OpenError>(ControlFlow::Continue(()))
    })?;
    // A new file has no record yet; its header has the chain of those before.
    let newest = segments(dir)?.pop().filter(|newest| newest.first > 0);
    let sealed = newest.map(|newest| Head { position: newest.first - 1, chain: newest.before });
    Ok(head.or(sealed))
}

/// The head as it was after the event at this position; `None`: there is none.
pub fn head_at(dir: &Path, position: u64) -> Result<Option<Head>, OpenError> {
    let mut head = None;
    walk(dir, position, |entry| {
        if entry.recorded.position < position {
            return Ok(ControlFlow::Continue(()));
        }
        if entry.recorded.position == position {
            head = Some(Head { position, chain: entry.chain });
        }
        Ok::<_, OpenError>(ControlFlow::Break(()))
    })?;
    Ok(head)
}

/// The bytes of a record, as they stand in the file.
pub fn raw(dir: &Path, entry: &Entry) -> Result<Vec<u8>, OpenError> {
    let path = Segment::list(dir)?.into_iter().nth(entry.segment).unwrap_or_default();
    let read = || -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; (entry.place.end - entry.place.start) as usize];
        File::open(&path)?.read_exact_at(&mut bytes, entry.place.start)?;
        Ok(bytes)
    };
    read().map_err(|source| OpenError::io("read", &path, source))
}

/// What an import writes: an event with its place, and how many of its append follow.
#[derive(Clone, Debug, PartialEq)]
pub struct Imported {
    pub recorded: Recorded,
    /// As in [`Entry`].
    pub removed: Option<Digest>,
    pub left: u16,
}

impl From<Entry> for Imported {
    fn from(Entry { recorded, removed, left, .. }: Entry) -> Self {
        Self { recorded, removed, left }
    }
}

/// Why an import stopped. The folder then holds what came before.
#[derive(Debug, thiserror::Error)]
pub enum ImportError<E> {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("the folder `{}` is not empty: import into a new one", .0.display())]
    NotEmpty(PathBuf),
    #[error("event {found} comes where event {expected} belongs: the export is not whole")]
    Gap { expected: u64, found: u64 },
    #[error("the export holds no event: nothing was made")]
    Empty,
    #[error("the export ends in the middle of an append")]
    CutShort,
    #[error(transparent)]
    Source(E),
}

/// A segment of an import is sealed when it has reached this many bytes.
const IMPORTED_SEGMENT: u64 = 256 << 20;

/// Writes a log that holds exactly these events, at their places, into an empty folder.
pub fn import<E>(
    dir: &Path,
    events: impl Iterator<Item = Result<Imported, E>>,
) -> Result<Option<Head>, ImportError<E>> {
    import_in_segments_of(dir, events, IMPORTED_SEGMENT)
}

pub(crate) fn import_in_segments_of<E>(
    dir: &Path,
    events: impl Iterator<Item = Result<Imported, E>>,
    segment_bytes: u64,
) -> Result<Option<Head>, ImportError<E>> {
    let failed = |source| OpenError::io("write to", dir, source);
    let mut events = events.peekable();
    if events.peek().is_none() {
        return Err(ImportError::Empty);
    }
    disk::create_dir_all(dir).map_err(failed)?;
    if !disk::list(dir).map_err(failed)?.is_empty() {
        return Err(ImportError::NotEmpty(dir.into()));
    }
    let _lock = lock(dir)?;
    let mut writer = ImportWriter { dir, segment_bytes, chain: Chain::START, open: None };
    let (mut next, mut left, mut batch) = (0, 0, Vec::new());
    for imported in events {
        let imported = imported.map_err(ImportError::Source)?;
        let found = imported.recorded.position;
        if found != next {
            return Err(ImportError::Gap { expected: next, found });
        }
        next += 1;
        left = imported.left;
        batch.push(imported);
        if left == 0 {
            writer.batch(std::mem::take(&mut batch)).map_err(failed)?;
        }
    }
    if left > 0 {
        return Err(ImportError::CutShort);
    }
    writer.seal().map_err(failed)?;
    let chain = Digest::from_bytes(writer.chain.0);
    Ok(next.checked_sub(1).map(|position| Head { position, chain }))
}

struct ImportWriter<'a> {
    dir: &'a Path,
    segment_bytes: u64,
    chain: Chain,
    /// The segment being written, and where the next record goes.
    open: Option<(Segment, u64)>,
}

impl ImportWriter<'_> {
    fn batch(&mut self, batch: Vec<Imported>) -> io::Result<()> {
        if self.open.as_ref().is_some_and(|(_, end)| *end >= self.segment_bytes) {
            self.seal()?;
        }
        let first = batch[0].recorded.position;
        let (segment, end) = if let Some(open) = self.open.take() {
            open
        } else {
            let header = SegmentHeader::new(first, self.chain, salt());
            (Segment::create(self.dir, header)?, SEGMENT_HEADER as u64)
        };
        let mut bytes = Vec::new();
        for Imported { recorded, removed, left } in &batch {
            let Recorded { position, stream, revision, recorded_at, event } = recorded;
            let NewEvent { id, event_type, data, metadata, content } = event;
            let removed = removed.map(|said| *said.as_bytes());
            let content = Content {
                position: *position,
                revision: *revision,
                recorded_at: recorded_at.as_millis(),
                id: EventId::from_uuid(id.as_uuid()),
                left: *left,
                kind: if removed.is_some() { Kind::Removed } else { (*content).into() },
                stream,
                event_type,
                metadata,
                data: removed.as_ref().map_or(data, |said| &said[..]),
            };
            let said = removed.map_or_else(|| Said::by(event), Said);
            let salt = segment.header.dialect.salt;
            content.encode(said, end as u32, salt, &mut self.chain, &mut bytes);
        }
        segment.file.write_all_at(&bytes, end)?;
        self.open = Some((segment, end + bytes.len() as u64));
        Ok(())
    }

    fn seal(&mut self) -> io::Result<()> {
        self.open.take().map_or(Ok(()), |(segment, _)| segment.file.sync_all())?;
        disk::sync_dir(self.dir)
    }
}

/// The first place at which a log is damaged, and what a cut there would lose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wound {
    pub why: String,
    /// Events before it, all sound.
    pub sound: u64,
    /// The file that would be cut, and at which byte; `None`: none, only later files go.
    pub cut: Option<(PathBuf, u64)>,
    /// Files that would go, since they cannot follow.
    pub later: Vec<PathBuf>,
}

/// Where the log is damaged; `None`: nowhere. An unfinished last write is no damage: the next start
/// cuts it by itself, and nobody was told that it is there.
pub fn wound(dir: &Path) -> Result<Option<Wound>, OpenError> {
    let (mut sound, mut end) = (0, None);
    let outcome = walk(dir, 0, |entry| {
        sound = entry.recorded.position + 1;
        // The events of an append stay together.
        if entry.left == 0 {
            end = Some((entry.segment, entry.place.end));
        }
        Ok::<_, OpenError>(ControlFlow::Continue(()))
    });
    let paths = Segment::list(dir)?;
    match outcome {
        Ok(()) => Ok(None),
        Err(OpenError::Damaged { file, offset, why }) => {
            let at = paths.iter().position(|path| *path == file).unwrap_or_default();
            let begins = end.filter(|(segment, _)| *segment == at).map(|(_, end)| end);
            // Without a sound header the file goes as a whole.
            let keeps_header = begins.is_some() || offset >= SEGMENT_HEADER as u64;
            let cut = keeps_header.then(|| (file.clone(), begins.unwrap_or(SEGMENT_HEADER as u64)));
            let later = paths[at + usize::from(keeps_header)..].to_vec();
            let why = format!("`{}` is damaged at byte {offset}: {why}", file.display());
            Ok(Some(Wound { why, sound, cut, later }))
        }
        Err(other) => Err(other),
    }
}

/// Cuts the log back to what is sound. What goes is gone: keep a copy of the folder first.
pub fn cut(dir: &Path, wound: &Wound) -> Result<(), OpenError> {
    let _lock = lock(dir)?;
    for path in wound.later.iter().rev() {
        disk::remove_file(path).map_err(|source| OpenError::io("remove", path, source))?;
        remove_index(path)?;
    }
    if let Some((path, end)) = &wound.cut {
        let cut = || {
            let file = File::open_to_write(path)?;
            file.set_length(*end)?;
            file.sync_all()
        };
        cut().map_err(|source| OpenError::io("cut", path, source))?;
        remove_index(path)?;
    }
    disk::sync_dir(dir).map_err(|source| OpenError::io("sync", dir, source))
}
