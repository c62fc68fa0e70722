//! Examples and properties of masking.

use proptest::prelude::*;

use super::*;

fn stream(secrets: &[&str], chunks: &[&str]) -> String {
    let mut masker = Masker::new(Secrets::new(secrets.iter().copied()));
    let mut out = Vec::new();
    for chunk in chunks {
        out.extend(masker.push(chunk.as_bytes()));
    }
    out.extend(masker.finish());
    String::from_utf8(out).unwrap()
}

#[test]
fn a_secret_is_masked_wherever_it_is_cut() {
    assert_eq!(stream(&["s3cr=et"], &["key s3c", "r=", "et end"]), "key *** end");
    assert_eq!(stream(&["s3cr=et"], &["s3cr=", "ex"]), "s3cr=ex");
}

#[test]
fn the_longest_secret_wins_and_overlaps_leak_nothing() {
    assert_eq!(stream(&["abcd", "abcdef"], &["xabcd", "efx"]), "x***x");
    assert_eq!(stream(&["abcd", "cdef"], &["abcdef"]), "***");
    assert_eq!(stream(&["aaa"], &["aaaa", "aaab"]), "***b");
}

#[test]
fn a_tail_that_cannot_be_a_secret_is_not_held_back() {
    let mut masker = Masker::new(Secrets::new(["token"]));
    assert_eq!(masker.push(b"hello\nto"), b"hello\n");
    assert_eq!(masker.push(b"day\n"), b"today\n");
}

#[test]
fn encodings_and_lines_of_a_secret_are_masked_too() {
    let secrets = Secrets::new(["pass word/+1", "-----BEGIN-----\nMIIEvgIBADANBg\n"]);
    let basic = general_purpose::STANDARD.encode("pass word/+1");
    assert_eq!(secrets.mask(&format!("a {basic} b")), "a *** b");
    assert_eq!(secrets.mask("?p=pass%20word%2F%2B1"), "?p=***");
    assert_eq!(secrets.mask("key line MIIEvgIBADANBg"), "key line ***");
    assert_eq!(secrets.mask("nothing here"), "nothing here");
}

#[test]
fn very_short_values_are_left_alone() {
    assert_eq!(stream(&["1", ""], &["1 of 1"]), "1 of 1");
}

/// Secrets of few letters, so that they occur, overlap and begin alike.
fn secrets() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec("[ab]{3,7}", 0..4)
}

proptest! {
    #[test]
    fn chunks_make_no_difference(
        secrets in secrets(),
        text in "[abc]{0,60}",
        cuts in prop::collection::vec(0_usize..61, 0..8),
    ) {
        let values: Vec<&str> = secrets.iter().map(String::as_str).collect();
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
        cuts.extend([0, text.len()]);
        cuts.sort_unstable();
        let chunks: Vec<&str> = cuts.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect();
        prop_assert_eq!(stream(&values, &chunks), stream(&values, &[&text]));
    }

    #[test]
    fn no_secret_survives_and_nothing_else_is_lost(secrets in secrets(), text in "[abc]{0,60}") {
        let values: Vec<&str> = secrets.iter().map(String::as_str).collect();
        let out = stream(&values, &[&text]);
        for secret in &values {
            prop_assert!(!out.contains(secret));
        }
        // The bytes outside of every occurrence, found the slow way.
        let mut secret_byte = vec![false; text.len()];
        for secret in &values {
            for at in 0..text.len() {
                if text[at..].starts_with(secret) {
                    secret_byte[at..at + secret.len()].fill(true);
                }
            }
        }
        let plain: String = text
            .bytes()
            .zip(secret_byte)
            .filter(|(_, hidden)| !hidden)
            .map(|(byte, _)| char::from(byte))
            .collect();
        prop_assert_eq!(out.replace('*', ""), plain);
    }

    #[test]
    fn no_more_than_the_longest_secret_is_held(secrets in secrets(), text in "[abc]{0,60}") {
        let values: Vec<&str> = secrets.iter().map(String::as_str).collect();
        let mut masker = Masker::new(Secrets::new(values.iter().copied()));
        for byte in text.bytes() {
            masker.push(&[byte]);
            let longest = values.iter().map(|secret| secret.len()).max().unwrap_or(0);
            prop_assert!(masker.held.len() <= longest);
        }
    }
}
