//! The gatekeeper: what this node shows, and who may connect. Admits machines that join.

use std::sync::{Arc, Weak};

use dht_store::store::Write;
use dht_store::{Store, StoreError};
use futures::future::BoxFuture;
use p2pinst_trust::{Hello, Presented, Proof, Refusal, RootChain, policy};
use p2pinst_types::record::Admission;
use p2pinst_types::{Cell, Kind, Millis, NodeId};
use tokio::sync::mpsc;
use tracing::{error, info, warn};

use crate::clock;
use crate::clones::Clones;
use crate::identity::Identity;
use crate::net::Gatekeeper;
use crate::peers::Peers;
use crate::store::{Own, StoreHandle};

/// See the module.
pub struct Keeper {
    /// Who this node is.
    pub own: Arc<Own>,
    /// What it shows.
    pub identity: Identity,
    /// Where it is reached.
    pub addrs: Vec<String>,
    /// What it knows.
    pub store: StoreHandle,
    /// Where it writes down whom it met. Weak: the network holds both.
    pub peers: Weak<Peers>,
    /// Where new admissions are announced.
    pub announce: mpsc::Sender<Cell>,
    /// Machines that use one key.
    pub clones: Arc<Clones>,
    /// Whether this node is only just joining and cannot know the roster.
    pub joining: bool,
}

impl Keeper {
    fn make_hello(&self) -> Result<Vec<u8>, Refusal> {
        let hello = Hello {
            roots: self.store.views().roots.signed().to_vec(),
            grant: self.identity.grant.clone(),
            invite: self.identity.invite.clone(),
            cert: self.identity.cert.clone(),
            admission: self.identity.admission.clone(),
            incarnation: self.own.life.first(),
            clock: clock::local(),
            addrs: self.addrs.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        hello.encode().map_err(|error| {
            warn!(%error, "this node's credentials are too large to show");
            Refusal::Unavailable
        })
    }

    /// R16: revocations are enforced here, at every connection.
    async fn welcome(
        store: StoreHandle,
        own: Arc<Own>,
        presented: Presented,
        dialled: bool,
        joining: bool,
    ) -> Result<Option<Cell>, Refusal> {
        let now = store.clock().now();
        let job = move |store: &mut Store| admit(store, &own, &presented, dialled, joining, now);
        store.run(job).await.map_err(|_| Refusal::Unavailable)?
    }
}

/// Decides on a verified chain by what the store knows; returns the cell of a new admission.
fn admit(
    store: &mut Store,
    own: &Own,
    presented: &Presented,
    dialled: bool,
    joining: bool,
    now: Millis,
) -> Result<Option<Cell>, Refusal> {
    let unavailable = |e: &dyn std::fmt::Display| {
        warn!(error = %e, "cannot store what a new machine shows");
        Refusal::Unavailable
    };
    store.extend_roots(presented.roots.signed()).map_err(|e| unavailable(&e))?;
    let mut cells = vec![presented.grant.clone(), presented.invite_cell.clone()];
    cells.extend(presented.admission.clone());
    store.apply(cells, &[], now).map_err(|e| unavailable(&e))?;
    let views = store.views();
    let node = presented.cert.node;
    if views.revoked.contains_key(&node) {
        return Err(Refusal::Revoked);
    }
    if views.is_welcome(&node, now) {
        return Ok(None);
    }
    if let Some(refusal) = views.void.get(&node) {
        return Err(*refusal);
    }
    // who was put out itself takes nobody in, and a scout neither: its word does not count
    if views.removal(&own.node.0).is_some() || views.scout_machine(&own.node.0).is_some() {
        return Err(Refusal::Unavailable);
    }
    // a node that has lost its store knows nobody; what others show was signed by an operator's
    // invite, and sync tells whether it still counts
    let lost = views.machine_of(&own.node.0).is_none();
    if lost && presented.admission.is_some() {
        return Ok(None);
    }
    if dialled {
        return if joining { Ok(None) } else { Err(Refusal::NotAdmitted) };
    }
    let hlc = store.next_hlc(now);
    if !views.invites.contains_key(&presented.invite.key) {
        return Err(Refusal::Revoked);
    }
    if let Some(refusal) = views.why_not_cert(&presented.cert, hlc, false) {
        return Err(refusal);
    }
    let record = Admission {
        machine: policy::machine_id(&presented.signed),
        cert: presented.signed.clone(),
    };
    let write = Write {
        kind: Kind::ADMISSION,
        subject: node.as_bytes(),
        slot: &[],
        incarnation: own.incarnation_in(store, now),
    };
    let cell = store.write(&own.key, write, &record, now).map_err(|e| unavailable(&e))?;
    // the fold has the last word
    let views = store.views();
    match views.is_welcome(&node, now) {
        true => Ok(Some(cell)),
        false => Err(views.void.get(&node).copied().unwrap_or(Refusal::NotAdmitted)),
    }
}

impl Gatekeeper for Keeper {
    fn hello(&self) -> BoxFuture<'static, Result<Vec<u8>, Refusal>> {
        Box::pin(futures::future::ready(self.make_hello()))
    }

