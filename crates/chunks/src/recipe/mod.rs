//! Recipes: of what chunks a blob is made, so that a node fetches only what no older version, and no run
//! of zeros, gives it.
//!
//! A [`Recipe`] lists the chunks of one blob in order, each a run of zeros or data with its blake3 hash. The
//! cuts follow the content (`cut`: FastCDC), so that equal stretches of two blobs have equal chunks
//! wherever they lie. [`Plan`] compares a recipe with those of the blobs that are here, and [`assemble()`]
//! builds the pieces that need nothing from others.
//!
//! A recipe is an **unsigned hint**. Nothing that is built from one counts before it verifies against the
//! blob's piece layer, like a piece that came from a peer; so a lie costs bounded local work (reading,
//! hashing, at most [`most_bytes`] fetched) and nothing else. Pure, but for [`assemble()`] and [`Seed`],
//! which block.

mod assemble;
mod codec;
mod cut;
mod plan;
mod seed;
pub mod tree;

use p2pinst_types::{BlobRef, Hash, limits};
use thiserror::Error;

pub use self::assemble::{Assembled, PARTS, assemble};
pub use self::cut::Cutter;
pub(crate) use self::cut::leading_zeros;
pub use self::plan::{Local, Place, Plan};
pub use self::seed::{Seed, SeedError};

/// Shortest chunk, in bytes, but for those before a run of zeros or the end; also the shortest run of
/// zeros that is one of its own.
pub const CHUNK_MIN: usize = 64 << 10;
/// About how long chunks are, in bytes: in a second version of an image, half as much sends fewer bytes but has twice
/// the hashes.
pub const CHUNK_AVG: usize = 256 << 10;
/// Longest chunk that is cut, in bytes.
pub const CHUNK_MAX: usize = 1 << 20;
/// Longest chunk of data, in bytes, that a recipe may name: a frame of a compressed image may be longer than what is in
/// it.
pub const DATA_MAX: u32 = 2 << 20;
/// Longest run of zeros, in bytes, that one chunk stands for.
pub const ZERO_MAX: u32 = (1 << 31) - 1;
/// Blobs below this have no recipe: fetching them costs little more than asking for one.
pub const WORTH: u64 = 8 << 20;

/// One stretch of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// Its length in bytes, at least one.
    pub len: u32,
    /// What is in it.
    pub kind: Kind,
}

/// What is in a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Nothing but zeros.
    Zero,
    /// Bytes with this blake3 hash.
    Data(Hash),
}

/// Where the recipe of a blob is to be had: itself a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Named {
    /// The recipe.
    pub blob: BlobRef,
    /// Bytes of the blob that are zeros by it.
    pub zeros: u64,
}

/// Why there is no recipe, or bytes are not one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum RecipeError {
    /// They do not begin like one of this version.
    #[error("this is no recipe of this version")]
    Unknown,
    /// It is of another blob.
    #[error("this is not the recipe of blob {}", root.short())]
    OtherBlob {
        /// The blob whose recipe it should be.
        root: Hash,
    },
    /// It has too many chunks.
    #[error("a recipe of {chunks} chunks is too long for a blob of {len} bytes")]
    TooMany {
        /// Chunks.
        chunks: usize,
        /// Bytes of the blob.
        len: u64,
    },
    /// A chunk with an impossible length.
    #[error("no chunk of a recipe has {len} bytes")]
    Chunk {
        /// Its length.
        len: u32,
    },
    /// The chunks together are not as long as the blob, or there are more or fewer than it says.
    #[error("the chunks of the recipe are not {expected} bytes")]
    Length {
        /// Bytes of the blob.
        expected: u64,
    },
}

/// Of what a blob is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipe {
    root: Hash,
    len: u64,
    chunks: Box<[Chunk]>,
}

/// Bytes of the longest recipe that a blob of `len` bytes may have: what fetching one may cost that then turns out
/// to be a lie. A usual one has a seven-thousandth of the blob.
#[must_use]
pub fn most_bytes(len: u64) -> u64 {
    let most = codec::HEADER as u64 + u64::from(limits::RECIPE_CHUNKS) * codec::CHUNK as u64;
    (len / 512 + (4 << 10)).min(most)
}

impl Recipe {
    /// The recipe of a blob of which these are the chunks.
    ///
    /// # Errors
    /// When they are too many, or not as long as the blob.
    pub fn new(blob: &BlobRef, chunks: Vec<Chunk>) -> Result<Self, RecipeError> {
        let (mut sum, mut bytes) = (0u64, codec::HEADER as u64);
        for Chunk { len, kind } in &chunks {
            let (most, size) = match kind {
                Kind::Zero => (ZERO_MAX, codec::WORD),
                Kind::Data(_) => (DATA_MAX, codec::CHUNK),
            };
            if !(1..=most).contains(len) {
                return Err(RecipeError::Chunk { len: *len });
            }
            sum += u64::from(*len);
            bytes += size as u64;
        }
        let many = chunks.len() > limits::RECIPE_CHUNKS as usize;
        if many || bytes > most_bytes(blob.len()) {
            return Err(RecipeError::TooMany { chunks: chunks.len(), len: blob.len() });
        }
        if sum != blob.len() {
            return Err(RecipeError::Length { expected: blob.len() });
        }
        Ok(Self { root: blob.root, len: blob.len(), chunks: chunks.into() })
    }

    /// The blob's root.
    #[must_use]
    pub fn root(&self) -> &Hash {
        &self.root
    }

    /// The chunks, in order.
    #[must_use]
    pub fn chunks(&self) -> &[Chunk] {
        &self.chunks
    }

    /// Bytes of the blob that are zeros by it.
    #[must_use]
    pub fn zeros(&self) -> u64 {
        let zeros = self.chunks.iter().filter(|c| c.kind == Kind::Zero);
        zeros.map(|c| u64::from(c.len)).sum()
    }
}

/// Whether content that begins like this is compressed already, so that two versions have nothing in common and
/// a recipe is of no use: packages and archives.
#[must_use]
pub fn is_compressed(head: &[u8]) -> bool {
    const MAGICS: [&[u8]; 8] = [
        b"!<arch>\n",        // ar: .deb
        b"\xed\xab\xee\xdb", // .rpm
        b"\x1f\x8b",         // gzip
        b"\xfd7zXZ\0",       // xz
        b"\x28\xb5\x2f\xfd", // zstd
        b"BZh",              // bzip2
        b"PK\x03\x04",       // zip
        b"\x04\x22\x4d\x18", // lz4
    ];
    MAGICS.iter().any(|magic| head.starts_with(magic))
}

#[cfg(test)]
mod tests;
