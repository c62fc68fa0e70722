//! The bytes of a segment: its header, and its records. FORMAT.md says the same in words.
//!
//! Every byte of a record is covered by a checksum or compared with a constant, so a single flipped
//! bit is always seen. Checksums start from the segment's random salt, so nobody can smuggle in
//! event data that looks like a record.
//!
//! Format 2 is written. Format 1 is read: its chain covers the content itself instead of the content's
//! hash, and it knows neither JSON nor removed events.

use std::ops::Range;

use ids::{EventId, Timestamp};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::event::{NewEvent, Recorded};

/// The newest format that this program reads, and the one that it writes.
pub(crate) const FORMAT: u32 = 2;
/// The oldest that it still reads.
const OLDEST: u32 = 1;
pub(super) const SEGMENT_HEADER: usize = 64;
const MAGIC: [u8; 8] = *b"GAIALOG\n";

/// Records start at multiples of this.
pub(super) const ALIGN: usize = 8;
/// Bytes of a record before and after what varies.
pub(super) const HEAD: usize = 72;
const TAIL: usize = 40;
/// The head without its checksum.
const HEAD_FIELDS: usize = 64;
/// Where the part of the head begins that the chain covers: not the record's place in the file.
const CHAINED: usize = 8;
/// The end of every record; its last byte is not zero, as unwritten space is.
const END: [u8; 4] = *b"end\n";
/// No record is longer: a batch's data, and generous room for names and metadata.
const LONGEST: usize = 4 << 20;

/// Where the part of the head ends that the content covers; what follows says what kind it is of.
const CONTENT_FIELDS: usize = 63;
/// Bytes of one event's hash in the record of removed ones.
const HASH: usize = 32;

/// Proves everything before: sha256 of the chain before and the hash of the record's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chain(pub(super) [u8; 32]);

impl Chain {
    /// Before the first record.
    pub(super) const START: Self = Self([0; 32]);

    /// After one more event, given the hash of its content.
    fn link(self, content: &[u8]) -> Self {
        Self(Sha256::new().chain_update(self.0).chain_update(content).finalize().into())
    }
}

/// The hash of an event's content as far as its author knows it: stream, type, metadata and data. The
/// writer adds the event's place. Made by whoever appends, so that the writer need not.
#[derive(Clone, Debug)]
pub(super) struct Hashed(Sha256);

impl Hashed {
    pub(super) fn of(stream: &str, event: &NewEvent) -> Self {
        let parts = [stream.as_bytes(), event.event_type.as_bytes(), &event.metadata, &event.data];
        Self(parts.iter().fold(Sha256::new(), Sha256::chain_update))
    }

    fn of_body(body: &[u8]) -> Self {
        Self(Sha256::new().chain_update(body))
    }

    /// The hash of the whole content.
    fn at(self, fields: &[u8]) -> [u8; HASH] {
        self.0.chain_update(fields).finalize().into()
    }
}

/// How a segment's records are to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Dialect {
    pub(super) format: u32,
    pub(super) salt: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    /// Position of its first record.
    pub(super) first: u64,
    /// The chain before its first record.
    pub(super) chain: Chain,
    pub(super) dialect: Dialect,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeaderFlaw {
    NotALog,
    Newer(u32),
    Damaged,
}

impl SegmentHeader {
    /// Of a new segment.
    pub(super) fn new(first: u64, chain: Chain, salt: u32) -> Self {
        Self { first, chain, dialect: Dialect { format: FORMAT, salt } }
    }

    pub(super) fn encode(&self) -> [u8; SEGMENT_HEADER] {
        let mut bytes = [0; SEGMENT_HEADER];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&self.dialect.format.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.dialect.salt.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.first.to_le_bytes());
        bytes[24..56].copy_from_slice(&self.chain.0);
        let check = crc32c::crc32c(&bytes[..60]);
        bytes[60..].copy_from_slice(&check.to_le_bytes());
        bytes
    }

    /// Magic and format stay where they are in every format to come.
    pub(super) fn decode(bytes: &[u8; SEGMENT_HEADER]) -> Result<Self, HeaderFlaw> {
        if bytes[..8] != MAGIC {
            return Err(HeaderFlaw::NotALog);
        }
        let format = u32_at(bytes, 8);
        let sound = u32_at(bytes, 60) == crc32c::crc32c(&bytes[..60]);
        match format {
            OLDEST..=FORMAT if sound => Ok(Self {
                first: u64_at(bytes, 16),
                chain: Chain(array_at(bytes, 24)),
                dialect: Dialect { format, salt: u32_at(bytes, 12) },
            }),
            0..=FORMAT => Err(HeaderFlaw::Damaged),
            newer => Err(HeaderFlaw::Newer(newer)),
        }
    }
}

