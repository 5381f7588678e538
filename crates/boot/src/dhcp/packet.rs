//! DHCP messages on the wire (RFC 2131, RFC 2132): fixed fields and raw options.
//!
//! Options keep their bytes as they came: several parts of one option are one (RFC 3396), and options that a client put into
//! `sname` and `file` (option 52) are among the others. What an option means is the business of [`super::client`].

use std::net::Ipv4Addr;

use p2pinst_types::Mac;
use thiserror::Error;

/// The longest message that is read: an Ethernet frame carries less, and 2 KiB leaves room for options taken out of `sname` and `file`.
pub const MAX: usize = 2048;
/// The shortest message that is sent: some boot ROMs drop what is below BOOTP's 300 bytes (RFC 951).
pub const MIN: usize = 300;
/// Bytes of the fixed fields, without the magic cookie.
const FIXED: usize = 236;
/// What options begin with (RFC 2131, section 3).
const COOKIE: [u8; 4] = [99, 130, 83, 99];
/// Bytes that one part of an option carries.
const PART: usize = 255;
/// The flag by which a client asks for answers to everybody.
const BROADCAST: u16 = 0x8000;

/// Why bytes are no DHCP message of an Ethernet client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PacketError {
    /// More than [`MAX`].
    #[error("a DHCP message of {0} bytes is too long")]
    Long(usize),
    /// The fixed fields are not all there.
    #[error("a DHCP message of {0} bytes is too short")]
    Short(usize),
    /// Neither request nor reply.
    #[error("a DHCP message has the operation {0}, which is neither request (1) nor reply (2)")]
    Op(u8),
    /// Another kind of hardware than Ethernet.
    #[error("the hardware address is of type {htype} with {hlen} bytes, which is not Ethernet's")]
    Hardware {
        /// The type of the hardware (RFC 1700).
        htype: u8,
        /// The length of its addresses.
        hlen: u8,
    },
    /// BOOTP without DHCP's options.
    #[error("there is no DHCP magic cookie")]
    Cookie,
    /// An option says that it is longer than what follows.
    #[error("option {0} says that it is longer than the message")]
    Option(u8),
}

/// Request or reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// From a client.
    Request,
    /// From a server.
    Reply,
}

/// What an option is about (RFC 2132 and others).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Code(pub u8);

impl Code {
    /// Padding.
    pub const PAD: Self = Self(0);
    /// The netmask.
    pub const NETMASK: Self = Self(1);
    /// Routers.
    pub const ROUTER: Self = Self(3);
    /// Name servers.
    pub const DNS: Self = Self(6);
    /// What only the vendor class understands: for PXE, how to find a boot server.
    pub const VENDOR: Self = Self(43);
    /// The address that a client wants.
    pub const REQUESTED: Self = Self(50);
    /// How long a lease lasts, in seconds.
    pub const LEASE: Self = Self(51);
    /// Which of `file` and `sname` hold options.
    pub const OVERLOAD: Self = Self(52);
    /// The kind of the message.
    pub const MESSAGE: Self = Self(53);
    /// The server's address.
    pub const SERVER: Self = Self(54);
    /// What a client wants to know.
    pub const PARAMETERS: Self = Self(55);
    /// The longest answer that a client takes.
    pub const MAX_SIZE: Self = Self(57);
    /// When a lease should be renewed, in seconds.
    pub const RENEW: Self = Self(58);
    /// When a lease should be renewed with any server, in seconds.
    pub const REBIND: Self = Self(59);
    /// The vendor class: `PXEClient…`, `HTTPClient…`.
    pub const CLASS: Self = Self(60);
    /// How a client calls itself.
    pub const CLIENT_ID: Self = Self(61);
    /// The name of the TFTP server.
    pub const TFTP_SERVER: Self = Self(66);
    /// The name of the boot file.
    pub const BOOT_FILE: Self = Self(67);
    /// The user class (RFC 3004): `iPXE`.
    pub const USER_CLASS: Self = Self(77);
    /// What a relay wants to be told again (RFC 3046).
    pub const RELAY: Self = Self(82);
    /// The client's architecture (RFC 4578).
    pub const ARCHITECTURE: Self = Self(93);
    /// The version of the client's network interface (RFC 4578).
    pub const INTERFACE: Self = Self(94);
    /// The client's UUID (RFC 4578).
    pub const UUID: Self = Self(97);
    /// iPXE's own options.
    pub const IPXE: Self = Self(175);
    /// The last.
    pub const END: Self = Self(255);
}

