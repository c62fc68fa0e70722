//! The bytes of a segment: its header, and its records. FORMAT.md says the same in words.
//!
//! Every byte of a record is covered by a checksum or compared with a constant, so a single flipped
//! bit is always seen. Checksums start from the segment's random salt, so nobody can smuggle in
//! event data that looks like a record.
//!
//! Format 2 is written. Format 1 is read: its chain covers what an event says itself instead of that
//! one's hash, and it knows neither JSON nor removed events.

use std::ops::Range;

use bytes::Bytes;
use bytestring::ByteString;
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
/// What the head says of an event's place in the log: its position up to its stream's length.
const PLACE: Range<usize> = 8..50;
/// What it says of the event itself: how long type, metadata and data are.
const LENGTHS: Range<usize> = 50..60;
const LEFT: Range<usize> = 60..62;
const KIND: usize = 62;
/// The end of every record; its last byte is not zero, as unwritten space is.
const END: [u8; 4] = *b"end\n";
/// No record is longer: a batch's data, and generous room for names and metadata.
const LONGEST: usize = 4 << 20;

/// Proves everything before, and a record's place and [`Said`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chain(pub(super) [u8; 32]);

impl Chain {
    /// Before the first record.
    pub(super) const START: Self = Self([0; 32]);

    fn next(self, said: Said, head: &[u8], stream: &[u8]) -> Self {
        let hash = Sha256::new()
            .chain_update(self.0)
            .chain_update(said.0)
            .chain_update(&head[PLACE])
            .chain_update(&head[LEFT])
            .chain_update(stream);
        Self(hash.finalize().into())
    }
}

/// The hash of what an event says: its type, metadata and data. The chain needs no more of it, so that
/// it can be removed; and it can be made by whoever appends, so that the writer need not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Said(pub(super) [u8; 32]);

impl Said {
    pub(super) fn by(event: &NewEvent) -> Self {
        let NewEvent { event_type, metadata, data, .. } = event;
        let mut head = [0; HEAD];
        lengths(&mut head, event_type, metadata, data);
        head[KIND] = Kind::from(event.content) as u8;
        Self::of(&head, &[event_type.as_bytes(), metadata, data])
    }

    fn of(head: &[u8], parts: &[&[u8]]) -> Self {
        let hash = Sha256::new().chain_update(&head[LENGTHS]).chain_update([head[KIND]]);
        Self(parts.iter().fold(hash, Sha256::chain_update).finalize().into())
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
    pub(super) kind: Kind,
    pub(super) stream: &'a str,
    pub(super) event_type: &'a str,
    pub(super) metadata: &'a [u8],
    pub(super) data: &'a [u8],
}

/// What the data of a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Binary = 0,
    Json = 1,
    /// A scavenge removed what the event said: there is neither type nor metadata, and this is [`Said`].
    Removed = 2,
}

