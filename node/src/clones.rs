//! Two machines with one key: a disk that was copied. Noticed at the handshake, told to people.
//!
//! A node that starts anew while its old connection has not timed out looks the same at first, so
//! the old connection is asked: if nobody answers there, it is closed and the new one counts. In
//! memory only; a restart forgets, and learns it again from the next handshake.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use dht_store::wire::{Request, Response};
use p2pinst_api::view::{ClonedView, RefusedView};
use p2pinst_trust::Refusal;
use p2pinst_types::{Hash, Millis, Name, NodeId};
use tracing::{debug, error, info, warn};

use crate::clock::Clock;
use crate::net::Net;
use crate::rpc;

/// Time for the old connection to answer: half of what a handshake may take is left.
const PATIENCE: Duration = Duration::from_secs(2);
/// Time for the old connection to be closed.
const CLOSING: Duration = Duration::from_secs(1);
/// How long a clone is told of after it was seen last: it tries again every 15 seconds.
const SHOWN: Duration = Duration::from_secs(600);
/// How long this node says that it was refused, after the last time.
const REFUSED: Duration = Duration::from_secs(60);

/// What the two machines have shown.
#[derive(Debug, Clone)]
struct Pair {
    first: Vec<String>,
    second: Vec<String>,
    since: Millis,
    last: Millis,
}

/// Who refused this node, and why.
#[derive(Debug, Clone, Copy)]
struct Refused {
    by: NodeId,
    refusal: Refusal,
    since: Millis,
    last: Millis,
}

/// See the module.
#[derive(Debug)]
pub struct Clones {
    clock: Clock,
    net: OnceLock<Net>,
    pairs: Mutex<BTreeMap<NodeId, Pair>>,
    refused: Mutex<Option<Refused>>,
}

/// What a node that was refused should hear; `None`: the reason passes by itself.
fn advice(refusal: Refusal) -> Option<&'static str> {
    match refusal {
        Refusal::Cloned => Some(
            "stop this node if its disk is a copy: remove its data directory and join it as a machine of its own (p2pinst invite, p2pinst join); if this is the machine to keep, an operator runs `p2pinst invite --replace NAME` and it joins with that token",
        ),
        Refusal::Revoked => Some(
            "an operator has put this machine out; to take it in again: p2pinst invite, and p2pinst join with a fresh data directory",
        ),
        _ => None,
    }
}

impl Clones {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        Self { clock, net: OnceLock::new(), pairs: Mutex::default(), refused: Mutex::default() }
    }

    /// Over which network old connections are asked. Until then none of them answers.
    pub fn connect(&self, net: Net) {
        drop(self.net.set(net));
    }

    fn pairs(&self) -> MutexGuard<'_, BTreeMap<NodeId, Pair>> {
        self.pairs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether somebody answers on the connection that is open with a node.
    pub(crate) async fn answers(&self, peer: NodeId) -> bool {
        let Some(net) = self.net.get() else { return true };
        let request = Request::Holds { root: Hash([0; 32]) };
        let asked = tokio::time::timeout(PATIENCE, rpc::ask(net, peer, &[], &request)).await;
        matches!(asked, Ok(Ok(Response::Holds(_))))
    }

    /// Closes a connection on which nobody answers, so that the new one takes its place.
    pub(crate) async fn part_with(&self, peer: NodeId) {
        let Some(net) = self.net.get() else { return };
        info!(%peer, "a node has started anew: its old connection is closed");
        let mut changes = net.peers().changes();
        drop(net.close(peer).await);
        let open = || net.peers().get(&peer).connected;
        let closed = async { while open() && changes.changed().await.is_ok() {} };
        if tokio::time::timeout(CLOSING, closed).await.is_err() {
            debug!(%peer, "the old connection is still being closed");
        }
    }

    /// Two machines show one key: names both.
    pub(crate) fn note(&self, peer: NodeId, name: &Name, first: Vec<String>, second: Vec<String>) {
        let now = self.clock.now();
        let mut pairs = self.pairs();
        let known = pairs.get(&peer).filter(|p| now.since(p.last) < SHOWN);
        let since = known.map_or(now, |p| p.since);
        if known.is_none_or(|p| p.second != second) {
            warn!(%peer, %name, ?first, ?second, "two machines use one key: the second is refused (a cloned disk?)");
        }
        // only members get this far, so the table is bounded by the roster
        pairs.insert(peer, Pair { first, second, since, last: now });
    }

    /// The two machines that use a node's key, if that was seen lately.
    #[must_use]
    pub fn of(&self, node: &NodeId) -> Option<ClonedView> {
        let now = self.clock.now();
        let pair = self.pairs().get(node).filter(|p| now.since(p.last) < SHOWN).cloned()?;
        Some(ClonedView { first: pair.first, second: pair.second, since: pair.since })
    }

    /// Another node has refused this one.
    pub(crate) fn refused_by(&self, by: NodeId, refusal: Refusal) {
        let Some(advice) = advice(refusal) else { return };
        let now = self.clock.now();
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let known = refused.filter(|r| r.refusal == refusal && now.since(r.last) < REFUSED);
        if known.is_none() {
            error!(%by, reason = %refusal, advice, "the cluster refuses this node");
        }
        let since = known.map_or(now, |r| r.since);
        *refused = Some(Refused { by, refusal, since, last: now });
    }

    /// Why the cluster refuses this node, if it does.
    #[must_use]
    pub fn refused(&self) -> Option<RefusedView> {
        let now = self.clock.now();
        let refused = *self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let refused = refused.filter(|r| now.since(r.last) < REFUSED)?;
        Some(RefusedView {
            by: refused.by,
            reason: refused.refusal.to_string(),
            since: refused.since,
            advice: advice(refused.refusal).unwrap_or_default().to_owned(),
        })
    }
}