    fn judge(
        &self,
        peer: NodeId,
        hello: Vec<u8>,
        dialled: bool,
    ) -> BoxFuture<'static, Result<(), Refusal>> {
        let (store, own, peers) = (self.store.clone(), Arc::clone(&self.own), self.peers.clone());
        let (announce, joining) = (self.announce.clone(), self.joining);
        let (clones, own_addrs) = (Arc::clone(&self.clones), self.addrs.clone());
        Box::pin(async move {
            let roots = store.views().roots.clone();
            let presented = Hello::verify(&hello, &roots, &peer.0).inspect_err(|refusal| {
                if *refusal == Refusal::NotCertified {
                    tell_of_fork(&hello, &roots, peer);
                }
            })?;
            let peers = peers.upgrade().ok_or(Refusal::Unavailable)?;
            // a cloned disk: the same key, alive twice; or a node that has started anew
            let known = peers.get(&peer);
            let other_life = known.connected && known.incarnation != presented.incarnation;
            if peer == own.node || (other_life && clones.answers(peer).await) {
                let first = if peer == own.node { own_addrs } else { known.addrs };
                clones.note(peer, &presented.cert.name, first, presented.addrs);
                return Err(Refusal::Cloned);
            }
            if other_life {
                clones.part_with(peer).await;
            }
            let (name, theirs, incarnation) =
                (presented.cert.name.clone(), presented.clock, presented.incarnation);
            let addrs = presented.addrs.clone();
            let admitted = Self::welcome(store.clone(), own, presented, dialled, joining).await?;
            if let Some(cell) = admitted {
                info!(%name, %peer, "admitted a machine");
                if announce.try_send(cell).is_err() {
                    warn!(%name, "too busy to announce the admission; sync will tell");
                }
            }
            store.clock().heard(peer, theirs);
            peers.shown(peer, addrs, incarnation);
            Ok(())
        })
    }

    fn turned_away(&self, by: NodeId, refusal: Refusal) {
        // whoever has taken over a member's address can say anything: a removal is believed when it
        // was proved, anything else when a member says it
        let views = self.store.views();
        let believed = match refusal {
            Refusal::Revoked => views.revoked.contains_key(&self.own.node.0),
            _ => views.machine_of(&by.0).is_some(),
        };
        if believed {
            self.clones.refused_by(by, refusal);
        }
    }

    fn proof(&self, peer: NodeId) -> Vec<u8> {
        let views = self.store.views();
        let Some(revoked) = views.revoked.get(&peer.0) else { return Vec::new() };
        let author = views.grants.get(&revoked.cell.id.author);
        let grants: Vec<&Cell> = author.into_iter().flat_map(|g| g.cells()).collect();
        Proof::new(views.roots.signed(), grants.into_iter(), &revoked.cell).encode()
    }

    fn refused(&self, proof: Vec<u8>) -> BoxFuture<'static, ()> {
        let (store, own) = (self.store.clone(), self.own.node);
        Box::pin(async move {
            let Some(proof) = Proof::decode(&proof) else { return };
            let now = store.clock().now();
            let taken = store.run(move |s: &mut Store| take_proof(s, own, &proof, now)).await;
            if let Ok(Err(error)) = taken {
                warn!(%error, "cannot store why this node is refused");
            }
        })
    }
}

/// Two halves of a cluster that have replaced its root differently refuse each other for good.
fn tell_of_fork(hello: &[u8], roots: &RootChain, peer: NodeId) {
    if let Some(version) = Hello::fork(hello, roots) {
        error!(%peer, version, advice = FORKED, "the cluster has two roots of one version");
    }
}

/// What to do about it.
const FORKED: &str = "the root was replaced twice, on machines that could not reach each other; the two parts stay apart: decide for one, and join the machines of the other anew (p2pinst invite, p2pinst join with a fresh data directory)";

/// Takes over what proves that this node was removed, and nothing of others: whoever shows it need
/// not be a member.
fn take_proof(
    store: &mut Store,
    own: NodeId,
    proof: &Proof,
    now: Millis,
) -> Result<(), StoreError> {
    let Some(cells) = proof.of(&own.0) else { return Ok(()) };
    store.extend_roots(&proof.roots)?;
    store.apply(cells, &[], now).map(drop)
}

impl std::fmt::Debug for Keeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keeper").field("name", &self.identity.name).finish_non_exhaustive()
    }
}
