//! Finding a peer and being introduced: by plain HTTP to the boot service of any peer of the segment.
//!
//! Nobody on the segment is believed: what counts is a certificate whose chain leads from the roots that the scout was made with.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use p2pinst_boot::dhcp::beacon::Beacon;
use p2pinst_boot::scout::{BEACON_PORT, BootArgs, HTTP_PORT, Lease, ask, gather};
use p2pinst_trust::scout::Welcomed;
use p2pinst_trust::{Greeting, RootChain, ScoutCluster, ScoutHello, SecretKey, Welcome};
use p2pinst_types::record::{Guise, Inventory};
use p2pinst_types::{Mac, codec, limits};
use tokio::net::UdpSocket;
use tokio::task::spawn_blocking;
use tracing::{debug, info, warn};

use super::Options;
use crate::addrs::reachable;
use crate::boot::cluster_tag;
use crate::net::socket_addr;

/// Peers that are remembered.
const PEERS: usize = 32;
/// Between two rounds in which nobody has answered.
const PAUSE: Duration = Duration::from_secs(1);
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

/// Peers that have been heard of, best first.
#[derive(Debug, Clone, Default)]
struct Heard(Arc<Mutex<Vec<SocketAddr>>>);

impl Heard {
    fn all(&self) -> Vec<SocketAddr> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn add(&self, peer: SocketAddr, first: bool) {
        let mut peers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if peers.contains(&peer) || (peers.len() >= PEERS && !first) {
            return;
        }
        if first {
            peers.insert(0, peer)
        } else {
            peers.push(peer)
        }
        peers.truncate(PEERS);
    }
}

/// Introduces the machine to every peer that it hears of, again and again, until one welcomes it.
pub(super) async fn meet(
    options: &Options,
    cluster: &ScoutCluster,
    roots: &RootChain,
    key: &SecretKey,
    inventory: &Inventory,
) -> anyhow::Result<Met> {
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
    let read = |path: &std::path::Path| p2pinst_files::read(path, NOTES).unwrap_or_default();
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
) -> anyhow::Result<Met> {
    let mut code = None;
    let (mut said, mut quiet) = (String::new(), 0u32);
    loop {
        let named = cluster.peers.iter().filter_map(|p| socket_addr(p));
        let named = named.map(|a| SocketAddr::new(a.ip(), HTTP_PORT));
        for peer in options.peers.iter().copied().chain(hints(options)).chain(named) {
            heard.add(peer, false);
        }
        let mut pause = PAUSE;
        for peer in heard.all() {
            let macs: BTreeSet<Mac> = inventory.nics.iter().map(|n| n.mac).collect();
            let towards = format!("/ip4/{}/tcp/{}", peer.ip(), peer.port());
            let hello = ScoutHello {
                cluster: cluster.cluster,
                key: key.public(),
                macs: macs.into_iter().collect(),
                inventory: inventory.clone(),
                code: code.clone(),
                addrs: reachable(&options.listen, Some(&towards)),
            };
            let body = hello.sign(key).context("cannot sign the introduction")?;
            let answer = match spawn_blocking(move || ask(peer, "/hello", &body)).await? {
                Ok(answer) => answer,
                Err(error) => {
                    debug!(%peer, %error, "a peer does not answer");
                    continue;
                }
            };
            quiet = 0;
            match codec::decode(&answer) {
                Ok(Greeting::Welcome(welcome)) => {
                    match welcome.verify(roots, &key.public(), Guise::Scout) {
                        Ok(welcomed) => {
                            let others = heard.all().into_iter().filter(|other| *other != peer);
                            let peers = [peer].into_iter().chain(others).collect();
                            return Ok(Met { welcome: *welcome, welcomed, through: peer, peers });
                        }
                        Err(error) => warn!(%peer, %error, "a peer's welcome is worth nothing"),
                    }
                }
                Ok(Greeting::Wait { reason, secs, code: wanted }) => {
                    let reason = p2pinst_boot::scout::text(&reason);
                    if reason != said {
                        info!(%peer, "waiting: {reason}");
                        said = reason;
                    }
                    pause = Duration::from_secs(secs.into());
                    if wanted {
                        code = ask_console().await;
                        pause = PAUSE;
                    }
                    // one that answers speaks for all
                    break;
                }
                Err(error) => debug!(%peer, %error, "a peer answers nonsense"),
            }
        }
        if quiet == 0 && heard.all().is_empty() {
            info!("waiting: no peer was heard of on this segment");
        }
        quiet = quiet.saturating_add(1);
        tokio::time::sleep(pause.mul_f64(jitter())).await;
    }
}

/// So that a rack that starts at one time does not ask at one time.
fn jitter() -> f64 {
    0.75 + f64::from(rand::random::<u8>()) / 512.0
}

/// Asks whoever sits at the console for the code of the order.
async fn ask_console() -> Option<String> {
    let read = || -> io::Result<String> {
        let mut console = fs::OpenOptions::new().read(true).write(true).open("/dev/console")?;
        write!(console, "\r\ncode of the order: ")?;
        let mut line = String::new();
        let mut console = BufReader::new(console).take(limits::HARDWARE_TEXT as u64);
        console.read_line(&mut line)?;
        Ok(line.trim().to_owned())
    };
    spawn_blocking(read).await.ok()?.inspect_err(|e| warn!(error = %e, "no console")).ok()
}
