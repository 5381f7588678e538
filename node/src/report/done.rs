//! How a distribution went: the machines' own reports.

use p2pinst_api::swarm::{Percentiles, TransferView};
use p2pinst_types::Name;
use p2pinst_types::record::{Speed, Speeds, Transfer};

use super::{Member, bound, copies, share};

/// One machine's report.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Report<'a> {
    /// The machine.
    pub(crate) name: &'a Name,
    /// Its site.
    pub(crate) site: &'a Name,
    /// What it says.
    pub(crate) transfer: &'a Transfer,
}

/// The nearest rank.
fn percentiles(mut values: Vec<u64>) -> Percentiles {
    values.sort_unstable();
    let of = |percent: usize| {
        let rank = (values.len() * percent).div_ceil(100).saturating_sub(1);
        values.get(rank).copied().unwrap_or_default()
    };
    Percentiles { p50: of(50), p99: of(99), p100: of(100) }
}

/// What the first holders gave per second: as they say, or else by what came from them.
fn given(reports: &[Report<'_>], fetched: &[Report<'_>]) -> Option<Speed> {
    let said = reports.iter().filter(|r| r.transfer.holder).find_map(|r| r.transfer.speeds.up);
    said.or_else(|| {
        let bytes: u64 = fetched.iter().map(|r| r.transfer.from_holders).sum();
        let millis = fetched.iter().map(|r| r.transfer.holders_ms).max()?;
        let rate = u128::from(bytes) * 1000;
        let rate = u64::try_from(rate.checked_div(millis.into())?).unwrap_or(u64::MAX);
        (rate > 0).then_some(Speed { rate, known: false })
    })
}

/// How a deployment's file came to its machines; `None`: nobody has reported that it fetched it.
/// `home`: the first holder's machine and site, where the roster knows it.
pub(crate) fn distribution(
    reports: &[Report<'_>],
    home: Option<(&Name, &Name)>,
) -> Option<TransferView> {
    let fetched: Vec<Report<'_>> = reports.iter().filter(|r| !r.transfer.holder).copied().collect();
    let len = fetched.first()?.transfer.len;
    let sum = |of: fn(&Transfer) -> u64| {
        fetched.iter().fold(0_u64, |sum, r| sum.saturating_add(of(r.transfer)))
    };
    let times =
        |of: fn(&Transfer) -> u64| percentiles(fetched.iter().map(|r| of(r.transfer)).collect());
    let nodes: Vec<Member<'_>> = fetched
        .iter()
        .map(|r| Member { name: r.name, site: r.site, speeds: r.transfer.speeds })
        .collect();
    let up = given(reports, &fetched);
    let best = home.and_then(|(name, site)| {
        let speeds = Speeds { up, ..Speeds::default() };
        bound(len, Member { name, site, speeds }, &nodes)
    });
    let fetch_ms = times(|t| t.fetch_ms);
    let longest = std::time::Duration::from_millis(fetch_ms.p100);
    let received = sum(|t| t.received.total());
    let duplicate = sum(|t| t.duplicate);
    Some(TransferView {
        machines: fetched.len(),
        order_ms: times(|t| t.order_ms),
        fetch_ms,
        waited_ms: times(|t| t.waited_ms).p100,
        efficiency: best.as_ref().and_then(|(bound, _)| bound.efficiency(longest)),
        bound: best.map(|(_, view)| view),
        publisher_copies: share(sum(|t| t.from_holders), len),
        sites: copies(
            len,
            home.map(|(_, site)| site),
            fetched.iter().map(|r| (r.site, r.transfer.received.wan)),
        ),
        received,
        duplicate,
        duplicate_share: share(duplicate, received),
        bad: sum(|t| t.bad),
        before: sum(|t| t.before),
    })
}

#[cfg(test)]
mod tests {
    use p2pinst_types::record::ByDistance;

    use super::*;

    #[test]
    fn ranks_are_the_nearest() {
        assert_eq!(percentiles(vec![]), Percentiles::default());
        assert_eq!(percentiles(vec![7]), Percentiles { p50: 7, p99: 7, p100: 7 });
        let hundred = percentiles((1..=200).rev().collect());
        assert_eq!(hundred, Percentiles { p50: 100, p99: 198, p100: 200 });
    }

    #[test]
    fn reports_add_up() {
        let names: Vec<Name> = (1..=4).map(|n| format!("n{n}").parse().unwrap()).collect();
        let (home, away): (Name, Name) = ("home".parse().unwrap(), "away".parse().unwrap());
        let node = |from_holders, wan, fetch_ms| Transfer {
            len: 1_000,
            order_ms: fetch_ms + 100,
            fetch_ms,
            waited_ms: fetch_ms / 10,
            received: ByDistance { rack: 0, site: 1_010 - wan, wan },
            from_holders,
            holders_ms: 900,
            duplicate: 10,
            ..Transfer::default()
        };
        let transfers = [
            Transfer { len: 1_000, holder: true, ..Transfer::default() },
            node(600, 0, 1_000),
            node(300, 300, 2_000),
            node(100, 720, 1_500),
        ];
        let sites = [&home, &home, &away, &away];
        let reports: Vec<Report<'_>> = (0..4)
            .map(|i| Report { name: &names[i], site: sites[i], transfer: &transfers[i] })
            .collect();
        let view = distribution(&reports, Some((&names[0], &home))).unwrap();
        assert_eq!((view.machines, view.order_ms.p100, view.waited_ms), (3, 2_100, 200));
        assert_eq!(view.fetch_ms, Percentiles { p50: 1_500, p99: 2_000, p100: 2_000 });
        assert_eq!(view.publisher_copies, 1.0);
        assert_eq!((view.received, view.duplicate), (3_030, 30));
        assert_eq!((view.sites.len(), view.sites[0].copies), (1, 1.02));
        // nobody told the publisher's rate: 1000 bytes came from it in 0.9 s
        let bound = view.bound.unwrap();
        assert_eq!((bound.ms, bound.limit.as_str(), bound.known), (900, "source up-link", false));
        assert!((view.efficiency.unwrap() - 0.45).abs() < 0.001);
        assert_eq!(distribution(&reports[..1], None), None, "a holder alone is no distribution");
    }
}
