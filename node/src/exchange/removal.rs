//! Removing blobs that others may be fetching: their streams end at once, and they go on elsewhere.

use std::collections::BTreeSet;

use p2pinst_chunks::store::SyncError;
use p2pinst_types::Hash;

use super::{Exchange, lock};

impl Exchange {
    /// The blobs that are being sent to somebody, or that somebody waits for.
    #[must_use]
    pub fn serving(&self) -> BTreeSet<Hash> {
        lock(&self.shared.uploads).serve.in_use()
    }

    /// Removes a blob with its recipe; whether it was there. Blocking. Who is fetching it is told that it is gone: the
    /// stream is closed, and a new one is answered with *not found*.
    ///
    /// # Errors
    /// When a file cannot be removed; the blob is gone all the same.
    pub fn remove(&self, root: &Hash) -> Result<bool, SyncError> {
        let recipe = self.blobs.recipe(root).map(|named| named.blob.root);
        let removed = self.blobs.remove(root);
        lock(&self.shared.uploads).serve.unseed(root);
        // streams that watch it look at its status, and find none
        for gone in recipe.iter().chain([root]) {
            lock(&self.shared.progress).remove(gone);
        }
        self.net.withdraw_soon(*root);
        removed
    }
}