/// Options in the order of their first parts, each once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options(Vec<(Code, Vec<u8>)>);

impl Options {
    /// An option's bytes.
    #[must_use]
    pub fn get(&self, code: Code) -> Option<&[u8]> {
        self.0.iter().find(|(c, _)| *c == code).map(|(_, bytes)| bytes.as_slice())
    }

    /// An option that is an address.
    #[must_use]
    pub fn address(&self, code: Code) -> Option<Ipv4Addr> {
        self.get(code).and_then(|b| <[u8; 4]>::try_from(b).ok()).map(Ipv4Addr::from)
    }

    /// Whether an option is there.
    #[must_use]
    pub fn has(&self, code: Code) -> bool {
        self.get(code).is_some()
    }

    /// Sets an option; padding and the end are none.
    pub fn set(&mut self, code: Code, bytes: impl Into<Vec<u8>>) {
        self.0.retain(|(c, _)| *c != code);
        if !matches!(code, Code::PAD | Code::END | Code::OVERLOAD) {
            self.0.push((code, bytes.into()));
        }
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (Code, &[u8])> {
        self.0.iter().map(|(code, bytes)| (*code, bytes.as_slice()))
    }

    /// Adds what a field holds; parts of one option are put together.
    fn read(&mut self, mut field: &[u8]) -> Result<(), PacketError> {
        while let Some((&code, rest)) = field.split_first() {
            field = match Code(code) {
                Code::PAD => rest,
                Code::END => break,
                code => {
                    let (&len, rest) = rest.split_first().ok_or(PacketError::Option(code.0))?;
                    let (bytes, rest) =
                        rest.split_at_checked(len.into()).ok_or(PacketError::Option(code.0))?;
                    match self.0.iter_mut().find(|(c, _)| *c == code) {
                        Some((_, whole)) => whole.extend_from_slice(bytes),
                        None => self.0.push((code, bytes.to_vec())),
                    }
                    rest
                }
            };
        }
        Ok(())
    }

    fn write(&self, out: &mut Vec<u8>) {
        for (code, bytes) in &self.0 {
            if bytes.is_empty() {
                out.extend([code.0, 0]);
            }
            for part in bytes.chunks(PART) {
                out.extend([code.0, u8::try_from(part.len()).unwrap_or(u8::MAX)]);
                out.extend_from_slice(part);
            }
        }
        out.push(Code::END.0);
    }
}

/// A text in a field of `N` bytes, the last of which is zero.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Field<const N: usize>(Vec<u8>);

impl<const N: usize> Field<N> {
    /// A text that fits, without a zero.
    #[must_use]
    pub fn new(text: &[u8]) -> Option<Self> {
        (text.len() < N && !text.contains(&0)).then(|| Self(text.to_vec()))
    }

    /// The text.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What is before the first zero; a field that is full loses its last byte.
    fn read(field: &[u8]) -> Self {
        Self(field.iter().take(N.saturating_sub(1)).take_while(|b| **b != 0).copied().collect())
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0);
        out.resize(out.len() + N.saturating_sub(self.0.len()), 0);
    }
}

/// A DHCP message of an Ethernet client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// Request or reply.
    pub op: Op,
    /// The client's number of its transaction.
    pub xid: u32,
    /// For how long the client has been trying, in seconds.
    pub secs: u16,
    /// The highest bit asks for answers to everybody.
    pub flags: u16,
    /// The address that the client has.
    pub ciaddr: Ipv4Addr,
    /// The address that the client is given.
    pub yiaddr: Ipv4Addr,
    /// The server of the boot file.
    pub siaddr: Ipv4Addr,
    /// The relay.
    pub giaddr: Ipv4Addr,
    /// The client's hardware address.
    pub chaddr: Mac,
    /// The name of the server.
    pub sname: Field<64>,
    /// The name of the boot file.
    pub file: Field<128>,
    /// Everything else.
    pub options: Options,
}

