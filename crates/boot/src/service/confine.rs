//! From root to nobody: sockets are opened with privileges and read without.
//!
//! The order is in the types: [`Opened`] is made as root and cannot be read from; [`Opened::confine`] consumes it, gives everything
//! up, looks whether that held, and only then hands out the [`Sockets`]. Nothing else makes them.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, UdpSocket};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use nix::sys::prctl;
use nix::unistd::{
    Gid, Uid, User, chdir, chroot, getgroups, getresgid, getresuid, setgroups, setresgid, setresuid,
};
use rustix::fs::{Access, access};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, Protocol, Socket, Type};
use thiserror::Error;

use super::config::{Config, TFTP_PORT};
use super::interfaces::Interface;
use super::neighbours::Neighbours;
use crate::dhcp::answer::{CLIENT_PORT, PXE_PORT, SERVER_PORT};

/// Connections that wait to be taken.
const BACKLOG: i32 = 128;
/// What a socket holds until it is read: a rack that is switched on at once, 700 messages of DHCP.
const RECEIVE_BUFFER: usize = 1 << 20;
/// A service that was just killed may still have the port of HTTP: it is waited for, 2 s in all.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(100);
/// Files and sockets at once: connections and transfers with a file each, and sockets of 64 interfaces.
const DESCRIPTORS: u64 = 4096;

/// Why the boot service does not start.
#[derive(Debug, Error)]
pub enum ConfineError {
    /// Without it there are no sockets below 1024, and there is nothing to give up.
    #[error("the boot service has to be started by root")]
    NotRoot,
    /// There is nobody to become.
    #[error(
        "cannot find the user {user:?} for the boot service: {reason}; make it, or name another"
    )]
    User {
        /// The name.
        user: String,
        /// Why not.
        reason: String,
    },
    /// A step that failed.
    #[error("cannot {step}, so the boot service does not start: {source}")]
    Step {
        /// What was attempted.
        step: String,
        /// Why it failed.
        source: io::Error,
    },
    /// Privileges that are still there.
    #[error("the boot service could not give its privileges up: {0}")]
    Kept(&'static str),
}

fn step<T>(step: impl Into<String>, done: nix::Result<T>) -> Result<T, ConfineError> {
    done.map_err(|e| ConfineError::Step { step: step.into(), source: e.into() })
}

/// A socket of UDP on one interface.
#[derive(Debug)]
pub(super) struct Port {
    /// The interface's number.
    pub(super) interface: u32,
    /// This node's address there.
    pub(super) own: Ipv4Addr,
    /// Its port.
    pub(super) port: u16,
    /// It.
    pub(super) socket: UdpSocket,
}

/// All that is listened on, and the one file from outside the service's root directory.
#[derive(Debug)]
pub(super) struct Sockets {
    /// DHCP, PXE and beacons.
    pub(super) ports: Vec<Port>,
    /// TFTP, one for each address.
    pub(super) tftp: Vec<(Ipv4Addr, UdpSocket)>,
    /// HTTP, one for each address.
    pub(super) http: Vec<TcpListener>,
    /// Who is behind an address.
    pub(super) neighbours: Option<Neighbours>,
}

/// Sockets that nobody can read yet.
#[derive(Debug)]
pub(super) struct Opened {
    sockets: Sockets,
    root: PathBuf,
    user: User,
}

impl Opened {
    /// Opens everything, as root. What cannot be opened is put into `failed`: beside a DHCP server on the same machine, say, the
    /// rest still works.
    ///
    /// # Errors
    /// When it is not root, or there is nobody to become.
    pub(super) fn open(
        config: &Config,
        interfaces: &[Interface],
        failed: &mut Vec<String>,
    ) -> Result<Self, ConfineError> {
        if !Uid::effective().is_root() {
            return Err(ConfineError::NotRoot);
        }
        let user = find_user(&config.user)?;
        let mut sockets =
            Sockets { ports: Vec::new(), tftp: Vec::new(), http: Vec::new(), neighbours: None };
        for interface in interfaces {
            sockets.open(config, interface, failed);
        }
        match Neighbours::open() {
            Ok(neighbours) => sockets.neighbours = Some(neighbours),
            Err(error) => failed.push(format!("cannot open the table of neighbours: {error}")),
        }
        Ok(Self { sockets, root: config.directory.clone(), user })
    }

    /// Gives everything up. From here on the boot files are all that the process can see, and these sockets all that it has.
    ///
    /// # Errors
    /// When a step fails; the sockets are closed then.
    pub(super) fn confine(self) -> Result<Sockets, ConfineError> {
        let Self { sockets, root, user } = self;
        let (uid, gid) = (user.uid, user.gid);
        raise_descriptors();
        step(format!("make {} the root directory", root.display()), chroot(&root))?;
        step("enter the root directory", chdir("/"))?;
        step("leave all groups", setgroups(&[]))?;
        step(format!("become a member of group {gid}"), setresgid(gid, gid, gid))?;
        step(format!("become user {uid}"), setresuid(uid, uid, uid))?;
        step("forbid new privileges", prctl::set_no_new_privs())?;
        look(uid, gid)?;
        let readable = access("/", Access::READ_OK | Access::EXEC_OK);
        readable.map_err(|e| ConfineError::Step {
            step: format!("read {} as {}", root.display(), user.name),
            source: e.into(),
        })?;
        Ok(sockets)
    }
}

