//! The first stage of a fetch: the piece layer, from one source after the other.

use std::time::Duration;

use p2pinst_chunks::fetch::{Input, Limits};
use p2pinst_chunks::wire::ToSource;
use p2pinst_chunks::{Bitmap, Fetch, LayerPages, PieceLayer};
use p2pinst_types::NodeId;
use tokio::time::Instant;

use super::{FetchError, Running, Stage};

/// A source of the piece layer of which nothing comes for so long is replaced.
const LAYER_PATIENCE: Duration = Duration::from_millis(1500);

impl Running<'_> {
    /// A blob that was begun before goes on where it was; one of a single piece needs no layer.
    pub(super) async fn resume(&mut self) -> Result<(), FetchError> {
        if let Some(status) = self.exchange.blobs.status(&self.blob.root) {
            self.stage = match self.delta.is_open() {
                true => Stage::Seeds,
                false => self.pieces(status.have),
            };
            self.consider();
        } else if self.blob.pieces() == 1 {
            let layer = PieceLayer::new(self.blob, self.blob.root.0.to_vec())?;
            self.begin(layer).await?;
            self.consider();
        }
        Ok(())
    }

    fn pieces(&self, have: Bitmap) -> Stage {
        let mut fetch = Fetch::new(self.blob, have, Limits::default());
        fetch.set_in_flight(self.ahead());
        Stage::Pieces(Box::new(fetch))
    }

    async fn begin(&mut self, layer: PieceLayer) -> Result<(), FetchError> {
        let blobs = self.exchange.blobs.clone();
        tokio::task::spawn_blocking(move || blobs.begin(&layer)).await??;
        self.exchange.more(&self.blob.root);
        self.stage = Stage::Seeds;
        Ok(())
    }

    /// The scheduler begins, with what is here and the sources that there are. Says whether the blob is complete.
    pub(super) fn start(&mut self) -> bool {
        let empty = Bitmap::new(self.blob.pieces());
        let have = self.exchange.blobs.status(&self.blob.root).map_or(empty, |s| s.have);
        self.stage = self.pieces(have);
        let known: Vec<_> = self.have.iter().map(|(p, h)| (*p, h.clone())).collect();
        let mut complete = self.step(self.site());
        for (peer, have) in known {
            self.tell_held(&peer);
            complete |= self.step(self.joined(peer, have));
            if let Some(offered) = self.offered.get(&peer) {
                let pieces = offered.iter().collect();
                complete |= self.step(Input::Offered { peer, pieces });
            }
        }
        complete
    }

    pub(super) async fn on_layer(
        &mut self,
        peer: NodeId,
        first: p2pinst_types::PieceIndex,
        bytes: &[u8],
    ) -> Result<bool, FetchError> {
        let more = self.links.get_mut(&peer).is_some_and(|link| {
            link.pages = link.pages.saturating_sub(1);
            link.pages > 0
        });
        let Stage::Layer { pages, from } = &mut self.stage else { return Ok(false) };
        if from.is_none_or(|(source, _)| source != peer) {
            return Ok(false);
        }
        if pages.push(first, bytes).is_err() {
            if more {
                return Ok(false); // it was asked twice: this is what it was asked for before
            }
            self.ban(peer, "it does not keep to the exchange protocol");
            return Ok(false);
        }
        self.fed = Instant::now();
        if pages.next_page().is_some() {
            *from = Some((peer, Instant::now()));
            self.ask_for_page(peer);
            return Ok(false);
        }
        let pages = std::mem::replace(pages, LayerPages::new(self.blob)?);
        match pages.finish() {
            Ok(layer) => {
                self.begin(layer).await?;
                Ok(self.consider())
            }
            Err(_) => {
                self.ban(peer, "its piece layer does not match the signed root");
                Ok(false)
            }
        }
    }

    /// Asks another source for the layer when there is none or it is silent.
    pub(super) fn replace_layer_source(&mut self) {
        let Stage::Layer { pages, from } = &mut self.stage else { return };
        if from.is_some_and(|(peer, since)| {
            let since = self.feeds.get(&peer).map_or(since, |f| since.max(f.fed.1));
            self.links.contains_key(&peer) && since.elapsed() < LAYER_PATIENCE
        }) {
            return;
        }
        let last = from.map(|(peer, _)| peer);
        let Ok(fresh) = LayerPages::new(self.blob) else { return };
        let mut able = self.have.keys().filter(|p| self.links.contains_key(*p));
        // one after the other: were it always the first, two that are silent would be asked for ever
        let next = able.clone().find(|p| Some(**p) > last).or_else(|| able.next()).copied();
        if let Some(peer) = next {
            *pages = fresh;
            *from = Some((peer, Instant::now()));
            self.ask_for_page(peer);
        }
    }

    fn ask_for_page(&mut self, peer: NodeId) {
        let Stage::Layer { pages, .. } = &self.stage else { return };
        if let (Some(link), Some(from)) = (self.links.get_mut(&peer), pages.next_page()) {
            if link.send(ToSource::GetLayer { from }) {
                link.pages += 1;
            } else {
                self.give_up(peer, "it does not take requests");
            }
        }
    }
}
