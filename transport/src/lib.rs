//! One router on HTTP/2 and HTTP/3; a client channel that prefers HTTP/3 and falls back to HTTP/2.

mod abort;
mod access;
mod call;
mod channel;
mod congestion;
mod connection;
mod deadline;
mod heard;
mod http3;
mod limits;
mod local;
mod server;
mod standing;

pub use access::services_only;
pub use channel::{Channel, ChannelError, InvalidServer, Protocols, Switch};
pub use connection::{Connection, Protocol};
pub use heard::Heard;
pub use server::{Server, refused_handshakes};
pub use standing::Watchlist;
