//! The sockets of TFTP, on a thread of their own: reading a file may block it, and nobody else.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::script::AUTOEXEC;
use super::site::Site;
use crate::tftp::{Content, Limits, Output, Server};

/// The largest datagram that is looked at: requests and acknowledgements are small.
const DATAGRAM: usize = 2048;
/// Datagrams that are taken from one socket before the others have their turn.
const TURN: usize = 32;
/// How soon it is seen that the service ends.
const STOP: Duration = Duration::from_millis(500);

/// What is read from.
#[derive(Debug)]
enum Source {
    File(File, u64),
    Text(Vec<u8>),
}

impl Content for Source {
    fn length(&self) -> u64 {
        match self {
            Self::File(_, length) => *length,
            Self::Text(text) => text.length(),
        }
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::File(file, _) => FileExt::read_at(file, into, offset),
            Self::Text(text) => text.read_at(offset, into),
        }
    }
}

/// The server and its sockets.
pub(super) struct Tftp {
    site: Arc<Site>,
    began: Instant,
    server: Server<Source>,
    /// Where requests come in, by the own address.
    listeners: Vec<(Ipv4Addr, UdpSocket)>,
    /// One for each transfer, by its client.
    transfers: HashMap<SocketAddrV4, UdpSocket>,
}

impl Tftp {
    /// A server on these sockets, which do not block.
    pub(super) fn new(
        site: Arc<Site>,
        listeners: Vec<(Ipv4Addr, UdpSocket)>,
        limits: Limits,
    ) -> Self {
        let (server, transfers) = (Server::new(limits), HashMap::new());
        Self { site, began: Instant::now(), server, listeners, transfers }
    }

    /// Serves until `stop`.
    pub(super) fn run(mut self, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            let (listeners, clients) = match self.ready() {
                Ok(ready) => ready,
                Err(error) => {
                    tracing::warn!(%error, "the sockets of TFTP cannot be waited for");
                    std::thread::sleep(STOP);
                    continue;
                }
            };
            for place in listeners {
                self.read_requests(place);
            }
            for client in clients {
                self.read_transfer(client);
            }
            let mut out = Vec::new();
            self.server.on_time(self.began.elapsed(), &mut out);
            self.act(None, out);
        }
    }

    /// Waits until a socket can be read, or something is due.
    fn ready(&self) -> io::Result<(Vec<usize>, Vec<SocketAddrV4>)> {
        let clients: Vec<SocketAddrV4> = self.transfers.keys().copied().collect();
        let sockets = self.listeners.iter().map(|(_, socket)| socket);
        let sockets = sockets.chain(self.transfers.values());
        let mut fds: Vec<_> = sockets.map(|s| PollFd::new(s, PollFlags::IN)).collect();
        let due = self.server.due().map(|due| due.saturating_sub(self.began.elapsed()));
        let wait = Timespec::try_from(due.unwrap_or(STOP).min(STOP)).map_err(io::Error::other)?;
        match poll(&mut fds, Some(&wait)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let is_ready = |fd: &PollFd<'_>| !fd.revents().is_empty();
        let (first, rest) = fds.split_at_checked(self.listeners.len()).unwrap_or_default();
        let listeners = first.iter().enumerate().filter(|(_, fd)| is_ready(fd)).map(|(i, _)| i);
        let clients = clients.into_iter().zip(rest).filter(|(_, fd)| is_ready(fd)).map(|(c, _)| c);
        Ok((listeners.collect(), clients.collect()))
    }

    fn read_requests(&mut self, place: usize) {
        let mut buffer = [0; DATAGRAM];
        for _ in 0..TURN {
            let Some((own, socket)) = self.listeners.get(place) else { return };
            let own = *own;
            // an error here is of something that was sent
            let Ok((len, from)) = socket.recv_from(&mut buffer) else { return };
            let (SocketAddr::V4(from), Some(bytes)) = (from, buffer.get(..len)) else { continue };
            let (mut out, now) = (Vec::new(), self.began.elapsed());
            let site = &self.site;
            self.server.on_request(now, from, bytes, |name| find(site, own, name), &mut out);
            self.act(Some(place), out);
        }
    }

    fn read_transfer(&mut self, client: SocketAddrV4) {
        let mut buffer = [0; DATAGRAM];
        for _ in 0..TURN {
            let Some(socket) = self.transfers.get(&client) else { return };
            let mut out = Vec::new();
            match socket.recv(&mut buffer) {
                Ok(len) => {
                    let bytes = buffer.get(..len).unwrap_or_default();
                    self.server.on_datagram(self.began.elapsed(), client, bytes, &mut out);
                }
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    self.server.on_gone(client, &mut out);
                }
                Err(_) => return,
            }
            self.act(None, out);
        }
    }

    /// Does what the server says; `place` is where a request came in.
    fn act(&mut self, place: Option<usize>, out: Vec<Output>) {
        let listener = place.and_then(|place| self.listeners.get(place));
        for output in out {
            // what cannot be sent is lost, as on any network, and sent again
            match output {
                Output::Refuse { to, bytes } => {
                    let _sent = listener.map(|(_, socket)| socket.send_to(&bytes, to));
                }
                Output::Open { to } => match listener.map(|(own, _)| transfer(*own, to)) {
                    Some(Ok(socket)) => {
                        self.transfers.insert(to, socket);
                    }
                    Some(Err(error)) => tracing::debug!(%to, %error, "no socket for a transfer"),
                    None => {}
                },
                Output::Send { to, bytes } => {
                    let _sent = self.transfers.get(&to).map(|socket| socket.send(&bytes));
                }
                Output::Close(done) => {
                    self.transfers.remove(&done.to);
                    // a question for the length is no news
                    if done.bytes > 0 {
                        self.site.sent(done.to, &done.name, done.bytes);
                    }
                }
            }
        }
    }
}

/// A port for one transfer, which hears nobody but its client.
fn transfer(own: Ipv4Addr, to: SocketAddrV4) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((own, 0))?;
    socket.set_nonblocking(true)?;
    socket.connect(to)?;
    Ok(socket)
}

fn find(site: &Site, own: Ipv4Addr, name: &str) -> Option<Source> {
    if name == AUTOEXEC {
        return site.autoexec(own).map(|script| Source::Text(script.into_bytes()));
    }
    let file = site.file(name)?;
    let length = file.metadata().ok()?.len();
    Some(Source::File(file, length))
}
