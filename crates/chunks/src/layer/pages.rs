//! Collecting a layer that comes in pages.

use p2pinst_types::{BlobRef, PieceIndex};

use super::{CV_LEN, LayerError, PieceLayer, expected_len};

/// Collects the pages of a layer as they come from a source, in order.
#[derive(Debug)]
pub struct LayerPages {
    blob: BlobRef,
    expected: usize,
    bytes: Vec<u8>,
}

impl LayerPages {
    /// Begins to collect. Memory grows with the pages that come, to 32 bytes per piece at most.
    ///
    /// # Errors
    /// When the blob has more than [`super::MAX_PIECES`] pieces.
    pub fn new(blob: BlobRef) -> Result<Self, LayerError> {
        Ok(Self { blob, expected: expected_len(&blob)?, bytes: Vec::new() })
    }

    /// The piece at which the next page must begin; `None` when all pages are there.
    #[must_use]
    pub fn next_page(&self) -> Option<PieceIndex> {
        let have = u32::try_from(self.bytes.len() / CV_LEN).ok()?;
        (self.bytes.len() < self.expected).then_some(PieceIndex(have))
    }

    /// Takes the next page.
    ///
    /// # Errors
    /// When it is not the next page: the source does not follow the protocol.
    pub fn push(&mut self, from: PieceIndex, page: &[u8]) -> Result<(), LayerError> {
        let fits = self.bytes.len() + page.len() <= self.expected;
        let whole = !page.is_empty() && page.len().is_multiple_of(CV_LEN);
        if self.next_page() != Some(from) || !fits || !whole {
            return Err(LayerError::Page { root: self.blob.root, from, got: page.len() });
        }
        self.bytes.extend_from_slice(page);
        Ok(())
    }

    /// The verified layer.
    ///
    /// # Errors
    /// When pages are missing or the whole does not merge to the root: one of the sources lied.
    pub fn finish(self) -> Result<PieceLayer, LayerError> {
        PieceLayer::new(self.blob, self.bytes)
    }
}
