//! What a client is answered: with a boot file beside another DHCP server (proxyDHCP), and with an address.
//!
//! Sources: RFC 2131 (addressing of answers), RFC 3046 (82), RFC 4578 (97), RFC 6842 (61), the PXE specification 2.1 (43, port
//! 4011), the UEFI specification (HTTP Boot), and what OVMF, SeaBIOS and iPXE were seen to take.

use std::net::{Ipv4Addr, SocketAddrV4};

use super::client::{Client, Message, Program};
use super::packet::{Code, Field, Op, Packet};
use super::table::{FILES, IsolatedPool, Start, Style, script_path};

/// The port of DHCP servers and relays.
pub const SERVER_PORT: u16 = 67;
/// The port of DHCP clients.
pub const CLIENT_PORT: u16 = 68;
/// The port of PXE's boot servers.
pub const PXE_PORT: u16 = 4011;

/// PXE's discovery control (sub-option 6, one byte): 8, use the boot file that is named here; then the end.
const DIRECT: [u8; 4] = [6, 1, 8, 255];
/// iPXE's `no-pxedhcp` (sub-option 176, one byte): nobody else's offers need to be waited for.
const NO_PXEDHCP: [u8; 3] = [176, 1, 1];
/// The name servers that a client is told.
const DNS: usize = 4;

/// Who answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Server {
    /// This node's address on the client's segment.
    pub own: Ipv4Addr,
    /// The TCP port of the boot service's HTTP server.
    pub http_port: u16,
}

impl Server {
    /// The address of something on the HTTP server. An address, not a name: firmware has no resolver yet, and `${next-server}`
    /// is another's in a script of iPXE.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        match self.http_port {
            80 => format!("http://{}{path}", self.own),
            port => format!("http://{}:{port}{path}", self.own),
        }
    }
}

/// An answer that says nothing yet.
#[must_use]
pub fn reply(request: &Packet, message: Message, own: Ipv4Addr) -> Packet {
    let mut reply = Packet::new(Op::Reply, request.xid, request.chaddr);
    reply.flags = request.flags;
    reply.giaddr = request.giaddr;
    reply.options.set(Code::MESSAGE, [message as u8]);
    reply.options.set(Code::SERVER, own.octets());
    if let Some(relay) = request.options.get(Code::RELAY) {
        reply.options.set(Code::RELAY, relay);
    }
    reply
}

/// Says what to start. In style [`Style::Ask`] an offer to PXE firmware names no file: it asks for it on port 4011.
pub fn add_boot(
    reply: &mut Packet,
    request: &Packet,
    client: &Client,
    server: Server,
    start: &Start,
    style: Style,
) {
    let class: &[u8] = if client.program == Program::Http { b"HTTPClient" } else { b"PXEClient" };
    reply.options.set(Code::CLASS, class);
    if let Some(uuid) = request.options.get(Code::UUID) {
        reply.options.set(Code::UUID, uuid);
    }
    reply.siaddr = server.own;
    match start {
        Start::Tftp(file) => {
            let offer = Message::of(reply) == Some(Message::Offer);
            if offer && style == Style::Ask {
                return;
            }
            if style == Style::Direct {
                reply.options.set(Code::VENDOR, DIRECT);
            }
            reply.sname = Field::new(server.own.to_string().as_bytes()).unwrap_or_default();
            reply.file = Field::new(file.as_str().as_bytes()).unwrap_or_default();
        }
        Start::Http(file) => add_url(reply, &server.url(&format!("{FILES}{}", file.as_str()))),
        Start::Script => add_url(reply, &server.url(&script_path(client.mac))),
    }
}

/// Some clients read the field, others the option.
fn add_url(reply: &mut Packet, url: &str) {
    reply.file = Field::new(url.as_bytes()).unwrap_or_default();
    reply.options.set(Code::BOOT_FILE, url);
}

