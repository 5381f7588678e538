//! Images: what is published, how it gets onto a disk, how it is taken from one.
//!
//! Owns the formats: partition tables and superblocks ([`layout`]), tar ([`archive`], [`rootfs`]), what other people's formats become
//! ([`mod@prepare`]). Never writes a raw image's pieces to a disk: the piece store does. Blocking; what is read is distrusted and
//! bounded; what well-kept programs do well is theirs (qemu-img, GNU tar, e2image, xfs_copy).

pub mod archive;
pub mod capture;
pub mod format;
mod holes;
pub mod inspect;
pub mod layout;
pub mod prepare;
mod process;
pub mod rootfs;
pub mod seal;
mod source;
mod tree;
pub mod verify;

pub use self::capture::capture;
pub use self::inspect::inspect;
pub use self::prepare::{Prepared, prepare};
pub use self::process::Watch;
pub use self::seal::seal;
pub use self::source::{ReadAt, Source};
pub use self::tree::Rootfs;
