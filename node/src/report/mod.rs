//! How good a distribution is: what machines say of themselves, put together. Pure.

mod done;
mod live;

use std::collections::{BTreeMap, BTreeSet};

use p2pinst_api::swarm::{BoundView, SiteCopies};
use p2pinst_chunks::bound::{Bound, Host, Rate, Site, Swarm, Term};
use p2pinst_types::Name;
use p2pinst_types::record::{Speed, Speeds};

pub(crate) use done::{Report, distribution};
pub(crate) use live::{Asked, Exchanged, picture};

/// A machine whose link counts.
#[derive(Debug, Clone, Copy)]
struct Member<'a> {
    name: &'a Name,
    site: &'a Name,
    speeds: Speeds,
}

/// T* for a file.
///
/// Where the publisher's rate is known, T* is made of known rates alone (and of the disks', which
/// nobody tells); else of single links at their highest rates. Rates that were only seen are never
/// added up: a link that had nothing to carry shows nothing.
fn bound(len: u64, publisher: Member<'_>, nodes: &[Member<'_>]) -> Option<(Bound, BoundView)> {
    let known = publisher.speeds.up.is_some_and(|s| s.known);
    let usable = |speed: Option<Speed>| speed.filter(|s| s.known || !known).map(|s| Rate(s.rate));
    let certain = |speed: Option<Speed>| speed.filter(|s| s.known).map(|s| Rate(s.rate));
    let sites: BTreeSet<&Name> = nodes.iter().chain([&publisher]).map(|m| m.site).collect();
    let at = |site: &Name| sites.iter().position(|s| *s == site).unwrap_or(usize::MAX);
    let host = |m: &Member<'_>| Host {
        site: at(m.site),
        up: certain(m.speeds.up),
        down: usable(m.speeds.down),
        disk: m.speeds.disk.map(|s| Rate(s.rate)),
    };
    let wan_in = |site: &Name| {
        let inward = nodes.iter().filter(|m| m.site == site).map(|m| m.speeds.wan_in);
        let rates: Vec<Option<Rate>> = if known {
            inward.map(certain).collect()
        } else {
            // who took nothing from other sites left its part to others
            inward.filter(Option::is_some).map(usable).collect()
        };
        let sum = rates.iter().try_fold(0_u64, |sum, r| Some(sum.saturating_add((*r)?.0)));
        sum.filter(|sum| *sum > 0).map(Rate)
    };
    let swarm = Swarm {
        len,
        publisher: Host { up: usable(publisher.speeds.up), ..host(&publisher) },
        nodes: nodes.iter().map(host).collect(),
        sites: sites.iter().map(|s| Site { wan_in: wan_in(s), wan_out: None }).collect(),
    };
    let bound = swarm.bound()?;
    let site = |at: usize| sites.iter().nth(at).map(ToString::to_string).unwrap_or_default();
    let node = |at: usize| nodes.get(at).map(|m| m.name.to_string()).unwrap_or_default();
    let limit = match bound.term {
        Term::Wan(at) => format!("WAN of {}", site(at)),
        Term::SiteUp(at) => format!("WAN and up-links of {}", site(at)),
        Term::Down(at) | Term::Disk(at) => format!("{} ({})", bound.term, node(at)),
        Term::Source | Term::UpSum | Term::WanSum => bound.term.to_string(),
    };
    let known = known && !matches!(bound.term, Term::Disk(_));
    let view = BoundView { ms: millis(bound.time), limit, known };
    Some((bound, view))
}

fn millis(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// A share of a whole; of nothing, nothing.
fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// What crossed the links of the sites that are not the publisher's.
fn copies<'a>(
    len: u64,
    home: Option<&Name>,
    machines: impl Iterator<Item = (&'a Name, u64)>,
) -> Vec<SiteCopies> {
    let mut sites: BTreeMap<&Name, (usize, u64)> = BTreeMap::new();
    for (site, wan) in machines.filter(|(site, _)| Some(*site) != home) {
        let (machines, bytes) = sites.entry(site).or_default();
        *machines += 1;
        *bytes = bytes.saturating_add(wan);
    }
    let view = |(site, (machines, wan_bytes)): (&Name, (usize, u64))| SiteCopies {
        site: site.clone(),
        machines,
        wan_bytes,
        copies: share(wan_bytes, len),
    };
    sites.into_iter().map(view).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    fn speed(rate: u64, known: bool) -> Option<Speed> {
        Some(Speed { rate, known })
    }

    #[test]
    fn known_rates_alone_make_a_known_bound() {
        let (n1, n2, pisa) = (name("n1"), name("n2"), name("pisa"));
        let member = |name, up, down| Member {
            name,
            site: &pisa,
            speeds: Speeds { up, down, ..Speeds::default() },
        };
        // the node took no more than the publisher gave: that says nothing about its link
        let nodes = [member(&n2, speed(1, false), speed(90, false))];
        let (_, view) = bound(1000, member(&n1, speed(100, true), None), &nodes).unwrap();
        assert_eq!((view.ms, view.limit.as_str(), view.known), (10_000, "source up-link", true));
        // where nothing is known, the slowest that was seen counts; up-links are not added up
        let (_, view) = bound(1000, member(&n1, speed(100, false), None), &nodes).unwrap();
        assert_eq!((view.ms, view.known), (11_111, false));
        assert_eq!(view.limit, "slowest down-link (n2)");
        assert!(bound(1000, member(&n1, None, None), &[member(&n2, None, None)]).is_none());
    }

    #[test]
    fn the_wan_of_a_site_is_what_its_machines_took_together() {
        let (n1, n2, n3) = (name("n1"), name("n2"), name("n3"));
        let (home, away) = (name("home"), name("away"));
        let publisher = Member {
            name: &n1,
            site: &home,
            speeds: Speeds { up: speed(100, false), ..Speeds::default() },
        };
        let node = |name, wan| Member {
            name,
            site: &away,
            speeds: Speeds { wan_in: speed(wan, false), ..Speeds::default() },
        };
        let nodes = [node(&n2, 15), node(&n3, 5)];
        let (_, view) = bound(1000, publisher, &nodes).unwrap();
        assert_eq!((view.ms, view.limit.as_str()), (50_000, "WAN of away"));
    }

    #[test]
    fn copies_are_counted_by_site() {
        let (home, away) = (name("home"), name("away"));
        let machines = [(&home, 0), (&away, 60), (&away, 45)];
        let sites = copies(100, Some(&home), machines.into_iter());
        let want = SiteCopies { site: away.clone(), machines: 2, wan_bytes: 105, copies: 1.05 };
        assert_eq!(sites, [want]);
        assert_eq!(share(1, 0), 0.0);
    }
}
