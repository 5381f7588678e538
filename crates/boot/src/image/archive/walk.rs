//! The entries of an archive, one after the other, checked.

use std::io::{self, Read};

use tar::Header;

use super::path::Links;
use super::write::fill;
use super::{Acls, ArchiveError, BLOCK, Entry, Limits, Place, What, pax, shown, sparse};

/// A name in a GNU header of its own; longer than any path can be, so that the path is named in the refusal.
const NAME: u64 = 128 * 1024;
/// Root filesystems have no larger numbers of users; -1 is nobody's.
const ID_MAX: u64 = u32::MAX as u64 - 1;

type Record = (Vec<u8>, Vec<u8>);

/// Reads an archive's entries in order. After each, its data may be read; what is not read is skipped.
#[derive(Debug)]
pub struct Walker<R> {
    from: R,
    limits: Limits,
    links: Links,
    global: Vec<Record>,
    entries: u64,
    bytes: u64,
    /// Data of the entry at hand that nobody has read.
    left: u64,
    fill: usize,
    ended: bool,
}

/// Headers that say more of the entry that follows them.
#[derive(Default)]
struct Ahead {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    records: Vec<Record>,
}

impl<R: Read> Walker<R> {
    /// Reads the archive `from`.
    pub fn new(from: R, limits: Limits) -> Self {
        Self {
            from,
            limits,
            links: Links::default(),
            global: Vec::new(),
            entries: 0,
            bytes: 0,
            left: 0,
            fill: 0,
            ended: false,
        }
    }

