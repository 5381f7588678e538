//! The sockets of DHCP, PXE and beacons: what comes goes into the machine that answers, and what it says goes out.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use p2pinst_types::{Mac, NodeId};
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::confine::Port;
use super::interfaces::Interface;
use super::site::Site;
use super::tables::Tables;
use super::wire::FromService;
use crate::dhcp::responder::{Output, Received, Responder};
use crate::dhcp::segments::Link;

/// The largest datagram that is looked at: more than an Ethernet frame holds.
const DATAGRAM: usize = 2048;
/// Datagrams that wait for the machine; more stay in the sockets' buffers.
const WAITING: usize = 256;

/// One port of one interface.
struct Place {
    interface: u32,
    own: Ipv4Addr,
    port: u16,
    socket: UdpSocket,
}

/// What came, and where.
struct Datagram {
    place: Arc<Place>,
    from: SocketAddrV4,
    bytes: Vec<u8>,
}

/// The DHCP side of the service.
pub(super) struct Segment {
    site: Arc<Site>,
    began: Instant,
    responder: Responder,
    links: Vec<Link>,
    beacon: u16,
    places: HashMap<(u32, u16), Arc<Place>>,
}

impl Segment {
    /// A machine on these ports that answers nobody yet.
    ///
    /// # Errors
    /// When the sockets cannot be used.
    pub(super) fn new(
        site: Arc<Site>,
        node: NodeId,
        beacon: u16,
        interfaces: &[Interface],
        ports: Vec<Port>,
    ) -> std::io::Result<Self> {
        let mut places = HashMap::new();
        for Port { interface, own, port, socket } in ports {
            let socket = UdpSocket::from_std(socket)?;
            places.insert((interface, port), Arc::new(Place { interface, own, port, socket }));
        }
        let link = |i: &Interface| Link { interface: i.index, own: i.own(), mac: i.mac };
        let links = interfaces.iter().map(link).collect();
        let seed = getrandom::u64().map_err(std::io::Error::other)?;
        let responder = Responder::new(Duration::ZERO, node, seed);
        Ok(Self { site, began: Instant::now(), responder, links, beacon, places })
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// Answers, for ever. `served` are machines that were given a file.
    pub(super) async fn run(
        mut self,
        mut tables: watch::Receiver<Option<Arc<Tables>>>,
        mut served: mpsc::Receiver<Mac>,
    ) {
        let (heard, mut datagrams) = mpsc::channel(WAITING);
        let mut readers = JoinSet::new();
        for place in self.places.values() {
            readers.spawn(read(Arc::clone(place), heard.clone()));
        }
        let now = self.now();
        self.responder.set_links(now, &self.links);
        let mut out = Vec::new();
        loop {
            // a due time that has passed is now
            let due = self.responder.due().map(|due| self.began + due);
            tokio::select! {
                biased;
                Ok(()) = tables.changed() => {
                    let table = tables.borrow_and_update().as_ref().map(|t| t.table.clone());
                    if let Some(table) = table {
                        let now = self.now();
                        self.responder.set_table(now, table);
                    }
                }
                () = until(due) => self.on_time(&mut out),
                Some(mac) = served.recv() => self.responder.client_got_file(mac),
                Some(datagram) = datagrams.recv() => self.on_datagram(&datagram, &mut out),
            }
            self.act(&mut out);
        }
    }

    fn on_time(&mut self, out: &mut Vec<Output>) {
        let now = self.now();
        self.responder.on_time(now, out);
        for link in &self.links {
            let siblings = self.responder.siblings(now, link.interface);
            let servers = siblings.map(|s| SocketAddrV4::new(s.address, s.http_port));
            self.site.set_siblings(link.own, servers.collect());
        }
    }

    fn on_datagram(&mut self, datagram: &Datagram, out: &mut Vec<Output>) {
        let Datagram { place, from, bytes } = datagram;
        let now = self.now();
        if place.port == self.beacon {
            self.responder.on_beacon(now, place.interface, *from.ip(), bytes);
        } else {
            let (interface, own, port) = (place.interface, place.own, place.port);
            let received = Received { interface, own, from: *from, port, bytes };
            self.responder.on_packet(now, &received, out);
        }
    }

    fn act(&self, out: &mut Vec<Output>) {
        for output in out.drain(..) {
            let (place, to, bytes) = match output {
                Output::Send { interface, port, to, bytes } => ((interface, port), to, bytes),
                Output::Beacon { interface, bytes } => {
                    let to = SocketAddrV4::new(Ipv4Addr::BROADCAST, self.beacon);
                    ((interface, self.beacon), to, bytes)
                }
                Output::Event(event) => {
                    self.site.tell(FromService::Event(event));
                    continue;
                }
            };
            let Some(place) = self.places.get(&place) else { continue };
            // what does not fit into the socket's buffer is lost, and asked for again
            if let Err(error) = place.socket.try_send_to(&bytes, to.into()) {
                tracing::debug!(%to, %error, "an answer could not be sent");
            }
        }
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}

async fn read(place: Arc<Place>, heard: mpsc::Sender<Datagram>) {
    let mut buffer = [0; DATAGRAM];
    loop {
        match place.socket.recv_from(&mut buffer).await {
            Ok((len, SocketAddr::V4(from))) => {
                let bytes = buffer.get(..len).unwrap_or_default().to_vec();
                let datagram = Datagram { place: Arc::clone(&place), from, bytes };
                if heard.send(datagram).await.is_err() {
                    return;
                }
            }
            Ok(_) => {}
            Err(error) => {
                // the interface is down, say
                tracing::debug!(%error, "a socket could not be read");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}