impl From<crate::Content> for Kind {
    fn from(content: crate::Content) -> Self {
        match content {
            crate::Content::Binary => Self::Binary,
            crate::Content::Json => Self::Json,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record<'a> {
    /// Bytes that it takes in the file.
    pub(super) length: usize,
    /// Offset in the segment of the first record that was written and synced together with it.
    pub(super) commit: u32,
    pub(super) content: Content<'a>,
    /// The chain up to and with this record, as stored.
    pub(super) chain: Chain,
    head: &'a [u8],
    body: &'a [u8],
    format: u32,
}

impl Content<'_> {
    /// Appends the record to `out` and moves `chain` on. `said` is of the event, which is given or was.
    pub(super) fn encode(
        &self,
        said: Said,
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
        lengths(&mut head, self.event_type, self.metadata, self.data);
        head[LEFT].copy_from_slice(&self.left.to_le_bytes());
        head[KIND] = self.kind as u8;
        let head_check = crc32c::crc32c_append(salt, &head[..HEAD_FIELDS]);
        head[64..68].copy_from_slice(&head_check.to_le_bytes());
        *chain = chain.next(said, &head, self.stream.as_bytes());
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

fn lengths(head: &mut [u8; HEAD], event_type: &str, metadata: &[u8], data: &[u8]) {
    head[50..52].copy_from_slice(&(event_type.len() as u16).to_le_bytes());
    head[52..56].copy_from_slice(&(metadata.len() as u32).to_le_bytes());
    head[56..60].copy_from_slice(&(data.len() as u32).to_le_bytes());
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
    let (stream, rest) = bytes[HEAD..].split_at(u16_at(bytes, 48) as usize);
    let (event_type, rest) = rest.split_at(u16_at(bytes, 50) as usize);
    let (metadata, rest) = rest.split_at(u32_at(bytes, 52) as usize);
    let data = &rest[..u32_at(bytes, 56) as usize];
    let kind = match bytes[KIND] {
        0 => Kind::Binary,
        1 if dialect.format > 1 => Kind::Json,
        2 if dialect.format > 1 && event_type.is_empty() && metadata.is_empty() => Kind::Removed,
        _ => return None,
    };
    if bytes[KIND + 1] != 0 || (kind == Kind::Removed && data.len() != 32) {
        return None;
    }
    let content = Content {
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
    };
    let body = stream.len() + event_type.len() + metadata.len() + data.len();
    Some(Record {
        length,
        commit: u32_at(bytes, 4),
        content,
        chain: Chain(array_at(bytes, tail)),
        head: &bytes[..HEAD_FIELDS],
        body: &bytes[HEAD..HEAD + body],
        format: dialect.format,
    })
}

/// The event's position, given the head of its record.
pub(super) fn position(head: &[u8]) -> u64 {
    u64_at(head, 8)
}

/// The event's id, given the head of its record.
pub(super) fn id(head: &[u8]) -> EventId {
    EventId::from_uuid(Uuid::from_bytes(array_at(head, 32)))
}

impl Record<'_> {
    pub(super) fn is_removed(&self) -> bool {
        self.content.kind == Kind::Removed
    }

    /// Of what the event says, or said before it was removed.
    pub(super) fn said(&self) -> Said {
        match self.content.data.try_into() {
            Ok(said) if self.is_removed() => Said(said),
            _ => Said::of(self.head, &[&self.body[self.content.stream.len()..]]),
        }
    }

    /// What the chain should be, given the chain before.
    pub(super) fn chain_after(&self, before: Chain) -> Chain {
        if self.format == 1 {
            let hash = Sha256::new().chain_update(before.0).chain_update(&self.head[PLACE.start..]);
            return Chain(hash.chain_update(self.body).finalize().into());
        }
        before.next(self.said(), self.head, self.content.stream.as_bytes())
    }

    /// What a removed event said is empty. Copies what the event says.
    pub(super) fn to_recorded(self) -> Recorded {
        self.recorded(Bytes::copy_from_slice, |text| text.into())
    }

    /// The same, as parts of the piece of memory that the record lies in.
    pub(super) fn into_recorded(self, piece: &Bytes) -> Recorded {
        let text = |text: &str| {
            let part = piece.slice_ref(text.as_bytes());
            ByteString::try_from(part).expect("it was a text before")
        };
        self.recorded(|bytes| piece.slice_ref(bytes), text)
    }

    fn recorded(
        self,
        bytes: impl Fn(&[u8]) -> Bytes,
        text: impl Fn(&str) -> ByteString,
    ) -> Recorded {
        let content = self.content;
        let data = if self.is_removed() { &[] } else { content.data };
        let kind = match content.kind {
            Kind::Binary | Kind::Removed => crate::Content::Binary,
            Kind::Json => crate::Content::Json,
        };
        Recorded {
            position: content.position,
            stream: text(content.stream),
            revision: content.revision,
            recorded_at: Timestamp(content.recorded_at),
            event: NewEvent {
                id: content.id,
                event_type: text(content.event_type),
                content: kind,
                data: bytes(data),
                metadata: bytes(content.metadata),
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
