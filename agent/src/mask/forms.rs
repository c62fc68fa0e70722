//! How a value looks once programs have encoded it. Pure.
//!
//! An encoding of a text that holds the value holds one of these forms, whatever stands around it: base64
//! is taken at all three alignments, without the characters at its ends that neighbours have a part in.

use std::{
    collections::BTreeSet,
    fmt::{self, Write as _},
};

use base64::{Engine as _, engine::general_purpose};

/// Shorter values would black out half of a log and hide nothing.
const SHORTEST: usize = 3;
/// Codes of very short values look like anything.
const SHORTEST_CODE: usize = 5;
/// Lines of a longer secret (a key, say) that are shorter are not looked for on their own.
const SHORTEST_LINE: usize = 8;
/// Where `openssl` and `base64` break their lines.
const COLUMNS: [usize; 2] = [64, 76];

/// Everything to look for, of one value.
pub(super) fn forms(value: &str) -> BTreeSet<Vec<u8>> {
    let trimmed = value.trim();
    let lines = trimmed.lines().map(str::trim).filter(|line| line.len() >= SHORTEST_LINE);
    let mut found: BTreeSet<Vec<u8>> = lines.map(|line| line.as_bytes().to_vec()).collect();
    for text in [value, trimmed] {
        if text.trim().len() < SHORTEST {
            continue;
        }
        found.insert(text.as_bytes().to_vec());
        found.extend(json(text).into_iter().map(String::into_bytes));
        found.extend(shell(text).into_iter().map(String::into_bytes));
        found.extend(url(text).into_iter().map(String::into_bytes));
        let codes = base64(text.as_bytes()).into_iter().chain(hex(text.as_bytes()));
        found.extend(codes.map(String::into_bytes).filter(|code| code.len() >= SHORTEST_CODE));
    }
    found
}

fn base64(bytes: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    for engine in [general_purpose::STANDARD_NO_PAD, general_purpose::URL_SAFE_NO_PAD] {
        for before in 0..3 {
            let mut shifted = vec![0; before];
            shifted.extend_from_slice(bytes);
            // Six bits in each character: those that hold bits of the value alone.
            let sure = (8 * before).div_ceil(6)..8 * shifted.len() / 6;
            found.push(engine.encode(&shifted)[sure].to_owned());
        }
        let whole = engine.encode(bytes);
        for columns in COLUMNS.into_iter().filter(|columns| whole.len() > *columns) {
            let lines = whole.as_bytes().chunks(columns).filter(|line| line.len() >= SHORTEST_LINE);
            found.extend(lines.map(|line| String::from_utf8_lossy(line).into_owned()));
        }
        found.push(whole);
    }
    found
}

fn hex(bytes: &[u8]) -> [String; 2] {
    let lower = written(|out| bytes.iter().try_for_each(|byte| write!(out, "{byte:02x}")));
    let upper = lower.to_ascii_uppercase();
    [lower, upper]
}

/// RFC 3986's unreserved characters, those of JavaScript's two functions, and of HTML's forms.
fn url(text: &str) -> Vec<String> {
    const KEPT: [&str; 4] = ["-._~", "-._~!'()*", "-._~!'()*;,/?:@&=+$#", "-._*"];
    let mut found = Vec::new();
    for kept in KEPT {
        let is_kept = |byte: u8| byte.is_ascii_alphanumeric() || kept.as_bytes().contains(&byte);
        let upper = written(|out| {
            text.bytes().try_for_each(|byte| {
                if is_kept(byte) {
                    return out.write_char(char::from(byte));
                }
                write!(out, "%{byte:02X}")
            })
        });
        let lower = written(|out| {
            text.bytes().try_for_each(|byte| {
                if is_kept(byte) {
                    return out.write_char(char::from(byte));
                }
                write!(out, "%{byte:02x}")
            })
        });
        found.extend([upper.replace("%20", "+"), lower.replace("%20", "+"), upper, lower]);
    }
    found
}

/// As most print it, with ASCII alone (Python), with `\/` (PHP), without `<>&` (Go), and JSON in JSON.
fn json(text: &str) -> Vec<String> {
    let plain = quoted(text);
    let ascii = written(|out| {
        plain.chars().try_for_each(|letter| {
            if letter.is_ascii() {
                return out.write_char(letter);
            }
            let mut units = [0; 2];
            let units = letter.encode_utf16(&mut units);
            units.iter().try_for_each(|unit| write!(out, "\\u{unit:04x}"))
        })
    });
    let slashes = plain.replace('/', "\\/");
    let html = plain.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026");
    vec![quoted(&plain), ascii, slashes, html, plain]
}

/// Without the quotation marks around it.
fn quoted(text: &str) -> String {
    let json = serde_json::Value::from(text).to_string();
    json[1..json.len() - 1].to_owned()
}

/// Inside of single quotes (two ways), of double quotes, of `$'…'`, and with backslashes alone.
fn shell(text: &str) -> [String; 5] {
    let single = text.replace('\'', r"'\''");
    let python = text.replace('\'', r#"'"'"'"#);
    let double = escaped(text, |_, letter| "$`\"\\".contains(letter));
    let dollar = written(|out| {
        text.chars().try_for_each(|letter| match letter {
            '\'' | '\\' => write!(out, "\\{letter}"),
            '\n' => out.write_str("\\n"),
            '\t' => out.write_str("\\t"),
            '\r' => out.write_str("\\r"),
            _ if letter.is_ascii_control() => write!(out, "\\{:03o}", u32::from(letter)),
            _ => out.write_char(letter),
        })
    });
    let bare = escaped(text, |at, letter| match letter {
        '~' | '#' => at == 0,
        _ => " \t!\"$&'()*,;<>?[\\]^`{|}".contains(letter),
    });
    [single, python, double, dollar, bare]
}

fn escaped(text: &str, is_special: impl Fn(usize, char) -> bool) -> String {
    written(|out| {
        text.char_indices().try_for_each(|(at, letter)| {
            if is_special(at, letter) {
                out.write_char('\\')?;
            }
            out.write_char(letter)
        })
    })
}

fn written(write: impl FnOnce(&mut String) -> fmt::Result) -> String {
    let mut out = String::new();
    write(&mut out).expect("a String takes everything");
    out
}
