//! What the HTTP and the TFTP server have in common: what is served, and whom it is told.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use p2pinst_types::{Mac, Name};
use rustix::fs::{Mode, OFlags, ResolveFlags, open, openat, openat2};
use tokio::sync::{mpsc, oneshot};

use super::neighbours::Neighbours;
use super::script;
use super::tables::Tables;
use super::wire::{FromService, Hello, ServedFile};
use crate::dhcp::table::{FILES, FileName, MIRRORS, Wants};
use crate::http::{Answered, Caller, Found};
use crate::repository;

/// What is served.
#[derive(Debug)]
pub(super) struct Site {
    directory: OwnedFd,
    /// Nothing, until the daemon has said something.
    tables: Mutex<Option<Arc<Tables>>>,
    /// Other peers' HTTP servers, by the own address on their segment.
    siblings: Mutex<BTreeMap<Ipv4Addr, Vec<SocketAddrV4>>>,
    neighbours: Mutex<Option<Neighbours>>,
    waiting: Mutex<HashMap<u64, oneshot::Sender<Answered>>>,
    next: AtomicU64,
    daemon: mpsc::Sender<FromService>,
    /// Machines that were given a file.
    served: mpsc::Sender<Mac>,
    /// Files of the table that could not be opened: said once.
    missing: Mutex<BTreeSet<FileName>>,
    /// How many files that left may still be told in this second, and which one that is.
    news: Mutex<(u64, u32)>,
    began: Instant,
}

/// Files that left, told in one second: a rack's are, a flood's are not.
const NEWS: u32 = 128;
/// Room that is kept for machines that introduce themselves, and for what happens.
const KEPT: usize = 64;

/// A panic while one of these is held leaves it as it was: each is written in one step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Site {
    /// Serves nothing yet. The root directory is that of the boot files by now.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub(super) fn new(
        neighbours: Option<Neighbours>,
        daemon: mpsc::Sender<FromService>,
        served: mpsc::Sender<Mac>,
    ) -> std::io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self {
            directory: open("/", flags, Mode::empty())?,
            tables: Mutex::default(),
            siblings: Mutex::default(),
            neighbours: Mutex::new(neighbours),
            waiting: Mutex::default(),
            next: AtomicU64::new(0),
            daemon,
            served,
            missing: Mutex::default(),
            news: Mutex::default(),
            began: Instant::now(),
        })
    }

    /// This is served from now on.
    pub(super) fn set_tables(&self, tables: Arc<Tables>) {
        *lock(&self.tables) = Some(tables);
        lock(&self.missing).clear();
    }

    /// These peers are on the segment where this is the own address.
    pub(super) fn set_siblings(&self, own: Ipv4Addr, siblings: Vec<SocketAddrV4>) {
        lock(&self.siblings).insert(own, siblings);
    }

    fn tables(&self) -> Option<Arc<Tables>> {
        lock(&self.tables).clone()
    }

    /// A boot file, where the table has its name.
    pub(super) fn file(&self, name: &str) -> Option<File> {
        let tables = self.tables()?;
        let name = tables.files.get(&name.parse::<FileName>().ok()?)?;
        self.open(name)
    }

    /// A name that was looked up, never one that came from outside.
    fn open(&self, name: &FileName) -> Option<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = openat(&self.directory, name.as_str(), flags, Mode::empty());
        if let Err(error) = &file
            && lock(&self.missing).insert(name.clone())
        {
            let what = format!("cannot open the boot file {}: {error}", name.as_str());
            self.tell(FromService::Failed { what });
        }
        let file = File::from(file.ok()?);
        file.metadata().ok().filter(|m| m.is_file()).map(|_| file)
    }

    /// A file of a repository: below the directory of that version, and nowhere else.
    fn mirrored(&self, name: &str) -> Option<File> {
        let (repository, path) = name.split_once('/')?;
        let id = *self.tables()?.mirrors.get(&repository.parse::<Name>().ok()?)?;
        let path = repository::Path::from_url(path)?;
        let below = format!("{}/{path}", repository::directory(&id));
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let within = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let file = openat2(&self.directory, below, flags, Mode::empty(), within);
        let file = File::from(file.ok()?);
        file.metadata().ok().filter(|m| m.is_file()).map(|_| file)
    }

    /// The script for whoever runs iPXE and asks by TFTP.
    pub(super) fn autoexec(&self, own: Ipv4Addr) -> Option<String> {
        let tables = self.tables()?;
        let port = tables.table.http_port;
        script::autoexec(&tables, SocketAddrV4::new(own, port))
    }

    /// Tells the daemon, where it listens: what happens on a segment must not hold the service up.
    pub(super) fn tell(&self, message: FromService) -> bool {
        self.daemon.try_send(message).is_ok()
    }

    /// A file left.
    pub(super) fn sent(&self, to: SocketAddrV4, name: &str, bytes: u64) {
        // packages are no step of starting a machine, and there are many
        if name.contains('/') || bytes == 0 || !self.is_news() || self.daemon.capacity() < KEPT {
            return;
        }
        self.tell(FromService::ServedFile(ServedFile { to, name: name.to_owned(), bytes }));
        if let Some(mac) = self.mac(*to.ip()) {
            let _full = self.served.try_send(mac);
        }
    }

    fn is_news(&self) -> bool {
        let second = self.began.elapsed().as_secs();
        let mut news = lock(&self.news);
        let told = if news.0 == second { news.1 } else { 0 };
        *news = (second, told.saturating_add(1));
        told < NEWS
    }

    fn mac(&self, address: Ipv4Addr) -> Option<Mac> {
        lock(&self.neighbours).as_mut()?.mac(address)
    }

    /// The daemon has answered.
    pub(super) fn answer(&self, id: u64, answer: Answered) {
        if let Some(waiting) = lock(&self.waiting).remove(&id) {
            // whoever asked may have gone
            let _gone = waiting.send(answer);
        }
    }
}

/// Forgets a question that is not waited for any more.
struct Asked<'a>(&'a Site, u64);

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        lock(&self.0.waiting).remove(&self.1);
    }
}

impl crate::http::Site for Site {
    fn find(&self, path: &str, own: SocketAddrV4) -> Option<Found> {
        if let Some(mac) = script::machine_of(path) {
            let siblings = lock(&self.siblings).get(own.ip()).cloned().unwrap_or_default();
            let script = script::script(&*self.tables()?, mac, own, &siblings);
            return Some(Found::Text(script));
        }
        let name = path.strip_prefix(FILES)?;
        let file = match path.strip_prefix(MIRRORS) {
            Some(below) => self.mirrored(below)?,
            None => self.file(name)?,
        };
        Some(Found::File { name: name.to_owned(), file })
    }

    fn caller(&self, from: Ipv4Addr) -> Caller {
        let tables = self.tables();
        let wants = |mac: &Mac| Some(tables.as_ref()?.table.machines.get(mac)?.wants);
        match self.mac(from).filter(|mac| wants(mac) == Some(Wants::Scout)) {
            Some(mac) => Caller::Expected(mac),
            None => Caller::Other(from),
        }
    }

    async fn hello(&self, from: SocketAddrV4, body: Vec<u8>) -> Option<Answered> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        lock(&self.waiting).insert(id, answer);
        let _asked = Asked(self, id);
        let mac = self.mac(*from.ip());
        let told = self.tell(FromService::Hello(Hello { id, from, mac, body }));
        if told { answered.await.ok() } else { None }
    }

    fn sent(&self, to: SocketAddrV4, name: &str, bytes: u64) {
        Site::sent(self, to, name, bytes);
    }
}
