//! Finding a peer and being introduced: by plain HTTP to the boot service of any peer of the segment.
//!
//! Nobody on the segment is believed: what counts is a certificate whose chain leads from the roots that the scout was made with.

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use p2pinst_boot::dhcp::beacon::Beacon;
use p2pinst_boot::scout::{BEACON_PORT, BootArgs, HTTP_PORT, Lease, ask, gather};
use p2pinst_trust::scout::Welcomed;
use p2pinst_trust::{Greeting, RootChain, ScoutCluster, ScoutHello, SecretKey, Welcome};
use p2pinst_types::record::{Guise, Inventory};
use p2pinst_types::{Mac, Signature, codec, limits};
use tokio::net::UdpSocket;
use tokio::task::spawn_blocking;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::Options;
use super::console::Consoles;
use crate::addrs::reachable;
use crate::boot::cluster_tag;
use crate::net::socket_addr;

/// Peers that are remembered.
const PEERS: usize = 32;
/// Between two rounds in which nobody has answered.
const PAUSE: Duration = Duration::from_secs(1);
/// The longest time that a machine waits because a peer says so.
const WAIT: Duration = Duration::from_secs(15);
/// Answers for which peers are asked in one round.
const ANSWERS: usize = 3;
/// Until a machine asks again that is told to leave, in seconds.
const AGAIN: u16 = 15;
/// How long a machine is told to leave by all who answer, until it does.
const LEAVES: Duration = Duration::from_secs(120);
/// The longest beacon.
const BEACON: usize = 256;
/// Longest file of the first process.
const NOTES: u64 = 64 * 1024;

/// Who has welcomed this scout, and how.
#[derive(Debug)]
pub(super) struct Met {
    /// What it was given.
    pub(super) welcome: Welcome,
    /// What that says.
    pub(super) welcomed: Welcomed,
    /// Who gave it.
    pub(super) through: SocketAddr,
    /// Boot services that were heard of, that one first.
    pub(super) peers: Vec<SocketAddr>,
}

/// How an introduction ended.
#[derive(Debug)]
pub(super) enum Meeting {
    /// It is a scout.
    Met(Box<Met>),
    /// It has a system, and is to start that.
    Leave(String),
}

/// A peer that was heard of.
#[derive(Debug, Clone, Copy)]
struct Peer {
    addr: SocketAddr,
    /// How often it said nothing of use, in a row.
    fails: u32,
    /// It was named or found, not only heard: it stays.
    found: bool,
}

/// Peers that have been heard of, best first. Of those that say nothing of use the worst makes room.
#[derive(Debug, Clone, Default)]
struct Heard(Arc<Mutex<Vec<Peer>>>);

impl Heard {
    fn peers(&self) -> MutexGuard<'_, Vec<Peer>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn all(&self) -> Vec<SocketAddr> {
        self.peers().iter().map(|p| p.addr).collect()
    }

    fn is_empty(&self) -> bool {
        self.peers().is_empty()
    }

    /// Those to be asked in a round: who fails is asked in ever fewer.
    fn due(&self, round: u32) -> Vec<SocketAddr> {
        let due = |p: &&Peer| round.is_multiple_of(1 << p.fails.min(4));
        self.peers().iter().filter(due).map(|p| p.addr).collect()
    }

    fn add(&self, addr: SocketAddr, found: bool) {
        let mut peers = self.peers();
        if peers.iter().any(|p| p.addr == addr) {
            return;
        }
        if peers.len() >= PEERS {
            let worst =
                (0..peers.len()).filter(|i| peers.get(*i).is_some_and(|p| !p.found && p.fails > 0));
            match worst.max_by_key(|i| peers.get(*i).map_or(0, |p| p.fails)) {
                Some(worst) => drop(peers.remove(worst)),
                None => return,
            }
        }
        peers.push(Peer { addr, fails: 0, found });
    }

    /// What a peer said was of use, or not. Who was asked goes to the end, so that others have their turn.
    fn asked(&self, addr: SocketAddr, useful: bool) {
        let mut peers = self.peers();
        if let Some(place) = peers.iter().position(|p| p.addr == addr) {
            let mut peer = peers.remove(place);
            peer.fails = if useful { 0 } else { peer.fails.saturating_add(1) };
            peers.push(peer);
        }
    }
}