impl Packet {
    /// A message with nothing but what every one has.
    #[must_use]
    pub fn new(op: Op, xid: u32, chaddr: Mac) -> Self {
        let none = Ipv4Addr::UNSPECIFIED;
        Self {
            op,
            xid,
            secs: 0,
            flags: 0,
            ciaddr: none,
            yiaddr: none,
            siaddr: none,
            giaddr: none,
            chaddr,
            sname: Field::default(),
            file: Field::default(),
            options: Options::default(),
        }
    }

    /// Whether the client cannot hear answers to an address that it does not have yet.
    #[must_use]
    pub fn wants_broadcast(&self) -> bool {
        self.flags & BROADCAST != 0
    }

    /// Asks for answers to everybody.
    pub fn ask_broadcast(&mut self) {
        self.flags |= BROADCAST;
    }

    /// Reads a message.
    ///
    /// # Errors
    /// When the bytes are no DHCP message of an Ethernet client.
    pub fn parse(bytes: &[u8]) -> Result<Self, PacketError> {
        let len = bytes.len();
        if len > MAX {
            return Err(PacketError::Long(len));
        }
        let short = PacketError::Short(len);
        let (fixed, rest) = bytes.split_first_chunk::<FIXED>().ok_or(short)?;
        let mut fields = Reader(fixed);
        let [op, htype, hlen, _hops] = fields.take().ok_or(short)?;
        let op = match op {
            1 => Op::Request,
            2 => Op::Reply,
            other => return Err(PacketError::Op(other)),
        };
        if (htype, hlen) != (1, 6) {
            return Err(PacketError::Hardware { htype, hlen });
        }
        let xid = fields.take().map(u32::from_be_bytes).ok_or(short)?;
        let secs = fields.take().map(u16::from_be_bytes).ok_or(short)?;
        let flags = fields.take().map(u16::from_be_bytes).ok_or(short)?;
        let mut address = || fields.take::<4>().map(Ipv4Addr::from).ok_or(short);
        let (ciaddr, yiaddr, siaddr, giaddr) = (address()?, address()?, address()?, address()?);
        let chaddr = fields.take().map(Mac).ok_or(short)?;
        let _padding: [u8; 10] = fields.take().ok_or(short)?;
        let sname: [u8; 64] = fields.take().ok_or(short)?;
        let file: [u8; 128] = fields.take().ok_or(short)?;
        let options = rest.strip_prefix(&COOKIE).ok_or(PacketError::Cookie)?;
        let mut packet =
            Self { secs, flags, ciaddr, yiaddr, siaddr, giaddr, ..Self::new(op, xid, chaddr) };
        packet.read_options(options, &file, &sname)?;
        Ok(packet)
    }

    /// Reads the options, and what of `file` and `sname` option 52 does not take for more of them.
    fn read_options(
        &mut self,
        options: &[u8],
        file: &[u8],
        sname: &[u8],
    ) -> Result<(), PacketError> {
        self.options.read(options)?;
        let overload = match self.options.get(Code::OVERLOAD) {
            Some([which @ 1..=3]) => *which,
            _ => 0,
        };
        if overload & 1 != 0 {
            self.options.read(file)?;
        } else {
            self.file = Field::read(file);
        }
        if overload & 2 != 0 {
            self.options.read(sname)?;
        } else {
            self.sname = Field::read(sname);
        }
        self.options.0.retain(|(code, _)| *code != Code::OVERLOAD);
        Ok(())
    }

    /// The message's bytes, at least [`MIN`].
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(2 * MIN);
        out.extend([if self.op == Op::Request { 1 } else { 2 }, 1, 6, 0]);
        out.extend(self.xid.to_be_bytes());
        out.extend(self.secs.to_be_bytes());
        out.extend(self.flags.to_be_bytes());
        for address in [self.ciaddr, self.yiaddr, self.siaddr, self.giaddr] {
            out.extend(address.octets());
        }
        out.extend(self.chaddr.0);
        out.extend([0; 10]);
        self.sname.write(&mut out);
        self.file.write(&mut out);
        out.extend(COOKIE);
        self.options.write(&mut out);
        out.resize(out.len().max(MIN), Code::PAD.0);
        out
    }
}

