//! The packets of TFTP (RFC 1350) and its options (RFC 2347): what clients send is read, what a server sends is written.

use thiserror::Error;

/// The largest request that is looked at: RFC 2347 allows 512 bytes, and firmware adds options of its own.
const REQUEST_MAX: usize = 1024;
/// Options of one request that are looked at.
const OPTIONS_MAX: usize = 16;

/// What a client wants to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The name, without the slashes it began with.
    pub name: String,
    /// What it asks for besides.
    pub options: Options,
}

/// Options of a request (RFC 2347), those that a server here understands. Values that are out of their bounds are as if
/// they had not been given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// Bytes of a block (RFC 2348), from 8.
    pub blksize: Option<u16>,
    /// Seconds until what was not acknowledged is sent again (RFC 2349).
    pub timeout: Option<u8>,
    /// Whether it wants to know how long the file is (RFC 2349).
    pub tsize: bool,
    /// Blocks that are sent before one is acknowledged (RFC 7440).
    pub windowsize: Option<u16>,
}

/// A packet of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet {
    /// It wants to read.
    Read(Request),
    /// It has all blocks up to this one.
    Ack(u16),
    /// It has ended the transfer: this code of RFC 1350, or 8 for options that it does not want (RFC 2347).
    Error(u16),
}

/// What is wrong with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PacketError {
    /// It ends too early, or its texts do not end.
    #[error("it is cut off")]
    Short,
    /// A request longer than any real one.
    #[error("it is too long")]
    Long,
    /// It wants to write.
    #[error("it wants to write, and nothing is taken here")]
    Write,
    /// Netascii or mail: nothing that is served here is text that wants converting.
    #[error("it asks for another mode than octet")]
    Mode,
    /// No operation that a client has.
    #[error("no operation of a client")]
    Operation,
}

/// The errors of RFC 1350 that are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorCode {
    /// See the text.
    Undefined = 0,
    /// No such file.
    NotFound = 1,
    /// Not allowed.
    Access = 2,
    /// Not an operation.
    Illegal = 4,
}

impl Packet {
    /// Reads what a client sent.
    ///
    /// # Errors
    /// When it is nothing that a client of this server sends.
    pub fn parse(bytes: &[u8]) -> Result<Self, PacketError> {
        let (operation, rest) = word(bytes).ok_or(PacketError::Short)?;
        match operation {
            1 if bytes.len() > REQUEST_MAX => Err(PacketError::Long),
            1 => request(rest).map(Self::Read),
            2 => Err(PacketError::Write),
            4 => word(rest).map(|(block, _)| Self::Ack(block)).ok_or(PacketError::Short),
            5 => word(rest).map(|(code, _)| Self::Error(code)).ok_or(PacketError::Short),
            _ => Err(PacketError::Operation),
        }
    }
}

fn word(bytes: &[u8]) -> Option<(u16, &[u8])> {
    let (word, rest) = bytes.split_first_chunk()?;
    Some((u16::from_be_bytes(*word), rest))
}

/// A text and what follows the zero that ends it.
fn text(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|b| *b == 0)?;
    let (text, rest) = bytes.split_at_checked(end)?;
    Some((text, rest.get(1..)?))
}

fn request(bytes: &[u8]) -> Result<Request, PacketError> {
    let (name, rest) = text(bytes).ok_or(PacketError::Short)?;
    let (mode, mut rest) = text(rest).ok_or(PacketError::Short)?;
    if !mode.eq_ignore_ascii_case(b"octet") {
        return Err(PacketError::Mode);
    }
    let name = String::from_utf8_lossy(name).trim_start_matches('/').to_owned();
    let mut options = Options::default();
    for _ in 0..OPTIONS_MAX {
        // some firmware fills the rest of its packet with zeros
        let Some((key, after)) = text(rest) else { break };
        let Some((value, after)) = text(after) else { break };
        rest = after;
        options.take(key, value);
    }
    Ok(Request { name, options })
}

