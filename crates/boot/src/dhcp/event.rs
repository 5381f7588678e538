//! What happens on a segment, for people: events, counters, and how many events there may be.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::time::Duration;

use p2pinst_types::Mac;
use serde::{Deserialize, Serialize};

use super::client::{Architecture, Family, Program, Uuid};

/// Why a machine that could be booted was not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// It is to start from its own disk.
    Disk,
    /// There are boot files for its family of machines, but none that what asks could start.
    NoFile,
    /// The pool has no address left.
    NoAddress,
    /// Another DHCP server was heard on the segment, which was to be isolated.
    ForeignDhcp,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Disk => "it is to start from its own disk",
            Self::NoFile => {
                "of the boot files for its kind of machine there is none that it could start"
            }
            Self::NoAddress => "the pool has no address left",
            Self::ForeignDhcp => "another DHCP server was heard on this segment",
        })
    }
}

/// What another server gives away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Foreign {
    /// Boot files.
    Boot,
    /// Addresses, on a segment that was to be isolated.
    Addresses,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// A machine looks for a boot server.
    Discover {
        /// The machine.
        mac: Mac,
        /// Its UUID.
        uuid: Option<Uuid>,
        /// What asks.
        program: Program,
        /// Its architecture.
        architecture: Option<Architecture>,
        /// For how long it says that it has been trying, in seconds.
        secs: u16,
    },
    /// This node made it an offer.
    Offered {
        /// The machine.
        mac: Mac,
        /// The node's place in the order of answers, from 0.
        rank: u32,
        /// How long after the question, in milliseconds.
        after_ms: u64,
        /// The address that it was offered, where this node gives addresses.
        address: Option<Ipv4Addr>,
    },
    /// A machine asked this node for its boot file, on port 4011, and was told.
    Requested {
        /// The machine.
        mac: Mac,
    },
    /// A machine was given an address.
    Leased {
        /// The machine.
        mac: Mac,
        /// The address.
        address: Ipv4Addr,
    },
    /// A machine found an address in use.
    Declined {
        /// The machine.
        mac: Mac,
        /// The address.
        address: Ipv4Addr,
    },
    /// There are no boot files for a machine's architecture.
    WrongArchitecture {
        /// The machine.
        mac: Mac,
        /// Its architecture.
        architecture: Option<Architecture>,
        /// What there are boot files for.
        have: Vec<Family>,
    },
    /// A machine was not answered.
    NotServed {
        /// The machine.
        mac: Mac,
        /// Why.
        reason: Reason,
    },
    /// A machine is answered and asks again and again, and takes nobody's offer: some firmware cannot put two servers' offers together.
    RepeatedWithoutBoot {
        /// The machine.
        mac: Mac,
        /// For how long it says that it has been trying, in seconds.
        secs: u16,
    },
    /// Somebody else answers machines too.
    ForeignServer {
        /// The interface that it was heard on.
        interface: u32,
        /// The server.
        address: Ipv4Addr,
        /// What it gives away.
        what: Foreign,
    },
}

impl Event {
    /// The machine that it is about.
    #[must_use]
    pub fn mac(&self) -> Option<Mac> {
        match self {
            Self::Discover { mac, .. }
            | Self::Offered { mac, .. }
            | Self::Requested { mac }
            | Self::Leased { mac, .. }
            | Self::Declined { mac, .. }
            | Self::WrongArchitecture { mac, .. }
            | Self::NotServed { mac, .. }
            | Self::RepeatedWithoutBoot { mac, .. } => Some(*mac),
            Self::ForeignServer { .. } => None,
        }
    }

    /// What one event in [`AGAIN`] is allowed of.
    fn key(&self) -> Key {
        match self {
            Self::Discover { mac, .. } => Key::Mac(*mac, 0),
            Self::Offered { mac, .. } => Key::Mac(*mac, 1),
            Self::Requested { mac } => Key::Mac(*mac, 2),
            Self::Leased { mac, .. } => Key::Mac(*mac, 3),
            Self::Declined { mac, .. } => Key::Mac(*mac, 4),
            Self::WrongArchitecture { mac, .. } => Key::Mac(*mac, 5),
            Self::NotServed { mac, .. } => Key::Mac(*mac, 6),
            Self::RepeatedWithoutBoot { mac, .. } => Key::Mac(*mac, 7),
            Self::ForeignServer { interface, address, what } => {
                Key::Foreign(*interface, *address, *what)
            }
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = |a: &Option<Architecture>| {
            a.map_or_else(|| "an unknown architecture".to_owned(), |a| a.to_string())
        };
        match self {
            Self::Discover { mac, program, architecture, secs, .. } => {
                let program = match program {
                    Program::Pxe => "PXE firmware",
                    Program::Http => "HTTP Boot firmware",
                    Program::Ipxe => "iPXE",
                    Program::Other => "a DHCP client",
                };
                write!(f, "{mac}: {program} of {} asks since {secs} s", known(architecture))
            }
            Self::Offered { mac, rank, after_ms, address: None } => {
                write!(f, "{mac}: offered a boot file after {after_ms} ms, as number {rank}")
            }
            Self::Offered { mac, rank, after_ms, address: Some(address) } => {
                write!(f, "{mac}: offered {address} after {after_ms} ms, as number {rank}")
            }
            Self::Requested { mac } => write!(f, "{mac}: asked for its boot file and was told"),
            Self::Leased { mac, address } => write!(f, "{mac}: was given {address}"),
            Self::Declined { mac, address } => write!(f, "{mac}: {address} is in use by another"),
            Self::WrongArchitecture { mac, architecture, have } => {
                let have: Vec<String> = have.iter().map(ToString::to_string).collect();
                let have = if have.is_empty() { "none at all".into() } else { have.join(", ") };
                write!(f, "{mac}: no boot files for {}; there are: {have}", known(architecture))
            }
            Self::NotServed { mac, reason } => write!(f, "{mac}: not answered, because {reason}"),
            Self::RepeatedWithoutBoot { mac, secs } => write!(
                f,
                "{mac}: answered, but asks again since {secs} s and takes no offer; its firmware may not understand two servers: \
                 set the boot server and file in the site's DHCP server, or try the other style"
            ),
            Self::ForeignServer { interface, address, what: Foreign::Boot } => {
                write!(
                    f,
                    "another boot server, {address}, answers machines on interface {interface}"
                )
            }
            Self::ForeignServer { interface, address, what: Foreign::Addresses } => write!(
                f,
                "a DHCP server, {address}, is on interface {interface}, which was to be isolated: no addresses are given"
            ),
        }
    }
}

/// How often something happened since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Messages that came.
    pub received: u64,
    /// Messages that were none.
    pub malformed: u64,
    /// Messages that were nothing for this node.
    pub ignored: u64,
    /// Offers that were sent.
    pub offers: u64,
    /// Acknowledgements that were sent.
    pub acks: u64,
    /// Refusals that were sent.
    pub naks: u64,
    /// Offers that were not sent because a sibling was first.
    pub yielded: u64,
    /// Beacons that counted.
    pub beacons: u64,
    /// Events that were dropped because there were too many.
    pub unsaid: u64,
}

