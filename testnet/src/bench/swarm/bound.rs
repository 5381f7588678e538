//! The fluid bound: no protocol brings a file to all receivers sooner, whatever it does.
//!
//! One source, Kumar and Ross 2006: `max(F/u_s, F/d_min, N·F/(u_s + Σu))`. With sites, by the same
//! argument, also what each site's WAN lets in, what all of them let out, and what a site can do
//! with the one and its own links.

use serde::{Deserialize, Serialize};

/// What the links carry, in bytes of content per second.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Links {
    /// Out of one host.
    pub up: f64,
    /// Into one host.
    pub down: f64,
    /// The sites, the publisher's first; none when all hosts are at one place.
    pub sites: Vec<SiteLinks>,
}

/// A site, for the bound.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct SiteLinks {
    /// Hosts that receive.
    pub receivers: usize,
    /// Into the site, in bytes of content per second.
    pub wan_in: f64,
    /// Out of the site, in bytes of content per second.
    pub wan_out: f64,
}

/// The bound, and what it is due to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Bound {
    /// T*, in seconds.
    pub seconds: f64,
    /// The term that limits.
    pub term: String,
}

impl Links {
    /// The same links as a part of what they are: `tc` counts the headers, content does not.
    #[must_use]
    pub fn times(&self, factor: f64) -> Self {
        let site = |s: &SiteLinks| SiteLinks {
            receivers: s.receivers,
            wan_in: s.wan_in * factor,
            wan_out: s.wan_out * factor,
        };
        Self {
            up: self.up * factor,
            down: self.down * factor,
            sites: self.sites.iter().map(site).collect(),
        }
    }

    /// Seconds that a publisher needs which sends each of so many receivers a copy of its own.
    pub(super) fn one_by_one(&self, bytes: u64, receivers: f64) -> f64 {
        let outside: usize = self.sites.iter().skip(1).map(|s| s.receivers).sum();
        let wan = self.sites.first().map_or(f64::INFINITY, |own| own.wan_out);
        bytes as f64 * (receivers / self.up).max(outside as f64 / wan)
    }
}

/// The least time in which so many receivers can have so many bytes from one publisher.
#[must_use]
pub fn bound(bytes: u64, receivers: usize, links: &Links) -> Bound {
    let file = bytes as f64;
    let n = receivers as f64;
    let mut terms = vec![
        (file / links.up, "the publisher's link".to_owned()),
        (file / links.down, "a receiver's link".to_owned()),
        (n * file / (links.up + n * links.up), "all links out".to_owned()),
    ];
    let out: f64 = links.sites.iter().map(|s| s.wan_out).sum();
    for (number, site) in links.sites.iter().enumerate().skip(1) {
        let r = site.receivers as f64;
        terms.push((file / site.wan_in, format!("the WAN into s{}", number + 1)));
        let inside = site.wan_in + r * links.up;
        terms.push((r * file / inside, format!("the links of s{}", number + 1)));
    }
    let away = links.sites.len().saturating_sub(1) as f64;
    if away > 0.0 {
        terms.push((away * file / out, "all WANs out".to_owned()));
    }
    let start = Bound { seconds: 0.0, term: "nothing".to_owned() };
    terms.into_iter().fold(start, |most, (seconds, term)| {
        if seconds > most.seconds { Bound { seconds, term } } else { most }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MBIT: f64 = 125_000.0;

    fn links(mbit: f64) -> Links {
        Links { up: mbit * MBIT, down: mbit * MBIT, sites: Vec::new() }
    }

    #[test]
    fn one_copy_leaves_the_publisher() {
        // The figures of the notes: 64 MiB to 7 at 100 Mbit/s.
        let found = bound(64 << 20, 7, &links(100.0));
        assert!((found.seconds - 5.369).abs() < 0.001, "{found:?}");
        assert_eq!(found.term, "the publisher's link");
        let found = bound(64 << 20, 7, &links(100.0).times(0.9564));
        assert!((found.seconds - 5.613).abs() < 0.001, "{found:?}");
    }

    #[test]
    fn slow_receivers_limit() {
        let found = bound(1_000_000, 3, &Links { down: MBIT, ..links(8.0) });
        assert!((found.seconds - 8.0).abs() < 1e-9, "{found:?}");
        assert_eq!(found.term, "a receiver's link");
    }

    #[test]
    fn sites_are_limited_by_their_wan() {
        let site =
            |receivers, mbit| SiteLinks { receivers, wan_in: mbit * MBIT, wan_out: mbit * MBIT };
        let four = vec![site(5, 20.0), site(6, 20.0), site(6, 20.0), site(6, 20.0)];
        let found = bound(64_000_000, 23, &Links { sites: four, ..links(100.0) });
        assert!((found.seconds - 25.6).abs() < 1e-9, "{found:?}");
        assert_eq!(found.term, "the WAN into s2");
        // Of two sites one has a slow way in.
        let two = vec![site(1, 50.0), SiteLinks { wan_in: MBIT, ..site(2, 50.0) }];
        let found = bound(1_000_000, 3, &Links { sites: two, ..links(100.0) });
        assert!((found.seconds - 8.0).abs() < 1e-9, "{found:?}");
        // What all send out together has to bring a copy to each site but the first.
        let closed = |out| SiteLinks { wan_out: out * MBIT, ..site(2, 100.0) };
        let three = vec![closed(2.0), closed(1.0), closed(1.0)];
        let found = bound(1_000_000, 5, &Links { sites: three, ..links(100.0) });
        assert!((found.seconds - 4.0).abs() < 1e-9, "{found:?}");
        assert_eq!(found.term, "all WANs out");
    }
}
