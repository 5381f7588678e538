//! What goes wrong.

use p2pinst_chunks::fetch::Input;

use super::super::Fault;
use super::{DETECT, Event, World};

#[allow(clippy::indexing_slicing, reason = "nodes and sites have numbers below the number of them")]
impl World {
    pub(super) fn fault(&mut self, fault: Fault) {
        match fault {
            Fault::Kill(n) => self.kill(n),
            Fault::KillPart(part) => {
                let first = self.plan.nodes - (f64::from(self.plan.nodes) * part) as u32;
                (first + 1..=self.plan.nodes).for_each(|n| self.kill(n));
            }
            Fault::KillPublisherAfterFirstCopy => {} // see `first_copy_is_out`
            Fault::KillGateways { site, but } => {
                let here = (1..=self.plan.nodes).filter(|n| self.plan.site(*n) == site);
                let mut gateways: Vec<u32> = here.filter(|n| self.is_gateway(*n)).collect();
                gateways.truncate(gateways.len().saturating_sub(but));
                gateways.into_iter().for_each(|n| self.kill(n));
            }
            Fault::Cut(site) => self.cut(site),
            Fault::Heal(site) => self.cut[usize::from(site)] = false,
        }
    }

    /// The publisher dies a little after the last piece has left, if it is to.
    pub(super) fn first_copy_is_out(&mut self) {
        let dies = self.plan.faults.iter().any(|f| f.1 == Fault::KillPublisherAfterFirstCopy);
        if dies {
            self.queue.after(500_000, Event::Fault(Fault::Kill(0)));
        }
    }

    pub(super) fn kill(&mut self, n: u32) {
        let now = self.queue.now();
        let node = &mut self.nodes[n as usize];
        if !std::mem::replace(&mut node.alive, false) {
            return;
        }
        node.up.remove(now, |_| true);
        self.waiting -= usize::from(n > 0 && node.done.is_none() && node.bad.is_none());
        let site = node.site;
        let sources = std::mem::take(&mut node.sources);
        let downloaders = std::mem::take(&mut node.downloaders);
        for at in sources.into_iter().chain(downloaders) {
            self.queue.after(DETECT, Event::Gone { at, from: n });
        }
        let here = (1..=self.plan.nodes).filter(|m| self.plan.site(*m) == site);
        for at in here.collect::<Vec<_>>() {
            if self.plan.sites > 1 {
                self.queue.after(DETECT, Event::Gone { at, from: n });
            }
        }
    }

    pub(super) fn cut(&mut self, site: u8) {
        self.cut[usize::from(site)] = true;
        for n in 0..=self.plan.nodes {
            let across = |m: &u32| (self.plan.site(*m) == site) != (self.plan.site(n) == site);
            let node = &self.nodes[n as usize];
            let gone: Vec<u32> = node
                .sources
                .iter()
                .chain(&node.downloaders)
                .copied()
                .filter(|m| across(m))
                .collect();
            for from in gone {
                self.queue.after(DETECT, Event::Gone { at: n, from });
            }
        }
    }

    /// A peer is gone: as a source, as a downloader, and as a member of the site.
    pub(super) fn on_gone(&mut self, at: u32, from: u32) {
        if !self.nodes[at as usize].alive {
            return;
        }
        self.step_from(at, from, Input::Left { peer: from });
        let node = &mut self.nodes[at as usize];
        node.sources.retain(|s| *s != from);
        node.downloaders.retain(|d| *d != from);
        node.serve.left(from);
        if !self.nodes[from as usize].alive {
            self.tell_members(at);
        }
        self.pump(at);
        self.connect(at);
    }
}
