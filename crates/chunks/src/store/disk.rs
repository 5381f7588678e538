//! The store's files: names, formats, room on the disk.
//!
//! One flat directory, so that every rename stays within it and one fsync makes it durable:
//!
//! | file | content |
//! |---|---|
//! | `<root>.blob` | a complete blob, byte for byte |
//! | `<root>.part` | a partial blob, allocated in full, with holes where pieces are missing |
//! | `<root>.have` | which pieces of the `.part` are durable, with a checksum |
//! | `<root>.layer` | geometry and piece layer, of a complete or a partial blob |
//! | `<root>.recipe` | which blob is the recipe of this one (`recipes`) |
//! | `.tmp-*` | something being taken in; removed when the store is opened |

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use p2pinst_files::{Context, FileError};
use p2pinst_types::{BlobRef, Hash};
use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use super::error::NoSpace;
use crate::bitmap::Bitmap;
use crate::layer::{CV_LEN, LayerError, MAX_PIECES, PieceLayer};

/// Prefix of temporary files.
pub(super) const TEMP_PREFIX: &str = ".tmp-";
/// First bytes of a `.layer` file; the last is the version of the format.
const LAYER_MAGIC: [u8; 8] = *b"p2pilyr\x01";
/// First bytes of a `.have` file; the last is the version of the format.
const HAVE_MAGIC: [u8; 8] = *b"p2pihav\x01";
/// Magic, root, length, piece size, checksum of those.
const LAYER_HEADER: usize = 8 + Hash::LEN + 8 + 1 + 8;
/// Magic, root, number of pieces; the bits and a blake3 of all follow.
const HAVE_HEADER: usize = 8 + Hash::LEN + 4;

/// The kinds of file that a blob has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Blob,
    Part,
    Have,
    Layer,
    Recipe,
}

impl Kind {
    const fn ext(self) -> &'static str {
        match self {
            Self::Blob => "blob",
            Self::Part => "part",
            Self::Have => "have",
            Self::Layer => "layer",
            Self::Recipe => "recipe",
        }
    }

    /// The path of a blob's file of this kind.
    pub(super) fn path(self, dir: &Path, root: &Hash) -> PathBuf {
        dir.join(format!("{root}.{}", self.ext()))
    }

    /// Reads a file name back; `None` for files that are not ours.
    pub(super) fn parse(name: &str) -> Option<(Hash, Self)> {
        let (stem, ext) = name.split_once('.')?;
        let all = [Self::Blob, Self::Part, Self::Have, Self::Layer, Self::Recipe];
        let kind = all.into_iter().find(|k| k.ext() == ext)?;
        Some((stem.parse().ok()?, kind))
    }
}

/// A `.layer` file: little-endian numbers, then 32 bytes per piece.
pub(super) fn encode_layer(layer: &PieceLayer) -> Vec<u8> {
    let blob = layer.blob();
    let mut out = Vec::with_capacity(LAYER_HEADER + layer.as_bytes().len());
    out.extend_from_slice(&LAYER_MAGIC);
    out.extend_from_slice(blob.root.as_bytes());
    out.extend_from_slice(&blob.len().to_le_bytes());
    out.push(u8::try_from(blob.piece_len().trailing_zeros()).unwrap_or(u8::MAX));
    let sum = Hash::of(&out);
    out.extend_from_slice(sum.as_bytes().first_chunk::<8>().unwrap_or(&[0; 8]));
    out.extend_from_slice(layer.as_bytes());
    out
}

/// The geometry in the header of a `.layer` file; `None` when it is damaged or of another version.
fn decode_layer_header(bytes: &[u8; LAYER_HEADER]) -> Option<BlobRef> {
    let (signed, sum) = bytes.split_last_chunk::<8>()?;
    let (magic, rest) = signed.split_first_chunk::<8>()?;
    let (root, rest) = rest.split_first_chunk::<{ Hash::LEN }>()?;
    let (len, log2) = rest.split_first_chunk::<8>()?;
    let ([log2], true) = (log2, *magic == LAYER_MAGIC) else { return None };
    if !Hash::of(signed).as_bytes().starts_with(sum) {
        return None;
    }
    let blob = BlobRef::with_piece_log2(Hash(*root), u64::from_le_bytes(*len), *log2).ok()?;
    (blob.pieces() <= MAX_PIECES).then_some(blob)
}

