//! The responder on real sockets: beside dnsmasq, under perfdhcp's load, and with machines that boot (QEMU without KVM).
//!
//! Each test has a bridge in network namespaces of its own. The boot files come from an HTTP server of a few lines and from dnsmasq's TFTP server, so
//! that what is proved is the DHCP side: the machine asked for what it was told, where it was told.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use p2pinst_boot::dhcp::client::{Family, Program};
use p2pinst_boot::dhcp::event::{Counters, Event, Foreign};
use p2pinst_boot::dhcp::responder::{Output, Received, Responder};
use p2pinst_boot::dhcp::segments::Link;
use p2pinst_boot::dhcp::table::{
    Armed, Artefacts, Files, IsolatedPool, Mode, Style, Table, Wants, script_path,
};
use p2pinst_command::{ask_within, text};
use p2pinst_types::{Hash, Mac, NodeId, PublicKey};
use socket2::{Domain, Protocol, Socket, Type};

mod net;

use net::{Net, Running, is_root, within};

const MACHINE: Mac = Mac([0x52, 0x54, 0, 0x79, 0, 1]);
const OWN: Ipv4Addr = Ipv4Addr::new(10, 79, 0, 3);
const SITE: Ipv4Addr = Ipv4Addr::new(10, 79, 0, 2);
const HTTP: u16 = 8080;
/// QEMU on two busy processors; nothing is measured by it.
const PATIENCE: Duration = Duration::from_secs(120);

fn table(mode: Mode, style: Style) -> Table {
    let files = |scout: Option<&str>, ipxe: &str| Files {
        scout: scout.map(|s| s.parse().unwrap()),
        ipxe: ipxe.parse().ok(),
        script: true,
    };
    let node = NodeId(PublicKey([1; 32]));
    Table {
        mode,
        http_port: HTTP,
        machines: BTreeMap::from([(
            MACHINE,
            Armed { assignment: Hash([3; 32]), style, wants: Wants::Scout },
        )]),
        artefacts: Artefacts(BTreeMap::from([
            (Family::Bios, files(None, "undionly.kpxe")),
            (Family::EfiX64, files(None, "ipxe.efi")),
        ])),
        members: BTreeSet::from([node]),
        ..Table::off(node)
    }
}

/// The responder on sockets, in a namespace.
struct Service {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// What the threads of a [`Service`] share.
struct Shared {
    responder: Mutex<Responder>,
    events: Mutex<Vec<Event>>,
    sockets: BTreeMap<u16, UdpSocket>,
    start: Instant,
    stop: AtomicBool,
}

impl Service {
    fn new(net: &Net, table: Table) -> Self {
        let mut responder = Responder::new(Duration::ZERO, table.node, 7);
        responder.set_links(Duration::ZERO, &[Link { interface: 1, own: OWN, mac: Mac([2; 6]) }]);
        responder.set_table(Duration::ZERO, table);
        let sockets = net.inside(|| [67, 68, 4011].map(|port| (port, socket(port))));
        let shared = Arc::new(Shared {
            responder: Mutex::new(responder),
            events: Mutex::default(),
            sockets: sockets.into(),
            start: Instant::now(),
            stop: AtomicBool::new(false),
        });
        let each = |port: u16| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || shared.serve(port))
        };
        let threads = [67, 68, 4011].map(each).into();
        Self { shared, threads }
    }

    fn counters(&self) -> Counters {
        self.shared.responder.lock().unwrap().counters()
    }

    fn clients(&self) -> usize {
        self.shared.responder.lock().unwrap().remembered().clients
    }

    fn set(&self, table: Table) {
        self.shared.step(|responder, now, _| responder.set_table(now, table));
    }

    fn events(&self) -> Vec<Event> {
        self.shared.events.lock().unwrap().clone()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let ended = thread.join();
            assert!(ended.is_ok() || thread::panicking(), "a thread of the service panicked");
        }
    }
}

impl Shared {
    fn step(&self, what: impl FnOnce(&mut Responder, Duration, &mut Vec<Output>)) {
        let mut out = Vec::new();
        what(&mut self.responder.lock().unwrap(), self.start.elapsed(), &mut out);
        for output in out {
            match output {
                Output::Send { port, to, bytes, .. } => {
                    let sent = self.sockets[&port].send_to(&bytes, to);
                    assert_eq!(sent.ok(), Some(bytes.len()), "to {to}");
                }
                Output::Beacon { .. } => {}
                Output::Event(event) => self.events.lock().unwrap().push(event),
            }
        }
    }

    /// Takes what comes to a port; the one of the servers minds the time too.
    fn serve(&self, port: u16) {
        let mut buffer = [0u8; 4096];
        while !self.stop.load(Ordering::Relaxed) {
            if let Ok((len, SocketAddr::V4(from))) = self.sockets[&port].recv_from(&mut buffer) {
                let bytes = &buffer[..len];
                let received = Received { interface: 1, own: OWN, from, port, bytes };
                self.step(|responder, now, out| responder.on_packet(now, &received, out));
            }
            if port == 67 {
                self.step(|responder, now, out| {
                    if responder.due().is_some_and(|due| due <= now) {
                        responder.on_time(now, out);
                    }
                });
            }
        }
    }
}

