//! How far blobs are on this node, told to people and to other nodes; and the task that makes rates
//! of the counters.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use dht_store::wire::SWARMS;
use p2pinst_chunks::BlobStatus;
use p2pinst_types::rate::Limit;
use p2pinst_types::record::Progress;
use p2pinst_types::{Hash, Millis, PieceIndex, Rate};
use tokio_util::sync::CancellationToken;

use super::Exchange;
use super::meter::Picture;
use super::nic::Nic;

/// How often the counters are looked at while something moves.
const SAMPLE: Duration = Duration::from_millis(250);

/// The bytes of a blob that are here.
pub(super) fn held(status: &BlobStatus) -> u64 {
    let count = u64::from(status.have.count());
    let bytes = |piece| status.blob.range(piece).map_or(0, |r| r.end - r.start);
    let last = PieceIndex(status.blob.pieces().saturating_sub(1));
    let short = if status.have.get(last) { status.blob.piece_len() - bytes(last) } else { 0 };
    (count * status.blob.piece_len()).saturating_sub(short)
}

impl Exchange {
    /// How far this node is with a blob; `None`: it knows nothing of it.
    #[must_use]
    pub fn progress_of(&self, root: &Hash, now: Millis) -> Option<Progress> {
        let status = self.blobs.status(root);
        let seen = self.meter.picture(root);
        let blob = status.as_ref().map(|s| s.blob).or_else(|| seen.as_ref()?.blob)?;
        let ago = |passed: Duration| {
            Millis(now.0.saturating_sub(u64::try_from(passed.as_millis()).unwrap_or(u64::MAX)))
        };
        let begun = seen.as_ref().map(|s| ago(s.begun));
        let Picture { fetching, ended, received, counts, banned, sent, .. } =
            seen.clone().unwrap_or_default();
        let Picture { rate_in, rate_out, sources, takers, .. } = seen.unwrap_or_default();
        Some(Progress {
            blob,
            pieces: status.as_ref().map_or(0, |s| s.have.count()),
            held: status.as_ref().map_or(0, held),
            fetching,
            begun,
            ended: ended.map(ago),
            received,
            duplicate: counts.duplicate,
            bad: counts.bad,
            sent,
            sent_pieces: counts.sent_pieces,
            rate_in,
            rate_out,
            sources,
            takers,
            refused: counts.refused,
            banned,
            speeds: self.meter.speeds(),
        })
    }

    /// How far this node is with these blobs; with those at work here when none is named.
    #[must_use]
    pub fn progress_of_all(&self, roots: &[Hash], now: Millis) -> Vec<Progress> {
        let mut at_work = if roots.is_empty() { self.meter.at_work(SWARMS) } else { Vec::new() };
        at_work.retain(|root| self.blobs.recipe_of(root).is_none());
        let wanted = roots.iter().take(SWARMS).chain(&at_work);
        wanted.filter_map(|root| self.progress_of(root, now)).collect()
    }

    /// Looks at the counters while something moves, until shutdown.
    pub async fn sample(self, shutdown: CancellationToken) {
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.meter.work() => {}
            }
            let mut nic: Option<Nic> = None;
            let mut speed = None;
            let mut tick = tokio::time::interval(SAMPLE);
            tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    _ = tick.tick() => {}
                }
                if nic.is_none() {
                    nic = self.nic();
                    speed = nic.as_ref().and_then(Nic::speed);
                }
                let rates = self.limits().in_force().rates;
                let least = |limit: Option<Limit>| {
                    let limit = limit.and_then(Limit::rate).map(Rate::bytes);
                    limit.into_iter().chain(speed).min()
                };
                self.meter.knows(least(rates.up), least(rates.down));
                let carried = nic.as_ref().and_then(Nic::carried);
                if !self.meter.sample(Instant::now(), carried) {
                    break;
                }
            }
        }
    }

    /// The interface on which the exchange goes on.
    fn nic(&self) -> Option<Nic> {
        let peer = self.net.peers().get(&self.meter.any_peer()?);
        let ipv4 = |addr: &String| {
            let mut parts = addr.split('/').skip(1);
            (parts.next() == Some("ip4")).then(|| parts.next()?.parse::<Ipv4Addr>().ok()).flatten()
        };
        peer.addrs.iter().filter_map(ipv4).find_map(Nic::towards)
    }
}

#[cfg(test)]
mod tests {
    use p2pinst_chunks::Bitmap;
    use p2pinst_types::BlobRef;

    use super::*;

    #[test]
    fn the_last_piece_is_shorter() {
        let blob = BlobRef::with_piece_log2(Hash([1; 32]), 150_000, 16).unwrap();
        let of = |pieces: &[u32]| {
            let mut have = Bitmap::new(blob.pieces());
            for piece in pieces {
                have.set(PieceIndex(*piece));
            }
            held(&BlobStatus { blob, have, complete: false })
        };
        assert_eq!((of(&[]), of(&[0]), of(&[0, 1, 2])), (0, 65_536, 150_000));
        assert_eq!(of(&[2]), 150_000 - 2 * 65_536);
    }
}
