//! Reads the line that names a controller. Pure; every error says at which character.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::str::FromStr;

use super::{
    CIPHERS, Controller, ControllerError, Host, Ipmi, Level, Libvirt, MAX, Problem, Qmp, Redfish,
    Template, WOL_PORT, Wol,
};

/// A part of the line, and where it begins.
#[derive(Debug, Clone, Copy)]
struct Part<'a> {
    text: &'a str,
    at: usize,
}

type Wrong = (usize, Problem);

impl<'a> Part<'a> {
    fn wrong<T>(self, problem: Problem) -> Result<T, Wrong> {
        Err((self.at, problem))
    }

    /// What is before and after a separator, which is left out; all, and nothing, when there is none.
    fn cut(self, separator: char) -> (Self, Self) {
        let end = self.text.find(separator).unwrap_or(self.text.len());
        let next = (end + 1).min(self.text.len());
        (self.before(end), self.from(next))
    }

    fn before(self, end: usize) -> Self {
        Part { text: self.text.get(..end).unwrap_or(""), at: self.at }
    }

    fn from(self, start: usize) -> Self {
        Part { text: self.text.get(start..).unwrap_or(""), at: self.at + start }
    }
}

/// What comes after `scheme://`.
struct Address<'a> {
    authority: Part<'a>,
    path: Part<'a>,
    options: Vec<(Part<'a>, Part<'a>)>,
}

/// More options than any kind has.
const OPTIONS: usize = 8;

impl<'a> Address<'a> {
    fn read(rest: Part<'a>, known: &'static str, keys: &[&str]) -> Result<Self, Wrong> {
        let Some(body) = rest.text.strip_prefix("//") else {
            return rest.wrong(Problem::Path("write // after the colon"));
        };
        let body = Part { text: body, at: rest.at + 2 };
        let (place, query) = body.cut('?');
        let slash = place.text.find('/').unwrap_or(place.text.len());
        let mut options: Vec<(Part<'a>, Part<'a>)> = Vec::new();
        let mut query = query;
        while !query.text.is_empty() {
            let (option, rest) = query.cut('&');
            let (key, value) = option.cut('=');
            if !keys.contains(&key.text) || options.len() >= OPTIONS {
                return key.wrong(Problem::Option { key: key.text.to_owned(), known });
            }
            if options.iter().any(|(other, _)| other.text == key.text) {
                return key.wrong(Problem::Twice(key.text.to_owned()));
            }
            options.push((key, value));
            query = rest;
        }
        Ok(Self { authority: place.before(slash), path: place.from(slash), options })
    }

    fn option(&self, key: &str) -> Option<Part<'a>> {
        self.options.iter().find(|(k, _)| k.text == key).map(|(_, value)| *value)
    }

    fn no_path(&self) -> Result<(), Wrong> {
        if self.path.text.is_empty() {
            return Ok(());
        }
        self.path.wrong(Problem::Path("this kind of controller has no path"))
    }
}

impl FromStr for Controller {
    type Err = ControllerError;

    fn from_str(line: &str) -> Result<Self, ControllerError> {
        read(line).map_err(|(at, problem)| {
            let hidden = problem == Problem::Secret;
            let shown = if hidden { line.get(..at).unwrap_or("") } else { line };
            let line = shown.chars().filter(|c| !c.is_control()).take(120).collect();
            ControllerError { line, column: at + 1, problem }
        })
    }
}

fn read(line: &str) -> Result<Controller, Wrong> {
    if line.len() > MAX {
        return Err((MAX, Problem::Length));
    }
    if let Some(at) = line.find(|c: char| !c.is_ascii_graphic() && c != ' ') {
        return Err((at, Problem::Character));
    }
    let (scheme, rest) = Part { text: line, at: 0 }.cut(':');
    if scheme.text == "command" {
        let template = Template::read(rest.text);
        return template.map(Controller::Command).map_err(|(at, p)| (rest.at + at, p));
    }
    if let Some(at) = line.find(' ') {
        return Err((at, Problem::Character));
    }
    match scheme.text {
        "redfish" => redfish(rest, true),
        "redfish+http" => redfish(rest, false),
        "ipmi" => ipmi(rest),
        "wol" => wol(rest),
        "libvirt" => libvirt("qemu", rest),
        "qmp" => qmp(rest),
        "inband" if rest.text.is_empty() => Ok(Controller::InBand),
        "inband" => rest.wrong(Problem::Path("nothing follows inband:")),
        other => match other.strip_prefix("libvirt+") {
            Some(kind) => {
                kind_of_libvirt(Part { text: kind, at: "libvirt+".len() })?;
                libvirt(kind, rest)
            }
            None => scheme.wrong(Problem::Scheme(other.chars().take(40).collect())),
        },
    }
}