fn socket(port: u16) -> UdpSocket {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.set_broadcast(true).unwrap();
    socket.bind_device(Some(b"eth0")).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let any = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port);
    socket.bind(&SocketAddr::V4(any).into()).unwrap();
    socket.into()
}

/// What was asked of the HTTP server, in order.
type Asked = Arc<Mutex<Vec<String>>>;

/// An HTTP server with the machine's script, and iPXE at every other path.
fn http(net: &Net) -> Asked {
    let any = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, HTTP);
    let listener = net.inside(move || TcpListener::bind(any).unwrap());
    let asked = Asked::default();
    let list = Arc::clone(&asked);
    // it ends with the process: its socket keeps nobody else's port
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let first = lines.next().and_then(Result::ok).unwrap_or_default();
            let _head = lines.map_while(Result::ok).take_while(|l| !l.is_empty()).count();
            let mut words = first.split(' ').map(str::to_owned);
            let (method, path) = (words.next().unwrap(), words.next().unwrap_or_default());
            let script =
                format!("#!ipxe\nimgfetch http://{OWN}:{HTTP}/ran/${{net0/mac}} ||\npoweroff\n");
            let body = match path.as_str() {
                path if path == script_path(MACHINE) => script.into_bytes(),
                path if path.ends_with(".efi") => std::fs::read("/usr/lib/ipxe/ipxe.efi").unwrap(),
                _ => b"ok".to_vec(),
            };
            list.lock().unwrap().push(path);
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                body.len()
            );
            // who goes away early has seen enough: OVMF resets after HEAD and GET
            let _gone = stream.write_all(head.as_bytes());
            if method != "HEAD" {
                let _gone = stream.write_all(&body);
            }
        }
    });
    asked
}

/// Waits until the machine has run its script, and says so by its hardware address.
fn ran_script(asked: &Asked, service: &Service) -> Vec<String> {
    let ran = format!("/ran/{MACHINE}");
    let deadline = Instant::now() + PATIENCE;
    loop {
        let paths = asked.lock().unwrap().clone();
        if paths.iter().any(|p| p.replace("%3A", ":") == ran) {
            return paths;
        }
        assert!(Instant::now() < deadline, "asked {paths:?}, happened {:?}", service.events());
        thread::sleep(Duration::from_millis(20));
    }
}

/// Whether the machine was offered a boot file as this program.
fn offered_to(events: &[Event], wanted: Program) -> bool {
    let is = |e: &Event| matches!(e, Event::Discover { mac: MACHINE, program, .. } if *program == wanted);
    let at = events.iter().position(is);
    let offered = |e: &Event| matches!(e, Event::Offered { mac: MACHINE, .. });
    at.is_some_and(|at| events[at..].iter().any(offered))
}

#[test]
fn ipxe_takes_its_address_from_the_site_and_its_script_from_us() {
    if !is_root() {
        return;
    }
    let net = Net::new();
    let asked = http(&net);
    let _site = net.site_dhcp();
    let service = Service::new(&net, table(Mode::Armed, Style::Direct));
    let _machine = net.machine(&[]);
    let paths = ran_script(&asked, &service);
    assert_eq!(paths[0], script_path(MACHINE), "the first thing that it asked for");
    let events = service.events();
    assert!(offered_to(&events, Program::Ipxe), "{events:?}");
    assert!(!events.iter().any(|e| matches!(e, Event::ForeignServer { .. })), "{events:?}");
    let leases = std::fs::read_to_string(net.path("leases")).unwrap();
    assert!(leases.contains(&MACHINE.to_string()), "the site's server gave the address: {leases}");
}

#[test]
fn ipxe_boots_on_a_segment_without_dhcp() {
    if !is_root() {
        return;
    }
    let net = Net::new();
    let asked = http(&net);
    let mode = Mode::Isolated(pool());
    let service = Service::new(&net, table(mode, Style::Direct));
    let _machine = net.machine(&[]);
    let paths = ran_script(&asked, &service);
    assert_eq!(paths[0], script_path(MACHINE));
    let events = service.events();
    let leased = |e: &Event| matches!(e, Event::Leased { mac: MACHINE, address } if pool().contains(*address));
    assert!(events.iter().any(leased), "{events:?}");
}

fn pool() -> IsolatedPool {
    IsolatedPool {
        first: [10, 79, 0, 100].into(),
        last: [10, 79, 0, 199].into(),
        netmask: [255, 255, 255, 0].into(),
        router: None,
        dns: Vec::new(),
        lease: 600,
    }
}

