//! The lock of the stored forms: `proto/events.lock` says what every event is made of, in every
//! version ever written, and this test that it is still so.

use std::fmt::Write;

use prost_reflect::{Cardinality, FieldDescriptor, Kind, MessageDescriptor};

use crate::events;

const LOCK: &str = include_str!("../../proto/events.lock");

/// The fields of the message and of its parts, as the lock shows them.
fn form(message: &MessageDescriptor) -> String {
    let mut text = String::new();
    write_fields(message, "", "", &mut text);
    text
}

fn write_fields(message: &MessageDescriptor, numbers: &str, names: &str, out: &mut String) {
    assert!(numbers.len() < 60, "{} contains itself", message.full_name());
    for field in message.fields() {
        let (number, name) = (format!("{numbers}{}", field.number()), field.name());
        writeln!(out, "  {number} {names}{name} {}", type_of(&field)).unwrap();
        if let Kind::Message(part) = field.kind() {
            write_fields(&part, &format!("{number}."), &format!("{names}{name}."), out);
        }
    }
}

fn type_of(field: &FieldDescriptor) -> String {
    let kind = match field.kind() {
        Kind::Message(_) if field.is_map() => "map".to_owned(),
        Kind::Message(_) => "message".to_owned(),
        Kind::Enum(values) => {
            let values =
                values.values().map(|value| format!("{}={}", value.name(), value.number()));
            format!("enum {}", values.collect::<Vec<_>>().join(" "))
        }
        scalar => format!("{scalar:?}").to_lowercase(),
    };
    let one_of = field.containing_oneof().map(|one| format!(" oneof {}", one.name()));
    let many = if field.cardinality() == Cardinality::Repeated { "repeated " } else { "" };
    format!("{many}{kind}{}", one_of.unwrap_or_default())
}

/// What the lock says of the newest version of an event.
fn locked(event: &str, version: u32) -> Option<String> {
    let head = format!("{event} {version}");
    let mut lines = LOCK.lines().skip_while(|line| *line != head);
    lines.next()?;
    Some(
        lines
            .take_while(|line| line.starts_with(' '))
            .fold(String::new(), |text, line| text + line + "\n"),
    )
}

#[test]
fn no_stored_form_changes_without_a_new_version() {
    let mut events: Vec<_> = events::all().collect();
    events.sort_by_key(|event| event.name().to_owned());
    let mut trouble = String::new();
    for event in events {
        let (name, form) = (event.name(), form(event));
        let Some(newest) = eventlog::owner::newest_version(name) else {
            writeln!(trouble, "{name} is new: add to proto/events.lock\n\n{name} 1\n{form}")
                .unwrap();
            continue;
        };
        if locked(name, newest).is_none_or(|locked| locked != form) {
            let next = newest + 1;
            writeln!(
                trouble,
                "the stored form of {name} changed, which must be a new version: write version {next} in its \
                 codec, keep reading version {newest}, add golden bytes, and add to proto/events.lock\n\n{name} {next}\n{form}",
            )
            .unwrap();
        }
    }
    assert!(trouble.is_empty(), "\n{trouble}");
}

#[test]
fn every_version_from_the_first_is_in_the_lock_once() {
    let heads: Vec<_> =
        LOCK.lines().filter(|line| !line.starts_with([' ', '#']) && !line.is_empty()).collect();
    for (event, newest) in proto::EVENTS {
        for version in 1..=*newest {
            let head = format!("{event} {version}");
            assert_eq!(heads.iter().filter(|line| **line == head).count(), 1, "{head}");
        }
        assert!(events::message(event).is_some(), "{event} is in the lock, but in no .proto file");
    }
}

/// A name that sounds secret is secret, so that a new event cannot forget to say so.
#[test]
fn what_sounds_secret_is_redacted() {
    fn check(message: &MessageDescriptor) {
        for field in message.fields() {
            let name = field.name();
            let sounds = ["sealed", "token", "password", "secret", "hash", "private_key"];
            let harmless = ["token_id", "secret_key_name"];
            let secret =
                sounds.iter().any(|sound| name.contains(sound)) && !harmless.contains(&name);
            let is_text = matches!(field.kind(), Kind::String | Kind::Bytes);
            assert!(
                !secret || !is_text || events::is_secret(&field),
                "{}: add [debug_redact = true]",
                field.full_name()
            );
            if let Kind::Message(part) = field.kind() {
                check(&part);
            }
        }
    }
    events::all().for_each(check);
}
