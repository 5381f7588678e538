//! What of a blob is here already: pure.

use std::collections::HashMap;
use std::ops::Range;

use p2pinst_types::{BlobRef, Hash};

use super::{Chunk, Kind, Recipe};

/// Where a chunk is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Local {
    /// Which of the seeds has it.
    pub seed: usize,
    /// Where it begins there, in bytes.
    pub offset: u64,
}

/// Where a chunk comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// It is zeros.
    Zero,
    /// It is here.
    Local(Local),
    /// It has to be fetched.
    Missing,
}

/// A recipe, and what of it is here.
#[derive(Debug)]
pub struct Plan {
    blob: BlobRef,
    recipe: Recipe,
    /// Each hash of the recipe, its length, and where it was found.
    found: HashMap<Hash, (u32, Option<Local>)>,
    lacking: usize,
}

impl Plan {
    /// The plan for a blob of which nothing is here yet; `None`: the recipe is of another blob.
    #[must_use]
    pub fn new(blob: BlobRef, recipe: Recipe) -> Option<Self> {
        if recipe.root != blob.root || recipe.len != blob.len() {
            return None;
        }
        let mut found = HashMap::new();
        for chunk in &recipe.chunks {
            if let Kind::Data(hash) = chunk.kind {
                found.entry(hash).or_insert((chunk.len, None));
            }
        }
        let lacking = found.len();
        Some(Self { blob, recipe, found, lacking })
    }

    /// The blob.
    #[must_use]
    pub fn blob(&self) -> &BlobRef {
        &self.blob
    }

    /// Whether there is anything left to find.
    #[must_use]
    pub fn is_lacking(&self) -> bool {
        self.lacking > 0
    }

    /// How many different chunks have not been found.
    #[must_use]
    pub fn lacking(&self) -> usize {
        self.lacking
    }

    /// A seed has these chunks, the first of them at `offset`; where they end. What is found first counts.
    pub fn offer(&mut self, seed: usize, mut offset: u64, chunks: &[Chunk]) -> u64 {
        for chunk in chunks {
            if let Kind::Data(hash) = &chunk.kind
                && let Some((len, place @ None)) = self.found.get_mut(hash)
                && *len == chunk.len
            {
                *place = Some(Local { seed, offset });
                self.lacking -= 1;
            }
            offset = offset.saturating_add(u64::from(chunk.len));
        }
        offset
    }

    /// The chunks with the bytes of the blob that they are, in order.
    pub fn chunks(&self) -> impl Iterator<Item = (Range<u64>, Chunk, Place)> + '_ {
        let mut at = 0;
        self.recipe.chunks.iter().map(move |chunk| {
            let range = at..at + u64::from(chunk.len);
            at = range.end;
            (range, *chunk, self.place(chunk))
        })
    }

    fn place(&self, chunk: &Chunk) -> Place {
        match &chunk.kind {
            Kind::Zero => Place::Zero,
            Kind::Data(hash) => match self.found.get(hash) {
                Some((len, Some(local))) if *len == chunk.len => Place::Local(*local),
                _ => Place::Missing,
            },
        }
    }
}
