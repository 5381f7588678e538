//! The recipes of blobs: blobs of the store themselves, that come and go with those which they describe.
//!
//! Which recipe belongs to a blob stands in a small file beside it, and only for a recipe that was made here,
//! of the blob's own bytes: as the cuts depend on nothing else, all nodes make the same. A crash leaves a recipe
//! without a name, which is a blob that nobody needs, or a name without a recipe, which says nothing.
//!
//! A recipe that came from a peer is a hint for as long as the blob is not whole: it is given on, and nothing
//! else; the store does not hide it, and does not remove it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::path::Path;

use p2pinst_files::{Access, Context, FileError};
use p2pinst_types::{BlobRef, Hash, PieceIndex};
use thiserror::Error;

use super::disk::{self, Kind};
use super::{BlobStore, IngestError, Inner, ReadError};
use crate::recipe::{Named, Recipe, RecipeError, Seed, WORTH, most_bytes};

/// First bytes of a `.recipe` file; the last is the version of the format.
const MAGIC: [u8; 8] = *b"p2pircs\x01";
/// Magic, root, the recipe's root, length and piece size, zeros; a blake3 of all follows.
const LEN: usize = 8 + Hash::LEN + Hash::LEN + 8 + 1 + 8;

/// A recipe was not kept.
#[derive(Debug, Error)]
pub enum RecipeStoreError {
    /// It cannot be one of that blob.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    /// It could not be taken in.
    #[error("cannot store the recipe: {0}")]
    Ingest(#[from] IngestError),
    /// It could not be read back.
    #[error("cannot read the recipe: {0}")]
    Read(#[from] ReadError),
    /// The store does not have the blob that it describes.
    #[error("blob {} is not in the store", root.short())]
    Unknown {
        /// The blob.
        root: Hash,
    },
    /// The file that names it could not be written.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Which recipe belongs to which blob.
#[derive(Debug, Default)]
pub(super) struct Recipes {
    of: BTreeMap<Hash, Named>,
    owner: BTreeMap<Hash, Hash>,
    /// What peers say of blobs that are not whole.
    hints: BTreeMap<Hash, Named>,
    /// Blobs that were looked at, and for which none is of use.
    useless: BTreeSet<Hash>,
}

impl Recipes {
    fn set(&mut self, root: Hash, named: Named) {
        self.unset(&root);
        self.hints.remove(&root);
        self.owner.insert(named.blob.root, root);
        self.of.insert(root, named);
    }

    fn unset(&mut self, root: &Hash) -> Option<Named> {
        let named = self.of.remove(root)?;
        self.owner.remove(&named.blob.root);
        Some(named)
    }

    pub(super) fn owner(&self, recipe: &Hash) -> Option<Hash> {
        self.owner.get(recipe).copied()
    }
}

/// A `.recipe` file: little-endian numbers.
pub(super) fn encode(root: &Hash, named: &Named) -> Vec<u8> {
    let blob = &named.blob;
    let mut out = MAGIC.to_vec();
    out.extend_from_slice(root.as_bytes());
    out.extend_from_slice(blob.root.as_bytes());
    out.extend_from_slice(&blob.len().to_le_bytes());
    out.push(u8::try_from(blob.piece_len().trailing_zeros()).unwrap_or(u8::MAX));
    out.extend_from_slice(&named.zeros.to_le_bytes());
    let sum = Hash::of(&out);
    out.extend_from_slice(sum.as_bytes());
    out
}

/// Reads a `.recipe` file back; `None` when it is torn, damaged, or not this blob's.
pub(super) fn decode(root: &Hash, bytes: &[u8]) -> Option<Named> {
    let (said, sum) = bytes.split_last_chunk::<{ Hash::LEN }>()?;
    if said.len() != LEN || Hash::of(said).as_bytes() != sum {
        return None;
    }
    let (magic, rest) = said.split_first_chunk::<8>()?;
    let (of, rest) = rest.split_first_chunk::<{ Hash::LEN }>()?;
    let (recipe, rest) = rest.split_first_chunk::<{ Hash::LEN }>()?;
    let (len, rest) = rest.split_first_chunk::<8>()?;
    let ([log2], zeros) = rest.split_first_chunk::<1>()?;
    if *magic != MAGIC || of != root.as_bytes() {
        return None;
    }
    let len = u64::from_le_bytes(*len);
    let blob = BlobRef::with_piece_log2(Hash(*recipe), len, *log2).ok()?;
    Some(Named { blob, zeros: u64::from_le_bytes(zeros.try_into().ok()?) })
}

/// Reads what stands beside blobs when the store is opened; files beside nothing, and those that are
/// damaged, go.
pub(super) fn recall(
    dir: &Path,
    roots: &[Hash],
    has: impl Fn(&Hash) -> bool,
) -> Result<Recipes, FileError> {
    let mut recipes = Recipes::default();
    for root in roots {
        let path = Kind::Recipe.path(dir, root);
        let named = match fs::metadata(&path) {
            Ok(meta) if meta.len() == (LEN + Hash::LEN) as u64 => {
                fs::read(&path).ok().and_then(|bytes| decode(root, &bytes))
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            // what cannot be read is made anew
            Ok(_) | Err(_) => None,
        };
        match named.filter(|_| has(root)) {
            Some(named) => recipes.set(*root, named),
            None => drop(disk::unlink(&path)?),
        }
    }
    Ok(recipes)
}

impl BlobStore {
    /// The recipe of a blob, if it is here, whole; of a blob that is not, what peers say is its recipe.
    #[must_use]
    pub fn recipe(&self, root: &Hash) -> Option<Named> {
        let hint = || self.inner.read_recipes(|r| r.hints.get(root).copied());
        let named = self.own_recipe(root).or_else(hint)?;
        self.inner.entry(&named.blob.root).filter(|e| e.is_complete()).map(|_| named)
    }

    /// The recipe that was made here.
    pub(super) fn own_recipe(&self, root: &Hash) -> Option<Named> {
        let named = self.inner.read_recipes(|r| r.of.get(root).copied())?;
        self.inner.entry(&named.blob.root).filter(|e| e.is_complete()).map(|_| named)
    }

    /// The blob that a recipe describes, if this is one.
    #[must_use]
    pub fn recipe_of(&self, recipe: &Hash) -> Option<Hash> {
        self.inner.read_recipes(|r| r.owner(recipe)).filter(|root| self.inner.entry(root).is_some())
    }

    /// Takes in the recipe of a blob that is here, at least in part. It was made here: nobody checks it.
    ///
    /// # Errors
    /// When the blob is not here, or the disk is full or fails.
    pub fn put_recipe(&self, recipe: &Recipe) -> Result<Named, RecipeStoreError> {
        let bytes = recipe.encode();
        let len = bytes.len() as u64;
        let mut builder = crate::LayerBuilder::new(len).map_err(IngestError::from)?;
        builder.update(&bytes);
        let layer = builder.finish().map_err(IngestError::from)?;
        let named = Named { blob: *layer.blob(), zeros: recipe.zeros() };
        self.ingest_plain(&mut bytes.as_slice(), len)?;
        self.name_recipe(recipe.root(), named)?;
        Ok(named)
    }

    /// Makes the recipe of a blob that is whole, unless it has one; `None`: none is of use. Reads all of it, as
    /// long as `go_on` says so.
    ///
    /// # Errors
    /// When the blob is not here or cannot be read, it was told to stop, or the recipe cannot be stored.
    pub fn make_recipe(
        &self,
        root: &Hash,
        go_on: &dyn Fn() -> bool,
    ) -> Result<Option<Named>, RecipeStoreError> {
        if let Some(named) = self.own_recipe(root) {
            return Ok(Some(named));
        }
        let unknown = || RecipeStoreError::Unknown { root: *root };
        let blob = self.inner.entry(root).ok_or_else(unknown)?.blob;
        let path = self.path(root).ok_or_else(unknown)?;
        let mut file = File::open(&path).context("open", &path)?;
        let chunks = self.cook(&blob, &mut file, go_on).context("read", &path)?;
        let Some(chunks) = chunks else {
            self.wants_no_recipe(root);
            return Ok(None);
        };
        let recipe = Recipe::new(&blob, chunks).inspect_err(|_| self.wants_no_recipe(root))?;
        self.put_recipe(&recipe).map(Some)
    }

    /// A blob was looked at, and a recipe is of no use.
    pub(super) fn wants_no_recipe(&self, root: &Hash) {
        self.inner.write_recipes(|r| {
            r.hints.remove(root);
            r.useless.insert(*root);
        });
    }

    /// Blobs that are whole and may want a recipe.
    #[must_use]
    pub fn without_recipe(&self) -> Vec<Hash> {
        let all = self.inner.all();
        let in_store = all.iter().filter(|e| e.is_complete() && e.target().is_none());
        let whole = in_store.filter(|e| e.blob.len() >= WORTH);
        let roots = whole.map(|e| e.blob.root);
        let known = |root: &Hash| {
            self.own_recipe(root).is_some()
                || self.inner.read_recipes(|r| r.useless.contains(root) || r.owner(root).is_some())
        };
        roots.filter(|root| !known(root)).collect()
    }

    /// Reads a recipe that came from a peer, if that is what it is, and gives it on as long as the blob has
    /// none of its own.
    ///
    /// # Errors
    /// When it is not whole, or not the recipe of that blob.
    pub fn adopt_recipe(&self, blob: &BlobRef, from: &BlobRef) -> Result<Recipe, RecipeStoreError> {
        let recipe = self.read_recipe(blob, from)?;
        let named = Named { blob: *from, zeros: recipe.zeros() };
        if self.inner.entry(&blob.root).is_some_and(|e| !e.is_complete()) {
            self.inner.write_recipes(|r| r.hints.insert(blob.root, named));
        }
        Ok(recipe)
    }

    /// What peers said is the recipe of a blob is not.
    pub fn drop_hint(&self, root: &Hash) {
        self.inner.write_recipes(|r| r.hints.remove(root));
    }

    /// The recipe of a blob with what is in it.
    ///
    /// # Errors
    /// When there is none, or the disk has damaged it.
    pub fn load_recipe(&self, root: &Hash) -> Result<Recipe, RecipeStoreError> {
        let unknown = || RecipeStoreError::Unknown { root: *root };
        let blob = self.inner.entry(root).ok_or_else(unknown)?.blob;
        let named = self.own_recipe(root).ok_or_else(unknown)?;
        self.read_recipe(&blob, &named.blob)
    }

    fn read_recipe(&self, blob: &BlobRef, from: &BlobRef) -> Result<Recipe, RecipeStoreError> {
        if from.len() > most_bytes(blob.len()) {
            return Err(RecipeError::Length { expected: blob.len() }.into());
        }
        let (mut bytes, mut piece) = (Vec::new(), Vec::new());
        for index in from.indices() {
            self.read_piece(&from.root, index, &mut piece)?;
            bytes.append(&mut piece);
        }
        Ok(Recipe::decode(blob, &bytes)?)
    }

    fn name_recipe(&self, root: &Hash, named: Named) -> Result<(), RecipeStoreError> {
        let inner = &*self.inner;
        let _shape = super::entry::lock(&inner.shape);
        if inner.entry(root).is_none() {
            return Err(RecipeStoreError::Unknown { root: *root });
        }
        let path = inner.file(Kind::Recipe, root);
        p2pinst_files::write(&path, &encode(root, &named), Access::Public)?;
        inner.write_recipes(|r| r.set(*root, named));
        Ok(())
    }

    /// Complete blobs with recipes, those used last first: what a new blob may have in common with.
    #[must_use]
    pub fn seeds(&self, most: usize) -> Vec<BlobRef> {
        let inner = &*self.inner;
        let roots: Vec<Hash> = inner.read_recipes(|r| r.of.keys().copied().collect());
        let here = |root: &Hash| inner.entry(root).filter(|e| e.is_complete());
        let with_recipe = roots.iter().filter(|root| self.own_recipe(root).is_some());
        let mut seeds: Vec<_> = with_recipe.filter_map(here).collect();
        seeds.sort_by_key(|e| std::cmp::Reverse(e.usage.last()));
        seeds.iter().take(most).map(|e| e.blob).collect()
    }

    /// Opens a complete blob as a seed; `None` when it is gone. It stays readable when it is removed.
    #[must_use]
    pub fn open_seed(&self, root: &Hash) -> Option<Seed> {
        File::open(self.path(root)?).ok().map(Seed::new)
    }

    /// Whether a piece of a blob can be read.
    #[must_use]
    pub fn has(&self, root: &Hash, piece: PieceIndex) -> bool {
        self.inner.entry(root).is_some_and(|e| e.has(piece) == Some(true))
    }
}

impl Inner {
    fn read_recipes<T>(&self, look: impl FnOnce(&Recipes) -> T) -> T {
        look(&self.recipes.read().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    fn write_recipes<T>(&self, change: impl FnOnce(&mut Recipes) -> T) -> T {
        change(&mut self.recipes.write().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// The blob goes: the recipe that goes with it. The file that names it goes with the blob's own.
    pub(super) fn forget_recipe(&self, root: &Hash) -> Option<Hash> {
        self.write_recipes(|r| {
            r.hints.remove(root);
            r.useless.remove(root);
            r.unset(root)
        })
        .map(|named| named.blob.root)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    #[test]
    fn golden_recipe_file() {
        let root = Hash([0xab; 32]);
        let blob = BlobRef::with_piece_log2(Hash([0xcd; 32]), 70_000, 16).unwrap();
        let named = Named { blob, zeros: 0x0102_0304 };
        let bytes = encode(&root, &named);
        let golden = format!(
            "7032706972637301{}{}7011010000000000100403020100000000",
            "ab".repeat(32),
            "cd".repeat(32)
        );
        assert_eq!(hex(&bytes[..LEN]), golden, "magic, blob, recipe, length, piece, zeros");
        assert_eq!(bytes[LEN..], *Hash::of(&bytes[..LEN]).as_bytes(), "checksum");
        assert_eq!(decode(&root, &bytes), Some(named));
        assert_eq!(decode(&Hash([1; 32]), &bytes), None);
        for at in 0..bytes.len() {
            let mut torn = bytes.clone();
            torn[at] ^= 1;
            assert_eq!(decode(&root, &torn), None, "byte {at}");
            assert_eq!(decode(&root, &bytes[..at]), None, "cut at {at}");
        }
    }
}
