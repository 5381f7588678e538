//! What changes who is a member and who has power: invites, new roots, this machine's farewell.

use std::time::Duration;

use dht_store::store::Write;
use dht_store::wire::{CellBytes as Wire, Request, Response};
use dht_store::{Outcome, Store, Views};
use p2pinst_api::request::{
    ApiError, CellBytes, ErrorKind, Leave, Left, Roots, SubmitRoots, Submitted,
};
use p2pinst_api::view::{InviteView, RemovalView};
use p2pinst_types::record::{Revocation, Standing};
use p2pinst_types::{Cell, Kind, Name, NodeId, PublicKey};
use tokio::task::JoinSet;
use tracing::{info, warn};

use super::show::fitting;
use super::{Api, Reply};
use crate::net::Net;
use crate::rpc;

/// Peers that are told of a farewell one by one; the others hear of it from them.
const TOLD: usize = 16;
/// How long they may take.
const FAREWELL: Duration = Duration::from_secs(5);
/// How long the end of a connection may take to be noticed.
const NOTICED: Duration = Duration::from_secs(2);
/// Longest reason, in bytes: as revocations bound it.
const REASON: usize = 1024;

fn refused(message: impl Into<String>) -> ApiError {
    ApiError::new(ErrorKind::Refused, message)
}

impl Api {
    /// This machine's name, as the roster has it now.
    pub(super) fn name(&self, views: &Views) -> Name {
        let machine = views.machine_of(&self.own.node.0);
        machine.map_or_else(|| self.identity.name.clone(), |m| m.name.clone())
    }

    /// How this machine ceased to be a member.
    pub(super) fn removal(&self, views: &Views) -> Option<RemovalView> {
        let removal = views.removal(&self.own.node.0)?;
        Some(RemovalView {
            at: removal.at.millis(),
            by: views.key_name(&removal.cell.id.author).cloned(),
            reason: removal.reason.clone(),
        })
    }

    pub(super) fn invites(&self, after: Option<&PublicKey>) -> Vec<InviteView> {
        let views = self.store.views();
        let now = self.store.clock().now();
        let invites = views.invites.values();
        let invites =
            invites.filter(|info| after.is_none_or(|after| info.invite.key > *after)).map(|info| {
                let invite = &info.invite;
                let revoked = views.revoked.contains_key(&invite.key);
                InviteView {
                    invite: invite.key,
                    site: invite.site.clone(),
                    labels: invite.labels.clone(),
                    uses: invite.uses,
                    used: info.used,
                    not_after: invite.not_after,
                    by: views.key_name(&info.cell.id.author).cloned(),
                    revoked,
                    open: !revoked && info.used < invite.uses && now <= invite.not_after,
                }
            });
        fitting(invites)
    }

    pub(super) fn roots(&self) -> Roots {
        let views = self.store.views();
        let cells = views.grants.values().flat_map(|info| info.cells());
        let revocations = views.root_revocations();
        Roots {
            chain: views.roots.signed().to_vec(),
            in_force: views.root_in_force,
            grants: cells.map(|c| CellBytes(c.bytes().to_vec())).collect(),
            revocations: revocations.map(|c| CellBytes(c.bytes().to_vec())).collect(),
        }
    }

    /// Replaces the root. The list of standing grants goes first: a root whose list is lost would
    /// never come into force.
    pub(super) async fn submit_roots(&self, submit: SubmitRoots) -> Reply<Submitted> {
        let _turn = self.submitting.lock().await;
        let mut chain = self.store.views().roots.clone();
        match chain.extend(&submit.roots) {
            Ok(true) => {}
            Ok(false) => return Err(refused("the cluster has this root already").into()),
            Err(e) => {
                return Err(refused(format!("the new root is refused: {e}"))
                    .hint("has somebody else replaced it? see: p2pinst root show")
                    .into());
            }
        }
        let cell = Cell::parse(submit.standing.0).map_err(|e| {
            ApiError::new(ErrorKind::Invalid, format!("the list of grants cannot be read: {e}"))
        })?;
        let named = chain.current().and_then(|doc| doc.standing);
        if cell.id.kind != Kind::STANDING || named.is_none_or(|id| cell.id.subject != id.0) {
            let reason = "the new root does not name this list of grants";
            return Err(ApiError::new(ErrorKind::Invalid, reason).into());
        }
        let list: Standing = cell.record().map_err(|e| {
            ApiError::new(ErrorKind::Invalid, format!("the list of grants cannot be read: {e}"))
        })?;
        self.ensure_complete(&list)?;
        let outcomes = self.store.apply(vec![cell.clone()], Vec::new()).await?;
        if let Some(Outcome::Held(why) | Outcome::Rejected(why)) = outcomes.first() {
            return Err(refused(format!("the list of grants is refused: {why}")).into());
        }
        let signed = chain.signed().to_vec();
        let stored = self.store.run(move |s: &mut Store| s.extend_roots(&signed)).await?;
        stored.map_err(|e| {
            let reason = format!("cannot store the new root: {e}");
            ApiError::new(ErrorKind::Internal, reason).hint("make room, and repeat the command")
        })?;
        let version = self.store.views().root_in_force;
        info!(version, "the root of the cluster was replaced");
        let peers = self.control.announce(&[cell]).await;
        Ok(Submitted { peers })
    }

