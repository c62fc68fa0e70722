//! An index file says what the index in memory says, or nothing.

use std::{
    collections::HashMap,
    fs,
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use ids::EventId;
use proptest::prelude::*;
use tempfile::TempDir;
use uuid::Uuid;

use super::{sealed::Sealed, *};
use crate::embedded::format::{Chain, SegmentHeader};

const SALT: u32 = 0x5a17_0001;
const AFTER: Chain = Chain([9; 32]);

/// A segment in which each record is a stream's number and a length, and its index in memory.
fn part(records: &[(u8, u32)]) -> (TempDir, Arc<Segment>, Fresh) {
    let dir = tempfile::tempdir().unwrap();
    let segment = Segment::create(dir.path(), SegmentHeader::new(100, Chain::START, SALT));
    let (mut fresh, mut end) = (Fresh::default(), 64);
    let mut lengths: HashMap<u8, u64> = HashMap::new();
    for (number, (stream, length)) in (0..).zip(records) {
        let revision = lengths.entry(*stream).or_insert(u64::from(*stream) * 3);
        if number % 7 == 0 {
            fresh.note(&name(*stream), false, 0);
        }
        let id = IdDigest::of(EventId::from_uuid(Uuid::from_u128(number)));
        let (offset, stream) = (end, name(*stream));
        end += length;
        let (offsets, ids) = (&[offset][..], &[id][..]);
        fresh.push(Batch { stream: &stream, revision: *revision, offsets, ids, end });
        *revision += 1;
    }
    let segment = segment.unwrap();
    segment.file.set_length(u64::from(end)).unwrap();
    (dir, Arc::new(segment), fresh)
}

fn name(stream: u8) -> String {
    format!("run-{stream}")
}

fn next(count: usize) -> SegmentHeader {
    SegmentHeader::new(100 + count as u64, AFTER, 1)
}

fn file(dir: &TempDir) -> PathBuf {
    dir.path().join("00000000000000000100.index")
}

/// Everything that a part says.
fn said(sealed: &Sealed, records: usize) -> Vec<String> {
    let show = |span: Span| format!("{}+{} {}", span.offset, span.length, span.events);
    let mut said = Vec::new();
    for stream in 0..=255 {
        let (name, key) = (name(stream), Key::of(&name(stream)));
        said.push(format!("{:?}", sealed.find(&name, &key).unwrap()));
        let places = sealed.places(&name, &key, 1, 5).unwrap();
        said.extend(places.into_iter().map(show));
        said.push(format!("{:?}", sealed.length_before(&name, 3_000).unwrap()));
    }
    for from in 0..records as u64 {
        let span = sealed.span(100 + from, u64::MAX, 90).unwrap();
        said.push(span.map(show).unwrap());
    }
    said.push(format!("{:?}", sealed.last_ids(70).unwrap()));
    said.extend(sealed.notes().unwrap().into_iter().map(show));
    said
}

fn records() -> impl Strategy<Value = Vec<(u8, u32)>> {
    prop::collection::vec((any::<u8>(), 1..50_u32), 1..400)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(50))]

    #[test]
    fn a_file_says_what_memory_says(records in records()) {
        let (_dir, segment, fresh) = part(&records);
        let sealed = Sealed::in_memory(Arc::clone(&segment), fresh, AFTER);
        let before = said(&sealed, records.len());
        sealed.make_file();
        prop_assert!(sealed.is_in_file());
        prop_assert_eq!(&said(&sealed, records.len()), &before);
        let again = Sealed::open(&segment, next(records.len())).unwrap().unwrap();
        prop_assert_eq!(&said(&again, records.len()), &before);
    }

    /// Of another state of the segment, of another segment, or damaged.
    #[test]
    fn a_file_that_is_not_of_the_segment_is_not_believed(
        records in records(),
        at in any::<prop::sample::Index>(),
        bit in 0..8_u32,
    ) {
        let (dir, segment, fresh) = part(&records);
        Sealed::in_memory(Arc::clone(&segment), fresh, AFTER).make_file();
        let count = records.len();
        let open = |next: SegmentHeader| Sealed::open(&segment, next).unwrap();
        prop_assert!(open(next(count)).is_some());
        prop_assert!(open(next(count + 1)).is_none());
        let forked = SegmentHeader { chain: Chain([8; 32]), ..next(count) };
        prop_assert!(open(forked).is_none());
        let other = Segment { header: SegmentHeader::new(100, Chain::START, SALT + 1), ..open_again(&segment) };
        prop_assert!(Sealed::open(&Arc::new(other), next(count)).unwrap().is_none());
        let length = segment.file.length().unwrap();
        segment.file.set_length(length - 1).unwrap();
        prop_assert!(open(next(count)).is_none());
        segment.file.set_length(length).unwrap();
        let whole = fs::read(file(&dir)).unwrap();
        let mut bytes = whole.clone();
        let at = at.index(bytes.len());
        bytes[at] ^= 1_u8 << bit;
        fs::write(file(&dir), &bytes).unwrap();
        // The segment has no records, so it cannot be made again: whoever meets the damage hears so.
        let sound = match open(next(count)) {
            None => false,
            Some(sealed) => (0..=255).all(|stream| {
                let key = Key::of(&name(stream));
                sealed.places(&name(stream), &key, 0, 400).is_ok()
            }) && sealed.span(100, u64::MAX, usize::MAX).is_ok()
                && sealed.last_ids(400).is_ok()
                && sealed.notes().is_ok(),
        };
        prop_assert!(!sound, "byte {at} of {}", bytes.len());
        for length in [0, 300, 512, whole.len() - 600] {
            fs::write(file(&dir), &whole[..length]).unwrap();
            let sealed = open(next(count));
            prop_assert!(sealed.is_none_or(|sealed| sealed.notes().is_err()), "{length} bytes");
        }
    }

    #[test]
    fn a_span_holds_what_lies_together(
        lengths in prop::collection::vec(1..50_u32, 1..40),
        from in 0..50_u64,
        to in 0..50_u64,
        bytes in 0..500_usize,
    ) {
        let records: Vec<_> = lengths.iter().map(|length| (1, *length)).collect();
        let mut ends = vec![64];
        for length in &lengths {
            ends.push(ends.last().unwrap() + length);
        }
        let count = lengths.len() as u64;
        for is_sealed in [false, true] {
            let (_dir, segment, fresh) = part(&records);
            let index = Index::default();
            index.write().begin(Arc::clone(&segment), fresh);
            if is_sealed {
                let next = Segment { header: next(lengths.len()), ..open_again(&segment) };
                let sealed = index.write().begin(Arc::new(next), Fresh::default());
                sealed.unwrap().make_file();
            }
            match index.span(100 + from, 100 + to, bytes).unwrap() {
                None => prop_assert!(from >= to.min(count)),
                Some(span) => {
                    let (first, after) = (from as usize, (from + span.events) as usize);
                    prop_assert!(span.events >= 1 && after as u64 <= to.min(count));
                    prop_assert_eq!(span.offset, ends[first]);
                    prop_assert_eq!(span.length as u32, ends[after] - ends[first]);
                    prop_assert!(span.events == 1 || span.length <= bytes);
                    if (after as u64) < to.min(count) {
                        prop_assert!((ends[after + 1] - ends[first]) as usize > bytes);
                    }
                }
            }
        }
    }
}