/// Gives an address.
pub fn add_address(
    reply: &mut Packet,
    request: &Packet,
    client: &Client,
    pool: &IsolatedPool,
    address: Ipv4Addr,
) {
    reply.yiaddr = address;
    let seconds = |n: u32| n.to_be_bytes();
    reply.options.set(Code::LEASE, seconds(pool.lease));
    reply.options.set(Code::RENEW, seconds(pool.lease / 2));
    // seven eighths (RFC 2131, section 4.4.5)
    reply.options.set(Code::REBIND, seconds(pool.lease - pool.lease / 8));
    reply.options.set(Code::NETMASK, pool.netmask.octets());
    if let Some(router) = pool.router {
        reply.options.set(Code::ROUTER, router.octets());
    }
    let dns: Vec<u8> = pool.dns.iter().take(DNS).flat_map(Ipv4Addr::octets).collect();
    if !dns.is_empty() {
        reply.options.set(Code::DNS, dns);
    }
    if let Some(id) = request.options.get(Code::CLIENT_ID) {
        reply.options.set(Code::CLIENT_ID, id);
    }
    if client.program == Program::Ipxe {
        reply.options.set(Code::IPXE, NO_PXEDHCP);
    }
}

/// Where an answer goes: to the relay, to who asked on port 4011, to an address that the client has (RFC 2131, section 4.1), else
/// to everybody, since a client without an address hears nothing else from a socket.
#[must_use]
pub fn destination(
    request: &Packet,
    reply: &Packet,
    from: SocketAddrV4,
    port: u16,
) -> SocketAddrV4 {
    let everybody = SocketAddrV4::new(Ipv4Addr::BROADCAST, CLIENT_PORT);
    if !request.giaddr.is_unspecified() {
        SocketAddrV4::new(request.giaddr, SERVER_PORT)
    } else if port == PXE_PORT && !from.ip().is_unspecified() {
        from
    } else if !reply.ciaddr.is_unspecified() && Message::of(reply) != Some(Message::Nak) {
        SocketAddrV4::new(reply.ciaddr, CLIENT_PORT)
    } else {
        everybody
    }
}

#[cfg(test)]
mod tests {
    use p2pinst_types::Mac;

    use super::*;

    const OWN: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
    const SERVER: Server = Server { own: OWN, http_port: 8080 };
    const MAC: Mac = Mac([0x52, 0x54, 0, 0, 0, 1]);

    fn discover(class: &[u8], arch: u8) -> (Packet, Client) {
        let mut packet = Packet::new(Op::Request, 77, MAC);
        packet.options.set(Code::MESSAGE, [1]);
        packet.options.set(Code::CLASS, class);
        packet.options.set(Code::ARCHITECTURE, [0, arch]);
        packet.options.set(Code::UUID, [0; 17]);
        if class == b"iPXE" {
            packet.options.set(Code::USER_CLASS, class);
        }
        let client = Client::of(&packet).unwrap();
        (packet, client)
    }

    fn booted(message: Message, class: &[u8], start: &Start, style: Style) -> Packet {
        let (request, client) = discover(class, 7);
        let mut answer = reply(&request, message, OWN);
        add_boot(&mut answer, &request, &client, SERVER, start, style);
        let bytes = answer.encode();
        assert!(bytes.len() <= 576, "what every client takes: {}", bytes.len());
        assert_eq!(Packet::parse(&bytes).unwrap(), answer);
        assert_eq!((answer.xid, answer.yiaddr.is_unspecified()), (77, true));
        assert_eq!(answer.options.address(Code::SERVER), Some(OWN));
        assert_eq!(answer.options.get(Code::UUID), Some(&[0; 17][..]), "echoed");
        answer
    }

    #[test]
    fn pxe_is_told_its_file_in_the_offer_or_when_it_asks() {
        let start = Start::Tftp("scout.efi".parse().unwrap());
        let direct = booted(Message::Offer, b"PXEClient", &start, Style::Direct);
        assert_eq!(direct.options.get(Code::VENDOR), Some(&[6, 1, 8, 255][..]));
        assert_eq!(direct.options.get(Code::CLASS), Some(&b"PXEClient"[..]));
        assert_eq!((direct.file.as_bytes(), direct.siaddr), (&b"scout.efi"[..], OWN));
        assert_eq!(direct.sname.as_bytes(), b"10.0.0.1");
        let ask = booted(Message::Offer, b"PXEClient", &start, Style::Ask);
        assert!(ask.file.is_empty() && !ask.options.has(Code::VENDOR));
        let ack = booted(Message::Ack, b"PXEClient", &start, Style::Ask);
        assert_eq!(ack.file.as_bytes(), b"scout.efi");
    }

