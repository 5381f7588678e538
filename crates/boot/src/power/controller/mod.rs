//! What names a controller: one line, as people type it, print it and store it. Pure data; a line holds no secret.
//!
//! | line | controller |
//! |---|---|
//! | `redfish://10.0.0.5/redfish/v1/Systems/1?fingerprint=sha256:…` | Redfish (DMTF DSP0266) over HTTPS; its only system when none is named |
//! | `redfish+http://…` | the same over plain HTTP |
//! | `ipmi://10.0.0.5:623?cipher=17,3&level=operator` | IPMI 2.0, through ipmitool |
//! | `wol://` , `wol://10.0.0.255:9?interface=eth1` | Wake-on-LAN, to the machine's own address |
//! | `libvirt:///system?domain=vm1`, `libvirt+qemu+ssh://root@host/system?domain=vm1` | libvirt, through virsh: `libvirt` means `libvirt+qemu` |
//! | `qmp:///run/vm1.qmp?nic=net0&disk=disk0&off=quit` | the monitor of a QEMU |
//! | `command:/usr/local/sbin/pdu {action} {mac}` | a program of the site |
//! | `inband:` | the machine itself, while it runs |

mod parse;
mod template;

use std::fmt;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use template::{Filling, Template};

/// The longest line.
pub const MAX: usize = 512;

/// The port of IPMI over a network (RMCP).
const IPMI_PORT: u16 = 623;
/// The port that magic packets usually go to: discard. Nothing needs to listen there.
const WOL_PORT: u16 = 9;
/// The cipher suites to try, best first: 17 is SHA-256, 3 is what old ones have.
const CIPHERS: [u8; 2] = [17, 3];

/// A line that names no controller.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{line:?} names no controller: column {column}: {problem}")]
pub struct ControllerError {
    /// The line.
    pub line: String,
    /// Where in it, from 1.
    pub column: usize,
    /// What is wrong there.
    pub problem: Problem,
}

/// What is wrong with a line.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Problem {
    /// It is too long.
    #[error("a line has at most {MAX} characters")]
    Length,
    /// Something that cannot be printed, or is not ASCII.
    #[error("a line has printable ASCII characters only")]
    Character,
    /// A kind that is not known.
    #[error(
        "{0:?} is no kind of controller: write redfish://, redfish+http://, ipmi://, wol://, libvirt://, qmp://, command: or inband:"
    )]
    Scheme(String),
    /// A user or password in the line.
    #[error("users and passwords do not belong into the line, which everybody may read")]
    Secret,
    /// No host, or none that can be.
    #[error("write a host name, an IPv4 address or an [IPv6 address]")]
    Host,
    /// No port.
    #[error("a port is a number from 1 to 65535")]
    Port,
    /// A path that is not allowed here, or is missing.
    #[error("{0}")]
    Path(&'static str),
    /// An option that this kind does not have.
    #[error("there is no option {key:?} here: {known}")]
    Option {
        /// The option.
        key: String,
        /// Those that there are.
        known: &'static str,
    },
    /// An option that is there twice.
    #[error("the option {0:?} is there twice")]
    Twice(String),
    /// A bad value.
    #[error("{0}")]
    Value(&'static str),
    /// A bad template of a command.
    #[error("{0}")]
    Template(&'static str),
}

/// The kind of a controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    /// Redfish.
    Redfish,
    /// IPMI.
    Ipmi,
    /// Wake-on-LAN.
    Wol,
    /// libvirt.
    Libvirt,
    /// QEMU's monitor.
    Qmp,
    /// A program of the site.
    Command,
    /// The machine itself.
    InBand,
}

impl Driver {
    /// Whether it asks for a user and a password.
    #[must_use]
    pub fn needs_credentials(self) -> bool {
        matches!(self, Self::Redfish | Self::Ipmi)
    }
}

/// SHA-256 of a certificate (DER), by which a controller is known again.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u8; 32]);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

impl std::str::FromStr for Fingerprint {
    type Err = Problem;

    /// Reads `sha256:` and 64 hexadecimal digits, with or without the colons that openssl prints.
    fn from_str(text: &str) -> Result<Self, Problem> {
        let bad = Problem::Value("a fingerprint is sha256: and 64 hexadecimal digits");
        let Some(digits) = text.strip_prefix("sha256:") else { return Err(bad) };
        let digits = digits.replace(':', "").to_ascii_lowercase();
        let bytes = data_encoding::HEXLOWER.decode(digits.as_bytes()).map_err(|_| bad.clone())?;
        bytes.try_into().map(Self).map_err(|_| bad)
    }
}

/// A host, and the port where it is not the usual one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Host {
    /// A name, an IPv4 address or an IPv6 address without brackets.
    pub name: String,
    /// The port.
    pub port: Option<u16>,
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.name;
        if name.contains(':') {
            write!(f, "[{name}]")?
        } else {
            f.write_str(name)?
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

/// A Redfish service.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Redfish {
    /// Whether it speaks TLS.
    pub tls: bool,
    /// Where it is.
    pub host: Host,
    /// The path of the machine's system in it, as in `/redfish/v1/Systems/1`; none when it has only one.
    pub system: Option<String>,
    /// The certificate that it must show.
    pub fingerprint: Option<Fingerprint>,
}

/// The privilege that is asked of an IPMI controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Level {
    /// Enough for power and boot device with most.
    Operator,
    /// Everything; what ipmitool asks for by itself.
    Administrator,
}

