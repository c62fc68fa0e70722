//! Which message a type of event is.

use std::{
    collections::{HashMap, HashSet},
    sync::LazyLock,
};

use prost_reflect::{DescriptorPool, FieldDescriptor, Kind, MessageDescriptor};

static EVENTS: LazyLock<HashMap<String, MessageDescriptor>> = LazyLock::new(|| {
    let pool = DescriptorPool::decode(proto::FILE_DESCRIPTOR_SET)
        .expect("the descriptors are those that the types were generated from");
    let messages: Vec<_> = pool.files().filter(is_of_events).flat_map(top_level).collect();
    let parts: HashSet<String> = messages.iter().flat_map(parts).collect();
    let events = messages.into_iter().filter(|message| !parts.contains(message.full_name()));
    events.map(|message| (message.name().to_owned(), message)).collect()
});

/// The message of this type of event; `None`: it is not one of the house's.
pub(crate) fn message(event_type: &str) -> Option<MessageDescriptor> {
    EVENTS.get(event_type).cloned()
}

/// The names of a package's events.
pub(crate) fn of(package: &str) -> impl Iterator<Item = String> {
    let events = EVENTS.values().filter(move |event| event.package_name() == package);
    events.map(|event| event.name().to_owned())
}

#[cfg(test)]
pub(crate) fn all() -> impl Iterator<Item = &'static MessageDescriptor> {
    EVENTS.values()
}

fn is_of_events(file: &prost_reflect::FileDescriptor) -> bool {
    let package = file.package_name();
    package.starts_with("gaia.") && package.contains(".events.")
}

fn top_level(file: prost_reflect::FileDescriptor) -> Vec<MessageDescriptor> {
    file.messages().collect()
}

/// The messages that its fields are made of.
fn parts(message: &MessageDescriptor) -> Vec<String> {
    let part = |field: FieldDescriptor| match field.kind() {
        Kind::Message(part) => Some(part.full_name().to_owned()),
        _ => None,
    };
    message.fields().filter_map(part).collect()
}

/// Whether nobody but the service itself may see the field.
pub(crate) fn is_secret(field: &FieldDescriptor) -> bool {
    let options = field.options();
    options.get_field_by_name("debug_redact").and_then(|redact| redact.as_bool()).unwrap_or(false)
}

/// Whether any field of the message, or of a part of it, is secret.
pub(crate) fn has_secrets(message: &MessageDescriptor) -> bool {
    message.fields().any(|field| {
        is_secret(&field) || matches!(field.kind(), Kind::Message(part) if has_secrets(&part))
    })
}