/// Reads the geometry from a `.layer` file; `None` when it is damaged or not that blob's.
pub(super) fn read_layer_header(dir: &Path, root: &Hash) -> Result<Option<BlobRef>, FileError> {
    let path = Kind::Layer.path(dir, root);
    let mut bytes = [0; LAYER_HEADER];
    match File::open(&path).and_then(|mut f| f.read_exact(&mut bytes)) {
        Ok(()) => Ok(decode_layer_header(&bytes).filter(|b| b.root == *root)),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(e) => Err(e).context("read", &path),
    }
}

/// Reads and verifies a whole `.layer` file.
pub(super) fn read_layer(
    dir: &Path,
    blob: BlobRef,
) -> Result<Result<PieceLayer, LayerError>, FileError> {
    let path = Kind::Layer.path(dir, &blob.root);
    let max = LAYER_HEADER + MAX_PIECES as usize * CV_LEN;
    let mut bytes = match fs::metadata(&path) {
        Ok(meta) if meta.len() <= max as u64 => fs::read(&path).context("read", &path)?,
        Ok(_) => Vec::new(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(e) => return Err(e).context("read", &path),
    };
    if bytes.len() < LAYER_HEADER {
        return Ok(Err(LayerError::Mismatch { root: blob.root }));
    }
    bytes.drain(..LAYER_HEADER);
    Ok(PieceLayer::new(blob, bytes))
}

/// A `.have` file.
pub(super) fn encode_have(root: &Hash, have: &Bitmap) -> Vec<u8> {
    let mut out = HAVE_MAGIC.to_vec();
    out.extend_from_slice(root.as_bytes());
    out.extend_from_slice(&have.pieces().to_le_bytes());
    have.encode(&mut out);
    let sum = Hash::of(&out);
    out.extend_from_slice(sum.as_bytes());
    out
}

/// Reads a `.have` file back; `None` when it is torn, damaged, or not this blob's.
pub(super) fn decode_have(blob: &BlobRef, bytes: &[u8]) -> Option<Bitmap> {
    let (signed, sum) = bytes.split_last_chunk::<{ Hash::LEN }>()?;
    let (header, bits) = signed.split_at_checked(HAVE_HEADER)?;
    let mut expected = HAVE_MAGIC.to_vec();
    expected.extend_from_slice(blob.root.as_bytes());
    expected.extend_from_slice(&blob.pieces().to_le_bytes());
    if header != expected || Hash::of(signed).as_bytes() != sum {
        return None;
    }
    Bitmap::decode(blob.pieces(), bits).ok()
}

/// Reads which pieces of a partial blob are durable: none when there is no such file or it cannot
/// be trusted.
pub(super) fn read_have(dir: &Path, blob: &BlobRef) -> Result<Bitmap, FileError> {
    let path = Kind::Have.path(dir, &blob.root);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Bitmap::new(blob.pieces())),
        Err(e) => return Err(e).context("read", &path),
    };
    Ok(decode_have(blob, &bytes).unwrap_or_else(|| {
        tracing::warn!(path = %path.display(), "The record of pieces is damaged; they are fetched again.");
        Bitmap::new(blob.pieces())
    }))
}

/// Removes a file; whether there was one.
pub(super) fn unlink(path: &Path) -> Result<bool, FileError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e).context("remove", path),
    }
}

