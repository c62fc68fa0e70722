//! The test that every codec of the house passes: what was written once is read for ever.
//!
//! A codec keeps `golden.txt`, a line for each version of each of its events: type, version, and the
//! stored bytes in hex. Lines are only ever added.

use std::{collections::BTreeSet, fmt};

use eventlog::{
    DecodeError, Metadata, NewEvent, Recorded,
    owner::{Encoded, newest_version},
};
use ids::{EventId, Timestamp};
use uuid::Uuid;

/// A codec, and what it must read and write.
#[derive(Debug)]
pub struct Golden<E, F> {
    /// The text of its `golden.txt`.
    pub bytes: &'static str,
    /// What each line stands for, in order.
    pub events: Vec<E>,
    pub stream: fn(&E) -> String,
    pub encode: fn(&E) -> Encoded,
    pub decode: fn(&Recorded) -> Result<Option<F>, DecodeError>,
}

/// An event at position 9, as if read from a log.
#[must_use]
pub fn recorded(stream: &str, event_type: &str, version: u32, data: Vec<u8>) -> Recorded {
    let metadata = Metadata { version, ..Metadata::default() };
    Recorded {
        position: 9,
        stream: stream.into(),
        revision: 0,
        recorded_at: Timestamp(0),
        event: NewEvent::new(EventId::from_uuid(Uuid::nil()), event_type, data, &metadata),
    }
}

impl<E: Clone + fmt::Debug, F: From<E> + PartialEq + fmt::Debug> Golden<E, F> {
    /// Panics, and says why, unless
    /// - every line is read as its event, and the newest version of each is written so;
    /// - there is a line for every version of every type that `events.lock` has for the package;
    /// - a version that is not known yet is refused, an unknown type skipped, and damage named.
    ///
    /// `package` is that of the events: `gaia.access.events.v1`.
    pub fn check(&self, package: &str) {
        let lines: Vec<Line> = self.bytes.lines().map(Line::read).collect();
        let count = self.events.len();
        assert_eq!(lines.len(), count, "golden.txt has {} lines for {count} events", lines.len());
        for (line, event) in lines.iter().zip(&self.events) {
            self.check_line(line, event);
        }
        let wanted: BTreeSet<_> = crate::events::of(package)
            .flat_map(|name| {
                let newest = newest_version(&name).unwrap_or(1);
                (1..=newest).map(move |version| (name.clone(), version))
            })
            .collect();
        assert!(!wanted.is_empty(), "there are no events in {package}");
        let found: BTreeSet<_> =
            lines.iter().map(|line| (line.name.clone(), line.version)).collect();
        assert_eq!(found, wanted, "golden.txt has a line for every version of every event");
    }

    fn check_line(&self, line: &Line, event: &E) {
        let stream = (self.stream)(event);
        let Line { name, version, data } = line;
        let newest = newest_version(name);
        let newest = newest.unwrap_or_else(|| panic!("{name} is not in proto/events.lock"));
        let read = |version, data| (self.decode)(&recorded(&stream, name, version, data));
        let found = read(*version, data.clone()).expect("what was written once is read for ever");
        assert_eq!(found, Some(F::from(event.clone())));
        if *version == newest {
            let encoded = (self.encode)(event);
            let written = Line {
                name: encoded.event_type.into(),
                version: encoded.version,
                data: encoded.data,
            };
            assert_eq!(written.to_string(), line.to_string(), "{event:?}");
        }
        let newer =
            read(newest + 1, data.clone()).expect_err("a newer version is refused").to_string();
        assert!(newer.contains(&format!("{name} in `{stream}`")), "{newer}");
        assert!(newer.contains(&format!("version {}", newest + 1)), "{newer}");
        read(*version, vec![0xff]).expect_err("damage is no event");
        let unknown = recorded(&stream, "SomethingNew", newest + 1, data.clone());
        let skipped = |event| (self.decode)(event).expect("it is skipped");
        assert_eq!(skipped(&unknown), None, "an unknown type is skipped");
        let elsewhere = recorded("elsewhere-1", name, *version, vec![0xff]);
        assert_eq!(skipped(&elsewhere), None, "{name} of a foreign stream is skipped");
    }
}

struct Line {
    name: String,
    version: u32,
    data: Vec<u8>,
}

impl Line {
    fn read(line: &str) -> Self {
        let words: Vec<_> = line.split(' ').collect();
        let [name, version, hex] = words[..] else { panic!("golden.txt: `{line}`") };
        let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex");
        let data = (0..hex.len()).step_by(2).map(byte).collect();
        Self { name: name.into(), version: version.parse().expect("a version"), data }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ", self.name, self.version)?;
        self.data.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