fn redfish(rest: Part<'_>, tls: bool) -> Result<Controller, Wrong> {
    let address = Address::read(rest, "there is fingerprint=", &["fingerprint"])?;
    let system = address.path.text.trim_end_matches('/');
    let plain = |c: char| c.is_ascii_alphanumeric() || "/-._~:@".contains(c);
    if !system.chars().all(plain) || system.split('/').any(|part| part == ".." || part == ".") {
        return address.path.wrong(Problem::Path("this is no path of a Redfish system"));
    }
    let fingerprint = match address.option("fingerprint") {
        Some(value) => Some(value.text.parse().map_err(|p| (value.at, p))?),
        None => None,
    };
    let system = (!system.is_empty()).then(|| system.to_owned());
    Ok(Controller::Redfish(Redfish { tls, host: host(address.authority)?, system, fingerprint }))
}

fn ipmi(rest: Part<'_>) -> Result<Controller, Wrong> {
    let address = Address::read(rest, "there are cipher= and level=", &["cipher", "level"])?;
    address.no_path()?;
    let host = host(address.authority)?;
    let ciphers = match address.option("cipher") {
        Some(value) => ciphers(value)?,
        None => CIPHERS.to_vec(),
    };
    let level = match address.option("level") {
        None => Level::Administrator,
        Some(value) => match value.text {
            "administrator" => Level::Administrator,
            "operator" => Level::Operator,
            _ => return value.wrong(Problem::Value("a level is operator or administrator")),
        },
    };
    let host = Host { port: host.port.filter(|port| *port != super::IPMI_PORT), ..host };
    Ok(Controller::Ipmi(Ipmi { host, ciphers, level }))
}

/// The suites that encrypt the password's hash and the session: 17 down to 1; 0 asks for no password at all.
fn ciphers(value: Part<'_>) -> Result<Vec<u8>, Wrong> {
    let number = |text: &str| text.parse::<u8>().ok().filter(|n| (1..=17).contains(n));
    let ciphers: Option<Vec<u8>> = value.text.split(',').map(number).collect();
    match ciphers {
        Some(ciphers) if ciphers.len() <= 4 => Ok(ciphers),
        _ => value.wrong(Problem::Value(
            "cipher suites are up to four numbers from 1 to 17, divided by commas",
        )),
    }
}

fn wol(rest: Part<'_>) -> Result<Controller, Wrong> {
    let address = Address::read(rest, "there is interface=", &["interface"])?;
    address.no_path()?;
    let (to, port) = address.authority.cut(':');
    let has_port = address.authority.text.contains(':');
    let port = if has_port { self::port(port)? } else { WOL_PORT };
    let to = match to.text {
        "" => None,
        text => match text.parse::<Ipv4Addr>() {
            Ok(Ipv4Addr::BROADCAST) => None,
            Ok(ip) => Some(ip),
            Err(_) => return to.wrong(Problem::Value("write an IPv4 address, or none")),
        },
    };
    let interface = match address.option("interface") {
        Some(value) => Some(interface(value)?),
        None => None,
    };
    Ok(Controller::Wol(Wol { to, port, interface }))
}

/// As the kernel takes them (IFNAMSIZ).
fn interface(value: Part<'_>) -> Result<String, Wrong> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.@".contains(c);
    let dots = value.text.chars().all(|c| c == '.');
    if value.text.len() > 15 || dots || !value.text.chars().all(plain) {
        return value.wrong(Problem::Value("this is no name of a network interface"));
    }
    Ok(value.text.to_owned())
}

/// The drivers and transports of libvirt that start no program that the line could name.
fn kind_of_libvirt(kind: Part<'_>) -> Result<(), Wrong> {
    let (driver, transport) = kind.cut('+');
    if !matches!(driver.text, "qemu" | "test" | "xen" | "lxc" | "bhyve" | "vz") {
        return driver.wrong(Problem::Scheme(format!("libvirt+{}", driver.text)));
    }
    let known = ["unix", "ssh", "tcp", "tls", "libssh", "libssh2"];
    if kind.text.contains('+') && !known.contains(&transport.text) {
        return transport.wrong(Problem::Value("a transport is unix, ssh, tls, tcp or libssh"));
    }
    Ok(())
}