/// An IPMI controller.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Ipmi {
    /// Where it is.
    pub host: Host,
    /// The cipher suites to try, in order.
    pub ciphers: Vec<u8>,
    /// The privilege to ask for.
    pub level: Level,
}

impl Ipmi {
    /// The port to ask.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.host.port.unwrap_or(IPMI_PORT)
    }
}

/// How to wake a machine.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Wol {
    /// The address that the packet goes to: the broadcast address of a subnet, say. None: everybody on the segment.
    pub to: Option<Ipv4Addr>,
    /// The UDP port.
    pub port: u16,
    /// The interface it leaves by. None: all, or the one that leads to the address.
    pub interface: Option<String>,
}

/// A domain of a libvirt.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Libvirt {
    /// The connection's URI, as `virsh -c` takes it.
    pub uri: String,
    /// The domain's name.
    pub domain: String,
}

/// The monitor of a QEMU.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Qmp {
    /// Its socket.
    pub socket: PathBuf,
    /// The id of the network card to start from.
    pub nic: Option<String>,
    /// The id of the disk to start from.
    pub disk: Option<String>,
    /// Whether a machine that is switched off has no QEMU any more.
    pub quits: bool,
}

/// What names a controller.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Controller {
    /// Redfish.
    Redfish(Redfish),
    /// IPMI.
    Ipmi(Ipmi),
    /// Wake-on-LAN.
    Wol(Wol),
    /// libvirt.
    Libvirt(Libvirt),
    /// QEMU's monitor.
    Qmp(Qmp),
    /// A program of the site.
    Command(Template),
    /// The machine itself.
    InBand,
}

impl Controller {
    /// Its kind.
    #[must_use]
    pub fn driver(&self) -> Driver {
        match self {
            Self::Redfish(_) => Driver::Redfish,
            Self::Ipmi(_) => Driver::Ipmi,
            Self::Wol(_) => Driver::Wol,
            Self::Libvirt(_) => Driver::Libvirt,
            Self::Qmp(_) => Driver::Qmp,
            Self::Command(_) => Driver::Command,
            Self::InBand => Driver::InBand,
        }
    }
}

impl TryFrom<String> for Controller {
    type Error = ControllerError;
    fn try_from(line: String) -> Result<Self, ControllerError> {
        line.parse()
    }
}

impl From<Controller> for String {
    fn from(controller: Controller) -> Self {
        controller.to_string()
    }
}

