//! What is compared.

use std::fmt;
use std::str::FromStr;

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

use super::wire::{TCP, UDP};
use crate::exec::Exec;
use crate::ready::why_not_installed;

/// A way to bring a file to all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// Ours.
    P2pinst,
    /// A web server, and curl.
    Nginx,
    /// A daemon of rsync.
    Rsync,
    /// BitTorrent, with a tracker.
    Aria2,
    /// BitTorrent by libtorrent-rasterbar, with a tracker.
    Libtorrent,
    /// Multicast.
    Udpcast,
}

/// The rivals, in the order in which they run.
pub const RIVALS: [Method; 5] =
    [Method::Nginx, Method::Rsync, Method::Aria2, Method::Libtorrent, Method::Udpcast];

/// The Debian packages that the rivals come from, with the program by which they are known.
const PROGRAMS: [(Method, &[(&str, &str)]); 5] = [
    (Method::Nginx, &[("nginx", "nginx-light"), ("curl", "curl")]),
    (Method::Rsync, &[("rsync", "rsync")]),
    (
        Method::Aria2,
        &[("aria2c", "aria2"), ("opentracker", "opentracker"), ("mktorrent", "mktorrent")],
    ),
    (Method::Libtorrent, &[("opentracker", "opentracker"), ("mktorrent", "mktorrent")]),
    (Method::Udpcast, &[("udp-sender", "udpcast"), ("udp-receiver", "udpcast")]),
];

/// Debian's own Python: the module is installed for no other.
pub(super) const PYTHON: &str = "/usr/bin/python3";

impl Method {
    /// Why it cannot run on this machine, and what helps; nothing if it can.
    #[must_use]
    pub fn missing(self) -> Option<String> {
        let programs = PROGRAMS.iter().find(|(m, _)| *m == self).map_or(&[][..], |(_, p)| p);
        let missing =
            programs.iter().find_map(|(program, package)| why_not_installed(program, package));
        if missing.is_some() || self != Self::Libtorrent {
            return missing;
        }
        let done = Exec::new(PYTHON).args(["-c", "import libtorrent"]).run();
        let there = done.is_ok_and(|d| d.code == Some(0));
        (!there).then(|| "libtorrent is missing: apt-get install python3-libtorrent".to_owned())
    }

    /// The headers around what it sends, in bytes per packet.
    #[must_use]
    pub fn header(self) -> u64 {
        if self == Self::Udpcast { UDP } else { TCP }
    }

    /// Whether all bytes leave the publisher once for each receiver.
    #[must_use]
    pub fn is_one_by_one(self) -> bool {
        matches!(self, Self::Nginx | Self::Rsync)
    }

    /// Its version, by its own words.
    #[must_use]
    pub fn version(self) -> Option<String> {
        let (program, args): (&str, &[&str]) = match self {
            Self::P2pinst => return None,
            Self::Nginx => ("nginx", &["-v"]),
            Self::Rsync => ("rsync", &["--version"]),
            Self::Aria2 => ("aria2c", &["--version"]),
            Self::Libtorrent => {
                (PYTHON, &["-c", "import libtorrent; print('libtorrent', libtorrent.__version__)"])
            }
            Self::Udpcast => ("dpkg-query", &["-W", "-f", "udpcast ${Version}", "udpcast"]),
        };
        let done = Exec::new(program).args(args).run().ok()?.ok().ok()?;
        let text = done.stdout + &done.stderr;
        text.lines().next().map(|l| l.trim().to_owned())
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::P2pinst => "p2pinst",
            Self::Nginx => "nginx",
            Self::Rsync => "rsync",
            Self::Aria2 => "aria2",
            Self::Libtorrent => "libtorrent",
            Self::Udpcast => "udpcast",
        })
    }
}

impl FromStr for Method {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match RIVALS.into_iter().find(|m| m.to_string() == text) {
            Some(method) => Ok(method),
            None => bail!("`{text}` is none of {}", RIVALS.map(|m| m.to_string()).join(", ")),
        }
    }
}

/// `all`, `none`, or names with commas.
///
/// # Errors
/// When a name is unknown.
pub fn rivals(text: &str) -> Result<Vec<Method>> {
    match text {
        "all" => Ok(RIVALS.to_vec()),
        "none" => Ok(Vec::new()),
        names => names.split(',').map(|n| n.trim().parse()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rivals_have_names() {
        assert_eq!(rivals("all").unwrap().len(), 5);
        assert!(rivals("none").unwrap().is_empty());
        assert_eq!(rivals("aria2, udpcast").unwrap(), [Method::Aria2, Method::Udpcast]);
        let why = rivals("bittorrent").unwrap_err().to_string();
        assert!(why.contains("libtorrent"), "{why}");
        assert!(PROGRAMS.iter().map(|(m, _)| *m).eq(RIVALS));
    }
}
