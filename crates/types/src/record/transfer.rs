//! How a blob came to a machine: what the machine itself says of it. Rates are bytes per second.

use serde::{Deserialize, Serialize};

use crate::{BlobRef, Millis};

/// How far away a peer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Distance {
    /// In the same rack: at the same site, with the same label `rack`.
    Rack,
    /// At the same site.
    Site,
    /// At another site, or of an unknown one.
    Wan,
}

/// Bytes by how far they travelled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ByDistance {
    /// Inside the rack.
    pub rack: u64,
    /// Inside the site.
    pub site: u64,
    /// Between sites.
    pub wan: u64,
}

impl ByDistance {
    /// Counts some more.
    pub fn add(&mut self, distance: Distance, bytes: u64) {
        let count = match distance {
            Distance::Rack => &mut self.rack,
            Distance::Site => &mut self.site,
            Distance::Wan => &mut self.wan,
        };
        *count = count.saturating_add(bytes);
    }

    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.rack.saturating_add(self.site).saturating_add(self.wan)
    }
}

/// What a machine can move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Speed {
    /// Bytes of payload per second.
    pub rate: u64,
    /// Whether it is configured or told by the network interface; else it is the highest that was
    /// seen, over at least a second.
    pub known: bool,
}

/// What a machine can move, each way; `None`: nothing is known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Speeds {
    /// To others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub up: Option<Speed>,
    /// From others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub down: Option<Speed>,
    /// From other sites.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wan_in: Option<Speed>,
    /// To the disk, made durable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<Speed>,
}

/// A machine's own report on one blob of one deployment, when it has all of it. At most 480 bytes
/// on the wire.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transfer {
    /// Bytes of the blob.
    pub len: u64,
    /// Whether this machine had it from the beginning, to give it to others.
    #[serde(default)]
    pub holder: bool,
    /// Milliseconds from the order to the last verified byte.
    pub order_ms: u64,
    /// Milliseconds from the beginning of the fetch to the last verified byte, waiting not
    /// counted.
    pub fetch_ms: u64,
    /// Milliseconds in which the fetch waited: for the node to be idle, for its turn, for a source.
    pub waited_ms: u64,
    /// Bytes that were here before, from an earlier life of the node.
    pub before: u64,
    /// Bytes of pieces that came, duplicates and bad ones too.
    pub received: ByDistance,
    /// Of these, from the first holders.
    pub from_holders: u64,
    /// Milliseconds between the first and the last of these.
    pub holders_ms: u64,
    /// Of the bytes that came, those of pieces that were here already.
    pub duplicate: u64,
    /// Of the bytes that came, those that were not what they should be.
    pub bad: u64,
    /// Bytes of pieces that were sent until then.
    pub sent: ByDistance,
    /// Peers that gave at least one piece.
    pub sources: u32,
    /// What the machine can move.
    pub speeds: Speeds,
}

/// How far a machine is with a blob now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The blob.
    pub blob: BlobRef,
    /// Pieces that are here.
    pub pieces: u32,
    /// Bytes that are here.
    pub held: u64,
    /// Whether it is being fetched.
    pub fetching: bool,
    /// When its fetch, or else its serving, began in this life of the node, in cluster time.
    pub begun: Option<Millis>,
    /// When the last fetch ended.
    pub ended: Option<Millis>,
    /// Bytes of pieces that came in this life of the node.
    pub received: ByDistance,
    /// Of these, those of pieces that were here already.
    pub duplicate: u64,
    /// Of these, those that were not what they should be.
    pub bad: u64,
    /// Bytes of pieces that were sent in this life of the node.
    pub sent: ByDistance,
    /// Pieces that were sent.
    pub sent_pieces: u64,
    /// Bytes per second that come in now, smoothed.
    pub rate_in: u64,
    /// Bytes per second that go out now, smoothed.
    pub rate_out: u64,
    /// Peers that something came from in the last seconds.
    pub sources: u32,
    /// Peers that something went to in the last seconds.
    pub takers: u32,
    /// Requests that others refused: they are busy, they lack the piece.
    pub refused: [u32; 2],
    /// Peers that are banned from this blob.
    pub banned: u32,
    /// What the machine can move.
    pub speeds: Speeds,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_small() {
        let most = Some(Speed { rate: u64::MAX, known: false });
        let bytes = ByDistance { rack: u64::MAX, site: u64::MAX, wan: u64::MAX };
        let transfer = Transfer {
            len: u64::MAX,
            holder: false,
            order_ms: u64::MAX,
            fetch_ms: u64::MAX,
            waited_ms: u64::MAX,
            before: u64::MAX,
            received: bytes,
            from_holders: u64::MAX,
            holders_ms: u64::MAX,
            duplicate: u64::MAX,
            bad: u64::MAX,
            sent: bytes,
            sources: u32::MAX,
            speeds: Speeds { up: most, down: most, wan_in: most, disk: most },
        };
        let encoded = crate::codec::encode(&transfer).unwrap();
        assert!(encoded.len() <= 480, "{}", encoded.len());
        assert_eq!(bytes.total(), u64::MAX);
    }
}
