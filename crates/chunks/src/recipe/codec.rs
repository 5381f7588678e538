//! A recipe as bytes.
//!
//! | bytes | |
//! |---|---|
//! | 8 | `p2pircp`, version 1 |
//! | 32 | root of the blob that it describes |
//! | 8 | length of that blob |
//! | 4 | number of chunks |
//! | 4, or 36 | each chunk: its length, the highest bit set for zeros; of data the blake3 hash follows |
//!
//! Numbers are little-endian. No checksum: the recipe is a blob itself, and verified by its root.

use p2pinst_types::{BlobRef, Hash, limits};

use super::{Chunk, Kind, Recipe, RecipeError};

/// First bytes; the last is the version of the format.
const MAGIC: [u8; 8] = *b"p2pircp\x01";
/// Bytes before the chunks.
pub(super) const HEADER: usize = 8 + Hash::LEN + 8 + 4;
/// Bytes of a chunk's length.
pub(super) const WORD: usize = 4;
/// Bytes of a chunk of data.
pub(super) const CHUNK: usize = WORD + Hash::LEN;
/// Set in the length of a run of zeros.
const ZERO: u32 = 1 << 31;

impl Recipe {
    /// The recipe as bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER + self.chunks.len() * CHUNK);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(self.root.as_bytes());
        out.extend_from_slice(&self.len.to_le_bytes());
        let count = u32::try_from(self.chunks.len()).unwrap_or(u32::MAX);
        out.extend_from_slice(&count.to_le_bytes());
        for chunk in &self.chunks {
            match &chunk.kind {
                Kind::Zero => out.extend_from_slice(&(chunk.len | ZERO).to_le_bytes()),
                Kind::Data(hash) => {
                    out.extend_from_slice(&chunk.len.to_le_bytes());
                    out.extend_from_slice(hash.as_bytes());
                }
            }
        }
        out
    }

    /// Reads the recipe of a blob back. Nothing is allocated for more chunks than there are bytes.
    ///
    /// # Errors
    /// When it is damaged, of another version or blob, or its chunks cannot be.
    pub fn decode(blob: &BlobRef, bytes: &[u8]) -> Result<Self, RecipeError> {
        let wrong = RecipeError::Length { expected: blob.len() };
        let (magic, rest) = bytes.split_first_chunk::<8>().ok_or(RecipeError::Unknown)?;
        if *magic != MAGIC {
            return Err(RecipeError::Unknown);
        }
        let (root, rest) = rest.split_first_chunk::<{ Hash::LEN }>().ok_or(wrong)?;
        let (len, rest) = rest.split_first_chunk::<8>().ok_or(wrong)?;
        let (count, mut rest) = rest.split_first_chunk::<4>().ok_or(wrong)?;
        if Hash(*root) != blob.root || u64::from_le_bytes(*len) != blob.len() {
            return Err(RecipeError::OtherBlob { root: blob.root });
        }
        let count = u32::from_le_bytes(*count);
        if count > limits::RECIPE_CHUNKS || count as usize > rest.len() / WORD {
            let chunks = count as usize;
            return Err(RecipeError::TooMany { chunks, len: blob.len() });
        }
        let mut chunks = Vec::with_capacity(count as usize);
        for _ in 0..count {
            let (word, tail) = rest.split_first_chunk::<WORD>().ok_or(wrong)?;
            let word = u32::from_le_bytes(*word);
            rest = tail;
            let kind = if word & ZERO != 0 {
                Kind::Zero
            } else {
                let (hash, tail) = rest.split_first_chunk::<{ Hash::LEN }>().ok_or(wrong)?;
                rest = tail;
                Kind::Data(Hash(*hash))
            };
            chunks.push(Chunk { len: word & !ZERO, kind });
        }
        if !rest.is_empty() {
            return Err(wrong);
        }
        Self::new(blob, chunks)
    }
}
