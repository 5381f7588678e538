//! What the sources of a fetch say, and what the scheduler makes of it.

use p2pinst_chunks::fetch::{Input, Output};
use p2pinst_chunks::store::PutError;
use p2pinst_chunks::wire::{Refusal, ToSource};
use p2pinst_chunks::{Bitmap, Put};
use p2pinst_types::{NodeId, PieceIndex};
use tokio::time::Instant;
use tracing::warn;

use super::super::link::{Event, Origin};
use super::{FOUND, FetchError, Running, Stage};

impl Running<'_> {
    /// A piece has come: tells those who fetch from here, when it is time to.
    fn tell_news(&mut self) {
        let Stage::Pieces(fetch) = &self.stage else { return };
        if self.news.came(self.begun.elapsed(), fetch.have().count(), self.blob.pieces()) {
            self.exchange.more(&self.blob.root);
        }
    }

    /// Tells what has waited long enough.
    pub(super) fn tell_due(&mut self) {
        if self.news.is_due(self.begun.elapsed()) {
            self.exchange.more(&self.blob.root);
        }
    }

    /// Says whether the blob is complete.
    pub(super) async fn on_event(
        &mut self,
        from: Origin,
        event: Event,
    ) -> Result<bool, FetchError> {
        let Origin { peer, link } = from;
        if self.links.get(&peer).is_none_or(|l| l.number() != link) {
            return Ok(self.on_late(peer, event));
        }
        match event {
            // no link says that
            Event::Found => {}
            Event::Opened { blob, seeding, have, recipe } if blob == self.blob => {
                self.retries.remove(&peer);
                if seeding {
                    self.offered.insert(peer, Bitmap::new(blob.pieces()));
                }
                self.have.insert(peer, have.clone());
                self.replace_layer_source();
                self.hear_recipe(recipe);
                if matches!(self.stage, Stage::Seeds) {
                    return Ok(self.consider());
                }
                self.tell_held(&peer);
                return Ok(self.step(self.joined(peer, have)));
            }
            Event::Opened { .. } => {
                self.ban(peer, "it shows another blob under the same name");
                return Ok(self.step(Input::Left { peer }));
            }
            Event::NotFound => {
                self.lose(&peer);
                self.give_up(peer, "it does not have the blob");
                return Ok(self.step(Input::Left { peer }));
            }
            Event::Closed(reason) => {
                self.give_up(peer, &reason);
                return Ok(self.step(Input::Left { peer }));
            }
            Event::Layer { from, bytes } => return self.on_layer(peer, from, &bytes).await,
            Event::Have(pieces) => {
                if let Some(have) = self.have.get_mut(&peer) {
                    for piece in &pieces {
                        have.set(*piece);
                    }
                }
                return Ok(self.step(Input::Has { peer, pieces }));
            }
            Event::Offered(pieces) => {
                if let Some(offered) = self.offered.get_mut(&peer) {
                    for piece in &pieces {
                        offered.set(*piece);
                    }
                }
                return Ok(self.step(Input::Offered { peer, pieces }));
            }
            Event::Free => {
                self.offered.remove(&peer);
                return Ok(self.step(Input::Free { peer }));
            }
            Event::Stored { piece, put } => return Ok(self.on_stored(peer, piece, put)),
            Event::StoredParts { piece, put, bytes } => {
                return Ok(self.on_stored_parts(peer, piece, put, bytes));
            }
            Event::BadParts { piece, bytes } => return Ok(self.on_bad_parts(peer, piece, bytes)),
            Event::Bad { piece } => return Ok(self.on_bad(peer, piece)),
            Event::Refused { piece, reason, others } => {
                self.on_busy(peer, reason, others);
                return Ok(self.step(Input::Refused { peer, piece, reason }));
            }
            Event::Full { others } => {
                self.on_busy(peer, Refusal::Busy, others);
                self.put_off(peer);
            }
            // before the blob is begun nothing was asked for
            Event::Disk(PutError::Unknown { .. }) if matches!(self.stage, Stage::Layer { .. }) => {
                self.ban(peer, "it sent a piece that nobody asked for");
            }
            Event::Disk(error) => return Err(error.into()),
        }
        Ok(false)
    }

    /// What comes of a link that was dropped. What it stored is here; nothing else matters, but that
    /// nobody gets away with wrong bytes.
    fn on_late(&mut self, peer: NodeId, event: Event) -> bool {
        match event {
            Event::Found => {
                self.find(peer);
                false
            }
            Event::Stored { piece, put } => {
                // the link that there is now may have been asked for the same
                if let Some(link) = self.links.get(&peer) {
                    let _best_effort = link.send(ToSource::Cancel { piece });
                }
                self.on_stored(peer, piece, put)
            }
            Event::StoredParts { piece, put, bytes } => {
                self.on_stored_parts(peer, piece, put, bytes)
            }
            Event::Bad { piece } => self.on_bad(peer, piece),
            _ => false,
        }
    }

    fn find(&mut self, peer: NodeId) {
        let is_known = self.found.contains(&peer) || self.banned.contains(&peer);
        if self.found.len() < FOUND && !is_known {
            self.found.push(peer);
            self.chosen.1 = true;
        }
    }

    fn on_stored(&mut self, peer: NodeId, piece: PieceIndex, put: Put) -> bool {
        let bytes = self.blob.range(piece).map_or(0, |r| r.end - r.start);
        self.on_bytes(peer, piece, put, bytes)
    }

    /// So many bytes came, and the piece is here.
    pub(super) fn on_bytes(
        &mut self,
        peer: NodeId,
        piece: PieceIndex,
        put: Put,
        bytes: u64,
    ) -> bool {
        self.done.received += bytes;
        let duplicate = put == Put::Duplicate;
        self.exchange.meter.stored(&self.blob.root, peer, bytes, !duplicate);
        if duplicate {
            self.done.duplicate += bytes;
        } else {
            self.fed = Instant::now();
            self.gave.insert(peer);
            self.exchange.shared.holders.note(self.blob.root, peer);
        }
        let complete = self.step(Input::Verified { peer, piece });
        if !duplicate {
            self.tell_news();
        }
        complete
    }

    /// R10: one bad piece and the peer is out for this blob.
    fn on_bad(&mut self, peer: NodeId, piece: PieceIndex) -> bool {
        let bytes = self.blob.range(piece).map_or(0, |r| r.end - r.start);
        self.done.received += bytes;
        self.exchange.meter.bad(&self.blob.root, peer, bytes);
        warn!(%peer, piece = piece.0, blob = %self.blob.root.short(), "a peer sent wrong bytes: it is banned from this blob");
        if !matches!(self.stage, Stage::Pieces(_)) {
            self.ban(peer, "it sent a piece that nobody asked for");
        }
        self.step(Input::Bad { peer, piece })
    }

    /// A source refuses something, and names others.
    fn on_busy(&mut self, peer: NodeId, reason: Refusal, others: Vec<NodeId>) {
        if reason == Refusal::Busy {
            self.busy = Some(Instant::now());
        }
        self.hear_of(peer, others);
        self.exchange.meter.refused(&self.blob.root, peer, reason);
    }

    /// Tells the scheduler, and does what it says. Says whether the blob is complete.
    pub(super) fn step(&mut self, input: Input<NodeId>) -> bool {
        let mut inputs = vec![input];
        let mut complete = false;
        while let Some(input) = inputs.pop() {
            let Stage::Pieces(fetch) = &mut self.stage else { return false };
            let mut out = Vec::new();
            fetch.step(self.begun.elapsed(), &mut self.rng, input, &mut out);
            for output in out {
                match output {
                    Output::Request { peer, piece } => {
                        let message = self.delta.request(piece);
                        if !self.links.get(&peer).is_some_and(|l| l.send(message)) {
                            self.give_up(peer, "it does not take requests");
                            inputs.push(Input::Left { peer });
                        }
                    }
                    Output::Cancel { peer, piece } => {
                        if let Some(link) = self.links.get(&peer) {
                            let _best_effort = link.send(ToSource::Cancel { piece });
                        }
                    }
                    Output::Drop { peer } => self.give_up(peer, "it is much slower than others"),
                    Output::Ban { peer, reason } => self.ban(peer, &format!("{reason:?}")),
                    Output::Complete => complete = true,
                    // before anybody has answered, that is nothing to tell the DHT about
                    Output::Starved if self.have.is_empty() => {}
                    Output::Starved => self.look_further(),
                }
            }
        }
        complete
    }
}
