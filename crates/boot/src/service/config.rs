//! With what the boot service starts.

use std::path::PathBuf;

use p2pinst_types::NodeId;
use serde::{Deserialize, Serialize};

/// Where scouts and firmware find HTTP: no port that others usually have.
pub const HTTP_PORT: u16 = 4080;
/// Where beacons go.
pub const BEACON_PORT: u16 = 4012;
/// Where TFTP is asked (RFC 1350).
pub const TFTP_PORT: u16 = 69;

/// With what the boot service starts. The ports of DHCP, PXE and TFTP are those that firmware knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// The interfaces that it faces, by name; none: all with IPv4 and broadcasts, without the loopback.
    pub interfaces: Option<Vec<String>>,
    /// The TCP port of its HTTP server.
    pub http: HttpPort,
    /// The UDP port of beacons.
    pub beacon: BeaconPort,
    /// Where the boot files are: it becomes the service's root directory. The service's user must be able to read it.
    pub directory: PathBuf,
    /// As whom it runs.
    pub user: String,
    /// The largest block of TFTP.
    pub blksize: u16,
    /// This node.
    pub node: NodeId,
}

/// The TCP port of the HTTP server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct HttpPort(pub u16);

/// The UDP port of beacons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BeaconPort(pub u16);

impl Config {
    /// The usual: all interfaces, the default ports, user `nobody`.
    #[must_use]
    pub fn new(node: NodeId, directory: PathBuf) -> Self {
        Self {
            interfaces: None,
            http: HttpPort(HTTP_PORT),
            beacon: BeaconPort(BEACON_PORT),
            directory,
            user: "nobody".to_owned(),
            blksize: crate::tftp::Limits::default().blksize,
            node,
        }
    }
}
