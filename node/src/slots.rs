//! Places for inbound streams, and open files for what goes on over them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use p2pinst_types::NodeId;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::warn;

use crate::net::Protocol;

/// Inbound streams that are answered at once.
pub(crate) const STREAMS: usize = 1024;
/// Of these, for the exchange: what is left is for sync, status and probes.
const STREAMS_OF_EXCHANGE: usize = 768;
/// Open files that the node may have, if the system permits: a connection and a bulk connection for each
/// of many peers, and files. Not more: programs that it starts may look at each that they could have.
const FILES: u64 = 65_536;
/// Inbound streams of one peer and one protocol.
const STREAMS_OF_ONE: usize = 32;

/// Permits this process as many open files as the system lets it, and [`FILES`] at most.
pub(crate) fn raise_files() {
    let now = getrlimit(Resource::Nofile);
    let wanted = now.maximum.map_or(FILES, |most| most.min(FILES));
    if now.current.is_some_and(|current| current < wanted) {
        let limit = Rlimit { current: Some(wanted), maximum: now.maximum };
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            warn!(%error, "cannot raise the number of open files: with many peers there may be too few");
        }
    }
}

/// Inbound streams by peer and protocol: one peer cannot take all of them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Slots(Arc<Mutex<BTreeMap<(NodeId, Protocol), usize>>>);

/// One stream's place; given back when dropped.
pub(crate) struct Slot {
    slots: Slots,
    of: (NodeId, Protocol),
}

impl Slots {
    pub(crate) fn take(&self, peer: NodeId, protocol: Protocol) -> Option<Slot> {
        let of = (peer, protocol);
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_exchange = || open.iter().filter(|((_, p), _)| *p == Protocol::Exchange);
        if protocol == Protocol::Exchange
            && of_exchange().map(|(_, n)| n).sum::<usize>() >= STREAMS_OF_EXCHANGE
        {
            return None;
        }
        let count = open.entry(of).or_default();
        if *count >= STREAMS_OF_ONE {
            return None;
        }
        *count += 1;
        Some(Slot { slots: self.clone(), of })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut open = self.slots.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.of) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.of);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use p2pinst_types::PublicKey;

    use super::*;

    fn node(n: u16) -> NodeId {
        let [a, b] = n.to_be_bytes();
        let mut key = [0; 32];
        (key[0], key[1]) = (a, b);
        NodeId(PublicKey(key))
    }

    #[test]
    fn the_exchange_leaves_places_for_the_rest() {
        let slots = Slots::default();
        let take = |n: usize, protocol| slots.take(node(n as u16), protocol);
        let mut open: Vec<Slot> =
            (0..STREAMS).filter_map(|n| take(n, Protocol::Exchange)).collect();
        assert_eq!(open.len(), STREAMS_OF_EXCHANGE);
        let rest = (0..STREAMS).filter_map(|n| take(n, Protocol::Store)).count();
        assert_eq!(rest, STREAMS, "those are given back at once");
        open.pop();
        open.extend(take(2000, Protocol::Exchange));
        assert_eq!(open.len(), STREAMS_OF_EXCHANGE);
        drop(open);
        let of_one: Vec<_> = (0..99).filter_map(|_| take(1, Protocol::Exchange)).collect();
        assert_eq!(of_one.len(), STREAMS_OF_ONE);
    }

    #[test]
    fn as_many_files_as_the_system_permits() {
        let before = getrlimit(Resource::Nofile);
        let few = Rlimit { current: Some(900), maximum: before.maximum };
        setrlimit(Resource::Nofile, few).unwrap();
        raise_files();
        let most = before.maximum.unwrap_or(u64::MAX);
        assert_eq!(getrlimit(Resource::Nofile).current, Some(most.min(FILES)));
    }
}
