//! Repair rounds: this node and the other replicas of what it holds come to the same, and what lies
//! here and belongs elsewhere goes there. Every ten sync intervals (give or take a fifth), and half
//! an interval after the replicas have changed.

use std::sync::Arc;
use std::time::Duration;

use dht_store::placement::Ring;
use dht_store::repair::{Comparison, Given, Handover, Plan, Shared, Want};
use dht_store::shelf::{Held, Subject};
use p2pinst_types::{Hash, NodeId, PublicKey};
use rand::RngExt as _;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::net::Net;
use crate::replicate::Replicas;
use crate::rpc;
use crate::store::{Own, StoreFailure, StoreHandle};

/// Rounds are this many sync intervals apart: ten minutes by default.
const INTERVALS: u32 = 10;

/// Time for one peer, or one subject: the rest is for the next round.
const PATIENCE: Duration = Duration::from_secs(120);

/// See the module.
#[derive(Debug)]
pub struct Repair {
    /// Who this node is.
    pub own: Arc<Own>,
    /// The network.
    pub net: Net,
    /// The store.
    pub store: StoreHandle,
    /// Who holds what.
    pub replicas: Replicas,
    /// The sync interval.
    pub interval: Duration,
}

impl Repair {
    /// Runs until shutdown.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut turns = self.replicas.turns();
        loop {
            let pause = self.interval * INTERVALS;
            let jitter = rand::rng().random_range(0.8..1.2);
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(pause.mul_f64(jitter)) => {}
                Ok(()) = turns.changed() => {
                    // more may change at once: a rack that starts, a switch that fails
                    tokio::select! {
                        biased;
                        () = shutdown.cancelled() => return,
                        () = tokio::time::sleep(self.interval.mul_f64(jitter / 2.0)) => {}
                    }
                    turns.mark_unchanged();
                }
            }
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                round = self.round() => if let Err(error) = round {
                    warn!(%error, "a repair round ended early");
                }
            }
        }
    }

    async fn round(&self) -> Result<(), StoreFailure> {
        let (ring, own) = (self.replicas.ring(), self.own.node.0);
        let views = self.store.views();
        let held = self.held().await?;
        let plan = Plan::of(held.iter().map(|(s, h)| (s, h)), &ring, &*views, own);
        // one peer cannot hold up the rest for ever
        for peer in plan.compare {
            let compared = tokio::time::timeout(PATIENCE, self.compare(peer, &ring)).await;
            compared.unwrap_or(Ok(()))?;
        }
        for subject in plan.hand_over {
            let handed = tokio::time::timeout(PATIENCE, self.hand_over(subject, &ring)).await;
            handed.unwrap_or(Ok(()))?;
        }
        Ok(())
    }

    async fn held(&self) -> Result<Vec<(Subject, Held)>, StoreFailure> {
        let all =
            |s: &mut dht_store::Store| s.shelf().map(|(s, h)| (s.clone(), h.clone())).collect();
        self.store.run(all).await
    }

    async fn compare(&self, peer: PublicKey, ring: &Arc<Ring>) -> Result<(), StoreFailure> {
        let (views, own, with) = (self.store.views(), self.own.node.0, Arc::clone(ring));
        let mine =
            self.store.run(move |s| Shared::of(s.shelf(), &with, &*views, (own, peer))).await?;
        let mut comparison = Comparison::new(peer, mine);
        let mut given = Given::Nothing;
        loop {
            let Ok(want) = comparison.step(given) else {
                debug!(peer = %NodeId(peer), "a peer does not keep to the repair protocol");
                return Ok(());
            };
            let Some(next) = self.fulfil(want).await? else { break };
            given = next;
        }
        let (pulled, pushed) = comparison.moved();
        if pulled + pushed > 0 {
            info!(peer = %NodeId(peer), pulled, pushed, "repaired");
        }
        Ok(())
    }

    async fn hand_over(
        &self,
        subject: (Subject, Hash),
        ring: &Arc<Ring>,
    ) -> Result<(), StoreFailure> {
        let views = self.store.views();
        let mut handover = Handover::new(subject, ring, &*views);
        let mut given = Given::Nothing;
        while let Ok(want) = handover.step(given, self.own.node.0, ring, &*views) {
            let Some(next) = self.fulfil(want).await? else { break };
            given = next;
        }
        Ok(())
    }

    /// Does what a machine wants; `None`: it is over.
    async fn fulfil(&self, want: Want) -> Result<Option<Given>, StoreFailure> {
        Ok(Some(match want {
            Want::Ask(peer, request) => {
                Given::Answer(rpc::ask(&self.net, NodeId(peer), &[], &request).await.ok())
            }
            Want::Read(subject) => {
                Given::Cells(self.store.run(move |s| s.data(subject.kind, &subject.id)).await??)
            }
            Want::Store(cells) => {
                self.store.apply(cells, Vec::new()).await?;
                Given::Nothing
            }
            Want::Drop(subject, digest) => {
                let own = self.own.node.0;
                let dropped =
                    self.store.run(move |s| s.drop_subject(&subject, &digest, &own)).await??;
                debug!(dropped, "a subject was handed over to its replicas");
                return Ok(None);
            }
            Want::Nothing => return Ok(None),
        }))
    }
}
