//! The boot role of a node: it keeps the boot service supplied, answers machines that introduce themselves, and remembers what
//! happened on its segments.
//!
//! The service is a process of its own without privileges (`p2pinst_boot::service`); what it may do is in one value that
//! is made anew from the views whenever they change ([`tables`]). A DISCOVER is answered from that, whatever else is out of reach.

mod alive;
mod artefacts;
mod greeter;
mod judge;
mod log;
mod members;
mod mirrors;
mod reports;
mod tables;
#[cfg(test)]
mod tests;
pub(crate) mod waves;

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use p2pinst_boot::dhcp::event::Event;
use p2pinst_boot::service::{Config as ServiceConfig, HelloId, HttpPort, Message, Service};
use p2pinst_types::{NodeId, codec};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

pub use greeter::Greeter;
pub use log::{Entry, Log};
pub use reports::Reports;
pub(crate) use tables::cluster as cluster_tag;
pub(crate) use waves::{may_begin, never_begins};

use self::artefacts::Artefacts;
use self::members::Members;
use self::mirrors::Mirrors;
use crate::config::{BootConfig, BootMode};
use crate::storage::Storage;
use crate::store::StoreHandle;

/// Introductions that are answered at once.
const HELLOS: usize = 32;
/// How long changes are gathered before the service is told.
const GATHER: Duration = Duration::from_millis(20);
/// How often it is looked for a newer scout that could not be fetched.
const LOOK: Duration = Duration::from_secs(10);

/// What the task is made of.
#[derive(Debug)]
pub struct Parts {
    /// This node.
    pub node: NodeId,
    /// Where it is reached by others of its cluster.
    pub addrs: Vec<String>,
    /// What it knows.
    pub store: StoreHandle,
    /// Where the scout's files come from.
    pub storage: Storage,
    /// Who answers.
    pub greeter: Greeter,
    /// What happened.
    pub log: Arc<Log>,
    /// Where the boot files lie.
    pub directory: PathBuf,
    /// What the configuration says.
    pub config: BootConfig,
}

/// See the module.
#[derive(Debug)]
pub struct Boot {
    parts: Parts,
    artefacts: Artefacts,
    members: Members,
    mirrors: Mirrors,
}

/// What is under way besides: members that are asked, the scout's files, a repository.
#[derive(Debug, Default)]
struct Work {
    reading: JoinSet<members::Told>,
    fetching: JoinSet<Result<artefacts::Wanted, String>>,
    mirroring: JoinSet<Option<mirrors::Came>>,
}

/// The hidden subcommand of the daemon that is the boot service.
pub const SUBCOMMAND: &str = "boot-service";