fn open_again(segment: &Segment) -> Segment {
    Segment::open(segment.path.clone(), false).unwrap()
}

#[test]
fn few_absent_names_seem_present() {
    let keys: Vec<_> = (0..20_000).map(|number| Key::of(&format!("run-{number}"))).collect();
    let filter = filter::Filter::of(keys.iter());
    assert!(keys.iter().all(|key| filter.may_hold(key)));
    let absent = (0..100_000).map(|number| Key::of(&format!("worker-{number}")));
    let wrong = absent.filter(|key| filter.may_hold(key)).count();
    assert!(wrong < 400, "{wrong} of 100,000");
}

/// The format, as it was when it was decided. A change needs a new number: files of another are made again.
#[test]
fn the_format_is_what_it_was() {
    let records: Vec<_> =
        (0..70).map(|number| (number % 20, 8 * (1 + u32::from(number)))).collect();
    let (dir, segment, fresh) = part(&records);
    Sealed::in_memory(segment, fresh, AFTER).make_file();
    let written = fs::read(file(&dir)).unwrap();
    assert_eq!(written, include_bytes!("../golden/format-1.index"));
}

/// An answer comes before the segment is sealed, so a caller may read while that happens.
#[test]
fn what_is_durable_is_found_while_its_segment_is_sealed() {
    // Not more at once: each keeps a file open.
    const SEGMENTS: u64 = 400;
    let (_dir, one, _) = part(&[]);
    let segment = |first| {
        let header = SegmentHeader::new(first, Chain::START, SALT);
        Arc::new(Segment { header, ..open_again(&one) })
    };
    let write = |index: &Index, durable: &AtomicU64| {
        for position in 0..SEGMENTS {
            let next = segment(position + 1);
            let ids = [IdDigest::of(EventId::from_uuid(Uuid::from_u128(position.into())))];
            let (revision, end) = (position, 100);
            let batch = Batch { stream: "run-1", revision, offsets: &[64], ids: &ids, end };
            index.write().push(batch);
            durable.store(position + 1, Ordering::Release);
            index.write().begin(next, Fresh::default());
        }
    };
    for _ in 0..200 {
        let (index, durable) = (Index::default(), AtomicU64::new(0));
        index.write().begin(segment(0), Fresh::default());
        thread::scope(|scope| {
            let writer = scope.spawn(|| write(&index, &durable));
            while !writer.is_finished() {
                let known = durable.load(Ordering::Acquire);
                if let Some(last) = known.checked_sub(1) {
                    assert!(
                        index.span(last, known, 90).unwrap().is_some(),
                        "event {last} is there"
                    );
                }
            }
        });
    }
}