fn libvirt(kind: &str, rest: Part<'_>) -> Result<Controller, Wrong> {
    let address = Address::read(rest, "there are domain= and socket=", &["domain", "socket"])?;
    let authority = address.authority;
    if !authority.text.is_empty() {
        // ssh asks for a user; a password it must not be
        let (user, place) = match authority.text.split_once('@') {
            Some((user, place)) => (user, authority.from(authority.text.len() - place.len())),
            None => ("root", authority),
        };
        if user.contains(':') {
            return authority.wrong(Problem::Secret);
        }
        name(Part { text: user, at: authority.at }, "this is no name of a user")?;
        host(place)?;
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || "/-._".contains(c);
    if !address.path.text.chars().all(plain) {
        return address.path.wrong(Problem::Path("this is no path of a libvirt connection"));
    }
    let end = Part { text: "", at: rest.at + rest.text.len() };
    let domain = address.option("domain").unwrap_or(end);
    let domain = name(domain, "write the domain's name: domain=NAME")?;
    let socket = match address.option("socket") {
        Some(value) => format!("?socket={}", path(value)?.display()),
        None => String::new(),
    };
    let uri = format!("{kind}://{}{}{socket}", authority.text, address.path.text);
    Ok(Controller::Libvirt(Libvirt { uri, domain }))
}

fn qmp(rest: Part<'_>) -> Result<Controller, Wrong> {
    let known = "there are nic=, disk= and off=quit";
    let address = Address::read(rest, known, &["nic", "disk", "off"])?;
    if !address.authority.text.is_empty() {
        return address.authority.wrong(Problem::Path("write the whole path: qmp:///run/vm.qmp"));
    }
    let device = |key: &str| match address.option(key) {
        Some(value) => name(value, "this is no id of a device of QEMU").map(Some),
        None => Ok(None),
    };
    let quits = match address.option("off") {
        None => false,
        Some(value) if value.text == "quit" => true,
        Some(value) => return value.wrong(Problem::Value("off= can only be quit")),
    };
    let (nic, disk) = (device("nic")?, device("disk")?);
    Ok(Controller::Qmp(Qmp { socket: path(address.path)?, nic, disk, quits }))
}

/// A whole path without anything that a line or a URI gives a meaning.
fn path(part: Part<'_>) -> Result<PathBuf, Wrong> {
    let plain = |c: char| c.is_ascii_graphic() && !"?#%&=".contains(c);
    if part.text.len() < 2 || !part.text.starts_with('/') || !part.text.chars().all(plain) {
        return part.wrong(Problem::Path("write the whole path of a socket"));
    }
    Ok(PathBuf::from(part.text))
}

/// A name that is no option of a program.
fn name(part: Part<'_>, problem: &'static str) -> Result<String, Wrong> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.+:@".contains(c);
    if part.text.is_empty() || part.text.starts_with('-') || !part.text.chars().all(plain) {
        return part.wrong(Problem::Value(problem));
    }
    Ok(part.text.to_owned())
}

fn host(authority: Part<'_>) -> Result<Host, Wrong> {
    if authority.text.contains('@') {
        return authority.wrong(Problem::Secret);
    }
    let (name, after) = match authority.text.strip_prefix('[') {
        Some(_) => {
            let end = authority.text.find(']').ok_or((authority.at, Problem::Host))?;
            let name = Part { at: authority.at + 1, ..authority.from(1).before(end - 1) };
            if name.text.parse::<Ipv6Addr>().is_err() {
                return name.wrong(Problem::Host);
            }
            (name, authority.from(end + 1))
        }
        None => {
            let end = authority.text.find(':').unwrap_or(authority.text.len());
            (dns(authority.before(end))?, authority.from(end))
        }
    };
    let port = match after.text.strip_prefix(':') {
        Some(_) => Some(port(after.from(1))?),
        None if after.text.is_empty() => None,
        None => return after.wrong(Problem::Port),
    };
    Ok(Host { name: name.text.to_owned(), port })
}

fn dns(part: Part<'_>) -> Result<Part<'_>, Wrong> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let starts = part.text.starts_with(|c: char| c.is_ascii_alphanumeric());
    if starts && part.text.len() <= 253 && part.text.chars().all(plain) {
        return Ok(part);
    }
    part.wrong(Problem::Host)
}

fn port(part: Part<'_>) -> Result<u16, Wrong> {
    match part.text.parse::<u16>() {
        Ok(port) if port > 0 && !part.text.starts_with('+') => Ok(port),
        _ => part.wrong(Problem::Port),
    }
}
