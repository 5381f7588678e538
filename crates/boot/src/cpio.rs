//! The archive that the kernel unpacks at its start: cpio in the `newc` form (Linux `Documentation/driver-api/early-userspace/buffer-format.rst`).
//!
//! The same entries give the same bytes: sorted by path, owned by root, numbered from 1, all of one time.

use std::collections::BTreeMap;

use thiserror::Error;

/// The kernel looks for an archive at multiples of four bytes.
const ALIGN: usize = 4;
const DIRECTORY: u32 = 0o040_755;
const LINK: u32 = 0o120_777;
const REGULAR: u32 = 0o100_000;
/// Linux `PATH_MAX`, with the zero byte at the end.
const PATH_MAX: usize = 4096;
/// The name of the entry that ends an archive.
const TRAILER: &str = "TRAILER!!!";

/// What cannot be in an archive.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CpioError {
    /// A path that is not one below the root, or too long.
    #[error("{0:?} cannot be a file of an initramfs: name it by a path below / without . and ..")]
    Path(String),
    /// Two entries of one path.
    #[error("/{0} is to be in the initramfs twice, and differs")]
    Twice(String),
    /// The format's numbers have 32 bits.
    #[error("/{0} is too large for an initramfs")]
    Large(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Entry {
    Directory,
    File { mode: u32, content: Vec<u8> },
    Link(String),
}

/// Files, links and the directories above them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Archive(BTreeMap<String, Entry>);

impl Archive {
    /// Adds a file, and the directories above it.
    pub(crate) fn file(
        &mut self,
        path: &str,
        executable: bool,
        content: Vec<u8>,
    ) -> Result<(), CpioError> {
        self.file_of_mode(path, if executable { 0o755 } else { 0o644 }, content)
    }

    /// The same, with that mode.
    pub(crate) fn file_of_mode(
        &mut self,
        path: &str,
        mode: u32,
        content: Vec<u8>,
    ) -> Result<(), CpioError> {
        if u32::try_from(content.len()).is_err() {
            return Err(CpioError::Large(path.to_owned()));
        }
        self.add(path, Entry::File { mode: mode & 0o7777, content })
    }

    /// Adds a symbolic link.
    pub(crate) fn link(&mut self, path: &str, target: &str) -> Result<(), CpioError> {
        if target.is_empty() || target.len() >= PATH_MAX || target.contains('\0') {
            return Err(CpioError::Path(target.to_owned()));
        }
        self.add(path, Entry::Link(target.to_owned()))
    }

    /// Adds an empty directory.
    pub(crate) fn directory(&mut self, path: &str) -> Result<(), CpioError> {
        self.add(path, Entry::Directory)
    }

    /// Leaves out directories that are there before the archive is unpacked: they stay as they are, and so do links in their places.
    pub(crate) fn over(mut self, there: &[&str]) -> Self {
        self.0.retain(|path, entry| *entry != Entry::Directory || !there.contains(&path.as_str()));
        self
    }

    /// Whether there is an entry of this path.
    pub(crate) fn has(&self, path: &str) -> bool {
        self.0.contains_key(path.trim_start_matches('/'))
    }

    fn add(&mut self, path: &str, entry: Entry) -> Result<(), CpioError> {
        let path = path.strip_prefix('/').unwrap_or(path);
        let lawful = |part: &str| !matches!(part, "" | "." | "..") && !part.contains('\0');
        if path.len() >= PATH_MAX || path == TRAILER || !path.split('/').all(lawful) {
            return Err(CpioError::Path(path.to_owned()));
        }
        for (end, _) in path.match_indices('/') {
            let above = path.get(..end).unwrap_or_default();
            match self.0.entry(above.to_owned()).or_insert(Entry::Directory) {
                // through a link the kernel goes too
                Entry::Directory | Entry::Link(_) => {}
                Entry::File { .. } => return Err(CpioError::Twice(above.to_owned())),
            }
        }
        match self.0.get(path) {
            Some(there) if *there != entry => Err(CpioError::Twice(path.to_owned())),
            _ => {
                self.0.insert(path.to_owned(), entry);
                Ok(())
            }
        }
    }

    /// The archive, every entry of the time `mtime` (seconds since 1970).
    pub(crate) fn write(&self, mtime: u32) -> Vec<u8> {
        let mut out = Vec::new();
        for (number, (path, entry)) in (1..).zip(&self.0) {
            let (mode, content) = match entry {
                Entry::Directory => (DIRECTORY, &[][..]),
                Entry::Link(target) => (LINK, target.as_bytes()),
                Entry::File { mode, content } => (REGULAR | mode, content.as_slice()),
            };
            append(&mut out, &Head { number, mode, mtime, path }, content);
        }
        append(&mut out, &Head { number: 0, mode: 0, mtime: 0, path: TRAILER }, &[]);
        out
    }
}

struct Head<'a> {
    number: u32,
    mode: u32,
    mtime: u32,
    path: &'a str,
}