impl fmt::Display for Controller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Redfish(redfish) => write!(f, "{redfish}"),
            Self::Ipmi(ipmi) => write!(f, "{ipmi}"),
            Self::Wol(wol) => write!(f, "{wol}"),
            Self::Libvirt(libvirt) => write!(f, "{libvirt}"),
            Self::Qmp(qmp) => write!(f, "{qmp}"),
            Self::Command(template) => write!(f, "command:{template}"),
            Self::InBand => f.write_str("inband:"),
        }
    }
}

/// Writes what is there as `?key=value&key=value`.
fn options(f: &mut fmt::Formatter<'_>, options: &[(&str, Option<String>)]) -> fmt::Result {
    let mut mark = '?';
    for (key, value) in options {
        if let Some(value) = value {
            write!(f, "{mark}{key}={value}")?;
            mark = '&';
        }
    }
    Ok(())
}

impl fmt::Display for Redfish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "redfish" } else { "redfish+http" };
        write!(f, "{scheme}://{}{}", self.host, self.system.as_deref().unwrap_or(""))?;
        options(f, &[("fingerprint", self.fingerprint.map(|p| p.to_string()))])
    }
}

impl fmt::Display for Ipmi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ipmi://{}", self.host)?;
        let ciphers = self.ciphers.iter().map(u8::to_string).collect::<Vec<_>>().join(",");
        let operator = self.level == Level::Operator;
        let keys = [
            ("cipher", (self.ciphers != CIPHERS).then_some(ciphers)),
            ("level", operator.then(|| "operator".to_owned())),
        ];
        options(f, &keys)
    }
}

impl fmt::Display for Wol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("wol://")?;
        let port = (self.port != WOL_PORT).then_some(self.port);
        if self.to.is_some() || port.is_some() {
            write!(f, "{}", self.to.unwrap_or(Ipv4Addr::BROADCAST))?;
        }
        if let Some(port) = port {
            write!(f, ":{port}")?;
        }
        options(f, &[("interface", self.interface.clone())])
    }
}

impl fmt::Display for Libvirt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, socket) = match self.uri.split_once("?socket=") {
            Some((path, socket)) => (path, Some(socket.to_owned())),
            None => (self.uri.as_str(), None),
        };
        match path.strip_prefix("qemu:") {
            Some(rest) => write!(f, "libvirt:{rest}")?,
            None => write!(f, "libvirt+{path}")?,
        }
        options(f, &[("domain", Some(self.domain.clone())), ("socket", socket)])
    }
}

