//! How fast one file can reach many nodes at best: the fluid bound T*, and what sets it.
//!
//! Pure arithmetic on rates that somebody knows or has measured. With F the length, u the rates up,
//! d those down, w and e a site's rates in from and out to other sites, T* is the greatest of
//!
//! - F / u of the publisher: each byte has to leave it once;
//! - F / d of each node, and F / its disk's rate of writing;
//! - N·F / (u of the publisher + Σ u): N copies have to leave somebody;
//!
//! and with several sites, of which S−1 others than the publisher's have nodes,
//!
//! - F / w of each of these: each byte has to come in once;
//! - F / e of the publisher's: each byte has to go out once;
//! - (S−1)·F / (e + Σ e): S−1 copies have to leave some site;
//! - for each site, of n nodes, n·F / (w + Σ u of its nodes, the publisher too): its nodes are fed
//!   by each other and through the WAN.
//!
//! (Kumar & Ross 2006; the sites by the same argument.) The first three are reached by a fluid; with
//! M pieces about (1 + log2 N / M) times as much. A rate that is not known counts as
//! unlimited: its terms are left out, so that T* is never more than the truth.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// Bytes per second; `None` where a [`Host`] or [`Site`] has one: not known, or not limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rate(pub u64);

impl Rate {
    /// So many bits per second.
    #[must_use]
    pub fn bits(bits: u64) -> Self {
        Self(bits / 8)
    }

    /// Of so many bytes in that time; `None` of no time.
    #[must_use]
    pub fn of(bytes: u64, time: Duration) -> Option<Self> {
        let nanos = time.as_nanos();
        if nanos == 0 {
            return None;
        }
        let rate = u128::from(bytes) * 1_000_000_000 / nanos;
        Some(Self(u64::try_from(rate).unwrap_or(u64::MAX)))
    }
}

/// What a machine can do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Host {
    /// Its site, as an index into [`Swarm::sites`]. One that is not in that list has a WAN without
    /// limits.
    pub site: usize,
    /// What it can send.
    pub up: Option<Rate>,
    /// What it can receive.
    pub down: Option<Rate>,
    /// What it can write.
    pub disk: Option<Rate>,
}

/// What a site's link to the other sites can do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Site {
    /// From the others.
    pub wan_in: Option<Rate>,
    /// To the others.
    pub wan_out: Option<Rate>,
}

/// One file on its way from one publisher to many nodes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Swarm {
    /// Bytes of the file.
    pub len: u64,
    /// Who has it at the beginning.
    pub publisher: Host,
    /// Who wants it, the publisher not among them.
    pub nodes: Vec<Host>,
    /// The sites; empty: there is only one.
    pub sites: Vec<Site>,
}

/// What sets the bound. Sites and nodes by their index in [`Swarm`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Term {
    /// The publisher's up-link.
    Source,
    /// The slowest down-link: this node's.
    Down(usize),
    /// All up-links together.
    UpSum,
    /// This site's link, inwards (outwards when it is the publisher's).
    Wan(usize),
    /// The outward links of all sites together.
    WanSum,
    /// What comes into this site and the up-links in it, together.
    SiteUp(usize),
    /// The slowest disk: this node's.
    Disk(usize),
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Source => f.write_str("source up-link"),
            Self::Down(_) => f.write_str("slowest down-link"),
            Self::UpSum => f.write_str("sum of up-links"),
            Self::Wan(site) => write!(f, "WAN of site {site}"),
            Self::WanSum => f.write_str("sum of WAN links"),
            Self::SiteUp(site) => write!(f, "WAN and up-links of site {site}"),
            Self::Disk(_) => f.write_str("slowest disk"),
        }
    }
}

/// The bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound {
    /// T*: no way of sharing the file is faster.
    pub time: Duration,
    /// What sets it.
    pub term: Term,
}

