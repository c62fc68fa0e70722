//! HTTP/3: the only module that knows h3, which is young (0.0.x).
//!
//! `adapter` puts quinn beneath h3, `body` reads messages, `server` and `client` are the two ends, `pulse` tells
//! whether anything still comes.

mod adapter;
mod body;
mod client;
mod framing;
mod pulse;
mod server;

pub(crate) use client::{Client, connect};
pub(crate) use server::converse;

use h3::error::{Code, StreamError};
use tonic::Status;

/// HTTP/3's "nothing is wrong", with which connections are closed.
pub(crate) const NO_ERROR: quinn::VarInt = quinn::VarInt::from_u32(0x100);

/// What an error of a stream means to a gRPC caller.
fn status(error: &StreamError) -> Status {
    match error {
        StreamError::RemoteTerminate { code: Code::H3_REQUEST_CANCELLED, .. } => {
            Status::cancelled("the other side cancelled the call")
        }
        StreamError::RemoteTerminate { code: Code::H3_REQUEST_INCOMPLETE, .. } => {
            Status::data_loss("the message was cut off before its end")
        }
        StreamError::RemoteTerminate { code: Code::H3_REQUEST_REJECTED, .. }
        | StreamError::RemoteClosing { .. }
        | StreamError::ConnectionError { .. } => Status::unavailable(error.to_string()),
        StreamError::HeaderTooBig { .. } => Status::resource_exhausted(error.to_string()),
        _ => Status::internal(error.to_string()),
    }
}
