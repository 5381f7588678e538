//! What the links carried, by the counters of their shapers. These count what is on the wire; an
//! interface's own counters count one header for several segments.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::exec::run;
use crate::lab::Lab;
use crate::net::{Switch, wan_in, wan_out};

/// Bytes around the content of a TCP segment: Ethernet, IPv4, TCP with time stamps.
pub(in crate::bench) const TCP: u64 = 14 + 20 + 32;
/// Bytes around the content of a UDP datagram.
pub(super) const UDP: u64 = 14 + 20 + 8;

/// What went over one link in one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// Bytes, with all headers from Ethernet's on.
    pub bytes: u64,
    /// Packets.
    pub packets: u64,
}

impl Count {
    fn since(self, earlier: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_sub(earlier.bytes),
            packets: self.packets.saturating_sub(earlier.packets),
        }
    }

    /// What was within headers of that many bytes.
    #[must_use]
    pub fn content(self, header: u64) -> u64 {
        self.bytes.saturating_sub(self.packets.saturating_mul(header))
    }
}

/// All links of a lab.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wire {
    /// Out of each host, the first one first.
    pub up: Vec<Count>,
    /// Into each host.
    pub down: Vec<Count>,
    /// Into each site.
    pub wan_in: Vec<Count>,
    /// Out of each site.
    pub wan_out: Vec<Count>,
}

impl Wire {
    /// The counters as they are; none when the lab's links have no shapers.
    ///
    /// # Errors
    /// When `tc` fails, or prints something else than expected.
    pub fn read(lab: &Lab) -> Result<Option<Self>> {
        let Ok(switch) = lab.network().switch() else { return Ok(None) };
        let ports = shapers(switch.namespace())?;
        if !ports.contains_key("p1") {
            return Ok(None);
        }
        let of = |name: String| ports.get(&name).copied().unwrap_or_default();
        let up = |ns: Option<&str>| -> Result<Count> {
            let own = shapers(ns.context("a host without a namespace")?)?;
            Ok(own.get("eth0").copied().unwrap_or_default())
        };
        let sites = 1..=Switch::sites(switch);
        let hosts = switch.hosts().iter();
        Ok(Some(Self {
            up: hosts.clone().map(|h| up(h.namespace.as_deref())).collect::<Result<_>>()?,
            down: hosts.map(|h| of(format!("p{}", h.index))).collect(),
            wan_in: sites.clone().map(|s| of(wan_in(s))).collect(),
            wan_out: sites.map(|s| of(wan_out(s))).collect(),
        }))
    }

    /// What was carried since an earlier look.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let each = |now: &[Count], then: &[Count]| {
            now.iter().zip(then).map(|(n, t)| n.since(*t)).collect()
        };
        Self {
            up: each(&self.up, &earlier.up),
            down: each(&self.down, &earlier.down),
            wan_in: each(&self.wan_in, &earlier.wan_in),
            wan_out: each(&self.wan_out, &earlier.wan_out),
        }
    }

    /// The link that carried most, and how many bytes.
    #[must_use]
    pub fn busiest(&self) -> (String, u64) {
        let named = |prefix: &str, way: &str, counts: &[Count]| -> Vec<(String, u64)> {
            let one = |(i, c): (usize, &Count)| (format!("{prefix}{} {way}", i + 1), c.bytes);
            counts.iter().enumerate().map(one).collect()
        };
        let all = [
            named("n", "out", &self.up),
            named("n", "in", &self.down),
            named("WAN of s", "in", &self.wan_in),
            named("WAN of s", "out", &self.wan_out),
        ];
        all.into_iter().flatten().max_by_key(|(_, bytes)| *bytes).unwrap_or_default()
    }
}

/// The token bucket of each device of a namespace.
fn shapers(namespace: &str) -> Result<BTreeMap<String, Count>> {
    parse(&run("tc", ["-n", namespace, "-s", "-j", "qdisc", "show"])?)
}

fn parse(text: &str) -> Result<BTreeMap<String, Count>> {
    #[derive(Deserialize)]
    struct Line {
        kind: String,
        dev: String,
        #[serde(flatten)]
        count: Count,
    }
    let lines: Vec<Line> =
        serde_json::from_str(text).with_context(|| format!("`tc -s -j` printed {text}"))?;
    Ok(lines.into_iter().filter(|l| l.kind == "tbf").map(|l| (l.dev, l.count)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_tc_prints_is_read() {
        let text = r#"[{"kind":"noqueue","handle":"0:","dev":"lo","root":true,"options":{},"bytes":9,"packets":1},
            {"kind":"tbf","handle":"82ad:","dev":"p1","root":true,"options":{"rate":2500000,"burst":65535,"lat":50000},
             "bytes":93836,"packets":617,"drops":0,"overlimits":0,"requeues":0,"backlog":0,"qlen":0}]"#;
        let found = parse(text).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found["p1"], Count { bytes: 93836, packets: 617 });
        assert!(parse("Cannot open network namespace").is_err());
    }

    #[test]
    fn headers_are_no_content_and_the_past_does_not_count() {
        let full = Count { bytes: 1514 * 10, packets: 10 };
        assert_eq!(full.content(TCP), 14_480);
        assert_eq!(Count { bytes: 66, packets: 1 }.content(TCP), 0);
        let wire = |bytes| Wire {
            up: vec![Count { bytes, packets: 1 }],
            wan_in: vec![Count::default(), Count { bytes: bytes * 2, packets: 2 }],
            ..Wire::default()
        };
        let carried = wire(500).since(&wire(100));
        assert_eq!(carried.up, [Count { bytes: 400, packets: 0 }]);
        assert_eq!(carried.busiest(), ("WAN of s2 in".to_owned(), 800));
    }
}
