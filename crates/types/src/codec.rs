//! CBOR (RFC 8949) with bounds: the encoding of payloads and messages.

use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

/// Why bytes are not what they should be.
#[derive(Debug, Error)]
pub enum CodecError {
    /// The value cannot be encoded (a map with too large a length, say).
    #[error("cannot encode: {0}")]
    Encode(String),
    /// The bytes are not a value of this type.
    #[error("cannot decode {len} bytes: {reason}")]
    Decode {
        /// How many bytes there were.
        len: usize,
        /// What the decoder said.
        reason: String,
    },
    /// A value was read, and bytes are left over: not a canonical message.
    #[error("{0} bytes after the end of the message")]
    Trailing(usize),
}

/// Encodes a value.
///
/// # Errors
/// When the value has a shape that CBOR cannot hold; none of our own types does.
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, CodecError> {
    cbor4ii::serde::to_vec(Vec::with_capacity(128), value)
        .map_err(|e| CodecError::Encode(e.to_string()))
}

/// Decodes a value and refuses trailing bytes. Depth is bounded by the decoder, lengths by the
/// bytes that are there.
///
/// # Errors
/// When the bytes are not exactly one value of this type.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    let mut reader = cbor4ii::core::utils::SliceReader::new(bytes);
    let value = {
        let mut de = cbor4ii::serde::Deserializer::new(&mut reader);
        T::deserialize(&mut de)
            .map_err(|e| CodecError::Decode { len: bytes.len(), reason: e.to_string() })?
    };
    let mut left = 0;
    while let Some(n) = next_len(&mut reader) {
        left += n;
    }
    if left == 0 { Ok(value) } else { Err(CodecError::Trailing(left)) }
}

/// Consumes what the reader still holds and says how long it was.
fn next_len(reader: &mut cbor4ii::core::utils::SliceReader<'_>) -> Option<usize> {
    use cbor4ii::core::dec::Read;
    let n = reader.fill(1).map(|r| r.as_ref().len()).unwrap_or(0);
    if n == 0 {
        return None;
    }
    reader.advance(n);
    Some(n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trailing_bytes_are_refused() {
        let mut bytes = encode(&7u8).unwrap();
        assert_eq!(decode::<u8>(&bytes).unwrap(), 7);
        bytes.push(0);
        assert!(matches!(decode::<u8>(&bytes), Err(CodecError::Trailing(1))));
    }

    #[test]
    fn a_length_that_lies_allocates_nothing() {
        // an array that claims 2^40 entries, and a byte string of 2^62 bytes
        let array = [0x9b, 0, 0, 1, 0, 0, 0, 0, 0, 1];
        assert!(decode::<Vec<u64>>(&array).is_err());
        let bytes = [0x5b, 0x40, 0, 0, 0, 0, 0, 0, 0, 1];
        assert!(decode::<crate::Hash>(&bytes).is_err());
        let deep = vec![0x81u8; 100_000];
        assert!(decode::<Vec<Vec<u8>>>(&deep).is_err());
    }
}