/// Takes arrays off the front.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::{any, proptest};

    use super::*;

    const MAC: Mac = Mac([0x52, 0x54, 0, 1, 2, 3]);

    /// A request with these bytes after the cookie.
    fn raw(options: &[u8]) -> Vec<u8> {
        let mut bytes = Packet::new(Op::Request, 7, MAC).encode();
        bytes.truncate(FIXED + 4);
        bytes.extend_from_slice(options);
        bytes
    }

    #[test]
    fn what_is_written_is_read() {
        let mut packet = Packet::new(Op::Reply, 0x1234_5678, MAC);
        packet.siaddr = Ipv4Addr::new(10, 0, 0, 1);
        packet.file = Field::new(b"scout.efi").unwrap();
        packet.options.set(Code::MESSAGE, [2]);
        packet.options.set(Code::VENDOR, vec![7; 600]);
        packet.options.set(Code::USER_CLASS, []);
        let bytes = packet.encode();
        assert_eq!(Packet::parse(&bytes).unwrap(), packet);
        assert!(Packet::new(Op::Request, 1, MAC).encode().len() >= MIN);
    }

    #[test]
    fn parts_of_an_option_are_one() {
        // RFC 3396, with another option between the parts
        let packet = Packet::parse(&raw(&[67, 2, b'a', b'b', 53, 1, 1, 67, 1, b'c', 255])).unwrap();
        assert_eq!(packet.options.get(Code::BOOT_FILE), Some(&b"abc"[..]));
        assert_eq!(packet.options.get(Code::MESSAGE), Some(&[1][..]));
    }

    #[test]
    fn options_in_file_and_sname_are_read_in_that_order() {
        let mut bytes = raw(&[52, 1, 3, 12, 1, b'x']);
        bytes[108..113].copy_from_slice(&[12, 1, b'y', 255, 9]);
        bytes[44..48].copy_from_slice(&[12, 1, b'z', 255]);
        let packet = Packet::parse(&bytes).unwrap();
        assert_eq!(packet.options.get(Code(12)), Some(&b"xyz"[..]));
        assert!(packet.file.is_empty() && packet.sname.is_empty());
        assert!(!packet.options.has(Code::OVERLOAD));
        // an overload that nobody defined leaves them alone
        let mut bytes = raw(&[52, 1, 9]);
        bytes[108] = b'f';
        assert_eq!(Packet::parse(&bytes).unwrap().file.as_bytes(), b"f");
    }

    #[test]
    fn what_is_malformed_is_refused_with_a_reason() {
        let good = raw(&[53, 1, 1, 255]);
        for len in 0..FIXED {
            assert_eq!(Packet::parse(&good[..len]), Err(PacketError::Short(len)));
        }
        assert_eq!(Packet::parse(&good[..FIXED]), Err(PacketError::Cookie));
        assert_eq!(Packet::parse(&raw(&[53, 9, 1])), Err(PacketError::Option(53)));
        assert_eq!(Packet::parse(&raw(&[53])), Err(PacketError::Option(53)));
        assert_eq!(Packet::parse(&vec![1; 5000]), Err(PacketError::Long(5000)));
        let with = |at: usize, value: u8| {
            let mut bytes = good.clone();
            bytes[at] = value;
            Packet::parse(&bytes)
        };
        assert_eq!(with(0, 3), Err(PacketError::Op(3)));
        assert_eq!(with(1, 32), Err(PacketError::Hardware { htype: 32, hlen: 6 }));
        assert_eq!(with(2, 16), Err(PacketError::Hardware { htype: 1, hlen: 16 }));
        assert!(Packet::parse(&raw(&[])).is_ok(), "a missing end is no harm");
    }

    #[test]
    fn texts_fit_their_fields() {
        assert!(Field::<128>::new(&[b'a'; 127]).is_some());
        assert!(Field::<128>::new(&[b'a'; 128]).is_none());
        assert!(Field::<128>::new(b"a\0b").is_none());
        let mut bytes = raw(&[255]);
        bytes[108..236].fill(b'a');
        assert_eq!(Packet::parse(&bytes).unwrap().file.as_bytes().len(), 127);
    }

    proptest! {
        #[test]
        fn reading_never_panics_and_settles(
            mut bytes in vec(any::<u8>(), 0..MAX + 10), shaped in any::<bool>(),
        ) {
            if shaped && bytes.len() > FIXED + 4 {
                bytes[..3].copy_from_slice(&[1, 1, 6]);
                bytes[FIXED..FIXED + 4].copy_from_slice(&COOKIE);
            }
            super::super::fuzz_packet(&bytes);
        }
    }
}
