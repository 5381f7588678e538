//! What a scout answers: syncs of the control plane, and downloaders.

use std::collections::BTreeSet;

use dht_store::Store;
use dht_store::answer::Asked;
use dht_store::wire::{Request, Response};
use p2pinst_types::NodeId;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::clock;
use crate::control::{self, Control};
use crate::exchange::Exchange;
use crate::net::{Net, NetEvent, NetStream, Protocol};
use crate::replicate::Replicas;
use crate::rpc;
use crate::slots::{STREAMS, Slots};
use crate::store::StoreHandle;

/// Gossiped messages that are judged at once.
const GOSSIP: usize = 64;

/// See the module. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Server {
    pub(super) own: NodeId,
    pub(super) net: Net,
    pub(super) store: StoreHandle,
    pub(super) control: Control,
    pub(super) exchange: Exchange,
    pub(super) replicas: Replicas,
}

impl Server {
    /// Runs until shutdown.
    pub(super) async fn run(
        self,
        mut events: mpsc::Receiver<NetEvent>,
        shutdown: CancellationToken,
    ) {
        let (mut streams, mut gossip) = (JoinSet::new(), JoinSet::new());
        let slots = Slots::default();
        let mut changes = self.net.peers().changes();
        let mut known = BTreeSet::new();
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                Some(_) = streams.join_next(), if !streams.is_empty() => {}
                Some(_) = gossip.join_next(), if !gossip.is_empty() => {}
                Ok(()) = changes.changed() => {
                    let connected: BTreeSet<_> = self.net.peers().connections().into_iter().collect();
                    for (peer, _) in connected.difference(&known) {
                        self.control.wish(*peer);
                    }
                    known = connected;
                }
                event = events.recv() => match event {
                    Some(NetEvent::Gossip { .. }) if gossip.len() >= GOSSIP => {}
                    Some(NetEvent::Gossip { source, id, data }) => {
                        let control = self.control.clone();
                        gossip.spawn(async move { control.on_gossip(source, id, data).await });
                    }
                    Some(NetEvent::Inbound { peer, protocol, stream }) => {
                        let slot = slots.take(peer, protocol).filter(|_| streams.len() < STREAMS);
                        let Some(slot) = slot else { continue };
                        let server = self.clone();
                        streams.spawn(async move {
                            server.answer(peer, protocol, stream).await;
                            drop(slot);
                        });
                    }
                    None => break,
                }
            }
        }
        streams.shutdown().await;
    }

    async fn answer(self, peer: NodeId, protocol: Protocol, mut stream: NetStream) {
        // R16: as everywhere
        let now = self.store.clock().now();
        if !self.store.views().is_welcome(&peer.0, now) {
            return debug!(%peer, "who is no member gets nothing");
        }
        match protocol {
            Protocol::Exchange => self.exchange.serve(peer, stream).await,
            Protocol::Swim => {}
            Protocol::Store => match rpc::read_request(&mut stream).await {
                Ok(request) => {
                    let response = self.respond(peer, request).await;
                    if let Err(error) = rpc::write_response(&mut stream, &response).await {
                        debug!(%peer, %error, "an answer cannot be sent");
                    }
                }
                Err(error) => debug!(%peer, %error, "a request cannot be read"),
            },
        }
    }

    async fn respond(&self, peer: NodeId, request: Request) -> Response {
        let refused = || Response::Refused("a scout does not answer that".to_owned());
        let answered = match request {
            Request::Push { cells, covered } => {
                control::take(&self.store, peer, cells, covered).await
            }
            Request::Holds { root } => {
                let complete = self.exchange.blobs().status(&root).is_some_and(|s| s.complete);
                return Response::Holds(complete);
            }
            Request::Heads { .. }
            | Request::Logs { .. }
            | Request::Roots
            | Request::Pull { .. } => {
                if let Request::Heads { clock, .. } = request {
                    self.store.clock().heard(peer, clock);
                }
                let (ring, own) = (self.replicas.ring(), self.own.0);
                let answer = move |s: &mut Store| {
                    let asked = Asked { own, peer: peer.0, ring: &ring, clock: clock::local() };
                    dht_store::answer::answer(s, request, asked)
                };
                match self.store.run(answer).await {
                    Ok(Ok(response)) => return response.unwrap_or_else(refused),
                    Ok(Err(error)) => Err(error.into()),
                    Err(error) => Err(error),
                }
            }
            _ => return refused(),
        };
        answered.unwrap_or_else(|error| {
            warn!(%error, "cannot answer a request");
            Response::Refused("the store failed".to_owned())
        })
    }
}