fn append(out: &mut Vec<u8>, head: &Head<'_>, content: &[u8]) {
    let links = if head.mode & 0o170_000 == 0o040_000 { 2 } else { 1 };
    let len = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
    // number, mode, owner, group, links, time, size, four device numbers, length of the name, checksum
    let (size, name) = (len(content.len()), len(head.path.len() + 1));
    let fields = [head.number, head.mode, 0, 0, links, head.mtime, size, 0, 0, 0, 0, name, 0];
    out.extend_from_slice(b"070701");
    for field in fields {
        out.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    out.extend_from_slice(head.path.as_bytes());
    out.push(0);
    pad(out);
    out.extend_from_slice(content);
    pad(out);
}

/// Fills up with zeros to where another archive may begin.
pub(crate) fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(ALIGN), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive() -> Archive {
        let mut archive = Archive::default();
        archive.file("/usr/sbin/tool", true, b"#!\n".to_vec()).unwrap();
        archive.link("/sbin", "usr/sbin").unwrap();
        archive.file("etc/x", false, vec![7; 5]).unwrap();
        archive.directory("/run").unwrap();
        archive
    }

    #[test]
    fn cpio_reads_it() {
        let mut command = p2pinst_command::clean("busybox");
        command.args(["cpio", "-t", "-v"]);
        let limit = std::time::Duration::from_secs(20);
        let bytes = archive().write(1_700_000_000);
        assert_eq!(bytes.len() % 4, 0);
        let Ok(said) = p2pinst_command::ask_within(command, &bytes, 10_000, limit) else {
            eprintln!("SKIPPED: needs busybox");
            return;
        };
        let listed = p2pinst_command::text(&said.stdout);
        let lines: Vec<_> = listed.lines().collect();
        assert_eq!(lines.len(), 7, "{listed}");
        assert!(lines[0].starts_with("drwxr-xr-x") && lines[0].ends_with(" etc"), "{listed}");
        assert!(lines[1].starts_with("-rw-r--r--") && lines[1].contains(" 5 "), "{listed}");
        assert!(listed.contains("sbin -> usr/sbin"), "{listed}");
        assert!(lines[6].starts_with("-rwxr-xr-x") && lines[6].ends_with("usr/sbin/tool"));
    }

    #[test]
    fn the_order_of_adding_does_not_matter() {
        let mut other = Archive::default();
        other.directory("/run").unwrap();
        other.file("etc/x", false, vec![7; 5]).unwrap();
        other.link("/sbin", "usr/sbin").unwrap();
        other.file("/usr/sbin/tool", true, b"#!\n".to_vec()).unwrap();
        assert_eq!(archive().write(1), other.write(1));
        assert_ne!(archive().write(1), other.write(2));
    }

    #[test]
    fn what_cannot_be_there_is_refused() {
        let mut archive = archive();
        for bad in ["", "/", "/..", "../x", "a/../b", "a//b", "./a", "a/", "a\0b", TRAILER] {
            assert!(archive.file(bad, false, vec![]).is_err(), "{bad:?}");
        }
        assert!(archive.file("etc/x", false, vec![7; 5]).is_ok(), "the same again");
        assert!(archive.file("etc/x", false, vec![8]).is_err());
        assert!(archive.file("etc/x/y", false, vec![8]).is_err());
    }
}
