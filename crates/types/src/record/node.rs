//! What a node says of itself.

use serde::{Deserialize, Serialize};

use crate::mac::Mac;
use crate::time::Millis;

/// A node's own record: where it is reached and what runs there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// Multiaddresses, at most [`crate::limits::ADDRS`].
    pub addrs: Vec<String>,
    /// Version of p2pinst.
    pub version: String,
    /// When the daemon started.
    pub started: Millis,
    /// Architecture of the root that packages go to, in the package manager's notation.
    pub architecture: String,
    /// The version of p2pinst that it needs in order to do all that is wanted of it; `None`: this.
    #[serde(default)]
    pub needs: Option<String>,
    /// The interfaces of its machine, by which it is no stranger when it starts over the network; at most
    /// [`crate::limits::HARDWARE_NICS`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub macs: Vec<Mac>,
}
