//! A disk in memory whose power can be cut: the simulator's, and that of tests.
//!
//! It keeps apart what was synced and what was only written. Whoever holds the disk decides when
//! the process dies (what was written stays) or the power fails (of what was not synced any part
//! may stay), also in the middle of a transaction. Handles of the time before get errors.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::StorageBackend;

/// The largest file: a store that grows beyond has lost control.
const LARGEST: u64 = 1 << 32;

/// See the module; a handle, cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct MemoryDisk(Arc<Mutex<Platter>>);

/// One change of the file.
#[derive(Debug)]
enum Change {
    Write(usize, Vec<u8>),
    Length(usize),
}

#[derive(Debug, Default)]
struct Platter {
    /// What survives a power cut.
    synced: Vec<u8>,
    /// What a read finds.
    current: Vec<u8>,
    /// Changes since the last sync, in order.
    since: Vec<Change>,
    /// Counts deaths: a handle of an earlier life is dead.
    life: u64,
    /// Changes and syncs that still work; `None`: all.
    fuse: Option<u64>,
    /// Changes and syncs that there have been.
    changes: u64,
}

impl Change {
    fn apply(&self, file: &mut Vec<u8>) {
        match self {
            Self::Write(at, data) => {
                let end = at.saturating_add(data.len());
                if file.len() < end {
                    file.resize(end, 0);
                }
                if let Some(to) = file.get_mut(*at..end) {
                    to.copy_from_slice(data);
                }
            }
            Self::Length(len) => file.resize(*len, 0),
        }
    }
}

impl Platter {
    /// Whether one more change works.
    fn spend(&mut self) -> io::Result<()> {
        match &mut self.fuse {
            Some(0) => return Err(io::Error::from(io::ErrorKind::StorageFull)),
            Some(left) => *left -= 1,
            None => {}
        }
        self.changes += 1;
        Ok(())
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.current);
        self.since.push(change);
    }
}

impl MemoryDisk {
    fn platter(&self) -> MutexGuard<'_, Platter> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A handle for the present life.
    pub(crate) fn backend(&self) -> impl StorageBackend + use<> {
        Handle { life: self.platter().life, disk: self.clone() }
    }

    /// The process dies: what it has written is there for the next one.
    pub fn kill(&self) {
        let mut platter = self.platter();
        platter.life += 1;
        platter.fuse = None;
    }

    /// The power fails: of each change since the last sync, `survives` says whether it is there
    /// afterwards.
    pub fn cut_power(&self, mut survives: impl FnMut() -> bool) {
        let mut platter = self.platter();
        let since = std::mem::take(&mut platter.since);
        let mut file = std::mem::take(&mut platter.synced);
        since.iter().filter(|_| survives()).for_each(|c| c.apply(&mut file));
        platter.current.clone_from(&file);
        platter.synced = file;
        platter.life += 1;
        platter.fuse = None;
    }

    /// After so many changes and syncs more, all fail as on a full disk; `None`: they work.
    pub fn fail_after(&self, changes: Option<u64>) {
        self.platter().fuse = changes;
    }

    /// Changes and syncs that there have been.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.platter().changes
    }
}

/// What redb holds.
#[derive(Debug)]
struct Handle {
    life: u64,
    disk: MemoryDisk,
}

impl Handle {
    fn alive(&self) -> io::Result<MutexGuard<'_, Platter>> {
        let platter = self.disk.platter();
        if platter.life == self.life {
            Ok(platter)
        } else {
            Err(io::Error::other("this process is dead"))
        }
    }
}

fn position(n: u64) -> io::Result<usize> {
    let large = || io::Error::from(io::ErrorKind::FileTooLarge);
    usize::try_from(n).ok().filter(|_| n <= LARGEST).ok_or_else(large)
}

impl StorageBackend for Handle {
    fn len(&self) -> io::Result<u64> {
        Ok(self.alive()?.current.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let at = position(offset)?;
        let platter = self.alive()?;
        let from = platter.current.get(at..at.saturating_add(out.len()));
        out.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let len = position(len)?;
        let mut platter = self.alive()?;
        platter.spend()?;
        platter.change(Change::Length(len));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut platter = self.alive()?;
        platter.spend()?;
        let since = std::mem::take(&mut platter.since);
        let mut file = std::mem::take(&mut platter.synced);
        since.iter().for_each(|c| c.apply(&mut file));
        platter.synced = file;
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let at = position(offset)?;
        position(offset.saturating_add(data.len() as u64))?;
        let mut platter = self.alive()?;
        platter.spend()?;
        platter.change(Change::Write(at, data.to_vec()));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_synced_survives_and_the_dead_write_no_more() {
        let disk = MemoryDisk::default();
        let handle = disk.backend();
        handle.set_len(4).unwrap();
        handle.write(0, b"abcd").unwrap();
        handle.sync_data().unwrap();
        handle.write(1, b"xx").unwrap();
        handle.write(3, b"y").unwrap();
        let mut first = true;
        disk.cut_power(|| std::mem::take(&mut first));
        assert!(handle.write(0, b"z").is_err() && handle.len().is_err());
        let mut out = [0; 4];
        disk.backend().read(0, &mut out).unwrap();
        assert_eq!(&out, b"axxd", "one of two changes survived");
        assert!(disk.backend().read(1, &mut out).is_err(), "beyond the end");
    }

    #[test]
    fn a_full_disk_reads_and_heals() {
        let disk = MemoryDisk::default();
        let handle = disk.backend();
        disk.fail_after(Some(1));
        handle.write(0, b"ab").unwrap();
        assert!(handle.write(2, b"c").is_err() && handle.sync_data().is_err());
        assert_eq!(handle.len().unwrap(), 2);
        disk.fail_after(None);
        handle.sync_data().unwrap();
        assert_eq!(disk.changes(), 2);
        disk.kill();
        assert!(handle.len().is_err());
        assert_eq!(disk.backend().len().unwrap(), 2);
    }
}