fn find_user(name: &str) -> Result<User, ConfineError> {
    let error = |reason: String| ConfineError::User { user: name.to_owned(), reason };
    let user = User::from_name(name).map_err(|e| error(e.to_string()))?;
    let user = user.ok_or_else(|| error("it does not exist".into()))?;
    if user.uid.is_root() || user.gid.as_raw() == 0 {
        return Err(error("it has root's privileges".into()));
    }
    Ok(user)
}

/// As far as it is allowed; with fewer the system refuses connections, and others go on.
fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    let current = limit.maximum.map_or(DESCRIPTORS, |max| max.min(DESCRIPTORS));
    let _raised = setrlimit(Resource::Nofile, Rlimit { current: Some(current), ..limit });
}

/// Looks whether it held.
fn look(uid: Uid, gid: Gid) -> Result<(), ConfineError> {
    let uids = step("ask who this is", getresuid())?;
    let gids = step("ask for the group", getresgid())?;
    let groups = step("ask for the groups", getgroups())?;
    if [uids.real, uids.effective, uids.saved].iter().any(|u| *u != uid || u.is_root()) {
        return Err(ConfineError::Kept("the user did not change"));
    }
    if [gids.real, gids.effective, gids.saved].iter().any(|g| *g != gid) || !groups.is_empty() {
        return Err(ConfineError::Kept("the groups did not change"));
    }
    let root = Uid::from_raw(0);
    if setresuid(root, root, root).is_ok() || chroot("/").is_ok() {
        return Err(ConfineError::Kept("they can be had back"));
    }
    match prctl::get_no_new_privs() {
        Ok(true) => Ok(()),
        _ => Err(ConfineError::Kept("new ones can be had")),
    }
}

impl Sockets {
    fn open(&mut self, config: &Config, interface: &Interface, failed: &mut Vec<String>) {
        let mut or_failed = |what: &str, port: u16, error: io::Error| {
            let name = &interface.name;
            failed.push(format!("cannot listen on {what} port {port} of {name}: {error}"));
        };
        let any = Ipv4Addr::UNSPECIFIED;
        // The answers to probes come to the port of DHCP clients: broadcasts alone, so that this machine's own client, which has
        // the port too, gets what is sent to it.
        let ports = [
            (SERVER_PORT, any),
            (PXE_PORT, any),
            (config.beacon.0, any),
            (CLIENT_PORT, Ipv4Addr::BROADCAST),
        ];
        for (port, to) in ports {
            match udp(interface, SocketAddrV4::new(to, port)) {
                Ok(socket) => {
                    let (interface, own) = (interface.index, interface.own());
                    self.ports.push(Port { interface, own, port, socket });
                }
                Err(error) => or_failed("UDP", port, error),
            }
        }
        for own in &interface.addresses {
            match udp(interface, SocketAddrV4::new(*own, TFTP_PORT)) {
                Ok(socket) => self.tftp.push((*own, socket)),
                Err(error) => or_failed("UDP", TFTP_PORT, error),
            }
            match tcp(interface, SocketAddrV4::new(*own, config.http.0)) {
                Ok(listener) => self.http.push(listener),
                Err(error) => or_failed("TCP", config.http.0, error),
            }
        }
    }
}

/// A socket that hears one interface and no other.
fn socket(interface: &Interface, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, kind, Some(protocol))?;
    socket.set_reuse_address(true)?;
    socket.bind_device(Some(interface.name.as_bytes()))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn udp(interface: &Interface, at: SocketAddrV4) -> io::Result<UdpSocket> {
    let socket = socket(interface, Type::DGRAM, Protocol::UDP)?;
    socket.set_broadcast(true)?;
    socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    socket.bind(&at.into())?;
    Ok(socket.into())
}

fn tcp(interface: &Interface, at: SocketAddrV4) -> io::Result<TcpListener> {
    let mut tries = 0;
    loop {
        let socket = socket(interface, Type::STREAM, Protocol::TCP)?;
        match socket.bind(&at.into()).and_then(|()| socket.listen(BACKLOG)) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && tries < TRIES => {
                tries += 1;
                thread::sleep(PAUSE);
            }
            opened => return opened.map(|()| socket.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_privileges_is_nobody_to_become() {
        for user in ["root", "no-such-user"] {
            let error = find_user(user).unwrap_err().to_string();
            assert!(error.contains(user), "{error}");
        }
        assert!(!find_user("nobody").unwrap().uid.is_root());
    }
}