    /// The next entry; none at the end.
    ///
    /// # Errors
    /// When the archive cannot be read, is damaged, or has what is refused.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, ArchiveError> {
        self.skip_data()?;
        let mut ahead = Ahead::default();
        let mut names = 0;
        while let Some(header) = self.header()? {
            // a flood of names for one entry would never end otherwise
            names += 1;
            if names > 64 {
                return Err(self.damaged("an entry has too many headers"));
            }
            let size = header.entry_size().map_err(|_| self.damaged("a size is no number"))?;
            match header.as_old().linkflag {
                [b'L'] => ahead.name = Some(self.name(size)?),
                [b'K'] => ahead.link = Some(self.name(size)?),
                [b'x'] => ahead.records = self.records(size)?,
                [b'g'] => {
                    let records = self.records(size)?;
                    let is_new = |(key, _): &&Record| !records.iter().any(|(k, _)| k == key);
                    let kept: Vec<_> = self.global.iter().filter(is_new).cloned().collect();
                    self.global = [kept, records].concat();
                    if self.global.len() > 1000 {
                        return Err(self.damaged("there are too many global records"));
                    }
                }
                // the name of the volume
                [b'V'] => self.skip(size, fill(size))?,
                _ => return self.entry(&header, size, ahead).map(Some),
            }
        }
        if ahead.name.is_some() || !ahead.records.is_empty() {
            return Err(ArchiveError::Cut { entries: self.entries });
        }
        Ok(None)
    }

    /// Reads data of the entry at hand.
    ///
    /// # Errors
    /// When they cannot be read, or the archive ends.
    pub fn data(&mut self, buffer: &mut [u8]) -> Result<usize, ArchiveError> {
        let want = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let Some(buffer) = buffer.get_mut(..want) else { return Ok(0) };
        if buffer.is_empty() {
            return Ok(0);
        }
        let n = loop {
            match self.from.read(buffer) {
                Ok(0) => return Err(ArchiveError::Cut { entries: self.entries }),
                Ok(n) => break n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(ArchiveError::Read(e)),
            }
        };
        self.left -= n as u64;
        Ok(n)
    }

    /// Whole entries so far.
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// Whether the archive has made a symbolic link there.
    pub fn is_link(&self, place: &Place) -> bool {
        self.links.has(place)
    }

    fn skip_data(&mut self) -> Result<(), ArchiveError> {
        let (left, fill) = (std::mem::take(&mut self.left), std::mem::take(&mut self.fill));
        self.skip(left, fill)
    }

    fn skip(&mut self, len: u64, fill: usize) -> Result<(), ArchiveError> {
        let len = len.saturating_add(fill as u64);
        let skipped = io::copy(&mut self.from.by_ref().take(len), &mut io::sink());
        if skipped.map_err(ArchiveError::Read)? < len {
            return Err(ArchiveError::Cut { entries: self.entries });
        }
        Ok(())
    }

    /// The next header; none at the mark of the end.
    fn header(&mut self) -> Result<Option<Header>, ArchiveError> {
        if self.ended {
            return Ok(None);
        }
        let mut header = Header::new_old();
        let block = self.block()?;
        if block.iter().all(|byte| *byte == 0) {
            self.ended = true;
            return Ok(None);
        }
        header.as_mut_bytes().copy_from_slice(&block);
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        let own: u32 = header.as_old().cksum.iter().map(|byte| u32::from(*byte)).sum();
        if header.cksum().ok() != Some(sum - own + 8 * u32::from(b' ')) {
            let reason = if self.entries == 0 { "it is no tar" } else { "a checksum is wrong" };
            return Err(self.damaged(reason));
        }
        Ok(Some(header))
    }

    fn block(&mut self) -> Result<[u8; BLOCK], ArchiveError> {
        let mut block = [0; BLOCK];
        match self.from.read_exact(&mut block) {
            Ok(()) => Ok(block),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                Err(ArchiveError::Cut { entries: self.entries })
            }
            Err(e) => Err(ArchiveError::Read(e)),
        }
    }

    /// What follows a header that speaks of another, at most `max` bytes.
    fn more(&mut self, size: u64, max: u64, what: &'static str) -> Result<Vec<u8>, ArchiveError> {
        if size > max {
            return Err(ArchiveError::TooMuch { what, limit: max });
        }
        let mut bytes = Vec::new();
        let read = self.from.by_ref().take(size).read_to_end(&mut bytes);
        if (read.map_err(ArchiveError::Read)? as u64) < size {
            return Err(ArchiveError::Cut { entries: self.entries });
        }
        self.skip(0, fill(size))?;
        Ok(bytes)
    }

    fn name(&mut self, size: u64) -> Result<Vec<u8>, ArchiveError> {
        let mut name = self.more(size, NAME, "bytes of a name")?;
        let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
        name.truncate(end);
        Ok(name)
    }

    fn records(&mut self, size: u64) -> Result<Vec<Record>, ArchiveError> {
        let bytes = self.more(size, pax::MAX, "bytes of attributes of one entry")?;
        pax::parse(&bytes).ok_or_else(|| self.damaged("attributes cannot be read"))
    }

    fn damaged(&self, reason: &'static str) -> ArchiveError {
        ArchiveError::Damaged { entries: self.entries, reason }
    }

    fn entry(&mut self, header: &Header, size: u64, ahead: Ahead) -> Result<Entry, ArchiveError> {
        let mut said = Said::of(header, size).ok_or_else(|| self.damaged("a number is none"))?;
        let records = std::mem::take(&mut self.global);
        let taken = records.iter().chain(&ahead.records).try_for_each(|(k, v)| said.take(k, v));
        self.global = records;
        taken.ok_or_else(|| self.damaged("an attribute makes no sense"))?;
        let path = said.sparse.name.take().or(said.path.take()).or(ahead.name);
        let path = path.unwrap_or_else(|| header.path_bytes().into_owned());
        let link = said.link.take().or(ahead.link);
        let link =
            link.unwrap_or_else(|| header.link_name_bytes().unwrap_or_default().into_owned());
        let place = Place::parse(&path)?;
        let is_dir = path.ends_with(b"/");
        let what = self.what(header, &place, is_dir, link, &mut said)?;
        self.guard(&place, &what)?;
        if said.uid > ID_MAX || said.gid > ID_MAX {
            return Err(self.damaged("an owner's number is too large"));
        }
        self.account(&what, said.size)?;
        self.left = said.size;
        // a map of version 1.0 was whole blocks
        self.fill = fill(said.size);
        Ok(Entry {
            place,
            what,
            mode: said.mode & 0o7777,
            uid: u32::try_from(said.uid).unwrap_or(0),
            gid: u32::try_from(said.gid).unwrap_or(0),
            mtime: said.mtime,
            xattrs: said.xattrs,
            acls: said.acls,
            data: said.size,
        })
    }

    fn account(&mut self, what: &What, size: u64) -> Result<(), ArchiveError> {
        self.entries += 1;
        if self.entries > self.limits.entries {
            return Err(ArchiveError::TooMuch { what: "entries", limit: self.limits.entries });
        }
        let len = match what {
            What::Sparse { len, .. } => *len,
            _ => size,
        };
        self.bytes = self.bytes.saturating_add(len);
        if self.bytes > self.limits.bytes {
            return Err(ArchiveError::TooMuch { what: "bytes of files", limit: self.limits.bytes });
        }
        Ok(())
    }

    /// Nothing goes through a symbolic link of this archive, whatever it is reached by.
    fn guard(&mut self, place: &Place, what: &What) -> Result<(), ArchiveError> {
        self.links.refuse_through(place)?;
        if self.links.has(place) {
            // GNU tar makes some links only at the end, over what came after them
            let kind = "in the place of a symbolic link of this archive";
            return Err(ArchiveError::Unsupported { path: shown(place.as_bytes()), kind });
        }
        match what {
            What::Symlink(_) => self.links.add(place),
            What::HardLink(to) => {
                self.links.refuse_through(to)?;
                if self.links.has(to) { self.links.add(place) } else { Ok(()) }
            }
            _ => Ok(()),
        }
    }

    fn what(
        &mut self,
        header: &Header,
        place: &Place,
        is_dir: bool,
        link: Vec<u8>,
        said: &mut Said,
    ) -> Result<What, ArchiveError> {
        let unsupported = |kind| ArchiveError::Unsupported { path: shown(place.as_bytes()), kind };
        let [flag] = header.as_old().linkflag;
        let what = match flag {
            b'0' | b'7' | 0 if is_dir => What::Dir,
            b'0' | b'7' | 0 if said.sparse.is_some() => self.pax_sparse(said)?,
            b'0' | b'7' | 0 => What::File,
            b'S' => self.old_sparse(header, said)?,
            b'1' => {
                // some writers repeat the size of the file, whose data do not follow
                said.size = 0;
                What::HardLink(Place::parse(&link)?)
            }
            b'2' if link.is_empty() || link.contains(&0) || link.len() > 4095 => {
                return Err(unsupported("a symbolic link to nowhere"));
            }
            b'2' => What::Symlink(link),
            b'3' | b'4' => {
                let number = |n: io::Result<Option<u32>>| n.ok().flatten();
                let major = number(header.device_major());
                let (Some(major), Some(minor)) = (major, number(header.device_minor())) else {
                    return Err(self.damaged("a device has no number"));
                };
                What::Device { block: flag == b'4', major, minor }
            }
            b'5' => What::Dir,
            b'6' => What::Fifo,
            b'M' => return Err(unsupported("the rest of a file of another volume")),
            _ => return Err(unsupported("of an unknown type")),
        };
        if place.is_target() && what != What::Dir {
            return Err(unsupported("in the place of the target itself"));
        }
        if matches!(what, What::HardLink(ref to) if to.is_target()) {
            return Err(unsupported("a link to the target itself"));
        }
        if said.size > 0 && !matches!(what, What::File | What::Sparse { .. }) {
            return Err(unsupported("no file, and has data"));
        }
        Ok(what)
    }

    fn old_sparse(&mut self, header: &Header, said: &Said) -> Result<What, ArchiveError> {
        let unlawful = "the map of a sparse file makes no sense";
        let first = sparse::of_header(header).ok_or_else(|| self.damaged(unlawful))?;
        let (mut map, len, mut more) = first;
        while more {
            let block = self.block()?;
            let taken = sparse::of_extension(&block, &mut map);
            more = taken.ok_or_else(|| self.damaged(unlawful))?;
        }
        if !sparse::is_lawful(&map, len, said.size) {
            return Err(self.damaged(unlawful));
        }
        Ok(What::Sparse { map, len })
    }

    fn pax_sparse(&mut self, said: &mut Said) -> Result<What, ArchiveError> {
        let unlawful = "the map of a sparse file makes no sense";
        let map = if said.sparse.in_data {
            let mut reader = sparse::MapReader::default();
            loop {
                let left = said.size.checked_sub(BLOCK as u64);
                said.size = left.ok_or_else(|| self.damaged(unlawful))?;
                let block = self.block()?;
                if !reader.take(&block).ok_or_else(|| self.damaged(unlawful))? {
                    break reader.map();
                }
            }
        } else {
            said.sparse.map.take().ok_or_else(|| self.damaged(unlawful))?
        };
        match said.sparse.len {
            Some(len) if sparse::is_lawful(&map, len, said.size) => Ok(What::Sparse { map, len }),
            _ => Err(self.damaged(unlawful)),
        }
    }
}