    /// What is not on the list ends with the former root: nothing is left out by mistake.
    fn ensure_complete(&self, list: &Standing) -> Reply<()> {
        let views = self.store.views();
        let grants = views.grants.values().flat_map(|info| info.cells());
        let missing = grants.filter(|c| !list.grants.contains(&c.hash())).count()
            + views.root_revocations().filter(|c| !list.revocations.contains(&c.hash())).count();
        if missing == 0 {
            return Ok(());
        }
        let reason = "the new root is refused: a grant or a revocation has come in meanwhile";
        Err(refused(reason).hint("repeat the command").into())
    }

    /// Writes this node's farewell and tells the others; the daemon ends when this is answered.
    pub(super) async fn leave(&self, leave: Leave) -> Reply<Left> {
        if leave.reason.len() > REASON {
            let reason = format!("the reason is longer than {REASON} bytes");
            return Err(ApiError::new(ErrorKind::Invalid, reason).into());
        }
        let _turn = self.submitting.lock().await;
        let views = self.store.views();
        let name = self.name(&views);
        if views.removal(&self.own.node.0).is_some() {
            return Ok(Left { name, told: 0 });
        }
        let peers = self.net.peers().connected();
        if peers.is_empty() && views.machines.len() > 1 && !leave.alone {
            let reason = "no other member can be reached, and the others should be told";
            let hint = format!(
                "wait until one answers, or run on another member: p2pinst node rm {name} (and here: p2pinst leave --alone)"
            );
            return Err(ApiError::new(ErrorKind::Unavailable, reason).hint(hint).into());
        }
        let cell = self.write_farewell(leave.reason).await?;
        self.control.announce(std::slice::from_ref(&cell)).await;
        let told = self.tell(&cell, peers).await;
        if told == 0 && views.machines.len() > 1 {
            warn!("no member has confirmed that it knows of this farewell");
        }
        Ok(Left { name, told })
    }

    async fn write_farewell(&self, reason: String) -> Reply<Cell> {
        let (own, clock) = (std::sync::Arc::clone(&self.own), self.store.clock().clone());
        let job = move |store: &mut Store| {
            let key = own.node.0;
            let record = Revocation { key, last_good: None, reason };
            let write = Write {
                kind: Kind::REVOCATION,
                subject: key.as_bytes(),
                slot: &[],
                incarnation: own.incarnation(),
            };
            store.write(&own.key, write, &record, clock.now())
        };
        Ok(self.store.run(job).await?.map_err(crate::store::StoreFailure::from)?)
    }

    /// Gives a cell to some peers directly. Those count that confirm it, and those that close the
    /// connection over it.
    async fn tell(&self, cell: &Cell, peers: Vec<NodeId>) -> usize {
        let mut asked = JoinSet::new();
        for peer in peers.into_iter().take(TOLD) {
            let (net, cells) = (self.net.clone(), vec![Wire(cell.bytes().to_vec())]);
            asked.spawn(async move {
                let request = Request::Push { cells, covered: Vec::new() };
                let answer = rpc::ask(&net, peer, &[], &request).await;
                match answer {
                    Ok(Response::Outcomes(outcomes)) => outcomes.iter().all(Outcome::is_here),
                    _ => has_closed(&net, peer).await,
                }
            });
        }
        let mut told = 0;
        let patience = tokio::time::sleep(FAREWELL);
        tokio::pin!(patience);
        loop {
            tokio::select! {
                next = asked.join_next() => match next {
                    Some(done) => told += usize::from(done.unwrap_or(false)),
                    None => return told,
                },
                () = &mut patience => return told,
            }
        }
    }
}

/// Whether a peer has closed its connections, which may be noticed after the stream broke.
async fn has_closed(net: &Net, peer: NodeId) -> bool {
    let mut changes = net.peers().changes();
    let open = || net.peers().get(&peer).connected;
    let closed = async { while open() && changes.changed().await.is_ok() {} };
    tokio::time::timeout(NOTICED, closed).await.is_ok()
}