/// perfdhcp's DISCOVERs of PXE firmware, each from another machine, 200 in a second for three seconds: how many were sent, how many answered.
fn load(net: &Net) -> (u64, u64) {
    let class = "60,505845436c69656e743a417263683a30303030373a554e44493a303033303136";
    let own = OWN.to_string();
    let mut line = vec!["perfdhcp", "-4", "-i", "-l", "10.79.0.4", "-r", "200", "-R", "100000"];
    line.extend([
        "-p",
        "3",
        "-W",
        "1000000",
        "-o",
        class,
        "-o",
        "93,0007",
        "-o",
        "94,010310",
        &own,
    ]);
    let command = within(&net.name("load"), &line);
    let said = ask_within(command, &[], 1 << 20, PATIENCE).unwrap();
    let report = text(&said.stdout);
    let number = |what: &str| {
        let line = report.lines().find_map(|l| l.strip_prefix(what));
        line.and_then(|n| n.trim().parse().ok()).unwrap_or_else(|| panic!("{what}: {report}"))
    };
    eprintln!("{}", report.lines().filter(|l| l.contains("delay")).collect::<Vec<_>>().join(", "));
    (number("sent packets:"), number("received packets:"))
}

#[test]
fn two_hundred_machines_a_second_are_answered_or_left_alone() {
    if !is_root() {
        return;
    }
    let net = Net::new();
    let service = Service::new(&net, table(Mode::Discover, Style::Direct));
    let (sent, answered) = load(&net);
    // what perfdhcp still had on the way when it ended is not counted by it
    assert!(sent > 500, "{sent}");
    assert!(answered * 100 >= sent * 98, "{answered} of {sent}");
    let counters = service.counters();
    assert!(counters.offers >= answered && counters.malformed == 0, "{counters:?}");
    assert!(service.clients() <= 1024, "{}", service.clients());
    let told = service.events().len();
    assert!(told <= 200, "a flood is not retold: {told}");
    service.set(table(Mode::Armed, Style::Direct));
    let (sent, answered) = load(&net);
    assert_eq!(answered, 0, "of {sent} strangers");
    let now = service.counters();
    assert_eq!(now.offers, counters.offers);
    assert!(now.ignored - counters.ignored >= sent, "{now:?}");
}

#[test]
fn other_servers_on_the_segment_are_found_by_a_probe() {
    if !is_root() {
        return;
    }
    let net = Net::new();
    let _site = net.site_dhcp();
    let service = Service::new(&net, table(Mode::Isolated(pool()), Style::Direct));
    let found = Event::ForeignServer { interface: 1, address: SITE, what: Foreign::Addresses };
    let deadline = Instant::now() + PATIENCE;
    while !service.events().contains(&found) {
        assert!(Instant::now() < deadline, "{:?}", service.events());
        thread::sleep(Duration::from_millis(20));
    }
}

/// OVMF with its own PXE or HTTP Boot, without IPv6.
fn ovmf(net: &Net, http: bool) -> Running {
    let vars = net.path("vars.fd");
    std::fs::copy("/usr/share/OVMF/OVMF_VARS_4M.fd", &vars).unwrap();
    let vars = format!("if=pflash,format=raw,file={vars}");
    let off = |what: &str| format!("name=opt/org.tianocore/{what},string=n");
    let (no6, no_pxe6, no_pxe) = (off("IPv6Support"), off("IPv6PXESupport"), off("IPv4PXESupport"));
    let code = "if=pflash,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd";
    let mut line = vec!["-drive", code, "-drive", &vars, "-fw_cfg", &no6, "-fw_cfg", &no_pxe6];
    if http {
        line.extend(["-fw_cfg", &no_pxe]);
    }
    net.machine(&line)
}

fn uefi(mode: &Mode, style: Style, http_boot: bool) {
    if !is_root() {
        return;
    }
    let net = Net::new();
    let asked = http(&net);
    let isolated = matches!(mode, Mode::Isolated(_));
    let _site = (!isolated).then(|| net.site_dhcp());
    let _tftp = net.tftp();
    std::fs::copy("/usr/lib/ipxe/ipxe.efi", net.path("tftp/ipxe.efi")).unwrap();
    let service = Service::new(&net, table(mode.clone(), style));
    let start = Instant::now();
    let _machine = ovmf(&net, http_boot);
    let paths = ran_script(&asked, &service);
    eprintln!("{style:?}, HTTP Boot {http_boot}: {:?}, {paths:?}", start.elapsed());
    let events = service.events();
    let firmware = if http_boot { Program::Http } else { Program::Pxe };
    assert!(offered_to(&events, firmware) && offered_to(&events, Program::Ipxe), "{events:?}");
    assert_eq!(paths.contains(&"/boot/ipxe.efi".to_owned()), http_boot, "{paths:?}");
    if style == Style::Ask {
        assert!(events.contains(&Event::Requested { mac: MACHINE }), "{events:?}");
    }
}

#[test]
#[ignore = "half a minute each: run by hand when answers change"]
fn uefi_pxe_takes_either_style_and_uefi_http_boot_its_url() {
    uefi(&Mode::Armed, Style::Direct, false);
    uefi(&Mode::Armed, Style::Ask, false);
    uefi(&Mode::Armed, Style::Direct, true);
}

#[test]
#[ignore = "half a minute each: run by hand when answers change"]
fn uefi_boots_on_a_segment_without_dhcp() {
    uefi(&Mode::Isolated(pool()), Style::Direct, false);
    uefi(&Mode::Isolated(pool()), Style::Ask, false);
    uefi(&Mode::Isolated(pool()), Style::Direct, true);
}