impl Bound {
    /// T* / T: 1 is as fast as can be; more than 1 says that a rate was not what it was said to
    /// be. `None` of no time.
    #[must_use]
    pub fn efficiency(&self, taken: Duration) -> Option<f64> {
        let taken = taken.as_secs_f64();
        (taken > 0.0).then(|| self.time.as_secs_f64() / taken)
    }
}

/// What a sum of rates comes to; one that is not known makes it unlimited.
fn sum(rates: impl IntoIterator<Item = Option<Rate>>) -> Option<u128> {
    rates.into_iter().try_fold(0_u128, |sum, rate| Some(sum + u128::from(rate?.0)))
}

/// Time for so many bytes; for ever at no rate.
fn time(bytes: u128, rate: u128) -> Duration {
    if bytes == 0 {
        return Duration::ZERO;
    }
    let Some(nanos) = (bytes.saturating_mul(1_000_000_000)).checked_div(rate) else {
        return Duration::MAX;
    };
    u64::try_from(nanos).map_or(Duration::MAX, Duration::from_nanos)
}

/// The slowest of some rates, and whose it is.
fn slowest(rates: impl Iterator<Item = Option<Rate>>) -> Option<(u128, usize)> {
    let known = rates.enumerate().filter_map(|(at, rate)| Some((u128::from(rate?.0), at)));
    known.min()
}

impl Swarm {
    /// The terms whose rates are known, in the order of [`Term`].
    #[must_use]
    pub fn terms(&self) -> Vec<Bound> {
        if self.nodes.is_empty() {
            return Vec::new();
        }
        let len = u128::from(self.len);
        let mut terms = Vec::new();
        let mut term = |term: Term, copies: usize, rate: Option<u128>| {
            terms.extend(rate.map(|r| Bound { time: time(len * copies as u128, r), term }));
        };
        term(Term::Source, 1, sum([self.publisher.up]));
        if let Some((rate, node)) = slowest(self.nodes.iter().map(|n| n.down)) {
            term(Term::Down(node), 1, Some(rate));
        }
        let ups = self.nodes.iter().map(|n| n.up);
        term(Term::UpSum, self.nodes.len(), sum(ups.chain([self.publisher.up])));
        self.wan_terms(&mut term);
        if let Some((rate, node)) = slowest(self.nodes.iter().map(|n| n.disk)) {
            term(Term::Disk(node), 1, Some(rate));
        }
        terms.sort_by_key(|b| b.term);
        terms
    }

    fn wan_terms(&self, term: &mut impl FnMut(Term, usize, Option<u128>)) {
        // nodes and the sum of up-links, by site
        let mut by_site: BTreeMap<usize, (usize, Option<u128>)> = BTreeMap::new();
        for node in &self.nodes {
            let (nodes, ups) = by_site.entry(node.site).or_insert((0, Some(0)));
            *nodes += 1;
            *ups = ups.zip(node.up).map(|(sum, up)| sum + u128::from(up.0));
        }
        let home = self.publisher.site;
        let others = by_site.keys().filter(|s| **s != home).count();
        if others == 0 {
            return;
        }
        let link = |site: usize| self.sites.get(site).copied().unwrap_or_default();
        term(Term::Wan(home), 1, sum([link(home).wan_out]));
        let outward = by_site.keys().filter(|s| **s != home).chain([&home]);
        term(Term::WanSum, others, sum(outward.map(|s| link(*s).wan_out)));
        for (site, (nodes, ups)) in by_site {
            let own = if site == home { self.publisher.up } else { Some(Rate(0)) };
            let inward = link(site).wan_in;
            if site != home {
                term(Term::Wan(site), 1, sum([inward]));
            }
            let fed = sum([own, inward]).zip(ups).map(|(fed, ups)| fed + ups);
            term(Term::SiteUp(site), nodes, fed);
        }
    }