impl Boot {
    /// The task.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let artefacts = Artefacts::new(parts.directory.clone());
        let (members, mirrors) = (Members::default(), Mirrors::new(&parts.directory));
        Self { parts, artefacts, members, mirrors }
    }

    /// Runs until shutdown; does nothing where the configuration says that this node boots nobody.
    pub async fn run(self, shutdown: CancellationToken) {
        if self.parts.config.mode == BootMode::Off {
            return shutdown.cancelled().await;
        }
        if let Err(reason) = self.serve(&shutdown).await {
            warn!(%reason, "this node boots nobody");
            shutdown.cancelled().await;
        }
    }

    fn start(&self) -> Result<Service, String> {
        let Parts { node, directory, config, .. } = &self.parts;
        artefacts::make_directory(directory).map_err(|e| e.to_string())?;
        let mut with = ServiceConfig::new(*node, directory.clone());
        with.http = HttpPort(config.http_port);
        with.user.clone_from(&config.user);
        with.interfaces = (!config.interfaces.is_empty()).then(|| config.interfaces.clone());
        let program = std::env::current_exe().map_err(|e| format!("cannot find itself: {e}"))?;
        let args = [OsString::from(SUBCOMMAND)];
        Service::spawn(&program, &args, with).map_err(|e| e.to_string())
    }

    async fn serve(mut self, shutdown: &CancellationToken) -> Result<(), String> {
        let mut service = self.start()?;
        let mut views = self.parts.store.watch();
        let (mut hellos, mut seen, mut work) = (JoinSet::new(), JoinSet::new(), Work::default());
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut tell_at = Some(Instant::now());
        loop {
            let due = tell_at;
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                Some(answered) = hellos.join_next(), if !hellos.is_empty() => {
                    if let Ok((id, status, body)) = answered {
                        service.answer(id, status, body).await;
                    }
                }
                Some(_) = seen.join_next(), if !seen.is_empty() => {}
                Some(told) = work.reading.join_next(), if !work.reading.is_empty() => {
                    if let Ok(told) = told {
                        self.members.came(told, Instant::now());
                    }
                    tell_at = Some(Instant::now());
                }
                Some(done) = work.fetching.join_next(), if !work.fetching.is_empty() => {
                    self.artefacts.came(done.ok());
                    tell_at = Some(Instant::now());
                }
                Some(done) = work.mirroring.join_next(), if !work.mirroring.is_empty() => {
                    self.mirrors.came(done.ok().flatten());
                    tell_at = Some(Instant::now());
                }
                message = service.next() => match message {
                    Some(message) => self.on_message(message, &mut hellos, &mut seen),
                    None => return Err("the boot service has ended for good".to_owned()),
                },
                Ok(()) = views.changed() => {
                    let soon = Instant::now() + GATHER;
                    tell_at = Some(tell_at.map_or(soon, |at| at.min(soon)));
                }
                _ = look.tick() => {
                    self.begin(&mut work);
                    if work.mirroring.is_empty() && let Some(sweep) = self.mirrors.sweep() {
                        // the service was told of what is new a while ago
                        work.mirroring.spawn_blocking(move || { sweep(); None });
                    }
                }
                () = until(due) => {
                    // first, as it is found out there whether all members have been asked
                    self.begin(&mut work);
                    tell_at = self.tell(&service);
                }
            }
        }
        service.stop().await;
        Ok(())
    }

    /// Tells the service what it may do now; until when that holds.
    fn tell(&mut self, service: &Service) -> Option<Instant> {
        let (views, now) = (self.parts.store.views(), self.parts.store.clock().now());
        let here = (&self.artefacts, &self.mirrors);
        let tables = tables::make(&self.parts, here, &self.members, &views, now);
        let roots = self.artefacts.roots().chain(self.mirrors.roots()).collect();
        self.parts.storage.set_boot_files(roots);
        if let Err(error) = service.set_tables(tables) {
            warn!(%error, "the boot service goes on with what it had");
        }
        // orders end by themselves
        tables::next_end(&views, now).map(|end| Instant::now() + end)
    }

    /// Leaves what was removed, and begins to bring what is wanted and not here, each kind once at a time.
    fn begin(&mut self, work: &mut Work) {
        let views = self.parts.store.views();
        let storage = &self.parts.storage;
        self.artefacts.forget_removed(&views);
        self.mirrors.forget(&views);
        if work.fetching.is_empty()
            && let Some(wanted) = self.artefacts.wanted(&views)
        {
            work.fetching.spawn(wanted.fetch(storage.clone()));
        }
        if work.mirroring.is_empty()
            && let Some(wanted) = self.mirrors.wanted(&views)
        {
            let storage = storage.clone();
            work.mirroring.spawn(async move { Some(wanted.fetch(storage).await) });
        }
        // where strangers are taken: what members say of themselves that has not been read
        if work.reading.is_empty() && self.takes_strangers() {
            let due = self.members.due(&views, Instant::now());
            if !due.is_empty() {
                work.reading.spawn(members::read(self.parts.greeter.reports(), due));
            }
        }
    }

    fn on_message(
        &self,
        message: Message,
        hellos: &mut JoinSet<(HelloId, u16, Vec<u8>)>,
        seen: &mut JoinSet<()>,
    ) {
        let now = self.parts.store.clock().now();
        match message {
            Message::Ready(ready) => {
                let interfaces: Vec<_> = ready
                    .interfaces
                    .iter()
                    .map(|(name, addr)| format!("{name} ({addr})"))
                    .collect();
                info!(interfaces = %interfaces.join(", "), http = ready.http, "the boot service listens");
                self.parts.log.set_ready(ready);
            }
            Message::Event(event) => {
                if let Event::Discover { mac, .. } = &event
                    && seen.len() < HELLOS
                {
                    let (greeter, mac) = (self.parts.greeter.clone(), *mac);
                    let is_member = self.members.macs().any(|member| member == mac);
                    let strangers = self.takes_strangers() && !is_member;
                    seen.spawn(async move { greeter.discovered(mac, strangers).await });
                }
                self.parts.log.note(now, event.to_string(), event.mac());
            }
            Message::Hello { id, hello } if hellos.len() < HELLOS => {
                let greeter = self.parts.greeter.clone();
                hellos.spawn(async move {
                    let greeting = greeter.greet(&hello.body, hello.mac).await;
                    match codec::encode(&greeting) {
                        Ok(body) => (id, 200, body),
                        Err(error) => (id, 500, error.to_string().into_bytes()),
                    }
                });
            }
            Message::Hello { .. } => debug!("too many machines introduce themselves at once"),
            Message::ServedFile(file) => {
                let what = format!("{} bytes of {} to {}", file.bytes, file.name, file.to.ip());
                self.parts.log.note(now, what, None);
            }
            Message::Failed { what } => {
                warn!(%what, "a part of the boot service does not work");
                self.parts.log.note(now, what, None);
            }
            Message::Restarted { why, after } => {
                warn!(%why, ?after, "the boot service is started again");
            }
        }
    }

    fn takes_strangers(&self) -> bool {
        matches!(self.parts.config.mode, BootMode::Discover | BootMode::Isolated)
    }
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}