/// Between two events of one kind about one machine.
const AGAIN: Duration = Duration::from_secs(5);
/// Between two warnings of one server.
const WARN_AGAIN: Duration = Duration::from_secs(600);
/// Events in a burst, and for each second after it: two for each machine of a rack at once, and a log that can still be read in a flood.
const BURST: u32 = 128;
const PER_SECOND: u32 = 8;
/// Of how many machines and servers it is known when they were last spoken of.
const KEYS: usize = 2048;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Mac(Mac, u8),
    Foreign(u32, Ipv4Addr, Foreign),
}

/// Decides which events are said.
#[derive(Debug)]
pub(super) struct Limiter {
    last: BTreeMap<Key, Duration>,
    /// Events that may be said now, in thousandths.
    tokens: u64,
    filled: Duration,
}

impl Limiter {
    pub(super) fn new(now: Duration) -> Self {
        Self { last: BTreeMap::new(), tokens: u64::from(BURST) * 1000, filled: now }
    }

    /// Whether an event is said.
    pub(super) fn allows(&mut self, now: Duration, event: &Event) -> bool {
        let passed = now.saturating_sub(self.filled).as_millis();
        let passed = u64::try_from(passed).unwrap_or(u64::MAX);
        self.filled = self.filled.max(now);
        self.tokens = passed
            .saturating_mul(PER_SECOND.into())
            .saturating_add(self.tokens)
            .min(u64::from(BURST) * 1000);
        let key = event.key();
        let pause = if matches!(key, Key::Foreign(..)) { WARN_AGAIN } else { AGAIN };
        let recent = |last: &Duration| now.saturating_sub(*last) < pause;
        if self.tokens < 1000 || self.last.get(&key).is_some_and(recent) {
            return false;
        }
        if self.last.len() >= KEYS {
            self.last.retain(|key, last| {
                let pause = if matches!(key, Key::Foreign(..)) { WARN_AGAIN } else { AGAIN };
                now.saturating_sub(*last) < pause
            });
        }
        if self.last.len() >= KEYS {
            self.last.clear();
        }
        self.tokens -= 1000;
        self.last.insert(key, now);
        true
    }

    #[cfg(test)]
    pub(super) fn keys(&self) -> usize {
        self.last.len()
    }
}

#[cfg(test)]
mod tests {
    use p2pinst_types::codec;

    use super::*;

    fn requested(n: u32) -> Event {
        let [a, b, c, d] = n.to_be_bytes();
        Event::Requested { mac: Mac([2, 0, a, b, c, d]) }
    }

    #[test]
    fn a_machine_is_spoken_of_now_and_then_and_a_flood_is_not_retold() {
        let mut limiter = Limiter::new(Duration::ZERO);
        let at = Duration::from_millis;
        assert!(limiter.allows(at(0), &requested(1)));
        assert!(!limiter.allows(at(4999), &requested(1)));
        assert!(limiter.allows(at(5000), &requested(1)));
        let mut said = 0;
        for n in 0..100_000u32 {
            said += u32::from(limiter.allows(at(6000 + u64::from(n)), &requested(n + 2)));
        }
        assert!((800..=BURST + 810).contains(&said), "{said}");
        assert!(limiter.keys() <= KEYS);
        let foreign = Event::ForeignServer {
            interface: 1,
            address: [10, 0, 0, 9].into(),
            what: Foreign::Boot,
        };
        let late = Duration::from_secs(1000);
        assert!(limiter.allows(late, &foreign));
        assert!(!limiter.allows(late + WARN_AGAIN / 2, &foreign));
        assert!(limiter.allows(late + WARN_AGAIN, &foreign));
        assert!(limiter.allows(Duration::MAX, &requested(1)));
        assert!(!limiter.allows(Duration::ZERO, &requested(1)), "a clock that goes back");
    }

    #[test]
    fn events_travel_and_are_sentences() {
        let event = Event::WrongArchitecture {
            mac: Mac([2; 6]),
            architecture: Some(Architecture(11)),
            have: vec![Family::Bios, Family::EfiX64],
        };
        let bytes = codec::encode(&event).unwrap();
        assert_eq!(codec::decode::<Event>(&bytes).unwrap(), event);
        assert_eq!(
            event.to_string(),
            "02:02:02:02:02:02: no boot files for UEFI ARM64 (11); there are: BIOS, UEFI x86-64"
        );
    }
}