    /// T* and what sets it, as far as rates are known; of equal terms the first of [`Term`]'s order.
    /// `None`: no rate is known that sets a bound, or nobody wants the file.
    #[must_use]
    pub fn bound(&self) -> Option<Bound> {
        self.terms().into_iter().rev().max_by_key(|b| b.time)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A machine at a site, with Mbit/s up and down.
    fn host(site: usize, up: u64, down: u64) -> Host {
        let rate = |mbit: u64| Some(Rate::bits(mbit * 1_000_000));
        Host { site, up: rate(up), down: rate(down), disk: None }
    }

    fn wan(mbit: u64) -> Site {
        let rate = Some(Rate::bits(mbit * 1_000_000));
        Site { wan_in: rate, wan_out: rate }
    }

    /// T* in milliseconds, and its term.
    fn bound(swarm: &Swarm) -> (u128, Term) {
        let bound = swarm.bound().unwrap();
        (bound.time.as_millis(), bound.term)
    }

    /// 100 MB: 8 s at 100 Mbit/s.
    fn one_site(source: u64, nodes: Vec<Host>) -> Swarm {
        Swarm { len: 100_000_000, publisher: host(0, source, source), nodes, sites: Vec::new() }
    }

    #[test]
    fn one_site_of_equal_links_is_bound_by_the_source() {
        assert_eq!(bound(&one_site(100, vec![host(0, 100, 100); 7])), (8_000, Term::Source));
        assert_eq!(bound(&one_site(10, vec![host(0, 100, 100); 60])), (80_000, Term::Source));
    }

    #[test]
    fn the_slowest_down_link_counts() {
        let mut nodes = vec![host(0, 100, 100); 7];
        nodes[4] = host(0, 100, 50);
        assert_eq!(bound(&one_site(100, nodes)), (16_000, Term::Down(4)));
    }

    #[test]
    fn who_can_hardly_send_is_fed_by_the_others() {
        // 10 copies of 0.8 Gbit over 100 + 10 × 10 Mbit/s
        let swarm = one_site(100, vec![host(0, 10, 100); 10]);
        assert_eq!(bound(&swarm), (40_000, Term::UpSum));
        // nobody sends but the source: as a web server
        assert_eq!(bound(&one_site(100, vec![host(0, 0, 100); 10])), (80_000, Term::UpSum));
    }

    #[test]
    fn the_disk_is_one_more_term() {
        let mut nodes = vec![host(0, 100, 100); 3];
        nodes[1].disk = Some(Rate(5_000_000));
        assert_eq!(bound(&one_site(100, nodes)), (20_000, Term::Disk(1)));
    }

    #[test]
    fn sites_are_fed_through_their_wan() {
        // issue 4: 4 sites × 6 nodes (one of them the publisher), WAN 20 Mbit/s, LAN 100 Mbit/s
        let nodes = (0..23).map(|n| host((n + 1) / 6, 100, 100)).collect();
        let swarm = Swarm { sites: vec![wan(20); 4], ..one_site(100, nodes) };
        let terms: Vec<(u128, Term)> =
            swarm.terms().iter().map(|b| (b.time.as_millis(), b.term)).collect();
        assert_eq!(
            terms,
            [
                (8_000, Term::Source),
                (8_000, Term::Down(0)),
                (7_666, Term::UpSum), // 23 × 0.8 / 2.4
                (40_000, Term::Wan(0)),
                (40_000, Term::Wan(1)),
                (40_000, Term::Wan(2)),
                (40_000, Term::Wan(3)),
                (30_000, Term::WanSum),   // 3 × 0.8 / 0.08
                (6_451, Term::SiteUp(0)), // 5 × 0.8 / (0.02 + 0.6)
                (7_741, Term::SiteUp(1)), // 6 × 0.8 / (0.02 + 0.6)
                (7_741, Term::SiteUp(2)),
                (7_741, Term::SiteUp(3)),
            ]
        );
        assert_eq!(bound(&swarm), (40_000, Term::Wan(0)));
    }

    #[test]
    fn sites_that_can_hardly_send_share_what_goes_out() {
        // out: 40 of the publisher's, 10 of each other: 3 × 0.8 / 0.07
        let nodes = (0..4).map(|site| host(site, 100, 100)).collect();
        let mut sites = vec![wan(100); 4];
        for (site, out) in sites.iter_mut().zip([40, 10, 10, 10]) {
            site.wan_out = Some(Rate::bits(out * 1_000_000));
        }
        let swarm = Swarm { sites, ..one_site(100, nodes) };
        assert_eq!(bound(&swarm), (34_285, Term::WanSum));
    }

    #[test]
    fn a_site_of_weak_up_links_waits_for_its_wan() {
        // 20 nodes with 1 Mbit/s up behind 50: 20 × 0.8 / (0.05 + 0.02)
        let mut nodes = vec![host(0, 100, 100); 20];
        nodes.extend(vec![host(1, 1, 100); 20]);
        let swarm = Swarm { sites: vec![wan(1_000), wan(50)], ..one_site(1_000, nodes) };
        assert_eq!(bound(&swarm), (228_571, Term::SiteUp(1)));
    }

    #[test]
    fn what_is_not_known_sets_no_bound() {
        let mut swarm = Swarm { len: 1, nodes: vec![Host::default(); 2], ..Swarm::default() };
        assert_eq!(swarm.bound(), None);
        swarm.nodes[1].down = Some(Rate(2));
        assert_eq!(bound(&swarm), (500, Term::Down(1)));
        swarm.publisher.up = Some(Rate(1));
        // two copies over what is not known is not a bound
        assert_eq!(bound(&swarm), (1_000, Term::Source));
        swarm.publisher.up = Some(Rate(0));
        assert_eq!(swarm.bound().unwrap().time, Duration::MAX);
        assert_eq!(one_site(1, Vec::new()).bound(), None);
    }

    #[test]
    fn efficiency_is_the_share_of_the_bound() {
        let bound = Bound { time: Duration::from_secs(9), term: Term::Source };
        assert_eq!(bound.efficiency(Duration::from_secs(10)), Some(0.9));
        assert_eq!(bound.efficiency(Duration::ZERO), None);
        assert_eq!(Rate::of(1_000, Duration::from_millis(500)), Some(Rate(2_000)));
        assert_eq!(Rate::of(1, Duration::ZERO), None);
    }

    fn any_host() -> impl Strategy<Value = Host> {
        let rate = || prop::option::of((0_u64..1_000).prop_map(Rate));
        (0_usize..4, rate(), rate(), rate()).prop_map(|(site, up, down, disk)| Host {
            site,
            up,
            down,
            disk,
        })
    }

    proptest! {
        /// Faster links and more knowledge never make it later or earlier the wrong way.
        #[test]
        fn bounds_are_monotone(
            publisher in any_host(),
            nodes in prop::collection::vec(any_host(), 1..12),
            sites in prop::collection::vec((0_u64..500, 0_u64..500), 0..4),
            at in any::<prop::sample::Index>(),
        ) {
            let site = |(wan_in, wan_out)| Site { wan_in: Some(Rate(wan_in)), wan_out: Some(Rate(wan_out)) };
            let sites = sites.into_iter().map(site).collect();
            let swarm = Swarm { len: 10_000, publisher, nodes, sites };
            let before = swarm.bound().map(|b| b.time);
            let mut faster = swarm.clone();
            let node = &mut faster.nodes[at.index(swarm.nodes.len())];
            node.up = node.up.map(|r| Rate(r.0 * 2 + 1));
            node.down = node.down.map(|r| Rate(r.0 * 2 + 1));
            prop_assert!(faster.bound().map(|b| b.time) <= before);
            let mut forgetful = swarm;
            forgetful.publisher.up = None;
            prop_assert!(forgetful.bound().map(|b| b.time) <= before);
        }
    }
}