/// What a record says of an event, apart from its place in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Content<'a> {
    pub(super) position: u64,
    pub(super) revision: u64,
    pub(super) recorded_at: u64,
    pub(super) id: EventId,
    /// How many records of the same batch follow.
    pub(super) left: u16,
    pub(super) kind: crate::Content,
    pub(super) stream: &'a str,
    pub(super) event_type: &'a str,
    pub(super) metadata: &'a [u8],
    pub(super) data: &'a [u8],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry<'a> {
    Event(Content<'a>),
    /// Events that a scavenge removed, in the order of their positions: what the chain needs of them.
    Removed {
        first: u64,
        hashes: &'a [u8],
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record<'a> {
    /// Bytes that it takes in the file.
    pub(super) length: usize,
    /// Offset in the segment of the first record that was written and synced together with it.
    pub(super) commit: u32,
    pub(super) entry: Entry<'a>,
    /// The chain up to and with this record, as stored.
    pub(super) chain: Chain,
    /// What the chain covers.
    fields: &'a [u8],
    body: &'a [u8],
    format: u32,
}

impl Content<'_> {
    /// Appends the record to `out` and moves `chain` on.
    pub(super) fn encode(
        &self,
        hashed: Hashed,
        commit: u32,
        salt: u32,
        chain: &mut Chain,
        out: &mut Vec<u8>,
    ) {
        let start = out.len();
        let body = [self.stream.as_bytes(), self.event_type.as_bytes(), self.metadata, self.data];
        let body_length: usize = body.iter().map(|part| part.len()).sum();
        let length = length_for(body_length);
        let mut head = [0; HEAD];
        head[..4].copy_from_slice(&(length as u32).to_le_bytes());
        head[4..8].copy_from_slice(&commit.to_le_bytes());
        head[8..16].copy_from_slice(&self.position.to_le_bytes());
        head[16..24].copy_from_slice(&self.revision.to_le_bytes());
        head[24..32].copy_from_slice(&self.recorded_at.to_le_bytes());
        head[32..48].copy_from_slice(self.id.as_uuid().as_bytes());
        head[48..50].copy_from_slice(&(self.stream.len() as u16).to_le_bytes());
        head[50..52].copy_from_slice(&(self.event_type.len() as u16).to_le_bytes());
        head[52..56].copy_from_slice(&(self.metadata.len() as u32).to_le_bytes());
        head[56..60].copy_from_slice(&(self.data.len() as u32).to_le_bytes());
        head[60..62].copy_from_slice(&self.left.to_le_bytes());
        head[62] = u8::from(self.kind == crate::Content::Json);
        let head_check = crc32c::crc32c_append(salt, &head[..HEAD_FIELDS]);
        head[64..68].copy_from_slice(&head_check.to_le_bytes());
        *chain = chain.link(&hashed.at(&head[CHAINED..CONTENT_FIELDS]));
        out.reserve(length);
        out.extend_from_slice(&head);
        for part in body {
            out.extend_from_slice(part);
        }
        out.resize(start + length - TAIL, 0);
        out.extend_from_slice(&chain.0);
        let check = crc32c::crc32c_append(head_check, &out[start + HEAD..]);
        out.extend_from_slice(&check.to_le_bytes());
        out.extend_from_slice(&END);
    }
}

fn length_for(body: usize) -> usize {
    (HEAD + body).next_multiple_of(ALIGN) + TAIL
}

/// How long the record is that starts with these bytes; `None`: no record does.
pub(super) fn record_length(bytes: &[u8], dialect: Dialect) -> Option<usize> {
    let head = bytes.get(..HEAD)?;
    let length = u32_at(head, 0) as usize;
    let body = [u16_at(head, 48) as usize, u16_at(head, 50) as usize];
    let body = body[0] + body[1] + u32_at(head, 52) as usize + u32_at(head, 56) as usize;
    let plausible = (HEAD + TAIL..=LONGEST).contains(&length) && length == length_for(body);
    let sound = plausible
        && u32_at(head, HEAD_FIELDS) == crc32c::crc32c_append(dialect.salt, &head[..HEAD_FIELDS])
        && head[HEAD_FIELDS + 4..] == [0; 4];
    sound.then_some(length)
}

/// The record that starts with these bytes; `None`: no whole and sound record does.
pub(super) fn decode(bytes: &[u8], dialect: Dialect) -> Option<Record<'_>> {
    let length = record_length(bytes, dialect)?;
    let bytes = bytes.get(..length)?;
    let tail = length - TAIL;
    let check = crc32c::crc32c_append(u32_at(bytes, HEAD_FIELDS), &bytes[HEAD..tail + 32]);
    if u32_at(bytes, tail + 32) != check || bytes[tail + 36..] != END {
        return None;
    }
    let body = u16_at(bytes, 48) as usize
        + u16_at(bytes, 50) as usize
        + u32_at(bytes, 52) as usize
        + u32_at(bytes, 56) as usize;
    Some(Record {
        length,
        commit: u32_at(bytes, 4),
        entry: entry(bytes, dialect)?,
        chain: Chain(array_at(bytes, tail)),
        fields: &bytes[CHAINED..HEAD_FIELDS],
        body: &bytes[HEAD..HEAD + body],
        format: dialect.format,
    })
}