    #[test]
    fn http_and_ipxe_are_told_a_url() {
        let start = Start::Http("scout.efi".parse().unwrap());
        let http = booted(Message::Offer, b"HTTPClient", &start, Style::Direct);
        let url = &b"http://10.0.0.1:8080/boot/scout.efi"[..];
        assert_eq!(http.options.get(Code::BOOT_FILE), Some(url));
        assert_eq!(http.options.get(Code::CLASS), Some(&b"HTTPClient"[..]));
        assert!(!http.options.has(Code::VENDOR));
        let script = booted(Message::Offer, b"iPXE", &Start::Script, Style::Ask);
        let url = &b"http://10.0.0.1:8080/boot/script/52-54-00-00-00-01"[..];
        assert_eq!((script.file.as_bytes(), script.options.get(Code::BOOT_FILE)), (url, Some(url)));
        let port = Server { own: Ipv4Addr::BROADCAST, http_port: 65535 };
        let name = "n".repeat(super::super::table::FILE_NAME);
        assert!(port.url(&format!("{FILES}{name}")).len() <= 127);
        assert_eq!(Server { own: OWN, http_port: 80 }.url("/x"), "http://10.0.0.1/x");
    }

    #[test]
    fn an_address_comes_with_what_a_client_needs() {
        let (mut request, client) = discover(b"iPXE", 0);
        request.options.set(Code::CLIENT_ID, [1, 2]);
        let pool = IsolatedPool {
            first: [10, 0, 0, 100].into(),
            last: [10, 0, 0, 200].into(),
            netmask: [255, 255, 255, 0].into(),
            router: Some(OWN),
            dns: vec![OWN; 9],
            lease: 800,
        };
        let mut offer = reply(&request, Message::Offer, OWN);
        add_address(&mut offer, &request, &client, &pool, pool.first);
        add_boot(&mut offer, &request, &client, SERVER, &Start::Script, Style::Direct);
        let option = |code| offer.options.get(code).unwrap();
        assert_eq!(offer.yiaddr, pool.first);
        assert_eq!(option(Code::LEASE), 800u32.to_be_bytes());
        assert_eq!(option(Code::REBIND), 700u32.to_be_bytes());
        assert_eq!((option(Code::NETMASK), option(Code::DNS).len()), (&[255, 255, 255, 0][..], 16));
        assert_eq!((option(Code::CLIENT_ID), option(Code::IPXE)), (&[1, 2][..], &[176, 1, 1][..]));
        assert!(offer.encode().len() <= 576);
    }

    #[test]
    fn answers_go_where_the_client_hears_them() {
        let (mut request, _) = discover(b"PXEClient", 7);
        let from = SocketAddrV4::new([10, 0, 0, 50].into(), PXE_PORT);
        let to = |request: &Packet, message, from, port| {
            let mut answer = reply(request, message, OWN);
            answer.ciaddr = request.ciaddr;
            destination(request, &answer, from, port)
        };
        let nobody = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, CLIENT_PORT);
        let everybody = SocketAddrV4::new(Ipv4Addr::BROADCAST, CLIENT_PORT);
        assert_eq!(to(&request, Message::Offer, nobody, SERVER_PORT), everybody);
        assert_eq!(to(&request, Message::Ack, from, PXE_PORT), from);
        assert_eq!(to(&request, Message::Ack, nobody, PXE_PORT), everybody);
        request.ciaddr = [10, 0, 0, 60].into();
        let client = SocketAddrV4::new(request.ciaddr, CLIENT_PORT);
        assert_eq!(to(&request, Message::Ack, nobody, SERVER_PORT), client);
        assert_eq!(to(&request, Message::Nak, nobody, SERVER_PORT), everybody);
        request.giaddr = [10, 9, 0, 1].into();
        request.options.set(Code::RELAY, [1, 2, 3]);
        let relay = SocketAddrV4::new(request.giaddr, SERVER_PORT);
        assert_eq!(to(&request, Message::Offer, from, SERVER_PORT), relay);
        assert_eq!(
            reply(&request, Message::Offer, OWN).options.get(Code::RELAY),
            Some(&[1, 2, 3][..])
        );
    }
}
