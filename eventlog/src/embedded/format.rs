//! The bytes of a segment: its header, and its records. FORMAT.md says the same in words.
//!
//! Every byte of a record is covered by a checksum or compared with a constant, so a single flipped
//! bit is always seen. Checksums start from the segment's random salt, so nobody can smuggle in
//! event data that looks like a record.

use ids::{EventId, Timestamp};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::event::{NewEvent, Recorded};

/// The newest format that this program reads, and the one that it writes.
pub(crate) const FORMAT: u32 = 1;
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

/// Proves everything before: sha256 of the chain before and the record's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chain(pub(super) [u8; 32]);

impl Chain {
    /// Before the first record.
    pub(super) const START: Self = Self([0; 32]);

    fn next(self, fields: &[u8], body: &[u8]) -> Self {
        let hash = Sha256::new().chain_update(self.0).chain_update(fields).chain_update(body);
        Self(hash.finalize().into())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    /// Position of its first record.
    pub(super) first: u64,
    /// The chain before its first record.
    pub(super) chain: Chain,
    pub(super) salt: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeaderFlaw {
    NotALog,
    Newer(u32),
    Damaged,
}

impl SegmentHeader {
    pub(super) fn encode(&self) -> [u8; SEGMENT_HEADER] {
        let mut bytes = [0; SEGMENT_HEADER];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.salt.to_le_bytes());
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
            FORMAT if sound => Ok(Self {
                first: u64_at(bytes, 16),
                chain: Chain(array_at(bytes, 24)),
                salt: u32_at(bytes, 12),
            }),
            FORMAT | 0 => Err(HeaderFlaw::Damaged),
            newer => Err(HeaderFlaw::Newer(newer)),
        }
    }
}

/// What a record says, apart from its place in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Content<'a> {
    pub(super) position: u64,
    pub(super) revision: u64,
    pub(super) recorded_at: u64,
    pub(super) id: EventId,
    /// How many records of the same batch follow.
    pub(super) left: u16,
    pub(super) stream: &'a str,
    pub(super) event_type: &'a str,
    /// Protobuf.
    pub(super) metadata: &'a [u8],
    pub(super) data: &'a [u8],
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
    /// What the chain covers.
    fields: &'a [u8],
    body: &'a [u8],
}

impl Content<'_> {
    /// Appends the record to `out` and moves `chain` on.
    pub(super) fn encode(&self, commit: u32, salt: u32, chain: &mut Chain, out: &mut Vec<u8>) {
        let start = out.len();
        let body = [self.stream.as_bytes(), self.event_type.as_bytes(), self.metadata, self.data];
        let body_length: usize = body.iter().map(|part| part.len()).sum();
        let length = length_for(body_length);
        out.reserve(length);
        out.extend((length as u32).to_le_bytes());
        out.extend(commit.to_le_bytes());
        out.extend(self.position.to_le_bytes());
        out.extend(self.revision.to_le_bytes());
        out.extend(self.recorded_at.to_le_bytes());
        out.extend(self.id.as_uuid().as_bytes());
        out.extend((self.stream.len() as u16).to_le_bytes());
        out.extend((self.event_type.len() as u16).to_le_bytes());
        out.extend((self.metadata.len() as u32).to_le_bytes());
        out.extend((self.data.len() as u32).to_le_bytes());
        out.extend(self.left.to_le_bytes());
        out.extend([0; 2]);
        let head_check = crc32c::crc32c_append(salt, &out[start..]);
        out.extend(head_check.to_le_bytes());
        out.extend([0; 4]);
        for part in body {
            out.extend_from_slice(part);
        }
        *chain = chain.next(&out[start + CHAINED..start + HEAD_FIELDS], &out[start + HEAD..]);
        out.resize(start + length - TAIL, 0);
        out.extend(chain.0);
        let check = crc32c::crc32c_append(head_check, &out[start + HEAD..]);
        out.extend(check.to_le_bytes());
        out.extend(END);
    }
}

fn length_for(body: usize) -> usize {
    (HEAD + body).next_multiple_of(ALIGN) + TAIL
}

/// How long the record is that starts with these bytes; `None`: no record does.
pub(super) fn record_length(bytes: &[u8], salt: u32) -> Option<usize> {
    let head = bytes.get(..HEAD)?;
    let length = u32_at(head, 0) as usize;
    let body = [u16_at(head, 48) as usize, u16_at(head, 50) as usize];
    let body = body[0] + body[1] + u32_at(head, 52) as usize + u32_at(head, 56) as usize;
    let plausible = (HEAD + TAIL..=LONGEST).contains(&length) && length == length_for(body);
    let sound = plausible
        && u32_at(head, HEAD_FIELDS) == crc32c::crc32c_append(salt, &head[..HEAD_FIELDS])
        && head[HEAD_FIELDS + 4..] == [0; 4];
    sound.then_some(length)
}

/// The record that starts with these bytes; `None`: no whole and sound record does.
pub(super) fn decode(bytes: &[u8], salt: u32) -> Option<Record<'_>> {
    let length = record_length(bytes, salt)?;
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
    let body = stream.len() + event_type.len() + metadata.len() + data.len();
    Some(Record {
        length,
        commit: u32_at(bytes, 4),
        content: Content {
            position: u64_at(bytes, 8),
            revision: u64_at(bytes, 16),
            recorded_at: u64_at(bytes, 24),
            id: id(bytes),
            left: u16_at(bytes, 60),
            stream: std::str::from_utf8(stream).ok()?,
            event_type: std::str::from_utf8(event_type).ok()?,
            metadata,
            data,
        },
        chain: Chain(array_at(bytes, tail)),
        fields: &bytes[CHAINED..HEAD_FIELDS],
        body: &bytes[HEAD..HEAD + body],
    })
}

/// The event's id, given the head of its record.
pub(super) fn id(head: &[u8]) -> EventId {
    EventId::from_uuid(Uuid::from_bytes(array_at(head, 32)))
}

impl Record<'_> {
    /// What the chain should be, given the chain before.
    pub(super) fn chain_after(&self, before: Chain) -> Chain {
        before.next(self.fields, self.body)
    }

    pub(super) fn to_recorded(self) -> Recorded {
        let content = self.content;
        Recorded {
            position: content.position,
            stream: content.stream.into(),
            revision: content.revision,
            recorded_at: Timestamp(content.recorded_at),
            event: NewEvent {
                id: content.id,
                event_type: content.event_type.into(),
                content: crate::Content::Binary,
                data: bytes::Bytes::copy_from_slice(content.data),
                metadata: bytes::Bytes::copy_from_slice(content.metadata),
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