impl Options {
    fn take(&mut self, key: &[u8], value: &[u8]) {
        let number = || std::str::from_utf8(value).ok()?.parse::<u64>().ok();
        match key.to_ascii_lowercase().as_slice() {
            b"blksize" if self.blksize.is_none() => {
                let size = number().filter(|n| (8..=65_464).contains(n));
                self.blksize = size.and_then(|n| u16::try_from(n).ok());
            }
            b"timeout" if self.timeout.is_none() => {
                let seconds = number().filter(|n| (1..=255).contains(n));
                self.timeout = seconds.and_then(|n| u8::try_from(n).ok());
            }
            b"tsize" => self.tsize = self.tsize || number().is_some(),
            b"windowsize" if self.windowsize.is_none() => {
                let blocks = number().filter(|n| *n > 0);
                self.windowsize = blocks.and_then(|n| u16::try_from(n).ok());
            }
            _ => {}
        }
    }
}

/// A block of the file.
pub(super) fn data(block: u16, content: &[u8]) -> Vec<u8> {
    let mut packet = Vec::with_capacity(4 + content.len());
    packet.extend_from_slice(&3u16.to_be_bytes());
    packet.extend_from_slice(&block.to_be_bytes());
    packet.extend_from_slice(content);
    packet
}

/// The options that were taken (RFC 2347).
pub(super) fn oack(options: &[(&str, u64)]) -> Vec<u8> {
    let mut packet = 6u16.to_be_bytes().to_vec();
    for (key, value) in options {
        packet.extend_from_slice(key.as_bytes());
        packet.push(0);
        packet.extend_from_slice(value.to_string().as_bytes());
        packet.push(0);
    }
    packet
}

/// The end of a transfer, or the refusal of one.
pub(super) fn error(code: ErrorCode, reason: &str) -> Vec<u8> {
    let mut packet = 5u16.to_be_bytes().to_vec();
    packet.extend_from_slice(&(code as u16).to_be_bytes());
    packet.extend_from_slice(reason.as_bytes());
    packet.push(0);
    packet
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<Request, PacketError> {
        match Packet::parse(bytes)? {
            Packet::Read(request) => Ok(request),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_requests_of_firmware_are_read() {
        // as OVMF 2022.11 asks for the length first
        let probe = b"\0\x01ipxe.efi\0octet\0tsize\x000\0blksize\x001468\0windowsize\x004\0";
        let request = read(probe).unwrap();
        assert_eq!(request.name, "ipxe.efi");
        let all = Options { blksize: Some(1468), timeout: None, tsize: true, windowsize: Some(4) };
        assert_eq!(request.options, all);
        let plain = read(b"\0\x01//boot/x\0OCTET\0").unwrap();
        assert_eq!((plain.name.as_str(), plain.options), ("boot/x", Options::default()));
        let padded = read(b"\0\x01x\0octet\0BLKSIZE\x00512\0\0\0\0\0").unwrap();
        assert_eq!(padded.options.blksize, Some(512));
    }

    #[test]
    fn values_out_of_bounds_are_as_if_not_given() {
        let odd = b"\0\x01x\0octet\0blksize\x007\0timeout\x000\0windowsize\x000\0tsize\0no\0x\0y\0";
        assert_eq!(read(odd).unwrap().options, Options::default());
        let large = b"\0\x01x\0octet\0blksize\x0070000\0timeout\x00256\0windowsize\x0099999\0";
        assert_eq!(read(large).unwrap().options, Options::default());
        let twice = b"\0\x01x\0octet\0blksize\x00512\0blksize\x001024\0";
        assert_eq!(read(twice).unwrap().options.blksize, Some(512));
    }

    #[test]
    fn what_no_client_here_sends_is_refused() {
        for (bytes, error) in [
            (&b""[..], PacketError::Short),
            (b"\0", PacketError::Short),
            (b"\0\x01", PacketError::Short),
            (b"\0\x01name", PacketError::Short),
            (b"\0\x01name\0octet", PacketError::Short),
            (b"\0\x01name\0netascii\0", PacketError::Mode),
            (b"\0\x01name\0mail\0", PacketError::Mode),
            (b"\0\x02name\0octet\0", PacketError::Write),
            (b"\0\x03\0\x01data", PacketError::Operation),
            (b"\0\x04\0", PacketError::Short),
            (b"\xff\xff", PacketError::Operation),
            (&[&b"\0\x01"[..], &[b'x'; 2000], b"\0octet\0"].concat(), PacketError::Long),
        ] {
            assert_eq!(Packet::parse(bytes), Err(error), "{bytes:?}");
        }
    }
}
