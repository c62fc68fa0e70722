//! Server-sent events, as the WHATWG HTML standard (section 9.2) defines their text.

/// One event of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// `message` where the server names none.
    pub name: String,
    pub data: String,
    /// The last id that was sent up to this event.
    pub id: String,
}

/// Takes bytes as they come and gives whole events.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    /// Bytes that are not yet a whole line.
    rest: Vec<u8>,
    name: String,
    data: Vec<String>,
    id: String,
    ready: std::collections::VecDeque<Event>,
}

impl Parser {
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.rest.extend_from_slice(bytes);
        while let Some(end) = self.rest.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            self.line(line.trim_end_matches(['\n', '\r']));
        }
    }

    pub(crate) fn next_event(&mut self) -> Option<Event> {
        self.ready.pop_front()
    }

    fn line(&mut self, line: &str) {
        if line.is_empty() {
            return self.dispatch();
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.name),
            "data" => self.data.push(value.to_owned()),
            "id" => value.clone_into(&mut self.id),
            // Comments, `retry`, and what later standards add.
            _ => {}
        }
    }

    fn dispatch(&mut self) {
        let name = std::mem::take(&mut self.name);
        let data = std::mem::take(&mut self.data);
        if data.is_empty() {
            return;
        }
        self.ready.push_back(Event {
            name: if name.is_empty() { "message".to_owned() } else { name },
            data: data.join("\n"),
            id: self.id.clone(),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pieces: &[&[u8]]) -> Vec<Event> {
        let mut parser = Parser::default();
        for piece in pieces {
            parser.push(piece);
        }
        std::iter::from_fn(|| parser.next_event()).collect()
    }

    fn event(name: &str, data: &str, id: &str) -> Event {
        Event { name: name.into(), data: data.into(), id: id.into() }
    }

    #[test]
    fn an_event_may_arrive_byte_by_byte() {
        let text = b"event: log\nid: 7\ndata: one\ndata: two\n\n";
        let pieces: Vec<&[u8]> = text.chunks(1).collect();
        assert_eq!(parse(&pieces), [event("log", "one\ntwo", "7")]);
    }

    #[test]
    fn comments_are_no_events_and_ids_last() {
        let events = parse(&[b": keep-alive\n\nid: 3\ndata: a\n\ndata: b\r\n\r\n"]);
        assert_eq!(events, [event("message", "a", "3"), event("message", "b", "3")]);
    }

    #[test]
    fn an_unfinished_event_is_not_shown() {
        assert_eq!(parse(&[b"data: half"]), []);
        assert_eq!(parse(&[b"data: half\n"]), []);
    }
}
