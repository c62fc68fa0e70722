//! Examples and properties of masking.

use std::fmt::Write as _;

use base64::{Engine as _, engine::general_purpose};
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

/// What programs make of a text, each in its own words rather than by the code under test.
fn encoded(text: &str) -> Vec<Vec<u8>> {
    let bytes = text.as_bytes();
    let hex = bytes.iter().fold(String::new(), |mut out, byte| {
        write!(out, "{byte:02x}").unwrap();
        out
    });
    let percent = bytes.iter().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(byte) {
            out.push(char::from(*byte));
        } else {
            write!(out, "%{byte:02X}").unwrap();
        }
        out
    });
    let mut found = vec![
        text.to_owned(),
        hex.to_uppercase(),
        hex,
        percent.replace("%20", "+"),
        percent,
        serde_json::json!({ "key": text }).to_string(),
        serde_json::json!(serde_json::json!([text]).to_string()).to_string(),
        format!("'{}'", text.replace('\'', "'\\''")),
        format!("'{}'", text.replace('\'', "'\"'\"'")),
    ];
    for around in ["", "a", "bc"] {
        let wrapped = format!("{around}{text}{around}");
        found.push(general_purpose::STANDARD.encode(&wrapped));
        found.push(general_purpose::URL_SAFE.encode(&wrapped));
    }
    found.into_iter().map(String::into_bytes).collect()
}

/// Fifty values of the kinds that vaults hold.
fn vault() -> Vec<String> {
    let odd =
        ["it's a \"secret\"", "p@ss w0rd/+=&<>", "päß wörd €", "back\\slash\ttab", "$HOME `x` !"];
    let mut values: Vec<String> = odd.map(str::to_owned).to_vec();
    for number in 0_u32..45 {
        let seed = ids::Digest::of(&number.to_le_bytes());
        let length = 5 + number as usize;
        values
            .push(general_purpose::STANDARD.encode(seed.as_bytes()).chars().take(length).collect());
    }
    values
}

#[test]
fn no_secret_passes_in_any_encoding_at_any_split() {
    let values = vault();
    assert!(values.len() >= 50);
    for value in &values {
        let secrets = Secrets::new([value.as_str()]);
        for text in encoded(value) {
            let mut whole = Masker::new(secrets.clone());
            let mut expected = whole.push(&text);
            expected.extend(whole.finish());
            // Of base64 and of quotation only the ends stay.
            let shown = String::from_utf8_lossy(&expected);
            assert!(shown.contains("***") && shown.len() <= 24, "{value}: {shown}");
            for cut in 0..=text.len() {
                let mut masker = Masker::new(secrets.clone());
                let mut out = masker.push(&text[..cut]);
                out.extend(masker.push(&text[cut..]));
                out.extend(masker.finish());
                assert_eq!(out, expected, "{value} cut at {cut}");
            }
        }
    }
}

#[test]
fn a_long_key_is_masked_in_wrapped_base64() {
    let key: String = vault().concat();
    let code = general_purpose::STANDARD.encode(&key);
    let wrapped: Vec<&str> =
        code.as_bytes().chunks(76).map(|line| std::str::from_utf8(line).unwrap()).collect();
    let out = Secrets::new([key.as_str()]).mask(&wrapped.join("\n"));
    assert!(out.lines().all(|line| line.trim_end_matches('=') == "***"), "{out}");
}

/// Secrets of few letters, so that they occur, overlap and begin alike.
fn secrets() -> impl Strategy<Value = Vec<String>> {
    // Short ones and long ones are searched for in different ways.
    prop_oneof![
        prop::collection::vec("[ab]{3,7}", 0..4),
        prop::collection::vec("[ab]{8,18}", 1..16)
    ]
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
            prop_assert!(masker.held.len() <= masker.secrets.0.longest);
        }
    }
}
