//! How the messages of RPCs are encoded: by prost, as everywhere, but with small buffers.
//!
//! tonic keeps one for each direction of a call from the call's beginning on, and of 8 KiB. Most of our
//! messages are shorter than 1 KiB, most calls have but one each way, and an idle worker keeps five
//! directions open.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::{BufferSettings, Codec as Tonic};
use tonic_prost::{ProstDecoder, ProstEncoder};

/// Bytes; grows with what does not fit.
const BUFFER: usize = 1 << 10;
/// Bytes of short messages that are sent together; tonic's own figure.
const TOGETHER: usize = 32 << 10;

pub struct Codec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Codec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Tonic for Codec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::new(BufferSettings::new(BUFFER, TOGETHER))
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstDecoder::new(BufferSettings::new(BUFFER, TOGETHER))
    }
}
