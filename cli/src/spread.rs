//! How a file spreads, in words. Pure.

use p2pinst_api::swarm::{BoundView, SiteCopies, TransferView};

use crate::format;

/// `9.5 s (source up-link)`, `9.5 s (slowest disk (n7), as seen)`
pub(crate) fn bound(bound: &BoundView) -> String {
    let seen = if bound.known { "" } else { ", as seen" };
    format!("{} ({}{seen})", format::took(bound.ms), format::clean(&bound.limit))
}

/// `2.5 MB/s`: as links are measured, in powers of ten.
pub(crate) fn rate(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["B/s", "kB/s", "MB/s", "GB/s"];
    let mut rate = bytes as f64;
    let mut units = UNITS.iter();
    let mut unit = units.next();
    while rate >= 999.95
        && let Some(next) = units.next()
    {
        rate /= 1000.0;
        unit = Some(next);
    }
    let unit = unit.copied().unwrap_or_default();
    if unit == "B/s" { format!("{bytes} B/s") } else { format!("{rate:.1} {unit}") }
}

/// `12.3 %`
pub(crate) fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// `WAN copies: kyiv 1.00, pisa 1.02`, or nothing.
pub(crate) fn wan(sites: &[SiteCopies]) -> Option<String> {
    if sites.is_empty() {
        return None;
    }
    let copies: Vec<String> = sites.iter().map(|s| format!("{} {:.2}", s.site, s.copies)).collect();
    Some(format!("WAN copies: {}", format::names(&copies, 8)))
}

/// How a deployment's file came to its machines, in a few lines.
pub(crate) fn report(view: &TransferView) -> String {
    let fetch = &view.fetch_ms;
    let waited = match view.waited_ms {
        0..1000 => String::new(),
        waited => format!("; waits of up to {} are not counted", format::took(waited)),
    };
    let mut text = format!(
        "{} fetched it: half in {}, 99 % in {}, the last in {}{waited}; {} after the order\n",
        format::count(view.machines, "machine"),
        format::took(fetch.p50),
        format::took(fetch.p99),
        format::took(fetch.p100),
        format::took(view.order_ms.p100),
    );
    match (&view.bound, view.efficiency) {
        (Some(best), Some(efficiency)) => {
            text.push_str(&format!("at best {}: efficiency {efficiency:.2}\n", bound(best)));
        }
        _ => text.push_str("what it could have taken at best is not known\n"),
    }
    let mut parts = vec![
        format!("publisher copies {:.2}", view.publisher_copies),
        format!("duplicates {} ({})", format::size(view.duplicate), percent(view.duplicate_share)),
    ];
    parts.extend((view.bad > 0).then(|| format!("wrong bytes {}", format::size(view.bad))));
    parts.extend(wan(&view.sites));
    parts.extend((view.before > 0).then(|| {
        format!("{} came before a restart and are not counted", format::size(view.before))
    }));
    text.push_str(&format!("{}\n", parts.join("; ")));
    text
}

#[cfg(test)]
pub(crate) mod tests {
    use p2pinst_api::swarm::Percentiles;

    use super::*;

    pub(crate) fn transfer() -> TransferView {
        let site = "pisa".parse().unwrap();
        let times = Percentiles { p50: 4_000, p99: 4_400, p100: 4_600 };
        TransferView {
            machines: 3,
            order_ms: Percentiles { p100: 5_000, ..times },
            fetch_ms: times,
            waited_ms: 0,
            bound: Some(BoundView { ms: 4_200, limit: "source up-link".to_owned(), known: false }),
            efficiency: Some(0.913),
            publisher_copies: 1.018,
            sites: vec![SiteCopies { site, machines: 2, wan_bytes: 7, copies: 1.0 }],
            received: 3_000_000,
            duplicate: 3_000,
            duplicate_share: 0.001,
            bad: 0,
            before: 0,
        }
    }

    #[test]
    fn a_report_is_told_in_three_lines() {
        let want = "\
3 machines fetched it: half in 4.0 s, 99 % in 4.4 s, the last in 4.6 s; 5.0 s after the order
at best 4.2 s (source up-link, as seen): efficiency 0.91
publisher copies 1.02; duplicates 2.9 KiB (0.1 %); WAN copies: pisa 1.00
";
        assert_eq!(report(&transfer()), want);
        let odd = TransferView {
            waited_ms: 65_000,
            bound: None,
            efficiency: None,
            bad: 2_048,
            before: 1_024,
            sites: vec![],
            ..transfer()
        };
        let odd = report(&odd);
        assert!(odd.contains("4.6 s; waits of up to 1m are not counted; 5.0 s after"), "{odd}");
        assert!(odd.contains("at best is not known") && odd.contains("wrong bytes 2.0 KiB"));
        assert!(odd.ends_with("1.0 KiB came before a restart and are not counted\n"), "{odd}");
    }

    #[test]
    fn rates_are_in_powers_of_ten() {
        let rates =
            [(0, "0 B/s"), (999, "999 B/s"), (2_500_000, "2.5 MB/s"), (999_960, "1.0 MB/s")];
        for (bytes, want) in rates {
            assert_eq!(rate(bytes), want);
        }
        assert!(rate(u64::MAX).ends_with(" GB/s"));
    }
}
