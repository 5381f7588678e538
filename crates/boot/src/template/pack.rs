//! A graph's directory as one archive, for publishing: equal files give equal bytes.
//!
//! A plain tar (POSIX.1-1988, "ustar") of regular files in the order of their names, all with one mode, owner and time.
//! Reading takes nothing else, and writes nothing: names are checked, and the files stay in memory.

use std::io::{self, Cursor, Read};

use tar::{Archive, Builder, EntryType, Header};
use thiserror::Error;

use super::files::{self, Files, FilesError};

/// Bytes of the longest archive: what the files may have, and for each a header, padding, and the end.
pub const ARCHIVE_MAX: u64 = files::BYTES + files::FILES as u64 * 1024 + 1024;

/// Why bytes are no archive of a graph.
#[derive(Debug, Error)]
pub enum UnpackError {
    /// Longer than any.
    #[error("the archive has {bytes} bytes, and no graph has more than {ARCHIVE_MAX}")]
    TooLarge {
        /// Its length.
        bytes: u64,
    },
    /// No archive, or not whole.
    #[error("the archive is damaged: {0}")]
    Damaged(#[source] io::Error),
    /// An entry that [`pack()`] does not write.
    #[error("the archive holds {name:?}, which is no regular file: pack the directory anew")]
    Kind {
        /// Its name.
        name: String,
    },
    /// A file that a graph cannot have.
    #[error("in the archive: {0}")]
    File(#[from] FilesError),
}

/// Packs files into one archive.
///
/// # Errors
/// Never for names that [`Files`] has; the archive's writer could say otherwise.
pub fn pack(files: &Files) -> io::Result<Vec<u8>> {
    let mut builder = Builder::new(Vec::new());
    for (name, text) in files.iter() {
        let mut header = Header::new_ustar();
        header.set_path(name)?;
        header.set_entry_type(EntryType::Regular);
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_cksum();
        builder.append(&header, text.as_bytes())?;
    }
    builder.into_inner()
}

/// Reads an archive of files.
///
/// # Errors
/// When it is too large, damaged, or holds something that a graph cannot hold.
pub fn unpack(archive: &[u8]) -> Result<Files, UnpackError> {
    let bytes = archive.len() as u64;
    if bytes > ARCHIVE_MAX {
        return Err(UnpackError::TooLarge { bytes });
    }
    let mut files = Files::new();
    let mut archive = Archive::new(Cursor::new(archive));
    // raw: extensions (long names, sparse files) are entries of their own, and refused as such
    for entry in archive.entries().map_err(UnpackError::Damaged)?.raw(true) {
        let mut entry = entry.map_err(UnpackError::Damaged)?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        if entry.header().entry_type() != EntryType::Regular {
            return Err(UnpackError::Kind { name: p2pinst_command::text(name.as_bytes()) });
        }
        let size = entry.size();
        if size > files::BYTES {
            return Err(FilesError::TooLarge { name }.into());
        }
        let mut content = Vec::new();
        entry.read_to_end(&mut content).map_err(UnpackError::Damaged)?;
        if content.len() as u64 != size {
            let short = io::Error::new(io::ErrorKind::UnexpectedEof, "it ends within a file");
            return Err(UnpackError::Damaged(short));
        }
        let text =
            String::from_utf8(content).map_err(|_| FilesError::Text { name: name.clone() })?;
        files.insert(&name, text)?;
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(name: &[u8], kind: EntryType, content: &[u8]) -> Vec<u8> {
        let mut header = Header::new_ustar();
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        header.set_cksum();
        let mut builder = Builder::new(Vec::new());
        builder.append(&header, content).unwrap();
        builder.into_inner().unwrap()
    }

    #[test]
    fn hostile_archives_are_refused() {
        let refused = |archive: &[u8]| unpack(archive).unwrap_err().to_string();
        for name in [&b"../x"[..], b"/etc/shadow", b"a/../../x", b".hidden", b"a b", b"\x1b[31m"] {
            let refused = refused(&entry(name, EntryType::Regular, b""));
            assert!(refused.contains("cannot be a file of a graph"), "{refused}");
            assert!(!refused.contains('\x1b'), "{refused:?}");
        }
        let kinds = [EntryType::Symlink, EntryType::Link, EntryType::Char, EntryType::GNULongName];
        for kind in kinds.into_iter().chain([EntryType::XHeader, EntryType::GNUSparse]) {
            assert!(refused(&entry(b"a", kind, b"")).contains("no regular file"), "{kind:?}");
        }
        assert!(refused(&entry(b"a", EntryType::Regular, b"\xff")).contains("no UTF-8"));
        let mut twice = entry(b"a", EntryType::Regular, b"x");
        twice.truncate(1024);
        twice.extend(entry(b"a", EntryType::Regular, b"y"));
        assert!(refused(&twice).contains("a is there twice"));
        let whole = entry(b"a", EntryType::Regular, &[b'x'; 600]);
        assert!(refused(&whole[..1000]).contains("ends within a file"));
        let mut lie = Header::new_ustar();
        lie.set_path("a").unwrap();
        lie.set_size(1 << 40);
        lie.set_cksum();
        assert!(refused(lie.as_bytes()).contains("too large"));
        assert!(refused(&vec![0; ARCHIVE_MAX as usize + 1]).contains("no graph has more"));
    }

    #[test]
    fn the_archive_is_a_plain_tar() {
        let mut files = Files::new();
        files.insert("graph.toml", "text\n".to_owned()).unwrap();
        let archive = pack(&files).unwrap();
        assert_eq!(archive.len(), 2048);
        assert_eq!(&archive[..10], b"graph.toml");
        assert_eq!(&archive[257..263], b"ustar\0");
        assert_eq!(&archive[512..517], b"text\n");
    }

    proptest! {
        #[test]
        fn packed_is_unpacked(texts in prop::collection::btree_map("[a-z]{1,9}(/[a-z]{1,9}){0,3}", ".{0,700}", 0..20)) {
            let (mut files, mut back) = (Files::new(), Files::new());
            for (name, text) in &texts {
                files.insert(name, text.clone()).unwrap();
            }
            for (name, text) in texts.iter().rev() {
                back.insert(name, text.clone()).unwrap();
            }
            let archive = pack(&files).unwrap();
            prop_assert_eq!(&archive, &pack(&back).unwrap());
            prop_assert!(archive.len() as u64 <= ARCHIVE_MAX);
            prop_assert_eq!(unpack(&archive).unwrap(), files);
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000), at in 0usize..2000, with: u8) {
            let _refused = unpack(&bytes);
            let mut archive = entry(b"graph.toml", EntryType::Regular, &[b'x'; 700]);
            if let Some(byte) = archive.get_mut(at) {
                *byte = with;
            }
            let _refused = unpack(&archive);
        }
    }
}