/// Bytes free for us on the filesystem of the directory.
pub(super) fn free(dir: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(dir)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Gives a file its full length and, where the filesystem can, its room on the disk.
pub(super) fn allocate(
    file: &File,
    len: u64,
    dir: &Path,
    path: &Path,
) -> Result<Result<(), NoSpace>, FileError> {
    let free = free(dir).context("ask for the free space of", dir)?;
    let full = NoSpace { path: dir.to_owned(), needed: len, free };
    if len > free {
        return Ok(Err(full));
    }
    if len == 0 {
        return Ok(Ok(()));
    }
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, len) {
        Ok(()) => Ok(Ok(())),
        Err(Errno::NOSPC) => Ok(Err(full)),
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => file.set_len(len).context("allocate", path).map(Ok),
        Err(e) => Err(io::Error::from(e)).context("allocate", path),
    }
}

#[cfg(test)]
mod tests {
    use p2pinst_types::PieceIndex;

    use super::*;
    use crate::layer::LayerBuilder;

    fn layer(len: usize) -> PieceLayer {
        let mut builder = LayerBuilder::new(len as u64).unwrap();
        builder.update(&vec![7; len]);
        builder.finish().unwrap()
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    #[test]
    fn golden_layer_file() {
        let layer = layer(65_537);
        let bytes = encode_layer(&layer);
        assert_eq!(hex(&bytes), GOLDEN_LAYER);
        let header: &[u8; LAYER_HEADER] = bytes.first_chunk().unwrap();
        assert_eq!(decode_layer_header(header), Some(*layer.blob()));
        for at in 0..LAYER_HEADER {
            let mut torn = *header;
            torn[at] ^= 1;
            assert_eq!(decode_layer_header(&torn), None, "byte {at}");
        }
    }

    #[test]
    fn golden_have_file() {
        let blob = *layer(32_769 + 32_768 * 9).blob();
        let mut have = Bitmap::new(blob.pieces());
        [1, 8, 10].into_iter().for_each(|i| assert!(have.set(PieceIndex(i))));
        let bytes = encode_have(&blob.root, &have);
        assert_eq!(hex(&bytes), GOLDEN_HAVE);
        assert_eq!(decode_have(&blob, &bytes), Some(have));
        for at in 0..bytes.len() {
            let mut torn = bytes.clone();
            torn[at] ^= 1;
            assert_eq!(decode_have(&blob, &torn), None, "byte {at}");
            assert_eq!(decode_have(&blob, &bytes[..at]), None, "cut at {at}");
        }
    }

    const GOLDEN_LAYER: &str = concat!(
        "703270696c797201", // magic, version
        "f307c845a2672d8128daa1dd615acda17c5d21a2c818d19b2dc4a2de2a26a234", // root
        "0100010000000000", // length
        "0f",               // piece size
        "e81e1be49beb6ac0", // checksum
        "9f3371d2f1c7e5a9b93af6ecc6ee656677cfdad6cf45f8c798ecca840a4cf5ac", // piece 0
        "742a645ceb45997257a75eb0d52701ca2f4a15567ad0105b4da65f3f2a34ad0c", // piece 1
        "65b271667a0a6e6a94cdbf0eebc721de5d1cff41e1c74335f9b41c5674d56b03", // piece 2
    );
    const GOLDEN_HAVE: &str = concat!(
        "7032706968617601", // magic, version
        "33d53d7e9237e0dd2c5b1e1b15add6513b85d95438610c4676f4fff0ed41ce2f", // root
        "0b000000",         // pieces
        "0205",             // bits
        "6e585ce49731fcfb598db4ebb35dd9259046e483c41fa1cbc456c41a1f16dafb", // checksum
    );

    #[test]
    fn names_read_back() {
        let root = Hash::of(b"x");
        for kind in [Kind::Blob, Kind::Part, Kind::Have, Kind::Layer, Kind::Recipe] {
            let path = kind.path(Path::new("d"), &root);
            let name = path.file_name().unwrap().to_str().unwrap();
            assert_eq!(Kind::parse(name), Some((root, kind)));
        }
        assert_eq!(Kind::parse("lock"), None);
        assert_eq!(Kind::parse("00.blob"), None);
        assert_eq!(Kind::parse(&format!("{root}.other")), None);
    }
}