/// Introduces the machine to every peer that it hears of, again and again, until one welcomes it.
pub(super) async fn meet(
    options: &Options,
    cluster: &ScoutCluster,
    roots: &RootChain,
    key: &SecretKey,
    inventory: &Inventory,
) -> anyhow::Result<Meeting> {
    let heard = Heard::default();
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, BEACON_PORT)).await;
    let socket = socket.inspect_err(|error| warn!(%error, "cannot listen for beacons")).ok();
    let tag = cluster_tag(&cluster.cluster.0);
    let listening = listen(socket, heard.clone(), tag);
    let asking = introduce(options, cluster, roots, key, inventory, &heard);
    tokio::select! {
        never = listening => match never {},
        met = asking => met,
    }
}

/// Hears beacons of this cluster, for ever.
async fn listen(socket: Option<UdpSocket>, heard: Heard, tag: [u8; 8]) -> std::convert::Infallible {
    let Some(socket) = socket else { return std::future::pending().await };
    let mut bytes = [0; BEACON];
    loop {
        match socket.recv_from(&mut bytes).await {
            Ok((len, SocketAddr::V4(from))) => {
                let beacon = bytes.get(..len).and_then(Beacon::parse);
                if let Some(beacon) = beacon.filter(|b| b.cluster == tag) {
                    heard.add(SocketAddrV4::new(*from.ip(), beacon.http_port).into(), false);
                }
            }
            Ok(_) => {}
            Err(error) => {
                debug!(%error, "beacons cannot be heard");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// What the first process has found: the kernel's arguments, from where firmware loaded the scout, the leases.
fn hints(options: &Options) -> Vec<SocketAddr> {
    let read = |path: &Path| p2pinst_files::read(path, NOTES).unwrap_or_default();
    let line = read(&options.roots.proc.join("cmdline"));
    let args = BootArgs::parse(&String::from_utf8_lossy(&line));
    let loader = read(&options.run_dir.join("loader"));
    let dir = fs::read_dir(options.run_dir.join("net"));
    let entries = dir.into_iter().flatten().flatten().map(|e| e.path());
    let leases = entries.filter(|p| p.extension().is_some_and(|e| e == "lease"));
    let leases: Vec<Lease> = leases
        .take(limits::HARDWARE_NICS)
        .map(|p| Lease::parse(&String::from_utf8_lossy(&read(&p))))
        .collect();
    let loader = Some(loader.as_slice()).filter(|l| !l.is_empty());
    gather(&args, loader, &leases).into_iter().map(|hint| hint.peer).collect()
}

async fn introduce(
    options: &Options,
    cluster: &ScoutCluster,
    roots: &RootChain,
    key: &SecretKey,
    inventory: &Inventory,
    heard: &Heard,
) -> anyhow::Result<Meeting> {
    let (mut code, mut console) = (None, Consoles::new(&options.consoles));
    let (mut said, mut leaves) = (String::new(), None::<Instant>);
    for round in 0u32.. {
        let named = cluster.peers.iter().filter_map(|p| socket_addr(p));
        let named = named.map(|a| SocketAddr::new(a.ip(), HTTP_PORT));
        for peer in options.peers.iter().copied().chain(hints(options)).chain(named) {
            heard.add(peer, true);
        }
        if round == 0 && heard.is_empty() {
            info!("waiting: no peer was heard of on this segment");
        }
        let mut waits: Option<u16> = None;
        let (mut answers, mut leave) = (0, None);
        for peer in heard.due(round) {
            // one that answers may know less than another, or be no peer at all; but not all are asked by a whole rack
            if answers >= ANSWERS {
                break;
            }
            let hello = hello(options, cluster, key, inventory, code, peer);
            let body = hello.sign(key).context("cannot sign the introduction")?;
            let answer = spawn_blocking(move || ask(peer, "/hello", &body)).await?;
            let answer = answer.map(|bytes| codec::decode::<Greeting>(&bytes));
            heard.asked(peer, matches!(answer, Ok(Ok(_))));
            match answer {
                Err(error) => debug!(%peer, %error, "a peer does not answer"),
                Ok(Err(error)) => debug!(%peer, %error, "a peer answers nonsense"),
                Ok(Ok(Greeting::Welcome(welcome))) => {
                    match welcome.verify(roots, &key.public(), Guise::Scout) {
                        Ok(welcomed) => {
                            let others = heard.all().into_iter().filter(|other| *other != peer);
                            let peers = [peer].into_iter().chain(others).collect();
                            let met = Met { welcome: *welcome, welcomed, through: peer, peers };
                            return Ok(Meeting::Met(Box::new(met)));
                        }
                        Err(error) => warn!(%peer, %error, "a peer's welcome is worth nothing"),
                    }
                    heard.asked(peer, false);
                }
                Ok(Ok(Greeting::Leave { reason })) => {
                    answers += 1;
                    leave = Some(p2pinst_boot::scout::text(&reason));
                }
                Ok(Ok(Greeting::Wait { reason, secs, code: wanted })) => {
                    answers += 1;
                    let reason = p2pinst_boot::scout::text(&reason);
                    if reason != said {
                        info!(%peer, "waiting: {reason}");
                        said = reason;
                    }
                    waits = Some(waits.map_or(secs, |least| least.min(secs)));
                    if let Some(salt) = wanted {
                        console.ask(salt, cluster.cluster, key.public());
                    }
                }
            }
        }
        match leave {
            // an order may be on its way to them
            Some(reason) if waits.is_none() => {
                let since = leaves.get_or_insert_with(Instant::now);
                if since.elapsed() >= LEAVES {
                    return Ok(Meeting::Leave(reason));
                }
                waits = Some(AGAIN);
            }
            _ => leaves = None,
        }
        // anybody on the segment can answer: nobody else is kept waiting by that
        let pause = waits.map_or(PAUSE, |secs| Duration::from_secs(secs.into()).min(WAIT));
        tokio::select! {
            typed = console.typed() => code = Some(typed),
            () = tokio::time::sleep(pause.mul_f64(jitter())) => {}
        }
    }
    Err(anyhow!("nobody has welcomed this machine"))
}

/// What the machine shows to a peer.
fn hello(
    options: &Options,
    cluster: &ScoutCluster,
    key: &SecretKey,
    inventory: &Inventory,
    code: Option<Signature>,
    peer: SocketAddr,
) -> ScoutHello {
    let macs: BTreeSet<Mac> = inventory.nics.iter().map(|n| n.mac).collect();
    let towards = format!("/ip4/{}/tcp/{}", peer.ip(), peer.port());
    ScoutHello {
        cluster: cluster.cluster,
        key: key.public(),
        macs: macs.into_iter().collect(),
        inventory: inventory.clone(),
        code,
        addrs: reachable(&options.listen, Some(&towards)),
    }
}

/// So that a rack that starts at one time does not ask at one time.
fn jitter() -> f64 {
    0.75 + f64::from(rand::random::<u8>()) / 512.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(n: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, n], 4080))
    }

    #[test]
    fn everybody_has_a_turn_and_who_is_of_no_use_makes_room() {
        let heard = Heard::default();
        heard.add(addr(0), true);
        (1..PEERS as u8).for_each(|n| heard.add(addr(n), false));
        assert_eq!(heard.due(0).len(), PEERS);
        // who was asked comes last
        heard.asked(addr(0), true);
        assert_eq!(heard.due(1).last(), Some(&addr(0)));
        // who fails is asked ever less, and is forgotten for one that is new
        (0..3).for_each(|_| heard.asked(addr(5), false));
        heard.asked(addr(6), false);
        assert!(!heard.due(1).contains(&addr(5)) && heard.due(8).contains(&addr(5)));
        heard.add(addr(100), false);
        assert!(!heard.due(0).contains(&addr(5)) && heard.due(0).contains(&addr(100)));
        heard.add(addr(101), false);
        heard.add(addr(102), false);
        assert!(!heard.due(0).contains(&addr(102)), "nobody else was of no use");
        // what was found stays
        (0..9).for_each(|_| heard.asked(addr(0), false));
        heard.add(addr(103), false);
        assert!(heard.due(0).contains(&addr(0)) && !heard.due(0).contains(&addr(103)));
    }
}
