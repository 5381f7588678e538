//! What can go wrong with the store, by what was attempted.

use std::io;
use std::path::PathBuf;

use p2pinst_files::FileError;
use p2pinst_types::piece::GeometryError;
use p2pinst_types::{Hash, PieceIndex};
use thiserror::Error;

use crate::layer::{LayerError, LengthError, PieceError};

/// The store is not usable.
#[derive(Debug, Error)]
pub enum StoreError {
    /// Another process has it.
    #[error("the blob store {} is in use by another process; stop that one first", path.display())]
    InUse {
        /// The store's directory.
        path: PathBuf,
    },
    /// A file could not be used.
    #[error(transparent)]
    File(#[from] FileError),
}

/// There is not enough room on the disk.
#[derive(Debug, Clone, Error)]
#[error(
    "{} has room for {free} bytes and {needed} are needed; free some space or move the data directory",
    path.display()
)]
pub struct NoSpace {
    /// The store's directory.
    pub path: PathBuf,
    /// Bytes that the blob needs.
    pub needed: u64,
    /// Bytes that are free.
    pub free: u64,
}

/// A blob was not taken in. Nothing of it is left behind.
#[derive(Debug, Error)]
pub enum IngestError {
    /// No blob may be that long.
    #[error(transparent)]
    TooLong(#[from] GeometryError),
    /// The input was shorter or longer than announced: it changed while it was read.
    #[error("the input changed while it was read: {0}")]
    Length(#[from] LengthError),
    /// The input could not be read.
    #[error("cannot read the input: {0}")]
    Input(#[source] io::Error),
    /// The disk is full.
    #[error(transparent)]
    NoSpace(#[from] NoSpace),
    /// A file of the store could not be written.
    #[error(transparent)]
    File(#[from] FileError),
}

/// A partial blob was not begun. Nothing of it is left behind.
#[derive(Debug, Error)]
pub enum BeginError {
    /// The store has this root with another length or piece size.
    #[error("blob {} is already here, cut in other pieces", root.short())]
    OtherShape {
        /// The blob.
        root: Hash,
    },
    /// It is in the store, and belongs onto a disk, or onto another one.
    #[error("blob {} is already here: it cannot be written elsewhere too", root.short())]
    Elsewhere {
        /// The blob.
        root: Hash,
    },
    /// The disk is full.
    #[error(transparent)]
    NoSpace(#[from] NoSpace),
    /// A file of the store could not be written.
    #[error(transparent)]
    File(#[from] FileError),
}

/// A layer could not be loaded.
#[derive(Debug, Error)]
pub enum LayerReadError {
    /// The store does not have this blob, not even in part.
    #[error("blob {} is not in the store", root.short())]
    Unknown {
        /// The blob.
        root: Hash,
    },
    /// The stored layer is damaged, and the blob is not there to make it anew.
    #[error(transparent)]
    Damaged(#[from] LayerError),
    /// A file of the store could not be read.
    #[error(transparent)]
    File(#[from] FileError),
}

/// A piece was not stored.
#[derive(Debug, Error)]
pub enum PutError {
    /// The blob was not begun, or has been removed since.
    #[error("blob {} is not in the store", root.short())]
    Unknown {
        /// The blob.
        root: Hash,
    },
    /// The bytes are not that piece: whoever sent them is to be banned.
    #[error(transparent)]
    Bad(#[from] PieceError),
    /// The blob's layer cannot be used.
    #[error(transparent)]
    Layer(#[from] LayerReadError),
    /// A file could not be written. Pieces not yet on the disk may have been given up: ask
    /// [`super::BlobStore::status`] which are there.
    #[error(transparent)]
    File(#[from] FileError),
}

/// A piece was not read. Its bytes must not be used.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The store does not have this blob, not even in part.
    #[error("blob {} is not in the store", root.short())]
    Unknown {
        /// The blob.
        root: Hash,
    },
    /// That piece has not been fetched yet, or does not exist.
    #[error("piece {} of blob {} is not here", piece.0, root.short())]
    Missing {
        /// The blob.
        root: Hash,
        /// The piece.
        piece: PieceIndex,
    },
    /// The disk returned other bytes than were written. The damaged pieces of the blob have been
    /// given up: it is partial now and can be fetched again.
    #[error("piece {} of blob {} is damaged on disk in {}; it will be fetched again", piece.0, root.short(), path.display())]
    Damaged {
        /// The blob.
        root: Hash,
        /// The piece.
        piece: PieceIndex,
        /// The file that holds it.
        path: PathBuf,
    },
    /// The blob's layer cannot be used.
    #[error(transparent)]
    Layer(#[from] LayerReadError),
    /// A file of the store could not be read.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Pieces could not be made durable, or a blob not be removed.
#[derive(Debug, Error)]
pub enum SyncError {
    /// The store does not have this blob, not even in part.
    #[error("blob {} is not in the store", root.short())]
    Unknown {
        /// The blob.
        root: Hash,
    },
    /// It was written onto another disk.
    #[error("blob {} is on {}, and not on {}", root.short(), is.display(), wanted.display())]
    Elsewhere {
        /// The blob.
        root: Hash,
        /// Where it is.
        is: PathBuf,
        /// Where it should be.
        wanted: PathBuf,
    },
    /// A file could not be written. Pieces not yet on the disk have been given up: ask
    /// [`super::BlobStore::status`] which are there.
    #[error(transparent)]
    File(#[from] FileError),
}
