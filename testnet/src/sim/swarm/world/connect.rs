//! Who opens a stream to whom.

use p2pinst_chunks::Bitmap;
use p2pinst_chunks::fetch::Input;
use p2pinst_chunks::fetch::place::is_gateway;
use rand::RngExt as _;

use super::{Event, FAR, World};

#[allow(clippy::indexing_slicing, reason = "nodes and sites have numbers below the number of them")]
impl World {
    /// Opens streams to sources: the publisher, some at the own site, and of a gateway some at others.
    pub(super) fn connect(&mut self, n: u32) {
        let node = &self.nodes[n as usize];
        if node.claims_all() || node.done.is_some() || !node.alive {
            return;
        }
        let near = |s: &&u32| self.plan.site(**s) == self.plan.site(n) && **s != 0;
        let count = node.sources.iter().filter(near).count();
        let here = u32::try_from(self.nodes.len() / usize::from(self.plan.sites)).unwrap_or(0);
        let missing = self.plan.degree.saturating_sub(count);
        if missing > 0 {
            let mut found: Vec<u32> = self.neighbours(n);
            found.retain(|m| {
                !self.nodes[n as usize].sources.contains(m)
                    && !self.nodes[n as usize].gone.contains(m)
            });
            found.into_iter().take(missing).for_each(|m| self.open(n, m));
        }
        // everybody knows the publisher; it takes as many as it will
        let publisher = self.nodes[0].downloaders.len() < self.plan.accept;
        let gateway = self.plan.sites > 1 && self.is_gateway(n);
        if publisher && (self.plan.site(n) == 0 || gateway) {
            self.open(n, 0);
        }
        if gateway {
            for site in 0..self.plan.sites {
                let far = |s: &&u32| self.plan.site(**s) == site && **s != 0;
                let sources = &self.nodes[n as usize].sources;
                let all =
                    sources.iter().filter(|s| self.plan.site(**s) != self.plan.site(n)).count();
                if site != self.plan.site(n) && !sources.iter().any(|s| far(&s)) && all < FAR {
                    let m = self.rng.random_range(0..here) * u32::from(self.plan.sites)
                        + u32::from(site);
                    if m != 0 {
                        self.open(n, m);
                    }
                }
            }
        }
    }

    /// The downloaders at the site, in an order in which those who come first for one have that one
    /// among their first.
    pub(super) fn neighbours(&self, n: u32) -> Vec<u32> {
        let sites = usize::from(self.plan.sites.max(1));
        let here = (0..=self.plan.nodes).skip(usize::from(self.plan.site(n))).step_by(sites);
        let of = |m: u32| mix(self.plan.seed ^ u64::from(n.min(m)) << 32 ^ u64::from(n.max(m)));
        let mut all: Vec<(u64, u32)> =
            here.filter(|m| *m != n && *m != 0).map(|m| (of(m), m)).collect();
        let most = (self.plan.degree * 3).min(all.len());
        if most < all.len() {
            all.select_nth_unstable(most);
            all.truncate(most);
        }
        all.sort_unstable();
        all.into_iter().map(|(_, m)| m).collect()
    }

    pub(super) fn is_gateway(&self, n: u32) -> bool {
        let own = &self.nodes[n as usize];
        let others =
            self.nodes.iter().filter(|o| o.site == own.site && o.alive && o.tag != own.tag);
        is_gateway(own.tag, others.map(|o| o.tag))
    }

    pub(super) fn tell_members(&mut self, n: u32) {
        if self.plan.sites < 2 {
            return;
        }
        let site = self.nodes[n as usize].site;
        let all = self
            .nodes
            .iter()
            .enumerate()
            .filter(|(m, o)| *m as u32 != n && o.site == site && o.alive);
        let others = all.map(|(m, o)| (m as u32, o.tag)).collect();
        let own = self.nodes[n as usize].tag;
        self.step(n, Input::Members { own, others });
    }

    pub(super) fn open(&mut self, n: u32, source: u32) {
        let known = self.nodes.get(source as usize).is_some_and(|s| s.alive);
        if source == n
            || !known
            || self.nodes[n as usize].sources.contains(&source)
            || self.is_cut(n, source)
        {
            return;
        }
        if source == 0 && self.nodes[0].downloaders.len() >= self.plan.accept {
            return;
        }
        self.nodes[n as usize].sources.push(source);
        self.send(n, source, 32, Event::Open { at: source, from: n });
    }

    pub(super) fn on_open(&mut self, at: u32, from: u32) {
        let place = self.place(from, at);
        let pieces = self.blob.pieces();
        let node = &mut self.nodes[at as usize];
        if !node.alive || !self.nodes[from as usize].sources.contains(&at) {
            return;
        }
        let node = &mut self.nodes[at as usize];
        if !node.started || (at == 0 && node.downloaders.len() >= self.plan.accept) {
            return self.send(at, from, 32, Event::NotFound { at: from, from: at });
        }
        node.downloaders.push(from);
        let seeding = node.serve.open(from, self.blob.root, place);
        let have = if node.claims_all() { Bitmap::full(pieces) } else { node.fetch.have().clone() };
        let bytes = 42 + u64::from(pieces) / 8;
        self.send(at, from, bytes, Event::Opened { at: from, from: at, seeding, have });
        self.pump(at);
    }
}

fn mix(n: u64) -> u64 {
    let n = (n ^ n >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ n >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ n >> 31
}