fn entry(bytes: &[u8], dialect: Dialect) -> Option<Entry<'_>> {
    let kind = match (bytes[62], bytes[63]) {
        (0, 0) => crate::Content::Binary,
        (1, 0) if dialect.format > 1 => crate::Content::Json,
        (0, 1) if dialect.format > 1 => return removed(bytes),
        _ => return None,
    };
    let (stream, rest) = bytes[HEAD..].split_at(u16_at(bytes, 48) as usize);
    let (event_type, rest) = rest.split_at(u16_at(bytes, 50) as usize);
    let (metadata, rest) = rest.split_at(u32_at(bytes, 52) as usize);
    let data = &rest[..u32_at(bytes, 56) as usize];
    Some(Entry::Event(Content {
        position: u64_at(bytes, 8),
        revision: u64_at(bytes, 16),
        recorded_at: u64_at(bytes, 24),
        id: id(bytes),
        left: u16_at(bytes, 60),
        kind,
        stream: std::str::from_utf8(stream).ok()?,
        event_type: std::str::from_utf8(event_type).ok()?,
        metadata,
        data,
    }))
}

/// A run of removed events: their hashes are its data.
fn removed(bytes: &[u8]) -> Option<Entry<'_>> {
    let hashes = &bytes[HEAD..HEAD + u32_at(bytes, 56) as usize];
    let alone = bytes[16..56].iter().all(|byte| *byte == 0) && u16_at(bytes, 60) == 0;
    let whole = !hashes.is_empty() && hashes.len() % HASH == 0;
    let first = u64_at(bytes, 8);
    first.checked_add((hashes.len() / HASH) as u64)?;
    (alone && whole).then_some(Entry::Removed { first, hashes })
}

/// The event's id, given the head of its record.
pub(super) fn id(head: &[u8]) -> EventId {
    EventId::from_uuid(Uuid::from_bytes(array_at(head, 32)))
}

impl Entry<'_> {
    /// The positions that it stands for.
    pub(super) fn positions(&self) -> Range<u64> {
        match self {
            Self::Event(content) => content.position..content.position + 1,
            Self::Removed { first, hashes } => *first..*first + (hashes.len() / HASH) as u64,
        }
    }
}

impl Record<'_> {
    pub(super) fn is_last_of_batch(&self) -> bool {
        !matches!(self.entry, Entry::Event(Content { left: 1.., .. }))
    }

    /// What the chain should be, given the chain before.
    pub(super) fn chain_after(&self, before: Chain) -> Chain {
        match self.entry {
            Entry::Removed { hashes, .. } => hashes.chunks_exact(HASH).fold(before, Chain::link),
            // Format 1 has no hash of the content by itself.
            Entry::Event(_) if self.format == 1 => {
                let hash = Sha256::new().chain_update(before.0).chain_update(self.fields);
                Chain(hash.chain_update(self.body).finalize().into())
            }
            Entry::Event(_) => before.link(&self.content_hash()),
        }
    }

    /// What the chain keeps of an event of format 2 that is removed.
    pub(super) fn content_hash(&self) -> [u8; HASH] {
        Hashed::of_body(self.body).at(&self.fields[..CONTENT_FIELDS - CHAINED])
    }
}

impl Content<'_> {
    pub(super) fn to_recorded(self) -> Recorded {
        Recorded {
            position: self.position,
            stream: self.stream.into(),
            revision: self.revision,
            recorded_at: Timestamp(self.recorded_at),
            event: NewEvent {
                id: self.id,
                event_type: self.event_type.into(),
                content: self.kind,
                data: bytes::Bytes::copy_from_slice(self.data),
                metadata: bytes::Bytes::copy_from_slice(self.metadata),
            },
        }
    }
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("the slice is N bytes long")
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array_at(bytes, at))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, at))
}
