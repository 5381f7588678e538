//! What was understood, written as a new archive in pax format.

use std::io::{self, Write};

use tar::{EntryType, Header};

use super::{BLOCK, Entry, What, pax, sparse};

/// The longest a field of a plain header holds.
const FIELD: usize = 100;

/// Writes entries; their data follow through [`Writer::data`].
#[derive(Debug)]
pub struct Writer<W> {
    to: W,
    /// Bytes of data that the last entry still needs.
    left: u64,
    /// Zeros after them.
    fill: usize,
}

impl<W: Write> Writer<W> {
    /// Writes to `to`.
    pub fn new(to: W) -> Self {
        Self { to, left: 0, fill: 0 }
    }

    /// Begins an entry. Its data have to follow.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn begin(&mut self, entry: &Entry) -> io::Result<()> {
        let path = written_path(entry);
        let map = match &entry.what {
            What::Sparse { map, .. } => sparse::write(map),
            _ => Vec::new(),
        };
        let size = entry.data.saturating_add(map.len() as u64);
        let records = records(entry, &path);
        if !records.is_empty() {
            let mut header = Header::new_ustar();
            header.set_entry_type(EntryType::XHeader);
            set_field(&mut header.as_old_mut().name, b"pax");
            header.set_size(records.len() as u64);
            header.set_mode(0o644);
            self.block(header)?;
            self.to.write_all(&records)?;
            self.zeros(fill(records.len() as u64))?;
        }
        self.block(plain(entry, &path, size))?;
        self.to.write_all(&map)?;
        self.left = entry.data;
        self.fill = fill(size);
        Ok(())
    }

    /// Writes data of the entry that was begun.
    ///
    /// # Errors
    /// When they cannot be written, or are more than the entry has.
    pub fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.left = self
            .left
            .checked_sub(bytes.len() as u64)
            .ok_or_else(|| io::Error::other("an entry has more data than it said"))?;
        self.to.write_all(bytes)?;
        if self.left == 0 {
            let fill = std::mem::take(&mut self.fill);
            self.zeros(fill)?;
        }
        Ok(())
    }

    /// Writes the end.
    ///
    /// # Errors
    /// When it cannot be written, or data are missing.
    pub fn finish(mut self) -> io::Result<W> {
        if self.left > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.zeros(2 * BLOCK)?;
        self.to.flush()?;
        Ok(self.to)
    }

    fn block(&mut self, mut header: Header) -> io::Result<()> {
        header.set_cksum();
        self.to.write_all(header.as_bytes())
    }

    fn zeros(&mut self, count: usize) -> io::Result<()> {
        const ZEROS: [u8; 2 * BLOCK] = [0; 2 * BLOCK];
        self.to.write_all(ZEROS.get(..count).unwrap_or(&ZEROS))
    }
}

/// Zeros up to the next block.
pub(super) fn fill(len: u64) -> usize {
    let over = usize::try_from(len % BLOCK as u64).unwrap_or(0);
    (BLOCK - over) % BLOCK
}

/// Begins with `./`, and ends with a slash when it is a directory.
fn written_path(entry: &Entry) -> Vec<u8> {
    let mut path = b"./".to_vec();
    path.extend_from_slice(entry.place.as_bytes());
    if entry.what == What::Dir && !entry.place.is_target() {
        path.push(b'/');
    }
    path
}

fn link(entry: &Entry) -> Option<Vec<u8>> {
    match &entry.what {
        What::HardLink(to) => Some([b"./", to.as_bytes()].concat()),
        What::Symlink(to) => Some(to.clone()),
        _ => None,
    }
}

fn records(entry: &Entry, path: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    if let What::Sparse { len, .. } = &entry.what {
        pax::push(&mut out, b"GNU.sparse.major", b"1");
        pax::push(&mut out, b"GNU.sparse.minor", b"0");
        pax::push(&mut out, b"GNU.sparse.name", path);
        pax::push(&mut out, b"GNU.sparse.realsize", len.to_string().as_bytes());
    }
    if path.len() > FIELD {
        pax::push(&mut out, b"path", path);
    }
    if let Some(to) = link(entry).filter(|to| to.len() > FIELD) {
        pax::push(&mut out, b"linkpath", &to);
    }
    if whole_seconds(&entry.mtime).is_none() {
        pax::push(&mut out, b"mtime", entry.mtime.as_bytes());
    }
    for (name, value) in &entry.xattrs {
        pax::push(&mut out, &[b"SCHILY.xattr.", name.as_slice()].concat(), value);
    }
    for (key, acl) in [("access", &entry.acls.access), ("default", &entry.acls.default)] {
        if let Some(acl) = acl {
            pax::push(&mut out, format!("SCHILY.acl.{key}").as_bytes(), acl);
        }
    }
    out
}

/// Seconds that fit into eleven octal digits.
fn whole_seconds(mtime: &str) -> Option<u64> {
    mtime.parse().ok().filter(|seconds| *seconds < 1 << 33)
}

fn plain(entry: &Entry, path: &[u8], size: u64) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(match &entry.what {
        What::File | What::Sparse { .. } => EntryType::Regular,
        What::Dir => EntryType::Directory,
        What::HardLink(_) => EntryType::Link,
        What::Symlink(_) => EntryType::Symlink,
        What::Device { block: true, .. } => EntryType::Block,
        What::Device { block: false, .. } => EntryType::Char,
        What::Fifo => EntryType::Fifo,
    });
    set_field(&mut header.as_old_mut().name, path);
    if let Some(to) = link(entry) {
        set_field(&mut header.as_old_mut().linkname, &to);
    }
    header.set_mode(entry.mode);
    header.set_uid(entry.uid.into());
    header.set_gid(entry.gid.into());
    header.set_mtime(whole_seconds(&entry.mtime).unwrap_or(0));
    header.set_size(size);
    if let (What::Device { major, minor, .. }, Some(ustar)) = (&entry.what, header.as_ustar_mut()) {
        ustar.set_device_major(*major);
        ustar.set_device_minor(*minor);
    }
    header
}

fn set_field(field: &mut [u8; FIELD], value: &[u8]) {
    for (to, from) in field.iter_mut().zip(value) {
        *to = *from;
    }
}
