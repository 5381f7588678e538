//! The boot service itself: the process that faces the segment.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::interval;

use super::config::{Config, TFTP_PORT};
use super::confine::{ConfineError, Opened, Sockets};
use super::interfaces::{self, Interface};
use super::segment::Segment;
use super::site::Site;
use super::tables::Tables;
use super::tftp::Tftp;
use super::wire::{self, FromService, Ready, ToService, WireError};
use crate::http::{self, Answered};
use crate::tftp;

/// What waits to be told to the daemon; more is not told.
const SAYS: usize = 256;
/// What the daemon has said and is not done yet.
const HEARS: usize = 16;
/// Machines that were given a file, until it counts.
const SERVED: usize = 64;
/// How often new interfaces are looked for.
const LOOK: Duration = Duration::from_secs(10);
/// Threads that read files for HTTP.
const READERS: usize = 8;

/// Why the boot service has ended.
#[derive(Debug, Error)]
pub enum ServiceError {
    /// The daemon did not say how to start.
    #[error(
        "the boot service is started by p2pinstd alone: the first message on its input is no configuration"
    )]
    NoConfig,
    /// Talking to the daemon failed.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// Giving privileges up failed.
    #[error(transparent)]
    Confine(#[from] ConfineError),
    /// Something of the system failed.
    #[error("cannot {what} for the boot service: {source}")]
    System {
        /// What was attempted.
        what: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
}

fn system<T>(what: &'static str, done: std::io::Result<T>) -> Result<T, ServiceError> {
    done.map_err(|source| ServiceError::System { what, source })
}

/// Runs the boot service until its input ends: what the daemon's hidden command does, with its standard input and output. It is
/// to be called before the process has other threads, which would keep their privileges to gain some (`no_new_privs`).
///
/// # Errors
/// When it cannot start, or the daemon says something wrong. The daemon is told too.
pub fn main(
    mut input: impl Read + Send + 'static,
    mut output: impl Write + Send + 'static,
) -> Result<(), ServiceError> {
    let Some(ToService::Start(config)) = wire::read(&mut input)? else {
        return Err(ServiceError::NoConfig);
    };
    let (sockets, interfaces, mut first) = match start(&config) {
        Ok(started) => started,
        Err(error) => {
            wire::write(&mut output, &FromService::Failed { what: error.to_string() })?;
            return Err(error);
        }
    };
    first.push(FromService::Ready(ready(&config, &interfaces, &sockets)));
    for message in &first {
        wire::write(&mut output, message)?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(READERS)
        .enable_all()
        .build();
    system("start threads", runtime)?.block_on(serve(config, interfaces, sockets, input, output))
}

type Started = (Sockets, Vec<Interface>, Vec<FromService>);

/// Opens everything and gives all privileges up; nothing has been read by then but the configuration.
fn start(config: &Config) -> Result<Started, ServiceError> {
    let interfaces = system("list the interfaces", interfaces::scan(config.interfaces.as_deref()))?;
    let mut failed = Vec::new();
    let opened = Opened::open(config, &interfaces, &mut failed)?;
    let sockets = opened.confine()?;
    let failed = failed.into_iter().map(|what| FromService::Failed { what }).collect();
    Ok((sockets, interfaces, failed))
}

fn ready(config: &Config, interfaces: &[Interface], sockets: &Sockets) -> Ready {
    let mut udp: Vec<u16> = sockets.ports.iter().map(|p| p.port).collect();
    udp.extend(sockets.tftp.first().map(|_| TFTP_PORT));
    udp.sort_unstable();
    udp.dedup();
    let interfaces = interfaces.iter().map(|i| (i.name.clone(), i.own())).collect();
    Ready { interfaces, udp, http: sockets.http.first().map(|_| config.http.0) }
}

async fn serve(
    config: Config,
    interfaces: Vec<Interface>,
    sockets: Sockets,
    input: impl Read + Send + 'static,
    output: impl Write + Send + 'static,
) -> Result<(), ServiceError> {
    let (says, said) = mpsc::channel(SAYS);
    let (served, got_file) = mpsc::channel(SERVED);
    let site = Site::new(sockets.neighbours, says.clone(), served);
    let site = Arc::new(system("open the boot files", site)?);
    let (tables, changed) = watch::channel(None);
    let mut tasks = JoinSet::new();

    let (node, beacon) = (config.node, config.beacon.0);
    let segment = Segment::new(Arc::clone(&site), node, beacon, &interfaces, sockets.ports);
    tasks.spawn(system("use the sockets of DHCP", segment)?.run(changed, got_file));

    let server = http::Server::new(Arc::clone(&site), http::Limits::default());
    for listener in sockets.http {
        let listener = system("use the sockets of HTTP", TcpListener::from_std(listener))?;
        tasks.spawn(server.clone().serve(listener));
    }

    let stop = Arc::new(AtomicBool::new(false));
    let limits = tftp::Limits { blksize: config.blksize, ..tftp::Limits::default() };
    let tftp = Tftp::new(Arc::clone(&site), sockets.tftp, limits);
    let until = Arc::clone(&stop);
    let tftp = thread::Builder::new().name("tftp".into()).spawn(move || tftp.run(&until));
    let tftp = system("start a thread", tftp)?;

    let writer = thread::Builder::new().name("says".into()).spawn(move || say(said, output));
    system("start a thread", writer)?;
    let (hears, mut heard) = mpsc::channel(HEARS);
    let reader = thread::Builder::new().name("hears".into()).spawn(move || hear(input, &hears));
    system("start a thread", reader)?;
    tasks.spawn(look(config, interfaces, says));

    let mut ended = Ok(());
    while let Some(message) = heard.recv().await {
        match message {
            Ok(ToService::Tables(new)) => set(&site, &tables, new),
            Ok(ToService::HelloAnswer { id, status, body }) => {
                site.answer(id, Answered { status, body });
            }
            Ok(ToService::Stop) => break,
            Ok(ToService::Start(_)) => {}
            Err(error) => {
                ended = Err(error.into());
                break;
            }
        }
    }
    stop.store(true, Ordering::Relaxed);
    tasks.shutdown().await;
    // it has nothing that could fail
    let _ended = tokio::task::spawn_blocking(move || tftp.join()).await;
    ended
}

fn set(site: &Site, tables: &watch::Sender<Option<Arc<Tables>>>, new: Tables) {
    let new = Arc::new(new);
    site.set_tables(Arc::clone(&new));
    tables.send_replace(Some(new));
}

/// Reads what the daemon says, until it says no more.
fn hear(mut input: impl Read, hears: &mpsc::Sender<Result<ToService, WireError>>) {
    loop {
        let message = match wire::read(&mut input) {
            Ok(Some(message)) => Ok(message),
            Ok(None) => return,
            Err(error) => Err(error),
        };
        let over = message.is_err();
        if hears.blocking_send(message).is_err() || over {
            return;
        }
    }
}

/// Tells the daemon; when it does not listen any more, its end of the input will say so.
fn say(mut said: mpsc::Receiver<FromService>, mut output: impl Write) {
    while let Some(message) = said.blocking_recv() {
        if wire::write(&mut output, &message).is_err() {
            return;
        }
    }
}

/// Looks for new interfaces: their sockets need privileges, so the daemon has to start another service.
async fn look(config: Config, then: Vec<Interface>, says: mpsc::Sender<FromService>) {
    let mut looks = interval(LOOK);
    loop {
        looks.tick().await;
        let now = interfaces::scan(config.interfaces.as_deref());
        if now.is_ok_and(|now| interfaces::gained(&then, &now)) {
            let _full = says.try_send(FromService::NewInterfaces);
        }
    }
}