/// What header and records say of an entry.
struct Said {
    size: u64,
    mode: u32,
    uid: u64,
    gid: u64,
    mtime: String,
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    xattrs: Vec<Record>,
    acls: Acls,
    sparse: sparse::Records,
}

impl Said {
    fn of(header: &Header, size: u64) -> Option<Self> {
        Some(Self {
            size,
            mode: header.mode().ok()?,
            uid: header.uid().ok()?,
            gid: header.gid().ok()?,
            // a time that is none is of the epoch, as it is for GNU tar
            mtime: header.mtime().unwrap_or(0).to_string(),
            path: None,
            link: None,
            xattrs: Vec::new(),
            acls: Acls::default(),
            sparse: sparse::Records::default(),
        })
    }

    /// Takes a record that matters; nothing when its value makes no sense.
    fn take(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        match key {
            b"path" => self.path = Some(value.to_vec()),
            b"linkpath" => self.link = Some(value.to_vec()),
            b"size" => self.size = pax::number(value)?,
            b"uid" => self.uid = pax::number(value)?,
            b"gid" => self.gid = pax::number(value)?,
            b"mtime" => self.mtime = pax::time(value)?,
            b"SCHILY.acl.access" => self.acls.access = Some(value.to_vec()),
            b"SCHILY.acl.default" => self.acls.default = Some(value.to_vec()),
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    // ACLs have records of their own; the second is how XFS stores them
                    let is_acl = name.starts_with(b"system.posix_acl_")
                        || name.starts_with(b"trusted.SGI_ACL_");
                    if !is_acl && !name.is_empty() {
                        self.xattrs.retain(|(old, _)| old != name);
                        self.xattrs.push((name.to_vec(), value.to_vec()));
                    }
                } else if let Some(rest) = key.strip_prefix(b"GNU.sparse.") {
                    self.sparse.take(rest, value)?;
                }
            }
        }
        Some(())
    }
}