impl fmt::Display for Qmp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "qmp://{}", self.socket.display())?;
        let off = self.quits.then(|| "quit".to_owned());
        options(f, &[("nic", self.nic.clone()), ("disk", self.disk.clone()), ("off", off)])
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LINES: [&str; 16] = [
        "redfish://10.0.0.5/redfish/v1/Systems/1",
        "redfish://[fd00::5]:8443",
        "redfish+http://bmc7.example/redfish/v1/Systems/437XR1138R2",
        "ipmi://10.0.0.5",
        "ipmi://10.0.0.5:6230?cipher=3&level=operator",
        "wol://",
        "wol://10.0.0.255?interface=eth1",
        "wol://255.255.255.255:7",
        "libvirt:///system?domain=vm1",
        "libvirt+qemu+ssh://root@host/system?domain=vm1",
        "libvirt+test:///default?domain=test",
        "libvirt+qemu+unix:///system?domain=a&socket=/run/x",
        "qmp:///run/vm1.qmp",
        "qmp:///run/vm1.qmp?nic=net0&disk=disk0&off=quit",
        "command:/usr/local/sbin/pdu {action} 'outlet 7' {mac}",
        "inband:",
    ];

    #[test]
    fn lines_are_read_as_they_are_written() {
        for line in LINES {
            let controller: Controller = line.parse().unwrap();
            let shown = controller.to_string();
            let again: Controller = shown.parse().unwrap();
            assert_eq!(again, controller, "{line}");
            let cbor = p2pinst_types::codec::encode(&controller).unwrap();
            assert_eq!(p2pinst_types::codec::decode::<Controller>(&cbor).unwrap(), controller);
            assert_eq!(shown, line);
        }
        #[derive(Serialize, Deserialize, PartialEq, Debug)]
        struct File {
            power: Controller,
        }
        let file = File { power: LINES[4].parse().unwrap() };
        let text = toml::to_string(&file).unwrap();
        assert_eq!(text, "power = \"ipmi://10.0.0.5:6230?cipher=3&level=operator\"\n");
        assert_eq!(toml::from_str::<File>(&text).unwrap(), file);
    }

    #[test]
    fn what_is_usual_is_not_printed() {
        let ipmi: Controller =
            "ipmi://10.0.0.5:623?cipher=17,3&level=administrator".parse().unwrap();
        assert_eq!(ipmi.to_string(), "ipmi://10.0.0.5");
        let wol: Controller = "wol://10.0.0.255:9".parse().unwrap();
        assert_eq!(wol.to_string(), "wol://10.0.0.255");
        let qemu: Controller = "libvirt+qemu:///system?domain=a".parse().unwrap();
        assert_eq!(qemu.to_string(), "libvirt:///system?domain=a");
        let openssl = format!("redfish://h?fingerprint=sha256:{}", ["AB"; 32].join(":"));
        let redfish: Controller = openssl.parse().unwrap();
        assert!(redfish.to_string().ends_with(&format!("sha256:{}", "ab".repeat(32))));
    }

    #[test]
    fn errors_say_where() {
        let cases = [
            ("ftp://x", 1, "no kind of controller"),
            ("10.0.0.5", 1, "no kind of controller"),
            ("ipmi://", 8, "host name"),
            ("ipmi://admin:secret@10.0.0.5", 8, "passwords do not belong"),
            ("ipmi://10.0.0.5:70000", 17, "a port is"),
            ("ipmi://10.0.0.5/x", 16, "no path"),
            ("ipmi://10.0.0.5?cypher=3", 17, "no option \"cypher\""),
            ("ipmi://10.0.0.5?cipher=x", 24, "cipher"),
            ("ipmi://10.0.0.5?cipher=3&cipher=3", 26, "twice"),
            ("ipmi://-oProxy=x", 8, "host name"),
            ("redfish://h/redfish/v1/../x", 12, "path"),
            ("redfish+http://h?fingerprint=sha256:ab", 30, "fingerprint"),
            ("wol://example.com", 7, "IPv4"),
            ("wol://?interface=../x", 18, "interface"),
            ("libvirt:///system", 18, "domain="),
            ("libvirt:///system?domain=-c", 26, "domain"),
            ("libvirt+qemu+ext:///system?domain=a", 14, "transport"),
            ("qmp://run/x", 7, "path"),
            ("qmp:///run/x?off=stop", 18, "off"),
            ("command:pdu {action}", 9, "path"),
            ("command:/bin/pdu {port}", 18, "{action}"),
            ("command:/bin/pdu 'x", 18, "quotation"),
            ("inband:x", 8, "nothing"),
            ("ipmi://10.0.0.5\u{e9}", 16, "ASCII"),
        ];
        for (line, column, why) in cases {
            let error = line.parse::<Controller>().unwrap_err();
            assert_eq!(error.column, column, "{error}");
            assert!(error.to_string().contains(why), "{error}");
        }
        assert!("x".repeat(600).parse::<Controller>().is_err());
        // what is said of a line with a password does not repeat it
        let error = "ipmi://admin:s3cret@10.0.0.5".parse::<Controller>().unwrap_err();
        assert!(!format!("{error} {error:?}").contains("s3cret"), "{error}");
    }

    proptest! {
        #[test]
        fn no_line_panics_and_what_is_read_is_printed(line in "(redfish|redfish\\+http|ipmi|wol|libvirt|libvirt\\+test|qmp|command|inband)?:?/{0,3}[ -~]{0,40}") {
            if let Ok(controller) = line.parse::<Controller>() {
                prop_assert_eq!(controller.to_string().parse::<Controller>().unwrap(), controller);
            }
        }

        #[test]
        fn no_text_panics(line in "\\PC{0,60}") {
            let _any = line.parse::<Controller>();
        }
    }
}
