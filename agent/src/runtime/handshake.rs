//! The line with which a pipeline says where it listens: `1|2|tcp|127.0.0.1:40001|grpc`.
//!
//! As go-plugin 1.4.3 reads it: core version, protocol version, network, address, protocol, and
//! perhaps more that nobody here uses. Gaia fails on any output before it; we pass that output on
//! and look further, also within the line, for programs that print without ending their lines.

use std::path::PathBuf;

/// Where the pipeline listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Address {
    /// `host:port`; the host may be a name.
    Tcp(String),
    Unix(PathBuf),
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "tcp {address}"),
            Self::Unix(path) => write!(f, "unix {}", path.display()),
        }
    }
}

/// What a line of output is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    Noise,
    /// `noise` bytes of the line come before the handshake.
    Handshake {
        noise: usize,
        address: Address,
    },
    /// It is meant to be a handshake, but not one for us.
    Refused(String),
}

const NETWORKS: [&str; 2] = ["tcp", "unix"];

pub(super) fn read(line: &[u8]) -> Line {
    let Some((noise, fields)) = find(line) else { return Line::Noise };
    let [core, app, network, address, rest @ ..] = fields.as_slice() else { return Line::Noise };
    if (*core, *app) != ("1", "2") {
        return Line::Refused(format!(
            "it speaks version {core}|{app} of the plugin protocol, this agent 1|2"
        ));
    }
    match rest.first().copied() {
        Some("grpc") => {}
        Some(other) => return Line::Refused(format!("it speaks `{other}`, this agent `grpc`")),
        None => return Line::Refused("it speaks net/rpc, this agent gRPC".to_owned()),
    }
    let address = match *network {
        "unix" => Address::Unix(PathBuf::from(*address)),
        _ => Address::Tcp((*address).to_owned()),
    };
    Line::Handshake { noise, address }
}

/// The fields of the handshake that ends the line, and the count of bytes before it.
fn find(line: &[u8]) -> Option<(usize, Vec<&str>)> {
    let network = NETWORKS.iter().find_map(|network| {
        let needle = format!("|{network}|");
        line.windows(needle.len()).rposition(|window| window == needle.as_bytes())
    })?;
    let app = digits_before(line, network)?;
    let core = digits_before(line, app.checked_sub(1).filter(|at| line[*at] == b'|')?)?;
    let text = std::str::from_utf8(&line[core..]).ok()?.trim();
    Some((core, text.split('|').collect()))
}

/// Where the run of digits that ends before `end` begins.
fn digits_before(line: &[u8], end: usize) -> Option<usize> {
    let count = line[..end].iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    (count > 0).then(|| end - count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(noise: usize, address: &str) -> Line {
        Line::Handshake { noise, address: Address::Tcp(address.into()) }
    }

    #[test]
    fn the_lines_of_all_sdks_are_understood() {
        assert_eq!(read(b"1|2|tcp|127.0.0.1:40001|grpc\n"), tcp(0, "127.0.0.1:40001"));
        assert_eq!(read(b"  1|2|tcp|localhost:40001|grpc \r\n"), tcp(2, "localhost:40001"));
        assert_eq!(read(b"1|2|tcp|[::1]:1|grpc|certificate|true\n"), tcp(0, "[::1]:1"));
        let address = Address::Unix("/tmp/plugin 1".into());
        assert_eq!(read(b"1|2|unix|/tmp/plugin 1|grpc\n"), Line::Handshake { noise: 0, address });
    }

    #[test]
    fn output_that_did_not_end_its_line_is_noise_before_it() {
        assert_eq!(read(b"test x ... 1|2|tcp|localhost:1|grpc\n"), tcp(11, "localhost:1"));
        assert_eq!(read(b"|1|2|tcp|localhost:1|grpc\n"), tcp(1, "localhost:1"));
    }

    #[test]
    fn other_lines_are_noise() {
        for line in [
            &b""[..],
            b"\n",
            b"|tcp|",
            b"2|tcp|",
            b"|2|tcp|x|grpc",
            b"a|b|tcp|x|grpc",
            b"1|2|udp|x|grpc",
            b"\xff1|2|tcp|\xff",
        ] {
            assert_eq!(read(line), Line::Noise, "{line:?}");
        }
    }

    #[test]
    fn other_protocols_are_refused() {
        for line in [&b"1|3|tcp|x|grpc"[..], b"2|2|tcp|x|grpc", b"1|2|tcp|x", b"1|2|unix|x|netrpc"]
        {
            assert!(matches!(read(line), Line::Refused(_)), "{line:?}");
        }
    }
}
