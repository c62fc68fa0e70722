//! The `Range` header (RFC 9110, section 14), for one range of bytes. Pure.

/// What part of a blob is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// No range, or one that is to be ignored: several, another unit, or malformed.
    All,
    /// From a first byte, so many; at least one.
    Part { offset: u64, length: u64 },
    /// Nothing of the blob is in the range.
    Nothing,
}

pub(crate) fn wanted(range: Option<&str>, size: u64) -> Wanted {
    let Some((first, last)) = range.and_then(|range| range.strip_prefix("bytes=")?.split_once('-'))
    else {
        return Wanted::All;
    };
    match (first.trim(), last.trim()) {
        ("", suffix) => number(suffix).map_or(Wanted::All, |suffix| end(suffix, size)),
        (first, "") => number(first).map_or(Wanted::All, |first| part(first, u64::MAX, size)),
        (first, last) => match (number(first), number(last)) {
            (Some(first), Some(last)) if first <= last => part(first, last, size),
            _ => Wanted::All,
        },
    }
}

fn end(suffix: u64, size: u64) -> Wanted {
    match suffix.min(size) {
        0 => Wanted::Nothing,
        length => Wanted::Part { offset: size - length, length },
    }
}

fn part(first: u64, last: u64, size: u64) -> Wanted {
    if first >= size {
        return Wanted::Nothing;
    }
    Wanted::Part { offset: first, length: last.min(size - 1) - first + 1 }
}

/// Digits alone: `parse` would also take a sign.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits {
        return None;
    }
    Some(text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_range_of_bytes_is_understood() {
        assert_eq!(wanted(Some("bytes=2-5"), 10), Wanted::Part { offset: 2, length: 4 });
        assert_eq!(wanted(Some("bytes=2-"), 10), Wanted::Part { offset: 2, length: 8 });
        assert_eq!(wanted(Some("bytes=-3"), 10), Wanted::Part { offset: 7, length: 3 });
        assert_eq!(wanted(Some("bytes=-30"), 10), Wanted::Part { offset: 0, length: 10 });
        assert_eq!(wanted(Some("bytes=9-99"), 10), Wanted::Part { offset: 9, length: 1 });
    }

    #[test]
    fn a_range_beyond_the_end_wants_nothing() {
        assert_eq!(wanted(Some("bytes=10-"), 10), Wanted::Nothing);
        assert_eq!(wanted(Some("bytes=-0"), 10), Wanted::Nothing);
        assert_eq!(wanted(Some("bytes=0-"), 0), Wanted::Nothing);
        assert_eq!(wanted(Some("bytes=99999999999999999999999-"), 10), Wanted::Nothing);
    }

    #[test]
    fn other_ranges_are_ignored() {
        for range in
            ["bytes=5-2", "bytes=1-2,4-5", "lines=1-2", "bytes=a-b", "bytes=-", "bytes=+1-2"]
        {
            assert_eq!(wanted(Some(range), 10), Wanted::All, "{range}");
        }
        assert_eq!(wanted(None, 10), Wanted::All);
    }

    proptest! {
        #[test]
        fn a_part_is_never_outside_the_blob(range in "(bytes=)?[-0-9, a]{0,24}", size: u64) {
            if let Wanted::Part { offset, length } = wanted(Some(&range), size) {
                prop_assert!(length >= 1);
                prop_assert!(offset.checked_add(length).is_some_and(|end| end <= size));
            }
        }
    }
}
